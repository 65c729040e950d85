"""Depth errors against values worked out by hand and against a least-squares solver."""

import math

import numpy as np
import pytest

from generalist.metrics import DepthMetric

NYU = (480, 640)


def test_all_errors_of_two_pixels_worked_out_by_hand():
    values = DepthMetric().update(np.array([[1.0, 4.0]]), np.array([[2.0, 4.0]]))
    assert values == pytest.approx(
        {
            "rmse": math.sqrt(1 / 2),
            "abs_rel": 1 / 4,
            "sq_rel": 1 / 4,
            "rmse_log": math.log(2) / math.sqrt(2),
            "silog": 100 * math.log(2) / 2,  # sqrt(ln2^2 / 2 - ln2^2 / 4)
            "log10": math.log10(2) / 2,
            "delta1": 1 / 2,
            "delta2": 1 / 2,
            "delta3": 1 / 2,
        },
        rel=1e-14,
    )


def test_deltas_are_strict_thresholds_of_the_larger_ratio():
    # Ratios 1.25 (not below), 1.25 - , 1.5, 1.9, 3, in both directions.
    label = np.array([[4.0, 4.0, 4.0, 3.0, 3.8, 9.0]])
    prediction = np.array([[5.0, 4.99, 3.21, 2.0, 2.0, 3.0]])
    values = DepthMetric().update(prediction, label)
    assert [values[f"delta{k}"] for k in (1, 2, 3)] == pytest.approx([2 / 6, 4 / 6, 5 / 6])


def test_rmse_is_the_mean_over_images_not_pooled_over_pixels():
    metric = DepthMetric()
    metric.update(np.full((1, 1), 2.0), np.full((1, 1), 1.0))  # RMSE 1 on one pixel
    metric.update(np.full((3, 5), 4.0), np.full((3, 5), 1.0))  # RMSE 3 on 15 pixels
    assert metric.compute()["rmse"] == 2.0
    assert metric.compute()["rmse"] != pytest.approx(math.sqrt((1 + 15 * 9) / 16))


def test_invalid_label_pixels_do_not_count():
    label = np.array([[0.0, -1.0, np.nan, np.inf, 10.5, 5.0, 10.0]])
    prediction = np.array([[9.0, 9.0, 9.0, 9.0, 9.0, 6.0, 10.0]])
    assert DepthMetric().update(prediction, label)["abs_rel"] == pytest.approx(
        0.1
    )  # 0.2 and 0, the last two


def test_prediction_is_clamped_to_the_range():
    values = DepthMetric().update(np.array([[-3.0, np.inf]]), np.array([[1.0, 8.0]]))
    assert values["rmse"] == pytest.approx(math.sqrt((0.999**2 + 2**2) / 2))


def test_image_without_valid_pixel_is_nan_and_stays_out_of_the_mean():
    metric = DepthMetric()
    metric.update(np.ones((2, 2)), np.full((2, 2), 3.0))
    assert all(
        math.isnan(value) for value in metric.update(np.ones((2, 2)), np.zeros((2, 2))).values()
    )
    assert metric.compute()["rmse"] == 2.0


def test_nan_prediction_shows():
    metric = DepthMetric()
    metric.update(np.full((1, 1), np.nan), np.ones((1, 1)))
    assert math.isnan(metric.compute()["rmse"])


def test_eigen_protocol_counts_exactly_its_crop_and_open_range():
    label = np.full(NYU, 2.0)
    outside = np.ones(NYU, bool)
    outside[45:471, 41:601] = False
    prediction = np.where(outside, 9.0, 3.0)
    assert DepthMetric("nyu-eigen-metric").update(prediction, label)["rmse"] == 1.0
    for corner in ((45, 41), (45, 600), (470, 41), (470, 600)):
        moved = prediction.copy()
        moved[corner] = 2.0
        assert DepthMetric("nyu-eigen-metric").update(moved, label)["abs_rel"] < 0.5
    label[100] = 10.0  # the end of the range is no valid depth in this protocol
    assert DepthMetric("nyu-eigen-metric").update(prediction, label)["rmse"] == 1.0


def test_affine_protocol_undoes_any_scale_and_shift():
    label = np.random.default_rng(0).uniform(0.5, 9, NYU)
    values = DepthMetric("nyu-affine-invariant").update(7 - 0.03 * label, label)
    assert values["rmse"] == pytest.approx(0, abs=1e-12)
    assert values["delta1"] == 1.0


def test_affine_protocol_is_the_least_squares_fit_over_valid_pixels():
    rng = np.random.default_rng(1)
    label, prediction = rng.uniform(3, 7, NYU), rng.uniform(0, 1, NYU)
    label[::7] = 0
    inside = np.zeros(NYU, bool)
    inside[45:471, 41:601] = True
    p, g = prediction[inside & (label > 0)], label[inside & (label > 0)]
    (scale, shift), *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], axis=1), g, rcond=None)
    expected = math.sqrt(np.mean((scale * p + shift - g) ** 2))
    assert DepthMetric("nyu-affine-invariant").update(prediction, label)["rmse"] == pytest.approx(
        expected, rel=1e-12
    )


def test_affine_fit_of_a_constant_prediction_is_the_mean_label():
    label = np.full(NYU, 2.0)
    label[:, ::2] = 4.0
    values = DepthMetric("nyu-affine-invariant").update(np.full(NYU, 0.3), label)
    assert values["rmse"] == pytest.approx(1.0)


@pytest.mark.parametrize("protocol", ["nyu-eigen-metric", "nyu-affine-invariant"])
def test_nyu_protocols_need_full_size(protocol):
    with pytest.raises(ValueError, match=r"\(480, 640\), got \(240, 320\)"):
        DepthMetric(protocol).update(np.ones((240, 320)), np.ones((240, 320)))


@pytest.mark.parametrize("shape", [(4, 4), (4, 5, 1)])
def test_shapes_must_agree(shape):
    with pytest.raises(ValueError, match="decode the prediction at the label's size"):
        DepthMetric().update(np.ones(shape), np.ones((4, 5)))
