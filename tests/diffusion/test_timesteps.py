"""Timesteps: each example as its task asks, and the stated fraction at exactly pure noise."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from generalist.diffusion import check_timestep_distribution, sample_timesteps

N = 20_000
KEY = jax.random.key(0)


def full(value):
    return jnp.full((N,), value)


def test_logit_normal_has_its_mean_and_spread():
    t = sample_timesteps(KEY, full(-0.8), full(0.8), full(0.0))
    logit = np.log(np.asarray(t, np.float64) / (1 - np.asarray(t, np.float64)))
    assert t.shape == (N,) and t.dtype == jnp.float32
    # Standard errors: 0.8 / sqrt(20000) = 0.0057 of the mean, 0.004 of the spread; four of them.
    assert logit.mean() == pytest.approx(-0.8, abs=0.023)
    assert logit.std() == pytest.approx(0.8, abs=0.016)


def test_the_fraction_at_pure_noise_is_exact_ones():
    t = sample_timesteps(KEY, full(0.0), full(1.0), full(0.75))
    assert np.mean(np.asarray(t) == 1.0) == pytest.approx(0.75, abs=0.0125)  # four standard errors
    assert np.all(np.asarray(sample_timesteps(KEY, full(0.0), full(1.0), full(1.0))) == 1.0)
    assert np.all(np.asarray(sample_timesteps(KEY, full(0.0), full(1.0), full(0.0))) < 1.0)


def test_each_example_follows_its_own_distribution():
    even = jnp.arange(N) % 2 == 0
    t = sample_timesteps(KEY, jnp.where(even, 2.0, -2.0), full(0.1), jnp.where(even, 0.0, 0.5))

    t = np.asarray(t)
    even = np.asarray(even)
    assert np.median(t[even]) == pytest.approx(1 / (1 + np.exp(-2.0)), abs=0.002)
    assert np.all(t[even] < 1.0) and np.mean(t[~even] == 1.0) == pytest.approx(0.5, abs=0.02)
    assert np.median(t[~even & (t < 1)]) == pytest.approx(1 / (1 + np.exp(2.0)), abs=0.002)


def test_same_key_same_timesteps_and_another_key_others():
    distribution = (full(0.0), full(1.0), full(0.5))
    first = np.asarray(sample_timesteps(KEY, *distribution))
    np.testing.assert_array_equal(first, sample_timesteps(KEY, *distribution))
    other = np.asarray(sample_timesteps(jax.random.key(1), *distribution))
    assert np.mean(first == other) < 0.3


COMPILED_OR_NOT = """
import jax, jax.numpy as jnp, numpy as np
from generalist.diffusion import sample_timesteps
arguments = jax.random.key(0), *(jnp.full((20_000,), value) for value in (0.0, 1.0, 0.5))
first = np.asarray(sample_timesteps(*arguments))
np.testing.assert_array_equal(first, jax.jit(sample_timesteps)(*arguments))
"""


def test_the_same_bits_compiled_or_not():
    """As users compile: the flags of conftest.py round a fused loop otherwise."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-c", COMPILED_OR_NOT]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_distributions_are_checked_on_the_host():
    fine = check_timestep_distribution(-0.8, np.array([0.8, 1.0]), np.array([0.0, 1.0]))
    assert fine is None
    with pytest.raises(ValueError, match="std=0.0 must be positive"):
        check_timestep_distribution(0.0, 0.0, 0.5)
    with pytest.raises(ValueError, match="mean=nan must be finite"):
        check_timestep_distribution(float("nan"), 1.0, 0.5)
    with pytest.raises(ValueError, match=r"p_pure_noise=1.5 must lie in \[0, 1\]"):
        check_timestep_distribution(0.0, 1.0, 1.5)
