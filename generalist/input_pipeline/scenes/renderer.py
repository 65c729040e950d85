"""Renders the built-in RGB-D scenes: exact per-pixel labels of procedural little worlds, any scene by its index.

Scene `index` of a split is a pure function of (seed, split, index): the world is drawn from its Philox stream
before the sensor's noise, so one world can be looked at in any size. A ray goes through every pixel centre; nothing is
anti-aliased, so that colour, depth and labels agree exactly at each pixel.
"""

import difflib
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from generalist.input_pipeline.scenes import materials as m
from generalist.input_pipeline.scenes.geometry import Camera, pairs, take
from generalist.input_pipeline.scenes.layout import World, sample_world

SPLITS = ("train", "val", "test")
MAX_DEPTH = 10.0  # metres; farther points have no valid depth
# base surfaces of a room (side walls, floor, ceiling, back wall); of open ground: grass, path, sky, far hills
_WALLS, _FLOOR, _CEILING, _BACK = range(4)
_GRASS, _PATH, _SKY, _HILLS = range(4)

# faces of a room: x low, x high, y high, floor, ceiling
_FACE_SURFACE = np.array([_WALLS, _WALLS, _BACK, _FLOOR, _CEILING])
_FACE_NORMAL = np.array([[1, -1, 0, 0, 0], [0, 0, -1, 0, 0], [0, 0, 0, 1, -1]], np.float32)


class Scene(NamedTuple):
    """One rendered view.

    `image` uint8 (h, w, 3) sRGB; `depth` float32 (h, w) z-depth in metres, 0.5 to 10, 0 = invalid;
    `classes` int32 (h, w) 0..15, -1 = void; `instances` int32 (h, w) 0 = none, 1..N things, all N visible.
    """

    image: np.ndarray
    depth: np.ndarray
    classes: np.ndarray
    instances: np.ndarray


class _Hits(NamedTuple):
    """What each pixel sees, (h * w,) or (3, h * w): depth (infinite in the sky), surface, normal, texture."""

    depth: np.ndarray
    surface: np.ndarray
    normal: np.ndarray
    u: np.ndarray
    v: np.ndarray
    half_u: np.ndarray
    half_v: np.ndarray


def position(kind: str, name: str, allowed: tuple[str, ...]) -> int:
    """Index of `name` among the `allowed` names of a `kind`; ValueError with the closest match otherwise."""
    if name not in allowed:
        close = difflib.get_close_matches(str(name), allowed, 1, 0.3)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"Unknown {kind} {name!r} of the built-in scenes; allowed: {', '.join(allowed)}.{hint}"
        )
    return allowed.index(name)


def image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """(h, w) of `size`, a side or a pair, in pixels; ValueError when it is not positive."""
    h, w = (size, size) if isinstance(size, (int, np.integer)) else size
    if min(h, w) < 1:
        raise ValueError(
            f"size is {size!r}; give a positive number of pixels, or a pair (height, width)"
        )
    return int(h), int(w)


def render(seed: int, split: str, index: int, size: int | tuple[int, int]) -> Scene:
    """Render scene `index` >= 0 of `split` ("train", "val" or "test") at `size` (side or (h, w) in pixels).

    The result depends on the arguments alone. Raises ValueError for an unknown split or a size that is not positive.
    """
    h, w = image_size(size)
    words = (seed, position("split", split, SPLITS), index)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
    world = sample_world(rng)
    materials = m.sample_materials(rng, world.looks)
    looks = rng.random(8, dtype=np.float32)

    camera = _camera(world, (h, w))
    directions = camera.directions()
    *solids, shadows = _pairs(world, camera)
    hits = _trace(world, camera, directions, solids)
    light = _light(world, camera, directions, hits, looks, shadows)
    image = _develop(_colour(materials, camera, hits) * light, (h, w), looks, rng)
    classes = world.classes.astype(np.int32)[hits.surface].reshape(h, w)
    instances = _consecutive(world.instances[hits.surface]).reshape(h, w)
    return Scene(image, _sensed_depth(world, hits, (h, w), rng), classes, instances)


def _camera(world: World, size: tuple[int, int]) -> Camera:
    sin, cos, rise, level = (
        math.sin(world.yaw),
        math.cos(world.yaw),
        math.sin(world.pitch),
        math.cos(world.pitch),
    )
    axes = np.array(
        [[cos, -sin, 0], [-sin * rise, -cos * rise, level], [sin * level, cos * level, rise]],
        np.float32,
    )
    return Camera(
        np.float32(world.camera_height),
        axes,
        np.float32(max(size) / 2 / math.tan(world.fov / 2)),
        size,
    )


