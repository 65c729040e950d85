"""What codecs do to arrays: checks, resizing, levels, and the bytes of files.

Colors have two scales here: the model's, float32 in [-1, 1], and levels, float32 in [0, 255], in
which palettes and thresholds are stated. Neither is ever rounded to 8 bits.
"""

import io
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped, UInt8

# A side in pixels, or (height, width).
Size = int | tuple[int, int]


def to_size(size: Any) -> tuple[int, int]:
    """Returns a `Size` as (height, width).

    Raises:
      ValueError: it is not one or two positive integers.
    """
    pair = (size, size) if isinstance(size, int | np.integer) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in pair):
        raise ValueError(
            f"size must be a positive integer or a pair (height, width) of them, got {size!r}."
        )
    return int(pair[0]), int(pair[1])


# Checks: of what users pass, so that the message names the task ----------------------------------


def check_image(task: str, image: Any, dtype: type) -> Shaped[np.ndarray, "h w 3"]:
    """Returns an image as an array.

    Args:
      task: name of the task, for the message.
      image: what should be a non-empty (h, w, 3).
      dtype: what it should hold; np.float32 allows any float.

    Raises:
      ValueError: it is something else.
    """
    image = np.asarray(image)
    right_dtype = image.dtype.kind == "f" if dtype is np.float32 else image.dtype == dtype
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape or not right_dtype:
        raise ValueError(
            f"Task '{task}': expected a {np.dtype(dtype).name} array of shape (height, width, 3), "
            f"got {image.dtype} of shape {image.shape}."
        )
    return image


def check_map(task: str, label: Any, kinds: str, what: str) -> Shaped[np.ndarray, "h w"]:
    """Returns a label map as an array.

    Args:
      task: name of the task, for the message.
      label: what should be a non-empty (h, w).
      kinds: the allowed NumPy dtype kinds, such as "iu".
      what: what the label should be, for the message.

    Raises:
      ValueError: it is something else.
    """
    label = np.asarray(label)
    if label.ndim != 2 or label.size == 0 or label.dtype.kind not in kinds:
        raise ValueError(
            f"Task '{task}': the label must be {what} of shape (height, width), "
            f"got {label.dtype} of shape {label.shape}."
        )
    return label


def check_range(
    task: str, label: Shaped[np.ndarray, "h w"], low: float, high: float, meaning: str
) -> None:
    """Checks that a label lies in low..high, both included.

    Raises:
      ValueError: the smallest or the largest value is outside; the message has it and `meaning`.
    """
    for value in (label.min(), label.max()):
        if not low <= value <= high:
            raise ValueError(
                f"Task '{task}': label value {value} is outside {low}..{high} ({meaning})."
            )


# Levels -------------------------------------------------------------------------------------------


def to_levels(task: str, rgb: np.ndarray) -> Float32[np.ndarray, "h w 3"]:
    """Returns what the model painted, float (h, w, 3) in [-1, 1], as levels clipped to [0, 255].

    Raises:
      ValueError: `rgb` has another shape or dtype; the message names the task.
    """
    rgb = check_image(task, rgb, np.float32)
    return np.clip((rgb.astype(np.float32) + 1.0) * 127.5, 0.0, 255.0)


