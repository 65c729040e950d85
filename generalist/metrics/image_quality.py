"""PSNR and SSIM of restored images, by the scripts that the benchmarks are reported with."""

import dataclasses
import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float64, Shaped, UInt8
from numpy.typing import ArrayLike

from generalist.metrics.base import ImageMean, check_same_shape
from generalist.names import one_of

# Windows of SSIM along one axis. The gaussian, 11 taps of sigma 1.5, is Wang et al.'s ("Image
# quality assessment: from error visibility to structural similarity", 2004).
_GAUSSIAN = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
_GAUSSIAN /= _GAUSSIAN.sum()
_UNIFORM = np.full(7, 1 / 7)

# The gaussian along the channel axis of a volume of three, edges replicated: row = channel out,
# column = channel in.
_ACROSS_RGB = np.stack(
    [
        np.bincount(np.clip(channel + np.arange(-5, 6), 0, 2), _GAUSSIAN, minlength=3)
        for channel in range(3)
    ]
)

_STRIP_ROWS = 32  # SSIM goes through an image in strips, whose maps stay in the cache


def psnr(
    prediction: Float64[np.ndarray, "..."], label: Float64[np.ndarray, "..."], peak: float
) -> float:
    """Returns the peak signal-to-noise ratio in dB of two arrays of one shape; inf if equal."""
    error = np.mean((prediction - label) ** 2)
    return float(10 * np.log10(peak**2 / error)) if error > 0 else math.inf


def ssim(
    prediction: Float64[np.ndarray, "h w *c"],
    label: Float64[np.ndarray, "h w *c"],
    data_range: float,
    *,
    window: Float64[np.ndarray, " n"] = _GAUSSIAN,
    volumetric: bool = False,
    sample_covariance: bool = False,
) -> float:
    """Returns the mean structural similarity of two images; several channels are averaged.

    Args:
      prediction: (h, w) or (h, w, c).
      label: same shape.
      data_range: the L of the constants (0.01 L)^2 and (0.03 L)^2.
      window: n taps, n odd, sum 1; the window is their outer product. By default Wang et al.'s
        gaussian of 11 taps. Only places where it fits into the image count, so h and w must be at
        least n.
      volumetric: (h, w, 3) only; filter as a volume, over the channels too, with edge replication,
        and count all of it.
      sample_covariance: covariances divide by n^2 - 1 rather than n^2.

    Raises:
      ValueError: the window does not fit into the image.
    """
    margin = len(window) // 2
    if volumetric:
        prediction = _replicate_edges(prediction, margin)
        label = _replicate_edges(label, margin)

    rows = label.shape[0] - 2 * margin
    columns = label.shape[1] - 2 * margin
    if min(rows, columns) < 1:
        raise ValueError(
            f"SSIM needs sides of at least {len(window)} pixels, the image has {label.shape[:2]}."
        )

    smooth = functools.partial(_smooth, window=window, volumetric=volumetric)
    samples = len(window) ** 2
    normalize = samples / (samples - 1) if sample_covariance else 1.0

    total = 0
    for top in range(0, rows, _STRIP_ROWS):
        strip = slice(top, top + _STRIP_ROWS + 2 * margin)
        ssim_map = _ssim_map(prediction[strip], label[strip], data_range, smooth, normalize)
        total += ssim_map.sum()

    return float(total / (rows * columns * math.prod(label.shape[2:])))


