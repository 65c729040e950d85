"""Diffusion as pure functions of t in [0, 1], from the clean image (0) to pure noise (1).

Schedules, parameterization, loss weights, timesteps and samplers.
"""

from generalist.diffusion.loss_weights import LOSS_WEIGHTS, loss_weight
from generalist.diffusion.parameterization import PREDICTION_TYPES, expand, target, to_eps, to_x0
from generalist.diffusion.samplers import (
    SAMPLERS,
    X_INITS,
    check_sampler,
    initial_noise,
    sample,
    time_grid,
)
from generalist.diffusion.schedules import (
    SCHEDULES,
    CosineSchedule,
    ScaledLinearSchedule,
    Schedule,
    get_schedule,
)
from generalist.diffusion.timesteps import check_timestep_distribution, sample_timesteps

__all__ = [
    "LOSS_WEIGHTS",
    "PREDICTION_TYPES",
    "SAMPLERS",
    "SCHEDULES",
    "X_INITS",
    "CosineSchedule",
    "ScaledLinearSchedule",
    "Schedule",
    "check_sampler",
    "check_timestep_distribution",
    "expand",
    "get_schedule",
    "initial_noise",
    "loss_weight",
    "sample",
    "sample_timesteps",
    "target",
    "time_grid",
    "to_eps",
    "to_x0",
]