def from_levels(levels: Shaped[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Returns levels in [0, 255] on the scale of the model, [-1, 1]."""
    return (levels / 127.5 - 1.0).astype(np.float32)


# Resizing -----------------------------------------------------------------------------------------


def resize_nearest(
    array: Shaped[np.ndarray, "h w *rest"], size: tuple[int, int]
) -> Shaped[np.ndarray, "new_h new_w *rest"]:
    """Resizes by nearest neighbor: each pixel takes the input pixel that contains its center."""
    height, width = array.shape[:2]
    if (height, width) == size:
        return array
    # Centers lie at (i + 1/2) / n of the side; in whole numbers, so that no rounding decides.
    rows = (2 * np.arange(size[0]) + 1) * height // (2 * size[0])
    columns = (2 * np.arange(size[1]) + 1) * width // (2 * size[1])
    return array[rows][:, columns]


def resize_masks(
    masks: Bool[np.ndarray, "n h w"], size: tuple[int, int]
) -> Bool[np.ndarray, "n new_h new_w"]:
    """Resizes masks, each pixel as in `resize_nearest`."""
    if masks.shape[1:] == size:
        return masks
    return np.moveaxis(resize_nearest(np.moveaxis(masks, 0, -1), size), -1, 0)


def resize_area(
    array: Float32[np.ndarray, "h w *c"], size: tuple[int, int]
) -> Float32[np.ndarray, "new_h new_w *c"]:
    """Resizes to the mean over the area of each output pixel; exact where both axes shrink."""
    return _resize(array, size, cv2.INTER_AREA)


def resize_bilinear(
    array: Float32[np.ndarray, "h w *c"], size: tuple[int, int]
) -> Float32[np.ndarray, "new_h new_w *c"]:
    """Resizes bilinearly between pixel centers, without anti-aliasing, as Painter does."""
    return _resize(array, size, cv2.INTER_LINEAR)


def resize_valid(
    values: Float32[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], size: tuple[int, int]
) -> tuple[Float32[np.ndarray, "new_h new_w"], Bool[np.ndarray, "new_h new_w"]]:
    """Resizes a map some of whose pixels are unknown, which never blend into the others.

    Args:
      values: 0 where they are not valid.
      valid: where `values` are known.
      size: (h, w) of the result.

    Returns:
      The mean of the valid pixels of each output pixel's area, or the nearest pixel where an axis
      grows; and where there is one. Values are 0 where there is none.
    """
    if size[0] > values.shape[0] or size[1] > values.shape[1] or size == values.shape:
        return resize_nearest(values, size), resize_nearest(valid, size)

    # The mean over an area with zeros in it, over the valid fraction of that area.
    weight = resize_area(valid.astype(np.float32), size)
    mean = resize_area(values, size) / np.maximum(weight, 1e-6)
    valid = weight > 1e-6
    return np.where(valid, mean, 0.0).astype(np.float32), valid


def resize_image(
    image: UInt8[np.ndarray, "h w *c"] | Float32[np.ndarray, "h w *c"], size: tuple[int, int]
) -> UInt8[np.ndarray, "new_h new_w *c"] | Float32[np.ndarray, "new_h new_w *c"]:
    """Resizes an image: area mean along axes that shrink, then bicubic along those that grow.

    Up to a factor of 4 the mean is that of 2 x 2 points, bilinear between pixels: exact for factors
    of 1, 2 and 4, between them nearer to the mean of the area than Pillow's bicubic is, and twice
    as fast as OpenCV's exact mean. Bicubic of floats may overshoot.
    """
    height, width = image.shape[:2]
    smaller = (min(height, size[0]), min(width, size[1]))

    if height <= 4 * smaller[0] and width <= 4 * smaller[1]:
        # Bilinear to twice the size: OpenCV then averages 2 x 2 points.
        points = (
            height if height == smaller[0] else 2 * smaller[0],
            width if width == smaller[1] else 2 * smaller[1],
        )
        image = _resize(image, points, cv2.INTER_LINEAR)

    return _resize(_resize(image, smaller, cv2.INTER_AREA), size, cv2.INTER_CUBIC)


def _resize(array: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    if array.shape[:2] == size:
        return array
    return cv2.resize(array, size[::-1], interpolation=interpolation)


# Runs ---------------------------------------------------------------------------------------------


class Runs(NamedTuple):
    """A map as runs of equal pixels, row after row.

    Segments are areas, so there are some fifty times fewer runs than pixels.

    Attributes:
      values: of the map, one a run.
      starts: positions of the first pixels in the flat map; every row begins a run.
      lengths: in pixels.
    """

    values: Shaped[np.ndarray, " n"]
    starts: Int[np.ndarray, " n"]
    lengths: Int[np.ndarray, " n"]


def find_runs(array: Shaped[np.ndarray, "h w"]) -> Runs:
    """Finds the runs of a map of any dtype."""
    # A run begins where a pixel differs from the one to its left.
    is_first = np.ones(array.shape, bool)
    np.not_equal(array[:, 1:], array[:, :-1], out=is_first[:, 1:])
    starts = np.flatnonzero(is_first)
    return Runs(array.ravel()[starts], starts, np.diff(starts, append=array.size))


# Files --------------------------------------------------------------------------------------------


def to_unsigned(
    values: Int[np.ndarray, "*shape"] | Float[np.ndarray, "*shape"], dtype: type, what: str
) -> Shaped[np.ndarray, "*shape"]:
    """Returns whole numbers as uint8 or uint16.

    Raises:
      ValueError: a value does not fit; the message has `what` the values are.
    """
    limit = np.iinfo(dtype).max
    low = values.min()
    high = values.max()
    if not 0 <= low <= high <= limit:
        bits = np.iinfo(dtype).bits
        raise ValueError(f"{what} {low:.0f}..{high:.0f} do not fit {bits} bits")
    return values.astype(dtype)


def encode_npy(array: np.ndarray) -> bytes:
    """Returns an array as the content of a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()
