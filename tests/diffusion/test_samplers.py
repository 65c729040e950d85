"""Samplers against closed forms.

For Gaussian pixels N(MU, S^2) the best denoiser and the ODE's path are known:
E[x0 | x_t] = MU + alpha S^2 / (alpha^2 S^2 + sigma^2) (x_t - alpha MU), and the probability-flow
ODE moves a pixel of standardized value z along x_t = alpha MU + sqrt(alpha^2 S^2 + sigma^2) z.
"""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest

from generalist.diffusion import (
    SAMPLERS,
    CosineSchedule,
    ScaledLinearSchedule,
    initial_noise,
    sample,
    target,
    time_grid,
)
from generalist.diffusion.samplers import ddim, dpmpp_2m, solve

MU, S = 0.3, 0.4
Z = jnp.linspace(-2.0, 2.0, 12).reshape(1, 2, 2, 3)
MANY = (4, 32, 32, 3)
COSINE = CosineSchedule()


STATIC = ("prediction_type", "sampler", "steps", "schedule", "eta")


@functools.partial(jax.jit, static_argnames=STATIC)
def run(prediction_type, sampler, steps, x, schedule=COSINE, eta=0.0, key=None):
    """The pixels x at t = 1, sampled with the exact denoiser."""
    denoise = denoiser(schedule, prediction_type)
    return sample(
        denoise, x, schedule, prediction_type, sampler, steps, eta=eta, key=key, clip=None
    )


def path(schedule, t):
    """Where the ODE has the pixels Z at time t."""
    alpha, sigma = schedule.alpha_sigma(jnp.float32(t))
    return alpha * MU + jnp.sqrt((alpha * S) ** 2 + sigma**2) * Z


def denoiser(schedule, prediction_type):
    """The exact posterior mean as a network that predicts x0, eps or v."""

    def denoise(x, t):
        alpha, sigma = (a[:, None, None, None] for a in schedule.alpha_sigma(t))
        variance = (alpha * S) ** 2 + sigma**2
        x0 = MU + alpha * S**2 / variance * (x - alpha * MU)
        eps = sigma / variance * (x - alpha * MU)
        return target(prediction_type, x0, eps, alpha, sigma)

    return denoise


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def ode_error(sampler, prediction_type, steps):
    """Largest error of the estimate of x0 at the time `last`.

    The steps are of equal length and begin on the exact path at the time `first`.
    """
    first, last = 0.8, 0.3
    times = np.linspace(first, last, steps + 1, dtype=np.float32)
    denoise = denoiser(COSINE, prediction_type)
    x = path(COSINE, first)
    estimate = solve(denoise, x, COSINE, prediction_type, sampler, times, clip=None)
    exact = denoiser(COSINE, "x0")(path(COSINE, last), jnp.full((1,), last))
    return jnp.max(jnp.abs(estimate - exact))


@pytest.mark.parametrize("prediction_type", ["eps", "v", "x0"])
@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1.0), (dpmpp_2m, 2.0)])
def test_order_of_convergence(sampler, order, prediction_type):
    errors = [float(ode_error(sampler, prediction_type, steps)) for steps in (16, 32)]
    np.testing.assert_allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.08)


# On the scaled-linear schedule sigma^2 starts linear in t, so the last step to the clean image is
# of first order in it.
@pytest.mark.parametrize(
    ("schedule", "sampler", "tolerance"),
    [
        (COSINE, "ddim", 0.03),
        (COSINE, "dpmpp_2m", 0.005),
        (CosineSchedule.for_resolution(128), "ddim", 0.05),
        (CosineSchedule.for_resolution(128), "dpmpp_2m", 0.01),
        (ScaledLinearSchedule(), "ddim", 0.07),
        (ScaledLinearSchedule(), "dpmpp_2m", 0.04),
    ],
)
def test_from_pure_noise_to_the_image_the_ode_ends_on(schedule, sampler, tolerance):
    x0 = run("v", sampler, 64, Z, schedule)
    np.testing.assert_allclose(x0, MU + S * Z, atol=tolerance)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_from_zeros_is_the_mean(sampler):
    for schedule, prediction_type in ((COSINE, "v"), (ScaledLinearSchedule(), "x0")):
        x0 = run(prediction_type, sampler, 1, initial_noise(None, Z.shape), schedule)
        np.testing.assert_allclose(x0, MU, atol=1e-6)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_up_to_three_steps_from_pure_noise_both_solvers_agree(steps):
    results = [run("v", name, steps, Z) for name in ("ddim", "dpmpp_2m")]
    assert np.allclose(*results, atol=1e-6) == (steps <= 3)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_a_ddim_step_keeps_the_marginals(eta):
    alpha, sigma = COSINE.alpha_sigma(time_grid(10))
    alpha = np.append(alpha, 1.0)
    sigma = np.append(sigma, 0.0)

    # From x_t = alpha x0 + sigma eps and the true x0 the step lands on alpha' x0 + sigma' eps',
    # whatever eta.
    factor = ddim(jnp.asarray(alpha), jnp.asarray(sigma), eta)
    np.testing.assert_allclose(factor.keep * alpha[:-1] + factor.pull, alpha[1:], atol=1e-6)
    variance = (factor.keep * sigma[:-1]) ** 2 + factor.noise**2
    np.testing.assert_allclose(variance, sigma[1:] ** 2, atol=1e-6)

    # eta scales the standard deviation of the posterior q(x_s | x_t, x0), whose square is
    # sigma_s^2 / sigma_t^2 (1 - alpha_t^2 / alpha_s^2).
    spread = sigma[1:] / sigma[:-1] * np.sqrt(1 - (alpha[:-1] / alpha[1:]) ** 2)
    np.testing.assert_allclose(factor.noise, eta * spread, atol=1e-6)


