"""Random little worlds, furnished rooms and open grounds, as solids, surfaces and a camera: nothing knows pixels."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from generalist.input_pipeline.scenes import materials as m
from generalist.input_pipeline.scenes.geometry import Boxes, Frusta, Spheres, take

# shares, summed up, of ball, crate, barrel, cone, pillar, bush and table
_ROOM_MIX = np.cumsum([0.16, 0.19, 0.11, 0.10, 0.14, 0.08, 0.22]).astype(np.float32)
_OPEN_MIX = np.cumsum([0.15, 0.13, 0.14, 0.15, 0.10, 0.25, 0.08]).astype(np.float32)
# footprint radius (low, high) and height (low, high) in metres of ball .. table, then of an unknown blob
_SIZES = np.array(
    [
        [0.14, 0.36, 0.3, 0.7],
        [0.24, 0.52, 0.40, 0.90],
        [0.24, 0.36, 0.75, 1.05],
        [0.18, 0.32, 0.45, 0.85],
        [0.11, 0.24, 1.60, 2.70],
        [0.32, 0.65, 0.5, 1.1],
        [0.45, 0.80, 0.62, 0.80],
        [0.10, 0.28, 0.2, 0.5],
    ],
    np.float32,
)

# Ways to build an object: 0 ball, 1 crate, 2 barrel, 3 cone, 4 round pillar, 5 bush, 6 table on legs, 7 blob,
# 8 square pillar, 9 round table.
# Their parts, in units of the footprint radius; heights are (constant metres + share of the height).
# spheres: variant, radius, reach and angle around the axis, height of the lowest point
_SPHERE_PARTS = np.array(
    [
        [0, 1, 0, 0, 0],
        [7, 1, 0, 0, 0],
        [5, 0.62, 0, 0.3, 0],
        *(
            [5, 0.46, 0.46, lift, angle]
            for lift, angle in ((0.0, 5.2), (0.1, 0.4), (0.3, 4.1), (0.0, 2.0), (0.5, 3.0))
        ),
    ],
    np.float32,
)
# boxes: variant, half widths along the own x and y axes, bottom (constant, share), top (share), offset along x and y
_BOX_PARTS = np.array(
    [
        [1, 0.74, 0.70, 0, 0, 1, 0, 0],
        [8, 0.8, 0.8, 0, 0, 1, 0, 0],
        [6, 0.85, 0.6, 0, 0.9, 1, 0, 0],
        *([6, 0.065, 0.065, 0, 0, 0.9, x, y] for x in (-0.76, 0.76) for y in (-0.51, 0.51)),
    ],
    np.float32,
)
# frusta: variant, lower and upper radius, bottom (constant, share), top (constant, share)
_FRUSTUM_PARTS = np.array(
    [
        [2, 1, 1, 0, 0, 0, 1],
        [3, 1, 0.08, 0, 0, 0, 1],
        [4, 1, 1, 0, 0, 0, 1],
        [9, 0.8, 0.8, -0.07, 1, 0, 1],
        [9, 0.22, 0.1, 0, 0, -0.07, 1],
    ],
    np.float32,
)

_NOTHING = 99  # a place on a wall that stays empty


class World(NamedTuple):
    """A scene before it has pixels. Surfaces are numbered: base surfaces, fittings on walls and floor, then objects;
    `classes`, `instances` and `looks` (the class whose materials it wears) int (s,) describe them.

    `room` None on open ground, else the planes (x low, x high, y high, ceiling) in metres; `path` None or, on open
    ground, its (offset, slope, bend, half width); angles in radians; `light` unit vector to the main light; `shadows`
    (5, n): x, y, footprint radius and the end point of each object's shadow.
    """

    room: tuple[float, float, float, float] | None
    path: tuple[float, float, float, float] | None
    camera_height: float
    yaw: float
    pitch: float
    fov: float
    light: np.ndarray
    classes: np.ndarray
    looks: np.ndarray
    instances: np.ndarray
    solids: tuple[Spheres, Boxes, Frusta]
    shadows: np.ndarray


class Objects(NamedTuple):
    """Things (and blobs, class -1) standing on the ground.

    `classes` and `variant` int (n,): the class, and the way it is built; `place` float32 (6, n): x, y, footprint
    radius, height, cosine and sine of the yaw; `draw` float32 (n,) in [0, 1).
    """

    classes: np.ndarray
    variant: np.ndarray
    place: np.ndarray
    draw: np.ndarray


def _world(aside, ahead, yaw: float):
    """World x, y of a place `aside` and `ahead` of a camera that looks to `yaw`."""
    return aside * math.cos(yaw) + ahead * math.sin(yaw), ahead * math.cos(yaw) - aside * math.sin(
        yaw
    )


def _place(
    rng, count: int, nearest: float, farthest: float, mixture, yaw: float, fov: float, room
) -> Objects:
    """About `count` objects inside the view (and the room) that do not overlap; some gather in clusters."""
    draw = rng.random((12, 2 * count + 6), dtype=np.float32)
    kind = np.where(draw[0] < 0.08, 7, np.searchsorted(mixture, draw[1] * np.float32(0.9999)))
    low_r, high_r, low_h, high_h = _SIZES[kind].T
    radius, height = low_r + (high_r - low_r) * draw[2], low_h + (high_h - low_h) * draw[3]
    ahead = nearest + (farthest - nearest) * draw[4] * np.sqrt(draw[4])
    aside = (2 * draw[5] - 1) * ahead * math.tan(fov / 2)
    gathered = draw[6] < 0.35
    host = (draw[7] * 3).astype(int)
    ahead = np.where(gathered, np.maximum(ahead[host] + 1.6 * draw[8] - 0.8, nearest), ahead)
    aside = np.where(gathered, aside[host] + 1.8 * draw[9] - 0.9, aside)
    x, y = _world(aside, ahead, yaw)
    near = (x[:, None] - x) ** 2 + (y[:, None] - y) ** 2 < (0.92 * (radius[:, None] + radius)) ** 2
    keep = ~(near & _earlier(len(x))).any(1) & (ahead > radius + 0.75)
    if room is not None:
        left, right, back, ceiling = room
        keep &= (x > left + radius) & (x < right - radius) & (y < back - radius)
        height = np.minimum(height, ceiling)
    keep = np.flatnonzero(keep)[:count]
    angle = draw[10] * np.float32(np.pi)
    place = take(np.array([x, y, radius, height, np.cos(angle), np.sin(angle)], np.float32), keep)
    kind = kind[keep]
    variant = kind + np.where(draw[11, keep] < 0.35, np.array([0, 0, 0, 0, 4, 0, 3, 0])[kind], 0)
    return Objects(np.where(kind == 7, m.VOID, kind + m.BALL), variant, place, draw[9, keep])


@lru_cache(maxsize=64)
def _earlier(n: int) -> np.ndarray:
    """Bool (n, n): whether column j comes before row i."""
    return np.tri(n, k=-1, dtype=bool)


def _spheres(things: Objects, surface: np.ndarray, rng) -> Spheres:
    """Balls and blobs are one sphere; a bush is a big one and two to five around it."""
    part, owner = np.nonzero(_SPHERE_PARTS[:, :1] == things.variant)
    keep = part < 5 + (4 * things.draw[owner]).astype(int)
    part, owner = part[keep], owner[keep]
    _, size, reach, lift, angle = _SPHERE_PARTS[part].T
    x, y, radius = take(things.place, owner)[:3]
    shake = 0.85 + 0.3 * rng.random((3, len(owner)), dtype=np.float32)
    size = size * radius * np.where(reach > 0, shake[0], 1)
    reach, angle = reach * radius * shake[1], angle * shake[2]
    shape = [x + reach * np.cos(angle), y + reach * np.sin(angle), lift * radius + size, size]
    return Spheres(np.array(shape, np.float32), surface[owner])


def _boxes(things: Objects, surface: np.ndarray, fittings: np.ndarray, fitted: np.ndarray) -> Boxes:
    """Crates, square pillars, tables (a slab on four legs) and the fittings (8, n) on walls and floor."""
    part, owner = np.nonzero(_BOX_PARTS[:, :1] == things.variant)
    _, wide, deep, low, low_h, high_h, aside, ahead = _BOX_PARTS[part].T
    x, y, radius, height, cos, sin = take(things.place, owner)
    aside, ahead, bottom, top = (
        aside * radius,
        ahead * radius,
        low + low_h * height,
        high_h * height,
    )
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
        np.concatenate([fitted, surface[owner]]),
    )


def _frusta(things: Objects, surface: np.ndarray) -> Frusta:
    """Barrels, cones, round pillars and round tables (a disc on a pedestal)."""
    part, owner = np.nonzero(_FRUSTUM_PARTS[:, :1] == things.variant)
    _, lower, upper, low, low_h, high, high_h = _FRUSTUM_PARTS[part].T
    x, y, radius, height, _, _ = take(things.place, owner)
    shape = [x, y, low + low_h * height, high + high_h * height, lower * radius, upper * radius]
    return Frusta(np.array(shape, np.float32), surface[owner])


def _fittings(rng, room, yaw: float) -> tuple[np.ndarray, np.ndarray]:
    """Doors, windows and pictures of no class on three walls, and perhaps a rug: boxes (8, n) and classes (n,)."""
    left, right, back, ceiling = room
    wall = np.repeat([0, 1, 2], 3)  # left, right, back: three places on each
    low, high = np.array([1.0, 1.0, left])[wall], np.array([back, back, right])[wall]
    share = (high - low) / 3
    draw = rng.random((6, 9))
    classes = np.select(
        [draw[0] < 0.30, draw[0] < 0.72, draw[0] < 0.84], [m.DOOR, m.WINDOW, m.VOID], _NOTHING
    )
    door, window = classes == m.DOOR, classes == m.WINDOW
    half = np.select(
        [door, window], [0.42 + 0.15 * draw[1], 0.45 + 0.5 * draw[1]], 0.08 + 0.4 * draw[1]
    )
    half = np.minimum(half, 0.46 * share)
    centre = low + share * (
        np.tile([0.5, 1.5, 2.5], 3) + (draw[2] - 0.5) * np.maximum(1 - 2 * half / share, 0)
    )
    tall = np.select(
        [door, window], [1.0 + 0.06 * draw[3], 0.4 + 0.25 * draw[3]], 0.25 + 0.35 * draw[3]
    )
    middle = np.where(door, tall, np.minimum(1.45 + 0.2 * draw[4], ceiling - tall - 0.08))
    side = wall < 2
    x, y = np.where(side, np.where(wall == 0, left, right), centre), np.where(side, centre, back)
    # a box's own x axis runs along its wall
    boxes = np.array([x, y, middle, half, np.full(9, 0.04), tall, ~side, side])
    rug, has_rug = _rug(rng, yaw)
    used = np.append(classes != _NOTHING, has_rug)
    return np.concatenate([boxes, rug], 1)[:, used], np.append(classes, m.RUG)[used]


def _rug(rng, yaw: float) -> tuple[np.ndarray, bool]:
    """A flat box (8, 1) on the floor ahead, and whether there is one."""
    luck, ahead, aside, turn, long, wide = rng.random(6).tolist()
    x, y = _world(1.6 * aside - 0.8, 2.0 + 1.8 * ahead, yaw)
    turn = 0.6 * turn - 0.3
    rug = [x, y, 0.0, 0.8 + 0.6 * long, 0.55 + 0.5 * wide, 0.012, math.cos(turn), math.sin(turn)]
    return np.array([rug]).T, luck < 0.6


def _shadows(things: Objects, light: tuple[float, float, float], strength: float) -> np.ndarray:
    x, y, radius, height, _, _ = things.place
    reach = np.minimum(height / light[2], 2.5) * strength
    return np.array([x, y, radius * 0.9, x - reach * light[0], y - reach * light[1]], np.float32)


def _light(azimuth: float, elevation: float) -> tuple[float, float, float]:
    up = 0.55 + 0.3 * elevation
    flat = math.sqrt(1 - up * up)
    return flat * math.cos(azimuth), flat * math.sin(azimuth), up


def sample_world(rng: np.random.Generator) -> World:
    """Draw a room or an open ground, evenly, with its camera, light and objects."""
    indoors, height, yaw, pitch, fov, azimuth, elevation, many, *draw = rng.random(16).tolist()
    fov, camera_height = math.radians(60 + 10 * fov), 1.2 + 0.5 * height
    room = path = None
    if indoors < 0.5:
        light = _light(math.pi * (1.1 + 0.8 * azimuth), elevation)  # from behind the camera
        room = (-1.4 - 2.0 * draw[0], 1.4 + 2.0 * draw[1], 3.2 + 4.3 * draw[2], 2.4 + 0.6 * draw[3])
        yaw, pitch = math.radians(50 * yaw - 25), math.radians(14 * pitch - 12)
        things = _place(rng, 2 + int(11 * many), 1.5, room[2], _ROOM_MIX, yaw, fov, room)
        fittings, fitted = _fittings(rng, room, yaw)
        base = [m.WALL, m.FLOOR, m.CEILING, m.WALL]
    else:
        light = _light(math.pi * 2 * azimuth, elevation)
        if draw[4] < 0.8:
            path = (2.4 * draw[0] - 1.2, 1.2 * draw[1] - 0.6, 0.9 * draw[2], 0.45 + 0.8 * draw[3])
        yaw, pitch = math.radians(10 * yaw - 5), math.radians(12 * pitch - 12)
        crowd = many > 0.85
        count = 30 + int(35 * draw[5]) if crowd else 3 + int(27 * many)
        things = _place(
            rng, count, 1.7, 9.0 + (22.0 if crowd else 8.0) * draw[6], _OPEN_MIX, yaw, fov, None
        )
        fittings, fitted = np.zeros((8, 0)), np.zeros(0, int)
        base = [m.GRASS, m.PATH, m.SKY, m.HILLS]
    looks = np.concatenate([base, fitted, things.classes]).astype(int)
    classes = np.where(looks == m.HILLS, m.VOID, looks)
    surface = np.arange(4 + len(fitted), len(looks))
    instances = np.where(classes >= m.BALL, np.cumsum(classes >= m.BALL), 0)
    boxes = _boxes(things, surface, fittings, np.arange(4, 4 + len(fitted)))
    solids = (_spheres(things, surface, rng), boxes, _frusta(things, surface))
    shadows = _shadows(things, light, 0.25 if room else 0.8)
    light = np.array(light, np.float32)
    return World(
        room,
        path,
        camera_height,
        yaw,
        pitch,
        fov,
        light,
        classes,
        looks,
        instances,
        solids,
        shadows,
    )
