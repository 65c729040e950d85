"""Pictures of errors, and the legends that explain the colors of a task's pictures."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Color = tuple[int, int, int]  # (red, green, blue), each in 0..255

# Pixels in an error map of classes or instances.
RIGHT: Color = (226, 228, 232)
WRONG: Color = (208, 32, 48)


class ColorBar(NamedTuple):
    """A color bar under a picture.

    Attributes:
      title: what the bar shows.
      low: its value at the left end, with its unit if need be.
      high: its value at the right end.
      colors: from `low` to `high`.
    """

    title: str
    low: str
    high: str
    colors: UInt8[np.ndarray, "n 3"]


class Legend(NamedTuple):
    """What the colors of a picture mean.

    Attributes:
      bars: of quantities.
      classes: (name, color) of everything that has a color of its own.
    """

    bars: tuple[ColorBar, ...] = ()
    classes: tuple[tuple[str, Color], ...] = ()


# The legend of `right_or_wrong`.
RIGHT_OR_WRONG = Legend(
    classes=(("right", RIGHT), ("wrong class, or an instance lost, merged or split", WRONG))
)


def heat(values: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Colors values by "viridis", dark to bright; values outside [0, 1] saturate."""
    levels = np.round(255 * np.clip(values, 0.0, 1.0)).astype(np.uint8)
    # OpenCV takes an image and returns blue, green, red.
    colors = cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
    return colors.reshape(*levels.shape, 3)


def heat_bar(title: str, high: str) -> ColorBar:
    """Returns the color bar of `heat`, from 0 to `high`."""
    return ColorBar(title, "0", high, heat(np.linspace(0.0, 1.0, 256)))


def value_bar(
    title: str,
    low: float,
    high: float,
    unit: str,
    render: Callable[[np.ndarray], np.ndarray],
) -> ColorBar:
    """Returns the color bar of a quantity.

    Args:
      title: what the bar shows.
      low: the value at the left end.
      high: the value at the right end.
      unit: of both.
      render: float32 (h, w) in `unit` -> uint8 (h, w, 3).
    """
    values = np.linspace(low, high, 256, dtype=np.float32)
    # Depth 0 means unknown and is black: the bar starts just above.
    values[0] += 1e-6
    return ColorBar(title, f"{low:g}", f"{high:g} {unit}", render(values[None])[0])


def error_heat(
    error: Float[np.ndarray, "*shape"], known: Bool[np.ndarray, "*shape"], worst: float
) -> UInt8[np.ndarray, "*shape 3"]:
    """Draws how far a quantity is from its label.

    Args:
      error: >= 0.
      known: where the label has a value; other pixels are black.
      worst: the smallest error that has the brightest color.
    """
    return np.where(known[..., None], heat(error / worst), 0).astype(np.uint8)


def right_or_wrong(wrong: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a map of mistakes."""
    return np.where(wrong[..., None], np.array(WRONG, np.uint8), np.array(RIGHT, np.uint8))


def unmatched(
    predicted: Int[np.ndarray, "h w"], truth: Int[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Finds the pixels where two maps of segments disagree.

    Two segments match if each overlaps the other more than any third. Id 0, which is no segment,
    matches only 0.

    Args:
      predicted: ids.
      truth: ids, which need not be the same.

    Returns:
      True outside of matching segments.
    """
    # Ids may be any numbers: count them.
    _, ours = np.unique(predicted, return_inverse=True)
    _, theirs = np.unique(truth, return_inverse=True)
    ours = ours.reshape(predicted.shape)
    theirs = theirs.reshape(truth.shape)

    # Pixels that each two segments share.
    overlap = np.zeros((ours.max() + 1, theirs.max() + 1), np.int64)
    np.add.at(overlap, (ours, theirs), 1)

    # A segment's match is its largest overlap, both ways.
    not_theirs = overlap.argmax(1)[ours] != theirs
    not_ours = overlap.argmax(0)[theirs] != ours
    return not_theirs | not_ours | ((predicted > 0) != (truth > 0))
