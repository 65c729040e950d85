"""Solids of the scenes and their exact intersection with camera rays, batched over (solid, pixel).

World axes: x right, y ahead, z up, in meters. The ground is at z = 0; the camera is above the
origin. A ray is `origin + t * direction`, with directions scaled so that t is the z-depth of the
point. A solid is tested only against the pixels inside its projected bounding rectangle.

Spheres, Boxes and Frusta share one form:

* `shape` float32 (k, n): one row a parameter, one column a solid; `surface` int (n,) is each
  solid's index among the scene's surfaces.
* `bounds()`: centers and half extents (3, n), in meters, of boxes along the world's axes.
* `hit(shape (k, m), height, direction (3, m))`: the depth t float32 (m,) where ray i, from a camera
  `height` meters up, first meets solid i; infinity where it misses.
* `surface_at(shape (k, m), point (3, m))`: the `Surface` of solid i at point i on it.

In those formulas a, b and `inside` are the coefficients and the discriminant of a quadratic in t.
"""

from typing import NamedTuple

import numpy as np

_FAR = np.float32(np.inf)
_TINY = np.float32(1e-9)  # keeps a ray parallel to a plane from dividing by zero


class Camera(NamedTuple):
    """A pinhole camera above the origin."""

    height: float  # meters above the ground
    axes: np.ndarray  # (3, 3), rows: its right, up and ahead in the world
    focal: float  # focal length in pixels
    size: tuple[int, int]  # (h, w) in pixels

    def directions(self) -> np.ndarray:
        """Returns the rays through the pixel centers: float32 (3, h * w), 1 along the view axis."""
        h, w = self.size
        across = (np.arange(w, dtype=np.float32) + (0.5 - w / 2)) / self.focal
        up = ((h / 2 - 0.5) - np.arange(h, dtype=np.float32)) / self.focal

        right, top, ahead = self.axes.astype(np.float32)[:, :, None, None]
        return (ahead + up[:, None] * top + across * right).reshape(3, -1)

    def rectangles(self, center: np.ndarray, half: np.ndarray) -> np.ndarray:
        """Returns the pixel rectangles around boxes.

        Args:
          center: (3, n) in meters.
          half: half extents along the world's axes, (3, n) in meters.

        Returns:
          int (4, n): x0, x1, y0, y1, ends excluded; x1 = x0 or less for what is out of view.
        """
        h, w = self.size

        # The same boxes along the camera's axes, grown until they contain the turned ones.
        across, up, ahead = self.axes @ (center - np.array([[0], [0], [self.height]]))
        wide, tall, deep = np.abs(self.axes) @ half
        left = across - wide
        right = across + wide
        low = up - tall
        high = up + tall

        # An edge projects farthest out from the near or from the far side, by which side of the
        # view axis it is on.
        near = self.focal / np.maximum(ahead - deep, 0.1)
        far = self.focal / np.maximum(ahead + deep, 0.1)
        edges = np.array(
            [
                np.minimum(left * near, left * far) + (w / 2 - 0.5),
                np.maximum(right * near, right * far) + (w / 2 + 1.5),
                -np.maximum(high * near, high * far) + (h / 2 - 0.5),
                -np.minimum(low * near, low * far) + (h / 2 + 1.5),
            ]
        )
        x0, x1, y0, y1 = np.minimum(np.maximum(edges, 0), [[w], [w], [h], [h]]).astype(np.int64)

        # What lies behind the camera is not seen.
        return np.array([x0, np.where(ahead + deep > 0.1, x1, x0), y0, y1])


class Surface(NamedTuple):
    """What a material needs to know of m points: (u, v) are in meters, on balls in radians."""

    normal: np.ndarray  # outward unit vectors (3, m)
    u: np.ndarray  # texture coordinate across (m,)
    v: np.ndarray  # texture coordinate up (m,)
    half_u: np.ndarray  # half extents of the face along u (m,)
    half_v: np.ndarray  # half extents of the face along v (m,)


