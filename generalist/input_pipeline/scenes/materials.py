"""Procedural materials of the scenes: every surface is a mix of two colours by one scalar pattern of (u, v).

A class owns a few recipes (pattern kind, hue, saturation and value ranges); each surface draws one and then its own
colours, scale and phase. Recipes of different classes overlap on purpose (wooden crate, door and table; grey path and
floor), so that colour alone does not tell the class.
"""

from typing import NamedTuple

import numpy as np

from generalist.input_pipeline.scenes.geometry import take

WALL, FLOOR, CEILING, DOOR, WINDOW, RUG, GRASS, PATH, SKY = range(9)
BALL, CRATE, BARREL, CONE, PILLAR, BUSH, TABLE = range(9, 16)
VOID = -1
HILLS = 16  # a look only: far hills are labelled void

_TILE = 256  # texels of the periodic noise tile
_TEXELS = 16  # texels per unit of (u, v)


class Materials(NamedTuple):
    """`kind` uint8 (s,); `first`, `second` colour float32 (3, s) RGB in [0, 1]; `scale`, `phase` float32 (s,)."""

    kind: np.ndarray
    first: np.ndarray
    second: np.ndarray
    scale: np.ndarray
    phase: np.ndarray


def _noise_tile() -> np.ndarray:
    """A smooth periodic noise in [0, 1], float32 (256 * 256,): sum of octaves shaped in the Fourier domain."""
    spectrum = np.fft.rfft2(
        np.random.Generator(np.random.Philox(7)).standard_normal((_TILE, _TILE))
    )
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :]) * _TILE
    falloff = np.where(frequency > 0, 1 / (1 + (frequency / 10) ** 2), 0)
    field = np.fft.irfft2(spectrum * falloff, (_TILE, _TILE))
    return np.clip(0.5 + field / (5 * field.std()), 0, 1).astype(np.float32).ravel()


_NOISE = _noise_tile()
_WHITE = np.random.Generator(np.random.Philox(8)).random(_TILE * _TILE, dtype=np.float32)


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Smooth noise in [0, 1] at (u, v): features about one unit wide; arguments and result float32 (n,)."""
    column = (u * _TEXELS).astype(np.int32) & (_TILE - 1)
    row = (v * _TEXELS).astype(np.int32) & (_TILE - 1)
    return _NOISE[row * _TILE + column]


def _fraction(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)  # ten times as fast as x % 1


def _cell(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A constant random value in [0, 1] for every unit cell."""
    return _WHITE[(v.astype(np.int32) & (_TILE - 1)) * _TILE + (u.astype(np.int32) & (_TILE - 1))]


# The patterns: share of the second colour, (n,), at (u, v); `smooth` is noise in [0, 1]; the rest as in `mix`.


def _plaster(u, v, scale, phase, half_u, half_v, smooth):
    return 0.6 * smooth


def _planks(u, v, scale, phase, half_u, half_v, smooth):
    across = u * scale + 64
    seam = _fraction(across) < 0.08
    return np.where(seam, 1.0, 0.45 * _cell(across, v * 0.7 + phase + 64) + 0.35 * smooth)


def _tiles(u, v, scale, phase, half_u, half_v, smooth):
    across, along = u * scale + 64, v * scale + 64
    grout = np.minimum(_fraction(across), _fraction(along)) < 0.09
    return np.where(grout, 1.0, 0.3 * _cell(across, along))


def _bricks(u, v, scale, phase, half_u, half_v, smooth):
    row = v * scale * 2 + 64
    across = u * scale + 64 + _fraction(np.floor(row) * 0.5)
    mortar = (_fraction(row) < 0.16) | (_fraction(across) < 0.08)
    return np.where(mortar, 1.0, 0.35 * _cell(across, row))


def _stripes(u, v, scale, phase, half_u, half_v, smooth):
    return np.where(_fraction(u * scale + phase) < 0.45, 0.85, 0.1)


