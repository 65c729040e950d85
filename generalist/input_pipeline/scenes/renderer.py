"""Renders the built-in RGB-D scenes: exact per-pixel labels, any scene by its index.

Scene `index` of a split is a pure function of (seed, split, index). The world is drawn from its
Philox stream before the sensor's noise, so that one world can be looked at in any size. One ray
goes through every pixel center; nothing is anti-aliased, so that color, depth and labels agree
exactly at each pixel.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from generalist import names
from generalist.input_pipeline.scenes.geometry import Boxes, Camera, Frusta, Spheres, pairs, take
from generalist.input_pipeline.scenes.layout import World, sample_world
from generalist.input_pipeline.scenes.materials import (
    BARREL,
    Materials,
    mix,
    noise,
    sample_materials,
)

SPLITS = ("train", "val", "test", "held_out")
MAX_DEPTH = 10.0  # meters; farther points have no valid depth

# The base surfaces of a room (side walls, floor, ceiling, back wall), and of an open ground.
_WALLS, _FLOOR, _CEILING, _BACK = range(4)
_GRASS, _PATH, _SKY, _HILLS = range(4)

# The faces of a room: x low, x high, y high, floor, ceiling.
_FACE_SURFACE = np.array([_WALLS, _WALLS, _BACK, _FLOOR, _CEILING])
_FACE_NORMAL = np.array([[1, -1, 0, 0, 0], [0, 0, -1, 0, 0], [0, 0, 0, 1, -1]], np.float32)


class Scene(NamedTuple):
    """One rendered view."""

    image: np.ndarray  # uint8 (h, w, 3), sRGB
    depth: np.ndarray  # float32 (h, w), z-depth in meters, 0.5 to 10; 0 = invalid
    classes: np.ndarray  # int32 (h, w), 0..15; -1 = void
    instances: np.ndarray  # int32 (h, w), things 1..N, all N visible; 0 = none
    patterns: np.ndarray  # uint8 (h, w), indices in materials.PATTERNS: what the surface wears


class _Candidates(NamedTuple):
    """The pixels that may see each of a group of solids, solid by solid; see `geometry.pairs`."""

    counts: np.ndarray
    pixels: np.ndarray


class _Hits(NamedTuple):
    """What each pixel sees, all (h * w,) but for `normal`."""

    depth: np.ndarray  # infinite in the sky
    surface: np.ndarray
    normal: np.ndarray  # (3, h * w)
    u: np.ndarray
    v: np.ndarray
    half_u: np.ndarray
    half_v: np.ndarray


def split_index(split: str) -> int:
    """Returns the index of `split` in SPLITS; ValueError with the closest match if it is none."""
    return SPLITS.index(names.one_of(split, SPLITS, "split of the built-in scenes"))


def image_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (h, w) of `size`, a side or a pair, in pixels; ValueError unless it is positive."""
    h, w = (size, size) if isinstance(size, (int, np.integer)) else size
    if min(h, w) < 1:
        raise ValueError(
            f"size is {size!r}; give a positive number of pixels, or a pair (height, width)"
        )
    return int(h), int(w)


def render(seed: int, split: str, index: int, size: int | tuple[int, int]) -> Scene:
    """Renders one scene. The result depends on the arguments alone.

    Args:
      seed: integer >= 0.
      split: one of SPLITS.
      index: of the scene, >= 0.
      size: side or (h, w) in pixels.

    Raises:
      ValueError: unknown split, or a size that is not positive.
    """
    h, w = image_size(size)
    words = (seed, split_index(split), index)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))

    # Whatever does not depend on the size is drawn first.
    world = sample_world(rng)
    materials = sample_materials(rng, world.looks)
    looks = rng.random(8, dtype=np.float32)

    # Geometry: what each pixel sees.
    camera = _camera(world, (h, w))
    directions = camera.directions()
    *solid_candidates, shadow_candidates = _candidates(world, camera)
    hits = _trace(world, camera, directions, solid_candidates)

    # Appearance: color, light, sensor.
    light = _light(world, camera, directions, hits, looks, shadow_candidates)
    color = _color(materials, camera, hits)
    image = _develop(color * light, (h, w), looks, rng)

    classes = world.classes.astype(np.int32)[hits.surface].reshape(h, w)
    instances = _consecutive(world.instances[hits.surface]).reshape(h, w)
    patterns = materials.pattern[hits.surface].reshape(h, w)
    depth = _sensed_depth(world, hits, (h, w), rng)
    return Scene(image, depth, classes, instances, patterns)


