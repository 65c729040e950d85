"""Captions of the built-in scenes, from what the picture shows and from nothing else.

"a room with two red balls on the left, a brown wooden crate nearby and white walls"

Whatever a caption names covers enough pixels to be seen. Colors are those of the rendered pixels,
light and shadow included, so that they are what a person would say. All words are lower-case and
the vocabulary is small.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from generalist.input_pipeline.scenes import materials
from generalist.input_pipeline.scenes.renderer import Scene
from generalist.tasks.palettes import SCENES_CATEGORIES

MAX_WORDS = 24
_VISIBLE = 1 / 256  # fraction of the picture that a thing or surface must cover to be named
_NEAR = 3.0  # meters: closer things are "nearby"
_FAR = 6.0  # meters: farther things are "far away"
_SECOND_COLOR = 0.3  # fraction of a segment's pixels that earns its second color a word
_MATERIAL = 0.5  # fraction of a segment's pixels that must wear a pattern for its word

_CLASSES = tuple(category["name"] for category in SCENES_CATEGORIES)
_PLURALS = tuple("bushes" if name == "bush" else f"{name}s" for name in _CLASSES)
_NUMBERS = ("no", "a", "two", "three", "four", "five", "six")  # more are "many"
_SIDES = ("on the left", "in the middle", "on the right")

# The names of colors, and where in sRGB each lies: light, dark, and what lies between.
_COLORS = {
    "red": ((200, 30, 30), (140, 25, 25), (230, 70, 60)),
    "orange": ((240, 130, 20), (255, 160, 60), (215, 105, 20)),
    "yellow": ((240, 220, 40), (200, 180, 30), (245, 235, 130)),
    "green": ((40, 140, 50), (90, 170, 70), (30, 80, 30), (130, 200, 90), (90, 110, 40)),
    "blue": ((40, 70, 190), (80, 140, 220), (30, 40, 110), (150, 200, 240), (80, 100, 140)),
    "purple": ((120, 50, 160), (150, 100, 190), (80, 40, 100), (155, 140, 185)),
    "pink": ((240, 130, 170), (220, 80, 150), (240, 180, 190), (190, 140, 145)),
    "brown": ((120, 75, 40), (85, 50, 25), (160, 110, 65), (60, 40, 25), (185, 140, 95)),
    "beige": ((225, 205, 170), (190, 175, 145), (150, 140, 110)),
    "white": ((245, 245, 245), (222, 222, 218)),
    "gray": ((130, 130, 130), (90, 90, 90), (165, 165, 165), (190, 190, 190)),
    "black": ((15, 15, 15), (40, 40, 40)),
}
_COLOR_NAMES = tuple(_COLORS)

# What a surface of a class that wears a pattern is made of; the others are not told.
_MATERIALS = {
    (materials.WALL, materials.BRICKS): "brick",
    (materials.WALL, materials.STRIPES): "striped",
    (materials.FLOOR, materials.PLANKS): "wooden",
    (materials.FLOOR, materials.TILES): "tiled",
    (materials.FLOOR, materials.CHECKER): "checkered",
    (materials.RUG, materials.STRIPES): "striped",
    (materials.RUG, materials.WOVEN): "woven",
    (materials.PATH, materials.SPECKLE): "gravel",
    (materials.PATH, materials.BRICKS): "brick",
    (materials.CRATE, materials.FRAMED): "wooden",
    (materials.PILLAR, materials.MARBLE): "marble",
    (materials.TABLE, materials.WOOD): "wooden",
}


class _Segments(NamedTuple):
    """The n segments that are large enough to be named: things, and a segment a stuff class."""

    classes: np.ndarray  # int (n,)
    pixels: np.ndarray  # int (n,)
    colors: np.ndarray  # fraction of the pixels that have each color (n, names)
    patterns: np.ndarray  # fraction of the pixels that wear each pattern (n, patterns)
    sides: np.ndarray  # the third of the picture that most of it is in, in _SIDES (n,)
    distances: np.ndarray  # mean z-depth in meters (n,); NaN where none is known


class _Thing(NamedTuple):
    """A thing in words; "" is what cannot be said."""

    label: int
    color: str
    material: str
    side: str
    distance: str


class _Setting(NamedTuple):
    """Where the scene is."""

    noun: str
    inside: str  # the noun as a place
    adverb: str


_ROOM = _Setting("a room", "in a room", "indoors")
_GROUND = _Setting("an open ground", "on an open ground", "outdoors")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Returns a caption of at most MAX_WORDS words, of those that `rng` chooses from."""
    segments = _segments(scene)
    setting = _setting(scene.classes)

    # The largest things come first, as often as not with a surface between them.
    clauses = _things(segments, rng)
    for clause in _surfaces(segments, rng):
        clauses.insert(rng.integers(len(clauses) + 1), clause)

    # Whatever is too long for the rest of the words is left out.
    left = MAX_WORDS - 6  # the setting and the words that join
    chosen = []
    for clause in clauses:
        words = len(clause.split())
        if words <= left:
            chosen.append(clause)
            left -= words
    return _sentence(setting, chosen, rng)


