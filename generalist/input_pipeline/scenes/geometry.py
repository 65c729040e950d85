"""Solids of the scenes and their exact intersection with camera rays, batched over (solid, pixel) pairs.

World axes: x right, y ahead, z up, metres, the ground at z = 0; the camera stands above the origin. A ray is
`origin + t * direction` with directions scaled so that t is the z-depth of the point. Only pixels inside a solid's
projected bounding rectangle are tested.
"""

from typing import NamedTuple

import numpy as np

_FAR = np.float32(np.inf)


class Camera(NamedTuple):
    """A pinhole `height` metres above ground: `axes` (3, 3) rows right, up, ahead; `focal`, `size` (h, w) in pixels."""

    height: float
    axes: np.ndarray
    focal: float
    size: tuple[int, int]

    def directions(self) -> np.ndarray:
        """World directions float32 (3, h * w) of the rays through the pixel centres, 1 along the view axis."""
        h, w = self.size
        across = (np.arange(w, dtype=np.float32) + (0.5 - w / 2)) / self.focal
        up = ((h / 2 - 0.5) - np.arange(h, dtype=np.float32)) / self.focal
        right, top, ahead = self.axes.astype(np.float32)[:, :, None, None]
        return (ahead + up[:, None] * top + across * right).reshape(3, -1)

    def rectangles(self, centre: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Pixel rectangles int (4, n) x0, x1, y0, y1 (ends excluded) around boxes: `centre`, `half` (3, n) metres."""
        h, w = self.size
        across, up, ahead = self.axes @ (centre - np.array([[0], [0], [self.height]]))
        wide, tall, deep = np.abs(self.axes) @ half
        near, far = (
            self.focal / np.maximum(ahead - deep, 0.1),
            self.focal / np.maximum(ahead + deep, 0.1),
        )
        left, right, low, high = across - wide, across + wide, up - tall, up + tall
        edges = np.array(
            [
                np.minimum(left * near, left * far) + (w / 2 - 0.5),
                np.maximum(right * near, right * far) + (w / 2 + 1.5),
                -np.maximum(high * near, high * far) + (h / 2 - 0.5),
                -np.minimum(low * near, low * far) + (h / 2 + 1.5),
            ]
        )
        x0, x1, y0, y1 = np.minimum(np.maximum(edges, 0), [[w], [w], [h], [h]]).astype(np.int64)
        return np.array([x0, np.where(ahead + deep > 0.1, x1, x0), y0, y1])


def pairs(rectangles: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """All (rectangle, pixel) pairs of `rectangles` int (4, n): pixels of each (n,), and flat pixel indices (m,)."""
    x0, x1, y0, y1 = rectangles
    columns = x1 - x0
    counts = columns * (y1 - y0)
    start = np.cumsum(counts) - counts
    table = np.array([columns, start, width - columns, y0 * width + x0 - start], np.int32)
    columns, start, gap, origin = np.repeat(table, counts, 1)
    step = np.arange(len(start), dtype=np.int32)
    return counts, step + origin + (step - start) // columns * gap


def take(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """`rows[:, columns]` of indices known to be in range, several times faster."""
    return rows.take(columns, 1, mode="clip")


def _turn(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """An angle-like coordinate of (x, y) in -pi..pi: right at multiples of 45 degrees, cheap; for textures only."""
    return np.copysign(
        np.float32(np.pi / 2) * (1 - x / (np.abs(x) + np.abs(y) + np.float32(1e-6))), y
    )


class Spheres(NamedTuple):
    """Rows x, y, z, radius of `shape` float32 (4, n); `surface` int (n,) indexes the scene's surfaces."""

    shape: np.ndarray
    surface: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        return self.shape[:3], self.shape[[3, 3, 3]]

    @staticmethod
    def hit(shape: np.ndarray, height: float, direction: np.ndarray) -> np.ndarray:
        """Depth t of the first intersection of ray i with solid i, infinity where there is none: float32 (m,)."""
        x, y, z, radius = shape
        dx, dy, dz = direction
        z = z - height
        a = dx * dx + dy * dy + dz * dz
        b = dx * x + dy * y + dz * z
        inside = b * b - a * (x * x + y * y + z * z - radius * radius)
        return np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, _FAR)

    @staticmethod
    def surface_at(shape: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, ...]:
        """Outward unit normal (3, m), texture u, v (radians) and half extents, of points (3, m) on solids (k, m)."""
        normal = (point - shape[:3]) / shape[3]
        u = _turn(normal[0], normal[1])
        return normal, u, normal[2] * 1.3, np.full_like(u, np.pi), np.ones_like(u)


