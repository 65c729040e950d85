"""The calibration error against torchmetrics and values worked out by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from generalist.metrics import CalibrationError


def test_worked_out_by_hand():
    confidence = np.array([[0.95, 1.0, 0.5, 0.5]])
    classes, label = np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 1]])
    # Bins (14/15, 1] and (7/15, 8/15]: |1 - 1.95| and |1 - 1.0| pixels, of 4.
    assert CalibrationError().update((classes, confidence), label)["ece"] == pytest.approx(0.95 / 4, abs=1e-7)


def test_equals_torchmetrics():
    """Its binary form counts how often the label is 1; given whether a pixel is right, this is the same."""
    rng = np.random.default_rng(0)
    confidence = rng.random((40, 50)).astype(np.float32)
    classes, label = rng.integers(0, 3, (2, 40, 50))
    expected = binary_calibration_error(torch.tensor(confidence.ravel()), torch.tensor((classes == label).ravel().astype(int)), n_bins=15)
    assert CalibrationError().update((classes, confidence), label)["ece"] == pytest.approx(float(expected), abs=1e-6)


def test_right_as_often_as_it_is_sure_has_no_error_and_void_does_not_count():
    classes, label = np.zeros((2, 1, 10), int)
    label[0, :2] = 1
    metric = CalibrationError()
    assert metric.update((classes, np.full((1, 10), 0.8)), label)["ece"] == pytest.approx(0, abs=1e-7)
    assert math.isnan(metric.update((classes, np.full((1, 10), 0.3)), np.full((1, 10), -1))["ece"])
    assert metric.compute()["ece"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("wrong", [1.01, -0.01, np.nan])
def test_a_confidence_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        CalibrationError().update((np.zeros((1, 1), int), np.full((1, 1), wrong)), np.zeros((1, 1), int))
