"""What every task shares: the target of an encoding, shape and range checks, resizing and the codec's version.

Colours have two scales here: the model's, float32 in [-1, 1], and levels, float32 in [0, 255], in which palettes and
thresholds are stated. Neither is ever rounded to 8 bits.
"""

import abc
import dataclasses
import numbers
from typing import Any, NamedTuple

import cv2
import numpy as np

Size = int | tuple[int, int]


class Target(NamedTuple):
    """What the model learns to paint for one image.

    Attributes:
      rgb: float32 (h, w, 3) in [-1, 1].
      mask: float32 (h, w, 1) in {0, 1}; the loss counts only where it is 1.
    """

    rgb: np.ndarray
    mask: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """A dense task: a codec between labels and colours, a prompt and a metric.

    Attributes:
      name: key of the task in configs, reports and checkpoints.
      prompt: the text that tells the model what to do.
      protocol: id of the official evaluation protocol that `metric` follows.
      version: version of the codec; a checkpoint is decoded by the version it was trained with.
    """

    name: str
    prompt: str
    protocol: str
    version: int = 1

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the tasks whose outputs this one merges; empty for a task that the model paints itself."""
        return ()

    @abc.abstractmethod
    def encode(self, label: Any, size: Size) -> Target:
        """Label -> what the model paints, at `size` = s or (h, w)."""

    @abc.abstractmethod
    def decode(self, rgb: np.ndarray, size: Size | None = None) -> Any:
        """float32 (h, w, 3) in [-1, 1] -> the task's prediction, at `size` (default: the size of `rgb`)."""

    @abc.abstractmethod
    def metric(self) -> Any:
        """A fresh official metric of the task (see `generalist.metrics`)."""

    @abc.abstractmethod
    def label_of(self, prediction: Any) -> Any:
        """The part of a prediction that `metric().update(prediction, label)` takes."""

    @abc.abstractmethod
    def render(self, prediction_or_label: Any) -> np.ndarray:
        """A picture for people, uint8 (h, w, 3)."""

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
