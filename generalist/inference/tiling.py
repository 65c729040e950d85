"""Images larger than the model: overlapping tiles at native resolution, blended smoothly."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CHUNK = 64  # tiles sampled at once; bounds the memory

_NOTHING = np.zeros((0, 0, 3), np.float32)


class Span(NamedTuple):
    """Where a tile lies along one axis."""

    start: int  # its first pixel
    weights: np.ndarray  # float32 (side,), how much it counts at each of its pixels


class Tiling:
    """An image in overlapping tiles, and what is painted for them put together again.

    The weights of the tiles over a pixel sum to one, so that painting each tile as it is gives the
    image back.

    Args:
      image: uint8 (h, w, 3), any size; one smaller than a tile is mirrored up to it.
      side: of a tile, in pixels.
      overlap: of neighboring tiles, in pixels, at least; 0 to side - 1.
    """

    def __init__(self, image: np.ndarray, side: int, overlap: int):
        self._height, self._width = image.shape[:2]
        self._side = side
        below = max(0, side - self._height)
        beside = max(0, side - self._width)
        if below or beside:
            image = np.pad(image, ((0, below), (0, beside), (0, 0)), "reflect")
        self._image = image

        rows = spans(image.shape[0], side, overlap)
        columns = spans(image.shape[1], side, overlap)
        self._tiles = list(itertools.product(rows, columns))
        self._painted = _NOTHING

    def __len__(self) -> int:
        """Returns the number of tiles."""
        return len(self._tiles)

    def cut(self, index: int) -> np.ndarray:
        """Returns a tile of the image, uint8 (side, side, 3)."""
        return self._image[self._place(index)]

    def add(self, index: int, painted: np.ndarray) -> None:
        """Adds what was painted for a tile, float32 (side, side, 3)."""
        if self._painted is _NOTHING:
            self._painted = np.zeros(self._image.shape, np.float32)

        # A tile counts by the product of its weights along both axes.
        y, x = self._tiles[index]
        weights = y.weights[:, None] * x.weights
        self._painted[self._place(index)] += painted * weights[..., None]

    def take(self) -> np.ndarray:
        """Returns the painted image, float32 (h, w, 3), and keeps no memory of it."""
        painted = self._painted
        self._painted = _NOTHING
        return painted[: self._height, : self._width]

    def _place(self, index: int) -> tuple[slice, slice]:
        y, x = self._tiles[index]
        return slice(y.start, y.start + self._side), slice(x.start, x.start + self._side)


def paint_tiles(
    paint: Callable[[np.ndarray], np.ndarray], image: np.ndarray, side: int, overlap: int
) -> np.ndarray:
    """Paints an image tile by tile.

    Args:
      paint: uint8 (n, side, side, 3) -> float32 (n, side, side, 3), for n up to CHUNK.
      image: uint8 (h, w, 3), as of `Tiling`.
      side: of a tile, in pixels.
      overlap: as of `Tiling`.

    Returns:
      float32 (h, w, 3).
    """
    tiling = Tiling(image, side, overlap)
    for start in range(0, len(tiling), CHUNK):
        chunk = range(start, min(start + CHUNK, len(tiling)))
        painted = paint(np.stack([tiling.cut(index) for index in chunk]))
        for index, tile in zip(chunk, painted, strict=True):
            tiling.add(index, tile)
    return tiling.take()


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
