"""What the network predicts: the noise eps, the velocity v = alpha eps - sigma x0, or the clean x0.

With x_t = alpha x0 + sigma eps and alpha^2 + sigma^2 = 1, each of the three determines the other
two (Salimans and Ho, arXiv 2202.00512). Images are float (b, h, w, c); alpha and sigma broadcast
against them: scalars, or (b, 1, 1, 1) as `expand` makes them.
"""

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from generalist.names import one_of

PREDICTION_TYPES = ("eps", "v", "x0")

# Where alpha = 0, x_t is all noise and eps says nothing about x0; where sigma = 0, x0 says nothing
# about eps. Dividing by no less than this keeps such conversions finite (logSNR beyond +-13.8),
# though meaningless.
FLOOR = 1e-3


def expand(a: Float[Array, "*b"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Appends axes of length 1 until `a` has as many as x: (b,) -> (b, 1, 1, 1).

    So that `expand(a, x) * x` multiplies example by example.
    """
    return jnp.reshape(a, a.shape + (1,) * (x.ndim - a.ndim))


def target(
    prediction_type: str,
    x0: Float[Array, "b h w c"],
    eps: Float[Array, "b h w c"],
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Float[Array, "b h w c"]:
    """Returns what the network has to output for x_t = alpha x0 + sigma eps.

    Raises:
        ValueError: prediction_type is not "eps", "v" or "x0".
    """
    _check(prediction_type)

    if prediction_type == "eps":
        return eps
    if prediction_type == "x0":
        return x0
    return alpha * eps - sigma * x0


def to_x0(
    prediction_type: str,
    prediction: Float[Array, "b h w c"],
    x_t: Float[Array, "b h w c"],
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Float[Array, "b h w c"]:
    """Returns the clean image that a prediction at x_t means.

    An eps prediction holds no information on x0 at t = 1 (alpha = 0): the value there is finite,
    not useful.

    Raises:
        ValueError: prediction_type is not "eps", "v" or "x0".
    """
    _check(prediction_type)

    if prediction_type == "x0":
        return prediction
    if prediction_type == "v":
        return alpha * x_t - sigma * prediction
    return (x_t - sigma * prediction) / jnp.maximum(alpha, FLOOR)


def to_eps(
    prediction_type: str,
    prediction: Float[Array, "b h w c"],
    x_t: Float[Array, "b h w c"],
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Float[Array, "b h w c"]:
    """Returns the noise that a prediction at x_t means.

    An x0 prediction holds no information on eps at t = 0 (sigma = 0): the value there is finite,
    not useful.

    Raises:
        ValueError: prediction_type is not "eps", "v" or "x0".
    """
    _check(prediction_type)

    if prediction_type == "eps":
        return prediction
    if prediction_type == "v":
        return sigma * x_t + alpha * prediction
    return (x_t - alpha * prediction) / jnp.maximum(sigma, FLOOR)


def _check(prediction_type: str) -> None:
    one_of(prediction_type, PREDICTION_TYPES, "prediction type")
