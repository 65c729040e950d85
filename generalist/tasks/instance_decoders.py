"""From location colours back to instances: the decoders behind `Instance.decode`.

Each takes levels, float32 (h, w, 3) in [0, 255], and returns (masks bool (n, h, w), scores float64 (n,) in [0, 1]),
by descending score. A code is a grid of colours given by its three axes, the levels of red, green and blue; colour
(i, j, k) of the grid has index (i * len(green) + j) * len(blue) + k.

Which decoder for a code of one block? Class-agnostic PQ in percent on 50 synthetic 64 x 64 images of 3 to 12
overlapping discs. "blur" is a 3 x 3 box, "noise" white with sigma 0.1 on the scale of [-1, 1], "drift" smooth noise
(sigma 4 pixels) of sigma 0.1 with white noise of sigma 0.05 on top; the score gate is 0.55 for "threshold", 0 for the
others:

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

from collections.abc import Sequence

import cv2
import numpy as np

from generalist.tasks import matrix_nms

Axes = Sequence[np.ndarray]
Candidates = tuple[np.ndarray, np.ndarray]

# Distances are counted in 1/256 of a level: sums are then exact, whatever their order.
_UNITS = 256

# Votes: smoothing of their histogram in half cells, and how far a pixel may lie from its peak, in cells.
_VOTE_SIGMA = 0.8
_VOTE_RADIUS = 3.0


def by_threshold(
    levels: np.ndarray, axes: Axes, threshold: float, keep: int = 2000, top: int = 100
) -> Candidates:
    """Painter's decoder: one mask per colour of the code, thinned by Matrix NMS.

    The mask of a colour holds the pixels whose mean absolute difference to it is below `threshold` levels, its cost is
    their mean difference. The `keep` cheapest colours (ties: lower index) are scored 1 - cost / max(largest cost, 1),
    Matrix NMS decays the scores, and the `top` best remain.
    """
    pixel, colour, distance = _close_pairs(levels, axes, 3 * _UNITS * threshold)
    count = np.bincount(colour)
    present = np.flatnonzero(count)
    cost = np.bincount(colour, distance)[present] / (3 * _UNITS * count[present])
    order = np.argsort(cost, kind="stable")[:keep]
    scores = 1.0 - cost[order] / max(cost[order].max(initial=0.0), 1.0)

    rank = np.full(len(count), -1)
    rank[present[order]] = np.arange(len(order))
    kept = rank[colour] >= 0
    mask, pixel = rank[colour[kept]], pixel[kept]
    scores = matrix_nms.matrix_nms(scores, matrix_nms.intersections(mask, pixel, len(order)))
    best = np.argsort(-scores, kind="stable")[:top]
    return _dense(mask, pixel, best, levels.shape[:2]), scores[best]


def by_nearest(levels: np.ndarray, axes: Axes) -> Candidates:
    """Painter's "minmax": every pixel goes to the nearest colour or to black; one mask per colour that got pixels.

    The score is 1 - mean L1 distance / max(largest mean distance of any mask, black's included, 1).
    """
    flat = levels.reshape(-1, 3)
    colour, distance = np.zeros(len(flat), np.int64), np.zeros(len(flat), np.float32)
    # L1 distance is a sum over channels, so the nearest colour of a grid is the nearest level of each axis.
    for channel, values in zip(flat.T, axes):
        differences = np.abs(channel[:, None] - values.astype(np.float32))
        colour = colour * len(values) + differences.argmin(-1)
        distance += differences.min(-1)
    black = int(np.prod([len(values) for values in axes]))
    colour = np.where(flat.sum(-1) < distance, black, colour)
    distance = np.minimum(flat.sum(-1), distance)

    present, mask = np.unique(colour, return_inverse=True)
    cost = np.bincount(mask, distance) / np.bincount(mask)
    scores = 1.0 - cost / max(cost.max(), 1.0)
    best = np.argsort(-scores, kind="stable")
    best = best[present[best] != black]
    return _dense(mask, np.arange(len(mask)), best, levels.shape[:2]), scores[best]


def by_votes(levels: np.ndarray, axes: Axes, min_pixels: int) -> Candidates:
    """For a code of one block, red = 255: foreground pixels vote for the centre that their colour names.

    Black background makes red the coverage of a pixel, so green / red and blue / red recover the code where a blurred
    prediction blends the two. Codes are averaged over 3 x 3 pixels; their histogram, in half cells, is smoothed; each
    pixel joins the nearest peak within `_VOTE_RADIUS` cells. Masks do not overlap; those below `min_pixels` are
    dropped. The score is 1 - mean distance to the peak / radius.
    """
    cells, step = len(axes[1]), float(axes[1][0] - axes[1][1])
    foreground = levels[..., 0] > 127.5
    smooth = cv2.blur(levels, (3, 3), borderType=cv2.BORDER_REPLICATE)[foreground]
    code = np.clip(255.0 / step * (1.0 - smooth[:, 1:] / smooth[:, :1]), 0.0, cells - 1.0)
    peaks = _peaks(code, cells)
    distance = np.linalg.norm(code[:, None] - peaks, axis=-1)
    nearest = np.argmin(distance, axis=-1, keepdims=True) if len(peaks) else np.zeros((0, 1), int)
    distance = np.take_along_axis(distance, nearest, axis=-1)[:, 0]
    close = distance < _VOTE_RADIUS
    mask, pixel = nearest[close, 0], np.flatnonzero(foreground)[close]

    count = np.bincount(mask, minlength=len(peaks))
    scores = 1.0 - np.bincount(mask, distance[close], len(peaks)) / (
        np.maximum(count, 1) * _VOTE_RADIUS
    )
    best = np.argsort(-scores, kind="stable")
    best = best[count[best] >= max(min_pixels, 1)]
    return _dense(mask, pixel, best, levels.shape[:2]), scores[best]


def _peaks(code: np.ndarray, cells: int) -> np.ndarray:
    """Codes float (n, 2) in 0..cells-1 -> the modes of their density, (m, 2), at least one cell apart."""
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


def _close_pairs(
    levels: np.ndarray, axes: Axes, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every (pixel, colour index, L1 distance in 1/256 levels) with distance < limit, ascending in pixel, then colour.

    Channel after channel, a partial sum that has already reached the limit is dropped: of the 6,400 colours of
    Painter's code at most about 100 remain for a pixel, and hardly any for a background pixel.
    """
    pixels = np.round(levels.reshape(-1, 3) * _UNITS).astype(np.int32)
    pixel = np.arange(len(pixels))
    colour = np.zeros(len(pixels), np.int64)
    distance = np.zeros(len(pixels), np.int32)
    for channel, values in zip(pixels.T, axes):
        total = (
            np.abs(channel[pixel][:, None] - _UNITS * values.astype(np.int32)) + distance[:, None]
        )
        row, level = np.nonzero(total < limit)
        pixel, colour, distance = pixel[row], colour[row] * len(values) + level, total[row, level]
    return pixel, colour, distance


def _dense(
    mask: np.ndarray, pixel: np.ndarray, chosen: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The masks `chosen` of the pairs (mask, pixel) as bool (len(chosen), *size)."""
    position = np.full(mask.max(initial=-1) + 1, -1)
    position[chosen] = np.arange(len(chosen))
    kept = position[mask] >= 0
    dense = np.zeros((len(chosen), size[0] * size[1]), bool)
    dense[position[mask[kept]], pixel[kept]] = True
    return dense.reshape(-1, *size)
