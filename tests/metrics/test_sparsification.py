"""The sparsification error against a loop over pixels and values worked out by hand."""

import math

import numpy as np
import pytest

from generalist.metrics import (
    ClassSparsificationError,
    ImageSparsificationError,
    SparsificationError,
)


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


def direct(costs, certainty, curve):
    """The definition, a pixel at a time: what is left when 0, 5, .. 95 % have been dropped."""
    pixels = sorted(zip(certainty, costs, strict=True))
    by_cost = sorted(pixels, key=lambda pixel: -pixel[1])
    gaps = []
    for step in range(20):
        dropped = len(pixels) * step // 20  # rounded down
        left = [curve(np.mean([cost for _, cost in some[dropped:]])) for some in (pixels, by_cost)]
        gaps.append(left[0] - left[1])
    return np.mean(gaps) / curve(np.mean(costs))


def test_sparsification_of_depth_equals_a_loop_over_pixels():
    rng = np.random.default_rng(0)
    label = rng.uniform(0.5, 9, (7, 9))
    label[0] = 0
    depth = label + rng.normal(0, 0.3, label.shape)
    certainty = -rng.random(label.shape)  # of any scale, such as minus a spread

    known = label > 0
    square = (depth - label)[known] ** 2
    image = SparsificationError().update((depth, certainty), label)
    assert image["ause"] == pytest.approx(direct(square, certainty[known], np.sqrt), rel=1e-12)


@pytest.mark.parametrize("levels", [False, True])
def test_sparsification_of_images_equals_a_loop_over_pixels(levels):
    """The error of a pixel is the mean square of its channels, of 8 bits as of floats."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 256, (6, 7, 3), np.uint8)
    restored = np.clip(label / 255 + rng.normal(0, 0.1, label.shape), 0, 1)
    certainty = rng.random((6, 7), np.float32)

    square = ((restored - label / 255) ** 2).mean(-1).ravel()
    expected = direct(square, certainty.ravel(), np.sqrt)
    image = ImageSparsificationError().update(
        (restored, certainty), label if levels else label / 255
    )
    assert image["ause"] == pytest.approx(expected, rel=1e-12)


def test_sparsification_of_classes_equals_a_loop_over_pixels_and_void_does_not_count():
    rng = np.random.default_rng(2)
    classes, label = rng.integers(0, 3, (2, 8, 9))
    label[2] = -1
    certainty = rng.permutation(72).reshape(8, 9) / 72

    counted = label >= 0
    wrong = (classes != label)[counted].astype(float)
    image = ClassSparsificationError().update((classes, certainty), label)
    expected = direct(wrong, certainty[counted], lambda share: share)
    assert image["ause"] == pytest.approx(expected, rel=1e-12) and 0.2 < expected < 1


def test_sparsification_of_classes_worked_out_by_hand():
    """20 pixels of which 2 are wrong: found at once, found last, and among equally sure ones."""
    label = np.zeros((1, 20), int)
    classes = label.copy()
    classes[0, :2] = 1

    def ause(certainty):
        return ClassSparsificationError().update((classes, certainty), label)["ause"]

    votes = np.ones((1, 20))
    # Of 20, 19, .. 1 pixels 2, 1, 0, .. are wrong at best: 0.1 + 1/19.
    best = (2 / 20 + 1 / 19) / 20
    votes[0, :2] = 0.5
    assert ause(votes) == 0.0
    assert ause(np.ones((1, 20))) == pytest.approx((0.1 - best) / 0.1)
    votes[0, :2] = 1.5
    last = (sum(2 / left for left in range(2, 21)) + 1) / 20
    assert ause(votes) == pytest.approx((last - best) / 0.1)


def test_without_an_error_there_is_no_order():
    label = np.full((2, 2), 3.0)
    metric = SparsificationError()
    assert math.isnan(metric.update((label + 1e-7, label / 10), label)["ause"])
    assert math.isnan(metric.compute()["ause"])
    assert math.isnan(metric.update((label, label / 10), np.zeros((2, 2)))["ause"])
    classes = np.zeros((2, 2), int)
    assert math.isnan(ClassSparsificationError().update((classes, label), classes)["ause"])
    assert math.isnan(ClassSparsificationError().update((classes, label), classes - 1)["ause"])
    with pytest.raises(ValueError, match=r"\(480, 640\), got \(2, 2\)"):
        SparsificationError("nyu-eigen-metric").update((label, label / 10), label)


def test_a_certainty_that_is_no_number_or_of_another_shape_is_refused():
    label = np.full((2, 2), 3.0)
    with pytest.raises(ValueError, match="a certainty is nan"):
        SparsificationError().update((label, np.full((2, 2), np.nan)), label)
    photo = np.zeros((2, 2, 3))
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3\) and label \(2, 2\)"):
        ImageSparsificationError().update((photo, photo), photo)


def test_lists_are_as_good_as_arrays():
    lists = ([[3, 5, 3]], [[0.1, 0.9, 0.5]]), [[3, 3, 0]]
    arrays = tuple(map(np.asarray, lists[0])), np.asarray(lists[1])
    image = SparsificationError().update(*lists)
    assert image == SparsificationError().update(*arrays) and not math.isnan(image["ause"])
