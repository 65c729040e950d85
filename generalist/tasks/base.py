"""What every task shares: the target of an encoding, shape and range checks, resizing and the codec's version.

Colours have two scales here: the model's, float32 in [-1, 1], and levels, float32 in [0, 255], in which palettes and
thresholds are stated. Neither is ever rounded to 8 bits.
"""

import abc
import dataclasses
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import cv2
import numpy as np

from generalist.tasks.drawing import Legend

Size = int | tuple[int, int]


class Target(NamedTuple):
    """What the model learns to paint for one image.

    Attributes:
      rgb: float32 (h, w, 3) in [-1, 1].
      mask: float32 (h, w, 1) in {0, 1}; the loss counts only where it is 1.
    """

    rgb: np.ndarray
    mask: np.ndarray


class FurtherMetric(NamedTuple):
    """A metric beside the official one.

    Attributes:
      suffix: appended to the names of its figures, to set them apart from the official ones ("_affine"); "" if they
        have names of their own.
      metric: fresh, see `generalist.metrics`.
      takes_confidence: whether `metric.update` takes (prediction, confidence) in place of the prediction.
    """

    suffix: str
    metric: Any
    takes_confidence: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """A dense task: a codec between labels and colours, a prompt and a metric.

    A subclass defines `encode`, `decode`, `metric`, `label_of`, `render`, `error_map` and `submission_pixels`; the
    rest has defaults.

    Attributes:
      name: key of the task in configs, reports and checkpoints.
      prompt: the text that tells the model what to do.
      protocol: id of the official evaluation protocol that `metric` follows.
      version: version of the codec; a checkpoint is decoded by the version it was trained with.
      averages_samples: whether the colors are quantities, so that the mean of several samples is a prediction too.
      prefers_tiles: whether large images are better predicted in tiles, at their own resolution.
      jitters_color: whether training may change the colors of the image and leave the label as it is.
      trivial_learns: whether `trivial_rgb` needs labels of the training split.
    """

    name: str
    prompt: str
    protocol: str
    version: int = 1

    averages_samples: ClassVar[bool] = False
    prefers_tiles: ClassVar[bool] = False
    jitters_color: ClassVar[bool] = True
    trivial_learns: ClassVar[bool] = True

    # Codec ----------------------------------------------------------------------------------------

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the tasks whose outputs this one merges; empty for a task that the model paints itself."""
        return ()

    @property
    def component_tasks(self) -> tuple["Task", ...]:
        """The tasks that the model paints for this one: the task itself, unless it merges others."""
        return (self,)

    @property
    def palette(self) -> np.ndarray | None:
        """float32 (classes, 3) in 0..255, the colors of classes; None if colors are something else."""
        return None

    @abc.abstractmethod
    def encode(self, label: Any, size: Size) -> Target:
        """Label -> what the model paints, at `size` = s or (h, w)."""

    @abc.abstractmethod
    def decode(self, rgb: np.ndarray, size: Size | None = None) -> Any:
        """float32 (h, w, 3) in [-1, 1] -> the task's prediction, at `size` (default: the size of `rgb`)."""

    def component_labels(self, label: Any) -> dict[str, Any]:
        """Returns the label of each component task, by name."""
        return {self.name: label}

    def encode_components(self, label: Any, size: Size) -> dict[str, Target]:
        """Encodes a label for each component task, by name."""
        return {self.name: self.encode(label, size)}

    def decode_components(self, rgbs: Mapping[str, np.ndarray], size: Size | None = None) -> Any:
        """Decodes what the model painted for each component task, by name."""
        return self.decode(rgbs[self.name], size)

    def variants(self) -> dict[str, "Task"]:
        """Returns other ways to decode the same colors, by the suffix of their figures ("_painter")."""
        return {}

    # Figures --------------------------------------------------------------------------------------

    @abc.abstractmethod
    def metric(self) -> Any:
        """Returns a fresh official metric of the task (see `generalist.metrics`)."""

    def metric_label(self, label: Any) -> Any:
        """Returns a label as `metric().update(prediction, label)` takes it."""
        return label

    @abc.abstractmethod
    def label_of(self, prediction: Any) -> Any:
        """Returns the part of a prediction that `metric().update(prediction, label)` takes."""

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

    # The trivial predictor --------------------------------------------------------------------------

    def trivial_rgb(self, labels: Iterable[Any], size: tuple[int, int]) -> np.ndarray:
        """Returns the best guess for an image that nobody looked at, made from labels of the training split.

        By default it is the mean target of each pixel over the labels that are valid there, and elsewhere the mean
        of all.

        Args:
          labels: of training examples.
          size: (h, w) of the guess.

        Returns:
          float32 (*size, 3) in [-1, 1].
        """
        total = np.zeros((*size, 3))
        count = np.zeros((*size, 1))
        for label in labels:
            rgb, mask = self.encode(label, size)
            total += rgb * mask
            count += mask

        overall = total.sum((0, 1)) / max(count.sum(), 1.0)
        mean = total / np.maximum(count, 1.0)
        return np.where(count > 0, mean, overall).astype(np.float32)

    def trivial_prediction(
        self, image: np.ndarray, rgbs: Mapping[str, np.ndarray], size: Size | None = None
    ) -> Any:
        """Returns the prediction of the trivial predictor.

        Args:
          image: uint8 (h, w, 3); only restoration looks at it.
          rgbs: `trivial_rgb` of each component task, by name.
          size: of the prediction.
        """
        return self.decode_components(rgbs, size)

    # Samples ----------------------------------------------------------------------------------------

    def sample_std(self, predictions: Sequence[Any]) -> np.ndarray:
        """Returns the standard deviation of several predictions of one image, float32 (h, w), in the task's unit.

        Only for tasks that average samples.
        """
        values = np.stack([self.label_of(prediction) for prediction in predictions])
        return values.astype(np.float32).std(0)

    # Pictures and files -----------------------------------------------------------------------------

    @abc.abstractmethod
    def render(self, prediction_or_label: Any) -> np.ndarray:
        """Draws a picture for people, uint8 (h, w, 3)."""

    def legend(self, labels: Sequence[Any] | None = None) -> Legend:
        """Explains the colors of `render`.

        Args:
          labels: of the classes, list only those that occur in these labels; None lists all.
        """
        return Legend()

    @abc.abstractmethod
    def error_map(self, prediction: Any, label: Any) -> np.ndarray:
        """Draws where a prediction differs from the label, uint8 (h, w, 3)."""

    def error_legend(self) -> Legend:
        """Explains the colors of `error_map`."""
        return Legend()

    @abc.abstractmethod
    def submission_pixels(self, prediction: Any) -> np.ndarray:
        """Returns a prediction as the benchmark takes it: uint8 (h, w), uint8 (h, w, 3) or uint16 (h, w).

        Raises:
          ValueError: a value does not fit.
        """

    def submission_annotation(self, key: str, prediction: Any) -> dict | None:
        """Returns what the benchmark wants to know of an image beside its pixels, as JSON; None if nothing."""
        return None

    def submission_index(self, annotations: Sequence[dict]) -> dict:
        """Returns the content of the file that holds all annotations of a submission, as JSON."""
        return {"annotations": list(annotations)}

    # Checkpoints ------------------------------------------------------------------------------------

    def check_version(self, saved: int) -> None:
        """Raises ValueError if a checkpoint was trained with another version of this codec."""
        if saved != self.version:
            raise ValueError(
                f"Task '{self.name}': the checkpoint was trained with codec version {saved}, this is "
                f"version {self.version}. Decode it with the release that wrote it, or train again."
            )


