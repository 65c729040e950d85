"""Random little worlds as solids, surfaces and a camera: furnished rooms and open grounds.

Nothing here knows pixels, so that one world can be rendered at any size.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from generalist.input_pipeline.scenes.geometry import Boxes, Frusta, Spheres, take
from generalist.input_pipeline.scenes.materials import (
    BALL,
    CEILING,
    DOOR,
    FLOOR,
    GRASS,
    HILLS,
    PATH,
    RUG,
    SKY,
    VOID,
    WALL,
    WINDOW,
)

# The ways to build an object. The first seven are of the classes BALL to TABLE, in their order; a
# blob is of no class; some pillars and tables are built in the last two ways.
(
    _BALL,
    _CRATE,
    _BARREL,
    _CONE,
    _ROUND_PILLAR,
    _BUSH,
    _TABLE,  # on four legs
    _BLOB,
    _SQUARE_PILLAR,
    _ROUND_TABLE,  # on a pedestal
) = range(10)

# What to add to the first eight for the other way to build the same thing.
_OTHER_WAY = np.zeros(8, int)
_OTHER_WAY[_ROUND_PILLAR] = _SQUARE_PILLAR - _ROUND_PILLAR
_OTHER_WAY[_TABLE] = _ROUND_TABLE - _TABLE

# Probabilities of ball, crate, barrel, cone, pillar, bush and table, summed up.
_ROOM_MIX = np.cumsum([0.16, 0.19, 0.11, 0.10, 0.14, 0.08, 0.22]).astype(np.float32)
_OPEN_MIX = np.cumsum([0.15, 0.13, 0.14, 0.15, 0.10, 0.25, 0.08]).astype(np.float32)

# Ranges in meters, ball to blob: footprint radius (low, high), height (low, high).
_SIZES = np.array(
    [
        [0.14, 0.36, 0.3, 0.7],  # ball
        [0.24, 0.52, 0.40, 0.90],  # crate
        [0.24, 0.36, 0.75, 1.05],  # barrel
        [0.18, 0.32, 0.45, 0.85],  # cone
        [0.11, 0.24, 1.60, 2.70],  # pillar
        [0.32, 0.65, 0.5, 1.1],  # bush
        [0.45, 0.80, 0.62, 0.80],  # table
        [0.10, 0.28, 0.2, 0.5],  # blob
    ],
    np.float32,
)

# The pieces of objects. Lengths are in units of the footprint radius; a height is a constant in
# meters plus a fraction of the object's height.

# Spheres: build, radius, distance from the axis, height of the lowest point, angle around the axis.
_SPHERE_PIECES = np.array(
    [
        [_BALL, 1, 0, 0, 0],
        [_BLOB, 1, 0, 0, 0],
        [_BUSH, 0.62, 0, 0.3, 0],
        [_BUSH, 0.46, 0.46, 0.0, 5.2],
        [_BUSH, 0.46, 0.46, 0.1, 0.4],
        [_BUSH, 0.46, 0.46, 0.3, 4.1],
        [_BUSH, 0.46, 0.46, 0.0, 2.0],
        [_BUSH, 0.46, 0.46, 0.5, 3.0],
    ],
    np.float32,
)
# Boxes: build, half widths along the own x and y, bottom (constant, fraction), top (fraction),
# offset along x and y.
_BOX_PIECES = np.array(
    [
        [_CRATE, 0.74, 0.70, 0, 0, 1, 0, 0],
        [_SQUARE_PILLAR, 0.8, 0.8, 0, 0, 1, 0, 0],
        [_TABLE, 0.85, 0.6, 0, 0.9, 1, 0, 0],
        [_TABLE, 0.065, 0.065, 0, 0, 0.9, -0.76, -0.51],
        [_TABLE, 0.065, 0.065, 0, 0, 0.9, -0.76, 0.51],
        [_TABLE, 0.065, 0.065, 0, 0, 0.9, 0.76, -0.51],
        [_TABLE, 0.065, 0.065, 0, 0, 0.9, 0.76, 0.51],
    ],
    np.float32,
)
# Frusta: build, lower and upper radius, bottom (constant, fraction), top (constant, fraction).
_FRUSTUM_PIECES = np.array(
    [
        [_BARREL, 1, 1, 0, 0, 0, 1],
        [_CONE, 1, 0.08, 0, 0, 0, 1],
        [_ROUND_PILLAR, 1, 1, 0, 0, 0, 1],
        [_ROUND_TABLE, 0.8, 0.8, -0.07, 1, 0, 1],
        [_ROUND_TABLE, 0.22, 0.1, 0, 0, -0.07, 1],
    ],
    np.float32,
)

_NOTHING = 99  # a place on a wall that stays empty


class World(NamedTuple):
    """A scene before it has pixels.

    Its s surfaces are numbered: the four base surfaces, fittings on walls and floor, then objects.
    Angles are in radians, lengths in meters.
    """

    room: tuple[float, float, float, float] | None  # its planes: x low, x high, y high, ceiling
    path: tuple[float, float, float, float] | None  # offset, slope, bend, half width; outdoors
    camera_height: float
    yaw: float
    pitch: float
    fov: float
    light: np.ndarray  # unit vector to the main light (3,)
    classes: np.ndarray  # of each surface, int (s,)
    looks: np.ndarray  # the class whose materials each surface wears, int (s,)
    instances: np.ndarray  # of each surface, int (s,); 0 for what is no thing
    solids: tuple[Spheres, Boxes, Frusta]
    shadows: np.ndarray  # float32 (5, n): x, y, footprint radius, x and y of the shadow's end


class Objects(NamedTuple):
    """n things (and blobs, of class -1) on the ground."""

    classes: np.ndarray  # int (n,)
    build: np.ndarray  # the way each is built, int (n,)
    place: np.ndarray  # float32 (6, n): x, y, footprint radius, height, cosine and sine of the yaw
    draw: np.ndarray  # a number in [0, 1) for whatever else is random about it, float32 (n,)


class _Stage(NamedTuple):
    """What differs between a room and an open ground. Fields as in `World`, but for the last."""

    room: tuple[float, float, float, float] | None
    path: tuple[float, float, float, float] | None
    yaw: float
    pitch: float
    light: tuple[float, float, float]
    base: list[int]  # classes of the four base surfaces
    objects: Objects
    fittings: np.ndarray  # boxes (8, n) on walls and floor
    fitting_classes: np.ndarray  # int (n,)


def _to_world(aside, ahead, yaw: float):
    """Returns the world's x, y of a place `aside` and `ahead` of a camera that looks to `yaw`."""
    x = aside * math.cos(yaw) + ahead * math.sin(yaw)
    y = ahead * math.cos(yaw) - aside * math.sin(yaw)
    return x, y


