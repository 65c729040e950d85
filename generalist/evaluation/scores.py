"""From predictions to official figures: what one predictor reaches on one task."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from generalist.evaluation.predictors import in_parallel
from generalist.input_pipeline import Example
from generalist.metrics import Metric
from generalist.metrics.base import mean
from generalist.tasks import FurtherMetric, Task

Row = dict[str, Any]  # {"key": str, metric: value, ...} of one image


class _Metrics(NamedTuple):
    """The metrics of predictions that were decoded in one way."""

    official: Metric
    further: tuple[FurtherMetric, ...]

    @classmethod
    def of(cls, task: Task, samples: int) -> "_Metrics":
        further = task.further_metrics()
        if samples == 1:
            further = tuple(each for each in further if not each.of_samples)
        return cls(task.metric(), further)

    def all(self) -> list[Metric]:
        return [self.official, *(further.metric for further in self.further)]

    def absorb(self, other: "_Metrics") -> None:
        for own, others in zip(self.all(), other.all(), strict=True):
            own.absorb(others)


class _Measured(NamedTuple):
    """One example: its figures, and metrics that have seen nothing else, by suffix of the way."""

    row: Row
    metrics: dict[str, _Metrics]


class Scores:
    """What one predictor reaches on one task, decoded in one way or several.

    A way is named by the suffix of its figures, see `Task.variants`; "" is the task's own.

    Args:
      task: what is measured.
      groups: if the keys of all examples begin with one of these, such as "Test100/1", the figures
        are means over the groups.
      samples: how many became each prediction.

    Attributes:
      rows: the values of each image, in the order of the updates.
    """

    def __init__(self, task: Task, groups: Sequence[str] = (), samples: int = 1):
        self._task = task
        self._groups = groups
        self._samples = samples
        self.clear()

    def clear(self) -> None:
        """Forgets all examples."""
        self.rows: list[Row] = []
        # Figures of the task's own way are there, undefined, also before the first example.
        self._metrics = {"": self._fresh()}  # by the suffix of the way

    def update(self, examples: Sequence[Example], predictions: Mapping[str, Sequence[Any]]) -> None:
        """Adds the predictions for a batch.

        Args:
          examples: the batch.
          predictions: {suffix of the way: a prediction for each example}.
        """

        def measure(index: int) -> _Measured:
            own = {suffix: batch[index] for suffix, batch in predictions.items()}
            return self._measure(examples[index], own)

        # Threads share no metric. Absorbed in the order of the examples, they leave no trace.
        for measured in in_parallel(measure, range(len(examples))):
            self.rows.append(measured.row)
            for suffix, metrics in measured.metrics.items():
                self._metrics_of(suffix).absorb(metrics)

    def _measure(self, example: Example, predictions: Mapping[str, Any]) -> _Measured:
        """Measures the predictions for one example."""
        row = {"key": example["key"]}
        # The label is the same in whatever way the task was predicted.
        label = self._task.metric_label(example["label"])

        # Every way has metrics of its own, which other ways do not touch.
        by_way = {}
        for suffix, prediction in predictions.items():
            metrics = self._fresh()
            values = self._task.label_of(prediction)
            row |= _renamed(metrics.official.update(values, label), suffix)
            for further in metrics.further:
                taken = (values, getattr(prediction, further.takes)) if further.takes else values
                row |= _renamed(further.metric.update(taken, label), further.suffix + suffix)
            by_way[suffix] = metrics
        return _Measured(row, by_way)

    def compute(self) -> dict[str, float]:
        """Returns the figures over everything so far; nan = undefined.

        They include those of `Task.class_figures`, such as `iou/<class>`. For examples in groups
        there are `psnr/<group>` (and so on) and `images/<group>`, how many, and `psnr` is the mean
        over the groups: a small group counts as much as a large one.
        """
        figures = {}
        for suffix, metrics in self._metrics.items():
            figures |= _renamed(metrics.official.compute(), suffix)
            for further in metrics.further:
                figures |= _renamed(further.metric.compute(), further.suffix + suffix)

        # Classes and groups count for the task's own way; groups replace the plain means.
        figures |= self._task.class_figures(self._metrics[""].official)
        figures |= _over_groups(self.rows, self._groups)
        return figures

    def figures(self) -> dict[str, float | None]:
        """Returns the figures as JSON has them: None for nan and inf."""
        return {key: finite_or_none(value) for key, value in self.compute().items()}

    @property
    def state(self) -> dict[str, Any]:
        """What `update` has gathered, as plain values."""
        gathered = {}
        for suffix, metrics in self._metrics.items():
            gathered[suffix] = [metric.state() for metric in metrics.all()]
        return {"rows": self.rows, "metrics": gathered}

    def absorb(self, state: Mapping[str, Any]) -> None:
        """Adds the `state` of an earlier run, or of another process."""
        self.rows += state["rows"]
        for suffix, gathered in state["metrics"].items():
            metrics = self._fresh()
            for metric, values in zip(metrics.all(), gathered, strict=True):
                metric.restore(values)
            self._metrics_of(suffix).absorb(metrics)

    def reorder(self, order: Sequence[int]) -> None:
        """Puts the rows into another order; `order` has the index of each."""
        self.rows = [self.rows[index] for index in order]

    def _metrics_of(self, suffix: str) -> _Metrics:
        if suffix not in self._metrics:
            self._metrics[suffix] = self._fresh()
        return self._metrics[suffix]

    def _fresh(self) -> _Metrics:
        return _Metrics.of(self._task, self._samples)


def _renamed(values: Mapping[str, float], suffix: str) -> dict[str, float]:
    return {key + suffix: value for key, value in values.items()}


def _over_groups(rows: Sequence[Row], groups: Sequence[str]) -> dict[str, float]:
    """Returns the means over each group, and over those; {} if an example is in no group."""
    # A group is the first part of a key.
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row["key"].split("/")[0], []).append(row)
    if not by_group or not by_group.keys() <= set(groups):
        return {}

    # The mean over groups takes the place of the mean over images.
    figures = {f"images/{name}": len(group) for name, group in by_group.items()}
    for key in rows[0]:
        if key == "key":
            continue
        means = {name: mean(row[key] for row in group) for name, group in by_group.items()}
        figures |= {f"{key}/{name}": value for name, value in means.items()}
        figures[key] = mean(means.values())
    return figures


def finite_or_none(value: float) -> float | None:
    """Returns None for nan and inf, which JSON has not."""
    return float(value) if math.isfinite(value) else None