def _camera(world: World, size: tuple[int, int]) -> Camera:
    """Returns the camera: turned by the yaw around z, then by the pitch around its right axis."""
    sin = math.sin(world.yaw)
    cos = math.cos(world.yaw)
    rise = math.sin(world.pitch)
    level = math.cos(world.pitch)

    right = [cos, -sin, 0]
    up = [-sin * rise, -cos * rise, level]
    ahead = [sin * level, cos * level, rise]
    return Camera(
        height=np.float32(world.camera_height),
        axes=np.array([right, up, ahead], np.float32),
        focal=np.float32(max(size) / 2 / math.tan(world.fov / 2)),
        size=size,
    )


def _candidates(world: World, camera: Camera) -> list[_Candidates]:
    """Returns the pixels that may see spheres, boxes, frusta and shadows: four groups."""
    # A shadow is a flat box from the foot of its object to its end.
    x, y, radius, tip_x, tip_y = world.shadows
    flat = np.zeros_like(x)
    reach = np.float32(1.25) * radius
    shadow_center = np.array([(x + tip_x) / 2, (y + tip_y) / 2, flat])
    shadow_half = np.array([np.abs(tip_x - x) / 2 + reach, np.abs(tip_y - y) / 2 + reach, flat])

    # All four groups are projected at once.
    bounds = [solids.bounds() for solids in world.solids]
    centers, halves = zip(*bounds, (shadow_center, shadow_half), strict=True)
    rectangles = camera.rectangles(np.concatenate(centers, 1), np.concatenate(halves, 1))

    groups = []
    start = 0
    for center in centers:
        end = start + center.shape[1]
        groups.append(_Candidates(*pairs(rectangles[:, start:end], camera.size[1])))
        start = end
    return groups


def _trace(
    world: World, camera: Camera, directions: np.ndarray, candidates: list[_Candidates]
) -> _Hits:
    """Returns the nearest surface of every ray: the surroundings, then the solids before them."""
    surroundings = _room if world.room else _ground
    hits = surroundings(world, camera, directions)
    for solids, group in zip(world.solids, candidates, strict=True):
        if len(group.pixels):
            _trace_solids(solids, group, camera, directions, hits)
    return hits


def _trace_solids(
    solids: Spheres | Boxes | Frusta,
    candidates: _Candidates,
    camera: Camera,
    directions: np.ndarray,
    hits: _Hits,
) -> None:
    """Writes the solids into `hits` where they are nearer than what is there."""
    counts, pixels = candidates
    shape = np.repeat(solids.shape, counts, 1)
    depth = solids.hit(shape, camera.height, take(directions, pixels))

    # A pixel that sees several solids keeps the nearest: first the least depth of each pixel, then
    # the pairs that have it.
    near = np.flatnonzero(depth < hits.depth[pixels])
    pixels = pixels[near]
    depth = depth[near]
    np.minimum.at(hits.depth, pixels, depth)
    first = np.flatnonzero(depth == hits.depth[pixels])
    pixels = pixels[first]
    depth = depth[first]
    solid = np.repeat(np.arange(len(counts)), counts)[near[first]]

    # The points in the world, where the camera is above the origin.
    point = take(directions, pixels) * depth
    point[2] += camera.height
    seen = solids.surface_at(take(solids.shape, solid), point)

    hits.surface[pixels] = solids.surface[solid]
    for axis in range(3):
        hits.normal[axis][pixels] = seen.normal[axis]
    hits.u[pixels] = seen.u
    hits.v[pixels] = seen.v
    hits.half_u[pixels] = seen.half_u
    hits.half_v[pixels] = seen.half_v


def _room(world: World, camera: Camera, directions: np.ndarray) -> _Hits:
    """Returns the inside of a box. Its near face is never seen: the camera looks ahead, dy > 0."""
    left, right, back, ceiling = (np.float32(value) for value in world.room)
    dx, dy, dz = directions + np.float32(1e-9)

    # Of two opposite planes, the one ahead of the camera is at the positive depth.
    side = np.maximum(left / dx, right / dx)
    level = np.maximum(-camera.height / dz, (ceiling - camera.height) / dz)
    depth = np.minimum(np.minimum(side, back / dy), level)

    # Which of the five faces: 2 (back), unless it is lateral (0, 1) or flat (3, 4).
    flat = depth == level
    lateral = depth == side
    face = 2 - lateral * (2 - (dx > 0).view(np.int8))
    face += flat * (3 + (dz > 0).view(np.int8) - face)

    # Texture coordinates are two of the point's own, in meters.
    x = dx * depth
    y = dy * depth
    ones = np.ones_like(x)
    return _Hits(
        depth=depth,
        surface=_FACE_SURFACE[face],
        normal=take(_FACE_NORMAL, face),
        u=np.where(face < 2, y, x),
        v=np.where(flat, y, dz * depth + camera.height),
        half_u=ones,
        half_v=ones.copy(),
    )


