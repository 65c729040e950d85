"""Which noise levels a training batch sees: one timestep per example, each by its own task's law."""

import jax
import jax.numpy as jnp
import numpy as np


def sample_timesteps(
    key: jax.Array,
    mean: jax.Array,
    std: jax.Array,
    pure: jax.Array,
    uniform: jax.Array | None = None,
) -> jax.Array:
    """Timesteps (b,) float32 in [0, 1]: logit-normal, sigmoid(mean + std n) with n ~ N(0, 1), or exactly 1.

    Args:
        key: JAX random key; the same key gives the same timesteps.
        mean: (b,) float, location of the logit: 0 centres on t = 0.5, larger means noisier.
        std: (b,) float > 0, its spread. Not checked here, where values are traced: see `check_timestep_law`.
        pure: (b,) float in [0, 1], probability that the example is pure noise, t = 1, as one-step sampling sees it.
        uniform: (b,) bool, examples whose t is uniform on [0, 1) instead of logit-normal; none by default.
    """
    normal_key, uniform_key, pure_key = jax.random.split(key, 3)
    t = jax.nn.sigmoid(mean + std * jax.random.normal(normal_key, mean.shape))
    if uniform is not None:
        t = jnp.where(uniform, jax.random.uniform(uniform_key, mean.shape), t)
    return jnp.where(jax.random.uniform(pure_key, mean.shape) < pure, 1.0, t)


def check_timestep_law(mean: np.ndarray, std: np.ndarray, pure: np.ndarray) -> None:
    """Checks the numbers of `sample_timesteps` on the host, before they are traced; scalars or arrays.

    Raises:
        ValueError: a mean that is not finite, a std that is not positive and finite, or a pure outside [0, 1].
    """
    if not np.all(np.isfinite(mean)):
        raise ValueError(f"timestep mean={mean!r} must be finite: it is the location of logit(t).")
    if not np.all(np.isfinite(std) & (np.asarray(std) > 0)):
        raise ValueError(
            f"timestep std={std!r} must be positive and finite; for a uniform t set uniform=True."
        )
    if not np.all((np.asarray(pure) >= 0) & (np.asarray(pure) <= 1)):
        raise ValueError(
            f"timestep pure={pure!r} must lie in [0, 1]: it is the share of examples at t = 1."
        )
