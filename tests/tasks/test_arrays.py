"""What tasks share: resizing, and maps as runs."""

import cv2
import numpy as np
import pytest
from PIL import Image

from generalist.tasks import arrays


@pytest.mark.parametrize("factors", [(1, 1), (1, 2), (2, 2), (4, 1), (4, 2), (5, 5), (7, 2)])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_an_image_shrinks_by_whole_factors_to_exact_means(factors, dtype):
    image = (
        np.random.default_rng(0)
        .integers(0, 256, (12 * factors[0], 8 * factors[1], 3))
        .astype(dtype)
    )
    exact = image.astype(np.float64).reshape(12, factors[0], 8, factors[1], 3).mean((1, 3))
    small = arrays.resize_image(image, (12, 8))
    assert small.dtype == dtype
    np.testing.assert_allclose(
        small, exact, atol=1e-3 if dtype is np.float32 else 1.01
    )  # 8 bits, rounded twice


def test_between_them_it_is_nearer_to_the_mean_than_pillows_bicubic():
    rng, ours, pillow = np.random.default_rng(0), [], []
    photo = cv2.resize(
        rng.integers(0, 256, (60, 80, 3)).astype(np.uint8),
        (640, 480),
        interpolation=cv2.INTER_CUBIC,
    )
    for height, width in ((300, 290), (333, 420), (480, 640), (400, 257)):
        image = photo[:height, :width]
        exact = cv2.resize(image.astype(np.float32), (256, 256), interpolation=cv2.INTER_AREA)
        ours.append(np.abs(arrays.resize_image(image, (256, 256)) - exact).mean())
        pillow.append(
            np.abs(
                np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BICUBIC))
                - exact
            ).mean()
        )
    assert np.mean(ours) < np.mean(pillow)


def test_an_axis_that_shrinks_is_averaged_although_the_other_grows():
    stripes = np.tile(np.array([0, 255], np.uint8), (4, 40))  # (4, 80): columns of one pixel
    np.testing.assert_allclose(arrays.resize_image(stripes, (16, 20)), 127.5, atol=1)


def test_runs_by_hand():
    runs = arrays.find_runs(np.array([[7, 7, 2], [2, 2, 2], [5, 6, 6]]))
    assert [array.tolist() for array in runs] == [[7, 2, 2, 5, 6], [0, 2, 3, 6, 7], [2, 1, 3, 1, 2]]


def test_runs_repeat_to_the_map():
    label = np.random.default_rng(0).integers(0, 3, (40, 31))
    runs = arrays.find_runs(label)
    np.testing.assert_array_equal(np.repeat(runs.values, runs.lengths).reshape(40, 31), label)
    assert (runs.starts % 31 + runs.lengths <= 31).all()  # none goes on in the next row