def _ground(world: World, camera: Camera, directions: np.ndarray) -> _Hits:
    """Returns grass with a path up to the horizon, then far hills and sky."""
    dx, dy, dz = directions

    # Below the horizon (u, v) is the point on the ground, above it the direction.
    down = dz < -1e-4
    depth = np.where(down, camera.height / np.maximum(-dz, np.float32(1e-4)), np.float32(np.inf))
    u = np.where(down, dx * depth, dx / dy)
    v = np.where(down, dy * depth, dz / dy)

    surface = np.where(down, _GRASS, _SKY)
    if world.path:
        offset, slope, bend, half = world.path
        middle = offset + slope * v + bend * np.sin(v * np.float32(0.5))
        surface[down & (np.abs(u - middle) < half)] = _PATH

    # The hills' outline; the field of view shifts it, so that every world has its own.
    shifted = u * 2 + np.float32(world.fov * 900)
    crest = np.float32(0.12) * noise(shifted, np.zeros_like(u)) - np.float32(0.04)
    surface[~down & (v < crest)] = _HILLS

    normal = np.zeros_like(directions)
    normal[2] = 1
    return _Hits(
        depth=depth,
        surface=surface,
        normal=normal,
        u=u,
        v=v,
        half_u=np.ones_like(u),
        half_v=np.ones_like(u),
    )


def _color(materials: Materials, camera: Camera, hits: _Hits) -> np.ndarray:
    """Returns unlit RGB, float32 (3, h * w)."""
    surface = hits.surface
    scale = materials.scale[surface]
    fraction = mix(
        materials.pattern[surface],
        u=hits.u,
        v=hits.v,
        scale=scale,
        phase=materials.phase[surface],
        half_u=hits.half_u,
        half_v=hits.half_v,
    )

    # Patterns finer than the pixels fade to their mean: there is no anti-aliasing to do it.
    cycles_per_pixel = np.where(np.isfinite(hits.depth), scale * hits.depth, 0) / camera.focal
    contrast = np.minimum(np.maximum(1.3 - 1.2 * cycles_per_pixel, 0.15), 1)
    fraction = 0.35 + (fraction - 0.35) * contrast

    difference = materials.second - materials.first
    return take(materials.first, surface) + take(difference, surface) * fraction


def _light(
    world: World,
    camera: Camera,
    directions: np.ndarray,
    hits: _Hits,
    looks: np.ndarray,
    shadows: _Candidates,
) -> np.ndarray:
    """Returns the brightness float32 (h * w,): ambient + Lambert, soft shadows; 1 in the sky."""
    facing = world.light @ hits.normal
    lambert = np.maximum(facing, 0)
    if world.room:
        # The lamp's bounced light reaches every face, so that walls differ but none is black.
        brightness = 0.62 + 0.1 * looks[0] + 0.3 * lambert + 0.12 * np.abs(facing)
    else:
        brightness = 0.5 + 0.1 * looks[0] + (0.45 + 0.1 * looks[1]) * lambert
        brightness[~np.isfinite(hits.depth)] = 1

    # Shadows fall on the ground only, 5 cm thick: a rug is ground, too.
    level = hits.normal[2] > 0.9
    on_ground = level & (hits.depth * directions[2] < np.float32(0.05) - camera.height)
    shade = _shade(world, directions, hits.depth, on_ground, shadows)
    return brightness * (1 - (0.35 + 0.2 * looks[2]) * shade)


