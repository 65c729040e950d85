"""Panoptic quality by the rules of COCO's panopticapi."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from generalist.metrics.base import Metric, check_integers, check_same_shape, mean

VOID = 0
PANOPTIC_PROTOCOLS = {
    "panoptic-coco": "PQ, SQ, RQ of panopticapi: match above IoU 0.5, void and crowd excused, mean over what occurs"
}

_MAX_IDS = 2**31  # two ids share one int64

SegmentsInfo = Sequence[Mapping[str, Any]]  # COCO's segments_info
Segmentation = tuple[np.ndarray, SegmentsInfo]  # (id map, segments_info)
Segments = dict[int, Mapping[str, Any]]  # segment id -> its entry of segments_info
Overlaps = dict[tuple[int, int], int]  # (label id, predicted id) -> shared pixels


@dataclasses.dataclass
class _Tally:
    """Per category id: the IoU of each true positive, and the numbers of false positives and false negatives."""

    ious: dict[int, list[float]] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(list)
    )
    false_positives: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    false_negatives: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def add(self, other: _Tally) -> None:
        for category, ious in other.ious.items():
            self.ious[category].extend(ious)
        self.false_positives.update(other.false_positives)
        self.false_negatives.update(other.false_negatives)

    def quality(self, category: int) -> dict[str, float]:
        ious = self.ious.get(category, [])
        attempts = (
            len(ious) + 0.5 * self.false_positives[category] + 0.5 * self.false_negatives[category]
        )
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

    Keys, all fractions but `n`: `pq`, `sq` (mean IoU of matches), `rq` (F1 of segments), `n` (categories averaged); the
    same with the suffixes `_things` and `_stuff`. Where n is 0 the others are nan.

    A segment of the label and one of the prediction match if their category is the same and their IoU, predicted pixels
    on void left out, is above 0.5. Crowd segments of the label never match. An unmatched prediction is a false positive
    unless more than half of it lies on void or on a crowd region of its category; of several crowd regions of one
    category in an image only the last listed counts, as in panopticapi.

    Args:
      categories: COCO's list, each with `id` and `isthing`, such as [{"id": 1, "name": "person", "isthing": 1}].

    Raises:
      ValueError: two categories have one id.
    """

    categories: Sequence[Mapping[str, Any]] = dataclasses.field(repr=False)
    protocol = "panoptic-coco"

    def __post_init__(self):
        self._is_thing = {category["id"]: bool(category["isthing"]) for category in self.categories}
        if len(self._is_thing) != len(self.categories):
            ids = collections.Counter(category["id"] for category in self.categories)
            raise ValueError(
                f"category id {ids.most_common(1)[0][0]} is given twice; ids must be unique."
            )
        self._tally = _Tally()

    def update(self, prediction: Segmentation, label: Segmentation) -> dict[str, float]:
        """Adds one image and returns its own values, over the categories in it.

        Args:
          prediction: (id_map, segments_info): id_map (h, w) integers, 0 is void; segments_info a list of {"id",
            "category_id"}, one for each other id in the map.
          label: the same form at the same size; its segments also have "area" in pixels, which is taken from here as
            panopticapi does, and may have "iscrowd" 1.

        Raises:
          TypeError: an id map does not hold integers.
          ValueError: the sizes differ, a segment is in the map and not in segments_info or the reverse, an id is listed
            twice or negative, a category is unknown, or a label's segment has no area or one too small for its pixels.
        """
        predicted_map = check_integers(prediction[0], "the id map of the prediction")
        label_map = check_integers(label[0], "the id map of the label")
        check_same_shape(predicted_map, label_map, "(h, w)")
        overlaps = _overlaps(predicted_map, label_map)
        predicted = _index_segments(
            "prediction", prediction[1], {ids[1] for ids in overlaps}, ("id", "category_id")
        )
        labelled = _index_segments(
            "label", label[1], {ids[0] for ids in overlaps}, ("id", "category_id", "area")
        )
        _check_categories("prediction", predicted, self._is_thing)
        _check_categories("label", labelled, self._is_thing)
        tally = _match(predicted, labelled, overlaps)
        self._tally.add(tally)
        return self._summary(tally)

    def compute(self) -> dict[str, float]:
        """Returns pq, sq, rq and n over all images, for all categories, things and stuff."""
        return self._summary(self._tally)

    def per_class(self) -> dict[int, dict[str, float]]:
        """Returns {"pq", "sq", "rq"} per category id over all images; nan for a category that never occurred."""
        return {category: self._tally.quality(category) for category in self._is_thing}

    def _absorb(self, other: Self) -> None:
        self._tally.add(other._tally)

    def _summary(self, tally: _Tally) -> dict[str, float]:
        values = {}
        for suffix, kinds in (("", (True, False)), ("_things", (True,)), ("_stuff", (False,))):
            qualities = [
                tally.quality(category)
                for category, thing in self._is_thing.items()
                if thing in kinds
            ]
            present = [quality for quality in qualities if not math.isnan(quality["pq"])]
            values |= {
                key + suffix: mean(quality[key] for quality in present)
                for key in ("pq", "sq", "rq")
            }
            values["n" + suffix] = len(present)
        return values