def classes_named(text: str) -> set[str]:
    """Returns the names of the scenes' classes, in the singular, that a caption names."""
    words = set(text.lower().replace(",", " ").split())
    names = zip(_CLASSES, _PLURALS, strict=True)
    return {single for single, plural in names if single in words or plural in words}


def _segments(scene: Scene) -> _Segments:
    """Measures what is visible, on a grid of about 64 lines."""
    step = max(1, min(scene.classes.shape) // 64)
    image, depth, classes, instances, patterns = (part[::step, ::step] for part in scene)

    # Stuff is numbered by its class, from 1; void is 0. Things follow.
    key = np.where(instances > 0, instances + len(_CLASSES), classes + 1).ravel()

    # All pixels of a segment are of one class, so that any of them tells it.
    pixels = np.bincount(key)
    label = np.full(len(pixels), materials.VOID)
    label[key] = classes.ravel()

    # What is void or small is not worth a word.
    large = np.flatnonzero((pixels > _VISIBLE * len(key)) & (label != materials.VOID))

    def fractions(values: np.ndarray, count: int) -> np.ndarray:
        table = np.bincount(key * count + values.ravel(), minlength=len(pixels) * count)
        return table.reshape(-1, count)[large] / pixels[large, None]

    third = np.broadcast_to(np.arange(classes.shape[1]) * 3 // classes.shape[1], classes.shape)
    measured = np.bincount(key, depth.ravel() > 0)[large]
    total = np.bincount(key, depth.ravel())[large]
    return _Segments(
        classes=label[large],
        pixels=pixels[large],
        colors=fractions(_name_colors(image), len(_COLOR_NAMES)),
        patterns=fractions(patterns, len(materials.PATTERNS)),
        sides=fractions(third, len(_SIDES)).argmax(1),
        distances=np.where(measured > 0, total / np.maximum(measured, 1), np.nan),
    )


def _setting(classes: np.ndarray) -> _Setting:
    """Returns the setting whose own surfaces cover more of the picture."""
    indoors = ((classes >= materials.WALL) & (classes <= materials.RUG)).sum()
    outdoors = ((classes >= materials.GRASS) & (classes <= materials.SKY)).sum()
    return _ROOM if indoors > outdoors else _GROUND


def _things(segments: _Segments, rng: np.random.Generator) -> list[str]:
    """Returns a clause for each group of things that are alike, the largest groups first."""
    order = np.argsort(-segments.pixels, kind="stable")
    described = [
        _describe(segments, index, rng)
        for index in order
        if segments.classes[index] >= materials.BALL
    ]

    # Alike are those of one class, or of one class and one color.
    by_color = rng.random() < 0.6
    groups: dict[tuple[int, str], list[_Thing]] = {}
    for thing in described:
        key = (thing.label, thing.color if by_color else "")
        groups.setdefault(key, []).append(thing)
    return [_group(group, rng) for group in groups.values()]


def _describe(segments: _Segments, index: int, rng: np.random.Generator) -> _Thing:
    distance = segments.distances[index]
    word = ""
    if distance < _NEAR:
        word = "nearby"
    elif distance > _FAR:
        word = "far away"
    return _Thing(
        label=int(segments.classes[index]),
        color=_color(segments, index),
        material=_material(segments, index),
        side=_SIDES[segments.sides[index]],
        distance=word,
    )


def _group(group: Sequence[_Thing], rng: np.random.Generator) -> str:
    """Returns "two red wooden crates on the left": what all of a group have in common."""
    count = len(group)
    label = group[0].label
    color, material, side, distance = (
        _common([getattr(thing, field) for thing in group])
        for field in ("color", "material", "side", "distance")
    )
    if rng.random() < 0.5:
        material = ""

    # One word of place is enough, and often none.
    draw = rng.random()
    if draw < 0.4:
        place = side
    elif draw < 0.6:
        place = distance
    else:
        place = ""

    number = _NUMBERS[count] if count < len(_NUMBERS) else "many"
    noun = _CLASSES[label] if count == 1 else _PLURALS[label]
    return _phrase(number, color, material, noun, place)


def _surfaces(segments: _Segments, rng: np.random.Generator) -> list[str]:
    """Returns a clause for some of the visible surfaces that are no things."""
    clauses = []
    for index in np.flatnonzero(segments.classes < materials.BALL):
        if rng.random() < 0.5:
            label = segments.classes[index]

            # There may be several walls, and doors are not counted: a segment is a class.
            article = "" if label in (materials.WALL, materials.GRASS) else "a"
            noun = _PLURALS[label] if label == materials.WALL else _CLASSES[label]
            color = _color(segments, index)
            clauses.append(_phrase(article, color, _material(segments, index), noun, ""))
    return clauses


def _sentence(setting: _Setting, clauses: Sequence[str], rng: np.random.Generator) -> str:
    """Joins the clauses and the setting in one of several ways."""
    if not clauses:
        return setting.noun

    # "x, y, z" or "x, y and z".
    listed = ", ".join(clauses)
    if len(clauses) > 1 and rng.random() < 0.5:
        listed = ", ".join(clauses[:-1]) + " and " + clauses[-1]

    ways = (
        f"{setting.noun} with {listed}",
        f"{setting.noun}, {listed}",
        f"{setting.adverb}, {listed}",
        f"{listed} {setting.inside}",
        f"{listed}, {setting.adverb}",
    )
    return ways[rng.integers(len(ways))]


def _phrase(article: str, *words: str) -> str:
    """Joins the words that there are; "a" becomes "an" before a vowel."""
    rest = " ".join(word for word in words if word)
    if article == "a" and rest[0] in "aeiou":
        article = "an"
    return f"{article} {rest}" if article else rest


def _common(words: Sequence[str]) -> str:
    """Returns the word that all have, or ""."""
    return words[0] if len(set(words)) == 1 else ""


def _color(segments: _Segments, index: int) -> str:
    """Returns "red", or "red and white" where two colors share a thing."""
    fractions = segments.colors[index]
    second, first = np.argsort(fractions, kind="stable")[-2:]
    name = _COLOR_NAMES[first]
    two = fractions[second] >= _SECOND_COLOR and segments.classes[index] >= materials.BALL
    return f"{name} and {_COLOR_NAMES[second]}" if two else name


def _material(segments: _Segments, index: int) -> str:
    """Returns the word of the pattern that most of a segment wears, or ""."""
    pattern = segments.patterns[index].argmax()
    if segments.patterns[index, pattern] < _MATERIAL:
        return ""
    return _MATERIALS.get((segments.classes[index], materials.PATTERNS[pattern]), "")


def _name_colors(image: np.ndarray) -> np.ndarray:
    """Returns the index in _COLOR_NAMES of every pixel of an image (h, w, 3), (h, w)."""
    level = (image >> 4).astype(np.int16)
    return _color_table()[level[..., 0] << 8 | level[..., 1] << 4 | level[..., 2]]


@lru_cache(maxsize=1)
def _color_table() -> np.ndarray:
    """Returns the index of the nearest color, of 16 levels a channel, int64 (4096,)."""
    levels = np.arange(16) * 16 + 8
    cells = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 1, 3)
    places = np.array([place for places in _COLORS.values() for place in places])
    owner = np.repeat(np.arange(len(_COLORS)), [len(places) for places in _COLORS.values()])

    # In CIELAB, where a name depends less on lightness than on hue and chroma.
    weights = np.array([0.25, 1, 1])
    distance = ((_lab(cells) - _lab(places)) ** 2) @ weights
    return owner[distance.argmin(-1)]


def _lab(rgb: np.ndarray) -> np.ndarray:
    """Converts sRGB of 0..255 (..., 3) to CIELAB under D65, (..., 3)."""
    value = rgb / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)

    # XYZ as fractions of the white point.
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / [0.9505, 1.0, 1.089]

    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)