def _shade(
    world: World,
    directions: np.ndarray,
    depth: np.ndarray,
    on_ground: np.ndarray,
    candidates: _Candidates,
) -> np.ndarray:
    """Returns the darkness in [0, 1] of every pixel, 0 where it is not `on_ground`.

    A shadow is a soft capsule from an object's foot to the shadow's tip.
    """
    kept = np.flatnonzero(on_ground[candidates.pixels])
    pixels = candidates.pixels[kept]
    x, y, radius, tip_x, tip_y = take(np.repeat(world.shadows, candidates.counts, 1), kept)

    # The ground's points and the tip, seen from the foot.
    away_x, away_y, _ = take(directions, pixels) * depth[pixels]
    away_x = away_x - x
    away_y = away_y - y
    tip_x = tip_x - x
    tip_y = tip_y - y

    # The nearest point of the capsule's axis, as a fraction of the way to the tip.
    along = (away_x * tip_x + away_y * tip_y) / (tip_x * tip_x + tip_y * tip_y + np.float32(1e-6))
    along = np.minimum(np.maximum(along, 0), 1)
    distance = np.sqrt((away_x - along * tip_x) ** 2 + (away_y - along * tip_y) ** 2) / radius

    # Soft at the edge, fainter toward the tip; where shadows overlap, the darker counts.
    edge = np.minimum(np.maximum(2.5 - 2 * distance, 0), 1)
    darkness = np.zeros_like(depth)
    np.maximum.at(darkness, pixels, edge * (1 - np.float32(0.4) * along))
    return darkness


def _develop(
    color: np.ndarray, size: tuple[int, int], looks: np.ndarray, sensor: np.random.Generator
) -> np.ndarray:
    """Returns the image uint8 (h, w, 3) of lit RGB (3, h * w), as a camera develops it."""
    h, w = size
    exposure = 255 * (0.9 + 0.2 * looks[3])
    white_balance = 1 + np.float32(0.1) * (looks[4:7] - 0.5)
    gain = exposure * white_balance

    # The sensor's faint noise: uniform, of deviation 1 and mean 1.7 of 255. Its mean is taken off,
    # and 0.5 added for the rounding below.
    grain = np.frombuffer(sensor.bytes(3 * h * w), np.uint8) * np.float32(3.4 / 255)
    grain = grain.reshape(3, -1) - np.float32(1.7 - 0.5)

    image = color * (_vignette(h, w) * gain[:, None]) + grain
    image = np.minimum(np.maximum(image, 0), 255).astype(np.uint8)
    return np.ascontiguousarray(image.T).reshape(h, w, 3)


@lru_cache(maxsize=8)
def _vignette(h: int, w: int) -> np.ndarray:
    """Returns the factors (h * w,) by which a lens darkens the corners."""
    y = np.linspace(-1, 1, h, dtype=np.float32)
    x = np.linspace(-1, 1, w, dtype=np.float32)
    return (1 - np.float32(0.06) * (y[:, None] ** 2 + x**2)).ravel()


def _sensed_depth(
    world: World, hits: _Hits, size: tuple[int, int], sensor: np.random.Generator
) -> np.ndarray:
    """Returns the z-depth of a sensor, float32 (h, w): exact, but for holes, where it is 0."""
    h, w = size
    depth = np.where((hits.depth <= MAX_DEPTH) & (hits.depth >= 0.5), hits.depth, np.float32(0))
    luck = np.frombuffer(sensor.bytes(h * w), np.uint8)

    # Shiny barrels reflect the sensor's light away.
    shiny = (world.classes == BARREL)[hits.surface] & (world.light @ hits.normal > 0.85)
    depth[shiny & (luck < 150)] = 0

    # So do some silhouettes, where one ray falls on two surfaces.
    depth = depth.reshape(h, w)
    luck = luck.reshape(h, w)
    jump = np.abs(depth[:, 1:] - depth[:, :-1]) > np.float32(0.08) * depth[:, 1:]
    depth[:, 1:][jump & (luck[:, 1:] < 64)] = 0

    # Up to three patches fail as a whole.
    extent = [[h], [w], [0.08 * h], [0.08 * w]]
    y, x, tall, wide = sensor.random((4, int(4 * sensor.random()))) * extent
    patches = np.array([y, x, y + tall, x + wide]).T.astype(int).tolist()
    for top, left, bottom, right in patches:
        depth[top:bottom, left:right] = 0
    return depth


def _consecutive(instances: np.ndarray) -> np.ndarray:
    """Numbers instance ids int32 1..N over the ids that occur; 0 stays 0."""
    seen = np.bincount(instances) > 0
    seen[0] = False
    return np.where(seen, np.cumsum(seen), 0).astype(np.int32)[instances]
