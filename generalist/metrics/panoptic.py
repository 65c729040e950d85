"""Panoptic quality (Kirillov et al., arXiv 1801.00868) by the rules of COCO's panopticapi."""

import collections
import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Integer
from numpy.typing import ArrayLike

from generalist.metrics.base import Metric, check_integers, check_same_shape, mean

VOID = 0
PANOPTIC_PROTOCOLS = {
    "panoptic-coco": (
        "PQ, SQ, RQ of panopticapi: match above IoU 0.5, void and crowd excused, "
        "mean over what occurs"
    ),
    "panoptic-instances": (
        "PQ, SQ, RQ of instances of one category: match above IoU 0.5, an instance on background "
        "is a false positive, void and crowds are excused"
    ),
}

_MAX_IDS = 2**31  # two ids share one int64

SegmentsInfo = Sequence[Mapping[str, Any]]  # COCO's segments_info
Segmentation = tuple[ArrayLike, SegmentsInfo]  # (id map, segments_info)
Segments = dict[int, Mapping[str, Any]]  # segment id -> its entry of segments_info
Overlaps = dict[tuple[int, int], int]  # (label id, predicted id) -> shared pixels


@dataclasses.dataclass
class _Tally:
    """Segments counted per category id."""

    # Of each true positive.
    ious: dict[int, list[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    false_positives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    false_negatives: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def state(self) -> dict[str, dict[str, Any]]:
        """Returns the counts by category, which JSON takes as text."""
        counts = {
            "ious": self.ious,
            "false_positives": self.false_positives,
            "false_negatives": self.false_negatives,
        }
        return {name: {str(key): count[key] for key in count} for name, count in counts.items()}

    @classmethod
    def of(cls, state: Mapping[str, Mapping[str, Any]]) -> "_Tally":
        """Returns the tally of a `state`; KeyError, TypeError or ValueError for anything else."""
        tally = cls()
        for category, ious in state["ious"].items():
            tally.ious[int(category)] = [float(iou) for iou in ious]
        for category, count in state["false_positives"].items():
            tally.false_positives[int(category)] = int(count)
        for category, count in state["false_negatives"].items():
            tally.false_negatives[int(category)] = int(count)
        return tally

    def add(self, other: "_Tally") -> None:
        for category, ious in other.ious.items():
            self.ious[category].extend(ious)
        self.false_positives.update(other.false_positives)
        self.false_negatives.update(other.false_negatives)

    def quality(self, category: int) -> dict[str, float]:
        """Returns pq, sq and rq of a category; nan if it does not occur."""
        ious = self.ious.get(category, [])
        false_positives = self.false_positives[category]
        false_negatives = self.false_negatives[category]

        attempts = len(ious) + 0.5 * false_positives + 0.5 * false_negatives
        if attempts == 0:
            return {"pq": math.nan, "sq": math.nan, "rq": math.nan}

        total = math.fsum(ious)  # the same bits in whatever order the images came
        return {
            "pq": total / attempts,
            "sq": total / len(ious) if ious else 0.0,
            "rq": len(ious) / attempts,
        }


@dataclasses.dataclass(eq=False)
class PanopticQuality(Metric):
    """PQ = SQ * RQ per category, averaged over the categories that occur in labels or predictions.

    Keys, all fractions but `n`: `pq`, `sq` (mean IoU of matches), `rq` (F1 of segments), `n`
    (categories averaged); the same with the suffixes `_things` and `_stuff`. Where n is 0 the
    others are nan.

    A segment of the label and one of the prediction match if their category is the same and their
    IoU, predicted pixels on void left out, is above 0.5. Crowd segments of the label never match.
    An unmatched prediction is a false positive unless more than half of it lies on void or on a
    crowd region of its category; of several crowd regions of one category in an image only the last
    listed counts, as in panopticapi.

    Args:
      categories: COCO's list, each with `id` and `isthing`, such as
        [{"id": 1, "name": "person", "isthing": 1}].

    Raises:
      ValueError: two categories have one id.
    """

    categories: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)
    protocol = "panoptic-coco"

    def __post_init__(self):
        self._is_thing = {category["id"]: bool(category["isthing"]) for category in self.categories}
        if len(self._is_thing) != len(self.categories):
            ids = collections.Counter(category["id"] for category in self.categories)
            twice, _ = ids.most_common(1)[0]
            raise ValueError(f"category id {twice} is given twice; ids must be unique.")
        self._tally = _Tally()

    def update(self, prediction: Segmentation, label: Segmentation) -> dict[str, float]:
        """Adds one image and returns its own values, over the categories in it.

        Args:
          prediction: (id_map, segments_info): id_map (h, w) integers, 0 is void; segments_info a
            list of {"id", "category_id"}, one for each other id in the map.
          label: the same form at the same size; its segments also have "area" in pixels, which is
            taken from here as panopticapi does, and may have "iscrowd" 1.

        Raises:
          TypeError: an id map does not hold integers.
          ValueError: the sizes differ, a segment is in the map and not in segments_info or the
            reverse, an id is listed twice or negative, a category is unknown, or a label's segment
            has no area or one too small for its pixels.
        """
        predicted_map, predicted_infos = prediction
        label_map, label_infos = label
        predicted_map = check_integers(predicted_map, "the id map of the prediction")
        label_map = check_integers(label_map, "the id map of the label")
        check_same_shape(predicted_map, label_map, "(h, w)")

        overlaps = _overlaps(predicted_map, label_map)
        predicted_ids = {predicted_id for _, predicted_id in overlaps}
        label_ids = {label_id for label_id, _ in overlaps}

        needs = ("id", "category_id")
        predicted = _index_segments("prediction", predicted_infos, predicted_ids, needs)
        labeled = _index_segments("label", label_infos, label_ids, (*needs, "area"))
        _check_categories("prediction", predicted, self._is_thing)
        _check_categories("label", labeled, self._is_thing)

        tally = _match(predicted, labeled, overlaps)
        self._tally.add(tally)
        return self._summary(tally)

    def compute(self) -> dict[str, float]:
        """Returns pq, sq, rq and n over all images, for all categories, things and stuff."""
        return self._summary(self._tally)

    def per_class(self) -> dict[int, dict[str, float]]:
        """Returns {"pq", "sq", "rq"} per category id over all images.

        They are nan for a category that never occurred.
        """
        return {category: self._tally.quality(category) for category in self._is_thing}

    def state(self) -> dict[str, Any]:
        """Returns the segments counted so far, by category."""
        return self._tally.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from the `state` of a metric of the same settings.

        Raises:
          ValueError: it is of another form.
        """
        try:
            self._tally = _Tally.of(state)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self!r}: no such state: {error!r}") from error

    def _absorb(self, other: Self) -> None:
        self._tally.add(other._tally)

    def _summary(self, tally: _Tally) -> dict[str, float]:
        things = [category for category, thing in self._is_thing.items() if thing]
        stuff = [category for category, thing in self._is_thing.items() if not thing]

        values = {}
        for suffix, categories in (("", self._is_thing), ("_things", things), ("_stuff", stuff)):
            qualities = [tally.quality(category) for category in categories]
            present = [quality for quality in qualities if not math.isnan(quality["pq"])]
            for key in ("pq", "sq", "rq"):
                values[key + suffix] = mean(quality[key] for quality in present)
            values["n" + suffix] = len(present)
        return values


# Category ids of `InstanceQuality`.
INSTANCE = 1
BACKGROUND = 2


@dataclasses.dataclass(eq=False)
class InstanceQuality(PanopticQuality):
    """PQ = SQ * RQ of instances that have no class; keys `pq`, `sq`, `rq`, fractions.

    Background is a segment of a category of its own, whose quality is not counted: so its pixels
    are part of unions, and what is painted on it is a false positive. Only where the label is void,
    -1, are predicted pixels left out, and predictions that lie there excused.
    """

    categories: Sequence[Mapping[str, Any]] = dataclasses.field(
        default=({"id": INSTANCE, "isthing": 1}, {"id": BACKGROUND, "isthing": 0}), repr=False
    )
    protocol = "panoptic-instances"

    def update(
        self, prediction: Integer[np.ndarray, "h w"], label: Integer[np.ndarray, "h w"]
    ) -> dict[str, float]:
        """Adds one image and returns its own values.

        Args:
          prediction: ids of instances, 0 = background.
          label: ids of instances, 0 = background, -1 = void or a crowd.

        Raises:
          TypeError: one of them does not hold integers.
          ValueError: the sizes differ, or an id is smaller than those.
        """
        prediction = check_integers(prediction, "the instances of the prediction")
        label = check_integers(label, "the instances of the label")
        for name, ids, smallest in (("prediction", prediction, 0), ("label", label, -1)):
            if ids.size and ids.min() < smallest:
                raise ValueError(
                    f"{name}: instance ids must be {smallest} or more, the map holds {ids.min()}."
                )
        return super().update(_as_segmentation(prediction), _as_segmentation(label))

    def _summary(self, tally: _Tally) -> dict[str, float]:
        return tally.quality(INSTANCE)


def _as_segmentation(instances: Integer[np.ndarray, "h w"]) -> Segmentation:
    """Instance ids, 0 = background, -1 = void -> COCO's form, where 0 is void."""
    id_map = instances.astype(np.int64) + 1
    ids, areas = np.unique(id_map[id_map > VOID], return_counts=True)
    segments = []
    for number, area in zip(ids.tolist(), areas.tolist(), strict=True):
        category = BACKGROUND if number == 1 else INSTANCE
        segments.append({"id": number, "category_id": category, "area": area})
    return id_map, segments


def _overlaps(
    predicted_map: Integer[np.ndarray, "h w"], label_map: Integer[np.ndarray, "h w"]
) -> Overlaps:
    """Counts the pixels of every (label id, predicted id) pair that occurs."""
    predicted_map = predicted_map.astype(np.int64)
    label_map = label_map.astype(np.int64)
    for name, ids in (("prediction", predicted_map), ("label", label_map)):
        if ids.size and not 0 <= ids.min() <= ids.max() < _MAX_IDS:
            raise ValueError(
                f"{name}: ids must be 0 .. 2^31 - 1, the id map holds {ids.min()} .. {ids.max()}."
            )

    # A pair of ids as one number, so that one sort counts them all.
    pairs, pixels = np.unique(label_map * _MAX_IDS + predicted_map, return_counts=True)
    counted = zip(pairs.tolist(), pixels.tolist(), strict=True)
    return {divmod(pair, _MAX_IDS): count for pair, count in counted}


def _index_segments(
    name: str, infos: SegmentsInfo, ids: Iterable[int], needs: Sequence[str]
) -> Segments:
    """Returns the segments by id, in the order of `infos`.

    Raises:
      ValueError: they are not complete, or not those of the map.
    """
    for info in infos:
        missing = [key for key in needs if key not in info]
        if missing:
            raise ValueError(
                f"{name}: segment {dict(info)} in segments_info lacks {', '.join(missing)}."
            )

    listed = [info["id"] for info in infos]
    if VOID in listed or len(set(listed)) != len(listed):
        raise ValueError(
            f"{name}: segments_info lists id 0, which is void, or an id twice: {sorted(listed)}."
        )

    drawn = set(ids) - {VOID}
    if set(listed) != drawn:
        raise ValueError(
            f"{name}: segment ids {sorted(drawn - set(listed))} are in the id map and not in "
            f"segments_info, {sorted(set(listed) - drawn)} the reverse; "
            "list exactly the ids drawn, void (0) apart."
        )

    return {info["id"]: info for info in infos}


def _check_categories(name: str, segments: Segments, valid: Collection[int]) -> None:
    for info in segments.values():
        if info["category_id"] not in valid:
            raise ValueError(
                f"{name}: segment {info['id']} has unknown category_id {info['category_id']}; "
                f"valid: {sorted(valid)}."
            )


def _match(predicted: Segments, labeled: Segments, overlaps: Overlaps) -> _Tally:
    """Sorts the segments of one image into true and false positives, false negatives, excused."""
    tally = _Tally()
    matched_labels = set()
    matched_predictions = set()

    areas = collections.Counter()
    for (_, predicted_id), pixels in overlaps.items():
        areas[predicted_id] += pixels

    # True positives: above an IoU of 0.5 no segment can have two partners, so any order will do.
    for (label_id, predicted_id), pixels in overlaps.items():
        if VOID in (label_id, predicted_id) or _is_crowd(labeled[label_id]):
            continue
        category = labeled[label_id]["category_id"]
        predicted_area = areas[predicted_id] - overlaps.get((VOID, predicted_id), 0)
        iou = pixels / _union(predicted_area, labeled[label_id], pixels)
        if category == predicted[predicted_id]["category_id"] and iou > 0.5:
            tally.ious[category].append(iou)
            matched_labels.add(label_id)
            matched_predictions.add(predicted_id)

    # Segments of the label that nothing matches are false negatives, crowds apart. The last crowd
    # region of a category stands for all of them: panopticapi's own rule.
    crowds = {}
    for label_id, info in labeled.items():
        if _is_crowd(info):
            crowds[info["category_id"]] = label_id
        elif label_id not in matched_labels:
            tally.false_negatives[info["category_id"]] += 1

    # Predictions that match nothing are false positives, unless void or a crowd excuses them.
    for predicted_id in predicted.keys() - matched_predictions:
        category = predicted[predicted_id]["category_id"]
        excused = overlaps.get((VOID, predicted_id), 0)
        if category in crowds:
            excused += overlaps.get((crowds[category], predicted_id), 0)
        if excused / areas[predicted_id] <= 0.5:
            tally.false_positives[category] += 1

    return tally


def _union(predicted_area: int, segment: Mapping[str, Any], shared: int) -> int:
    if segment["area"] < shared:
        raise ValueError(
            f"label: segment {segment['id']} has area {segment['area']} in segments_info, and at "
            f"least {shared} pixels in the id map; recount the areas after resizing a label."
        )
    return predicted_area + segment["area"] - shared


def _is_crowd(segment: Mapping[str, Any]) -> bool:
    return bool(segment.get("iscrowd", 0))
