"""What the network predicts: the noise (eps), the velocity v = alpha eps - sigma x0, or the clean image (x0).

Given x_t = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1, each of the three determines the other two (Salimans and
Ho, arXiv 2202.00512). Pictures are float (b,h,w,c); alpha and sigma broadcast against them, so (b,1,1,1): see `expand`.
"""

import jax
import jax.numpy as jnp

from generalist.diffusion.schedules import one_of

KINDS = ("eps", "v", "x0")

# Where alpha = 0, x_t is all noise and eps says nothing about x0; where sigma = 0, x0 says nothing about eps.
# Dividing by no less than this keeps such conversions finite (logSNR beyond +-13.8), though meaningless.
FLOOR = 1e-3


def expand(a: jax.Array, x: jax.Array) -> jax.Array:
    """(b,) -> (b,1,1,1), or as many axes as x has, so that a multiplies x example by example."""
    return jnp.reshape(a, a.shape + (1,) * (x.ndim - a.ndim))


def target(
    kind: str, x0: jax.Array, eps: jax.Array, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """What a network of that kind has to output for x_t = alpha x0 + sigma eps; (b,h,w,c).

    Raises:
        ValueError: kind is not "eps", "v" or "x0".
    """
    if _check(kind) == "eps":
        return eps
    return x0 if kind == "x0" else alpha * eps - sigma * x0


def to_x0(
    kind: str, prediction: jax.Array, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """The clean image that a prediction of that kind means; (b,h,w,c).

    An eps prediction holds no information on x0 at t = 1 (alpha = 0): the value there is finite, not useful.

    Raises:
        ValueError: kind is not "eps", "v" or "x0".
    """
    if _check(kind) == "x0":
        return prediction
    if kind == "v":
        return alpha * x_t - sigma * prediction
    return (x_t - sigma * prediction) / jnp.maximum(alpha, FLOOR)


def to_eps(
    kind: str, prediction: jax.Array, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """The noise that a prediction of that kind means; (b,h,w,c).

    An x0 prediction holds no information on eps at t = 0 (sigma = 0): the value there is finite, not useful.

    Raises:
        ValueError: kind is not "eps", "v" or "x0".
    """
    if _check(kind) == "eps":
        return prediction
    if kind == "v":
        return sigma * x_t + alpha * prediction
    return (x_t - alpha * prediction) / jnp.maximum(sigma, FLOOR)


def to_v(
    kind: str, prediction: jax.Array, x_t: jax.Array, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
    """The velocity v = alpha eps - sigma x0 that a prediction of that kind means; (b,h,w,c).

    Raises:
        ValueError: kind is not "eps", "v" or "x0".
    """
    if _check(kind) == "v":
        return prediction
    arguments = (kind, prediction, x_t, alpha, sigma)
    return alpha * to_eps(*arguments) - sigma * to_x0(*arguments)


def _check(kind: str) -> str:
    return one_of(KINDS, kind, "prediction kind")