def _checker(u, v, scale, phase, half_u, half_v, smooth):
    return 2 * _fraction(0.5 * (np.floor(u * scale) + np.floor(v * scale)))


def _speckle(u, v, scale, phase, half_u, half_v, smooth):
    return 0.7 * _cell(u * scale + 64, v * scale + 64) + 0.3 * smooth


def _rings(u, v, scale, phase, half_u, half_v, smooth):
    height = np.abs(v) / half_v
    return np.where(np.abs(height - 0.45) < 0.09, 1.0, np.where(height > 0.9, 0.8, 0.15 * smooth))


def _bands(u, v, scale, phase, half_u, half_v, smooth):
    height = v / half_v
    return np.where(
        np.abs(np.abs(height - 0.1) - 0.35) < 0.18, 1.0, np.where(height < -0.9, 0.5, 0.0)
    )


def _sectors(u, v, scale, phase, half_u, half_v, smooth):
    return _fraction((u * (scale / np.pi) + phase) * 0.5) < 0.5


def _beachball(u, v, scale, phase, half_u, half_v, smooth):
    return np.where(np.abs(v - phase * 0.5) < 0.3, 1.0, 0.15)


def _foliage(u, v, scale, phase, half_u, half_v, smooth):
    leaves = 0.6 * smooth + 0.5 * _cell(u * scale * 3 + 64, v * scale * 3 + 64)
    return np.minimum(np.maximum(leaves * 1.6 - 0.4, 0), 1)


def _grass(u, v, scale, phase, half_u, half_v, smooth):
    blades = _cell(u * scale + 64, v * scale * 0.5 + 64)
    return 0.5 * blades + 0.7 * smooth - 0.1


def _wood(u, v, scale, phase, half_u, half_v, smooth):
    return 0.5 + 0.4 * np.sin(u * scale * 4 + phase * 6 + 5 * smooth)


def _marble(u, v, scale, phase, half_u, half_v, smooth):
    veins = np.abs(np.sin(v * scale + u * scale * 0.5 + phase * 6 + 7 * smooth))
    return (1 - veins) ** 2


def _door(u, v, scale, phase, half_u, half_v, smooth):
    across, up = np.abs(u) / half_u, v / half_v
    panel = (np.abs(across - 0.42) < 0.28) & (np.abs(np.abs(up) - 0.45) < 0.33)
    edge = (across > 0.9) | (up > 0.95)
    knob = (np.abs(u - 0.8 * half_u) < 0.06) & (np.abs(up) < 0.05)
    return np.where(edge | knob, 1.0, np.where(panel, 0.45, 0.1)) + 0.1 * smooth


def _window(u, v, scale, phase, half_u, half_v, smooth):
    across, up = np.abs(u), np.abs(v)
    frame = (
        (across > half_u - 0.08)
        | (up > half_v - 0.08)
        | (across < 0.035)
        | ((up < 0.03) & (phase > 0.5))
    )
    return np.where(frame, 1.0, 0.35 * smooth * (0.5 - 0.5 * v / half_v))


def _rug(u, v, scale, phase, half_u, half_v, smooth):
    inset = np.maximum(np.abs(u) / half_u, np.abs(v) / half_v)
    border = np.where((inset > 0.75) & (inset < 0.88), 1.0, 0.05)
    motif = np.abs(_fraction(inset * (1 + scale) + phase) - 0.5) < 0.22
    return np.where(inset < 0.7, np.where(motif, 0.75, 0.15), border)


def _crate(u, v, scale, phase, half_u, half_v, smooth):
    frame = (np.abs(u) > 0.78 * half_u) | (np.abs(v) > 0.78 * half_v)
    seam = _fraction(v / half_v * 2) < 0.14
    return np.where(frame, 0.1, np.where(seam, 1.0, 0.55)) + 0.15 * smooth