def pairs(rectangles: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists all (rectangle, pixel) pairs, rectangle by rectangle.

    Args:
      rectangles: int (4, n), as `Camera.rectangles` returns them.
      width: of the image, in pixels.

    Returns:
      counts: the number of pixels of each rectangle, (n,).
      pixels: flat indices of these pixels, (sum of counts,).
    """
    x0, x1, y0, y1 = rectangles
    columns = x1 - x0
    counts = columns * (y1 - y0)
    start = np.cumsum(counts) - counts

    # Pair i of a rectangle is pixel (i // columns, i % columns) of it. Its flat index grows by one
    # a pair, and by the rest of the image's row, the gap, at every end of a rectangle's row.
    table = np.array([columns, start, width - columns, y0 * width + x0 - start], np.int32)
    columns, start, gap, origin = np.repeat(table, counts, 1)
    step = np.arange(len(start), dtype=np.int32)
    return counts, step + origin + (step - start) // columns * gap


def take(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Returns `rows[:, columns]` several times faster; the indices must be in range."""
    return rows.take(columns, 1, mode="clip")


def _turn(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns an angle-like coordinate of (x, y) in [-pi, pi], for textures.

    It is the angle at multiples of 45 degrees, close to it between, and cheaper.
    """
    ratio = x / (np.abs(x) + np.abs(y) + np.float32(1e-6))
    return np.copysign(np.float32(np.pi / 2) * (1 - ratio), y)


class Spheres(NamedTuple):
    """Balls. Rows of `shape` (4, n): x, y, z of the center, radius. See the module's docstring."""

    shape: np.ndarray
    surface: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns centers and half extents (3, n) of the boxes around them."""
        return self.shape[:3], self.shape[[3, 3, 3]]

    @staticmethod
    def hit(shape: np.ndarray, height: float, direction: np.ndarray) -> np.ndarray:
        """Returns the depth float32 (m,) where ray i meets sphere i."""
        x, y, z, radius = shape
        dx, dy, dz = direction

        z = z - height
        a = dx * dx + dy * dy + dz * dz
        b = dx * x + dy * y + dz * z
        inside = b * b - a * (x * x + y * y + z * z - radius * radius)
        return np.where(inside > 0, (b - np.sqrt(np.maximum(inside, 0))) / a, _FAR)

    @staticmethod
    def surface_at(shape: np.ndarray, point: np.ndarray) -> Surface:
        """Returns the surface at points (3, m); u and v in radians, v in [-1.3, 1.3]."""
        normal = (point - shape[:3]) / shape[3]
        u = _turn(normal[0], normal[1])
        return Surface(
            normal=normal,
            u=u,
            v=normal[2] * 1.3,
            half_u=np.full_like(u, np.pi),
            half_v=np.ones_like(u),
        )


class Boxes(NamedTuple):
    """Upright boxes, turned by a yaw.

    Rows of `shape` (8, n): x, y, z of the center, half extents along the own axes, cosine and sine
    of the yaw. See the module's docstring.
    """

    shape: np.ndarray
    surface: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns centers and half extents (3, n) of the boxes around them."""
        _, _, _, hx, hy, hz, cos, sin = self.shape
        half = [np.abs(hx * cos) + np.abs(hy * sin), np.abs(hx * sin) + np.abs(hy * cos), hz]
        return self.shape[:3], np.array(half)

    @staticmethod
    def hit(shape: np.ndarray, height: float, direction: np.ndarray) -> np.ndarray:
        """Returns the depth float32 (m,) where ray i meets box i."""
        x, y, z, hx, hy, hz, cos, sin = shape
        dx, dy, dz = direction

        # A box is what three slabs share. Each slab, along one of the box's own axes, has the ray's
        # slope to it, the distance of its middle, and its half thickness.
        slabs = (
            (dx * cos + dy * sin, x * cos + y * sin, hx),
            (dy * cos - dx * sin, y * cos - x * sin, hy),
            (dz, z - height, hz),
        )

        # The ray is inside the box from the last entry into a slab to the first exit from one.
        near = np.zeros_like(dx)
        far = np.full_like(dx, _FAR)
        for slope, middle, half in slabs:
            inverse = 1 / (slope + _TINY)
            middle = middle * inverse
            half = np.abs(half * inverse)
            near = np.maximum(near, middle - half)
            far = np.minimum(far, middle + half)
        return np.where((near < far) & (near > 0), near, _FAR)

    @staticmethod
    def surface_at(shape: np.ndarray, point: np.ndarray) -> Surface:
        """Returns the surface at points (3, m); v runs up, and ahead on the top face."""
        x, y, z, hx, hy, hz, cos, sin = shape

        # The points along the box's own axes.
        px = point[0] - x
        py = point[1] - y
        w = point[2] - z
        u = px * cos + py * sin
        v = py * cos - px * sin

        # The face is the one that the point is nearest to, in units of the half extents.
        by_x = np.abs(u / hx)
        by_y = np.abs(v / hy)
        by_z = np.abs(w / hz)
        top = by_z > np.maximum(by_x, by_y)
        along_x = ~top & (by_x > by_y)

        # One sign says which of two opposite faces; the vertical faces get it turned by the yaw.
        sign = np.sign(np.where(top, w, np.where(along_x, u, v)))
        flat = np.where(top, np.float32(0), sign)
        normal = np.array(
            [np.where(along_x, cos, -sin) * flat, np.where(along_x, sin, cos) * flat, sign - flat]
        )
        return Surface(
            normal=normal,
            u=np.where(along_x, v, u),
            v=np.where(top, v, w),
            half_u=np.where(along_x, hy, hx),
            half_v=np.where(top, hy, hz),
        )


class Frusta(NamedTuple):
    """Upright cones and cylinders.

    Rows of `shape` (6, n): x, y, bottom z, top z, bottom radius, top radius. See the module's
    docstring.
    """

    shape: np.ndarray
    surface: np.ndarray

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns centers and half extents (3, n) of the boxes around them."""
        x, y, bottom, top, lower, upper = self.shape
        radius = np.maximum(lower, upper)
        return np.array([x, y, (bottom + top) / 2]), np.array([radius, radius, (top - bottom) / 2])

    @staticmethod
    def hit(shape: np.ndarray, height: float, direction: np.ndarray) -> np.ndarray:
        """Returns the depth float32 (m,) where ray i meets frustum i."""
        x, y, bottom, top, lower, upper = shape
        dx, dy, dz = direction

        # The infinite cone, whose radius changes along the ray; `radius` is that at the camera.
        slope = (upper - lower) / (top - bottom)
        radius = lower + slope * (height - bottom)
        change = slope * dz
        a = dx * dx + dy * dy - change * change
        b = dx * x + dy * y + radius * change
        inside = b * b - a * (x * x + y * y - radius * radius)

        # Of it, only what lies between bottom and top.
        side = (b - np.sqrt(np.maximum(inside, 0))) / a
        z = height + side * dz
        side = np.where((inside > 0) & (side > 0) & (z >= bottom) & (z <= top), side, _FAR)

        # The disc on top may be hit first.
        cap = (top - height) / (dz + _TINY)
        off = (cap * dx - x) ** 2 + (cap * dy - y) ** 2
        return np.where((cap > 0) & (off < upper * upper), np.minimum(cap, side), side)

    @staticmethod
    def surface_at(shape: np.ndarray, point: np.ndarray) -> Surface:
        """Returns the surface at points (3, m); u runs around, on the top (u, v) is (x, y)."""
        x, y, bottom, top, lower, upper = shape
        px = point[0] - x
        py = point[1] - y
        half = (top - bottom) / 2

        # A cone's tip counts as its side: it has no disc on top.
        cap = (point[2] > top - 1e-3) & (lower > 0)
        radius = np.sqrt(px * px + py * py) + np.float32(1e-6)

        # The side leans back by as much as the radius shrinks with the height.
        tilt = (lower - upper) / (top - bottom)
        length = 1 / np.sqrt(1 + tilt * tilt)
        flat = np.where(cap & (upper > 0), np.float32(0), length / radius)
        on_side = flat > 0
        normal = np.array([px * flat, py * flat, np.where(on_side, tilt * length, np.float32(1))])
        return Surface(
            normal=normal,
            u=np.where(on_side, _turn(px, py) * lower, px),
            v=np.where(on_side, point[2] - bottom - half, py),
            half_u=lower,
            half_v=np.where(on_side, half, lower),
        )
