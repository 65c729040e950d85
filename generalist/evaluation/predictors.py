"""Predictors: the model on the whole image, or in tiles at the image's own resolution."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from generalist.inference.tiling import paint_tiles
from generalist.input_pipeline import Example
from generalist.tasks import Task

T = TypeVar("T")

# (images uint8 (b, h, w, 3) or a list of (h, w, 3), task name)
# -> float32 (b, s, s, 3) in about [-1, 1]
PredictRGB = Callable[[np.ndarray | list[np.ndarray], str], np.ndarray]


class Predictor(Protocol):
    """Whatever predicts a task: the model, the trivial predictor, or the encoded truth."""

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""
        ...


class Painted(NamedTuple):
    """What the model painted for a batch.

    Attributes:
      images: the batch, uint8 (h, w, 3) each.
      rgb: float32 (b, s, s, 3) in about [-1, 1].
      seconds: how long it took.
    """

    images: list[np.ndarray]
    rgb: np.ndarray
    seconds: float


class Model:
    """The model as a predictor. It paints a batch once, also where several tasks need it.

    Args:
      predict_rgb: the model.
      target_size: side of the square that the model paints, in pixels.

    Attributes:
      seconds: {task: seconds an image for painting and decoding, of each batch}.
    """

    def __init__(self, predict_rgb: PredictRGB, target_size: int):
        self.seconds: dict[Task, list[float]] = {}
        self._predict_rgb = predict_rgb
        self._target_size = target_size
        self._last: dict[str, Painted] = {}  # by component task

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""
        images = [example["image"] for example in examples]
        painted = {part.name: self._paint(images, part.name) for part in task.component_tasks}

        began = time.perf_counter()
        rgbs = {name: part.rgb for name, part in painted.items()}
        predictions = decode(task, rgbs, examples)
        decoding = time.perf_counter() - began

        # A task is charged for its painting also where another task has paid before.
        painting = sum(part.seconds for part in painted.values())
        self.seconds.setdefault(task, []).append((decoding + painting) / len(examples))
        return predictions

    def _paint(self, images: list[np.ndarray], name: str) -> Painted:
        """Returns what the model paints for these images; the same batch is not painted again."""
        last = self._last.get(name)
        if last is not None and _same(last.images, images):
            return last

        # The model resizes images of several sizes itself; equal ones are one array.
        one_size = len({image.shape for image in images}) == 1
        began = time.perf_counter()
        rgb = np.asarray(self._predict_rgb(np.stack(images) if one_size else images, name))
        seconds = time.perf_counter() - began

        # Without these checks a wrong model would fail in a decoder, or have figures of nan.
        expected = (len(images), self._target_size, self._target_size, 3)
        if rgb.shape != expected or rgb.dtype.kind != "f":
            raise ValueError(
                f"Task '{name}': predict_rgb returned {rgb.dtype} of shape {rgb.shape}, expected "
                f"float32 of shape {expected}: pass the model's own target_size."
            )
        if not np.isfinite(rgb).all():
            raise ValueError(
                f"Task '{name}': predict_rgb returned nan or inf: "
                "the weights are broken, take an older checkpoint."
            )
        self._last[name] = Painted(images, rgb, seconds)
        return self._last[name]


class Tiles:
    """The model on overlapping tiles of its target size, as `Generalist.predict` restores images.

    Args:
      predict_rgb: the model.
      target_size: side of a tile in pixels; neighbors overlap by at least a quarter of it.
    """

    def __init__(self, predict_rgb: PredictRGB, target_size: int):
        self._predict_rgb = predict_rgb
        self._side = target_size

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""

        def paint(tiles: np.ndarray) -> np.ndarray:
            return self._predict_rgb(tiles, task.name)

        predictions = []
        for example in examples:
            rgb = paint_tiles(paint, example["image"], self._side, self._side // 4)
            predictions.append(task.decode(rgb, native_size(example["label"])))
        return predictions


def decode(task: Task, rgbs: Mapping[str, np.ndarray], examples: Sequence[Example]) -> list[Any]:
    """Decodes a batch.

    Args:
      task: what is measured.
      rgbs: {component task: what was painted for it, float32 (b, s, s, 3) in about [-1, 1]}.
      examples: the b examples, whose labels say at which sizes.

    Returns:
      b predictions of the task.
    """

    # The model paints one size; every prediction takes the size of its own label.
    def decode_one(index: int) -> Any:
        colors = {name: rgb[index] for name, rgb in rgbs.items()}
        return task.decode_components(colors, native_size(examples[index]["label"]))

    return in_parallel(decode_one, range(len(examples)))


def in_parallel(function: Callable[[Any], T], arguments: Sequence[Any]) -> list[T]:
    """Calls a function with each argument, in threads: NumPy and OpenCV let each other run."""
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 16)) as pool:
        return list(pool.map(function, arguments))


def native_size(label: Any) -> tuple[int, int]:
    """Returns (h, w) of a label of any task: an array, or a tuple that begins with one."""
    array = label[0] if isinstance(label, tuple) else label
    height, width = array.shape[:2]
    return height, width


def _same(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return len(images) == len(others) and all(map(np.array_equal, images, others))
