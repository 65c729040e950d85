"""The boundary F-score against hand values and against distances between all pairs of pixels."""

import math

import numpy as np
import pytest

from generalist.metrics import BoundaryF


def halves(width, at, shape=(20, 30)):
    label = np.zeros(shape, int)
    label[:, at:] = 1
    assert shape[1] == width
    return label


def test_an_outline_moved_within_the_tolerance_is_right_and_one_beyond_it_wrong():
    # 20 x 30: diagonal 36.06, tolerance ceil(0.27) = 1 pixel. The outline is the two columns beside
    # the border.
    label = halves(30, 10)
    assert BoundaryF().update(halves(30, 11), label)["boundary_f"] == 1.0
    # Moved by 2, class 0 ends in column 11 and not 9, class 1 begins in 12 and not 10: each 2 away.
    assert BoundaryF().update(halves(30, 12), label)["boundary_f"] == 0.0


def test_precision_and_recall_worked_out_by_hand():
    label = halves(30, 10)
    prediction = halves(30, 10)
    prediction[:5, 10:] = 0  # the upper quarter of class 1 is lost
    values = BoundaryF().update(prediction, label)["boundary_f"]

    # Class 1, label: column 10, 20 pixels; prediction: rows 5..19 of it and row 5, columns 11..29:
    # 15 + 19 pixels.
    # Precision: column 10 and (5, 11), at distance 1: 16 of 34.
    # Recall: rows 4..19, row 4 being 1 away from row 5: 16 of 20.
    one = 2 * (16 / 34) * (16 / 20) / (16 / 34 + 16 / 20)

    # Class 0, label: column 9, 20 pixels; prediction: rows 5..19 of it (15), and row 4, columns
    # 10..29 (20); (4, 9) has no neighbor of class 1.
    # Precision: 15 of column 9, and (4, 10), 1 away from (4, 9): 16 of 35.
    # Recall: rows 4..19 of column 9: 16 of 20.
    zero = 2 * (16 / 35) * (16 / 20) / (16 / 35 + 16 / 20)
    assert values == pytest.approx((zero + one) / 2, rel=1e-12)


def test_a_class_on_one_side_only_has_zero():
    label = halves(30, 10)
    assert BoundaryF().update(np.zeros_like(label), label)["boundary_f"] == 0.0
    prediction = label.copy()
    prediction[label == 1] = 2
    # Class 0 is right; 1 is missed and 2 invented.
    assert BoundaryF().update(prediction, label)["boundary_f"] == pytest.approx(1 / 3)


def test_void_has_no_outline():
    label = halves(30, 10)
    label[:, 8:12] = -1
    metric = BoundaryF()
    assert math.isnan(metric.update(halves(30, 9), label)["boundary_f"])
    assert math.isnan(metric.compute()["boundary_f"])


def outline_by_pixel(ids, label, index):
    """Where `ids` is `index` beside another class, void of the label left out, pixel by pixel."""

    def differs(y, x):
        inside = 0 <= y < ids.shape[0] and 0 <= x < ids.shape[1]
        return inside and label[y, x] != -1 and ids[y, x] != index

    places = []
    for y, x in np.ndindex(ids.shape):
        around = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        counts = ids[y, x] == index and label[y, x] != -1
        if counts and any(differs(v, u) for v, u in around):
            places.append((y, x))
    return places


def fraction_near(places, others, tolerance):
    if not places:
        return 0.0
    near = [any(math.dist(p, q) <= tolerance for q in others) for p in places]
    return sum(near) / len(places)


def brute_force(prediction, label):
    """Mean F-score over the classes with an outline, by distances between all pairs of pixels."""
    tolerance = math.ceil(0.0075 * math.hypot(*label.shape))
    scores = []
    for index in range(4):
        predicted = outline_by_pixel(prediction, label, index)
        labeled = outline_by_pixel(label, label, index)
        if not predicted and not labeled:
            continue

        precision = fraction_near(predicted, labeled, tolerance)
        recall = fraction_near(labeled, predicted, tolerance)
        both = precision and recall
        scores.append(2 * precision * recall / (precision + recall) if both else 0.0)
    return np.mean(scores)


@pytest.mark.parametrize("shape", [(12, 17), (100, 100)])  # tolerances 1 and 2
def test_equals_distances_between_all_pairs(shape):
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(-1, 4, (4, 4)), np.ones((shape[0] // 4, shape[1] // 4), int))

    # The label moved by a pixel, with one pixel of a hundred at random.
    wrong = rng.random(label.shape) < 0.01
    disturbed = np.where(wrong, rng.integers(0, 4, label.shape), np.maximum(label, 0))
    prediction = np.roll(disturbed, 1, 1)

    expected = pytest.approx(brute_force(prediction, label), rel=1e-12)
    assert BoundaryF().update(prediction, label)["boundary_f"] == expected