def _place_objects(
    rng: np.random.Generator,
    count: int,  # how many at most
    nearest: float,  # distance range from the camera, meters
    farthest: float,
    mix: np.ndarray,  # _ROOM_MIX or _OPEN_MIX
    yaw: float,  # of the camera
    fov: float,
    room: tuple[float, float, float, float] | None,
) -> Objects:
    """Places objects inside the view (and the room) without overlap; some gather in clusters."""
    # More candidates than objects, since those in the way of others are dropped.
    draw = rng.random((12, 2 * count + 6), dtype=np.float32)

    # What they are, and how big.
    build = np.where(draw[0] < 0.08, _BLOB, np.searchsorted(mix, draw[1] * np.float32(0.9999)))
    low_radius, high_radius, low_height, high_height = _SIZES[build].T
    radius = low_radius + (high_radius - low_radius) * draw[2]
    height = low_height + (high_height - low_height) * draw[3]

    # Most of them near, where they cover many pixels.
    ahead = nearest + (farthest - nearest) * draw[4] * np.sqrt(draw[4])
    aside = (2 * draw[5] - 1) * ahead * math.tan(fov / 2)

    # A third moves close to one of the first three: crowds occlude each other.
    gathered = draw[6] < 0.35
    host = (draw[7] * 3).astype(int)
    ahead = np.where(gathered, np.maximum(ahead[host] + 1.6 * draw[8] - 0.8, nearest), ahead)
    aside = np.where(gathered, aside[host] + 1.8 * draw[9] - 0.9, aside)
    x, y = _to_world(aside, ahead, yaw)

    # A candidate goes that overlaps with an earlier one, or is too close to the camera.
    reach = 0.92 * (radius[:, None] + radius)
    near = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 < reach**2
    keep = ~(near & _earlier(len(x))).any(1) & (ahead > radius + 0.75)
    if room is not None:
        left, right, back, ceiling = room
        keep &= (x > left + radius) & (x < right - radius) & (y < back - radius)
        height = np.minimum(height, ceiling)
    keep = np.flatnonzero(keep)[:count]

    angle = draw[10] * np.float32(np.pi)
    place = np.array([x, y, radius, height, np.cos(angle), np.sin(angle)], np.float32)
    build = build[keep]
    return Objects(
        classes=np.where(build == _BLOB, VOID, build + BALL),
        build=build + np.where(draw[11, keep] < 0.35, _OTHER_WAY[build], 0),
        place=take(place, keep),
        draw=draw[9, keep],
    )


