"""Panoptic segmentation: the merge of a semantic and a class-agnostic instance output of one image."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from generalist.tasks import base, drawing
from generalist.tasks.instance import Instance
from generalist.tasks.semantic import Semantic, check_same_classes

# COCO's form of a panoptic segmentation: id map int (h, w), 0 = void, and one dict a segment.
IdMapAndSegments = tuple[np.ndarray, list[dict]]


@dataclasses.dataclass(frozen=True)
class PanopticPrediction:
    """A panoptic segmentation in COCO's form.

    Attributes:
      id_map: int32 (h, w), 0 = void.
      segments_info: [{"id", "category_id", "iscrowd": 0, "area"}, ...], area in pixels.
      confidence: float32 (h, w) in [0, 1]: the instance's score on things, the colour margin on stuff, 0 on void.
    """

    id_map: np.ndarray
    segments_info: list[dict]
    confidence: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panoptic(base.Task):
    """Painter's merge. The model never paints this task: it paints its two `components`.

    Labels are pairs (id map, segments_info) in COCO's form.

    Attributes:
      semantic: the task of the classes, things and stuff; class index = position in `categories`.
      instance: the task of the instances; its `score_gate` and `overlap` decide which are painted.
      categories: [{"id", "name", "isthing", ...}, ...].
      stuff_area: smallest stuff segment at the size of the prediction: a whole number is pixels (Painter's 8192), a float a share of the image.
    """

    name: str = "panoptic"
    prompt: str = ""
    protocol: str = "panoptic-coco"
    semantic: Semantic
    instance: Instance
    categories: list[dict] = dataclasses.field(hash=False)
    stuff_area: int | float = 8192

    def __post_init__(self):
        names = tuple(category["name"] for category in self.categories)
        if names != self.semantic.classes:
            raise ValueError(
                f"Task '{self.name}': the categories {names} must be the classes of task "
                f"'{self.semantic.name}' in their order, {self.semantic.classes}."
            )

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the semantic and of the instance task, the order of the arguments of `merge`."""
        return self.semantic.name, self.instance.name

    @property
    def component_tasks(self) -> tuple[base.Task, ...]:
        """The semantic and the instance task."""
        return self.semantic, self.instance

    def component_labels(self, label: IdMapAndSegments) -> dict[str, np.ndarray]:
        """The labels of the components: classes int32 (h, w), -1 = void, and instances int32 (h, w), 0 = none.

        Crowd segments keep their class but are no instances.
        """
        id_map, segments = label
        id_map = base.check_map(
            self.name, id_map, "iu", "(id map, segments_info) with an integer id map"
        )
        ids, index = np.unique(id_map, return_inverse=True)
        classes, instances = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.int32)
        info = {segment["id"]: segment for segment in segments}
        for position, number in enumerate(ids.tolist()):
            if number == 0:
                continue
            if number not in info:
                raise ValueError(
                    f"Task '{self.name}': id {number} of the id map is not in segments_info, which has "
                    f"{sorted(info)}."
                )
            classes[position] = self._class_index(info[number]["category_id"])
            if self.categories[classes[position]]["isthing"] and not info[number].get("iscrowd", 0):
                instances[position] = instances.max() + 1
        index = index.reshape(id_map.shape)
        return {self.semantic.name: classes[index], self.instance.name: instances[index]}

    def encode_components(self, label: IdMapAndSegments, size: base.Size) -> dict[str, base.Target]:
        """(id map, segments_info) -> the Target of each component, by name."""
        labels = self.component_labels(label)
        return {task.name: task.encode(labels[task.name], size) for task in self.component_tasks}

    def decode_components(
        self, rgbs: Mapping[str, np.ndarray], size: base.Size | None = None
    ) -> PanopticPrediction:
        """What the model painted for each component, by name -> `merge`."""
        return self.merge(rgbs[self.semantic.name], rgbs[self.instance.name], size)

    def encode(self, label: IdMapAndSegments, size: base.Size) -> dict[str, base.Target]:
        """(id map, segments_info) -> the Target of each component, by name."""
        labels = self.component_labels(label)
        return {
            task.name: task.encode(labels[task.name], size)
            for task in (self.semantic, self.instance)
        }

    def decode(
        self, rgb: dict[str, np.ndarray], size: base.Size | None = None
    ) -> PanopticPrediction:
        """What the model painted for each component, by name -> `merge`."""
        return self.merge(rgb[self.semantic.name], rgb[self.instance.name], size)

    def merge(
        self, semantic_rgb: np.ndarray, instance_rgb: np.ndarray, size: base.Size | None = None
    ) -> PanopticPrediction:
        """Two float (h, w, 3) in [-1, 1] -> panoptic segmentation at `size`.

        Instances are painted as `Instance.paint` says, each with the thing class it is closest to. Then every stuff
        class takes its free pixels, if they are at least `stuff_area`. The rest is void.
        """
        size = semantic_rgb.shape[:2] if size is None else base.to_size(size)
        masks, scores = self.instance.candidates(instance_rgb)
        painted = scores >= self.instance.score_gate
        masks, scores = masks[painted], scores[painted]
        id_map = self.instance.paint(base.resize_masks(masks, size), scores)
        category = self._thing_categories(semantic_rgb, masks)
        semantic = self.semantic.decode(semantic_rgb, size)
        least = (
            self.stuff_area if isinstance(self.stuff_area, int) else self.stuff_area * id_map.size
        )
        stuff, confidence = np.zeros(size, bool), np.append(scores, 0.0)[id_map - 1]
        for index in np.unique(semantic.classes[id_map == 0]):
            free = (id_map == 0) & (semantic.classes == index)
            if not self.categories[index]["isthing"] and free.sum() >= least:
                category.append(self.categories[index]["id"])
                id_map[free] = len(category)
                stuff |= free
        areas = np.bincount(id_map.ravel(), minlength=len(category) + 1)[1:].tolist()
        segments = [
            {"id": number, "category_id": category[number - 1], "iscrowd": 0, "area": area}
            for number, area in enumerate(areas, start=1)
            if area
        ]
        confidence = np.where(stuff, semantic.confidence, confidence).astype(np.float32)
        return PanopticPrediction(id_map, segments, confidence)

    def _thing_categories(self, semantic_rgb: np.ndarray, masks: np.ndarray) -> list[int]:
        """Category id of each mask: the thing class with the largest sum of 1 - distance / max distance over the mask.

        Which is the one with the smallest sum of distances; summed at the size of `semantic_rgb`.
        """
        size = semantic_rgb.shape[:2]
        things = [index for index, category in enumerate(self.categories) if category["isthing"]]
        distances = np.stack(
            [distance.ravel() for distance in self.semantic.distances(semantic_rgb, size)]
        )[things]
        inside = (
            base.resize_masks(masks, size).reshape(len(masks), size[0] * size[1]).astype(np.float32)
        )
        sums = inside @ distances.T
        return [self.categories[things[best]]["id"] for best in sums.argmin(-1)]

    def _class_index(self, category_id: int) -> int:
        ids = [category["id"] for category in self.categories]
        if category_id not in ids:
            raise ValueError(
                f"Task '{self.name}': unknown category id {category_id}; valid ids are {ids}."
            )
        return ids.index(category_id)

    def label_of(self, prediction: PanopticPrediction) -> IdMapAndSegments:
        """(id map, segments_info)."""
        return prediction.id_map, prediction.segments_info

    def metric(self):
        """`generalist.metrics.PanopticQuality` over the categories."""
        from generalist import metrics

        return metrics.PanopticQuality(self.categories)

    def class_figures(self, metric) -> dict[str, float]:
        """The PQ of each category, `pq/<category>`."""
        found = metric.per_class()
        return {f"pq/{c['name']}": found[c["id"]]["pq"] for c in self.categories}

    def official(self, other: base.Task) -> "Panoptic":
        """This task by the protocol of `other`; ValueError unless it has the same categories."""
        theirs = other.semantic.classes if isinstance(other, Panoptic) else ()
        check_same_classes(self.name, self.semantic.classes, theirs)
        return super().official(other)

    def legend(self, labels: Sequence[IdMapAndSegments] | None = None) -> drawing.Legend:
        """The categories, all or those in `labels`, then void."""
        if labels is None:
            return self.semantic.legend()
        return self.semantic.legend(
            [self.component_labels(label)[self.semantic.name] for label in labels]
        )

    def error_map(self, prediction: PanopticPrediction, label: IdMapAndSegments) -> np.ndarray:
        """Where the class is wrong, or an instance is lost, merged, split or invented; void counts as right."""
        ours = self.component_labels(self.label_of(prediction))
        theirs = self.component_labels(label)
        classes = theirs[self.semantic.name]
        wrong = ours[self.semantic.name] != classes
        wrong |= drawing.unmatched(ours[self.instance.name], theirs[self.instance.name])
        return drawing.right_or_wrong(wrong & (classes >= 0))

    def error_legend(self) -> drawing.Legend:
        """The colors of `error_map`."""
        return drawing.RIGHT_OR_WRONG

    def submission_pixels(self, prediction: PanopticPrediction) -> np.ndarray:
        """uint8 (h, w, 3), COCO's id = R + 256 G + 65536 B."""
        return (prediction.id_map[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)

    def submission_annotation(self, key: str, prediction: PanopticPrediction) -> dict:
        """COCO's annotation of an image."""
        fields = ("id", "category_id", "area", "iscrowd")
        segments = [
            {field: segment[field] for field in fields} for segment in prediction.segments_info
        ]
        # COCO's file names are its image ids.
        image_id = int(key) if key.isdecimal() else key
        return {"image_id": image_id, "file_name": f"{key}.png", "segments_info": segments}

    def submission_index(self, annotations: Sequence[dict]) -> dict:
        """COCO's file, as panopticapi reads it."""
        categories = [dict(category) for category in self.categories]
        return {"annotations": list(annotations), "categories": categories}

    def render(self, prediction_or_label: PanopticPrediction | IdMapAndSegments) -> np.ndarray:
        """Class colours, uint8 (h, w, 3): instances of a class in different brightness, dark borders, void black."""
        pair = prediction_or_label
        id_map, segments = self.label_of(pair) if isinstance(pair, PanopticPrediction) else pair
        labels = self.component_labels((id_map, segments))
        # Five brightness levels in an order that sets consecutive instances apart.
        brightness = np.array([1.0, 0.7, 0.85, 0.6, 0.92])[labels[self.instance.name] % 5]
        border = np.zeros(id_map.shape, bool)
        border[:, 1:] |= id_map[:, 1:] != id_map[:, :-1]
        border[1:] |= id_map[1:] != id_map[:-1]
        colours = (
            self.semantic.render(labels[self.semantic.name])
            * np.where(border, 0.3, brightness)[..., None]
        )
        return np.round(colours).astype(np.uint8)