def _sky(u, v, scale, phase, half_u, half_v, smooth):
    clouds = np.maximum(3.5 * smooth - 1.9 + scale, 0)
    return np.minimum(clouds + 0.6 * np.maximum(1 - 2.5 * v, 0) ** 2, 1)


# every pattern, with the frequencies along u and v (per metre) of the smooth noise it is given
_PATTERNS = (
    (_plaster, 0.7, 0.7),
    (_planks, 10, 0.5),
    (_tiles, 1, 1),
    (_bricks, 1, 1),
    (_stripes, 1, 1),
    (_checker, 1, 1),
    (_speckle, 1, 1),
    (_rings, 3, 3),
    (_bands, 1, 1),
    (_sectors, 1, 1),
    (_beachball, 1, 1),
    (_foliage, 3, 3),
    (_grass, 0.6, 0.6),
    (_wood, 0.6, 0.6),
    (_marble, 1, 1),
    (_door, 6, 1),
    (_window, 1, 1),
    (_rug, 1, 1),
    (_crate, 3, 6),
    (_sky, 4, 10),
)
_FREQUENCIES = np.array([pattern[1:] for pattern in _PATTERNS], np.float32).T
(
    PLASTER,
    PLANKS,
    TILES,
    BRICKS,
    STRIPES,
    CHECKER,
    SPECKLE,
    RINGS,
    BANDS,
    SECTORS,
    BEACHBALL,
    FOLIAGE,
    GRASSY,
    WOOD,
    MARBLE,
    PANELS,
    PANES,
    WOVEN,
    FRAMED,
    CLOUDS,
) = range(len(_PATTERNS))

