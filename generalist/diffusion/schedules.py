"""Noise schedules: how much image and how much noise a picture holds at time t.

Every schedule is variance preserving: x_t = alpha(t) x0 + sigma(t) eps with alpha^2 + sigma^2 = 1, for t in [0, 1]
from the clean image (t = 0) to pure noise (t = 1), and logSNR(t) = 2 log(alpha / sigma).
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Iterable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

LOGSNR_LIMIT = 20.0  # exp(20) = 4.9e8: beyond it float32 images do not differ from clean ones or from pure noise


class Schedule(Protocol):
    """What the samplers and the training step ask of a schedule. Implementations are frozen, so they hash."""

    def alpha_sigma(self, t: jax.Array) -> tuple[jax.Array, jax.Array]: ...

    def logsnr(self, t: jax.Array) -> jax.Array: ...


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
    """Cosine schedule with a shift: logSNR(t) = -2 log tan(pi t / 2) + shift.

    shift: added to logSNR (natural logarithm); negative values mean more noise at the same t. The source of the shift
    by resolution is Hoogeboom et al., "simple diffusion" (arXiv 2301.11093); see also Chen (arXiv 2301.10972).
    """

    shift: float = 0.0

    @classmethod
    def for_resolution(cls, size: int, reference: int = 64) -> "CosineSchedule":
        """The schedule that hides a size x size picture as well as shift 0 hides one of reference x reference pixels.

        Averaging blocks of k x k pixels divides the noise variance by k^2, so shift = 2 log(reference / size).

        Raises:
            ValueError: size or reference is not positive.
        """
        if size <= 0 or reference <= 0:
            raise ValueError(
                f"size={size!r} and reference={reference!r} must be positive numbers of pixels."
            )
        return cls(shift=2.0 * math.log(reference / size))

    def alpha_sigma(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """T float32 (b,) in [0, 1] -> (alpha, sigma), each float32 (b,): (1, 0) at t = 0, exactly (0, 1) at t = 1."""
        t = jnp.asarray(t, jnp.float32)
        # sin(pi (1 - t) / 2) is cos(pi t / 2) without its rounding error at t = 1, where alpha must be zero.
        image = math.exp(self.shift / 2) * jnp.sin(jnp.pi / 2 * (1.0 - t))
        noise = jnp.sin(jnp.pi / 2 * t)
        norm = jnp.sqrt(image**2 + noise**2)
        return image / norm, noise / norm

    def logsnr(self, t: jax.Array) -> jax.Array:
        """T float32 (b,) in [0, 1] -> logSNR float32 (b,), clipped to [-20, 20]."""
        return _logsnr(*self.alpha_sigma(t))


@dataclasses.dataclass(frozen=True)
class ScaledLinearSchedule:
    """Stable Diffusion's schedule: sqrt(beta) linear in the step, made continuous in t.

    Step k of 0 .. steps - 1 (Stable Diffusion's timestep) lies at t = k / (steps - 1); in between, alpha is
    interpolated linearly. zero_terminal_snr shifts and scales alpha so that the last step is pure noise and the first
    stays as it was (Lin et al., arXiv 2305.08891). The first step is not quite clean: alpha(0) = sqrt(1 - beta_start).

    Raises:
        ValueError: fewer than two steps, or not 0 < beta_start <= beta_end < 1.
    """

    steps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    zero_terminal_snr: bool = True

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps={self.steps!r} must be at least 2.")
        if not 0.0 < self.beta_start <= self.beta_end < 1.0:
            raise ValueError(
                f"beta_start={self.beta_start!r}, beta_end={self.beta_end!r} must keep 0 < beta_start <= beta_end < 1."
            )

    def alpha_sigma(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """T float32 (b,) in [0, 1] -> (alpha, sigma), each float32 (b,); with zero terminal SNR (0, 1) at t = 1."""
        table = jnp.asarray(_scaled_linear_alphas(self), jnp.float32)
        position = jnp.asarray(t, jnp.float32) * (self.steps - 1)
        left = jnp.clip(position.astype(jnp.int32), 0, self.steps - 2)
        weight = position - left
        alpha = (1.0 - weight) * table[left] + weight * table[left + 1]
        return alpha, jnp.sqrt((1.0 - alpha) * (1.0 + alpha))

    def logsnr(self, t: jax.Array) -> jax.Array:
        """T float32 (b,) in [0, 1] -> logSNR float32 (b,), clipped to [-20, 20]."""
        return _logsnr(*self.alpha_sigma(t))


SCHEDULES = {"cosine": CosineSchedule, "scaled_linear": ScaledLinearSchedule}


def get_schedule(name: str, **kwargs: Any) -> Schedule:
    """The schedule of that name ("cosine", "scaled_linear"); kwargs are the fields of its dataclass.

    Raises:
        ValueError: unknown name or field (the message gives the allowed ones and the closest match).
    """
    schedule = SCHEDULES[one_of(SCHEDULES, name, "schedule")]
    fields = [field.name for field in dataclasses.fields(schedule)]
    for key in kwargs:
        one_of(fields, key, f"field of schedule {name!r}")
    return schedule(**kwargs)


def one_of(names: Iterable[str], name: str, what: str) -> str:
    """Name itself if it is one of names, or else a ValueError with the closest match and all valid names."""
    names = list(names)
    if name in names:
        return name
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"Unknown {what} {name!r}.{hint} Valid: {', '.join(names)}.")


def _logsnr(alpha: jax.Array, sigma: jax.Array) -> jax.Array:
    # The floor lies far beyond the clip: it only keeps log(0) and its infinite derivative out of the graph.
    log_alpha, log_sigma = (jnp.log(jnp.maximum(x, 1e-12)) for x in (alpha, sigma))
    return jnp.clip(2.0 * (log_alpha - log_sigma), -LOGSNR_LIMIT, LOGSNR_LIMIT)


@functools.lru_cache
def _scaled_linear_alphas(schedule: ScaledLinearSchedule) -> np.ndarray:
    """Alpha = sqrt(alpha_bar) at every step, float64 (steps,), decreasing."""
    betas = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.steps) ** 2
    alphas = np.sqrt(np.cumprod(1.0 - betas))
    if schedule.zero_terminal_snr:
        alphas = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))
    return alphas
