"""Samplers: from x at t = 1 (zeros or noise) to the clean image, in one scan over a grid of times.

All of them are one linear update with different coefficients, so a sampler is a function that fills
their table:

    x <- keep x + pull x0 + extrapolate (x0 - previous x0) + noise n,    n ~ N(0, 1),

where x0 is the network's clean image at x. The last update always ends on the clean image
(alpha = 1, sigma = 0).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Key

from generalist.diffusion.parameterization import to_x0
from generalist.diffusion.schedules import Schedule
from generalist.names import one_of

# (x_t, t) -> prediction. Guidance belongs in here.
Denoise = Callable[[Float[Array, "b h w c"], Float[Array, " b"]], Float[Array, "b h w c"]]


class Coefficients(NamedTuple):
    """The factors of the update, one of each a step."""

    keep: Float[Array, " steps"]
    pull: Float[Array, " steps"]
    extrapolate: Float[Array, " steps"]
    noise: Float[Array, " steps"]


def ddim(
    alpha: Float[Array, " levels"], sigma: Float[Array, " levels"], eta: float = 0.0
) -> Coefficients:
    """DDIM (Song et al., arXiv 2010.02502, equations 12 and 16).

    Args:
        alpha: (steps + 1,), from the first noise level to the clean image, 1.
        sigma: (steps + 1,), from the first noise level to the clean image, 0.
        eta: 0 follows the probability-flow ODE, 1 is ancestral sampling.
    """
    alpha_next = alpha[1:]
    alpha = alpha[:-1]
    sigma_next = sigma[1:]
    sigma = sigma[:-1]

    # Of the next level's noise, this much is drawn anew (equation 16).
    noise = eta * sigma_next / sigma * jnp.sqrt(jnp.maximum(1.0 - (alpha / alpha_next) ** 2, 0.0))

    # The rest is the noise in x, eps = (x - alpha x0) / sigma, scaled down (equation 12):
    # x' = alpha' x0 + sqrt(sigma'^2 - noise^2) eps + noise n.
    keep = jnp.sqrt(jnp.maximum(sigma_next**2 - noise**2, 0.0)) / sigma
    pull = alpha_next - alpha * keep

    return Coefficients(keep, pull, jnp.zeros_like(keep), noise)


def dpmpp_2m(
    alpha: Float[Array, " levels"], sigma: Float[Array, " levels"], eta: float = 0.0
) -> Coefficients:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095, algorithm 2); arguments as of `ddim`.

    It extrapolates x0 linearly in log(alpha / sigma) from the last two. The first step has no past
    and the last an infinite length: both are DDIM steps. So is the second when the first began at
    t = 1, where log(alpha / sigma) = -inf; hence up to three steps from pure noise equal DDIM.
    """
    first_order = ddim(alpha, sigma)

    # Lengths of all steps but the last; the first may be infinite.
    length = jnp.diff(jnp.log(alpha[:-1] / sigma[:-1]))
    ratio = jnp.zeros_like(first_order.keep).at[1:-1].set(length[1:] / length[:-1])

    return first_order._replace(extrapolate=0.5 * ratio * first_order.pull)


# "one_step" is the first update of any of them when the clean image comes next: x0 itself.
SAMPLERS = {"one_step": ddim, "ddim": ddim, "dpmpp_2m": dpmpp_2m}

X_INITS = ("zeros", "gaussian")
MOST_STEPS = 10_000  # far beyond where more of them change anything


def check_sampler(sampler: str, steps: int, eta: float) -> None:
    """Checks what `sample` is told, before anything is compiled.

    Raises:
        ValueError: unknown sampler, steps that are no whole number of at least 1, more of them than
            1 with "one_step", or eta out of range or with another sampler than "ddim".
    """
    one_of(sampler, SAMPLERS, "sampler")
    if not isinstance(steps, int | np.integer) or not 1 <= steps <= MOST_STEPS:
        raise ValueError(
            f"steps={steps!r} must be a whole number of at least 1 and at most {MOST_STEPS}."
        )
    if sampler == "one_step" and steps != 1:
        raise ValueError(
            f"sampler 'one_step' takes steps=1, not {steps!r}; "
            "for more steps use 'ddim' or 'dpmpp_2m'."
        )
    if not 0.0 <= eta <= 1.0 or (eta > 0.0 and sampler != "ddim"):
        raise ValueError(
            f"eta={eta!r} with sampler {sampler!r}: eta must be 0, or in [0, 1] with 'ddim'."
        )


