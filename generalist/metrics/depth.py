"""Errors of metric depth maps, by the protocols of the NYU Depth v2 literature."""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy.typing import ArrayLike

from generalist.metrics.base import ImageMean, check_same_shape
from generalist.names import one_of

MIN_DEPTH = 1e-3  # meters
MAX_DEPTH = 10.0  # meters

NYU_SHAPE = (480, 640)
# Rows and columns of NYU_SHAPE, from Eigen et al. (arXiv 1406.2283).
EIGEN_CROP = (slice(45, 471), slice(41, 601))


@dataclasses.dataclass(frozen=True)
class DepthProtocol:
    """How depth maps are compared."""

    description: str  # one line, for the tables
    nyu: bool  # Eigen's crop of 480 x 640, and the label's range without its end points
    align: bool = False  # fit scale and shift to the label first


DEPTH_PROTOCOLS = {
    "native": DepthProtocol(
        "metric depth on every labelled pixel from 1 mm to 10 m, no crop",
        nyu=False,
    ),
    "nyu-eigen-metric": DepthProtocol(
        "NYUv2 metric depth in Eigen's crop of 480 x 640, no alignment (BTS, Painter)",
        nyu=True,
    ),
    "nyu-affine-invariant": DepthProtocol(
        "NYUv2 in Eigen's crop after a least-squares scale and shift per image (Marigold)",
        nyu=True,
        align=True,
    ),
}


@dataclasses.dataclass(eq=False)
class DepthMetric(ImageMean):
    """Depth errors per image, averaged over images.

    The RMSE is thus a mean of RMSEs, not one pooled over all pixels.

    Keys: `rmse` (m), `abs_rel`, `sq_rel` (m), `rmse_log` (of natural logarithms), `silog` (times
    100, as in the BTS script that it comes from), `log10`, and `delta1`, `delta2`, `delta3`, the
    fractions of pixels with max(label/prediction, prediction/label) < 1.25, 1.25^2, 1.25^3.
    An image without a valid pixel has nan values and stays out of the mean.

    Args:
      protocol: "native", "nyu-eigen-metric" or "nyu-affine-invariant"; see `DEPTH_PROTOCOLS`.
        Figures of the last one are no metric depth and are comparable with no other.

    Raises:
      ValueError: the protocol is unknown.
    """

    keys = ("rmse", "abs_rel", "sq_rel", "rmse_log", "silog", "log10", "delta1", "delta2", "delta3")
    protocol: str = "native"

    def __post_init__(self):
        one_of(self.protocol, DEPTH_PROTOCOLS, "protocol of DepthMetric")

    def update(self, prediction: ArrayLike, label: ArrayLike) -> dict[str, float]:
        """Adds one image.

        Args:
          prediction: (h, w) float meters (any unit under "nyu-affine-invariant"), clamped to
            1 mm .. 10 m. A nan on a valid pixel makes the errors nan, for the image and for the
            mean.
          label: (h, w) float meters; 0, negative, nan, inf and values out of 1 mm .. 10 m are not
            valid.

        Returns:
          The image's values; nan without a valid pixel.

        Raises:
          ValueError: the shapes differ, or are not (480, 640) under an NYU protocol.
        """
        prediction = np.asarray(prediction)
        label = np.asarray(label)
        check_same_shape(prediction, label, "(h, w)")

        valid = valid_pixels(label, self.protocol)
        if not valid.any():
            return dict.fromkeys(self.keys, math.nan)
        prediction = prediction[valid].astype(np.float64)
        label = label[valid].astype(np.float64)

        if DEPTH_PROTOCOLS[self.protocol].align:
            prediction = align_affine(prediction, label)

        image = _errors(np.clip(prediction, MIN_DEPTH, MAX_DEPTH), label)
        self.images.append(image)
        return image


def valid_pixels(label: Shaped[np.ndarray, "h w"], protocol: str) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels of a label, in meters, that a protocol counts.

    Raises:
      ValueError: the shape is not (480, 640) under an NYU protocol.
    """
    if not DEPTH_PROTOCOLS[protocol].nyu:
        return (label >= MIN_DEPTH) & (label <= MAX_DEPTH)

    if label.shape != NYU_SHAPE:
        raise ValueError(
            f"protocol {protocol!r} needs depth maps of shape {NYU_SHAPE}, got {label.shape}: "
            "decode at 480 x 640, or use protocol 'native' for other data."
        )

    inside = np.zeros(NYU_SHAPE, bool)
    inside[EIGEN_CROP] = True
    return inside & (label > MIN_DEPTH) & (label < MAX_DEPTH)


def align_affine(
    prediction: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Returns `scale * prediction + shift` closest to `label` in least squares.

    A constant prediction gets scale 0.

    Args:
      prediction: any unit.
      label: meters, n >= 1.
    """
    centered = prediction - prediction.mean()
    variance = np.mean(centered**2)
    scale = np.mean(centered * (label - label.mean())) / variance if variance != 0 else 0.0
    return scale * centered + label.mean()


def _errors(
    prediction: Float[np.ndarray, " n"], label: Float[np.ndarray, " n"]
) -> dict[str, float]:
    """Returns the nine values of one image from its valid pixels, float64 meters > 0."""
    square = (prediction - label) ** 2
    log_error = np.log(prediction) - np.log(label)
    ratio = np.maximum(prediction / label, label / prediction)

    values = {
        "rmse": np.sqrt(square.mean()),
        "abs_rel": np.mean(np.abs(prediction - label) / label),
        "sq_rel": np.mean(square / label),
        "rmse_log": np.sqrt(np.mean(log_error**2)),
        # sqrt(E[e^2] - E[e]^2) in BTS; the standard deviation is the same without cancellation.
        "silog": 100 * log_error.std(),
        "log10": np.abs(log_error).mean() / math.log(10),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }
    return {key: float(value) for key, value in values.items()}
