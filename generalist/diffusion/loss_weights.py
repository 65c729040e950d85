"""Loss weights over noise levels: factors for the MSE of the prediction in its own parameterisation.

With SNR = alpha^2 / sigma^2, one error of a network measures, in the three parameterisations,
eps-MSE = SNR x0-MSE and v-MSE = (1 + SNR) x0-MSE. A law is therefore written once, for the x0-MSE, and divided
by SNR or 1 + SNR for the other kinds.

The eps-MSE, "min_snr" and "sigmoid" do not count errors of x0 at t = 1, whatever the kind: a network that is to answer
in one step from pure noise is taught by "x0", by "v", or by "simple" with kind "x0" or "v".
"""

from typing import Any

import jax
import jax.numpy as jnp

from generalist.diffusion.parameterisation import KINDS
from generalist.diffusion.schedules import LOGSNR_LIMIT, one_of


def simple(logsnr: jax.Array) -> jax.Array:
    """The plain MSE of whatever the network predicts: the one law that is not written for the x0-MSE."""
    return jnp.ones_like(logsnr)


def min_snr(logsnr: jax.Array, gamma: float = 5.0) -> jax.Array:
    """min(SNR, gamma) on the x0-MSE (Hang et al., arXiv 2303.09556)."""
    return jnp.minimum(jnp.exp(logsnr), gamma)


def sigmoid(logsnr: jax.Array, bias: float = -1.0) -> jax.Array:
    """sigmoid(bias - logSNR) on the eps-MSE (Hoogeboom et al., arXiv 2410.19324)."""
    # SNR sigmoid(bias - logSNR), written so that nothing overflows.
    return jnp.exp(bias) * jax.nn.sigmoid(logsnr - bias)


def x0(logsnr: jax.Array) -> jax.Array:
    """The plain x0-MSE, whatever the network predicts."""
    return jnp.ones_like(logsnr)


def v(logsnr: jax.Array, max_snr: float = 400.0) -> jax.Array:
    """The plain v-MSE, whatever the network predicts; its factor on the x0-MSE stops growing at SNR = max_snr.

    Without the stop it is infinite at t = 0. 400 is sigma = 0.05, the floor of Li and He (arXiv 2511.13720).
    """
    return 1.0 + jnp.minimum(jnp.exp(logsnr), max_snr)


LOSS_WEIGHTS = {"simple": simple, "min_snr": min_snr, "sigmoid": sigmoid, "x0": x0, "v": v}

_MSE_PER_X0_MSE = {"eps": jnp.exp, "v": lambda logsnr: 1.0 + jnp.exp(logsnr), "x0": jnp.ones_like}


def loss_weight(name: str, kind: str, logsnr: jax.Array, **kwargs: Any) -> jax.Array:
    """Weights (b,) float32 for the MSE of a prediction of that kind, finite for every logSNR, infinite ones included.

    Args:
        name: "simple" (1 for every kind), "min_snr" (gamma=5), "sigmoid" (bias=-1), "x0", or "v" (max_snr=400).
        kind: what the network predicts and the MSE is taken of: "eps", "v" or "x0".
        logsnr: (b,) natural logarithm of alpha^2 / sigma^2; clipped to [-20, 20] here.
        **kwargs: the law's own number, as listed above.

    Raises:
        ValueError: unknown name or kind.
        TypeError: a keyword that the law does not have.
    """
    law = LOSS_WEIGHTS[one_of(LOSS_WEIGHTS, name, "loss weight")]
    mse_per_x0_mse = _MSE_PER_X0_MSE[one_of(KINDS, kind, "prediction kind")]
    logsnr = jnp.clip(jnp.asarray(logsnr, jnp.float32), -LOGSNR_LIMIT, LOGSNR_LIMIT)
    weight = law(logsnr, **kwargs)
    return weight if law is simple else weight / mse_per_x0_mse(logsnr)
