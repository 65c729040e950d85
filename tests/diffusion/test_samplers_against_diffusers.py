"""Trajectories of a made-up network: those of diffusers' schedulers at the same timesteps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from generalist.diffusion import ScaledLinearSchedule
from generalist.diffusion.samplers import ddim, dpmpp_2m, solve

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PREDICTION_TYPES = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
X = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)


def theirs(scheduler):
    x = torch.from_numpy(X)
    for k in scheduler.timesteps:
        x = scheduler.step(0.5 * torch.sin(2 * x) + 0.3 * float(k) / 999, k, x).prev_sample
    return x.numpy()


def ours(sampler, prediction_type, zero_snr, timesteps):
    def network(x, t):
        return 0.5 * jnp.sin(2 * x) + 0.3 * t[:, None, None, None]

    times = np.asarray(timesteps, np.float32) / 999
    schedule = ScaledLinearSchedule(zero_terminal_snr=zero_snr)

    @jax.jit
    def solution(x):
        return solve(network, x, schedule, prediction_type, sampler, times, clip=None)

    return solution(X)


@pytest.mark.parametrize(
    ("prediction_type", "zero_snr"), [("v", True), ("x0", True), ("v", False), ("eps", False)]
)
@pytest.mark.parametrize("steps", [1, 10])
def test_ddim(prediction_type, zero_snr, steps):
    peer = DDIMScheduler(
        **BETAS,
        prediction_type=PREDICTION_TYPES[prediction_type],
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
    )
    peer.set_timesteps(steps)
    assert int(peer.timesteps[0]) == 999
    result = ours(ddim, prediction_type, zero_snr, peer.timesteps)
    np.testing.assert_allclose(result, theirs(peer), rtol=1e-5, atol=5e-5)


# With zero terminal SNR diffusers puts a small alpha in place of the last zero, so the comparison
# starts below it.
@pytest.mark.parametrize(
    ("zero_snr", "timesteps"),
    [(False, [999, 874, 749, 624, 499, 374, 249, 124]), (True, [900, 700, 450, 300, 80, 10])],
)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_dpmpp_2m(prediction_type, zero_snr, timesteps):
    peer = DPMSolverMultistepScheduler(
        **BETAS,
        prediction_type=PREDICTION_TYPES[prediction_type],
        rescale_betas_zero_snr=zero_snr,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    peer.set_timesteps(timesteps=timesteps)
    result = ours(dpmpp_2m, prediction_type, zero_snr, timesteps)
    np.testing.assert_allclose(result, theirs(peer), rtol=1e-5, atol=5e-5)
