"""Panoptic segmentation: the merge of a semantic and a class-agnostic instance output."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from generalist.pictures import encode_png
from generalist.tasks import arrays, drawing, votes
from generalist.tasks.base import Prediction, Target, Task
from generalist.tasks.instance import VOID, Instance
from generalist.tasks.semantic import Semantic, check_same_classes

# A label in COCO's form: id map int (h, w), 0 = void, and a dict for each segment.
IdMapAndSegments = tuple[np.ndarray, list[dict[str, Any]]]

PAINTER_AREA = 8192  # pixels of Painter's smallest stuff segment, whatever the image


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class PanopticPrediction(Prediction):
    """A panoptic segmentation in COCO's form.

    It is saved as COCO does: a PNG with id = R + 256 G + 65536 B, and the segments and categories
    in a JSON file beside it.

    Attributes:
      id_map: 0 = void.
      segments_info: [{"id", "category_id", "iscrowd": 0, "area", "name", "isthing"}, ...], area in
        pixels.
      confidence: the instance's score on things, the color margin on stuff, 0 on void.
    """

    decoded_by: "Panoptic"
    id_map: Int32[np.ndarray, "h w"]
    segments_info: list[dict[str, Any]]

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the ids, lowest byte in red."""
        return (self.id_map[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)

    def files(self, path: pathlib.Path) -> dict[pathlib.Path, bytes]:
        """Returns the content of the PNG and of the JSON file."""
        annotation = {
            "image_id": path.stem,
            "file_name": path.name,
            "segments_info": self.segments_info,
        }
        categories = []
        for category in self.decoded_by.categories:
            categories.append({key: category[key] for key in ("id", "name", "isthing")})

        content = json.dumps({"annotations": [annotation], "categories": categories}, indent=1)
        return {path: encode_png(self.pixels()), path.with_suffix(".json"): content.encode()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panoptic(Task):
    """Painter's merge. The model never paints this task: it paints its two components.

    Labels are pairs (id map, segments_info) in COCO's form.

    Attributes:
      semantic: the task of the classes, things and stuff; class index = position in `categories`.
      instance: the task of the instances; its `score_gate` and `overlap` decide which are painted.
      categories: [{"id", "name", "isthing", ...}, ...].
      stuff_area: smallest stuff segment at the size of the prediction: a whole number is pixels
        (Painter's 8192), a float a fraction of the image.
      compare_with_painter: whether an evaluation also measures Painter's own merge.
    """

    name: str = "panoptic"
    prompt: str = ""
    protocol: str = "panoptic-coco"
    semantic: Semantic
    instance: Instance
    categories: list[dict[str, Any]] = dataclasses.field(hash=False)
    stuff_area: int | float = PAINTER_AREA
    compare_with_painter: bool = False

    votes_on_samples: ClassVar[bool] = True

    def __post_init__(self):
        names = tuple(category["name"] for category in self.categories)
        if names != self.semantic.classes:
            raise ValueError(
                f"Task '{self.name}': the categories {names} must be the classes of task "
                f"'{self.semantic.name}' in their order, {self.semantic.classes}."
            )

    def variants(self) -> Mapping[str, "Panoptic"]:
        """Returns Painter's own merge: colors are enlarged, and stuff has 8192 pixels."""
        if not self.compare_with_painter:
            return {}
        semantic = dataclasses.replace(self.semantic, upsample="rgb")
        return {"_painter": dataclasses.replace(self, semantic=semantic, stuff_area=PAINTER_AREA)}

    @property
    def component_tasks(self) -> tuple[Task, ...]:
        """The semantic and the instance task."""
        return self.semantic, self.instance

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the semantic and of the instance task."""
        return self.semantic.name, self.instance.name

    def component_labels(self, label: IdMapAndSegments) -> dict[str, Int32[np.ndarray, "h w"]]:
        """Splits a label into classes, -1 = void, and instances, 0 = stuff, -1 = void and crowds.

        Crowd segments keep their class, but nobody counted their instances.

        Raises:
          ValueError: an id of the map has no segment, or its category is unknown.
        """
        id_map, segments = label
        what = "(id map, segments_info) with an integer id map"
        id_map = arrays.check_map(self.name, id_map, "iu", what)
        segment_of = {segment["id"]: segment for segment in segments}

        # Class and instance of each id of the map, then of each pixel.
        ids, index = np.unique(id_map, return_inverse=True)
        classes = np.full(len(ids), -1, np.int32)
        instances = np.full(len(ids), VOID, np.int32)
        for position, number in enumerate(ids.tolist()):
            if number == 0:
                continue
            if number not in segment_of:
                raise ValueError(
                    f"Task '{self.name}': id {number} of the id map is not in segments_info, which "
                    f"has {sorted(segment_of)}."
                )

            segment = segment_of[number]
            class_index = self._class_index(segment["category_id"])
            classes[position] = class_index
            if not segment.get("iscrowd", 0):
                is_thing = self.categories[class_index]["isthing"]
                instances[position] = max(0, instances.max()) + 1 if is_thing else 0

        index = index.reshape(id_map.shape)
        return {self.semantic.name: classes[index], self.instance.name: instances[index]}

    def encode(self, label: IdMapAndSegments, size: arrays.Size) -> Target:
        """Raises TypeError: there is no single target, see `encode_components`."""
        raise TypeError(f"task '{self.name}' is not painted itself: use encode_components")

    def decode(self, rgb: np.ndarray, size: arrays.Size | None = None) -> Prediction:
        """Raises TypeError: it takes two images, see `decode_components`."""
        raise TypeError(f"task '{self.name}' is not painted itself: use decode_components")

    def decode_components(
        self, rgbs: Mapping[str, np.ndarray], size: arrays.Size | None = None
    ) -> PanopticPrediction:
        """Merges the two components, see `merge`."""
        return self.merge(rgbs[self.semantic.name], rgbs[self.instance.name], size)

    def merge(
        self,
        semantic_rgb: np.ndarray,
        instance_rgb: np.ndarray,
        size: arrays.Size | None = None,
    ) -> PanopticPrediction:
        """Merges two images, float (h, w, 3) in [-1, 1], to a panoptic segmentation at `size`.

        Instances are painted as `Instance.paint` says, each with the thing class it is closest to.
        Then every stuff class takes its free pixels, if they are at least `stuff_area`. The rest is
        void.
        """
        size = arrays.to_size(semantic_rgb.shape[:2] if size is None else size)

        # Things. Ids are positions in `category_ids`, plus one.
        masks, scores = self.instance.candidates(instance_rgb)
        is_painted = scores >= self.instance.score_gate
        masks = masks[is_painted]
        scores = scores[is_painted]
        id_map = self.instance.paint(arrays.resize_masks(masks, size), scores)
        category_ids = self._thing_categories(semantic_rgb, masks)
        confidence = np.append(scores, 0.0)[id_map - 1]

        # Stuff, where no thing is.
        semantic = self.semantic.decode(semantic_rgb, size)
        smallest = self._smallest_stuff(id_map.size)
        for index in np.unique(semantic.classes[id_map == 0]):
            category = self.categories[index]
            free = (id_map == 0) & (semantic.classes == index)
            if not category["isthing"] and free.sum() >= smallest:
                category_ids.append(category["id"])
                id_map[free] = len(category_ids)
                confidence[free] = semantic.confidence[free]

        return PanopticPrediction(
            decoded_by=self,
            id_map=id_map,
            segments_info=self._segments(id_map, category_ids),
            confidence=confidence.astype(np.float32),
        )

    def _thing_categories(
        self, semantic_rgb: np.ndarray, masks: Bool[np.ndarray, "n h w"]
    ) -> list[int]:
        """Returns the category id of each mask.

        Painter takes the thing class with the largest sum of 1 - distance / max distance over the
        mask. It is the one with the smallest sum of distances, at the size of `semantic_rgb`.
        """
        height, width = semantic_rgb.shape[:2]
        things = [index for index, category in enumerate(self.categories) if category["isthing"]]

        # Sums over all masks and things at once, as one product of matrices.
        distances = self.semantic.distances(semantic_rgb, (height, width))
        by_class = np.stack([distance.ravel() for distance in distances])[things]
        inside = arrays.resize_masks(masks, (height, width))
        inside = inside.reshape(len(masks), height * width).astype(np.float32)

        closest = (inside @ by_class.T).argmin(-1)
        return [self.categories[things[index]]["id"] for index in closest]

    def _smallest_stuff(self, pixels: int) -> int | float:
        """Returns `stuff_area` in pixels, for an image of so many."""
        if isinstance(self.stuff_area, int):
            return self.stuff_area
        return self.stuff_area * pixels

    def _segments(
        self, id_map: Int32[np.ndarray, "h w"], category_ids: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Returns the segments that have pixels; the category of id k is category_ids[k - 1]."""
        categories = {category["id"]: category for category in self.categories}
        areas = np.bincount(id_map.ravel(), minlength=len(category_ids) + 1).tolist()

        segments = []
        for number, category_id in enumerate(category_ids, start=1):
            # Resizing to a small image may leave nothing of an instance.
            if areas[number] == 0:
                continue
            segments.append(
                {
                    "id": number,
                    "category_id": category_id,
                    "iscrowd": 0,
                    "area": areas[number],
                    "name": categories[category_id]["name"],
                    "isthing": int(categories[category_id]["isthing"]),
                }
            )
        return segments

    def _class_index(self, category_id: int) -> int:
        ids = [category["id"] for category in self.categories]
        if category_id not in ids:
            raise ValueError(
                f"Task '{self.name}': unknown category id {category_id}; valid ids are {ids}."
            )
        return ids.index(category_id)

    def vote(self, predictions: Sequence[PanopticPrediction]) -> PanopticPrediction:
        """Returns the prediction whose segments, with their classes, the others have most."""
        labels = [self.component_labels(self.label_of(one)) for one in predictions]
        index, share = votes.most_central(labels, self._differ)
        return dataclasses.replace(predictions[index], confidence=share, uncertainty=1 - share)

    # Figures --------------------------------------------------------------------------------------

    def metric(self):
        """Returns `generalist.metrics.PanopticQuality` over the categories."""
        from generalist import metrics

        return metrics.PanopticQuality(self.categories)

    def label_of(self, prediction: PanopticPrediction) -> IdMapAndSegments:
        """Returns (id map, segments_info)."""
        return prediction.id_map, prediction.segments_info

    def class_figures(self, metric) -> dict[str, float]:
        """Returns the PQ of each category, `pq/<category>`."""
        by_id = metric.per_class()
        return {f"pq/{c['name']}": by_id[c["id"]]["pq"] for c in self.categories}

    def official(self, other: Task) -> "Panoptic":
        """Returns this task by the protocol of `other`, whose categories must be the same."""
        in_data = other.semantic.classes if isinstance(other, Panoptic) else ()
        check_same_classes(self.name, self.semantic.classes, in_data)
        return super().official(other)

    # Pictures -------------------------------------------------------------------------------------

    def render(
        self, prediction_or_label: PanopticPrediction | IdMapAndSegments
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws class colors, a brightness an instance, with dark borders; void is black."""
        label = prediction_or_label
        if isinstance(label, PanopticPrediction):
            label = self.label_of(label)
        id_map, _ = label
        labels = self.component_labels(label)

        # Five brightness levels in an order that sets consecutive instances apart.
        brightness = np.array([1.0, 0.7, 0.85, 0.6, 0.92])[labels[self.instance.name] % 5]

        # A pixel is on a border if the one above or to the left belongs to another segment.
        border = np.zeros(id_map.shape, bool)
        border[:, 1:] |= id_map[:, 1:] != id_map[:, :-1]
        border[1:] |= id_map[1:] != id_map[:-1]
        brightness = np.where(border, 0.3, brightness)

        colors = self.semantic.render(labels[self.semantic.name])
        return np.round(colors * brightness[..., None]).astype(np.uint8)

    def legend(self, labels: Sequence[IdMapAndSegments] | None = None) -> drawing.Legend:
        """Returns the colors of the categories and of void."""
        if labels is None:
            return self.semantic.legend()
        classes = [self.component_labels(label)[self.semantic.name] for label in labels]
        return self.semantic.legend(classes)

    def error_map(
        self, prediction: PanopticPrediction, label: IdMapAndSegments
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws where a class is wrong, or an instance lost, merged, split or invented.

        Void counts as right.
        """
        predicted = self.component_labels(self.label_of(prediction))
        truth = self.component_labels(label)
        wrong = self._differ(predicted, truth)
        return drawing.right_or_wrong(wrong & (truth[self.semantic.name] >= 0))

    def _differ(
        self, one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
    ) -> Bool[np.ndarray, "h w"]:
        """Where two `component_labels` differ in their class or their instance."""
        instances = [np.maximum(labels[self.instance.name], 0) for labels in (one, other)]
        classes_differ = one[self.semantic.name] != other[self.semantic.name]
        return classes_differ | drawing.unmatched(*instances)

    def error_legend(self) -> drawing.Legend:
        """Returns the colors of `error_map`."""
        return drawing.RIGHT_OR_WRONG

    # Submissions ----------------------------------------------------------------------------------

    def submission_annotation(self, key: str, prediction: PanopticPrediction) -> dict[str, Any]:
        """Returns COCO's annotation of an image."""
        segments = []
        for segment in prediction.segments_info:
            fields = ("id", "category_id", "area", "iscrowd")
            segments.append({field: segment[field] for field in fields})

        # COCO's file names are its image ids.
        image_id = int(key) if key.isdecimal() else key
        return {"image_id": image_id, "file_name": f"{key}.png", "segments_info": segments}

    def submission_index(self, annotations: Sequence[dict]) -> dict[str, Any]:
        """Returns COCO's file, as panopticapi reads it."""
        categories = [dict(category) for category in self.categories]
        return {"annotations": list(annotations), "categories": categories}
