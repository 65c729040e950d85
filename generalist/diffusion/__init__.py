"""Diffusion as pure functions of t in [0, 1]: schedules, parameterisation, loss weights, timesteps and samplers."""

from generalist.diffusion.loss_weights import loss_weight
from generalist.diffusion.parameterisation import KINDS, expand, target, to_eps, to_v, to_x0
from generalist.diffusion.samplers import SAMPLERS, sample, start, time_grid
from generalist.diffusion.schedules import (
    SCHEDULES,
    CosineSchedule,
    ScaledLinearSchedule,
    get_schedule,
)
from generalist.diffusion.timesteps import check_timestep_law, sample_timesteps

__all__ = [
    "KINDS",
    "SAMPLERS",
    "SCHEDULES",
    "CosineSchedule",
    "ScaledLinearSchedule",
    "check_timestep_law",
    "expand",
    "get_schedule",
    "loss_weight",
    "sample",
    "sample_timesteps",
    "start",
    "target",
    "time_grid",
    "to_eps",
    "to_v",
    "to_x0",
]
