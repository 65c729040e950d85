"""Schedules: exact end points, the published shift and rescaling, safe values and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers import DDIMScheduler

from generalist.diffusion import SCHEDULES, CosineSchedule, ScaledLinearSchedule, get_schedule

ALL = [
    CosineSchedule(),
    CosineSchedule.for_resolution(128),
    CosineSchedule.for_resolution(32),
    ScaledLinearSchedule(),
]


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_variance_preserving_and_exactly_pure_noise_at_the_end(schedule):
    t = np.linspace(0.0, 1.0, 1001, dtype=np.float32)
    alpha, sigma = map(np.asarray, schedule.alpha_sigma(t))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=3e-7)
    assert alpha[-1] == 0.0 and sigma[-1] == 1.0
    assert np.all(np.diff(alpha) < 0.0) and np.all(np.diff(sigma) >= 0.0)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_logsnr_is_that_of_alpha_and_sigma_and_has_finite_slope_everywhere(schedule):
    t = np.linspace(0.0, 1.0, 101, dtype=np.float32)
    alpha, sigma = (np.asarray(x, np.float64)[1:-1] for x in schedule.alpha_sigma(t))
    logsnr = np.asarray(schedule.logsnr(t))
    np.testing.assert_allclose(logsnr[1:-1], 2 * np.log(alpha / sigma), atol=2e-5)
    assert logsnr[-1] == -20.0 and logsnr.max() <= 20.0

    def total(t):
        return sum(a.sum() for a in (schedule.logsnr(t), *schedule.alpha_sigma(t)))

    slope = jax.jit(jax.grad(total))(t)
    assert np.all(np.isfinite(slope)) and np.all(np.asarray(slope)[2:-2] < 0.0)


def test_cosine_is_clean_at_zero_and_a_quarter_turn():
    alpha, sigma = CosineSchedule().alpha_sigma(jnp.array([0.0, 1 / 3, 0.5]))
    np.testing.assert_allclose(alpha, [1.0, np.sqrt(3) / 2, np.sqrt(0.5)], atol=1e-7)
    np.testing.assert_allclose(sigma, [0.0, 0.5, np.sqrt(0.5)], atol=1e-7)
    assert CosineSchedule().logsnr(jnp.zeros(1))[0] == 20.0
    for size in (32, 64, 128, 256):
        alpha, _ = CosineSchedule.for_resolution(size).alpha_sigma(0.0)
        assert float(alpha) == 1.0


def test_resolution_shift_is_that_of_simple_diffusion():
    assert CosineSchedule.for_resolution(64) == CosineSchedule(0.0)
    assert CosineSchedule.for_resolution(128).shift == pytest.approx(-1.3862944)
    assert CosineSchedule.for_resolution(128, reference=32).shift == pytest.approx(2 * np.log(0.25))
    t = jnp.linspace(0.1, 0.9, 9)
    expected = -2 * np.log(np.tan(np.pi / 2 * np.asarray(t))) - 1.3862944
    np.testing.assert_allclose(CosineSchedule.for_resolution(128).logsnr(t), expected, atol=1e-5)
    with pytest.raises(ValueError, match="size=0"):
        CosineSchedule.for_resolution(0)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_scaled_linear_equals_diffusers_at_every_timestep(zero_snr):
    peer = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        rescale_betas_zero_snr=zero_snr,
    )
    times = np.arange(1000, dtype=np.float32) / 999
    schedule = ScaledLinearSchedule(zero_terminal_snr=zero_snr)
    alpha, sigma = map(np.asarray, schedule.alpha_sigma(times))
    np.testing.assert_allclose(alpha**2, peer.alphas_cumprod.numpy(), atol=1e-6)
    np.testing.assert_allclose(sigma**2, 1.0 - peer.alphas_cumprod.numpy(), atol=1e-6)


def test_scaled_linear_keeps_its_first_step_and_interpolates():
    schedule = ScaledLinearSchedule(steps=3, beta_start=0.19, beta_end=0.19)
    # sqrt(alpha_bar) = 0.9, 0.81, 0.729; minus 0.729, times 0.9 / 0.171: 0.9, 0.4263158, 0.
    alpha, _ = schedule.alpha_sigma(jnp.array([0.0, 0.25, 0.5, 0.75, 1.0]))
    expected = [0.9, (0.9 + 0.42631579) / 2, 0.42631579, 0.42631579 / 2, 0.0]
    np.testing.assert_allclose(alpha, expected, atol=1e-6)

    plain = dataclasses.replace(schedule, zero_terminal_snr=False)
    alpha, _ = plain.alpha_sigma(jnp.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(alpha, [0.9, 0.81, 0.729], atol=1e-6)


def test_schedules_are_hashable_static_arguments():
    alpha = jax.jit(lambda schedule, t: schedule.alpha_sigma(t)[0], static_argnums=0)
    for schedule in ALL:
        assert float(alpha(schedule, jnp.float32(1.0))) == 0.0
    assert hash(CosineSchedule(0.5)) == hash(CosineSchedule(0.5))


def test_get_schedule_builds_by_name_and_explains_mistakes():
    assert get_schedule("cosine", shift=-1.0) == CosineSchedule(-1.0)
    plain = get_schedule("scaled_linear", zero_terminal_snr=False)
    assert plain == ScaledLinearSchedule(zero_terminal_snr=False)
    assert set(SCHEDULES) == {"cosine", "scaled_linear", "stable_diffusion"}
    assert get_schedule("stable_diffusion").zero_terminal_snr is False
    message = "unknown schedule 'cosin'. Did you mean 'cosine'.*scaled_linear"
    with pytest.raises(ValueError, match=message):
        get_schedule("cosin")
    message = "field of schedule 'cosine' 'shfit'. Did you mean 'shift'"
    with pytest.raises(ValueError, match=message):
        get_schedule("cosine", shfit=1.0)
    with pytest.raises(ValueError, match="steps=1"):
        get_schedule("scaled_linear", steps=1)
    with pytest.raises(ValueError, match="beta_start=0.5"):
        get_schedule("scaled_linear", beta_start=0.5)
