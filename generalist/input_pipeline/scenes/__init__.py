"""The built-in data set: procedural RGB-D scenes with exact labels, and their degradations."""

from generalist.input_pipeline.scenes.captions import caption, classes_named
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
    "caption",
    "classes_named",
    "low_light",
    "render",
]