class Boxes(NamedTuple):
    """Rows x, y, z of the centre, half extents along the own axes, cosine and sine of the yaw: float32 (8, n)."""

    shape: np.ndarray
    surface: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        _, _, _, hx, hy, hz, cos, sin = self.shape
        half = [np.abs(hx * cos) + np.abs(hy * sin), np.abs(hx * sin) + np.abs(hy * cos), hz]
        return self.shape[:3], np.array(half)

    @staticmethod
    def hit(shape: np.ndarray, height: float, direction: np.ndarray) -> np.ndarray:
        x, y, z, hx, hy, hz, cos, sin = shape
        dx, dy, dz = direction
        near, far = np.zeros_like(dx), np.full_like(dx, _FAR)
        along_x, along_y = (
            (dx * cos + dy * sin, x * cos + y * sin, hx),
            (dy * cos - dx * sin, y * cos - x * sin, hy),
        )
        for slope, middle, half in (along_x, along_y, (dz, z - height, hz)):
            inverse = 1 / (slope + np.float32(1e-9))
            middle, half = middle * inverse, np.abs(half * inverse)
            near, far = np.maximum(near, middle - half), np.minimum(far, middle + half)
        return np.where((near < far) & (near > 0), near, _FAR)

    @staticmethod
    def surface_at(shape: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, ...]:
        x, y, z, hx, hy, hz, cos, sin = shape
        px, py, w = point[0] - x, point[1] - y, point[2] - z
        u, v = px * cos + py * sin, py * cos - px * sin
        by_x, by_y, by_z = np.abs(u / hx), np.abs(v / hy), np.abs(w / hz)
        top = by_z > np.maximum(by_x, by_y)
        along_x = ~top & (by_x > by_y)
        sign = np.sign(np.where(top, w, np.where(along_x, u, v)))
        flat = np.where(top, np.float32(0), sign)
        normal = np.array(
            [np.where(along_x, cos, -sin) * flat, np.where(along_x, sin, cos) * flat, sign - flat]
        )
        return (
            normal,
            np.where(along_x, v, u),
            np.where(top, v, w),
            np.where(along_x, hy, hx),
            np.where(top, hy, hz),
        )


class Frusta(NamedTuple):
    """Upright cones and cylinders: rows x, y, bottom z, top z, bottom radius, top radius, float32 (6, n)."""

    shape: np.ndarray
    surface: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        x, y, bottom, top, lower, upper = self.shape
        radius = np.maximum(lower, upper)
        return np.array([x, y, (bottom + top) / 2]), np.array([radius, radius, (top - bottom) / 2])

    @staticmethod
    def hit(shape: np.ndarray, height: float, direction: np.ndarray) -> np.ndarray:
        x, y, bottom, top, lower, upper = shape
        dx, dy, dz = direction
        slope = (upper - lower) / (top - bottom)
        radius = lower + slope * (height - bottom)  # of the infinite cone at the camera's height
        change = slope * dz
        a = dx * dx + dy * dy - change * change
        b = dx * x + dy * y + radius * change
        inside = b * b - a * (x * x + y * y - radius * radius)
        side = (b - np.sqrt(np.maximum(inside, 0))) / a
        z = height + side * dz
        side = np.where((inside > 0) & (side > 0) & (z >= bottom) & (z <= top), side, _FAR)
        cap = (top - height) / (dz + np.float32(1e-9))
        off = (cap * dx - x) ** 2 + (cap * dy - y) ** 2
        return np.where((cap > 0) & (off < upper * upper), np.minimum(cap, side), side)

    @staticmethod
    def surface_at(shape: np.ndarray, point: np.ndarray) -> tuple[np.ndarray, ...]:
        x, y, bottom, top, lower, upper = shape
        px, py, half = point[0] - x, point[1] - y, (top - bottom) / 2
        cap = (point[2] > top - 1e-3) & (lower > 0)
        radius = np.sqrt(px * px + py * py) + np.float32(1e-6)
        tilt = (lower - upper) / (top - bottom)
        length = 1 / np.sqrt(1 + tilt * tilt)
        flat = np.where(cap & (upper > 0), np.float32(0), length / radius)
        normal = np.array([px * flat, py * flat, np.where(flat > 0, tilt * length, np.float32(1))])
        u = np.where(flat > 0, _turn(px, py) * lower, px)
        return (
            normal,
            u,
            np.where(flat > 0, point[2] - bottom - half, py),
            lower,
            np.where(flat > 0, half, lower),
        )