@lru_cache(maxsize=64)
def _earlier(n: int) -> np.ndarray:
    """Returns bool (n, n): whether column j comes before row i."""
    return np.tri(n, k=-1, dtype=bool)


def _spheres(objects: Objects, surface: np.ndarray, rng: np.random.Generator) -> Spheres:
    """Builds balls and blobs of one sphere, bushes of a big one and two to five around it."""
    piece, owner = np.nonzero(_SPHERE_PIECES[:, :1] == objects.build)

    # Each bush has its own number of the outer spheres.
    keep = piece < 5 + (4 * objects.draw[owner]).astype(int)
    piece = piece[keep]
    owner = owner[keep]

    # No two bushes are alike: sizes, distances and angles vary by 15 %.
    _, size, reach, lift, angle = _SPHERE_PIECES[piece].T
    x, y, radius = take(objects.place, owner)[:3]
    shake = 0.85 + 0.3 * rng.random((3, len(owner)), dtype=np.float32)
    size = size * radius * np.where(reach > 0, shake[0], 1)
    reach = reach * radius * shake[1]
    angle = angle * shake[2]

    shape = [x + reach * np.cos(angle), y + reach * np.sin(angle), lift * radius + size, size]
    return Spheres(np.array(shape, np.float32), surface[owner])


def _boxes(
    objects: Objects, surface: np.ndarray, fittings: np.ndarray, fitting_surface: np.ndarray
) -> Boxes:
    """Builds the fittings (8, n), crates, square pillars and tables (a slab on four legs)."""
    piece, owner = np.nonzero(_BOX_PIECES[:, :1] == objects.build)
    _, wide, deep, low, low_fraction, high_fraction, aside, ahead = _BOX_PIECES[piece].T
    x, y, radius, height, cos, sin = take(objects.place, owner)

    # Offsets turn with the object.
    aside = aside * radius
    ahead = ahead * radius
    bottom = low + low_fraction * height
    top = high_fraction * height
    boxes = np.array(
        [
            x + aside * cos - ahead * sin,
            y + aside * sin + ahead * cos,
            (bottom + top) / 2,
            wide * radius,
            deep * radius,
            (top - bottom) / 2,
            cos,
            sin,
        ]
    )
    return Boxes(
        np.concatenate([fittings, boxes], 1, dtype=np.float32),
        np.concatenate([fitting_surface, surface[owner]]),
    )


def _frusta(objects: Objects, surface: np.ndarray) -> Frusta:
    """Builds barrels, cones, round pillars and round tables (a disc on a pedestal)."""
    piece, owner = np.nonzero(_FRUSTUM_PIECES[:, :1] == objects.build)
    _, lower, upper, low, low_fraction, high, high_fraction = _FRUSTUM_PIECES[piece].T
    x, y, radius, height, _, _ = take(objects.place, owner)
    shape = [
        x,
        y,
        low + low_fraction * height,
        high + high_fraction * height,
        lower * radius,
        upper * radius,
    ]
    return Frusta(np.array(shape, np.float32), surface[owner])


