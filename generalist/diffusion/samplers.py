"""Samplers: from x_1 (zeros or noise) to the clean image, as one compiled scan over a static grid of times.

All of them are one linear update with different coefficients, so a sampler is a function that fills their table:

    x <- keep x + pull x0 + extrapolate (x0 - previous x0) + noise n,    n ~ N(0, 1),

where x0 is the network's clean image at x. The last update always ends on the clean image (alpha = 1, sigma = 0).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from generalist.diffusion.parameterisation import to_x0
from generalist.diffusion.schedules import Schedule, one_of

Denoise = Callable[[jax.Array, jax.Array], jax.Array]


class Coefficients(NamedTuple):
    """The update's factors, each float32 (steps,)."""

    keep: jax.Array
    pull: jax.Array
    extrapolate: jax.Array
    noise: jax.Array


def ddim(alpha: jax.Array, sigma: jax.Array, eta: float = 0.0) -> Coefficients:
    """DDIM (Song et al., arXiv 2010.02502): eta = 0 follows the probability-flow ODE, eta = 1 is ancestral sampling.

    alpha, sigma: float32 (steps + 1,), from the first noise level to the clean image (1, 0).
    """
    alpha, alpha_next = alpha[:-1], alpha[1:]
    sigma, sigma_next = sigma[:-1], sigma[1:]
    noise = eta * sigma_next / sigma * jnp.sqrt(jnp.maximum(1.0 - (alpha / alpha_next) ** 2, 0.0))
    keep = jnp.sqrt(jnp.maximum(sigma_next**2 - noise**2, 0.0)) / sigma
    return Coefficients(keep, alpha_next - alpha * keep, jnp.zeros_like(keep), noise)


def dpmpp_2m(alpha: jax.Array, sigma: jax.Array, eta: float = 0.0) -> Coefficients:
    """DPM-Solver++(2M) (Lu et al., arXiv 2211.01095): x0 extrapolated linearly in log(alpha / sigma) from the last two.

    The first step has no past and the last an infinite length: both are DDIM steps. So is the second when the first
    began at t = 1, where log(alpha / sigma) = -inf; hence up to three steps from pure noise equal DDIM.
    """
    first_order = ddim(alpha, sigma)
    length = jnp.diff(
        jnp.log(alpha[:-1] / sigma[:-1])
    )  # of all steps but the last; the first may be infinite
    ratio = jnp.zeros_like(first_order.keep).at[1:-1].set(length[1:] / length[:-1])
    return first_order._replace(extrapolate=0.5 * ratio * first_order.pull)


# "one_step" is the first update of any of them when the clean image comes next: x0 itself.
SAMPLERS = {"one_step": ddim, "ddim": ddim, "dpmpp_2m": dpmpp_2m}


def time_grid(steps: int) -> np.ndarray:
    """The times at which the network is asked, float32 (steps,): 1, 1 - 1/steps, ..., 1/steps.

    The "trailing" grid: the first is exactly t = 1, which the start (zeros or noise) is at (Lin et al., arXiv
    2305.08891); the clean image, t = 0, is where the last step ends.

    Raises:
        ValueError: steps is below 1.
    """
    if steps < 1:
        raise ValueError(f"steps={steps!r} must be at least 1.")
    return (np.arange(steps, 0, -1) / steps).astype(np.float32)


def start(key: jax.Array | None, shape: tuple[int, ...], kind: str = "zeros") -> jax.Array:
    """X at t = 1, float32 of that shape: "zeros" (the mean of the noise; key is not used) or "gaussian" (N(0, 1)).

    Raises:
        ValueError: unknown kind.
    """
    if one_of(("zeros", "gaussian"), kind, "start") == "zeros":
        return jnp.zeros(shape, jnp.float32)
    return jax.random.normal(key, shape, jnp.float32)


def sample(
    denoise: Denoise,
    x_init: jax.Array,
    schedule: Schedule,
    kind: str,
    sampler: str,
    steps: int,
    *,
    eta: float = 0.0,
    key: jax.Array | None = None,
    clip: float | None = 1.0,
) -> jax.Array:
    """The clean image x0, float32 (b,h,w,c), after `steps` calls of the network.

    Args:
        denoise: (x_t (b,h,w,c), t float32 (b,)) -> prediction (b,h,w,c) of that kind. Guidance belongs in here.
        x_init: float32 (b,h,w,c), x at t = 1; see `start`.
        schedule: as from `get_schedule`.
        kind: what denoise predicts: "eps", "v" or "x0". With "eps" the answer at t = 1 is void (see `to_x0`).
        sampler: "one_step" (steps=1 only), "ddim" or "dpmpp_2m".
        steps: static; the compiled program has one scan whatever its value.
        eta: static, in [0, 1]: the share of fresh noise in "ddim"; above 0 it needs a key.
        key: JAX random key, used only with eta > 0.
        clip: x0 is clipped to [-clip, clip] in every step; None for no clipping.

    Raises:
        ValueError: unknown sampler or kind, steps below 1, steps above 1 with "one_step", eta out of range, with
            another sampler than "ddim", or without a key.
    """
    coefficients = SAMPLERS[one_of(SAMPLERS, sampler, "sampler")]
    if sampler == "one_step" and steps != 1:
        raise ValueError(
            f"sampler 'one_step' takes steps=1, not {steps!r}; for more steps use 'ddim' or 'dpmpp_2m'."
        )
    if not 0.0 <= eta <= 1.0 or (eta > 0.0 and sampler != "ddim"):
        raise ValueError(
            f"eta={eta!r} with sampler {sampler!r}: eta must be 0, or in [0, 1] with 'ddim'."
        )
    return solve(
        denoise, x_init, schedule, kind, coefficients, time_grid(steps), eta=eta, key=key, clip=clip
    )


def solve(
    denoise: Denoise,
    x: jax.Array,
    schedule: Schedule,
    kind: str,
    sampler: Callable[..., Coefficients],
    times: np.ndarray,
    *,
    eta: float = 0.0,
    key: jax.Array | None = None,
    clip: float | None = 1.0,
) -> jax.Array:
    """`sample` from any time on: x float (b,h,w,c) is the picture at times[0], sampler one of SAMPLERS' functions.

    times: float32 (steps,), decreasing, in (0, 1]: when the network is asked. After the last comes the clean image.
    """
    if eta > 0.0 and key is None:
        raise ValueError(f"eta={eta!r} draws noise in every step: pass key=jax.random.key(seed).")
    x = jnp.asarray(x, jnp.float32)
    alpha, sigma = schedule.alpha_sigma(times)
    table = sampler(jnp.append(alpha, 1.0), jnp.append(sigma, 0.0), eta)
    keys = jax.random.split(key, len(times)) if eta > 0.0 else None

    def step(
        carry: tuple[jax.Array, jax.Array], now: tuple
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, previous = carry
        t, alpha, sigma, factor, step_key = now
        x0 = to_x0(kind, denoise(x, jnp.full(x.shape[:1], t)), x, alpha, sigma).astype(jnp.float32)
        x0 = x0 if clip is None else jnp.clip(x0, -clip, clip)
        x = factor.keep * x + factor.pull * x0 + factor.extrapolate * (x0 - previous)
        if step_key is not None:
            x += factor.noise * jax.random.normal(step_key, x.shape)
        return (x, x0), None

    grid = (jnp.asarray(times, jnp.float32), alpha, sigma, table, keys)
    (x, _), _ = jax.lax.scan(step, (x, jnp.zeros_like(x)), grid)
    return x