# class: recipes of (pattern, ranges of hue, saturation, value and scale of the first colour, then hue shift and factors
# of saturation and value that give the second)
_RECIPES = {
    WALL: [
        (PLASTER, (0.05, 0.17), (0.08, 0.30), (0.68, 0.95), (1, 1), (0, 1.0, 0.82)),
        (PLASTER, (0.48, 0.66), (0.06, 0.28), (0.62, 0.92), (1, 1), (0, 1.0, 0.82)),
        (BRICKS, (0.01, 0.06), (0.30, 0.55), (0.50, 0.72), (2.0, 3.2), (0.03, 0.3, 1.35)),
        (STRIPES, (0.00, 1.00), (0.08, 0.25), (0.70, 0.92), (2.5, 5.0), (0, 1.9, 0.86)),
    ],
    FLOOR: [
        (PLANKS, (0.05, 0.10), (0.35, 0.60), (0.45, 0.72), (4, 7), (0, 1.1, 0.55)),
        (PLANKS, (0.05, 0.10), (0.35, 0.60), (0.45, 0.72), (4, 7), (0, 1.1, 0.55)),
        (TILES, (0.05, 0.60), (0.00, 0.15), (0.55, 0.82), (2, 3.5), (0, 1.0, 0.62)),
        (CHECKER, (0.00, 0.60), (0.02, 0.25), (0.65, 0.85), (1.6, 3), (0, 1.6, 0.55)),
    ],
    CEILING: [
        (PLASTER, (0.05, 0.15), (0.00, 0.07), (0.86, 1.00), (1, 1), (0, 1.0, 0.92)),
        (TILES, (0.10, 0.60), (0.00, 0.05), (0.84, 0.96), (1.2, 1.7), (0, 1.0, 0.80)),
    ],
    DOOR: [
        (PANELS, (0.04, 0.09), (0.50, 0.72), (0.32, 0.58), (1, 1), (0, 0.9, 0.55)),
        (PANELS, (0.00, 1.00), (0.30, 0.60), (0.30, 0.70), (1, 1), (0, 0.7, 1.40)),
    ],
    WINDOW: [
        (PANES, (0.52, 0.60), (0.25, 0.50), (0.85, 1.00), (1, 1), (0, 0.05, 1.0)),
        (PANES, (0.52, 0.60), (0.20, 0.45), (0.88, 1.00), (1, 1), (0.5, 1.0, 0.3)),
    ],
    RUG: [
        (WOVEN, (0.90, 1.08), (0.60, 0.90), (0.40, 0.75), (1, 4), (0.12, 0.5, 1.3)),
        (WOVEN, (0.00, 1.00), (0.50, 0.90), (0.35, 0.80), (1, 4), (0.30, 0.8, 1.2)),
        (STRIPES, (0.00, 1.00), (0.50, 0.85), (0.40, 0.80), (2, 5), (0.08, 0.3, 1.4)),
    ],
    GRASS: [(GRASSY, (0.21, 0.32), (0.45, 0.75), (0.42, 0.68), (6, 12), (0.02, 1.0, 0.55))],
    PATH: [
        (SPECKLE, (0.07, 0.12), (0.18, 0.38), (0.58, 0.82), (7, 14), (0, 1.0, 0.75)),
        (SPECKLE, (0.05, 0.60), (0.00, 0.08), (0.48, 0.72), (7, 14), (0, 1.0, 0.75)),
        (BRICKS, (0.03, 0.10), (0.12, 0.35), (0.50, 0.75), (2, 3), (0, 0.8, 0.65)),
    ],
    SKY: [
        (CLOUDS, (0.54, 0.62), (0.35, 0.65), (0.78, 1.00), (0.0, 0.3), (0, 0.12, 1.10)),
        (CLOUDS, (0.55, 0.62), (0.05, 0.20), (0.70, 0.92), (0.0, 0.4), (0, 0.5, 1.15)),
        (CLOUDS, (0.58, 0.66), (0.25, 0.45), (0.65, 0.90), (0.0, 0.2), (0.45, 1.0, 1.15)),
    ],
    BALL: [
        (SECTORS, (0.00, 1.00), (0.75, 1.00), (0.70, 1.00), (2, 4.9), (0, 0.05, 1.3)),
        (SECTORS, (0.00, 1.00), (0.75, 1.00), (0.70, 1.00), (2, 4.9), (0.30, 1.0, 1.0)),
        (BEACHBALL, (0.00, 1.00), (0.80, 1.00), (0.75, 1.00), (1, 1), (0.15, 0.6, 1.1)),
    ],
    CRATE: [(FRAMED, (0.06, 0.11), (0.42, 0.65), (0.55, 0.80), (1, 1), (0, 1.1, 0.50))],
    BARREL: [
        (RINGS, (0.54, 0.66), (0.55, 0.85), (0.35, 0.65), (1, 1), (0, 0.4, 0.45)),
        (RINGS, (0.00, 0.06), (0.55, 0.80), (0.35, 0.60), (1, 1), (0, 0.2, 0.5)),
        (RINGS, (0.30, 0.45), (0.40, 0.70), (0.30, 0.50), (1, 1), (0, 0.3, 1.7)),
    ],
    CONE: [
        (BANDS, (0.02, 0.07), (0.88, 1.00), (0.88, 1.00), (1, 1), (0, 0.04, 1.0)),
        (BANDS, (0.02, 0.07), (0.88, 1.00), (0.88, 1.00), (1, 1), (0, 0.04, 1.0)),
        (BANDS, (0.13, 0.17), (0.80, 1.00), (0.85, 1.00), (1, 1), (0, 0.5, 0.2)),
    ],
    PILLAR: [
        (MARBLE, (0.05, 0.15), (0.00, 0.14), (0.75, 0.98), (2, 5), (0, 1.5, 0.55)),
        (MARBLE, (0.40, 0.60), (0.03, 0.15), (0.45, 0.75), (2, 5), (0, 1.0, 1.5)),
    ],
    BUSH: [(FOLIAGE, (0.25, 0.40), (0.50, 0.80), (0.30, 0.52), (2, 4), (-0.02, 1.0, 0.35))],
    TABLE: [
        (WOOD, (0.03, 0.09), (0.50, 0.75), (0.35, 0.65), (2, 4), (0, 1.0, 0.65)),
        (WOOD, (0.05, 0.12), (0.05, 0.30), (0.75, 0.95), (2, 4), (0, 1.2, 0.85)),
    ],
    HILLS: [(PLASTER, (0.55, 0.68), (0.15, 0.40), (0.35, 0.60), (1, 1), (0, 1.0, 0.75))],
    VOID: [
        (SPECKLE, (0.75, 0.90), (0.40, 0.90), (0.30, 0.90), (6, 14), (0.20, 1.0, 0.5)),
        (STRIPES, (0.55, 0.75), (0.02, 0.20), (0.55, 0.95), (4, 12), (0.0, 1.0, 0.35)),
    ],
}


