"""Degradations of clean pictures, sensor noise, rain and darkness: functions `f(image, rng, strength=None) -> image`.

`image` is uint8 (h, w, 3); `rng` a numpy Generator that alone decides the result; `strength` in [0, 1] from mild to
severe, drawn from `rng` when None, ValueError outside. The result is a new uint8 (h, w, 3). PSNR is told for the built-in
scenes: the range that nine tenths of them fall in.
"""

import numpy as np


def _strength(rng: np.random.Generator, strength: float | None) -> np.float32:
    if strength is not None and not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength!r}; it goes from 0 (mild) to 1 (severe), or None to draw it"
        )
    return np.float32(rng.random() if strength is None else strength)


def _bytes(image: np.ndarray) -> np.ndarray:
    """uint8 of an image in [0, 1], rounded."""
    return (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _sensor_noise(
    image: np.ndarray, rng: np.random.Generator, shot: np.float32, read: np.float32
) -> np.ndarray:
    """Adds noise of variance shot * signal + read**2, a third of it shared by the channels, to float32 (h, w, 3)."""
    h, w, _ = image.shape
    colour = rng.standard_normal((h, w, 3), dtype=np.float32)
    grey = rng.standard_normal((h, w, 1), dtype=np.float32)
    deviation = np.sqrt(shot * image + read * read)
    return image + deviation * (np.float32(0.816) * colour + np.float32(0.577) * grey)


def add_noise(
    image: np.ndarray, rng: np.random.Generator, strength: float | None = None
) -> np.ndarray:
    """Signal-dependent sensor noise, Gaussian of variance shot * signal + read**2: PSNR 21 (mild) to 15 dB (severe)."""
    strength = _strength(rng, strength)
    share = np.float32(rng.random())
    level = np.float32(0.085) + np.float32(0.105) * strength  # standard deviation at mid grey
    clean = image.astype(np.float32) / np.float32(255)
    return _bytes(
        _sensor_noise(
            clean, rng, level**2 * (1 + share), level * np.sqrt(np.float32(0.5) * (1 - share))
        )
    )


def add_rain(
    image: np.ndarray, rng: np.random.Generator, strength: float | None = None
) -> np.ndarray:
    """Bright motion-blurred streaks of one direction, and haze: PSNR 24 (mild) to 18 dB (severe)."""
    strength = _strength(rng, strength)
    h, w, _ = image.shape
    tilt, length, haze = rng.random(3, dtype=np.float32)
    reach = max(int((0.08 + 0.12 * length) * h), 3)
    count = int((0.10 + 0.22 * strength) * h * w / reach) + 1
    start = rng.random((3, count), dtype=np.float32) * np.array(
        [[h + reach], [w + h], [1]], np.float32
    )
    steps = np.arange(reach, dtype=np.float32)[:, None]
    rows = (start[0] - steps).astype(np.int32)
    columns = (start[1] + (tilt - np.float32(0.5)) * steps).astype(np.int32) % w
    fade = (1 - np.abs(2 * steps / reach - 1)) * 0.7 + 0.3
    inside = (rows >= 0) & (rows < h)
    streaks = np.zeros(h * w, np.float32)
    np.maximum.at(streaks, (rows * w + columns)[inside], ((0.4 + 0.4 * start[2]) * fade)[inside])
    clean = image.astype(np.float32) / np.float32(255)
    veil = (0.03 + 0.10 * haze) * (0.3 + 0.7 * strength)
    hazy = clean + (np.float32(0.75) - clean) * np.float32(veil)
    return _bytes(hazy + (np.float32(0.92) - hazy) * streaks.reshape(h, w, 1))


def low_light(
    image: np.ndarray, rng: np.random.Generator, strength: float | None = None
) -> np.ndarray:
    """Under-exposure: gain 0.35 (mild) to 0.08 (severe), gamma 1.0 to 1.2, then sensor noise: PSNR 10 to 6 dB."""
    strength = _strength(rng, strength)
    bend, shot = rng.random(2, dtype=np.float32)
    gain = np.float32(0.35) - np.float32(0.27) * strength
    clean = image.astype(np.float32) / np.float32(255)
    dark = gain * clean ** (1 + np.float32(0.2) * bend)
    return _bytes(
        _sensor_noise(dark, rng, np.float32(0.0006) + np.float32(0.0012) * shot, np.float32(0.008))
    )
