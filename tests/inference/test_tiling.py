"""Tiles cover every pixel, and their weights sum to one.

So a painter that changes nothing gives the image back.
"""

import numpy as np
import pytest

from generalist.evaluation.predictors import Tiles
from generalist.inference.tiling import CHUNK, paint_tiles, spans
from generalist.tasks import SCENES_TASKS


def identity(tiles):
    assert tiles.dtype == np.uint8 and len(tiles) <= CHUNK
    return tiles.astype(np.float32)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (3, 20), (21, 8), (33, 50), (200, 90)])
@pytest.mark.parametrize("overlap", [0, 1, 2, 4, 7])
def test_identity_gives_the_image_back(size, overlap):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    result = paint_tiles(identity, image, 8, overlap)
    assert result.shape == image.shape and result.dtype == np.float32
    np.testing.assert_array_equal(np.rint(result), image)
    # Up to 64 tiles a pixel, each rounded to 1e-5.
    np.testing.assert_allclose(result, image, atol=1e-3)


@pytest.mark.parametrize(
    ("length", "side", "overlap"), [(8, 8, 2), (9, 8, 0), (100, 16, 4), (101, 16, 15), (64, 32, 8)]
)
def test_weights_sum_to_one(length, side, overlap):
    total = np.zeros(length)
    for start, weights in spans(length, side, overlap):
        assert weights.shape == (side,) and (weights > 0).all()
        total[start : start + side] += weights
    np.testing.assert_allclose(total, 1.0, atol=2e-7)


def test_positions_and_weights_by_hand():
    (first, left), (second, right) = spans(6, 4, 2)
    assert (first, second) == (0, 2)
    # Over the two shared pixels sin^2 of 22.5 and 67.5 degrees: they already sum to one.
    falling = [np.sin(np.pi * 3 / 8) ** 2, np.sin(np.pi / 8) ** 2]
    np.testing.assert_allclose(left, [1, 1, *falling], atol=1e-6)
    np.testing.assert_allclose(right, [*falling[::-1], 1, 1], atol=1e-6)


def test_neighbors_overlap_by_at_least_what_was_asked():
    starts = [start for start, _ in spans(50, 16, 4)]
    assert starts == [0, 12, 24, 34]


@pytest.mark.parametrize(("width", "count"), [(16, 1), (28, 2), (29, 3), (32, 3), (52, 4)])
def test_tiles_of_an_evaluation_overlap_by_a_quarter(width, count):
    """Other overlaps would give other counts.

    Without one, tiles of 16 would be 2 of 29 and of 32 columns; with half of one, 3 of 28 and 6
    of 52.
    """
    seen = []

    def paint(tiles, name):
        seen.append(len(tiles))
        return np.zeros(tiles.shape, np.float32)

    image = np.zeros((16, width, 3), np.uint8)
    Tiles(paint, 16)(SCENES_TASKS["light"], [{"image": image, "label": image}])
    assert seen == [count]


def test_seams_are_smooth():
    """Tiles that disagree by 100 blend without a step.

    sin^2 over n pixels rises by at most pi / 2 / n a pixel.
    """
    values = iter(range(0, 10_000, 100))

    def paint(tiles):
        return np.stack([np.full(tile.shape, next(values), np.float32) for tile in tiles])

    result = paint_tiles(paint, np.zeros((16, 28, 3), np.uint8), 16, 4)[..., 0]
    assert (result[:, 0] == 0).all() and (result[:, -1] == 100).all()
    assert np.abs(np.diff(result, axis=1)).max() <= 100 * np.pi / 2 / 4


@pytest.mark.parametrize("overlap", [-1, 8])
def test_overlap_out_of_range(overlap):
    with pytest.raises(ValueError, match=rf"overlap {overlap} is outside 0\.\.7"):
        spans(20, 8, overlap)
