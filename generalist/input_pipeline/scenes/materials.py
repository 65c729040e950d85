"""Procedural materials of the scenes: a pattern of (u, v) mixes two colors on every surface.

A class owns a few recipes (pattern, ranges of hue, saturation and value). Each surface draws one
and then its own colors, scale and phase. Recipes of different classes overlap on purpose (wooden
crate, door and table; gray path and floor), so that color alone does not tell the class.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from generalist.input_pipeline.scenes.geometry import take

WALL, FLOOR, CEILING, DOOR, WINDOW, RUG, GRASS, PATH, SKY = range(9)
BALL, CRATE, BARREL, CONE, PILLAR, BUSH, TABLE = range(9, 16)
VOID = -1
HILLS = 16  # a look only: far hills are labeled void

_TILE = 256  # texels of the periodic noise tile
_TEXELS = 16  # texels per unit of (u, v)


class Materials(NamedTuple):
    """The materials of s surfaces."""

    pattern: np.ndarray  # index of the pattern, uint8 (s,)
    first: np.ndarray  # color where the pattern is 0: RGB in [0, 1], float32 (3, s)
    second: np.ndarray  # color where the pattern is 1, likewise
    scale: np.ndarray  # of the pattern, float32 (s,); mostly cycles per meter
    phase: np.ndarray  # of the pattern, in [0, 1), float32 (s,)


class Points(NamedTuple):
    """Points on surfaces, as a pattern sees them; all float32 (n,)."""

    u: np.ndarray  # in meters; angles on balls, directions in the sky
    v: np.ndarray
    scale: np.ndarray  # of the surface's material
    phase: np.ndarray
    half_u: np.ndarray  # half extents of the surface
    half_v: np.ndarray
    smooth: np.ndarray  # noise in [0, 1], of the pattern's own frequencies


class Pattern(NamedTuple):
    """A texture."""

    second_fraction: Callable[[Points], np.ndarray]  # points -> how much of the second color (n,)
    frequency_u: float  # of the points' `smooth`: features per meter
    frequency_v: float


def _noise_tile() -> np.ndarray:
    """Returns a smooth periodic noise in [0, 1], float32 (256 * 256,)."""
    rng = np.random.Generator(np.random.Philox(7))
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE)))

    # Low frequencies get most of the energy, which makes the noise smooth; the mean is removed.
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None, :]) * _TILE
    falloff = np.where(frequency > 0, 1 / (1 + (frequency / 10) ** 2), 0)
    field = np.fft.irfft2(spectrum * falloff, (_TILE, _TILE))

    # 2.5 standard deviations to each side fill [0, 1].
    return np.clip(0.5 + field / (5 * field.std()), 0, 1).astype(np.float32).ravel()


_NOISE = _noise_tile()
_WHITE = np.random.Generator(np.random.Philox(8)).random(_TILE * _TILE, dtype=np.float32)


def noise(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns smooth noise in [0, 1] at (u, v), float32 (n,); features are about one unit wide."""
    column = (u * _TEXELS).astype(np.int32) & (_TILE - 1)
    row = (v * _TEXELS).astype(np.int32) & (_TILE - 1)
    return _NOISE[row * _TILE + column]


def _fraction(x: np.ndarray) -> np.ndarray:
    return x - np.floor(x)  # ten times as fast as x % 1


