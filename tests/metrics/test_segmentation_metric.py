"""Mean IoU against hand values and against a loop over sets of pixels."""

import math

import numpy as np
import pytest

from generalist.metrics import SegmentationMetric


def direct_iou(pairs, num_classes, ignore):
    """IoU per class from sets of (image, row, column), without a confusion matrix."""
    ious = {}
    for index in range(num_classes):
        predicted, labelled = set(), set()
        for image, (prediction, label) in enumerate(pairs):
            for place in np.ndindex(label.shape):
                if label[place] == ignore:
                    continue
                if prediction[place] == index:
                    predicted.add((image, *place))
                if label[place] == index:
                    labelled.add((image, *place))
        ious[index] = (
            len(predicted & labelled) / len(predicted | labelled) if labelled else math.nan
        )
    return ious


def test_four_values_worked_out_by_hand():
    metric = SegmentationMetric(3)
    label = np.array([[0, 0, 0, 0, 1, 1, -1, -1]])
    prediction = np.array([[0, 0, 0, 1, 1, 2, 1, 0]])
    # Class 0: 3 / 4; class 1: 1 / 3; class 2: no label pixel, so it is no part of any mean.
    assert metric.update(prediction, label) == pytest.approx(
        {
            "miou": (3 / 4 + 1 / 3) / 2,
            "macc": (3 / 4 + 1 / 2) / 2,
            "aacc": 4 / 6,
            "fwiou": 4 / 6 * 3 / 4 + 2 / 6 * 1 / 3,
        }
    )
    assert metric.per_class() == pytest.approx({0: 3 / 4, 1: 1 / 3, 2: math.nan}, nan_ok=True)


def test_predicted_void_is_a_miss_and_no_class():
    metric = SegmentationMetric(2)
    values = metric.update(np.array([[0, -1, 1, 1]]), np.array([[0, 0, 1, 1]]))
    assert values == pytest.approx(
        {"miou": (1 / 2 + 1) / 2, "macc": (1 / 2 + 1) / 2, "aacc": 3 / 4, "fwiou": 3 / 4}
    )
    assert metric.confusion.tolist() == [[1, 0, 1], [0, 2, 0]]


@pytest.mark.parametrize("ignore", [-1, 255])
def test_per_class_iou_equals_a_loop_over_sets(ignore):
    rng = np.random.default_rng(0)
    metric, pairs = SegmentationMetric(5, ignore=ignore), []
    for _ in range(6):
        label = rng.integers(0, 4, (9, 8))  # class 4 is predicted and never labelled
        label[rng.random((9, 8)) < 0.2] = ignore
        pairs.append((rng.integers(-1, 5, (9, 8)), label))
        metric.update(*pairs[-1])
    expected = direct_iou(pairs, 5, ignore)
    assert metric.per_class() == pytest.approx(expected, nan_ok=True)
    assert metric.compute()["miou"] == pytest.approx(np.nanmean(list(expected.values())))


def test_miou_is_global_and_not_a_mean_over_images():
    metric = SegmentationMetric(2)
    metric.update(np.zeros((1, 1), int), np.zeros((1, 1), int))  # IoU 1 on one pixel
    metric.update(np.array([[0, 1, 1, 1]]), np.zeros((1, 4), int))  # IoU 1/4 on four
    assert metric.compute()["miou"] == pytest.approx(2 / 5)


def test_values_do_not_depend_on_the_integer_type():
    rng = np.random.default_rng(1)
    prediction, label = rng.integers(0, 150, (2, 20, 20))
    small, large = SegmentationMetric(150, ignore=255), SegmentationMetric(150, ignore=255)
    assert small.update(prediction.astype(np.uint8), label.astype(np.uint8)) == large.update(
        prediction, label
    )


def test_image_of_void_alone_has_no_value():
    metric = SegmentationMetric(2)
    assert all(
        math.isnan(value)
        for value in metric.update(np.zeros((2, 2), int), np.full((2, 2), -1)).values()
    )
    assert math.isnan(metric.compute()["miou"])


@pytest.mark.parametrize(
    "prediction, label, message",
    [
        ([[3]], [[0]], "prediction holds class 3, allowed are -1 .. 2"),
        ([[-2]], [[0]], "prediction holds class -2"),
        ([[0]], [[255]], "label holds class 255, allowed are 0 .. 2 and the ignored -1"),
        ([[0, 1]], [[0]], "shape"),
    ],
)
def test_values_out_of_range_and_other_shapes_are_errors(prediction, label, message):
    metric = SegmentationMetric(3)
    with pytest.raises(ValueError, match=message):
        metric.update(np.array(prediction), np.array(label))
    assert not metric.confusion.any()


def test_class_maps_must_be_integers_and_classes_at_least_one():
    with pytest.raises(TypeError, match="prediction has dtype float64"):
        SegmentationMetric(3).update(np.zeros((2, 2)), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        SegmentationMetric(0)
