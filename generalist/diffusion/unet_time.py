"""The time that the UNet is told, which a pre-trained one knows in units of its own schedule."""

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from generalist.diffusion.schedules import Schedule, StableDiffusionSchedule

UNET_TIMES = ("linear", "equal_logsnr")


def unet_time(name: str, schedule: Schedule, t: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
    """Returns the time in [0, 1] that the UNet is told, 999 times which is its timestep.

    Args:
        name: "linear" for t itself. "equal_logsnr" for where Stable Diffusion's own schedule has
            the logSNR that x_t has: of the same noise it was pre-trained to remove. Beyond the ends
            of that schedule, logSNR 7.1 and -5.4, it is 0 and 1.
        schedule: of x_t.
        t: float32 in [0, 1].
    """
    t = jnp.asarray(t, jnp.float32)
    if name == "linear":
        return t

    theirs = StableDiffusionSchedule()
    times = jnp.linspace(0.0, 1.0, theirs.steps)
    # `interp` wants abscissae that rise: logSNR falls with time.
    return jnp.interp(-schedule.logsnr(t), -theirs.logsnr(times), times)