def _fittings(
    rng: np.random.Generator, room: tuple[float, float, float, float], yaw: float
) -> tuple[np.ndarray, np.ndarray]:
    """Draws doors, windows and pictures (of no class) on three walls, and perhaps a rug.

    Returns:
      Boxes (8, n) and their classes (n,).
    """
    left, right, back, ceiling = room

    # Three places on each of the walls left (0), right (1) and back (2), from low to high.
    wall = np.repeat([0, 1, 2], 3)
    low = np.array([1.0, 1.0, left])[wall]
    high = np.array([back, back, right])[wall]
    width = (high - low) / 3

    draw = rng.random((6, 9))
    classes = np.select(
        [draw[0] < 0.30, draw[0] < 0.72, draw[0] < 0.84], [DOOR, WINDOW, VOID], _NOTHING
    )
    door = classes == DOOR
    window = classes == WINDOW

    # Along the wall: half the width of each, and its center, inside its own place.
    half = np.select(
        [door, window], [0.42 + 0.15 * draw[1], 0.45 + 0.5 * draw[1]], 0.08 + 0.4 * draw[1]
    )
    half = np.minimum(half, 0.46 * width)
    shift = (draw[2] - 0.5) * np.maximum(1 - 2 * half / width, 0)
    center = low + width * (np.tile([0.5, 1.5, 2.5], 3) + shift)

    # Upward: doors stand on the floor, the rest hangs at the eye's height below the ceiling.
    tall = np.select(
        [door, window], [1.0 + 0.06 * draw[3], 0.4 + 0.25 * draw[3]], 0.25 + 0.35 * draw[3]
    )
    middle = np.where(door, tall, np.minimum(1.45 + 0.2 * draw[4], ceiling - tall - 0.08))

    # A box's own x axis runs along its wall.
    side = wall < 2
    x = np.where(side, np.where(wall == 0, left, right), center)
    y = np.where(side, center, back)
    boxes = np.array([x, y, middle, half, np.full(9, 0.04), tall, ~side, side])

    rug, has_rug = _rug(rng, yaw)
    used = np.append(classes != _NOTHING, has_rug)
    return np.concatenate([boxes, rug], 1)[:, used], np.append(classes, RUG)[used]


def _rug(rng: np.random.Generator, yaw: float) -> tuple[np.ndarray, bool]:
    """Draws a flat box (8, 1) on the floor ahead, and whether there is one."""
    luck, ahead, aside, turn, long, wide = rng.random(6).tolist()
    x, y = _to_world(1.6 * aside - 0.8, 2.0 + 1.8 * ahead, yaw)
    turn = 0.6 * turn - 0.3
    rug = [x, y, 0.0, 0.8 + 0.6 * long, 0.55 + 0.5 * wide, 0.012, math.cos(turn), math.sin(turn)]
    return np.array([rug]).T, luck < 0.6


def _shadows(objects: Objects, light: tuple[float, float, float], strength: float) -> np.ndarray:
    """Returns the shadows (5, n) as `World` holds them; `strength` scales their length."""
    x, y, radius, height, _, _ = objects.place
    reach = np.minimum(height / light[2], 2.5) * strength
    return np.array([x, y, radius * 0.9, x - reach * light[0], y - reach * light[1]], np.float32)


def _light(azimuth: float, elevation: float) -> tuple[float, float, float]:
    """Returns the unit vector to the light; `elevation` in [0, 1] from low to high."""
    up = 0.55 + 0.3 * elevation
    flat = math.sqrt(1 - up * up)
    return flat * math.cos(azimuth), flat * math.sin(azimuth), up


