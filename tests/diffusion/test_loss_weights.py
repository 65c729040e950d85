"""Loss weights: one weighting gives one loss, whichever of eps, v and x0 the network predicts."""

import jax.numpy as jnp
import numpy as np
import pytest

from generalist.diffusion import (
    LOSS_WEIGHTS,
    PREDICTION_TYPES,
    CosineSchedule,
    expand,
    loss_weight,
    target,
    to_eps,
    to_x0,
)

SCHEDULE = CosineSchedule()
T = jnp.linspace(0.1, 0.9, 9)


def weighted_losses(name, prediction_type):
    """Loss (9,) of one fixed network output, seen as a prediction of that type."""
    random = np.random.default_rng(0)
    x0, eps, output = jnp.asarray(random.standard_normal((3, 9, 2, 2, 3), np.float32))
    alpha, sigma = (expand(a, x0) for a in SCHEDULE.alpha_sigma(T))
    x_t = alpha * x0 + sigma * eps

    prediction = {
        "x0": to_x0("v", output, x_t, alpha, sigma),
        "eps": to_eps("v", output, x_t, alpha, sigma),
        "v": output,
    }[prediction_type]

    error = prediction - target(prediction_type, x0, eps, alpha, sigma)
    mse = jnp.mean(error**2, axis=(1, 2, 3))
    return loss_weight(name, prediction_type, SCHEDULE.logsnr(T)) * mse


@pytest.mark.parametrize("name", [name for name in LOSS_WEIGHTS if name != "simple"])
def test_the_loss_does_not_depend_on_the_parameterization(name):
    reference = weighted_losses(name, "x0")
    for prediction_type in ("eps", "v"):
        np.testing.assert_allclose(weighted_losses(name, prediction_type), reference, rtol=1e-4)


def check_weight(name, prediction_type, logsnr, expected, rtol=1e-5, **kwargs):
    weight = loss_weight(name, prediction_type, logsnr, **kwargs)
    np.testing.assert_allclose(weight, expected, rtol=rtol)


def test_min_snr_by_hand():
    logsnr = jnp.log(jnp.array([0.5, 20.0]))
    check_weight("min_snr", "x0", logsnr, [0.5, 5.0])
    check_weight("min_snr", "eps", logsnr, [1.0, 0.25])
    check_weight("min_snr", "v", logsnr, [1 / 3, 5 / 21])
    check_weight("min_snr", "x0", logsnr, [0.5, 1.0], gamma=1.0)


def test_sigmoid_is_the_published_weight_on_eps():
    logsnr = jnp.linspace(-10.0, 10.0, 9)
    expected = 1 / (1 + np.exp(np.asarray(logsnr) + 3.0))
    check_weight("sigmoid", "eps", logsnr, expected, rtol=1e-4, bias=-3.0)


def test_plain_losses():
    logsnr = jnp.log(jnp.array([0.25, 1.0, 4.0, 1e4]))
    for prediction_type in PREDICTION_TYPES:
        np.testing.assert_array_equal(loss_weight("simple", prediction_type, logsnr), 1.0)

    check_weight("x0", "eps", logsnr, [4.0, 1.0, 0.25, 1e-4])
    check_weight("x0", "v", logsnr, [0.8, 0.5, 0.2, 1 / 10001])
    check_weight("v", "x0", logsnr, [1.25, 2.0, 5.0, 401.0])
    check_weight("v", "v", logsnr, [1.0, 1.0, 1.0, 401 / 10001])


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("name", LOSS_WEIGHTS)
def test_weights_are_finite_at_both_ends_of_time(name, prediction_type):
    infinite = jnp.array([jnp.inf, -jnp.inf])
    ends = jnp.concatenate([SCHEDULE.logsnr(jnp.array([0.0, 1.0])), infinite])
    weight = np.asarray(loss_weight(name, prediction_type, ends))
    assert weight.shape == (4,) and weight.dtype == np.float32
    assert np.all(np.isfinite(weight)) and np.all(weight >= 0.0)


def test_which_losses_teach_the_step_from_pure_noise():
    pure_noise = SCHEDULE.logsnr(jnp.ones(1))
    assert float(loss_weight("x0", "v", pure_noise)[0]) == pytest.approx(1.0)
    assert float(loss_weight("v", "x0", pure_noise)[0]) == pytest.approx(1.0)
    assert float(loss_weight("min_snr", "v", pure_noise)[0]) < 1e-8
    assert float(loss_weight("sigmoid", "x0", pure_noise)[0]) < 1e-8


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown loss weight 'min_snt'. Did you mean 'min_snr'"):
        loss_weight("min_snt", "v", jnp.zeros(1))
    with pytest.raises(ValueError, match="unknown prediction type 'x'"):
        loss_weight("simple", "x", jnp.zeros(1))
    with pytest.raises(TypeError, match="gamma"):
        loss_weight("simple", "v", jnp.zeros(1), gamma=5.0)
