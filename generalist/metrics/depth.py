"""Errors of metric depth maps, by the protocols of the NYU Depth v2 literature."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from generalist.metrics.base import ImageMean, check_same_shape, lookup_protocol

MIN_DEPTH, MAX_DEPTH = 1e-3, 10.0  # metres
NYU_SHAPE = (480, 640)
EIGEN_CROP = (
    slice(45, 471),
    slice(41, 601),
)  # rows and columns of NYU_SHAPE, from Eigen et al. 2014


@dataclasses.dataclass(frozen=True)
class _Protocol:
    description: str
    nyu: bool  # Eigen's crop of 480 x 640, and the label's range without its end points
    align: bool = False  # fit scale and shift to the label first


DEPTH_PROTOCOLS = {
    "native": _Protocol(
        "metric depth on every labelled pixel from 1 mm to 10 m, no crop", nyu=False
    ),
    "nyu-eigen-metric": _Protocol(
        "NYUv2 metric depth in Eigen's crop of 480 x 640, no alignment (BTS, Painter)", nyu=True
    ),
    "nyu-affine-invariant": _Protocol(
        "NYUv2 in Eigen's crop after a least-squares scale and shift per image (Marigold)",
        nyu=True,
        align=True,
    ),
}


@dataclasses.dataclass(eq=False)
class DepthMetric(ImageMean):
    """Depth errors per image, averaged over images: the RMSE is a mean of RMSEs, not one pooled over all pixels.

    Keys: `rmse` (m), `abs_rel`, `sq_rel` (m), `rmse_log` (of natural logarithms), `silog` (times 100, as in the BTS
    script that it comes from), `log10`, and `delta1`, `delta2`, `delta3`, the shares of pixels with
    max(label/prediction, prediction/label) < 1.25, 1.25^2, 1.25^3.
    An image without a valid pixel has nan values and stays out of the mean.

    Args:
      protocol: "native", "nyu-eigen-metric" or "nyu-affine-invariant"; see `DEPTH_PROTOCOLS`. Figures of the last one
        are no metric depth and are comparable with no other.

    Raises:
      ValueError: the protocol is unknown.
    """

    keys = ("rmse", "abs_rel", "sq_rel", "rmse_log", "silog", "log10", "delta1", "delta2", "delta3")
    protocol: str = "native"

    def __post_init__(self):
        lookup_protocol(self.protocol, DEPTH_PROTOCOLS, "DepthMetric")

    def update(self, prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Adds one image.

        Args:
          prediction: (h, w) float metres (any unit under "nyu-affine-invariant"), clamped to 1 mm .. 10 m. A nan on a
            valid pixel makes the errors nan, for the image and for the mean.
          label: (h, w) float metres; 0, negative, nan, inf and values out of 1 mm .. 10 m are not valid.

        Returns:
          The image's values; nan without a valid pixel.

        Raises:
          ValueError: the shapes differ, or are not (480, 640) under an NYU protocol.
        """
        prediction, label = np.asarray(prediction), np.asarray(label)
        check_same_shape(prediction, label, "(h, w)")
        valid = valid_pixels(label, self.protocol)
        if not valid.any():
            return dict.fromkeys(self.keys, math.nan)
        prediction, label = prediction[valid].astype(np.float64), label[valid].astype(np.float64)
        if DEPTH_PROTOCOLS[self.protocol].align:
            prediction = align_affine(prediction, label)
        image = _errors(np.clip(prediction, MIN_DEPTH, MAX_DEPTH), label)
        self.images.append(image)
        return image


def valid_pixels(label: np.ndarray, protocol: str) -> np.ndarray:
    """The pixels of a label (h, w) in metres that a protocol counts, bool (h, w).

    Raises ValueError unless the shape is (480, 640) under an NYU protocol.
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


def align_affine(prediction: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Returns `scale * prediction + shift` closest to `label` in least squares; a constant prediction gets scale 0.

    Args:
      prediction: (n,) float, any unit.
      label: (n,) float metres, n >= 1.
    """
    centred = prediction - prediction.mean()
    variance = np.mean(centred**2)
    scale = np.mean(centred * (label - label.mean())) / variance if variance != 0 else 0.0
    return scale * centred + label.mean()


def _errors(prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The nine values of one image from its valid pixels, (n,) float64 metres > 0."""
    square = (prediction - label) ** 2
    log_error = np.log(prediction) - np.log(label)
    ratio = np.maximum(prediction / label, label / prediction)
    values = {
        "rmse": np.sqrt(square.mean()),
        "abs_rel": np.mean(np.abs(prediction - label) / label),
        "sq_rel": np.mean(square / label),
        "rmse_log": np.sqrt(np.mean(log_error**2)),
        "silog": 100 * log_error.std(),  # sqrt(E[e^2] - E[e]^2), without its cancellation
        "log10": np.abs(log_error).mean() / math.log(10),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
    }
    return {key: float(value) for key, value in values.items()}
