"""Which noise levels a training batch sees: one timestep an example, each as its task asks.

The logit of t is normal (Esser et al., arXiv 2403.03206, section 3.1), with a point mass at t = 1,
from where one-step sampling has to answer.
"""

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float, Key


def sample_timesteps(
    key: Key[Array, ""],
    mean: Float[Array, " b"],
    std: Float[Array, " b"],
    p_pure_noise: Float[Array, " b"],
) -> Float[Array, " b"]:
    """Draws timesteps in [0, 1]: sigmoid(mean + std n) with n ~ N(0, 1), or exactly 1.

    The numbers are not checked here, where they are traced: see `check_timestep_distribution`.

    Args:
        key: JAX random key; the same key gives the same timesteps.
        mean: location of the logit: 0 centers on t = 0.5, larger means noisier.
        std: scale of the logit, > 0.
        p_pure_noise: probability, in [0, 1], of t = 1: what the first sampling step sees.
    """
    # Two of the three are used. A split in two would give other bits than published runs drew.
    normal_key, _, pure_noise_key = jax.random.split(key, 3)

    t = jax.nn.sigmoid(mean + std * jax.random.normal(normal_key, mean.shape))
    pure_noise = jax.random.uniform(pure_noise_key, mean.shape) < p_pure_noise

    return jnp.where(pure_noise, 1.0, t)


def check_timestep_distribution(
    mean: Float[ArrayLike, "..."],
    std: Float[ArrayLike, "..."],
    p_pure_noise: Float[ArrayLike, "..."],
) -> None:
    """Checks the numbers of `sample_timesteps` on the host, before they are traced.

    Raises:
        ValueError: a mean that is not finite, a std that is not positive and finite, or a
            p_pure_noise outside [0, 1].
    """
    if not np.all(np.isfinite(mean)):
        raise ValueError(f"timestep mean={mean!r} must be finite: it is the location of logit(t).")

    if not np.all(np.isfinite(std) & (np.asarray(std) > 0)):
        raise ValueError(
            f"timestep std={std!r} must be positive and finite: it is the scale of logit(t)."
        )

    if not np.all((np.asarray(p_pure_noise) >= 0) & (np.asarray(p_pure_noise) <= 1)):
        raise ValueError(
            f"timestep p_pure_noise={p_pure_noise!r} must lie in [0, 1]: "
            "it is the probability of t = 1."
        )