class Runs(NamedTuple):
    """A map as runs of equal pixels, row after row: its segments are areas, so that runs are some fifty times fewer than pixels.

    Attributes:
      values: (n,) of the map.
      starts: int (n,), positions of their first pixels in the flat map; every row begins a run.
      lengths: int (n,), pixels.
    """

    values: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def find_runs(array: np.ndarray) -> Runs:
    """(h, w) of any dtype -> its runs."""
    first = np.ones(array.shape, bool)
    np.not_equal(array[:, 1:], array[:, :-1], out=first[:, 1:])
    starts = np.flatnonzero(first)
    return Runs(array.ravel()[starts], starts, np.diff(starts, append=array.size))


def to_size(size: Size) -> tuple[int, int]:
    """S or (h, w) -> (h, w); raises ValueError for anything that is not one or two positive integers."""
    pair = (size, size) if isinstance(size, numbers.Integral) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, numbers.Integral) and n > 0 for n in pair):
        raise ValueError(
            f"size must be a positive integer or a pair (height, width) of them, got {size!r}."
        )
    return int(pair[0]), int(pair[1])


def check_image(task: str, image: np.ndarray, dtype: type) -> np.ndarray:
    """`image` as an array; raises ValueError unless it is a non-empty (h, w, 3) of `dtype` (any float for float32)."""
    image = np.asarray(image)
    kind_fits = image.dtype.kind == "f" if dtype is np.float32 else image.dtype == dtype
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape or not kind_fits:
        raise ValueError(
            f"Task '{task}': expected a {np.dtype(dtype).name} array of shape (height, width, 3), "
            f"got {image.dtype} of shape {image.shape}."
        )
    return image