def _ssim_map(
    x: Float64[np.ndarray, "h w *c"],
    y: Float64[np.ndarray, "h w *c"],
    data_range: float,
    smooth: Callable[[np.ndarray], np.ndarray],
    normalize: float,
) -> Float64[np.ndarray, "rows columns *c"]:
    """Returns SSIM at every place where the window fits (Wang et al. 2004, equation 13).

    Args:
      x: an image, or a strip of it.
      y: the other one.
      data_range: as of `ssim`.
      smooth: weighted means over the windows that fit.
      normalize: multiplies variances and covariances.
    """
    mean_x = smooth(x)
    mean_y = smooth(y)
    product = mean_x * mean_y
    energy = mean_x**2 + mean_y**2

    # Of the two variances SSIM needs only the sum.
    covariance = normalize * (smooth(x * y) - product)
    variances = normalize * (smooth(x**2 + y**2) - energy)

    c1 = (0.01 * data_range) ** 2
    c2 = (0.03 * data_range) ** 2
    return (2 * product + c1) * (2 * covariance + c2) / ((energy + c1) * (variances + c2))


def _smooth(
    image: Float64[np.ndarray, "h w *c"], window: Float64[np.ndarray, " n"], volumetric: bool
) -> Float64[np.ndarray, "rows columns *c"]:
    """Returns weighted means over the windows that fit: h - n + 1 rows, w - n + 1 columns."""
    margin = len(window) // 2
    filtered = cv2.sepFilter2D(image, -1, window, window)[margin:-margin, margin:-margin]
    return filtered @ _ACROSS_RGB.T if volumetric else filtered


def _replicate_edges(image: np.ndarray, margin: int) -> np.ndarray:
    return cv2.copyMakeBorder(image, margin, margin, margin, margin, cv2.BORDER_REPLICATE)


