"""One task on its way through an evaluation: who predicts it, what they reach, what is shown."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from generalist.evaluation import panels
from generalist.evaluation.batches import Batch
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
      done: how many rows all processes have read.
      left_out: the damaged files, whose examples are not measured.
      samples: {place of its row: example for the pictures}.
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
        self.samples: dict[int, panels.Sample] = {}
        self._places: list[int] = []  # of the rows that the scores have
        self._drawn = 0
        self._known = known
        self._most_samples = most_samples
        self._submissions = submissions

    def update(self, batch: Batch) -> None:
        """Predicts and measures a batch, and writes what is to be submitted."""
        # A process that has no example of the batch samples those of the others with them.
        if batch.total:
            predictions = self.model.update(batch.examples)
            # The model's own way is shown; all of its ways are submitted.
            self._show(batch, predictions[""])
            keys = [example["key"] for example in batch.examples]
            for suffix, submission in self._submissions.items():
                submission.add(keys, predictions[suffix])
        if batch.examples:
            self._places += batch.places
            for baseline in self.baselines.values():
                baseline.update(batch.examples)

        # A resumed evaluation knows the damaged files of its first part by the saved list alone.
        self.left_out = sorted({*self.left_out, *self.source.damaged})
        self.done += batch.count

    def _show(self, batch: Batch, predictions: Sequence[Any]) -> None:
        """Draws the examples of a batch that the pictures may still lack."""
        rows = self.model.scores.rows[len(self.model.scores.rows) - len(predictions) :]
        for place, example, prediction, row in zip(
            batch.places, batch.examples, predictions, rows, strict=True
        ):
            if self._drawn < self._most_samples:
                self.samples[place] = panels.describe(self.task, example, prediction, row)
                self._drawn += 1

    def finish(self) -> None:
        """Puts the examples into the order of their rows, and completes the submission."""
        order = np.argsort(self._places).tolist()
        self._places = [self._places[index] for index in order]
        for measurement in (self.model, *self.baselines.values()):
            measurement.scores.reorder(order)

        for submission in self._submissions.values():
            submission.annotations = [submission.annotations[index] for index in order]
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
            samples=[self.samples[place] for place in sorted(self.samples)],
        )

    @property
    def seconds(self) -> list[float]:
        """Seconds an image of the task's own way, of each batch."""
        return self.model.ways[""].predictor.seconds.setdefault(self.task, [])

    @property
    def state(self) -> dict[str, Any]:
        """What `update` has gathered, as plain values."""
        return {
            "model": self.model.scores.state,
            "baselines": {name: baseline.scores.state for name, baseline in self.baselines.items()},
            "places": self._places,
            "left_out": self.left_out,
            "samples": [[place, sample._asdict()] for place, sample in self.samples.items()],
            "annotations": {
                suffix: submission.annotations for suffix, submission in self._submissions.items()
            },
        }

    def absorb(self, state: Mapping[str, Any]) -> None:
        """Adds the `state` of another process, or of an earlier run with the same settings."""
        self.model.scores.absorb(state["model"])
        for name, baseline in self.baselines.items():
            baseline.scores.absorb(state["baselines"][name])
        for suffix, submission in self._submissions.items():
            submission.annotations += state["annotations"][suffix]
        self._places += state["places"]
        self.left_out = sorted({*self.left_out, *state["left_out"]})

        # The pictures show the first examples, whoever has measured them.
        for place, sample in state["samples"]:
            self.samples[place] = panels.Sample(**sample)
        shown = sorted(self.samples)[: self._most_samples]
        self.samples = {place: self.samples[place] for place in shown}
        self._drawn = max(self._drawn, len(shown))

    def clear(self) -> None:
        """Forgets what `state` has given to another process."""
        for measurement in (self.model, *self.baselines.values()):
            measurement.scores.clear()
        for submission in self._submissions.values():
            submission.annotations = []
        self._places = []
        self.samples = {}
