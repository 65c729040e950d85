"""From painted colours to official numbers: decoding at the labels' own sizes, and one predictor's figures on one task."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from generalist.input_pipeline.sources.rain13k import TEST_SETS
from generalist.metrics import (
    BoundaryF,
    CalibrationError,
    DepthMetric,
    ImageQuality,
    Metric,
    SparsificationError,
)
from generalist.metrics.base import mean
from generalist.tasks import Depth, Instance, Panoptic, Semantic, Task
from generalist.tasks.instance import as_panoptic

Example = Mapping[str, Any]
# (task, examples of one batch) -> the task's prediction for each, at the size of its label.
Predictor = Callable[[Task, Sequence[Example]], list]


# What a suffix of a metric's name says: how else the task was predicted. Without one it is the task's own way.
WAYS = {
    "_painter": "the colours interpolated to the label's size, then the nearest class (Painter)",
    "_distance": "the distances to the class colours interpolated to the label's size, then the smallest",
    "_tiles": "at native resolution in overlapping tiles of the target size",
}
FIGURES = (
    *WAYS,
    "boundary_f",
    "ece",
    "ause",
    "_affine",
    "_gaussian",
    "_gt_mean",
)  # beside the official ones


def further_metrics(task: Task) -> dict[str, Metric]:
    """Metrics of a task beside its official one: of outlines and of confidence, by the key of their figure; the official figures by
    another protocol that papers use, by their suffix, which begins with "_".
    """
    if isinstance(task, Semantic):
        return {"boundary_f": BoundaryF(), "ece": CalibrationError()}
    if isinstance(task, Depth):
        affine = (
            {"_affine": DepthMetric("nyu-affine-invariant")}
            if task.protocol == "nyu-eigen-metric"
            else {}
        )
        return {"ause": SparsificationError(task.protocol)} | affine
    if task.protocol == "lol-rgb-painter":
        return {
            "_gaussian": ImageQuality("rgb-matlab"),
            "_gt_mean": ImageQuality("lol-rgb-gt-mean"),
        }
    return {}


def decoders(task: Task) -> dict[str, Task]:
    """{suffix: codec}: the task itself under "", and a semantic task with the other way to reach a larger size."""
    if not isinstance(task, Semantic):
        return {"": task}
    other, suffix = ("distance", "_distance") if task.upsample == "rgb" else ("rgb", "_painter")
    return {"": task, suffix: dataclasses.replace(task, upsample=other)}


class Scores:
    """What one predictor reaches on one task, in one way or several.

    Attributes:
      metrics: {suffix: the task's official metric over everything seen so far}, the suffixes as in WAYS.
      rows: {"key": str, metric: value, ...} of each image, in the order of the updates.
    """

    def __init__(self, task: Task):
        self.task, self.metrics, self.rows = task, {"": task.metric()}, []
        self._others: dict[str, dict[str, Metric]] = {}  # {suffix: further_metrics(task)}

    def update(self, examples: Sequence[Example], predictions: Mapping[str, Sequence]) -> None:
        """Adds the predictions for a batch of examples, {suffix: one for each}."""
        for index, example in enumerate(examples):
            row, label = {"key": example["key"]}, metric_label(self.task, example["label"])
            for suffix, found in predictions.items():
                metric = self.metrics.setdefault(suffix, self.task.metric())
                row |= _renamed(metric.update(self.task.label_of(found[index]), label), suffix)
                for key, other in self._others.setdefault(
                    suffix, further_metrics(self.task)
                ).items():
                    values = self.task.label_of(found[index])
                    row |= _renamed(
                        other.update(
                            (values, found[index].confidence) if key in ("ece", "ause") else values,
                            label,
                        ),
                        _suffix(key) + suffix,
                    )
            self.rows.append(row)

    def compute(self) -> dict[str, float]:
        """The values of all metrics; nan = undefined.

        There are `iou/<class>` of a semantic task and `pq/<class>` of a panoptic one. Of the five sets of Rain13K there are
        `psnr/<set>`, `ssim/<set>` and `images/<set>` (how many), and `psnr` and `ssim` are the means over the sets: the benchmark's
        figures, a small set counting as much as a large one.
        """
        values = {}
        for suffix, metric in self.metrics.items():
            values |= _renamed(metric.compute(), suffix)
            for key, other in self._others.get(suffix, {}).items():
                values |= _renamed(other.compute(), _suffix(key) + suffix)
        if isinstance(self.task, Semantic):
            per_class = self.metrics[""].per_class()
            values |= {
                f"iou/{name}": per_class[index] for index, name in enumerate(self.task.classes)
            }
        if isinstance(self.task, Panoptic):
            per_class = self.metrics[""].per_class()
            values |= {
                f"pq/{category['name']}": per_class[category["id"]]["pq"]
                for category in self.task.categories
            }
        if self.task.protocol == "derain-y-matlab":
            values |= _over_sets(self.rows)
        return values


def _suffix(key: str) -> str:
    return key if key.startswith("_") else ""


def _renamed(values: Mapping[str, float], suffix: str) -> dict[str, float]:
    return {key + suffix: value for key, value in values.items()}


def _over_sets(rows: Sequence[Mapping]) -> dict[str, float]:
    """Means over each of Rain13K's test sets, and of those; {} of images that belong to none of them."""
    groups = {}
    for row in rows:
        groups.setdefault(row["key"].split("/")[0], []).append(row)
    if not groups.keys() <= TEST_SETS.keys():
        return {}
    values = {f"images/{name}": len(group) for name, group in groups.items()}
    for key in [key for key in rows[0] if key != "key"] if rows else ():
        means = {f"{key}/{name}": mean(row[key] for row in group) for name, group in groups.items()}
        values |= means | {key: mean(means.values())}
    return values


def metric_label(task: Task, label: Any) -> Any:
    """A source's label in the form that `task.metric().update` takes."""
    return as_panoptic(label) if isinstance(task, Instance) else label


def native_size(label: Any) -> tuple[int, int]:
    """(h, w) of a label of any task."""
    return (label[0] if isinstance(label, tuple) else label).shape[:2]


def component_tasks(task: Task) -> tuple[Task, ...]:
    """The tasks that the model paints for `task`: its components, or itself."""
    return (task.semantic, task.instance) if isinstance(task, Panoptic) else (task,)


def decode(task: Task, painted: Mapping[str, np.ndarray], sizes: Sequence[tuple[int, int]]) -> list:
    """Decodes a batch.

    Args:
      task: what to decode.
      painted: {name of a component task, or of the task itself: float32 (b, s, s, 3) in about [-1, 1]}.
      sizes: b sizes (h, w).

    Returns:
      b predictions of the task, each at its size.
    """

    def one(index: int):
        part = {name: rgb[index] for name, rgb in painted.items()}
        return task.decode(part if task.components else part[task.name], sizes[index])

    with ThreadPoolExecutor(
        min(os.cpu_count() or 1, 16)
    ) as pool:  # NumPy and OpenCV let each other run
        return list(pool.map(one, range(len(sizes))))


def finite_or_none(value: float) -> float | None:
    """JSON has neither nan nor inf: None stands for both."""
    return float(value) if math.isfinite(value) else None
