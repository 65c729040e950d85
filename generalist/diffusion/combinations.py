"""Which choices fit together: a combination that would train or sample garbage is refused.

Every sampler begins at t = 1. What the network answers there must mean an image, it must be
trained, and training must show it the input that sampling will.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from generalist.diffusion.loss_weights import LOSS_WEIGHTS
from generalist.diffusion.parameterization import PREDICTION_TYPES
from generalist.diffusion.samplers import X_INITS, check_sampler
from generalist.diffusion.schedules import Schedule
from generalist.names import one_of

# They count errors of x0 in proportion to the SNR: not at all where there is no signal.
NEED_SIGNAL = ("min_snr", "sigmoid")


def check_combination(
    choices: Mapping[str, Any],
    schedule: Schedule,
    p_pure_noise: Iterable[float],
    sees_image: Iterable[bool] = (True,),
) -> None:
    """Checks the `diffusion` group of a config.

    Args:
      choices: the group.
      schedule: the one it names.
      p_pure_noise: of every task that is trained, the probability of t = 1.
      sees_image: of every task that is trained, whether it sees the image. Guidance hides what a
        task knows: the image, or from a task without one the prompt.

    Raises:
      ValueError: an unknown name, a number out of range, or choices that do not fit together; the
        message says what to choose.
    """
    one_of(choices["prediction_type"], PREDICTION_TYPES, "diffusion.prediction_type")
    one_of(choices["loss_weight"], LOSS_WEIGHTS, "diffusion.loss_weight")
    one_of(choices["x_init"], X_INITS, "diffusion.x_init")
    check_sampler(choices["sampler"], choices["steps"], choices["eta"])
    _check_numbers(choices)

    if schedule.zero_terminal_snr:
        _check_answer_without_signal(choices)
    elif choices["x_init"] == "zeros":
        raise ValueError(
            f"diffusion.x_init 'zeros' hides nothing with diffusion.schedule "
            f"'{choices['schedule']}', whose x_t at t = 1 still holds some of the image: choose "
            "x_init 'gaussian', or schedule 'cosine' or 'scaled_linear'"
        )
    if choices["x_init"] == "zeros" and min(p_pure_noise, default=1.0) == 0.0:
        raise ValueError(
            "diffusion.x_init 'zeros' is an input that training shows only at t = 1, and "
            "p_pure_noise is 0: choose tasks.timesteps.<task>.p_pure_noise above 0, or x_init "
            "'gaussian'"
        )
    if choices["samples"] > 1 and choices["x_init"] == "zeros" and not choices["eta"]:
        raise ValueError(
            f"diffusion.samples {choices['samples']} would all be equal: diffusion.x_init 'zeros' "
            "with diffusion.eta 0 draws no noise: choose samples 1, or x_init 'gaussian'"
        )
    hidden = {"drop_image" if sees else "drop_text" for sees in sees_image}
    for field in sorted(hidden):
        if choices["guidance"] != 1.0 and choices[field] == 0.0:
            what = "an image" if field == "drop_image" else "a prompt"
            raise ValueError(
                f"diffusion.guidance {choices['guidance']} mixes in predictions without {what}, "
                f"which diffusion.{field} 0 never trains: choose {field} 0.1, or guidance 1"
            )


def _check_answer_without_signal(choices: Mapping[str, Any]) -> None:
    """At t = 1 there is nothing but noise."""
    if choices["prediction_type"] == "eps":
        raise ValueError(
            "diffusion.prediction_type 'eps' says nothing about the image at t = 1 with "
            f"diffusion.schedule '{choices['schedule']}', where x_t is all noise: choose "
            "prediction_type 'x0' or 'v', or schedule 'stable_diffusion' with x_init 'gaussian'"
        )
    if choices["loss_weight"] in NEED_SIGNAL:
        raise ValueError(
            f"diffusion.loss_weight '{choices['loss_weight']}' is 0 at t = 1 with "
            f"diffusion.schedule '{choices['schedule']}', and that is where every sampler begins: "
            "choose loss_weight 'x0', 'v' or 'simple', or schedule 'stable_diffusion' with x_init "
            "'gaussian'"
        )


def _check_numbers(choices: Mapping[str, Any]) -> None:
    for field in ("drop_image", "drop_text"):
        if not 0.0 <= choices[field] < 1.0:
            raise ValueError(
                f"diffusion.{field} is {choices[field]!r}; allowed is a probability of at least 0 "
                "and less than 1"
            )
    for field in ("guidance", "prototype_weight"):
        if not 0.0 <= choices[field] < math.inf:
            raise ValueError(f"diffusion.{field} is {choices[field]!r}; allowed is 0 or more")
    if choices["prototype_weight"] and not 0.0 < choices["prototype_temperature"] < math.inf:
        raise ValueError(
            f"diffusion.prototype_temperature is {choices['prototype_temperature']!r}; allowed is "
            "more than 0"
        )
