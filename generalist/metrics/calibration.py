"""What confidences are worth.

Whether 80 % is right in 80 % of the pixels, and whether errors lie where confidence is low.
"""

import dataclasses
import math
from typing import Self

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from generalist.metrics.base import ImageMean, Metric, check_same_shape
from generalist.metrics.depth import valid_pixels

CALIBRATION_PROTOCOLS = {
    "ece-15": (
        "expected calibration error over all pixels but void, 15 bins of equal width (Guo et al.)"
    ),
    "ause-rmse": (
        "area between the RMSE left by dropping the least confident and the worst pixels, "
        "over that of all (Ilg et al.)"
    ),
}

BINS = 15
# Confidences are summed in whole numbers of 2^-24, so that sums do not depend on their order.
_UNIT = 2**24

STEPS = 20  # of the sparsification curve: 0, 5, .. 95 % of the pixels are dropped
_EXACT = 1e-5  # meters; a smaller RMSE is rounding, whose place says nothing


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


@dataclasses.dataclass(eq=False)
class SparsificationError(ImageMean):
    """Area under the sparsification error of Ilg et al. (ECCV 2018), relative to the RMSE.

    "Uncertainty estimates and multi-hypotheses networks for optical flow", arXiv 1802.07095.

    Pixels are dropped by ascending confidence, and by descending error; `ause` is the mean
    difference of the two curves of RMSE, over the RMSE of all pixels. 0: errors lie exactly where
    confidence is low. Pixels of one confidence are dropped in no order, each counting their mean
    square. Mean over images; one whose RMSE is below 0.01 mm, or without a valid pixel, has nan and
    stays out.

    Args:
      depth_protocol: which pixels count, as in `DepthMetric`.
    """

    keys = ("ause",)
    depth_protocol: str = "native"
    protocol = "ause-rmse"

    def update(self, prediction: tuple[ArrayLike, ArrayLike], label: ArrayLike) -> dict[str, float]:
        """Adds one image and returns its own value.

        Args:
          prediction: (depth float (h, w) in meters, confidence float (h, w)).
          label: float (h, w) in meters.

        Raises:
          ValueError: the shapes differ, or do not fit `depth_protocol`.
        """
        depth, confidence, label = map(np.asarray, (*prediction, label))
        check_same_shape(depth, label, "(h, w)")
        check_same_shape(confidence, label, "(h, w)")

        valid = valid_pixels(label, self.depth_protocol)
        square = (depth[valid].astype(np.float64) - label[valid]) ** 2
        if not square.size or math.sqrt(square.mean()) < _EXACT:
            return {"ause": math.nan}

        # Pixels of one confidence form a group, whose mean square each of them counts; group 0 is
        # the most confident.
        _, group = np.unique(-confidence[valid], return_inverse=True)
        expected = (np.bincount(group, square) / np.bincount(group))[group]

        by_confidence = _rmse_left(expected[np.argsort(group)])
        by_error = _rmse_left(np.sort(square))
        image = {"ause": float(np.mean(by_confidence - by_error) / by_error[0])}
        self.images.append(image)
        return image


def _rmse_left(square: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " steps"]:
    """Returns the RMSE of all of n squared errors, of the first 95 %, ... 5 %, rounded up."""
    kept = [-(-len(square) * left // STEPS) for left in range(STEPS, 0, -1)]
    return np.sqrt([np.mean(square[:count]) for count in kept])
