"""Degradations of clean pictures: sensor noise, rain and darkness.

Each is a function `f(image, rng, strength=None) -> image`.

Args:
  image: uint8 (h, w, 3); it stays as it is, the result is a new array of the same form.
  rng: numpy Generator; it alone decides the result.
  strength: from 0 (mild) to 1 (severe); None draws it from `rng`.

Raises:
  ValueError: strength outside [0, 1].

The PSNR in each docstring is the range that nine tenths of the built-in scenes fall in.
"""

import numpy as np


def _checked_strength(rng: np.random.Generator, strength: float | None) -> np.float32:
    if strength is None:
        return np.float32(rng.random())
    if not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {strength!r}; it goes from 0 (mild) to 1 (severe), or None to draw it"
        )
    return np.float32(strength)


def _to_bytes(image: np.ndarray) -> np.ndarray:
    """Rounds an image in [0, 1] to uint8."""
    return (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _add_sensor_noise(
    image: np.ndarray,  # float32 (h, w, 3) in [0, 1]
    rng: np.random.Generator,
    shot: np.float32,  # variance per unit of signal: the photons' noise
    read: np.float32,  # standard deviation in the dark: the electronics' noise
) -> np.ndarray:
    """Adds Gaussian noise of variance shot * signal + read**2, float32 (h, w, 3)."""
    h, w, _ = image.shape
    color = rng.standard_normal((h, w, 3), dtype=np.float32)
    gray = rng.standard_normal((h, w, 1), dtype=np.float32)

    # A third of the variance is shared by the three channels: 0.816**2 + 0.577**2 = 1.
    unit_noise = np.float32(0.816) * color + np.float32(0.577) * gray
    deviation = np.sqrt(shot * image + read * read)
    return image + deviation * unit_noise


def add_noise(
    image: np.ndarray, rng: np.random.Generator, strength: float | None = None
) -> np.ndarray:
    """Adds signal-dependent sensor noise: PSNR 21 (mild) to 15 dB (severe).

    The noise is Gaussian of variance shot * signal + read**2.
    """
    strength = _checked_strength(rng, strength)
    shot_fraction = np.float32(rng.random())

    # Standard deviation at mid gray, where the fraction decides which kind of noise makes it up.
    level = np.float32(0.085) + np.float32(0.105) * strength
    shot = level**2 * (1 + shot_fraction)
    read = level * np.sqrt(np.float32(0.5) * (1 - shot_fraction))

    clean = image.astype(np.float32) / np.float32(255)
    return _to_bytes(_add_sensor_noise(clean, rng, shot, read))


def add_rain(
    image: np.ndarray, rng: np.random.Generator, strength: float | None = None
) -> np.ndarray:
    """Adds bright motion-blurred streaks of one direction, and haze: PSNR 24 to 18 dB."""
    strength = _checked_strength(rng, strength)
    h, w, _ = image.shape
    tilt, length, haze = rng.random(3, dtype=np.float32)

    # Longer streaks cover more pixels each, so fewer of them make the same rain.
    reach = max(int((0.08 + 0.12 * length) * h), 3)
    count = int((0.10 + 0.22 * strength) * h * w / reach) + 1
    extent = np.array([[h + reach], [w + h], [1]], np.float32)
    row, column, brightness = rng.random((3, count), dtype=np.float32) * extent

    # The pixels (reach, count) of every streak, from its lowest one up.
    steps = np.arange(reach, dtype=np.float32)[:, None]
    rows = (row - steps).astype(np.int32)
    columns = (column + (tilt - np.float32(0.5)) * steps).astype(np.int32) % w
    inside = (rows >= 0) & (rows < h)

    # A drop that moves through the exposure is brightest in the middle of its way.
    fade = (1 - np.abs(2 * steps / reach - 1)) * 0.7 + 0.3
    values = (0.4 + 0.4 * brightness) * fade
    streaks = np.zeros(h * w, np.float32)
    np.maximum.at(streaks, (rows * w + columns)[inside], values[inside])

    # Haze first, since the drops near the camera are in front of it.
    clean = image.astype(np.float32) / np.float32(255)
    veil = (0.03 + 0.10 * haze) * (0.3 + 0.7 * strength)
    hazy = clean + (np.float32(0.75) - clean) * np.float32(veil)
    return _to_bytes(hazy + (np.float32(0.92) - hazy) * streaks.reshape(h, w, 1))


def low_light(
    image: np.ndarray, rng: np.random.Generator, strength: float | None = None
) -> np.ndarray:
    """Under-exposes: gain 0.35 (mild) to 0.08 (severe), then sensor noise: PSNR 10 to 6 dB."""
    strength = _checked_strength(rng, strength)
    bend, shot = rng.random(2, dtype=np.float32)

    # Besides the gain, a gamma between 1.0 and 1.2: cameras crush the shadows differently.
    gain = np.float32(0.35) - np.float32(0.27) * strength
    clean = image.astype(np.float32) / np.float32(255)
    dark = gain * clean ** (1 + np.float32(0.2) * bend)

    shot = np.float32(0.0006) + np.float32(0.0012) * shot
    return _to_bytes(_add_sensor_noise(dark, rng, shot, np.float32(0.008)))
