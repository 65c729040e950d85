"""Images larger than the model: overlapping tiles at native resolution, blended smoothly."""

import itertools
from collections.abc import Callable

import numpy as np

CHUNK = 64  # tiles painted at once; bounds the memory


def paint_tiles(
    paint: Callable[[np.ndarray], np.ndarray], image: np.ndarray, side: int, overlap: int
) -> np.ndarray:
    """Paints an image tile by tile.

    Args:
      paint: uint8 (n, side, side, 3) -> float32 (n, side, side, 3), for n up to CHUNK.
      image: uint8 (h, w, 3), any size; one smaller than a tile is mirrored up to it.
      side: of a tile, in pixels.
      overlap: of neighbouring tiles, in pixels, at least; 0 to side - 1.

    Returns:
      float32 (h, w, 3). The weights of the tiles over a pixel sum to one, so `paint` = identity gives the image back.
    """
    height, width = image.shape[:2]
    padded = np.pad(
        image, ((0, max(0, side - height)), (0, max(0, side - width)), (0, 0)), "reflect"
    )
    rows, columns = (windows(length, side, overlap) for length in padded.shape[:2])
    result = np.zeros(padded.shape, np.float32)
    for chunk in _chunks(itertools.product(rows, columns)):
        tiles = np.stack([padded[y : y + side, x : x + side] for (y, _), (x, _) in chunk])
        for ((y, down), (x, across)), tile in zip(chunk, paint(tiles), strict=True):
            result[y : y + side, x : x + side] += tile * (down[:, None] * across)[..., None]
    return result[:height, :width]


def windows(length: int, side: int, overlap: int) -> list[tuple[int, np.ndarray]]:
    """The tiles along an axis of `length` >= side pixels: (first pixel, weights float32 (side,)).

    Weights rise and fall as sin^2 over the overlap and sum to one at every pixel.
    Raises ValueError for an overlap outside 0..side - 1.
    """
    if not 0 <= overlap < side:
        raise ValueError(
            f"tile overlap {overlap} is outside 0..{side - 1}, the tiles being {side} pixels wide"
        )
    starts = [*range(0, length - side, side - overlap), length - side]
    edge = (
        np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    )  # distance of the pixel's centre to the nearer edge
    window = (
        np.sin(0.5 * np.pi * np.minimum(edge / max(overlap, 1), 1.0)) ** 2
        if overlap
        else np.ones(side)
    )
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += window
    return [(start, (window / total[start : start + side]).astype(np.float32)) for start in starts]


def _chunks(tiles):
    tiles = iter(tiles)
    while chunk := list(itertools.islice(tiles, CHUNK)):
        yield chunk
