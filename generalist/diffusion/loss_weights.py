"""Loss weights over noise levels: factors on the MSE of what the network predicts.

With SNR = alpha^2 / sigma^2, the same error of a network measures, in the three parameterizations,
eps-MSE = SNR x0-MSE and v-MSE = (1 + SNR) x0-MSE. A weighting is therefore written once, for the
x0-MSE, and divided by SNR or 1 + SNR where the network predicts eps or v.

The eps-MSE, "min_snr" and "sigmoid" do not count errors of x0 where there is no signal, whatever
the prediction type. A network that has to answer from pure noise learns from "x0", from "v", or
from "simple" with prediction type "x0" or "v"; `combinations` refuses the others.
"""

from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from generalist.diffusion.parameterization import PREDICTION_TYPES
from generalist.diffusion.schedules import LOGSNR_LIMIT
from generalist.names import one_of


def simple(logsnr: Float[Array, " b"]) -> Float[Array, " b"]:
    """Weighs the MSE of whatever the network predicts by 1.

    L_simple of Ho et al. (arXiv 2006.11239, equation 14); the one weighting that is not written for
    the x0-MSE.
    """
    return jnp.ones_like(logsnr)


def min_snr(logsnr: Float[Array, " b"], gamma: float = 5.0) -> Float[Array, " b"]:
    """Weighs the x0-MSE by min(SNR, gamma) (Hang et al., arXiv 2303.09556)."""
    return jnp.minimum(jnp.exp(logsnr), gamma)


def sigmoid(logsnr: Float[Array, " b"], bias: float = -1.0) -> Float[Array, " b"]:
    """Weighs the eps-MSE by the logistic function of bias - logSNR.

    The weighting of Hoogeboom et al., "Simpler diffusion" (arXiv 2410.19324), alone. Their loss is
    an integral over logSNR, so that it also has the factor -d logSNR / dt over the density of t.
    Here the density is each task's choice, and the expectation over it is the loss.
    """
    # On the x0-MSE that is SNR sigmoid(bias - logSNR), written so that nothing overflows.
    return jnp.exp(bias) * jax.nn.sigmoid(logsnr - bias)


def x0(logsnr: Float[Array, " b"]) -> Float[Array, " b"]:
    """Weighs the x0-MSE by 1, whatever the network predicts."""
    return jnp.ones_like(logsnr)


def v(logsnr: Float[Array, " b"], max_snr: float = 400.0) -> Float[Array, " b"]:
    """Weighs the v-MSE by 1, whatever the network predicts: the x0-MSE by 1 + SNR.

    That factor is infinite at t = 0, so it stops growing at SNR = max_snr. 400 is sigma = 0.05, the
    floor of Li and He (arXiv 2511.13720).
    """
    return 1.0 + jnp.minimum(jnp.exp(logsnr), max_snr)


LOSS_WEIGHTS = {"simple": simple, "min_snr": min_snr, "sigmoid": sigmoid, "x0": x0, "v": v}


def _v_mse_per_x0_mse(logsnr: Float[Array, " b"]) -> Float[Array, " b"]:
    return 1.0 + jnp.exp(logsnr)


_MSE_PER_X0_MSE = {"eps": jnp.exp, "v": _v_mse_per_x0_mse, "x0": jnp.ones_like}


def loss_weight(
    name: str, prediction_type: str, logsnr: Float[Array, " b"], **kwargs: Any
) -> Float[Array, " b"]:
    """Weighs the MSE of a prediction; finite for every logSNR, infinite ones included.

    Args:
        name: "simple" (1 for every prediction type), "min_snr" (gamma=5), "sigmoid" (bias=-1),
            "x0", or "v" (max_snr=400).
        prediction_type: what the network predicts and the MSE compares: "eps", "v" or "x0".
        logsnr: natural logarithm of alpha^2 / sigma^2; clipped to [-20, 20] here.
        **kwargs: the weighting's own number, as listed above.

    Raises:
        ValueError: unknown name or prediction type.
        TypeError: a keyword that the weighting does not have.
    """
    weighting = LOSS_WEIGHTS[one_of(name, LOSS_WEIGHTS, "loss weight")]
    prediction_type = one_of(prediction_type, PREDICTION_TYPES, "prediction type")

    logsnr = jnp.clip(jnp.asarray(logsnr, jnp.float32), -LOGSNR_LIMIT, LOGSNR_LIMIT)
    weight = weighting(logsnr, **kwargs)

    if weighting is simple:
        return weight
    return weight / _MSE_PER_X0_MSE[prediction_type](logsnr)
