"""Class lists of the data sets and the colors that stand for classes.

Two kinds of colors live here and must not be confused. A *palette* is what the model paints: a
regular grid in RGB, chosen so that classes lie far apart. The `color` of a category is what people
look at in a picture. Class names and category ids are the data sets' own (ADE20K's
`objectInfo150.txt`, COCO's `panoptic_coco_categories.json`).
"""

import colorsys
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

# ADE20K's 150 classes in their official order: class index = label - 1. Only the first synonym is
# kept.
_ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person,
earth, door, table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea,
mirror, rug, field, armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion,
base, box, column, signboard, chest of drawers, counter, sand, sink, skyscraper, fireplace,
refrigerator, grandstand, path, stairs, runway, case, pool table, pillow, screen door, stairway,
river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop, stove,
palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light,
truck, tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel,
pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain,
conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent,
bag, minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle,
lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan,
pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""

# COCO's 133 panoptic categories, "id name", in the order of the official file: first 80 things,
# then 53 stuff.
_COCO_THINGS = """
1 person, 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat, 10 traffic
light, 11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench, 16 bird, 17 cat, 18 dog, 19
horse, 20 sheep, 21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe, 27 backpack, 28 umbrella, 31
handbag, 32 tie, 33 suitcase, 34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39
baseball bat, 40 baseball glove, 41 skateboard, 42 surfboard, 43 tennis racket, 44 bottle, 46 wine
glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl, 52 banana, 53 apple, 54 sandwich, 55 orange,
56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut, 61 cake, 62 chair, 63 couch, 64 potted
plant, 65 bed, 67 dining table, 70 toilet, 72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77
cell phone, 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator, 84 book, 85 clock, 86
vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush
"""
_COCO_STUFF = """
92 banner, 93 blanket, 95 bridge, 100 cardboard, 107 counter, 109 curtain, 112 door-stuff, 118
floor-wood, 119 flower, 122 fruit, 125 gravel, 128 house, 130 light, 133 mirror-stuff, 138 net, 141
pillow, 144 platform, 145 playingfield, 147 railroad, 148 river, 149 road, 151 roof, 154 sand, 155
sea, 156 shelf, 159 snow, 161 stairs, 166 tent, 168 towel, 171 wall-brick, 175 wall-stone, 176
wall-tile, 177 wall-wood, 178 water-other, 180 window-blind, 181 window-other, 184 tree-merged, 185
fence-merged, 186 ceiling-merged, 187 sky-other-merged, 188 cabinet-merged, 189 table-merged, 190
floor-other-merged, 191 pavement-merged, 192 mountain-merged, 193 grass-merged, 194 dirt-merged,
195 paper-merged, 196 food-other-merged, 197 building-other-merged, 198 rock-merged, 199
wall-other-merged, 200 rug-merged
"""


class _SceneClass(NamedTuple):
    """A class of the built-in scenes; `color` is for people."""

    name: str
    isthing: int
    color: tuple[int, int, int]


# In the order of their class indices.
_SCENES = (
    _SceneClass("wall", isthing=0, color=(200, 190, 170)),
    _SceneClass("floor", isthing=0, color=(150, 110, 70)),
    _SceneClass("ceiling", isthing=0, color=(235, 235, 225)),
    _SceneClass("door", isthing=0, color=(120, 60, 25)),
    _SceneClass("window", isthing=0, color=(130, 215, 235)),
    _SceneClass("rug", isthing=0, color=(150, 40, 90)),
    _SceneClass("grass", isthing=0, color=(90, 165, 60)),
    _SceneClass("path", isthing=0, color=(185, 160, 105)),
    _SceneClass("sky", isthing=0, color=(95, 150, 235)),
    _SceneClass("ball", isthing=1, color=(230, 40, 40)),
    _SceneClass("crate", isthing=1, color=(240, 150, 30)),
    _SceneClass("barrel", isthing=1, color=(60, 70, 200)),
    _SceneClass("cone", isthing=1, color=(255, 230, 40)),
    _SceneClass("pillar", isthing=1, color=(150, 90, 210)),
    _SceneClass("bush", isthing=1, color=(20, 100, 50)),
    _SceneClass("table", isthing=1, color=(240, 110, 190)),
)


def distinct_colors(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Returns distinct, stable colors for people; color k is the same whatever `count` is.

    Hues advance by the golden ratio, so that neighbors in the list differ most; two brightness
    levels and three saturations alternate.
    """
    golden_ratio = 0.618033988749895
    saturations = (0.85, 0.55, 0.7)
    brightness = (1.0, 0.75)

    colors = np.zeros((count, 3))
    for k in range(count):
        hue = k * golden_ratio % 1.0
        colors[k] = colorsys.hsv_to_rgb(hue, saturations[k % 3], brightness[k // 3 % 2])
    return np.round(255 * colors).astype(np.uint8)


def make_palette(num_classes: int, levels: int | None = None) -> Float32[np.ndarray, "classes 3"]:
    """Returns the grid palette of Painter: the colors, in 0..255, that the model paints.

    Each channel takes `levels` values 255, 255 - step, ... with step = 256 // levels; class k has
    the base-`levels` digits of k, most significant digit in red, so class 0 is white. The smallest
    L1 distance between two colors is `step`: 85 for 16 classes, 42 for the 150 classes of ADE20K (6
    levels), 36 for the 133 of COCO, for which Painter uses 7 levels instead of 6. Black is never a
    class: it is reserved for void.

    Args:
      num_classes: how many colors.
      levels: a channel; None takes the smallest b with b**3 > num_classes.

    Raises:
      ValueError: fewer than 2 classes, or more classes than levels**3.
    """
    if num_classes < 2:
        raise ValueError(f"A palette needs at least 2 classes, got {num_classes}.")

    # Painter takes strictly more colors than classes.
    if levels is None:
        levels = 2
        while levels**3 <= num_classes:
            levels += 1
    if not num_classes <= levels**3 or levels > 128:
        raise ValueError(
            f"{num_classes} classes do not fit in {levels} levels a channel: allowed are at most "
            f"levels**3 classes and 128 levels."
        )

    # Class indices as numbers of three digits, a digit a channel.
    index = np.arange(num_classes)
    digits = np.stack([index // levels**2, index // levels % levels, index % levels], axis=-1)
    return (255 - 256 // levels * digits).astype(np.float32)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


def _coco_categories() -> list[dict[str, Any]]:
    categories = []
    for text, isthing in ((_COCO_THINGS, 1), (_COCO_STUFF, 0)):
        for entry in _names(text):
            number, name = entry.split(" ", 1)
            categories.append({"id": int(number), "name": name, "isthing": isthing})

    colors = distinct_colors(len(categories)).tolist()
    for category, color in zip(categories, colors, strict=True):
        category["color"] = color
    return categories


def _scenes_categories() -> list[dict[str, Any]]:
    categories = []
    for number, scene_class in enumerate(_SCENES, start=1):
        fields = scene_class._asdict()
        categories.append({"id": number, **fields, "color": list(scene_class.color)})
    return categories


ADE20K_CLASSES: tuple[str, ...] = _names(_ADE20K)

# [{"id", "name", "isthing", "color"}, ...]: COCO's form; the position in the list is the class
# index.
COCO_CATEGORIES: list[dict[str, Any]] = _coco_categories()
SCENES_CATEGORIES: list[dict[str, Any]] = _scenes_categories()