def luma(image: UInt8[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "h w"]:
    """Returns Y of BT.601: whole numbers in 16 .. 235.

    As MATLAB's `rgb2ycbcr` gives it for 8-bit images; halves round up.
    """
    # In integers, so that rounding does not depend on how 65.481 is stored: 255000 is 255 levels in
    # thousandths.
    weighted = image.astype(np.int64) @ np.array([65481, 128553, 24966])
    return (16 + (weighted + 127500) // 255000).astype(np.float64)


# What a protocol compares: RGB of any dtype that `update` allows -> float64.


def _levels(image: Shaped[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return image if image.dtype == np.uint8 else np.rint(image * 255.0).astype(np.uint8)


def _rgb_levels(image: Shaped[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "h w 3"]:
    return _levels(image).astype(np.float64)


def _luma_levels(image: Shaped[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "h w"]:
    return luma(_levels(image))


def _rgb_floats(image: Shaped[np.ndarray, "h w 3"]) -> Float64[np.ndarray, "h w 3"]:
    return image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)


def _mean_gray(image: Float64[np.ndarray, "h w 3"]) -> float:
    """Returns the mean of 0.299 R + 0.587 G + 0.114 B, as OpenCV converts to gray."""
    return float(image.mean((0, 1)) @ (0.299, 0.587, 0.114))


@dataclasses.dataclass(frozen=True)
class ImageQualityProtocol:
    """How restored images are compared."""

    description: str  # one line, for the tables
    convert: Callable[[np.ndarray], np.ndarray]  # RGB, uint8 or float in [0, 1] -> float64 compared
    peak: float  # of the PSNR
    ssim: Callable[[np.ndarray, np.ndarray], float]
    match_brightness: bool = False  # whether predictions first get the label's mean gray


IMAGE_QUALITY_PROTOCOLS = {
    "rgb-skimage": ImageQualityProtocol(
        "8-bit RGB, SSIM per channel in an 11x11 gaussian window "
        "(scikit-image with the settings of Wang et al.)",
        _rgb_levels,
        peak=255.0,
        ssim=functools.partial(ssim, data_range=255.0),
    ),
    "rgb-matlab": ImageQualityProtocol(
        "RGB kept as floats in [0, 1], SSIM per channel in an 11x11 gaussian window "
        "(Wang's ssim_index.m)",
        _rgb_floats,
        peak=1.0,
        ssim=functools.partial(ssim, data_range=1.0),
    ),
    "derain-y-matlab": ImageQualityProtocol(
        "Y of 8-bit YCbCr, SSIM in an 11x11 gaussian window "
        "(the deraining script of MPRNet and Painter)",
        _luma_levels,
        peak=255.0,
        ssim=functools.partial(ssim, data_range=255.0),
    ),
    "sidd-rgb-matlab": ImageQualityProtocol(
        "RGB kept as floats in [0, 1], SSIM of the volume in an 11x11x11 gaussian window "
        "(MATLAB's ssim)",
        _rgb_floats,
        peak=1.0,
        ssim=functools.partial(ssim, data_range=1.0, volumetric=True),
    ),
    "lol-rgb-painter": ImageQualityProtocol(
        "RGB kept as floats in [0, 1], SSIM per channel in a uniform 7x7 window "
        "with data range 2 (Painter)",
        _rgb_floats,
        peak=1.0,
        ssim=functools.partial(ssim, data_range=2.0, window=_UNIFORM, sample_covariance=True),
    ),
    "lol-rgb-gt-mean": ImageQualityProtocol(
        "rgb-matlab after the prediction was given the mean gray of the label, "
        "which only a reference can tell (KinD and others)",
        _rgb_floats,
        peak=1.0,
        ssim=functools.partial(ssim, data_range=1.0),
        match_brightness=True,
    ),
}


@dataclasses.dataclass(eq=False)
class ImageQuality(ImageMean):
    """PSNR (dB) and SSIM per image, averaged over images.

    Keys: `psnr`, `ssim`. Equal images have a PSNR of inf, as in MATLAB; nothing caps it, so one
    such image makes the mean inf. The deraining benchmark averages the means of its five sets: use
    one metric a set.

    Args:
      protocol: one of `IMAGE_QUALITY_PROTOCOLS`.

    Raises:
      ValueError: the protocol is unknown.
    """

    keys = ("psnr", "ssim")
    protocol: str = "rgb-skimage"

    def __post_init__(self):
        one_of(self.protocol, IMAGE_QUALITY_PROTOCOLS, "protocol of ImageQuality")

    def update(self, prediction: ArrayLike, label: ArrayLike) -> dict[str, float]:
        """Adds one image and returns its own values.

        Args:
          prediction: (h, w, 3) RGB, uint8 or float in [0, 1]; protocols on 8-bit levels round
            floats to them (Painter's deraining truncates them: to reproduce that, truncate first).
          label: the same, of either dtype. Sides of at least 11 pixels, 7 under "lol-rgb-painter",
            1 under "sidd-rgb-matlab".

        Raises:
          ValueError: the shapes differ or are not (h, w, 3), an image is too small, or a float is
            out of [0, 1] or nan.
          TypeError: an image is neither uint8 nor float.
        """
        prediction = np.asarray(prediction)
        label = np.asarray(label)
        check_same_shape(prediction, label, "(h, w, 3)")
        _check_image(prediction, "prediction")
        _check_image(label, "label")

        protocol = IMAGE_QUALITY_PROTOCOLS[self.protocol]
        prediction = protocol.convert(prediction)
        label = protocol.convert(label)
        if protocol.match_brightness:
            # The floor keeps a black prediction black.
            gain = _mean_gray(label) / max(_mean_gray(prediction), 1e-12)
            prediction = np.clip(prediction * gain, 0.0, 1.0)

        image = {
            "psnr": psnr(prediction, label, protocol.peak),
            "ssim": protocol.ssim(prediction, label),
        }
        self.images.append(image)
        return image


def _check_image(image: np.ndarray, name: str) -> None:
    if image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"{name} has shape {image.shape}; it must be (h, w, 3), RGB.")
    if image.dtype == np.uint8:
        return
    if not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"{name} has dtype {image.dtype}; it must be uint8, or float in [0, 1].")
    if not 0 <= image.min() <= image.max() <= 1:  # false for nan
        raise ValueError(
            f"{name} spans {image.min()} .. {image.max()}; "
            "floats must be in [0, 1]: scale or clip them."
        )
