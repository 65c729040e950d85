"""The calibration error against torchmetrics and values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from generalist.metrics import CalibrationError, SparsificationError


def test_worked_out_by_hand():
    confidence = np.array([[0.95, 1.0, 0.5, 0.5]])
    classes = np.array([[1, 1, 0, 0]])
    label = np.array([[1, 0, 0, 1]])
    # Bins (14/15, 1] and (7/15, 8/15]: |1 - 1.95| and |1 - 1.0| pixels, of 4.
    image = CalibrationError().update((classes, confidence), label)
    assert image["ece"] == pytest.approx(0.95 / 4, abs=1e-7)


def test_equals_torchmetrics():
    """Its binary form counts how often the label is 1.

    Where the label says whether a pixel is right, this is the same.
    """
    rng = np.random.default_rng(0)
    confidence = rng.random((40, 50)).astype(np.float32)
    classes, label = rng.integers(0, 3, (2, 40, 50))
    expected = binary_calibration_error(
        torch.tensor(confidence.ravel()),
        torch.tensor((classes == label).ravel().astype(int)),
        n_bins=15,
    )
    image = CalibrationError().update((classes, confidence), label)
    assert image["ece"] == pytest.approx(float(expected), abs=1e-6)


def test_right_as_often_as_it_is_sure_has_no_error_and_void_does_not_count():
    classes, label = np.zeros((2, 1, 10), int)
    label[0, :2] = 1
    metric = CalibrationError()
    image = metric.update((classes, np.full((1, 10), 0.8)), label)
    assert image["ece"] == pytest.approx(0, abs=1e-7)

    void = np.full((1, 10), -1)
    assert math.isnan(metric.update((classes, np.full((1, 10), 0.3)), void)["ece"])
    assert metric.compute()["ece"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("wrong", [1.01, -0.01, np.nan])
def test_a_confidence_out_of_range_is_refused(wrong):
    classes = np.zeros((1, 1), int)
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        CalibrationError().update((classes, np.full((1, 1), wrong)), classes)


def test_sparsification_worked_out_by_hand():
    """20 pixels, 19 of error 0 and one of 2 m.

    That one has the least confidence, the highest, or the same as all.
    """
    label = np.full((1, 20), 3.0)
    depth = np.full((1, 20), 3.0)
    depth[0, 7] = 5.0

    # Dropping k of 20 pixels leaves an RMSE of 2 / sqrt(20 - k) until the wrong one goes; the
    # oracle drops it first.
    last = sum(2 / np.sqrt(20 - k) for k in range(1, 20)) / 20 / (2 / np.sqrt(20))
    for wrong, expected in ((0.1, 0.0), (0.9, last)):
        confidence = np.full((1, 20), 0.5)
        confidence[0, 7] = wrong
        image = SparsificationError().update((depth, confidence), label)
        assert image["ause"] == pytest.approx(expected, rel=1e-12, abs=1e-12)

    # No order: whatever is dropped, the mean square stays, so 19 of 20 differences are the whole
    # RMSE.
    image = SparsificationError().update((depth, np.ones((1, 20))), label)
    assert image["ause"] == pytest.approx(19 / 20)


def test_sparsification_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    label = rng.uniform(0.5, 9, (7, 9))
    label[0] = 0
    depth = label + rng.normal(0, 0.3, label.shape)
    confidence = rng.random(label.shape)

    pixels = []
    for c, d, g in zip(confidence.ravel(), depth.ravel(), label.ravel(), strict=True):
        if g > 0:
            pixels.append((c, abs(d - g)))
    pixels = sorted(pixels)
    by_error = sorted(pixels, key=lambda pixel: -pixel[1])

    def rmse(kept):
        return np.sqrt(np.mean([error**2 for _, error in kept]))

    steps = [len(pixels) * k // 20 for k in range(20)]  # pixels dropped, rounded down
    expected = np.mean([rmse(pixels[k:]) - rmse(by_error[k:]) for k in steps]) / rmse(pixels)
    image = SparsificationError().update((depth, confidence), label)
    assert image["ause"] == pytest.approx(expected, rel=1e-12)


def test_without_an_error_there_is_no_order():
    label = np.full((2, 2), 3.0)
    metric = SparsificationError()
    assert math.isnan(metric.update((label + 1e-7, label / 10), label)["ause"])
    assert math.isnan(metric.compute()["ause"])
    assert math.isnan(metric.update((label, label / 10), np.zeros((2, 2)))["ause"])
    with pytest.raises(ValueError, match=r"\(480, 640\), got \(2, 2\)"):
        SparsificationError("nyu-eigen-metric").update((label, label / 10), label)


@pytest.mark.parametrize(
    ("metric", "prediction", "label"),
    [
        (CalibrationError, ([[1, 1, 0, 0]], [[0.95, 1, 0.5, 0.5]]), [[1, 0, 0, -1]]),
        (SparsificationError, ([[3, 5, 3]], [[0.1, 0.9, 0.5]]), [[3, 3, 0]]),
    ],
)
def test_lists_are_as_good_as_arrays(metric, prediction, label):
    arrays = metric().update(tuple(map(np.asarray, prediction)), np.asarray(label))
    assert metric().update(prediction, label) == arrays and not math.isnan(*arrays.values())
