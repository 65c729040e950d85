"""Images larger than the model: overlapping tiles at native resolution, blended smoothly."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

CHUNK = 64  # tiles sampled at once; bounds the memory


class Span(NamedTuple):
    """Where a tile lies along one axis."""

    start: int  # its first pixel
    weights: np.ndarray  # float32 (side,), how much it counts at each of its pixels


def paint_tiles(
    paint: Callable[[np.ndarray], np.ndarray], image: np.ndarray, side: int, overlap: int
) -> np.ndarray:
    """Paints an image tile by tile.

    Args:
      paint: uint8 (n, side, side, 3) -> float32 (n, side, side, 3), for n up to CHUNK.
      image: uint8 (h, w, 3), any size; one smaller than a tile is mirrored up to it.
      side: of a tile, in pixels.
      overlap: of neighboring tiles, in pixels, at least; 0 to side - 1.

    Returns:
      float32 (h, w, 3). The weights of the tiles over a pixel sum to one, so `paint` = identity
      gives the image back.
    """
    height, width = image.shape[:2]
    below = max(0, side - height)
    beside = max(0, side - width)
    padded = np.pad(image, ((0, below), (0, beside), (0, 0)), "reflect")

    rows = spans(padded.shape[0], side, overlap)
    columns = spans(padded.shape[1], side, overlap)
    result = np.zeros(padded.shape, np.float32)
    for chunk in _chunks(itertools.product(rows, columns)):
        tiles = [padded[y.start : y.start + side, x.start : x.start + side] for y, x in chunk]

        # A tile counts by the product of its weights along both axes.
        for (y, x), tile in zip(chunk, paint(np.stack(tiles)), strict=True):
            weights = y.weights[:, None] * x.weights
            target = result[y.start : y.start + side, x.start : x.start + side]
            target += tile * weights[..., None]

    return result[:height, :width]


def spans(length: int, side: int, overlap: int) -> list[Span]:
    """Returns the tiles along an axis of `length` >= side pixels.

    Weights rise and fall as sin^2 over the overlap and sum to one at every pixel.

    Raises:
      ValueError: the overlap is outside 0..side - 1.
    """
    if not 0 <= overlap < side:
        raise ValueError(
            f"tile overlap {overlap} is outside 0..{side - 1}, the tiles being {side} pixels wide"
        )

    # The last tile ends with the image, so it may overlap its neighbor by more.
    starts = [*range(0, length - side, side - overlap), length - side]

    window = np.ones(side)
    if overlap:
        # Distance of each pixel's center to the nearer edge of the tile.
        edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
        window = np.sin(0.5 * np.pi * np.minimum(edge / overlap, 1.0)) ** 2

    # At the image's ends and where tiles overlap by more, windows do not sum to one by themselves.
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += window

    return [Span(s, (window / total[s : s + side]).astype(np.float32)) for s in starts]


def _chunks(tiles: Iterable[tuple[Span, Span]]) -> Iterator[list[tuple[Span, Span]]]:
    tiles = iter(tiles)
    while chunk := list(itertools.islice(tiles, CHUNK)):
        yield chunk
