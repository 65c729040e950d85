"""Restoration: uint8 images survive exactly; resizing is area down, bicubic up."""

import numpy as np
import pytest

from generalist.tasks import SCENES_TASKS, TASKS

NAMES = ("denoise", "derain", "light")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 16, (24, 8)])
def test_round_trip_is_exact(name, size):
    shape = (size, size) if isinstance(size, int) else size
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    target = TASKS[name].encode(image, size)
    assert target.rgb.dtype == np.float32 and -1 <= target.rgb.min() and target.rgb.max() <= 1
    np.testing.assert_array_equal(target.mask, np.ones((*shape, 1), np.float32))
    prediction = TASKS[name].decode(target.rgb)
    np.testing.assert_array_equal(prediction.image, image)
    assert prediction.image.dtype == np.uint8 and prediction.confidence.min() == 1.0


def test_shrinking_takes_area_means_without_rounding():
    image = np.array([[0, 1], [2, 4]], np.uint8)[..., None].repeat(3, axis=-1)
    target = TASKS["denoise"].encode(image, 1)
    np.testing.assert_allclose(target.rgb, np.full((1, 1, 3), 1.75 / 127.5 - 1), atol=1e-7)


def test_growing_stays_in_range_and_keeps_constants():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    target = TASKS["light"].encode(image, 16)
    assert target.rgb.min() == -1 and target.rgb.max() == 1
    constant = TASKS["light"].decode(np.full((4, 4, 3), 0.2, np.float32), (9, 10)).image
    np.testing.assert_array_equal(constant, np.full((9, 10, 3), 153))


def test_confidence_falls_with_the_overshoot():
    prediction = TASKS["derain"].decode(
        np.array([[[0.0, 1.0, -1.0], [0.0, 1.25, 0.0], [-3.0, 0.0, 0.0]]], np.float32)
    )
    np.testing.assert_allclose(prediction.confidence, [[1.0, 0.75, 0.0]], atol=1e-6)
    assert prediction.image.tolist() == [[[128, 255, 0], [128, 255, 128], [0, 128, 128]]]


@pytest.mark.parametrize("name", NAMES)
def test_metric_takes_label_of(name):
    task = SCENES_TASKS[name]
    image = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    metric = task.metric()
    metric.update(task.label_of(task.decode(task.encode(image, 16).rgb)), image)
    assert metric.compute()["ssim"] == pytest.approx(1.0)
    np.testing.assert_array_equal(task.render(image), image)


def test_what_is_measured_is_not_rounded():
    """SIDD's and LOL's scripts take floats: 0.4 levels off is 56.09 dB, exact at 8 bits."""
    task, label = TASKS["denoise"], np.full((16, 16, 3), 100, np.uint8)
    metric = task.metric()
    metric.update(
        task.label_of(task.decode(np.full((16, 16, 3), 100.4 / 127.5 - 1, np.float32))), label
    )
    assert metric.compute()["psnr"] == pytest.approx(20 * np.log10(255 / 0.4), abs=1e-3)


def test_errors():
    with pytest.raises(
        ValueError,
        match=r"'light': expected a uint8 array of shape \(height, width, 3\), got float64",
    ):
        TASKS["light"].encode(np.zeros((2, 2, 3)), 2)
    with pytest.raises(ValueError, match=r"got uint8 of shape \(2, 2, 4\)"):
        TASKS["light"].encode(np.zeros((2, 2, 4), np.uint8), 2)