def ancestral_std(steps):
    """Spread of the result of `steps` ancestral steps.

    Each step is linear in x, so the variance after it follows by hand.
    """
    alpha, sigma = COSINE.alpha_sigma(time_grid(steps))
    table = ddim(jnp.append(alpha, 1.0), jnp.append(sigma, 0.0), 1.0)

    alpha, sigma, keep, pull, _, noise = (np.asarray(a, np.float64) for a in (alpha, sigma, *table))
    slopes = keep + pull * alpha * S**2 / ((alpha * S) ** 2 + sigma**2)

    variance = 1.0
    for slope, fresh in zip(slopes, noise, strict=True):
        variance = slope**2 * variance + fresh**2
    return variance**0.5


def test_ancestral_sampling_has_the_mean_and_variance_of_the_data():
    assert ancestral_std(1000) == pytest.approx(S, rel=0.005)
    # The error is of first order in the step.
    tenth = (S - ancestral_std(100)) / 10
    assert S - ancestral_std(1000) == pytest.approx(tenth, rel=0.2)

    x = initial_noise(jax.random.key(0), MANY, "gaussian")
    x0 = np.asarray(run("v", "ddim", 100, x, eta=1.0, key=jax.random.key(1)), np.float64)

    # 12,288 pixels: standard errors 0.0035 of the mean, 0.64 % of the spread, 0.009 of the
    # correlation; four of them.
    assert x0.mean() == pytest.approx(MU, abs=0.014)
    assert x0.std() == pytest.approx(ancestral_std(100), rel=0.026)
    # Unlike the ODE, it forgets where it started.
    assert abs(np.corrcoef(x0.ravel(), np.asarray(x).ravel())[0, 1]) < 0.036


def test_the_key_alone_decides_the_noise_of_ancestral_sampling():
    zeros = initial_noise(None, MANY)
    first, again, other = (
        np.asarray(run("v", "ddim", 100, zeros, eta=1.0, key=jax.random.key(seed)))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.mean(first == other) < 0.01


def test_every_estimate_is_clipped():
    seen = []

    def denoise(x, t):
        seen.append(float(jnp.max(jnp.abs(x))))
        return jnp.full_like(x, 7.0)

    with jax.disable_jit():
        half = sample(denoise, initial_noise(None, Z.shape), COSINE, "x0", "ddim", 4, clip=0.5)
        np.testing.assert_array_equal(half, 0.5)
        assert len(seen) == 4 and max(seen) < 0.5

        unclipped = sample(denoise, Z, COSINE, "x0", "one_step", 1, clip=None)
        np.testing.assert_array_equal(unclipped, 7.0)


def test_times_asked_are_the_trailing_grid_and_one_per_example():
    asked = []

    def denoise(x, t):
        asked.append(np.asarray(t))
        return x

    with jax.disable_jit():
        sample(denoise, jnp.zeros((2, 1, 1, 3)), COSINE, "x0", "dpmpp_2m", 4)
    np.testing.assert_array_equal(asked, [[1.0, 1.0], [0.75, 0.75], [0.5, 0.5], [0.25, 0.25]])
    np.testing.assert_array_equal(time_grid(4), np.float32([1.0, 0.75, 0.5, 0.25]))


def primitives(jaxpr):
    """Names of all operations, inner programs included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in equation.params.values():
            if isinstance(value, jax.extend.core.ClosedJaxpr):
                yield from primitives(value.jaxpr)
            elif isinstance(value, jax.extend.core.Jaxpr):
                yield from primitives(value)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_scan_and_one_network_whatever_the_number_of_steps(sampler):
    def network(x, t):
        return jnp.sinh(x)  # an operation that nothing else here uses

    for steps in (1,) if sampler == "one_step" else (1, 2, 50):
        sampling = functools.partial(
            sample, network, schedule=COSINE, prediction_type="v", sampler=sampler, steps=steps
        )
        names = list(primitives(jax.make_jaxpr(jax.jit(sampling))(Z).jaxpr))
        assert names.count("scan") == 1 and names.count("sinh") == 1


def test_the_initial_noise_is_its_mean_or_drawn():
    zeros = initial_noise(None, (1, 2, 2, 3))
    np.testing.assert_array_equal(zeros, np.zeros((1, 2, 2, 3), np.float32))

    noise = initial_noise(jax.random.key(0), MANY, "gaussian")
    assert noise.dtype == jnp.float32 and float(noise.std()) == pytest.approx(1.0, abs=0.03)
    with pytest.raises(ValueError, match="unknown x_init 'zero'. Did you mean 'zeros'"):
        initial_noise(None, (1,), "zero")


def test_low_precision_networks_are_sampled_in_float32():
    def network(x, t):
        return (0.5 * x).astype(jnp.bfloat16)

    x0 = sample(network, Z.astype(jnp.bfloat16), COSINE, "v", "dpmpp_2m", 4)
    assert x0.dtype == jnp.float32 and np.all(np.isfinite(x0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "ddmi"}, "unknown sampler 'ddmi'. Did you mean 'ddim'"),
        ({"prediction_type": "vv"}, "unknown prediction type 'vv'. Did you mean 'v'"),
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"sampler": "one_step"}, "'one_step' takes steps=1, not 4"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"eta": 0.5, "sampler": "dpmpp_2m"}, "eta=0.5 with sampler 'dpmpp_2m'"),
        ({"eta": 0.5}, "pass key"),
    ],
)
def test_mistakes_are_named(change, message):
    arguments = {"schedule": COSINE, "prediction_type": "v", "sampler": "ddim", "steps": 4} | change
    with pytest.raises(ValueError, match=message):
        sample(denoiser(COSINE, "v"), Z, **arguments)
