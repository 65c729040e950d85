"""Noise schedules: how much image and how much noise x_t holds at time t.

Every schedule is variance preserving: x_t = alpha(t) x0 + sigma(t) eps with alpha^2 + sigma^2 = 1,
for t in [0, 1] from the clean image (t = 0) to pure noise (t = 1), and
logSNR(t) = 2 log(alpha / sigma), a natural logarithm.
"""

import dataclasses
import functools
import math
from typing import Any, Protocol

import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from generalist.names import one_of

# exp(20) = 4.9e8: beyond it float32 images do not differ from clean ones or from pure noise.
LOGSNR_LIMIT = 20.0


class Schedule(Protocol):
    """What samplers and the training step ask of a schedule.

    Implementations are frozen, so that they hash. t is float32 in [0, 1] of any shape, mostly (b,);
    the results have its shape.
    """

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether x_t at t = 1 is noise alone."""
        ...

    def alpha_sigma(
        self, t: Float[ArrayLike, "*b"]
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """Returns (alpha, sigma), each float32 in [0, 1]."""
        ...

    def logsnr(self, t: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
        """Returns logSNR, float32, clipped to [-20, 20]."""
        ...


@dataclasses.dataclass(frozen=True)
class CosineSchedule:
    """Cosine schedule with a shift: logSNR(t) = -2 log tan(pi t / 2) + shift.

    Args:
        shift: added to logSNR (natural logarithm); negative values mean more noise at the same t.
            The shift by resolution is of Hoogeboom et al., "simple diffusion" (arXiv 2301.11093);
            see also Chen (arXiv 2301.10972).
    """

    shift: float = 0.0

    @property
    def zero_terminal_snr(self) -> bool:
        """True: x_t at t = 1 is noise alone."""
        return True

    @classmethod
    def for_resolution(cls, size: int, reference: int = 64) -> "CosineSchedule":
        """Returns the schedule that hides images of `size` as shift 0 hides those of `reference`.

        Both are the side of a square, in pixels. Averaging blocks of k x k pixels divides the
        noise variance by k^2, so shift = 2 log(reference / size).

        Raises:
            ValueError: size or reference is not positive.
        """
        if size <= 0 or reference <= 0:
            raise ValueError(
                f"size={size!r} and reference={reference!r} must be positive numbers of pixels."
            )
        return cls(shift=2.0 * math.log(reference / size))

    def alpha_sigma(
        self, t: Float[ArrayLike, "*b"]
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """Returns (alpha, sigma), float32: (1, 0) at t = 0, exactly (0, 1) at t = 1."""
        t = jnp.asarray(t, jnp.float32)

        # sin(pi (1 - t) / 2) is cos(pi t / 2) without its rounding error at t = 1, where alpha must
        # be zero.
        image = math.exp(self.shift / 2) * jnp.sin(jnp.pi / 2 * (1.0 - t))
        noise = jnp.sin(jnp.pi / 2 * t)

        norm = jnp.sqrt(image**2 + noise**2)
        return image / norm, noise / norm

    def logsnr(self, t: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
        """Returns logSNR, float32, clipped to [-20, 20]."""
        return _logsnr(*self.alpha_sigma(t))


@dataclasses.dataclass(frozen=True)
class ScaledLinearSchedule:
    """Stable Diffusion's schedule: sqrt(beta) linear in the step, made continuous in t.

    Step k of 0 .. steps - 1 (Stable Diffusion's timestep) lies at t = k / (steps - 1); in between,
    alpha is interpolated linearly. The first step is not quite clean:
    alpha(0) = sqrt(1 - beta_start).

    Args:
        steps: number of steps, at least 2.
        beta_start: beta of the first step, > 0.
        beta_end: beta of the last step, >= beta_start, < 1.
        zero_terminal_snr: shift and scale alpha so that the last step is pure noise and the first
            stays as it was (Lin et al., arXiv 2305.08891, algorithm 1).

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
                f"beta_start={self.beta_start!r}, beta_end={self.beta_end!r} "
                "must keep 0 < beta_start <= beta_end < 1."
            )

    def alpha_sigma(
        self, t: Float[ArrayLike, "*b"]
    ) -> tuple[Float[Array, "*b"], Float[Array, "*b"]]:
        """Returns (alpha, sigma), float32; with zero terminal SNR exactly (0, 1) at t = 1."""
        alphas = jnp.asarray(_scaled_linear_alphas(self), jnp.float32)

        # Interpolate between the steps to the left and to the right of t.
        position = jnp.asarray(t, jnp.float32) * (self.steps - 1)
        left = jnp.clip(position.astype(jnp.int32), 0, self.steps - 2)
        weight = position - left
        alpha = (1.0 - weight) * alphas[left] + weight * alphas[left + 1]

        # 1 - alpha^2 in factors, which keeps more digits where alpha is close to 1.
        return alpha, jnp.sqrt((1.0 - alpha) * (1.0 + alpha))

    def logsnr(self, t: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
        """Returns logSNR, float32, clipped to [-20, 20]."""
        return _logsnr(*self.alpha_sigma(t))


@dataclasses.dataclass(frozen=True)
class StableDiffusionSchedule(ScaledLinearSchedule):
    """The scaled linear schedule as Stable Diffusion was trained with it.

    Its last step keeps an SNR of 0.0047, so that a prediction of eps means an image there.
    """

    zero_terminal_snr: bool = False


SCHEDULES = {
    "cosine": CosineSchedule,
    "scaled_linear": ScaledLinearSchedule,
    "stable_diffusion": StableDiffusionSchedule,
}


def get_schedule(name: str, **kwargs: Any) -> Schedule:
    """Returns the schedule of that name, "cosine", "scaled_linear" or "stable_diffusion".

    Args:
        name: a key of SCHEDULES.
        **kwargs: fields of its dataclass.

    Raises:
        ValueError: unknown name or field; the message has the allowed ones and the closest match.
    """
    schedule = SCHEDULES[one_of(name, SCHEDULES, "schedule")]
    fields = [field.name for field in dataclasses.fields(schedule)]
    for key in kwargs:
        one_of(key, fields, f"field of schedule {name!r}")
    return schedule(**kwargs)


def _logsnr(alpha: Float[Array, "*b"], sigma: Float[Array, "*b"]) -> Float[Array, "*b"]:
    # The floor lies far beyond the clip: it only keeps log(0) and its infinite derivative out of
    # the graph.
    log_alpha = jnp.log(jnp.maximum(alpha, 1e-12))
    log_sigma = jnp.log(jnp.maximum(sigma, 1e-12))
    return jnp.clip(2.0 * (log_alpha - log_sigma), -LOGSNR_LIMIT, LOGSNR_LIMIT)


@functools.lru_cache
def _scaled_linear_alphas(schedule: ScaledLinearSchedule) -> Float[np.ndarray, " steps"]:
    """Returns alpha = sqrt(alpha_bar) at every step, float64, decreasing."""
    betas = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.steps) ** 2
    alphas = np.sqrt(np.cumprod(1.0 - betas))

    if schedule.zero_terminal_snr:
        alphas = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))
    return alphas