def _cell(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Returns a constant random value in [0, 1] for every unit cell of (u, v)."""
    return _WHITE[(v.astype(np.int32) & (_TILE - 1)) * _TILE + (u.astype(np.int32) & (_TILE - 1))]


# The patterns: how much of the second color, (n,), at the points `p`. The offset of 64 keeps the
# cells of a pattern from being mirrored at 0, where a float is cut to an integer.


def _plaster(p: Points) -> np.ndarray:
    return 0.6 * p.smooth


def _planks(p: Points) -> np.ndarray:
    across = p.u * p.scale + 64
    seam = _fraction(across) < 0.08
    wood = 0.45 * _cell(across, p.v * 0.7 + p.phase + 64) + 0.35 * p.smooth
    return np.where(seam, 1.0, wood)


def _tiles(p: Points) -> np.ndarray:
    across = p.u * p.scale + 64
    along = p.v * p.scale + 64
    grout = np.minimum(_fraction(across), _fraction(along)) < 0.09
    return np.where(grout, 1.0, 0.3 * _cell(across, along))


def _bricks(p: Points) -> np.ndarray:
    # Every other row is shifted by half a brick.
    row = p.v * p.scale * 2 + 64
    across = p.u * p.scale + 64 + _fraction(np.floor(row) * 0.5)
    mortar = (_fraction(row) < 0.16) | (_fraction(across) < 0.08)
    return np.where(mortar, 1.0, 0.35 * _cell(across, row))


def _stripes(p: Points) -> np.ndarray:
    return np.where(_fraction(p.u * p.scale + p.phase) < 0.45, 0.85, 0.1)


def _checker(p: Points) -> np.ndarray:
    return 2 * _fraction(0.5 * (np.floor(p.u * p.scale) + np.floor(p.v * p.scale)))


def _speckle(p: Points) -> np.ndarray:
    return 0.7 * _cell(p.u * p.scale + 64, p.v * p.scale + 64) + 0.3 * p.smooth


def _rings(p: Points) -> np.ndarray:
    height = np.abs(p.v) / p.half_v
    rim_or_rust = np.where(height > 0.9, 0.8, 0.15 * p.smooth)
    return np.where(np.abs(height - 0.45) < 0.09, 1.0, rim_or_rust)


def _bands(p: Points) -> np.ndarray:
    height = p.v / p.half_v
    foot = np.where(height < -0.9, 0.5, 0.0)
    return np.where(np.abs(np.abs(height - 0.1) - 0.35) < 0.18, 1.0, foot)


def _sectors(p: Points) -> np.ndarray:
    return _fraction((p.u * (p.scale / np.pi) + p.phase) * 0.5) < 0.5


def _beachball(p: Points) -> np.ndarray:
    return np.where(np.abs(p.v - p.phase * 0.5) < 0.3, 1.0, 0.15)


def _foliage(p: Points) -> np.ndarray:
    leaves = 0.6 * p.smooth + 0.5 * _cell(p.u * p.scale * 3 + 64, p.v * p.scale * 3 + 64)
    return np.minimum(np.maximum(leaves * 1.6 - 0.4, 0), 1)


def _grass(p: Points) -> np.ndarray:
    blades = _cell(p.u * p.scale + 64, p.v * p.scale * 0.5 + 64)
    return 0.5 * blades + 0.7 * p.smooth - 0.1


def _wood(p: Points) -> np.ndarray:
    return 0.5 + 0.4 * np.sin(p.u * p.scale * 4 + p.phase * 6 + 5 * p.smooth)


def _marble(p: Points) -> np.ndarray:
    angle = p.v * p.scale + p.u * p.scale * 0.5 + p.phase * 6 + 7 * p.smooth
    return (1 - np.abs(np.sin(angle))) ** 2


def _door(p: Points) -> np.ndarray:
    across = np.abs(p.u) / p.half_u
    up = p.v / p.half_v
    panel = (np.abs(across - 0.42) < 0.28) & (np.abs(np.abs(up) - 0.45) < 0.33)
    edge = (across > 0.9) | (up > 0.95)
    knob = (np.abs(p.u - 0.8 * p.half_u) < 0.06) & (np.abs(up) < 0.05)
    return np.where(edge | knob, 1.0, np.where(panel, 0.45, 0.1)) + 0.1 * p.smooth


def _window(p: Points) -> np.ndarray:
    across = np.abs(p.u)
    up = np.abs(p.v)
    frame = (across > p.half_u - 0.08) | (up > p.half_v - 0.08)
    bars = (across < 0.035) | ((up < 0.03) & (p.phase > 0.5))
    glass = 0.35 * p.smooth * (0.5 - 0.5 * p.v / p.half_v)
    return np.where(frame | bars, 1.0, glass)


def _rug(p: Points) -> np.ndarray:
    inset = np.maximum(np.abs(p.u) / p.half_u, np.abs(p.v) / p.half_v)
    border = np.where((inset > 0.75) & (inset < 0.88), 1.0, 0.05)
    motif = np.abs(_fraction(inset * (1 + p.scale) + p.phase) - 0.5) < 0.22
    return np.where(inset < 0.7, np.where(motif, 0.75, 0.15), border)


def _crate(p: Points) -> np.ndarray:
    frame = (np.abs(p.u) > 0.78 * p.half_u) | (np.abs(p.v) > 0.78 * p.half_v)
    seam = _fraction(p.v / p.half_v * 2) < 0.14
    return np.where(frame, 0.1, np.where(seam, 1.0, 0.55)) + 0.15 * p.smooth


def _sky(p: Points) -> np.ndarray:
    clouds = np.maximum(3.5 * p.smooth - 1.9 + p.scale, 0)
    haze = 0.6 * np.maximum(1 - 2.5 * p.v, 0) ** 2
    return np.minimum(clouds + haze, 1)


PLASTER = Pattern(_plaster, 0.7, 0.7)
PLANKS = Pattern(_planks, 10, 0.5)
TILES = Pattern(_tiles, 1, 1)
BRICKS = Pattern(_bricks, 1, 1)
STRIPES = Pattern(_stripes, 1, 1)
CHECKER = Pattern(_checker, 1, 1)
SPECKLE = Pattern(_speckle, 1, 1)
RINGS = Pattern(_rings, 3, 3)
BANDS = Pattern(_bands, 1, 1)
SECTORS = Pattern(_sectors, 1, 1)
BEACHBALL = Pattern(_beachball, 1, 1)
FOLIAGE = Pattern(_foliage, 3, 3)
GRASSY = Pattern(_grass, 0.6, 0.6)
WOOD = Pattern(_wood, 0.6, 0.6)
MARBLE = Pattern(_marble, 1, 1)
PANELS = Pattern(_door, 6, 1)
PANES = Pattern(_window, 1, 1)
WOVEN = Pattern(_rug, 1, 1)
FRAMED = Pattern(_crate, 3, 6)
CLOUDS = Pattern(_sky, 4, 10)

# A material's `pattern` is an index of this table.
PATTERNS = (
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
)
_FREQUENCIES = np.array(
    [[pattern.frequency_u, pattern.frequency_v] for pattern in PATTERNS], np.float32
).T


class Recipe(NamedTuple):
    """How a class draws a material: a pattern, and uniform ranges (low, high)."""

    pattern: Pattern
    hue: tuple[float, float]  # of the first color; has period 1
    saturation: tuple[float, float]
    value: tuple[float, float]
    scale: tuple[float, float]  # of the pattern
    second: tuple[float, float, float]  # hue shift, factors of saturation and value: second color

    def row(self) -> tuple[float, ...]:
        """Returns the twelve numbers, the pattern by its index."""
        index = PATTERNS.index(self.pattern)
        return (index, *self.hue, *self.saturation, *self.value, *self.scale, *self.second)


# A recipe listed twice is drawn twice as often.
_RECIPES = {
    WALL: [
        Recipe(PLASTER, (0.05, 0.17), (0.08, 0.30), (0.68, 0.95), (1, 1), (0, 1.0, 0.82)),
        Recipe(PLASTER, (0.48, 0.66), (0.06, 0.28), (0.62, 0.92), (1, 1), (0, 1.0, 0.82)),
        Recipe(BRICKS, (0.01, 0.06), (0.30, 0.55), (0.50, 0.72), (2.0, 3.2), (0.03, 0.3, 1.35)),
        Recipe(STRIPES, (0.00, 1.00), (0.08, 0.25), (0.70, 0.92), (2.5, 5.0), (0, 1.9, 0.86)),
    ],
    FLOOR: [
        Recipe(PLANKS, (0.05, 0.10), (0.35, 0.60), (0.45, 0.72), (4, 7), (0, 1.1, 0.55)),
        Recipe(PLANKS, (0.05, 0.10), (0.35, 0.60), (0.45, 0.72), (4, 7), (0, 1.1, 0.55)),
        Recipe(TILES, (0.05, 0.60), (0.00, 0.15), (0.55, 0.82), (2, 3.5), (0, 1.0, 0.62)),
        Recipe(CHECKER, (0.00, 0.60), (0.02, 0.25), (0.65, 0.85), (1.6, 3), (0, 1.6, 0.55)),
    ],
    CEILING: [
        Recipe(PLASTER, (0.05, 0.15), (0.00, 0.07), (0.86, 1.00), (1, 1), (0, 1.0, 0.92)),
        Recipe(TILES, (0.10, 0.60), (0.00, 0.05), (0.84, 0.96), (1.2, 1.7), (0, 1.0, 0.80)),
    ],
    DOOR: [
        Recipe(PANELS, (0.04, 0.09), (0.50, 0.72), (0.32, 0.58), (1, 1), (0, 0.9, 0.55)),
        Recipe(PANELS, (0.00, 1.00), (0.30, 0.60), (0.30, 0.70), (1, 1), (0, 0.7, 1.40)),
    ],
    WINDOW: [
        Recipe(PANES, (0.52, 0.60), (0.25, 0.50), (0.85, 1.00), (1, 1), (0, 0.05, 1.0)),
        Recipe(PANES, (0.52, 0.60), (0.20, 0.45), (0.88, 1.00), (1, 1), (0.5, 1.0, 0.3)),
    ],
    RUG: [
        Recipe(WOVEN, (0.90, 1.08), (0.60, 0.90), (0.40, 0.75), (1, 4), (0.12, 0.5, 1.3)),
        Recipe(WOVEN, (0.00, 1.00), (0.50, 0.90), (0.35, 0.80), (1, 4), (0.30, 0.8, 1.2)),
        Recipe(STRIPES, (0.00, 1.00), (0.50, 0.85), (0.40, 0.80), (2, 5), (0.08, 0.3, 1.4)),
    ],
    GRASS: [Recipe(GRASSY, (0.21, 0.32), (0.45, 0.75), (0.42, 0.68), (6, 12), (0.02, 1.0, 0.55))],
    PATH: [
        Recipe(SPECKLE, (0.07, 0.12), (0.18, 0.38), (0.58, 0.82), (7, 14), (0, 1.0, 0.75)),
        Recipe(SPECKLE, (0.05, 0.60), (0.00, 0.08), (0.48, 0.72), (7, 14), (0, 1.0, 0.75)),
        Recipe(BRICKS, (0.03, 0.10), (0.12, 0.35), (0.50, 0.75), (2, 3), (0, 0.8, 0.65)),
    ],
    SKY: [
        Recipe(CLOUDS, (0.54, 0.62), (0.35, 0.65), (0.78, 1.00), (0.0, 0.3), (0, 0.12, 1.10)),
        Recipe(CLOUDS, (0.55, 0.62), (0.05, 0.20), (0.70, 0.92), (0.0, 0.4), (0, 0.5, 1.15)),
        Recipe(CLOUDS, (0.58, 0.66), (0.25, 0.45), (0.65, 0.90), (0.0, 0.2), (0.45, 1.0, 1.15)),
    ],
    BALL: [
        Recipe(SECTORS, (0.00, 1.00), (0.75, 1.00), (0.70, 1.00), (2, 4.9), (0, 0.05, 1.3)),
        Recipe(SECTORS, (0.00, 1.00), (0.75, 1.00), (0.70, 1.00), (2, 4.9), (0.30, 1.0, 1.0)),
        Recipe(BEACHBALL, (0.00, 1.00), (0.80, 1.00), (0.75, 1.00), (1, 1), (0.15, 0.6, 1.1)),
    ],
    CRATE: [Recipe(FRAMED, (0.06, 0.11), (0.42, 0.65), (0.55, 0.80), (1, 1), (0, 1.1, 0.50))],
    BARREL: [
        Recipe(RINGS, (0.54, 0.66), (0.55, 0.85), (0.35, 0.65), (1, 1), (0, 0.4, 0.45)),
        Recipe(RINGS, (0.00, 0.06), (0.55, 0.80), (0.35, 0.60), (1, 1), (0, 0.2, 0.5)),
        Recipe(RINGS, (0.30, 0.45), (0.40, 0.70), (0.30, 0.50), (1, 1), (0, 0.3, 1.7)),
    ],
    CONE: [
        Recipe(BANDS, (0.02, 0.07), (0.88, 1.00), (0.88, 1.00), (1, 1), (0, 0.04, 1.0)),
        Recipe(BANDS, (0.02, 0.07), (0.88, 1.00), (0.88, 1.00), (1, 1), (0, 0.04, 1.0)),
        Recipe(BANDS, (0.13, 0.17), (0.80, 1.00), (0.85, 1.00), (1, 1), (0, 0.5, 0.2)),
    ],
    PILLAR: [
        Recipe(MARBLE, (0.05, 0.15), (0.00, 0.14), (0.75, 0.98), (2, 5), (0, 1.5, 0.55)),
        Recipe(MARBLE, (0.40, 0.60), (0.03, 0.15), (0.45, 0.75), (2, 5), (0, 1.0, 1.5)),
    ],
    BUSH: [Recipe(FOLIAGE, (0.25, 0.40), (0.50, 0.80), (0.30, 0.52), (2, 4), (-0.02, 1.0, 0.35))],
    TABLE: [
        Recipe(WOOD, (0.03, 0.09), (0.50, 0.75), (0.35, 0.65), (2, 4), (0, 1.0, 0.65)),
        Recipe(WOOD, (0.05, 0.12), (0.05, 0.30), (0.75, 0.95), (2, 4), (0, 1.2, 0.85)),
    ],
    HILLS: [Recipe(PLASTER, (0.55, 0.68), (0.15, 0.40), (0.35, 0.60), (1, 1), (0, 1.0, 0.75))],
    VOID: [
        Recipe(SPECKLE, (0.75, 0.90), (0.40, 0.90), (0.30, 0.90), (6, 14), (0.20, 1.0, 0.5)),
        Recipe(STRIPES, (0.55, 0.75), (0.02, 0.20), (0.55, 0.95), (4, 12), (0.0, 1.0, 0.35)),
    ],
}


def _recipe_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lays all recipes out in one table, so that surfaces of all classes draw at once.

    Returns:
      rows: float32 (r, 12), see `Recipe.row`.
      first: the first row of each class, int (classes,); index -1 is VOID.
      count: the number of rows of each class, int (classes,).
    """
    # VOID is -1, which the modulus puts last, where index -1 finds it.
    classes = sorted(_RECIPES, key=lambda label: label % (HILLS + 2))
    count = np.array([len(_RECIPES[label]) for label in classes])

    rows = []
    for label in classes:
        rows += [recipe.row() for recipe in _RECIPES[label]]
    return np.array(rows, np.float32), np.cumsum(count) - count, count


_ROWS, _FIRST, _COUNT = _recipe_table()


def hsv_to_rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Converts colors.

    Args:
      hue: any real numbers of period 1, (..., n).
      saturation: in [0, 1], (..., n).
      value: in [0, 1], (..., n).

    Returns:
      RGB in [0, 1], (3, ..., n).
    """
    # Each channel rises and falls with the distance to its own hue on the circle.
    shift = np.array([0, 2 / 3, 1 / 3], np.float32).reshape(3, *[1] * hue.ndim)
    ramp = np.abs(_fraction(hue + shift) * 6 - 3) - 1
    return value * (1 - saturation * (1 - np.minimum(np.maximum(ramp, 0), 1)))


def sample_materials(rng: np.random.Generator, classes: np.ndarray) -> Materials:
    """Draws a material for each surface.

    Args:
      rng: numpy Generator.
      classes: int (s,): 0..15, VOID for objects of no class, or HILLS.
    """
    draw = rng.random((7, len(classes)), dtype=np.float32)
    row = _ROWS[_FIRST[classes] + (draw[0] * _COUNT[classes]).astype(int)].T

    # A row is the pattern, four ranges, and how the second color follows from the first.
    low = row[1:9:2]
    high = row[2:9:2]
    hue, saturation, value, scale = low + (high - low) * draw[1:5]
    hue_shift, saturation_factor, value_factor = row[9:]

    # The shift of hue varies, so that two surfaces of one recipe differ in their contrast, too.
    hues = np.array([hue, hue + hue_shift * (0.7 + 0.6 * draw[6])])
    saturations = np.minimum([saturation, saturation * saturation_factor], 1)
    values = np.minimum([value, value * value_factor], 1)
    first, second = hsv_to_rgb(hues, saturations, values).swapaxes(0, 1)
    return Materials(row[0].astype(np.uint8), first, second, scale, draw[5])


def mix(
    patterns: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    scale: np.ndarray,
    phase: np.ndarray,
    half_u: np.ndarray,
    half_v: np.ndarray,
) -> np.ndarray:
    """Evaluates the patterns of n surface points.

    Args:
      patterns: which pattern each point has, uint8 (n,).
      u: texture coordinate, float32 (n,) as all that follow; see `Points`.
      v: the other texture coordinate.
      scale: of the surface's material.
      phase: of the surface's material.
      half_u: half extent of the surface along u.
      half_v: half extent of the surface along v.

    Returns:
      How much of the second color each point has, in about [0, 1], float32 (n,).
    """
    across, along = take(_FREQUENCIES, patterns)
    smooth = noise(u * across + 16 * phase, v * along)

    # Sorted by pattern, the points of each are one slice: a call a pattern instead of masks.
    order = patterns.argsort(kind="stable")
    points = take(np.array([u, v, scale, phase, half_u, half_v, smooth]), order)
    ends = np.cumsum(np.bincount(patterns, minlength=len(PATTERNS))).tolist()

    ordered = np.empty(patterns.shape, np.float32)
    for pattern, start, end in zip(PATTERNS, [0, *ends[:-1]], ends, strict=True):
        if end > start:
            ordered[start:end] = pattern.second_fraction(Points(*points[:, start:end]))

    # Back into the order of the points.
    fraction = np.empty(patterns.shape, np.float32)
    fraction[order] = ordered
    return fraction