def check_map(task: str, label: np.ndarray, kinds: str, what: str) -> np.ndarray:
    """`label` as an array; raises ValueError unless it is a non-empty (h, w) of one of NumPy's dtype `kinds`."""
    label = np.asarray(label)
    if label.ndim != 2 or label.size == 0 or label.dtype.kind not in kinds:
        raise ValueError(
            f"Task '{task}': the label must be {what} of shape (height, width), "
            f"got {label.dtype} of shape {label.shape}."
        )
    return label


def check_range(task: str, label: np.ndarray, low: int, high: float, meaning: str) -> None:
    """Raises ValueError naming the first extreme value of `label` that lies outside low..high (inclusive)."""
    for value in (label.min(), label.max()):
        if not low <= value <= high:
            raise ValueError(
                f"Task '{task}': label value {value} is outside {low}..{high} ({meaning})."
            )


def to_levels(task: str, rgb: np.ndarray) -> np.ndarray:
    """What the model painted, float (h, w, 3) in [-1, 1], as float32 levels, clipped to [0, 255]."""
    rgb = check_image(task, rgb, np.float32)
    return np.clip((rgb.astype(np.float32) + 1.0) * 127.5, 0.0, 255.0)


def from_levels(levels: np.ndarray) -> np.ndarray:
    """Levels in [0, 255] -> float32 in [-1, 1]."""
    return (levels / 127.5 - 1.0).astype(np.float32)


def resize_nearest(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w, ...) of any dtype -> (*size, ...): each output pixel takes the input pixel that contains its centre."""
    height, width = array.shape[:2]
    if (height, width) == size:
        return array
    rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
    return array[rows][:, columns]


def resize_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bool (n, h, w) -> (n, *size), each pixel as in `resize_nearest`."""
    if masks.shape[1:] == size:
        return masks
    return np.moveaxis(resize_nearest(np.moveaxis(masks, 0, -1), size), -1, 0)


def resize_area(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 (h, w[, c]) -> mean over the area of each output pixel; exact where both axes shrink or stay."""
    return _resize(array, size, cv2.INTER_AREA)


def resize_bilinear(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 (h, w[, c]) -> bilinear between pixel centres, without anti-aliasing (as Painter resizes predictions)."""
    return _resize(array, size, cv2.INTER_LINEAR)


def resize_valid(
    values: np.ndarray, valid: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the valid pixels of each output pixel's area, or nearest where an axis grows; invalid where none is.

    `values` must be 0 where they are not valid. Returns values float32 `size`, 0 where invalid, and valid bool `size`.
    """
    if size[0] > values.shape[0] or size[1] > values.shape[1] or size == values.shape:
        return resize_nearest(values, size), resize_nearest(valid, size)
    weight = resize_area(valid.astype(np.float32), size)
    mean = resize_area(values, size) / np.maximum(weight, 1e-6)
    valid = weight > 1e-6
    return np.where(valid, mean, 0.0).astype(np.float32), valid


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 or float32 (h, w[, c]) -> area mean along axes that shrink, then bicubic along those that grow; bicubic of floats may overshoot.

    Up to a factor of 4 the mean is that of 2 x 2 points, bilinear between pixels: exact for factors of 1, 2 and 4, between them nearer to
    the mean of the area than Pillow's bicubic is, and twice as fast as OpenCV's exact mean.
    """
    smaller = tuple(map(min, image.shape, size))
    if all(old <= 4 * new for old, new in zip(image.shape, smaller)):
        image = resize_bilinear(
            image, tuple(new if old == new else 2 * new for old, new in zip(image.shape, smaller))
        )
    return _resize(_resize(image, smaller, cv2.INTER_AREA), size, cv2.INTER_CUBIC)


def _resize(array: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    if array.shape[:2] == size:
        return array
    return cv2.resize(array, size[::-1], interpolation=interpolation)


def to_unsigned(values: np.ndarray, dtype: type, what: str) -> np.ndarray:
    """Returns whole numbers as uint8 or uint16; raises ValueError for those that do not fit."""
    if not 0 <= values.min() <= values.max() <= np.iinfo(dtype).max:
        raise ValueError(
            f"{what} {values.min():.0f}..{values.max():.0f} do not fit {np.iinfo(dtype).bits} bits"
        )
    return values.astype(dtype)
