"""One task on its way through an evaluation: who predicts it, what they reach, what is shown."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from generalist.evaluation import data, panels
from generalist.evaluation.predictors import Predictor
from generalist.evaluation.record import TaskRecord
from generalist.evaluation.scores import Scores
from generalist.evaluation.submission import Submission
from generalist.input_pipeline import Example, Source
from generalist.tasks import Task


class Way(NamedTuple):
    """One way to predict a task.

    Attributes:
      task: what decodes; the task itself, or one of its variants.
      predictor: what the colors to decode come from.
    """

    task: Task
    predictor: Predictor


class Measurement:
    """The figures of one predictor on one task.

    Args:
      ways: {suffix of the figures: way}; "" is the task's own.
      scores: what takes the predictions.
    """

    def __init__(self, ways: Mapping[str, Way], scores: Scores):
        self.ways = ways
        self.scores = scores

    def update(self, examples: Sequence[Example]) -> dict[str, list[Any]]:
        """Predicts and measures a batch; returns {suffix: a prediction for each example}."""
        predictions = {
            suffix: way.predictor(way.task, examples) for suffix, way in self.ways.items()
        }
        self.scores.update(examples, predictions)
        return predictions


class Batch(NamedTuple):
    """Examples that were read together.

    Attributes:
      count: how many rows were read.
      examples: those of them that are not damaged.
    """

    count: int
    examples: list[Example]


class TaskEvaluation:
    """One task in an evaluation.

    Args:
      task: what is measured.
      source: held-out examples.
      rows: which of them are measured.
      model: the measurement of the model.
      baselines: {"trivial" or "ceiling": its measurement}, where the figures are not known.
      known: {"trivial" or "ceiling": its figures}, of an earlier evaluation.
      most_samples: how many examples the pictures show.
      submissions: {suffix of a way: the files of its predictions}; empty if none are wanted.

    Attributes:
      done: how many rows have been read.
      left_out: the damaged files, whose examples are not measured.
      samples: the examples for the pictures.
    """

    def __init__(
        self,
        task: Task,
        source: Source,
        rows: Sequence[int],
        model: Measurement,
        baselines: Mapping[str, Measurement],
        known: Mapping[str, Mapping[str, float | None]],
        most_samples: int,
        submissions: Mapping[str, Submission],
    ):
        self.task = task
        self.source = source
        self.rows = rows
        self.model = model
        self.baselines = baselines
        self.done = 0
        self.left_out: list[str] = []
        self.samples: list[panels.Sample] = []
        self._known = known
        self._most_samples = most_samples
        self._submissions = submissions

    def batches(self, batch_size: int) -> Iterator[Batch]:
        """Yields the rows that are not done; the next batch is read while this one is measured.

        Raises:
          DataError: an example is damaged and the source does not skip it.
          ValueError: an example has no image.
        """
        # A resumed evaluation begins after what is done.
        rows = self.rows[self.done :]

        def read(start: int) -> Batch:
            part = rows[start : start + batch_size]
            examples = data.read(self.source, part)
            for example in examples:
                _check_image(example, self.source.task)
            return Batch(len(part), examples)

        # One batch ahead: the device never waits for files. The last request reads nothing.
        with ThreadPoolExecutor(1) as reader:
            pending = reader.submit(read, 0)
            for start in range(0, len(rows), batch_size):
                batch = pending.result()
                pending = reader.submit(read, start + batch_size)
                yield batch

    def update(self, batch: Batch) -> None:
        """Predicts and measures a batch, and writes what is to be submitted."""
        if batch.examples:
            # The model's own way is shown; all of its ways are submitted.
            predictions = self.model.update(batch.examples)
            self._show(batch.examples, predictions[""])
            for suffix, submission in self._submissions.items():
                keys = [example["key"] for example in batch.examples]
                submission.add(keys, predictions[suffix])
            for baseline in self.baselines.values():
                baseline.update(batch.examples)

        # A resumed evaluation knows the damaged files of its first part by the saved list alone.
        self.left_out = sorted({*self.left_out, *self.source.damaged})
        self.done += batch.count

    def _show(self, examples: Sequence[Example], predictions: Sequence[Any]) -> None:
        """Draws the examples of a batch that the pictures still lack."""
        rows = self.model.scores.rows[-len(examples) :]
        for example, prediction, row in zip(examples, predictions, rows, strict=True):
            if len(self.samples) < self._most_samples:
                sample = panels.describe(self.task, example, prediction, row)
                self.samples.append(sample)

    def finish(self) -> None:
        """Completes the files of the submission."""
        for submission in self._submissions.values():
            submission.finish()

    def baseline_figures(self) -> dict[str, Mapping[str, float | None]]:
        """Returns {"trivial" or "ceiling": its figures}, those that were known and the new ones."""
        figures = dict(self._known)
        for name, baseline in self.baselines.items():
            figures[name] = baseline.scores.figures()
        return figures

    def record(self) -> TaskRecord:
        """Returns what the files of the evaluation show."""
        return TaskRecord(
            task=self.task,
            source=self.source,
            rows=self.model.scores.rows,
            left_out=self.left_out,
            samples=self.samples,
        )

    @property
    def state(self) -> dict[str, Any]:
        """What `update` has changed, as plain values."""
        return {
            "model": self.model.scores.state,
            "baselines": {name: baseline.scores.state for name, baseline in self.baselines.items()},
            "done": self.done,
            "left_out": self.left_out,
            "samples": [sample._asdict() for sample in self.samples],
            "annotations": {
                suffix: submission.annotations for suffix, submission in self._submissions.items()
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from the `state` of an earlier run with the same settings."""
        self.model.scores.restore(state["model"])
        for name, baseline in self.baselines.items():
            baseline.scores.restore(state["baselines"][name])
        self.done = state["done"]
        self.left_out = state["left_out"]
        self.samples = [panels.Sample(**sample) for sample in state["samples"]]
        for suffix, submission in self._submissions.items():
            submission.annotations = state["annotations"][suffix]


def _check_image(example: Example, task: str) -> None:
    """Raises ValueError unless an example has an image."""
    image = np.asarray(example["image"])
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Task '{task}', example {example['key']!r}: the image must be uint8 of shape "
            f"(height, width, 3), got {image.dtype} of shape {image.shape}."
        )
