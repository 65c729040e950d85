"""eps, v and x0 are three views of one picture."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from generalist.diffusion import PREDICTION_TYPES, CosineSchedule, expand, target, to_eps, to_x0

SHAPE = (5, 4, 4, 3)
RANDOM = np.random.default_rng(0)


def to_v(prediction_type, prediction, x_t, alpha, sigma):
    """The velocity that a prediction means, by way of the x0 and the eps that it means."""
    x0 = to_x0(prediction_type, prediction, x_t, alpha, sigma)
    eps = to_eps(prediction_type, prediction, x_t, alpha, sigma)
    return target("v", x0, eps, alpha, sigma)


CONVERT = {"x0": to_x0, "eps": to_eps, "v": to_v}


@pytest.fixture
def noised():
    x0 = jnp.asarray(RANDOM.uniform(-1.0, 1.0, SHAPE), jnp.float32)
    eps = jnp.asarray(RANDOM.standard_normal(SHAPE, np.float32))
    t = jnp.linspace(0.05, 0.95, 5)
    alpha, sigma = (expand(a, x0) for a in CosineSchedule().alpha_sigma(t))
    return x0, eps, alpha * x0 + sigma * eps, alpha, sigma


def test_expand_adds_the_axes_of_a_picture():
    assert expand(jnp.arange(5.0), jnp.zeros(SHAPE)).shape == (5, 1, 1, 1)
    assert expand(jnp.float32(2.0), jnp.zeros(SHAPE)).shape == (1, 1, 1, 1)


def test_v_by_hand():
    # alpha = 0.6, sigma = 0.8, x0 = 1, eps = 2: x_t = 2.2, v = 1.2 - 0.8 = 0.4.
    alpha, sigma = jnp.float32(0.6), jnp.float32(0.8)
    x0, eps, x_t, v = (jnp.full((1, 1, 1, 1), value) for value in (1.0, 2.0, 2.2, 0.4))
    assert float(target("v", x0, eps, alpha, sigma)[0, 0, 0, 0]) == pytest.approx(0.4)
    assert float(to_x0("v", v, x_t, alpha, sigma)[0, 0, 0, 0]) == pytest.approx(1.0)
    assert float(to_eps("v", v, x_t, alpha, sigma)[0, 0, 0, 0]) == pytest.approx(2.0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_target_of_every_type_gives_back_x0_eps_and_v(prediction_type, noised):
    x0, eps, x_t, alpha, sigma = noised
    prediction = target(prediction_type, x0, eps, alpha, sigma)
    expected = {"x0": x0, "eps": eps, "v": alpha * eps - sigma * x0}
    for name, convert in CONVERT.items():
        converted = convert(prediction_type, prediction, x_t, alpha, sigma)
        np.testing.assert_allclose(converted, expected[name], atol=2e-5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("other", PREDICTION_TYPES)
def test_conversions_are_mutual_inverses_of_any_network_output(prediction_type, other, noised):
    _, _, x_t, alpha, sigma = noised
    prediction = jnp.asarray(RANDOM.standard_normal(SHAPE, np.float32))
    there = CONVERT[other](prediction_type, prediction, x_t, alpha, sigma)
    back = CONVERT[prediction_type](other, there, x_t, alpha, sigma)
    np.testing.assert_allclose(back, prediction, atol=2e-4)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_pure_noise_and_clean_images_stay_finite(prediction_type, noised):
    x0, eps, *_ = noised
    for t in (0.0, 1.0):
        alpha, sigma = CosineSchedule().alpha_sigma(t)
        for convert in CONVERT.values():
            assert np.all(np.isfinite(convert(prediction_type, x0, eps, alpha, sigma)))


@pytest.mark.parametrize("prediction_type", ["v", "x0"])
def test_at_pure_noise_v_and_x0_say_what_x0_is(prediction_type, noised):
    x0, eps, *_ = noised
    alpha, sigma = jnp.float32(0.0), jnp.float32(1.0)
    prediction = target(prediction_type, x0, eps, alpha, sigma)
    np.testing.assert_array_equal(to_x0(prediction_type, prediction, eps, alpha, sigma), x0)


@pytest.mark.parametrize("function", [target, to_x0, to_eps])
def test_an_unknown_prediction_type_names_the_closest(function):
    image = jnp.zeros((1, 1, 1, 3))
    message = "unknown prediction type 'epsi'. Did you mean 'eps'.*v, x0"
    with pytest.raises(ValueError, match=message):
        function("epsi", image, image, jnp.float32(0.0), jnp.float32(0.0))


def test_images_of_unequal_shapes_are_an_error_of_the_tests():
    prediction = jnp.zeros((1, 2, 2, 3))
    x_t = jnp.zeros((1, 4, 4, 3))
    with pytest.raises(jaxtyping.TypeCheckError, match="parameter 'x_t'"):
        to_x0("v", prediction, x_t, jnp.float32(0.6), jnp.float32(0.8))
