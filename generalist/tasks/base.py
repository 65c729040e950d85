"""The contracts of a dense task: `Task`, its `Target` and its `Prediction`."""

import abc
import dataclasses
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from generalist.files import write_atomically
from generalist.pictures import encode_png
from generalist.tasks.arrays import Size, encode_npy
from generalist.tasks.drawing import Legend


class Target(NamedTuple):
    """What the model learns to paint for one image.

    Attributes:
      rgb: colors in [-1, 1].
      mask: 0 or 1; the loss counts only pixels where it is 1.
    """

    rgb: Float32[np.ndarray, "h w 3"]
    mask: Float32[np.ndarray, "h w 1"]


class FurtherMetric(NamedTuple):
    """A metric beside the official one.

    Attributes:
      suffix: appended to the names of its figures, to set them apart from the official ones
        ("_affine"); "" if they have names of their own.
      metric: fresh, see `generalist.metrics`.
      takes: what `metric.update` takes beside the prediction, as a pair: "confidence" or
        "certainty" of `Prediction`; "" if nothing.
      of_samples: whether it is measured only where several samples became one prediction.
    """

    suffix: str
    metric: Any
    takes: str = ""
    of_samples: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction(abc.ABC):
    """What a task predicts for one image. Every task has a subclass with its own fields.

    Attributes:
      decoded_by: the task that decoded it.
      confidence: in [0, 1], how cleanly the task could read the colors; no calibrated probability.
      uncertainty: of quantities the standard deviation of the samples in the unit of the task
        (meters; levels of 0..255, mean of the channels); of classes and segments the share of the
        samples that say otherwise, in [0, 1]. None for a single sample.
      suffixes: of the files that `save` can write.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".png",)

    decoded_by: "Task"
    confidence: Float32[np.ndarray, "h w"]
    uncertainty: Float32[np.ndarray, "h w"] | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.decoded_by.name

    @property
    def certainty(self) -> Float32[np.ndarray, "h w"]:
        """How sure each pixel is, on any scale: minus the uncertainty, else the confidence."""
        return self.confidence if self.uncertainty is None else -self.uncertainty

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draws a picture for people."""
        return self.decoded_by.render(self)

    def save(self, path: str | os.PathLike) -> list[pathlib.Path]:
        """Writes the prediction in the format of the suffix; creates missing folders.

        Returns:
          The files written.

        Raises:
          ValueError: the task has no format of that suffix, or a value does not fit the format.
        """
        path = pathlib.Path(path)
        if path.suffix.lower() not in self.suffixes:
            allowed = " or ".join(self.suffixes)
            raise ValueError(
                f"{path}: a prediction of task '{self.task}' is saved as {allowed}, "
                f"not {path.suffix!r}"
            )

        # All contents first: a value that does not fit must not leave half of the files behind.
        try:
            files = self.files(path)
        except ValueError as error:
            raise ValueError(f"{path}: {error}; save the array with numpy.save") from error

        for file, content in files.items():
            write_atomically(file, content)
        return list(files)

    def files(self, path: pathlib.Path) -> dict[pathlib.Path, bytes]:
        """Returns the content of each file that `save(path)` writes."""
        if path.suffix.lower() == ".npy":
            return {path: encode_npy(self.decoded_by.label_of(self))}
        return {path: encode_png(self.pixels())}

    @abc.abstractmethod
    def pixels(self) -> Shaped[np.ndarray, "h w *c"]:
        """Returns what the PNG holds: uint8 (h, w), uint8 (h, w, 3) or uint16 (h, w).

        Raises:
          ValueError: a value does not fit.
        """

    def __repr__(self) -> str:
        height, width = self.confidence.shape
        return f"{type(self).__name__}(task={self.task!r}, height={height}, width={width})"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """A dense task: a codec between labels and colors, a prompt and a metric.

    A subclass defines `encode`, `decode`, `metric`, `label_of`, `render` and `error_map`; the rest
    has defaults. Labels are whatever the sources of the task yield, see the subclass. `encode` and
    `decode` check their arguments themselves, so that the message names the task.

    Attributes:
      name: key of the task in configs, reports and checkpoints.
      prompt: the text that tells the model which task to do, where an example has no other.
      protocol: id of the official evaluation protocol that `metric` follows.
      version: of the codec; a checkpoint is decoded by the version it was trained with.
      own_prompts: whether examples may have prompts of their own (`example["prompt"]`).
      sees_image: whether the model is shown the image; else the prompt is all that it knows.
      averages_samples: whether colors are quantities, so that the mean of several samples is a
        prediction too.
      votes_on_samples: whether several samples become one prediction by `vote`.
      jitters_color: whether training may change the colors of the image but not the label.
      trivial_learns: whether `trivial_rgb` needs labels of the training split.
    """

    name: str
    prompt: str
    protocol: str
    version: int = 1
    own_prompts: bool = False

    sees_image: ClassVar[bool] = True
    averages_samples: ClassVar[bool] = False
    votes_on_samples: ClassVar[bool] = False
    jitters_color: ClassVar[bool] = True
    trivial_learns: ClassVar[bool] = True

    def check_version(self, saved: int) -> None:
        """Raises ValueError if a checkpoint was trained with another version of this codec."""
        if saved != self.version:
            raise ValueError(
                f"Task '{self.name}': the checkpoint was trained with codec version {saved}, this "
                f"is version {self.version}. Decode it with the release that wrote it, or train "
                "again."
            )

    def prompt_of(self, example: Mapping[str, Any]) -> str:
        """Returns the prompt of an example: its own where the task takes one, else the task's."""
        return example.get("prompt", self.prompt) if self.own_prompts else self.prompt

    # Codec ----------------------------------------------------------------------------------------

    @abc.abstractmethod
    def encode(self, label: Any, size: Size) -> Target:
        """Encodes a label as what the model should paint, at `size`."""

    @abc.abstractmethod
    def decode(self, rgb: np.ndarray, size: Size | None = None) -> Prediction:
        """Decodes what the model painted.

        Args:
          rgb: float (h, w, 3) in [-1, 1].
          size: of the prediction; None takes that of `rgb`.
        """

    @property
    def palette(self) -> Float32[np.ndarray, "classes 3"] | None:
        """The colors of classes, in 0..255; None if colors are something else."""
        return None

    def variants(self) -> Mapping[str, "Task"]:
        """Returns other ways to decode the same colors, by the suffix of their figures."""
        return {}

    @property
    def prefers_tiles(self) -> bool:
        """Whether large images are better predicted in tiles at their own resolution.

        Training then shows windows of that scale, too.
        """
        return False

    # Components: what the model paints for a task that merges others ------------------------------

    @property
    def component_tasks(self) -> tuple["Task", ...]:
        """The tasks that the model paints for this one: the task itself, or those it merges."""
        return (self,)

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the tasks that this one merges; empty if the model paints it itself."""
        return ()

    def component_labels(self, label: Any) -> dict[str, Any]:
        """Returns the label of each component task, by name."""
        return {self.name: label}

    def encode_components(self, label: Any, size: Size) -> dict[str, Target]:
        """Encodes a label for each component task, by name."""
        labels = self.component_labels(label)
        return {task.name: task.encode(labels[task.name], size) for task in self.component_tasks}

    def decode_components(
        self, rgbs: Mapping[str, np.ndarray], size: Size | None = None
    ) -> Prediction:
        """Decodes what the model painted for each component task, by name."""
        return self.decode(rgbs[self.name], size)

    # Samples --------------------------------------------------------------------------------------

    @property
    def combines_samples(self) -> bool:
        """Whether several samples become one prediction, by their mean or by a vote."""
        return self.averages_samples or self.votes_on_samples

    def decode_samples(
        self,
        rgbs: Mapping[str, Float32[np.ndarray, "n h w 3"]],
        size: Size | None = None,
        samples: int = 1,
    ) -> Prediction:
        """Decodes several samples of one image: their mean, or what they vote for.

        Args:
          rgbs: what the model painted for each component task, by name; n is 1 where all samples
            are equal.
          size: of the prediction.
          samples: how many were asked for; with more than one, the prediction has `uncertainty`.
        """
        names = [task.name for task in self.component_tasks]
        mean = {name: rgbs[name].mean(0) for name in names}
        if samples == 1:
            return self.decode_components(mean, size)

        # The uncertainty is of decoded values, in the unit of the task, not of colors.
        singles = []
        for index in range(len(rgbs[names[0]])):
            sample = {name: rgbs[name][index] for name in names}
            singles.append(self.decode_components(sample, size))

        # Colors that stand for classes or places have no mean.
        if self.votes_on_samples:
            return self.vote(singles)
        prediction = self.decode_components(mean, size)
        return dataclasses.replace(prediction, uncertainty=self.sample_std(singles))

    def vote(self, predictions: Sequence[Any]) -> Prediction:
        """Returns what several predictions of one image say together.

        Its confidence is the share of them that say so, its uncertainty the rest. Only for tasks
        that vote on samples.
        """
        raise NotImplementedError(f"task '{self.name}' does not vote")

    def sample_std(self, predictions: Sequence[Any]) -> Float32[np.ndarray, "h w"]:
        """Returns the standard deviation of predictions of one image, in the task's unit.

        Only for tasks that average samples.
        """
        values = np.stack([self.label_of(prediction) for prediction in predictions])
        return values.astype(np.float32).std(0)

    # Figures --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def metric(self) -> Any:
        """Returns a fresh official metric of the task (see `generalist.metrics`)."""

    @abc.abstractmethod
    def label_of(self, prediction: Any) -> Any:
        """Returns the part of a prediction that `metric().update(prediction, label)` takes."""

    def metric_label(self, label: Any) -> Any:
        """Returns a label as `metric().update(prediction, label)` takes it."""
        return label

    def further_metrics(self) -> tuple[FurtherMetric, ...]:
        """Returns fresh metrics beside the official one."""
        return ()

    def class_figures(self, metric: Any) -> dict[str, float]:
        """Returns a figure a class, such as {"iou/floor": 0.9}, from the official metric."""
        return {}

    def official(self, other: "Task") -> Self:
        """Returns this task, measured by the protocol of `other`.

        Raises:
          ValueError: the classes of `other` are not those of this task.
        """
        return dataclasses.replace(self, protocol=other.protocol)

    # The trivial predictor, which never looks at the image -------------------------------------

    def trivial_rgb(
        self, labels: Iterable[Any], size: tuple[int, int]
    ) -> Float32[np.ndarray, "h w 3"]:
        """Returns the best guess for an image that nobody looked at.

        By default it is the mean target of each pixel over the labels that are valid there, and the
        mean of all where none is.

        Args:
          labels: of examples of the training split.
          size: (h, w) of the guess.
        """
        total = np.zeros((*size, 3))
        count = np.zeros((*size, 1))
        for label in labels:
            rgb, mask = self.encode(label, size)
            total += rgb * mask
            count += mask

        # Pixels that are valid in no label take the mean of all.
        overall = total.sum((0, 1)) / max(count.sum(), 1.0)
        mean = total / np.maximum(count, 1.0)
        return np.where(count > 0, mean, overall).astype(np.float32)

    def trivial_prediction(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        rgbs: Mapping[str, np.ndarray],
        size: Size | None = None,
    ) -> Prediction:
        """Returns the prediction of the trivial predictor.

        Args:
          image: only restoration, which returns it unchanged, looks at it.
          rgbs: `trivial_rgb` of each component task, by name.
          size: of the prediction.
        """
        return self.decode_components(rgbs, size)

    # Pictures -------------------------------------------------------------------------------------

    @abc.abstractmethod
    def render(self, prediction_or_label: Any) -> UInt8[np.ndarray, "h w 3"]:
        """Draws a picture for people."""

    def legend(self, labels: Sequence[Any] | None = None) -> Legend:
        """Explains the colors of `render`.

        Args:
          labels: of the classes, list only those that occur in these labels; None lists all.
        """
        return Legend()

    @abc.abstractmethod
    def error_map(self, prediction: Any, label: Any) -> UInt8[np.ndarray, "h w 3"]:
        """Draws where a prediction differs from the label."""

    def error_legend(self) -> Legend:
        """Explains the colors of `error_map`."""
        return Legend()

    # Submissions to a benchmark -------------------------------------------------------------------

    def submission_pixels(self, prediction: Any) -> Shaped[np.ndarray, "h w *c"]:
        """Returns the PNG of a prediction as the benchmark takes it, see `Prediction.pixels`.

        Raises:
          ValueError: a value does not fit.
        """
        return prediction.pixels()

    def submission_annotation(self, key: str, prediction: Any) -> dict | None:
        """Returns what the benchmark takes of an image beside its PNG, as JSON; None if nothing."""
        return None

    def submission_index(self, annotations: Sequence[dict]) -> dict:
        """Returns the content of the file that holds all annotations, as JSON."""
        return {"annotations": list(annotations)}


def check_samples(tasks: Iterable[Task], samples: int) -> None:
    """Checks how many samples of each task are asked for.

    Raises:
      ValueError: fewer than 1, or more than 1 of a task whose samples do not become one answer.
    """
    if samples < 1:
        raise ValueError(f"samples is {samples}; give 1 or more")

    apart = [task.name for task in tasks if not task.combines_samples]
    if samples > 1 and apart:
        raise ValueError(
            f"samples={samples} become one answer, by their mean or a vote, which those of "
            f"{', '.join(apart)} do not: predict it with samples=1, once for each seed"
        )
