"""From location colors back to instances: the decoders behind `Instance.decode`.

Each takes levels, float32 (h, w, 3) in [0, 255], and returns `Candidates`. A code is a grid of
colors given by its three `Axes`; color (i, j, k) of the grid has index
(i * len(green) + j) * len(blue) + k.

Which decoder for a code of one block? Class-agnostic PQ in percent on 50 synthetic 64 x 64 images
of 3 to 12 overlapping discs. "blur" is a 3 x 3 box, "noise" white with sigma 0.1 on the scale of
[-1, 1], "drift" smooth noise (sigma 4 pixels) of sigma 0.1 with white noise of sigma 0.05 on top;
the score gate is 0.55 for "threshold", 0 for the others:

    cells   decoder      exact   blur   noise   blur + noise   blur + drift
    8       threshold     78.2   40.6    32.7           16.4           17.3
    8       minmax        96.9   20.2    19.2            2.0            3.8
    8       vote          63.6   62.5    63.0           60.7           55.2
    12      threshold     77.2   40.8    27.9           13.3           24.2
    12      minmax        99.8   14.8     0.3            0.0            0.2
    12      vote          86.3   83.9    79.9           76.2           66.7
    16      threshold     82.3   41.5    30.6           12.3           27.8
    16      minmax       100.0   12.9     0.0            0.0            0.0
    16      vote          93.4   90.2    87.1           82.3           69.3
    20      threshold     74.6   39.7    27.1           12.4           26.7
    20      minmax       100.0   11.0     0.0            0.0            0.0
    20      vote          95.7   92.9    90.0           84.6           63.1
"""

from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int

from generalist.tasks import matrix_nms


class Axes(NamedTuple):
    """The grid of colors of a code: levels of each channel, descending from 255."""

    red: Int[np.ndarray, " reds"]
    green: Int[np.ndarray, " greens"]
    blue: Int[np.ndarray, " blues"]


class Candidates(NamedTuple):
    """What may be instances.

    Attributes:
      masks: by descending score; they may overlap.
      scores: of the masks, in [0, 1].
    """

    masks: Bool[np.ndarray, "n h w"]
    scores: Float64[np.ndarray, " n"]


# Distances are counted in 1/256 of a level: sums are then exact, whatever their order.
_UNITS = 256

# Votes: smoothing of their histogram, in half cells.
_VOTE_SIGMA = 0.8

# Votes: how far a pixel may lie from its peak, in cells.
_VOTE_RADIUS = 3.0


def by_threshold(
    levels: Float32[np.ndarray, "h w 3"],
    axes: Axes,
    threshold: float,
    keep: int = 2000,
    top: int = 100,
) -> Candidates:
    """Painter's decoder: one mask per color of the code, thinned by Matrix NMS.

    The cost of a mask is the mean absolute difference of its pixels to its color. Its score is
    1 - cost / max(largest cost, 1) until Matrix NMS lowers it.

    Args:
      levels: what the model painted.
      axes: of the code.
      threshold: the mask of a color holds the pixels whose mean absolute difference to it is below
        so many levels.
      keep: how many masks enter Matrix NMS, the cheapest ones (ties: lower index).
      top: how many masks remain.
    """
    close = _close_pairs(levels, axes, 3 * _UNITS * threshold)

    # Cost of each color that has pixels, then the cheapest ones.
    count = np.bincount(close.color)
    present = np.flatnonzero(count)
    cost = np.bincount(close.color, close.distance)[present] / (3 * _UNITS * count[present])
    order = np.argsort(cost, kind="stable")[:keep]
    scores = 1.0 - cost[order] / max(cost[order].max(initial=0.0), 1.0)

    # The pairs of the masks that are kept; `rank` is a mask's position among them.
    rank = np.full(len(count), -1)
    rank[present[order]] = np.arange(len(order))
    kept = rank[close.color] >= 0
    mask = rank[close.color[kept]]
    pixel = close.pixel[kept]

    # Masks of neighboring colors overlap: only the best of each group keeps its score.
    shared = matrix_nms.intersections(mask, pixel, len(order))
    scores = matrix_nms.matrix_nms(scores, shared)
    best = np.argsort(-scores, kind="stable")[:top]
    return Candidates(_dense(mask, pixel, best, levels.shape[:2]), scores[best])


def by_nearest(levels: Float32[np.ndarray, "h w 3"], axes: Axes) -> Candidates:
    """Painter's "minmax": every pixel goes to the nearest color or to black.

    There is one mask per color that got pixels. The score is
    1 - mean L1 distance / max(largest mean distance of any mask, black's included, 1).
    """
    flat = levels.reshape(-1, 3)
    color = np.zeros(len(flat), np.int64)
    distance = np.zeros(len(flat), np.float32)

    # L1 distance is a sum over channels, so the nearest color of a grid is the nearest level of
    # each axis.
    for channel, values in zip(flat.T, axes, strict=True):
        differences = np.abs(channel[:, None] - values.astype(np.float32))
        color = color * len(values) + differences.argmin(-1)
        distance += differences.min(-1)

    # Black, the background, has the index after the last color.
    black = int(np.prod([len(values) for values in axes]))
    brightness = flat.sum(-1)
    color = np.where(brightness < distance, black, color)
    distance = np.minimum(brightness, distance)

    # One mask a color; black is scored with the others and then left out.
    present, mask = np.unique(color, return_inverse=True)
    cost = np.bincount(mask, distance) / np.bincount(mask)
    scores = 1.0 - cost / max(cost.max(), 1.0)
    best = np.argsort(-scores, kind="stable")
    best = best[present[best] != black]
    return Candidates(_dense(mask, np.arange(len(mask)), best, levels.shape[:2]), scores[best])