def _overlaps(predicted_map: np.ndarray, label_map: np.ndarray) -> Overlaps:
    """Counts the pixels of every (label id, predicted id) pair that occurs."""
    predicted_map, label_map = predicted_map.astype(np.int64), label_map.astype(np.int64)
    for name, ids in (("prediction", predicted_map), ("label", label_map)):
        if ids.size and not 0 <= ids.min() <= ids.max() < _MAX_IDS:
            raise ValueError(
                f"{name}: ids must be 0 .. 2^31 - 1, the id map holds {ids.min()} .. {ids.max()}."
            )
    pairs, pixels = np.unique(label_map * _MAX_IDS + predicted_map, return_counts=True)
    return {divmod(pair, _MAX_IDS): count for pair, count in zip(pairs.tolist(), pixels.tolist())}


def _index_segments(
    name: str, infos: SegmentsInfo, ids: Iterable[int], needs: Sequence[str]
) -> Segments:
    """Returns the segments by id, in the order of `infos`, after checking that they are complete and all in the map."""
    for info in infos:
        missing = [key for key in needs if key not in info]
        if missing:
            raise ValueError(
                f"{name}: segment {dict(info)} in segments_info lacks {', '.join(missing)}."
            )
    listed, drawn = [info["id"] for info in infos], set(ids) - {VOID}
    if VOID in listed or len(set(listed)) != len(listed):
        raise ValueError(
            f"{name}: segments_info lists id 0, which is void, or an id twice: {sorted(listed)}."
        )
    if set(listed) != drawn:
        raise ValueError(
            f"{name}: segment ids {sorted(drawn - set(listed))} are in the id map and not in segments_info, "
            f"{sorted(set(listed) - drawn)} the reverse; list exactly the ids drawn, void (0) apart."
        )
    return {info["id"]: info for info in infos}


def _check_categories(name: str, segments: Segments, valid: Iterable[int]) -> None:
    for info in segments.values():
        if info["category_id"] not in valid:
            raise ValueError(
                f"{name}: segment {info['id']} has unknown category_id {info['category_id']}; valid: {sorted(valid)}."
            )


def _match(predicted: Segments, labelled: Segments, overlaps: Overlaps) -> _Tally:
    """Sorts the segments of one image into true positives, false positives, false negatives and excused ones."""
    tally, matched_labels, matched_predictions = _Tally(), set(), set()
    areas = collections.Counter()
    for (_, predicted_id), pixels in overlaps.items():
        areas[predicted_id] += pixels
    for (label_id, predicted_id), pixels in overlaps.items():
        if VOID in (label_id, predicted_id) or _is_crowd(labelled[label_id]):
            continue
        category = labelled[label_id]["category_id"]
        iou = pixels / _union(
            areas[predicted_id] - overlaps.get((VOID, predicted_id), 0), labelled[label_id], pixels
        )
        if category == predicted[predicted_id]["category_id"] and iou > 0.5:
            tally.ious[category].append(iou)
            matched_labels.add(label_id)
            matched_predictions.add(predicted_id)

    # The last crowd region of a category stands for all of them: panopticapi's own rule.
    crowds = {
        info["category_id"]: label_id for label_id, info in labelled.items() if _is_crowd(info)
    }
    missed = [
        info
        for label_id, info in labelled.items()
        if label_id not in matched_labels and not _is_crowd(info)
    ]
    tally.false_negatives.update(info["category_id"] for info in missed)
    for predicted_id in predicted.keys() - matched_predictions:
        category = predicted[predicted_id]["category_id"]
        excused = overlaps.get((VOID, predicted_id), 0) + overlaps.get(
            (crowds.get(category), predicted_id), 0
        )
        if excused / areas[predicted_id] <= 0.5:
            tally.false_positives[category] += 1
    return tally


def _union(predicted_area: int, segment: Mapping[str, Any], shared: int) -> int:
    if segment["area"] < shared:
        raise ValueError(
            f"label: segment {segment['id']} has area {segment['area']} in segments_info, and at least {shared} pixels "
            "in the id map; recount the areas after resizing a label."
        )
    return predicted_area + segment["area"] - shared


def _is_crowd(segment: Mapping[str, Any]) -> bool:
    return bool(segment.get("iscrowd", 0))