def _recipe_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All recipes as rows of float32 (r, 12), and per class (index -1 last) the first row and the number of rows."""
    classes = sorted(_RECIPES, key=lambda name: name % (HILLS + 2))
    counts = np.array([len(_RECIPES[name]) for name in classes])
    rows = [
        (kind, *hue, *saturation, *value, *scale, *second)
        for name in classes
        for kind, hue, saturation, value, scale, second in _RECIPES[name]
    ]
    return np.array(rows, np.float32), np.cumsum(counts) - counts, counts


_ROWS, _FIRST, _COUNT = _recipe_table()


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """RGB (3, ..., n) in [0, 1] of hue (any real, period 1), saturation and value in [0, 1], each (..., n)."""
    shift = np.array([0, 2 / 3, 1 / 3], np.float32).reshape(3, *[1] * hue.ndim)
    ramp = np.abs(_fraction(hue + shift) * 6 - 3) - 1
    return value * (1 - saturation * (1 - np.minimum(np.maximum(ramp, 0), 1)))


def sample_materials(rng: np.random.Generator, classes: np.ndarray) -> Materials:
    """Draw a material for each surface; `classes` int (s,): 0..15, VOID for objects of no class, or HILLS."""
    draw = rng.random((7, len(classes)), dtype=np.float32)
    row = _ROWS[_FIRST[classes] + (draw[0] * _COUNT[classes]).astype(int)].T
    low, high = row[1:9:2], row[2:9:2]
    hue, saturation, value, scale = low + (high - low) * draw[1:5]
    hues = np.array([hue, hue + row[9] * (0.7 + 0.6 * draw[6])])
    saturations, values = (
        np.minimum([saturation, saturation * row[10]], 1),
        np.minimum([value, value * row[11]], 1),
    )
    first, second = hsv_to_rgb(hues, saturations, values).swapaxes(0, 1)
    return Materials(row[0].astype(np.uint8), first, second, scale, draw[5])


def mix(kinds: np.ndarray, u, v, scale, phase, half_u, half_v) -> np.ndarray:
    """Share of the second colour, float32 (n,) in about [0, 1], of n surface points.

    `kinds` uint8 (n,) selects the pattern; `u`, `v` are surface coordinates in metres (angles on balls, directions in
    the sky), `half_u`, `half_v` the half extents of the surface, `scale` and `phase` its own; all float32 (n,).
    """
    across, along = take(_FREQUENCIES, kinds)
    smooth = noise(u * across + 16 * phase, v * along)
    order = kinds.argsort(kind="stable")
    arguments = take(np.array([u, v, scale, phase, half_u, half_v, smooth]), order)
    ordered, out = np.empty(kinds.shape, np.float32), np.empty(kinds.shape, np.float32)
    end = np.cumsum(np.bincount(kinds, minlength=len(_PATTERNS))).tolist()
    for (pattern, *_), start, stop in zip(_PATTERNS, [0, *end], end):
        if stop > start:
            ordered[start:stop] = pattern(*arguments[:, start:stop])
    out[order] = ordered
    return out
