"""Loss weights: one law gives one loss, whichever of eps, v and x0 the network happens to predict."""

import jax.numpy as jnp
import numpy as np
import pytest

from generalist.diffusion import (
    KINDS,
    CosineSchedule,
    expand,
    loss_weight,
    target,
    to_eps,
    to_v,
    to_x0,
)
from generalist.diffusion.loss_weights import LOSS_WEIGHTS

SCHEDULE = CosineSchedule()
T = jnp.linspace(0.1, 0.9, 9)


def weighted_losses(name, kind):
    """Loss (9,) of one fixed network output, seen as a prediction of that kind."""
    x0, eps, output = np.random.default_rng(0).standard_normal((3, 9, 2, 2, 3), np.float32)
    alpha, sigma = (expand(a, x0) for a in SCHEDULE.alpha_sigma(T))
    convert = {"x0": to_x0, "eps": to_eps, "v": to_v}[kind]
    prediction = convert("v", output, alpha * x0 + sigma * eps, alpha, sigma)
    mse = jnp.mean((prediction - target(kind, x0, eps, alpha, sigma)) ** 2, axis=(1, 2, 3))
    return loss_weight(name, kind, SCHEDULE.logsnr(T)) * mse


@pytest.mark.parametrize("name", [name for name in LOSS_WEIGHTS if name != "simple"])
def test_the_loss_does_not_depend_on_the_parameterisation(name):
    reference = weighted_losses(name, "x0")
    for kind in ("eps", "v"):
        np.testing.assert_allclose(weighted_losses(name, kind), reference, rtol=1e-4)


def test_min_snr_by_hand():
    logsnr = jnp.log(jnp.array([0.5, 20.0]))
    np.testing.assert_allclose(loss_weight("min_snr", "x0", logsnr), [0.5, 5.0], rtol=1e-5)
    np.testing.assert_allclose(loss_weight("min_snr", "eps", logsnr), [1.0, 0.25], rtol=1e-5)
    np.testing.assert_allclose(loss_weight("min_snr", "v", logsnr), [1 / 3, 5 / 21], rtol=1e-5)
    np.testing.assert_allclose(
        loss_weight("min_snr", "x0", logsnr, gamma=1.0), [0.5, 1.0], rtol=1e-5
    )


def test_sigmoid_is_the_published_weight_on_eps():
    logsnr = jnp.linspace(-10.0, 10.0, 9)
    expected = 1 / (1 + np.exp(np.asarray(logsnr) + 3.0))
    np.testing.assert_allclose(
        loss_weight("sigmoid", "eps", logsnr, bias=-3.0), expected, rtol=1e-4
    )


def test_plain_losses():
    logsnr = jnp.log(jnp.array([0.25, 1.0, 4.0, 1e4]))
    for kind in KINDS:
        np.testing.assert_array_equal(loss_weight("simple", kind, logsnr), 1.0)
    np.testing.assert_allclose(loss_weight("x0", "eps", logsnr), [4.0, 1.0, 0.25, 1e-4], rtol=1e-5)
    np.testing.assert_allclose(
        loss_weight("x0", "v", logsnr), [0.8, 0.5, 0.2, 1 / 10001], rtol=1e-5
    )
    np.testing.assert_allclose(loss_weight("v", "x0", logsnr), [1.25, 2.0, 5.0, 401.0], rtol=1e-5)
    np.testing.assert_allclose(
        loss_weight("v", "v", logsnr), [1.0, 1.0, 1.0, 401 / 10001], rtol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOSS_WEIGHTS)
def test_weights_are_finite_at_both_ends_of_time(name, kind):
    ends = jnp.concatenate([SCHEDULE.logsnr(jnp.array([0.0, 1.0])), jnp.array([jnp.inf, -jnp.inf])])
    weight = np.asarray(loss_weight(name, kind, ends))
    assert weight.shape == (4,) and weight.dtype == np.float32
    assert np.all(np.isfinite(weight)) and np.all(weight >= 0.0)


def test_which_losses_teach_the_step_from_pure_noise():
    pure = SCHEDULE.logsnr(jnp.ones(1))
    assert float(loss_weight("x0", "v", pure)[0]) == pytest.approx(1.0)
    assert float(loss_weight("v", "x0", pure)[0]) == pytest.approx(1.0)
    assert float(loss_weight("min_snr", "v", pure)[0]) < 1e-8
    assert float(loss_weight("sigmoid", "x0", pure)[0]) < 1e-8


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="Unknown loss weight 'min_snt'. Did you mean 'min_snr'"):
        loss_weight("min_snt", "v", jnp.zeros(1))
    with pytest.raises(ValueError, match="Unknown prediction kind 'x'"):
        loss_weight("simple", "x", jnp.zeros(1))
    with pytest.raises(TypeError, match="gamma"):
        loss_weight("simple", "v", jnp.zeros(1), gamma=5.0)
