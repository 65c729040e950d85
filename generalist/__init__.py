"""One pixel-space diffusion model for dense tasks.

An image goes in; depth, a segmentation or a restored image comes out.

    import generalist
    depth = generalist.load("runs/multitask").predict("photo.jpg", task="depth").depth  # meters

Importing this imports neither JAX nor OpenCV; the names below are loaded when they are first used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from generalist import tasks
    from generalist.inference import Generalist, load
    from generalist.tasks import TASKS

__version__ = "0.1.0"
__all__ = ["TASKS", "Generalist", "load", "tasks"]

_HOME = {
    "Generalist": "generalist.inference",
    "load": "generalist.inference",
    "TASKS": "generalist.tasks",
}


def __getattr__(name: str):
    if name == "tasks":
        return importlib.import_module("generalist.tasks")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    names = ", ".join(__all__)
    raise AttributeError(
        f"module 'generalist' has no attribute {name!r}; it has {names} and __version__"
    )


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