def by_votes(levels: Float32[np.ndarray, "h w 3"], axes: Axes, min_pixels: int) -> Candidates:
    """For a code of one block: foreground pixels vote for the center that their color names.

    Red is 255. Black background makes it the coverage of a pixel, so green / red and blue / red
    recover the code where a blurred prediction blends the two. Each pixel joins the nearest peak of
    the votes within `_VOTE_RADIUS` cells. Masks do not overlap. The score is
    1 - mean distance to the peak / radius.

    Args:
      levels: what the model painted.
      axes: of the code.
      min_pixels: smaller masks are dropped.
    """
    cells = len(axes.green)
    step = float(axes.green[0] - axes.green[1])

    # The code of each foreground pixel, averaged over 3 x 3 pixels.
    foreground = levels[..., 0] > 127.5
    smooth = cv2.blur(levels, (3, 3), borderType=cv2.BORDER_REPLICATE)[foreground]
    code = np.clip(255.0 / step * (1.0 - smooth[:, 1:] / smooth[:, :1]), 0.0, cells - 1.0)

    # The nearest peak of each; there is none without foreground.
    peaks = _peaks(code, cells)
    distance = np.linalg.norm(code[:, None] - peaks, axis=-1)
    nearest = np.zeros((0, 1), int)
    if len(peaks):
        nearest = np.argmin(distance, axis=-1, keepdims=True)
    distance = np.take_along_axis(distance, nearest, axis=-1)[:, 0]

    # Pixels far from every peak are noise.
    close = distance < _VOTE_RADIUS
    mask = nearest[close, 0]
    pixel = np.flatnonzero(foreground)[close]

    count = np.bincount(mask, minlength=len(peaks))
    total = np.bincount(mask, distance[close], len(peaks))
    scores = 1.0 - total / (np.maximum(count, 1) * _VOTE_RADIUS)
    best = np.argsort(-scores, kind="stable")
    best = best[count[best] >= max(min_pixels, 1)]
    return Candidates(_dense(mask, pixel, best, levels.shape[:2]), scores[best])


def _peaks(code: Float[np.ndarray, "pixels 2"], cells: int) -> Float64[np.ndarray, "peaks 2"]:
    """Returns the modes of the density of codes in 0..cells - 1, at least one cell apart."""
    # A histogram in half cells.
    side = 2 * cells - 1
    row, column = np.round(2 * code).astype(np.int64).T
    votes = np.bincount(row * side + column, minlength=side**2).reshape(side, side)
    density = cv2.GaussianBlur(
        votes.astype(np.float32), (0, 0), _VOTE_SIGMA, borderType=cv2.BORDER_CONSTANT
    )

    # Ranks instead of densities: no two are equal, so that a plateau has one peak.
    rank = np.empty(side**2, np.float32)
    rank[np.argsort(density, axis=None, kind="stable")] = np.arange(side**2)
    rank = rank.reshape(side, side)
    is_peak = (rank == cv2.dilate(rank, np.ones((5, 5), np.uint8))) & (density > 0)
    return np.argwhere(is_peak) / 2.0


class _Pairs(NamedTuple):
    """Pairs of a pixel and a color, ascending in pixel, then color.

    Attributes:
      pixel: position in the flat image.
      color: index in the code.
      distance: L1, in 1/256 levels.
    """

    pixel: Int[np.ndarray, " pairs"]
    color: Int[np.ndarray, " pairs"]
    distance: Int[np.ndarray, " pairs"]


def _close_pairs(levels: Float32[np.ndarray, "h w 3"], axes: Axes, limit: float) -> _Pairs:
    """Finds all pairs with distance < limit.

    Channel after channel, a partial sum that has already reached the limit is dropped: of the 6,400
    colors of Painter's code at most about 100 remain for a pixel, and hardly any for a background
    pixel.
    """
    # Begin with every pixel beside a single color that has no channel yet.
    pixels = np.round(levels.reshape(-1, 3) * _UNITS).astype(np.int32)
    pixel = np.arange(len(pixels))
    color = np.zeros(len(pixels), np.int64)
    distance = np.zeros(len(pixels), np.int32)

    for channel, values in zip(pixels.T, axes, strict=True):
        differences = np.abs(channel[pixel][:, None] - _UNITS * values.astype(np.int32))
        total = differences + distance[:, None]
        row, level = np.nonzero(total < limit)
        pixel = pixel[row]
        color = color[row] * len(values) + level
        distance = total[row, level]

    return _Pairs(pixel, color, distance)


def _dense(
    mask: Int[np.ndarray, " pairs"],
    pixel: Int[np.ndarray, " pairs"],
    chosen: Int[np.ndarray, " n"],
    size: tuple[int, int],
) -> Bool[np.ndarray, "n h w"]:
    """Returns the masks `chosen` of the pairs (mask, pixel) as arrays."""
    # Position of each mask among the chosen; -1 = not chosen.
    position = np.full(mask.max(initial=-1) + 1, -1)
    position[chosen] = np.arange(len(chosen))
    kept = position[mask] >= 0

    dense = np.zeros((len(chosen), size[0] * size[1]), bool)
    dense[position[mask[kept]], pixel[kept]] = True
    return dense.reshape(-1, *size)
