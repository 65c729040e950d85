"""Random changes of training examples: crop, flip, colours. Each takes its randomness as an argument, so nothing else decides what it does."""

import math
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from generalist.input_pipeline.sources.files import Part

_TRIES = 10  # windows drawn before the largest one that fits is taken


class CropAndFlip:
    """What reads a part of an example -> its part in a random window, mirrored as often as `flip` says; image and label move together.

    It works on the stored pixels and interpolates nothing: classes and ids stay what they are, metres stay metres, and an instance
    outside of the window is gone. Encoding comes afterwards, so that colours which stand for places are those of the new places.

    Args:
      settings: `scale` (least, most) area of the window as a share of the image; `ratio` (least, most) width / height of the window;
        `flip` probability of mirroring.
      enough: rows and columns that the window needs, see `Part`.
    """

    def __init__(self, settings: Mapping, enough: int):
        self._enough = enough
        self._scale, self._ratio, self._flip = (
            tuple(settings["scale"]),
            tuple(settings["ratio"]),
            settings["flip"],
        )
        for name, (low, high), most in (
            ("scale", self._scale, 1.0),
            ("ratio", self._ratio, math.inf),
        ):
            if not 0 < low <= high <= most:
                raise ValueError(
                    f"data.augment.{name} is {(low, high)}: give (least, most) with 0 < least <= most <= {most}"
                )

    def __call__(self, read: Callable[[Part], dict], rng: np.random.Generator) -> dict:
        example = read(
            Part(lambda size: random_window(size, self._scale, self._ratio, rng), self._enough)
        )
        if rng.random() >= self._flip:
            return example
        return example | {name: cv2.flip(example[name], 1) for name in ("image", "label")}


def random_window(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[slice, slice]:
    """Rows and columns of a window in an image of `size` (h, w).

    Area share uniform in `scale`, logarithm of width / height uniform in `ratio`, drawn again where that does not fit (Szegedy et al. 2015).
    If it hardly ever fits, the largest window with an allowed ratio is taken. The place is uniform.
    """
    height, width = size
    for _ in range(_TRIES):
        area = height * width * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = max(round(math.sqrt(area / shape)), 1), max(round(math.sqrt(area * shape)), 1)
        if h <= height and w <= width:
            break
    else:
        h, w = (
            max(min(height, round(width / ratio[0])), 1),
            max(min(width, round(height * ratio[1])), 1),
        )
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return slice(top, top + h), slice(left, left + w)


# What is jittered, in the order of ADJUSTMENTS.
JITTERED = ("brightness", "contrast", "saturation", "hue")


class Jitter:
    """Sample -> the same with other brightness, contrast, saturation and hue of its `image`, in a random order.

    Args:
      settings: `jitter` {"brightness", "contrast", "saturation", "hue"}: the first three factors are
        uniform in 1 - j .. 1 + j, the hue turns by a fraction of the circle uniform in -j .. j.
        `jitter_probability`: of an image to change at all.
    """

    def __init__(self, settings: Mapping):
        jitter = dict(settings["jitter"])
        allowed = (
            tuple(jitter) == JITTERED
            and 0 <= min(jitter.values()) <= max(jitter.values()) <= 1
            and jitter["hue"] <= 0.5
        )
        if not allowed:
            raise ValueError(
                f"data.augment.jitter is {jitter}: give {', '.join(JITTERED)}, "
                "the first three in 0..1, hue in 0..0.5"
            )
        self._strengths = tuple(jitter.values())
        self._probability = settings["jitter_probability"]

    def __call__(self, sample: dict, rng: np.random.Generator) -> dict:
        if rng.random() >= self._probability:
            return sample
        amounts = rng.uniform(-1.0, 1.0, 4) * self._strengths + (1.0, 1.0, 1.0, 0.0)
        image = sample["image"]
        for index in rng.permutation(4):
            image = ADJUSTMENTS[index](image, float(amounts[index]))
        return sample | {"image": image}


# All of them: uint8 (h, w, 3) -> the same, rounded and clipped to 0..255. OpenCV's SIMD, several times faster than NumPy.


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Levels times `factor`."""
    return cv2.convertScaleAbs(image, alpha=factor)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Distances from the mean luma of the image times `factor`."""
    luma = float(np.dot(cv2.mean(image)[:3], LUMA))
    return cv2.addWeighted(image, factor, image, 0.0, luma * (1.0 - factor))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Distances from the pixel's own luma times `factor`."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1.0 - factor, 0.0)


def hue(image: np.ndarray, turn: float) -> np.ndarray:
    """Every hue turned by `turn` circles (-0.5..0.5), saturation and value as they are; greys stay."""
    pixels = image.astype(
        np.float32
    )  # 8 bits have too few hues; one array for all steps, since fresh memory takes longer than they do
    cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV, dst=pixels)
    cv2.add(
        pixels, (360.0 * (turn % 1.0), 0.0, 0.0, 0.0), dst=pixels
    )  # OpenCV takes more than a circle for the rest of it
    cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB, dst=pixels)
    return cv2.convertScaleAbs(pixels)


LUMA = (0.299, 0.587, 0.114)
ADJUSTMENTS = (brightness, contrast, saturation, hue)
