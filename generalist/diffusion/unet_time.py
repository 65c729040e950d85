"""The time that the UNet is told, which a pre-trained one knows in units of its own schedule."""

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Float

from generalist.diffusion.schedules import Schedule, StableDiffusionSchedule

UNET_TIMES = ("linear", "equal_logsnr", "clean")


def unet_time(name: str, schedule: Schedule, t: Float[ArrayLike, "*b"]) -> Float[Array, "*b"]:
    """Returns the time in [0, 1] that the UNet is told, 999 times which is its timestep.

    Args:
        name: "linear" for t itself. "equal_logsnr" for where Stable Diffusion's own schedule has
            the logSNR that x_t has: of the same noise it was pre-trained to remove. Beyond the ends
            of that schedule, logSNR 7.1 and -5.4, it is 0 and 1. "clean" for 0, always: the noise
            of the image that is concatenated, which has none. What a pre-trained UNet knows of
            images it knows where it sees one, not at pure noise; how noisy x_t is, x_t shows.
        schedule: of x_t.
        t: float32 in [0, 1].
    """
    t = jnp.asarray(t, jnp.float32)
    if name == "linear":
        return t
    if name == "clean":
        return jnp.zeros_like(t)

    theirs = StableDiffusionSchedule()
    times = jnp.linspace(0.0, 1.0, theirs.steps)
    # `interp` wants abscissae that rise: logSNR falls with time.
    return jnp.interp(-schedule.logsnr(t), -theirs.logsnr(times), times)
