"""Measures single examples of a data set: their numbers, and what is wrong with them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from generalist.input_pipeline.source import Example

FAR = 20.0  # meters: NYU's sensor reaches about 10, so that more means another unit
THUMBNAIL = 16  # side of a thumbnail, pixels
NYU_SIZE = (480, 640)  # rows and columns that the Eigen crop is defined on
SMALLEST = 11  # pixels a side that a restored image must have to be measured
FLAT = 8.0  # levels: with a smaller standard deviation a thumbnail identifies no image


@dataclasses.dataclass
class Measured:
    """The numbers of one example, and its problems."""

    size: tuple[int, int]  # (h, w) pixels

    # uint8 (THUMBNAIL, THUMBNAIL, 3) of the image, or a restoration's clean one; None if flat.
    thumbnail: np.ndarray | None = None

    problems: list[str] = dataclasses.field(default_factory=list)  # one line each
    form: str = "classes"  # of the label: "classes", "values", "instances", "pair" or "pictures"
    unlabeled: float = 0.0  # fraction of the pixels without a label; with instances the background

    # Of the values, or of the input of a restoration in dB, or the number of instances.
    low: float = math.inf
    high: float = -math.inf

    classes: frozenset[int] = frozenset()  # ids in the label

    words: int | None = None  # of the caption, where the example has its own


def measure(
    example: Example, definition: Mapping[str, Any] | None = None, split: str = "train"
) -> Measured:
    """Measures one example, by the form of its label.

    Args:
      example: as a source returns it.
      definition: of own data, the definition of the task.
      split: of the example. Metrics are asked for all but "train".
    """
    image = example["image"]
    label = example["label"]
    key = example["key"]

    # A picture that is its own label has nothing to compare.
    if definition is not None and definition["kind"] == "text_to_image":
        return Measured(image.shape[:2], thumbnail(image), form="pictures")

    # Only a panoptic label has two parts, only a clean image 8 bits, and only quantities fractions.
    if isinstance(label, tuple):
        id_map, segments = label
        return _measure_panoptic(image, id_map, segments, key)
    if label.dtype == np.uint8:
        return _measure_pair(image, label, key, smallest=1 if split == "train" else SMALLEST)
    if label.dtype.kind == "f":
        measured = _measure_values(image, label, key, own=definition is not None)
        if definition is None and split != "train" and measured.size != NYU_SIZE:
            h, w = measured.size
            measured.problems.append(
                f"{key}: {w}x{h} pixels (width x height), the official metric needs 640x480"
            )
        return measured

    # Ids of classes and of instances look alike.
    if definition is not None and definition["kind"] == "instances":
        return _measure_instances(image, label)
    return _measure_classes(image, label)


def _measure_panoptic(
    image: np.ndarray, id_map: np.ndarray, segments: Sequence[Mapping], key: str
) -> Measured:
    ids, counts = np.unique(id_map, return_counts=True)
    pixels = dict(zip(ids.tolist(), counts.tolist(), strict=True))

    # The JSON's areas were counted by others, in the same PNG: they must agree.
    problems = []
    for segment in segments:
        count = pixels[segment["id"]]
        if segment["area"] != count:
            problems.append(
                f"{key}: segment {segment['id']} has {count} pixels, "
                f"its area in the JSON is {segment['area']}"
            )
    return Measured(
        image.shape[:2],
        thumbnail(image),
        problems,
        unlabeled=float((id_map == 0).mean()),
        classes=frozenset(segment["category_id"] for segment in segments),
    )


def _measure_pair(image: np.ndarray, clean: np.ndarray, key: str, smallest: int) -> Measured:
    measured = Measured(image.shape[:2], thumbnail(clean), form="pair")
    error = float(np.mean((image.astype(np.float32) - clean) ** 2))
    if error:
        measured.low = 10 * math.log10(255**2 / error)
        measured.high = measured.low
    else:
        measured.problems.append(f"{key}: the degraded and the clean image are the same")
    if min(measured.size) < smallest:
        h, w = measured.size
        measured.problems.append(
            f"{key}: {w}x{h} pixels (width x height) are too few: SSIM needs {smallest} a side"
        )
    return measured


def _measure_values(image: np.ndarray, values: np.ndarray, key: str, own: bool) -> Measured:
    """Own data have nan where there is no value, and any range; depth has 0, and ends at FAR."""
    known = values[~np.isnan(values)] if own else values[values > 0]
    measured = Measured(image.shape[:2], thumbnail(image), form="values")
    measured.unlabeled = 1 - known.size / values.size
    if not known.size:
        measured.problems.append(f"{key}: no pixel has a value")
        return measured

    measured.low = float(known.min())
    measured.high = float(known.max())
    if not own and measured.high > FAR:
        measured.problems.append(f"{key}: depth up to {measured.high:.1f} m: is it in millimeters?")
    return measured


def _measure_instances(image: np.ndarray, ids: np.ndarray) -> Measured:
    count = len(np.unique(ids[ids > 0]))
    return Measured(
        image.shape[:2],
        thumbnail(image),
        form="instances",
        unlabeled=float((ids == 0).mean()),
        low=count,
        high=count,
    )


def _measure_classes(image: np.ndarray, classes: np.ndarray) -> Measured:
    return Measured(
        image.shape[:2],
        thumbnail(image),
        unlabeled=float((classes < 0).mean()),
        classes=frozenset(np.unique(classes[classes >= 0]).tolist()),
    )


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """Shrinks an image by area means.

    Args:
      image: uint8 (h, w, 3).

    Returns:
      uint8 (THUMBNAIL, THUMBNAIL, 3), or None if that is nearly one color.
    """
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return small if small.std() >= FLAT else None


def describe_sizes(measured: Sequence[Measured]) -> str:
    """Returns the smallest and the largest size, width x height: "24x20..96x80"."""
    sizes = sorted({one.size[::-1] for one in measured}, key=math.prod)
    smallest = "x".join(map(str, sizes[0]))
    largest = "x".join(map(str, sizes[-1]))
    return smallest if len(sizes) == 1 else f"{smallest}..{largest}"


def describe_captions(measured: Sequence[Measured]) -> str:
    """Returns how long the captions of examples are, for people; "" if there are none."""
    words = [one.words for one in measured if one.words is not None]
    return f", captions of {min(words)}..{max(words)} words" if words else ""


def describe_labels(measured: Sequence[Measured], definition: Mapping[str, Any] | None) -> str:
    """Returns what the labels of all examples hold together, for people.

    Args:
      measured: at least one example; all have labels of one form.
      definition: of own data, the definition of the task.
    """
    definition = {"unit": "m"} if definition is None else definition
    low = min(one.low for one in measured)
    high = max(one.high for one in measured)
    unlabeled = np.mean([one.unlabeled for one in measured])

    # Classes are counted over all examples; the others have a range.
    form = measured[0].form
    if form == "classes":
        seen = frozenset().union(*(one.classes for one in measured))
        of_all = f" of {len(definition['classes'])}" if "classes" in definition else ""
        return f"{len(seen)}{of_all} classes, {unlabeled:.1%} void"
    if form == "instances":
        return f"{low}..{high} instances an image, {unlabeled:.1%} background"
    if form == "pictures":
        return "no labels"
    if form == "pair":
        return f"input {low:.1f}..{high:.1f} dB"
    if low > high:
        return "no values"
    values = f"{low:.4g}..{high:.4g} {definition.get('unit', '')}".rstrip()
    return f"{values}, {unlabeled:.1%} missing"
