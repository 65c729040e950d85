"""eps, v and x0 are three views of one picture."""

import jax.numpy as jnp
import numpy as np
import pytest

from generalist.diffusion import KINDS, CosineSchedule, expand, target, to_eps, to_v, to_x0

SHAPE = (5, 4, 4, 3)
RANDOM = np.random.default_rng(0)


@pytest.fixture
def noised():
    x0 = RANDOM.uniform(-1.0, 1.0, SHAPE).astype(np.float32)
    eps = RANDOM.standard_normal(SHAPE, np.float32)
    alpha, sigma = (
        expand(a, x0) for a in CosineSchedule().alpha_sigma(jnp.linspace(0.05, 0.95, 5))
    )
    return x0, eps, alpha * x0 + sigma * eps, alpha, sigma


def test_expand_adds_the_axes_of_a_picture():
    assert expand(jnp.arange(5.0), jnp.zeros(SHAPE)).shape == (5, 1, 1, 1)
    assert expand(jnp.float32(2.0), jnp.zeros(SHAPE)).shape == (1, 1, 1, 1)


def test_v_by_hand():
    # alpha = 0.6, sigma = 0.8, x0 = 1, eps = 2: x_t = 2.2, v = 1.2 - 0.8 = 0.4.
    assert float(target("v", 1.0, 2.0, 0.6, 0.8)) == pytest.approx(0.4)
    assert float(to_x0("v", 0.4, 2.2, 0.6, 0.8)) == pytest.approx(1.0)
    assert float(to_eps("v", 0.4, 2.2, 0.6, 0.8)) == pytest.approx(2.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_target_of_every_kind_gives_back_x0_eps_and_v(kind, noised):
    x0, eps, x_t, alpha, sigma = noised
    prediction = target(kind, x0, eps, alpha, sigma)
    np.testing.assert_allclose(to_x0(kind, prediction, x_t, alpha, sigma), x0, atol=2e-5)
    np.testing.assert_allclose(to_eps(kind, prediction, x_t, alpha, sigma), eps, atol=2e-5)
    np.testing.assert_allclose(
        to_v(kind, prediction, x_t, alpha, sigma), alpha * eps - sigma * x0, atol=2e-5
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("other", KINDS)
def test_conversions_are_mutual_inverses_of_any_network_output(kind, other, noised):
    _, _, x_t, alpha, sigma = noised
    convert = {"x0": to_x0, "eps": to_eps, "v": to_v}
    prediction = RANDOM.standard_normal(SHAPE, np.float32)
    there = convert[other](kind, prediction, x_t, alpha, sigma)
    np.testing.assert_allclose(
        convert[kind](other, there, x_t, alpha, sigma), prediction, atol=2e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_pure_noise_and_clean_images_stay_finite(kind, noised):
    x0, eps, *_ = noised
    for t in (0.0, 1.0):
        alpha, sigma = CosineSchedule().alpha_sigma(t)
        for convert in (to_x0, to_eps, to_v):
            assert np.all(np.isfinite(convert(kind, x0, eps, alpha, sigma)))


def test_at_pure_noise_v_and_x0_say_what_x0_is(noised):
    x0, eps, *_ = noised
    np.testing.assert_array_equal(to_x0("v", target("v", x0, eps, 0.0, 1.0), eps, 0.0, 1.0), x0)
    np.testing.assert_array_equal(to_x0("x0", target("x0", x0, eps, 0.0, 1.0), eps, 0.0, 1.0), x0)


def test_unknown_kind_names_the_closest():
    for function in (target, to_x0, to_eps, to_v):
        with pytest.raises(
            ValueError, match="Unknown prediction kind 'epsi'. Did you mean 'eps'.*v, x0"
        ):
            function("epsi", *([0.0] * 4))
