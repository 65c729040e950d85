"""Errors of scalar maps, worked out by hand."""

import math

import numpy as np
import pytest

from generalist.metrics import ScalarMetric


def test_errors_per_image_and_their_mean():
    metric = ScalarMetric()
    first = metric.update(
        np.array([[1.0, 2.0, 9.0]]), np.array([[4.0, -2.0, np.nan]])
    )  # errors 3 and 4
    assert first == {"mae": 3.5, "rms_error": pytest.approx(math.sqrt(12.5))}
    metric.update(np.array([[1.0]]), np.array([[0.5]]))
    assert metric.compute() == {"mae": 2.0, "rms_error": pytest.approx((math.sqrt(12.5) + 0.5) / 2)}


def test_an_image_without_labels_stays_out_of_the_mean():
    metric = ScalarMetric()
    assert math.isnan(metric.update(np.ones((1, 1)), np.full((1, 1), np.nan))["mae"])
    assert math.isnan(metric.compute()["mae"]) and metric.images == []


def test_other_shapes_are_an_error():
    with pytest.raises(ValueError, match="both must be"):
        ScalarMetric().update(np.ones((1, 2)), np.ones((2, 1)))


def test_lists_are_as_good_as_arrays():
    assert ScalarMetric().update([[1, 2, 9]], [[4.0, -2.0, math.nan]]) == {
        "mae": 3.5,
        "rms_error": pytest.approx(math.sqrt(12.5)),
    }
