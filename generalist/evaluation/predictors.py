"""The model as a predictor: the whole image at once, or in tiles at its native resolution."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from generalist.evaluation.scores import Example, component_tasks, decode, native_size
from generalist.inference.tiling import paint_tiles
from generalist.tasks import Task

# (images uint8 (b, h, w, 3) or a list of (h, w, 3), task name) -> float32 (b, s, s, 3) in about [-1, 1]
PredictRGB = Callable[[np.ndarray | list[np.ndarray], str], np.ndarray]


class Model:
    """The model as a predictor. It paints a batch once, also where several tasks need it.

    Attributes:
      seconds: {codec: seconds an image for painting and decoding, of each batch}.
    """

    def __init__(self, predict_rgb: PredictRGB, target_size: int):
        self._predict_rgb, self._target_size = predict_rgb, target_size
        self._last: dict[
            str, tuple[list, np.ndarray, float]
        ] = {}  # component -> images, what was painted, seconds
        self.seconds: dict[Task, list[float]] = {}

    def __call__(self, task: Task, examples: Sequence[Example]) -> list:
        images = [example["image"] for example in examples]
        for part in component_tasks(task):
            self._paint(images, part.name)
        painted = {part.name: self._last[part.name] for part in component_tasks(task)}
        began = time.perf_counter()
        predictions = decode(
            task,
            {name: rgb for name, (_, rgb, _) in painted.items()},
            [native_size(example["label"]) for example in examples],
        )
        spent = time.perf_counter() - began + sum(seconds for _, _, seconds in painted.values())
        self.seconds.setdefault(task, []).append(spent / len(examples))
        return predictions

    def _paint(self, images: list[np.ndarray], name: str) -> None:
        if name in self._last and _same(self._last[name][0], images):
            return
        one_size = len({image.shape for image in images}) == 1
        began = time.perf_counter()
        rgb = np.asarray(self._predict_rgb(np.stack(images) if one_size else images, name))
        expected = (len(images), self._target_size, self._target_size, 3)
        if rgb.shape != expected or rgb.dtype.kind != "f":
            raise ValueError(
                f"Task '{name}': predict_rgb returned {rgb.dtype} of shape {rgb.shape}, expected float32 of "
                f"shape {expected}: pass the model's own target_size."
            )
        if not np.isfinite(rgb).all():
            raise ValueError(
                f"Task '{name}': predict_rgb returned nan or inf: the weights are broken, take an older checkpoint."
            )
        self._last[name] = images, rgb, time.perf_counter() - began


class Tiles:
    """The model on overlapping tiles of its target size, as `Generalist.predict` restores large images.

    Args:
      predict_rgb: as `Model` takes it.
      target_size: side of a tile; neighbours overlap by at least a quarter of it.
    """

    def __init__(self, predict_rgb: PredictRGB, target_size: int):
        self._predict_rgb, self._side = predict_rgb, target_size

    def __call__(self, task: Task, examples: Sequence[Example]) -> list:
        paint = lambda tiles: self._predict_rgb(tiles, task.name)
        whole = [
            paint_tiles(paint, example["image"], self._side, self._side // 4)
            for example in examples
        ]
        return [
            task.decode(rgb, native_size(example["label"])) for rgb, example in zip(whole, examples)
        ]


def _same(ones: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(ones) == len(others) and all(map(np.array_equal, ones, others))
