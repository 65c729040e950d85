"""Random changes of training examples: crop, flip, colors.

Each takes its randomness as an argument, so that nothing else decides what it does.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np

from generalist.input_pipeline.source import Crop, Example, ReadWindow

_TRIES = 10  # windows drawn before the largest one that fits is taken

Range = tuple[float, float]  # (least, most)


class CropAndFlip:
    """Reads an example in a random window, mirrored at random; image and label move together.

    It works on the stored pixels and interpolates nothing: classes and ids stay what they are,
    meters stay meters, and an instance outside of the window is gone. Encoding comes afterwards,
    so that colors which mean places are those of the new places.

    Args:
      settings: `scale` (least, most) area of the window as a fraction of the image's; `ratio`
        (least, most) width / height of the window; `native` probability of a native window;
        `flip` probability of mirroring.
      enough: rows and columns that the window needs, see `ReadWindow`.
      native_side: of a native window, in stored pixels: what a tile has in prediction, at the scale
        of the photograph. None for a task that is predicted from the whole image.
    """

    def __init__(self, settings: Mapping[str, Any], *, enough: int, native_side: int | None):
        self._enough = enough
        self._native_side = native_side
        self._native = _probability(settings, "native")
        self._scale = _range(settings, "scale", 1.0)
        self._ratio = _range(settings, "ratio", math.inf)
        self._flip = settings["flip"]

    def __call__(self, read: Callable[[ReadWindow], Example], rng: np.random.Generator) -> Example:
        """Returns what `read` reads of the window."""

        def crop(size: tuple[int, int]) -> Crop:
            # Tasks without native windows draw nothing here.
            if self._native_side and self._native and rng.random() < self._native:
                return native_window(size, self._native_side, rng)
            return random_window(size, self._scale, self._ratio, rng)

        example = read(ReadWindow(crop, self._enough))
        if rng.random() >= self._flip:
            return example
        return example | {name: cv2.flip(example[name], 1) for name in ("image", "label")}


def _range(settings: Mapping[str, Any], name: str, limit: float) -> Range:
    least, most = settings[name]
    if not 0 < least <= most <= limit:
        raise ValueError(
            f"data.augment.{name} is {(least, most)}: "
            f"give (least, most) with 0 < least <= most <= {limit}"
        )
    return least, most


def _probability(settings: Mapping[str, Any], name: str) -> float:
    value = settings[name]
    if not 0 <= value <= 1:
        raise ValueError(f"data.augment.{name} is {value}: give a probability in 0..1")
    return value


def random_window(
    size: tuple[int, int], scale: Range, ratio: Range, rng: np.random.Generator
) -> Crop:
    """Returns the rows and columns of a random window in an image of `size` (h, w).

    The area's fraction is uniform in `scale`, the logarithm of width / height uniform in `ratio`;
    both are drawn again where that does not fit (Szegedy et al. 2015). If it hardly ever fits, the
    result is the largest window with an allowed ratio. The place is uniform.
    """
    height, width = size
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h = max(round(math.sqrt(area / shape)), 1)
        w = max(round(math.sqrt(area * shape)), 1)
        if h <= height and w <= width:
            break
    else:
        h = max(min(height, round(width / ratio[0])), 1)
        w = max(min(width, round(height * ratio[1])), 1)

    # The size is drawn first, so that every place is equally probable.
    return _random_place(size, (h, w), rng)


def native_window(size: tuple[int, int], side: int, rng: np.random.Generator) -> Crop:
    """Returns the rows and columns of a square of `side` pixels in an image of `size` (h, w).

    Where the image is smaller, it is as large as fits. The place is uniform.
    """
    height, width = size
    return _random_place(size, (min(side, height), min(side, width)), rng)


def _random_place(size: tuple[int, int], window: tuple[int, int], rng: np.random.Generator) -> Crop:
    top = int(rng.integers(size[0] - window[0] + 1))
    left = int(rng.integers(size[1] - window[1] + 1))
    return slice(top, top + window[0]), slice(left, left + window[1])


class Jitter:
    """Changes brightness, contrast, saturation and hue of a sample, in random order.

    Its `image` and `picture`, the same at two sizes, change alike.

    Args:
      settings: `jitter` {"brightness", "contrast", "saturation", "hue"}: the first three factors
        are uniform in 1 - j .. 1 + j, the hue turns by a fraction of the circle uniform in -j .. j.
        `jitter_probability` is the probability of an image to change at all.
    """

    def __init__(self, settings: Mapping[str, Any]):
        # Beyond these limits a factor is negative, or the hue turns past its opposite.
        jitter = settings["jitter"]
        allowed = (
            set(jitter) == set(ADJUSTMENTS)
            and 0 <= min(jitter.values()) <= max(jitter.values()) <= 1
            and jitter["hue"] <= 0.5
        )
        if not allowed:
            raise ValueError(
                f"data.augment.jitter is {dict(jitter)}: give {', '.join(ADJUSTMENTS)}, "
                "the first three in 0..1, hue in 0..0.5"
            )
        self._strengths = [jitter[name] for name in ADJUSTMENTS]
        self._probability = settings["jitter_probability"]

    def __call__(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Returns a sample with a new image and picture, or the same sample."""
        if rng.random() >= self._probability:
            return sample

        # Factors around 1, and for the hue a turn around 0.
        neutral = (1.0, 1.0, 1.0, 0.0)
        amounts = rng.uniform(-1.0, 1.0, 4) * self._strengths + neutral

        adjustments = list(ADJUSTMENTS.values())
        order = rng.permutation(4)
        changed = {}
        for name in ("image", "picture"):
            image = sample[name]
            for index in order:
                image = adjustments[index](image, float(amounts[index]))
            changed[name] = image
        return sample | changed


# All of them: uint8 (h, w, 3) -> the same, rounded and clipped to 0..255. They use OpenCV's SIMD,
# which is several times faster than NumPy.


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the levels by `factor`."""
    return cv2.convertScaleAbs(image, alpha=factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the distances from the mean luma of the image by `factor`."""
    luma = float(np.dot(cv2.mean(image)[:3], LUMA))
    return cv2.addWeighted(image, factor, image, 0.0, luma * (1.0 - factor))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Multiplies the distances from the pixel's own luma by `factor`."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, gray, 1.0 - factor, 0.0)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Turns every hue by `turn` circles (-0.5..0.5); saturation, value and grays stay."""
    # 8 bits have too few hues. All steps use one array, since fresh memory takes longer than they.
    pixels = image.astype(np.float32)
    cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV, dst=pixels)

    # OpenCV takes what is more than a circle for the rest of it.
    cv2.add(pixels, (360.0 * (turn % 1.0), 0.0, 0.0, 0.0), dst=pixels)
    cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB, dst=pixels)
    return cv2.convertScaleAbs(pixels)


LUMA = (0.299, 0.587, 0.114)

# Name of the setting -> (image, amount) -> image; in the order of the random amounts.
ADJUSTMENTS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "brightness": brightness,
    "contrast": contrast,
    "saturation": saturation,
    "hue": hue,
}
