"""The calibration error against torchmetrics and values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from generalist.metrics import CalibrationError


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


def test_lists_are_as_good_as_arrays():
    lists = ([[1, 1, 0, 0]], [[0.95, 1, 0.5, 0.5]]), [[1, 0, 0, -1]]
    arrays = tuple(map(np.asarray, lists[0])), np.asarray(lists[1])
    image = CalibrationError().update(*lists)
    assert image == CalibrationError().update(*arrays) and not math.isnan(image["ece"])