def _pairs(world: World, camera: Camera) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pixels that may see each sphere, box, frustum and shadow: one (counts, pixels) for each of the four groups."""
    x, y, radius, tip_x, tip_y = world.shadows
    flat = np.zeros_like(x)
    reach = np.float32(1.25) * radius
    centre = np.array([(x + tip_x) / 2, (y + tip_y) / 2, flat])
    half = np.array([np.abs(tip_x - x) / 2 + reach, np.abs(tip_y - y) / 2 + reach, flat])
    centres, halves = zip(*(solids.bounds() for solids in world.solids), (centre, half))
    rectangles = camera.rectangles(np.concatenate(centres, 1), np.concatenate(halves, 1))
    ends = np.cumsum([centre.shape[1] for centre in centres]).tolist()
    return [pairs(rectangles[:, start:end], camera.size[1]) for start, end in zip([0, *ends], ends)]


def _trace(world: World, camera: Camera, directions: np.ndarray, candidates: list) -> _Hits:
    """Nearest surface of every ray: the surroundings first, then the solids inside their rectangles."""
    hits = _room(world, camera, directions) if world.room else _ground(world, camera, directions)
    for solids, (counts, pixels) in zip(world.solids, candidates):
        if not len(pixels):
            continue
        depth = solids.hit(
            np.repeat(solids.shape, counts, 1), camera.height, take(directions, pixels)
        )
        near = np.flatnonzero(depth < hits.depth[pixels])
        pixels, depth = pixels[near], depth[near]
        np.minimum.at(hits.depth, pixels, depth)
        first = np.flatnonzero(depth == hits.depth[pixels])
        pixels, depth = pixels[first], depth[first]
        solid = np.repeat(np.arange(len(counts)), counts)[near[first]]
        point = take(directions, pixels) * depth
        point[2] += camera.height
        normal, *texture = solids.surface_at(take(solids.shape, solid), point)
        hits.surface[pixels] = solids.surface[solid]
        for buffer, values in zip((*hits.normal, *hits[3:]), (*normal, *texture)):
            buffer[pixels] = values
    return hits


def _room(world: World, camera: Camera, directions: np.ndarray) -> _Hits:
    """The inside of a box: the planes x low, x high, y high, floor, ceiling (the camera never looks back: dy > 0)."""
    left, right, back, ceiling = (np.float32(value) for value in world.room)
    dx, dy, dz = directions + np.float32(1e-9)
    # of two opposite planes, the one ahead of the camera is at the positive depth
    side, level = (
        np.maximum(left / dx, right / dx),
        np.maximum(-camera.height / dz, (ceiling - camera.height) / dz),
    )
    depth = np.minimum(np.minimum(side, back / dy), level)
    flat, lateral = depth == level, depth == side
    face = 2 - lateral * (2 - (dx > 0).view(np.int8))
    face += flat * (3 + (dz > 0).view(np.int8) - face)
    x, y = dx * depth, dy * depth
    ones = np.ones_like(x)
    u, v = np.where(face < 2, y, x), np.where(flat, y, dz * depth + camera.height)
    return _Hits(depth, _FACE_SURFACE[face], take(_FACE_NORMAL, face), u, v, ones, ones.copy())


def _ground(world: World, camera: Camera, directions: np.ndarray) -> _Hits:
    """Grass with a path up to the horizon, then far hills and sky."""
    dx, dy, dz = directions
    down = dz < -1e-4
    depth = np.where(down, camera.height / np.maximum(-dz, np.float32(1e-4)), np.float32(np.inf))
    u = np.where(down, dx * depth, dx / dy)
    v = np.where(down, dy * depth, dz / dy)
    surface = np.where(down, _GRASS, _SKY)
    if world.path:
        offset, slope, bend, half = world.path
        middle = offset + slope * v + bend * np.sin(v * np.float32(0.5))
        surface[down & (np.abs(u - middle) < half)] = _PATH
    crest = np.float32(0.12) * m.noise(
        u * 2 + np.float32(world.fov * 900), np.zeros_like(u)
    ) - np.float32(0.04)
    surface[~down & (v < crest)] = _HILLS
    normal = np.zeros_like(directions)
    normal[2] = 1
    return _Hits(depth, surface, normal, u, v, np.ones_like(u), np.ones_like(u))


def _colour(materials: m.Materials, camera: Camera, hits: _Hits) -> np.ndarray:
    """Unlit RGB float32 (3, h * w): the patterns, fading to their mean where they are finer than the pixels."""
    surface = hits.surface
    scale = materials.scale[surface]
    share = m.mix(
        materials.pattern[surface],
        hits.u,
        hits.v,
        scale,
        materials.phase[surface],
        hits.half_u,
        hits.half_v,
    )
    cycles = np.where(np.isfinite(hits.depth), scale * hits.depth, 0) / camera.focal
    share = 0.35 + (share - 0.35) * np.minimum(np.maximum(1.3 - 1.2 * cycles, 0.15), 1)
    return (
        take(materials.first, surface) + take(materials.second - materials.first, surface) * share
    )


def _light(
    world: World, camera: Camera, directions, hits: _Hits, looks: np.ndarray, shadows: tuple
) -> np.ndarray:
    """Brightness float32 (h * w,): ambient + Lambert, with soft shadows on the ground; 1 in the sky."""
    facing = world.light @ hits.normal
    if world.room:
        # a ceiling lamp's bounced light: every face gets some, so that walls differ but none is black
        brightness = 0.62 + 0.1 * looks[0] + 0.3 * np.maximum(facing, 0) + 0.12 * np.abs(facing)
    else:
        brightness = 0.5 + 0.1 * looks[0] + (0.45 + 0.1 * looks[1]) * np.maximum(facing, 0)
        brightness[~np.isfinite(hits.depth)] = 1
    level = hits.normal[2] > 0.9
    ground = level & (hits.depth * directions[2] < np.float32(0.05) - camera.height)
    shade = _shade(world, directions, hits.depth, ground, *shadows)
    return brightness * (1 - (0.35 + 0.2 * looks[2]) * shade)


def _shade(world: World, directions, depth, ground, counts, pixels) -> np.ndarray:
    """Darkness in [0, 1] of the pixels where `ground`: a soft capsule from an object's foot to its shadow's tip."""
    darkness = np.zeros_like(depth)
    on_ground = np.flatnonzero(ground[pixels])
    pixels = pixels[on_ground]
    x, y, radius, tip_x, tip_y = take(np.repeat(world.shadows, counts, 1), on_ground)
    away_x, away_y, _ = take(directions, pixels) * depth[pixels]
    away_x, away_y = away_x - x, away_y - y
    tip_x, tip_y = tip_x - x, tip_y - y
    along = (away_x * tip_x + away_y * tip_y) / (tip_x * tip_x + tip_y * tip_y + np.float32(1e-6))
    along = np.minimum(np.maximum(along, 0), 1)
    distance = np.sqrt((away_x - along * tip_x) ** 2 + (away_y - along * tip_y) ** 2) / radius
    np.maximum.at(
        darkness,
        pixels,
        np.minimum(np.maximum(2.5 - 2 * distance, 0), 1) * (1 - np.float32(0.4) * along),
    )
    return darkness


def _develop(
    colour: np.ndarray, size: tuple[int, int], looks: np.ndarray, sensor: np.random.Generator
) -> np.ndarray:
    """uint8 (h, w, 3) of RGB (3, h * w): exposure, white balance, vignette and the sensor's faint noise."""
    h, w = size
    gain = 255 * (0.9 + 0.2 * looks[3]) * (1 + np.float32(0.1) * (looks[4:7] - 0.5))
    noise = np.frombuffer(sensor.bytes(3 * h * w), np.uint8) * np.float32(
        3.4 / 255
    )  # deviation 1 of 255, mean 1.7
    image = colour * (_vignette(h, w) * gain[:, None]) + (
        noise.reshape(3, -1) - np.float32(1.7 - 0.5)
    )
    image = np.minimum(np.maximum(image, 0), 255).astype(np.uint8)
    return np.ascontiguousarray(image.T).reshape(h, w, 3)


