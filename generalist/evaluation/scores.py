"""From painted colours to official numbers: decoding at the labels' own sizes, and one predictor's figures on one task."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from generalist.tasks import Instance, Panoptic, Semantic, Task
from generalist.tasks.instance import as_panoptic

Example = Mapping[str, Any]
# (task, examples of one batch) -> the task's prediction for each, at the size of its label.
Predictor = Callable[[Task, Sequence[Example]], list]


class Scores:
    """What one predictor reaches on one task.

    Attributes:
      metric: the task's official metric over everything seen so far.
      rows: {"key": str, metric: value, ...} of each image, in the order of the updates.
    """

    def __init__(self, task: Task):
        self.task, self.metric, self.rows = task, task.metric(), []

    def update(self, examples: Sequence[Example], predictions: Sequence) -> None:
        """Adds the predictions for a batch of examples."""
        for example, prediction in zip(examples, predictions, strict=True):
            values = self.metric.update(self.task.label_of(prediction), metric_label(self.task, example["label"]))
            self.rows.append({"key": example["key"], **values})

    def compute(self) -> dict[str, float]:
        """The metric's values, `iou/<class>` of a semantic task and `pq/<class>` of a panoptic one; nan = undefined."""
        values = self.metric.compute()
        if isinstance(self.task, Semantic):
            per_class = self.metric.per_class()
            values |= {f"iou/{name}": per_class[index] for index, name in enumerate(self.task.classes)}
        if isinstance(self.task, Panoptic):
            per_class = self.metric.per_class()
            values |= {f"pq/{category['name']}": per_class[category["id"]]["pq"] for category in self.task.categories}
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
      sizes: b sizes (h, w); neighbours of one size are decoded together.

    Returns:
      b predictions of the task, each at its size.
    """
    predictions = []
    for size, run in itertools.groupby(range(len(sizes)), sizes.__getitem__):
        run = list(run)
        part = {name: rgb[run[0]:run[-1] + 1] for name, rgb in painted.items()}
        predictions += task.decode_batch(part if task.components else part[task.name], size)
    return predictions


def finite_or_none(value: float) -> float | None:
    """JSON has neither nan nor inf: None stands for both."""
    return float(value) if math.isfinite(value) else None