def time_grid(steps: int) -> Float[np.ndarray, " steps"]:
    """Returns the times at which the network is asked, float32: 1, 1 - 1/steps, ..., 1/steps.

    The "trailing" grid: the first time is exactly t = 1, the noise level that `initial_noise` has
    (Lin et al., arXiv 2305.08891). The clean image, t = 0, is where the last step ends.

    Raises:
        ValueError: steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps!r} must be at least 1.")
    return (np.arange(steps, 0, -1) / steps).astype(np.float32)


def initial_noise(
    key: Key[Array, ""] | None, shape: tuple[int, ...], x_init: str = "zeros"
) -> Float[Array, "..."]:
    """Returns x at t = 1, float32 of that shape.

    Args:
        key: JAX random key; "zeros" needs none.
        shape: (b, h, w, c).
        x_init: "zeros" (the mean of the noise) or "gaussian" (N(0, 1)).

    Raises:
        ValueError: unknown x_init, or "gaussian" without a key.
    """
    if one_of(x_init, X_INITS, "x_init") == "zeros":
        return jnp.zeros(shape, jnp.float32)
    if key is None:
        raise ValueError(f"x_init {x_init!r} is drawn: pass key=jax.random.key(seed).")
    return jax.random.normal(key, shape, jnp.float32)


def sample(
    denoise: Denoise,
    x_init: Float[Array, "b h w c"],
    schedule: Schedule,
    prediction_type: str,
    sampler: str,
    steps: int,
    *,
    eta: float = 0.0,
    key: Key[Array, ""] | None = None,
    clip: float | None = 1.0,
) -> Float[Array, "b h w c"]:
    """Returns the clean image x0, float32, after `steps` calls of the network.

    Args:
        denoise: (x_t, t) -> prediction of that type. Guidance belongs in here.
        x_init: x at t = 1; see `initial_noise`.
        schedule: as from `get_schedule`.
        prediction_type: what denoise predicts: "eps", "v" or "x0". With "eps" the answer at t = 1
            is void (see `to_x0`).
        sampler: "one_step" (steps=1 only), "ddim" or "dpmpp_2m".
        steps: static; the compiled program has one scan whatever its value.
        eta: static, in [0, 1]: how much of the noise "ddim" draws anew; above 0 it needs a key.
        key: JAX random key, used only with eta > 0.
        clip: x0 is clipped to [-clip, clip] in every step; None for no clipping.

    Raises:
        ValueError: unknown prediction type, what `check_sampler` refuses, or eta without a key.
    """
    check_sampler(sampler, steps, eta)
    return solve(
        denoise,
        x_init,
        schedule,
        prediction_type,
        SAMPLERS[sampler],
        time_grid(steps),
        eta=eta,
        key=key,
        clip=clip,
    )


def solve(
    denoise: Denoise,
    x: Float[Array, "b h w c"],
    schedule: Schedule,
    prediction_type: str,
    coefficients: Callable[..., Coefficients],
    times: Float[np.ndarray, " steps"],
    *,
    eta: float = 0.0,
    key: Key[Array, ""] | None = None,
    clip: float | None = 1.0,
) -> Float[Array, "b h w c"]:
    """Samples as `sample` does, but from any time on and over any grid.

    Here x is the image at times[0], coefficients one of the functions of SAMPLERS, and times,
    decreasing in (0, 1], when the network is asked. After the last of them comes the clean image.
    """
    keys = None
    if eta > 0.0:
        if key is None:
            raise ValueError(
                f"eta={eta!r} draws noise in every step: pass key=jax.random.key(seed)."
            )
        keys = jax.random.split(key, len(times))

    # Whatever the network computes in, the path is followed in float32.
    x = jnp.asarray(x, jnp.float32)

    # A row a step, each from one noise level to the next; the last level is the clean image.
    alpha, sigma = schedule.alpha_sigma(times)
    table = coefficients(jnp.append(alpha, 1.0), jnp.append(sigma, 0.0), eta)

    def update(carry, now):
        x, previous_x0 = carry
        t, alpha, sigma, factor, step_key = now

        prediction = denoise(x, jnp.full(x.shape[:1], t))
        x0 = to_x0(prediction_type, prediction, x, alpha, sigma).astype(jnp.float32)
        if clip is not None:
            x0 = jnp.clip(x0, -clip, clip)

        x = factor.keep * x + factor.pull * x0 + factor.extrapolate * (x0 - previous_x0)
        if step_key is not None:
            x += factor.noise * jax.random.normal(step_key, x.shape)
        return (x, x0), None

    # The first step has no previous x0; its factor of extrapolation is 0.
    grid = (jnp.asarray(times, jnp.float32), alpha, sigma, table, keys)
    (x, _), _ = jax.lax.scan(update, (x, jnp.zeros_like(x)), grid)
    return x