@lru_cache(maxsize=8)
def _vignette(h: int, w: int) -> np.ndarray:
    y, x = np.linspace(-1, 1, h, dtype=np.float32), np.linspace(-1, 1, w, dtype=np.float32)
    return (1 - np.float32(0.06) * (y[:, None] ** 2 + x**2)).ravel()


def _sensed_depth(
    world: World, hits: _Hits, size: tuple[int, int], sensor: np.random.Generator
) -> np.ndarray:
    """The z-depth a sensor gives, float32 (h, w): exact, with holes at silhouettes, on shiny barrels and in patches."""
    h, w = size
    depth = np.where((hits.depth <= MAX_DEPTH) & (hits.depth >= 0.5), hits.depth, np.float32(0))
    luck = np.frombuffer(sensor.bytes(h * w), np.uint8)
    shiny = (world.classes == m.BARREL)[hits.surface] & (world.light @ hits.normal > 0.85)
    depth[shiny & (luck < 150)] = 0
    depth, luck = depth.reshape(h, w), luck.reshape(h, w)
    jump = np.abs(depth[:, 1:] - depth[:, :-1]) > np.float32(0.08) * depth[:, 1:]
    depth[:, 1:][jump & (luck[:, 1:] < 64)] = 0
    y, x, tall, wide = sensor.random((4, int(4 * sensor.random()))) * [
        [h],
        [w],
        [0.08 * h],
        [0.08 * w],
    ]
    for top, left, bottom, right in np.array([y, x, y + tall, x + wide]).T.astype(int).tolist():
        depth[top:bottom, left:right] = 0
    return depth


def _consecutive(instances: np.ndarray) -> np.ndarray:
    """Instance ids int32 numbered 1..N over the ids that occur; 0 stays 0."""
    seen = np.bincount(instances) > 0
    seen[0] = False
    return np.where(seen, np.cumsum(seen), 0).astype(np.int32)[instances]