def sample_world(rng: np.random.Generator) -> World:
    """Draws a room or an open ground, evenly, with its camera, light and objects."""
    indoors, height, yaw, pitch, fov, *draw = rng.random(16).tolist()
    fov = math.radians(60 + 10 * fov)
    camera_height = 1.2 + 0.5 * height
    sample = _sample_room if indoors < 0.5 else _sample_ground
    stage = sample(rng, yaw, pitch, fov, *draw)

    # Number the surfaces: four base surfaces, fittings, objects.
    first_object = 4 + len(stage.fitting_classes)
    looks = np.concatenate([stage.base, stage.fitting_classes, stage.objects.classes]).astype(int)
    surface = np.arange(first_object, len(looks))
    fitting_surface = np.arange(4, first_object)

    # Far hills have a look, but no class; every thing is an instance of its own.
    classes = np.where(looks == HILLS, VOID, looks)
    instances = np.where(classes >= BALL, np.cumsum(classes >= BALL), 0)

    boxes = _boxes(stage.objects, surface, stage.fittings, fitting_surface)
    spheres = _spheres(stage.objects, surface, rng)
    frusta = _frusta(stage.objects, surface)

    # Lamps of a room are broad, and their shadows short.
    shadow_strength = 0.25 if stage.room else 0.8
    return World(
        room=stage.room,
        path=stage.path,
        camera_height=camera_height,
        yaw=stage.yaw,
        pitch=stage.pitch,
        fov=fov,
        light=np.array(stage.light, np.float32),
        classes=classes,
        looks=looks,
        instances=instances,
        solids=(spheres, boxes, frusta),
        shadows=_shadows(stage.objects, stage.light, shadow_strength),
    )


def _sample_room(
    rng: np.random.Generator,
    yaw: float,  # this and all below are draws in [0, 1), but for fov
    pitch: float,
    fov: float,  # radians
    azimuth: float,
    elevation: float,
    many: float,
    *draw: float,
) -> _Stage:
    """Draws a furnished room. The lamp is behind the camera, so that the far walls are lit."""
    light = _light(math.pi * (1.1 + 0.8 * azimuth), elevation)
    room = (-1.4 - 2.0 * draw[0], 1.4 + 2.0 * draw[1], 3.2 + 4.3 * draw[2], 2.4 + 0.6 * draw[3])
    yaw = math.radians(50 * yaw - 25)
    pitch = math.radians(14 * pitch - 12)

    objects = _place_objects(rng, 2 + int(11 * many), 1.5, room[2], _ROOM_MIX, yaw, fov, room)
    fittings, fitting_classes = _fittings(rng, room, yaw)
    return _Stage(
        room=room,
        path=None,
        yaw=yaw,
        pitch=pitch,
        light=light,
        base=[WALL, FLOOR, CEILING, WALL],
        objects=objects,
        fittings=fittings,
        fitting_classes=fitting_classes,
    )


def _sample_ground(
    rng: np.random.Generator,
    yaw: float,  # this and all below are draws in [0, 1), but for fov
    pitch: float,
    fov: float,  # radians
    azimuth: float,
    elevation: float,
    many: float,
    *draw: float,
) -> _Stage:
    """Draws an open ground with the sun anywhere around; one in seven is crowded."""
    light = _light(math.pi * 2 * azimuth, elevation)
    path = None
    if draw[4] < 0.8:
        path = (2.4 * draw[0] - 1.2, 1.2 * draw[1] - 0.6, 0.9 * draw[2], 0.45 + 0.8 * draw[3])
    yaw = math.radians(10 * yaw - 5)
    pitch = math.radians(12 * pitch - 12)

    # A crowd stretches farther, or it would not fit.
    if many > 0.85:
        count = 30 + int(35 * draw[5])
        farthest = 9.0 + 22.0 * draw[6]
    else:
        count = 3 + int(27 * many)
        farthest = 9.0 + 8.0 * draw[6]
    objects = _place_objects(rng, count, 1.7, farthest, _OPEN_MIX, yaw, fov, None)
    return _Stage(
        room=None,
        path=path,
        yaw=yaw,
        pitch=pitch,
        light=light,
        base=[GRASS, PATH, SKY, HILLS],
        objects=objects,
        fittings=np.zeros((8, 0)),
        fitting_classes=np.zeros(0, int),
    )
