"""The built-in data set: procedural RGB-D scenes with exact labels, and their degradations."""

from generalist.input_pipeline.scenes.degradations import add_noise, add_rain, low_light
from generalist.input_pipeline.scenes.renderer import SPLITS, Scene, render
from generalist.input_pipeline.scenes.source import SCENES_SOURCE_TASKS, ScenesSource

__all__ = [
    "SCENES_SOURCE_TASKS",
    "SPLITS",
    "Scene",
    "ScenesSource",
    "add_noise",
    "add_rain",
    "low_light",
    "render",
]
