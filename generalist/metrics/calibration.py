"""What confidences are worth: whether 80 % is right in 80 % of the pixels."""

import dataclasses
import math
from typing import Self

import numpy as np
from jaxtyping import Int64
from numpy.typing import ArrayLike

from generalist.metrics.base import Metric, check_same_shape

CALIBRATION_PROTOCOLS = {
    "ece-15": (
        "expected calibration error over all pixels but void, 15 bins of equal width (Guo et al.)"
    ),
}

BINS = 15
# Confidences are summed in whole numbers of 2^-24, so that sums do not depend on their order.
_UNIT = 2**24


@dataclasses.dataclass(eq=False)
class CalibrationError(Metric):
    """Expected calibration error of Guo et al., "On calibration of modern neural networks".

    ICML 2017, equation 3. Key: `ece` = sum over bins of
    (pixels in the bin / pixels) * |fraction of right pixels - mean confidence|, a fraction; nan
    without a pixel. Bin b holds confidences in (b / 15, (b + 1) / 15], the first one 0 too.

    Args:
      ignore: the label of pixels that do not count.

    Attributes:
      counts: for each bin: pixels, right pixels, and the sum of confidences in units of 2^-24.
    """

    ignore: int = -1
    counts: Int64[np.ndarray, "3 bins"] = dataclasses.field(init=False, repr=False)
    protocol = "ece-15"

    def __post_init__(self):
        self.counts = np.zeros((3, BINS), np.int64)

    def update(self, prediction: tuple[ArrayLike, ArrayLike], label: ArrayLike) -> dict[str, float]:
        """Adds one image and returns its own value.

        Args:
          prediction: (classes int (h, w), confidence float (h, w) in [0, 1]).
          label: int (h, w).

        Raises:
          ValueError: the shapes differ, or a confidence is nan or out of [0, 1].
        """
        classes, confidence, label = map(np.asarray, (*prediction, label))
        check_same_shape(classes, label, "(h, w)")
        check_same_shape(confidence, label, "(h, w)")

        counted = label != self.ignore
        confidence = confidence[counted].astype(np.float64)
        right = (classes == label)[counted]
        if confidence.size and not 0 <= confidence.min() <= confidence.max() <= 1:  # false for nan
            raise ValueError(
                f"confidence spans {confidence.min()} .. {confidence.max()}; it must be in [0, 1]."
            )

        # A bin is open to the left and closed to the right, but for the first, which has 0 too.
        bins = np.maximum(np.ceil(confidence * BINS).astype(np.int64) - 1, 0)
        units = np.rint(confidence * _UNIT)
        weights = (None, right, units)
        counts = np.stack([np.bincount(bins, w, BINS).astype(np.int64) for w in weights])

        self.counts += counts
        return _ece(counts)

    def compute(self) -> dict[str, float]:
        """Returns `ece` over all images."""
        return _ece(self.counts)

    def _absorb(self, other: Self) -> None:
        self.counts += other.counts


def _ece(counts: Int64[np.ndarray, "3 bins"]) -> dict[str, float]:
    pixels, right, units = counts
    if not pixels.sum():
        return {"ece": math.nan}
    return {"ece": float(np.abs(right - units / _UNIT).sum() / pixels.sum())}
