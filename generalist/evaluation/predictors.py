"""Predictors: the model on the whole image, or in tiles at the image's own resolution."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import numpy as np

from generalist.devices import processes
from generalist.inference.generalist import Generalist, Seen
from generalist.inference.tiling import CHUNK, Tiling
from generalist.input_pipeline import Example
from generalist.tasks import Task

T = TypeVar("T")

# (images uint8 (b, h, w, 3) or a list of (h, w, 3), task name)
# -> float32 (b, s, s, 3) in about [-1, 1].
# For a task whose examples have their own prompts, the third argument is a list of b of them.
# Where several samples are drawn, `seed=k` asks for sample k > 0.
# Of several processes all call it at once, each for its own images, of which there may be none.
PredictRGB = Callable[..., np.ndarray]


class Predictor(Protocol):
    """Whatever predicts a task: the model, the trivial predictor, or the encoded truth."""

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""
        ...


def on_all_processes(generalist: Generalist, steps: int) -> PredictRGB:
    """Returns what samples the images of all processes as one batch, on all of their devices.

    The batch is that of one process, so its noise is too: first come the images of process 0. It
    depends on the seed and on the place in the batch.
    """

    def predict_rgb(
        images: np.ndarray | list[np.ndarray],
        task: str,
        prompts: list[str] | None = None,
        seed: int = 0,
    ) -> np.ndarray:
        # At the model's own sizes the images of all processes fit into one array.
        seen = generalist.see(images)
        parts = [processes.gather_rows(own) for own in seen]
        whole = Seen(*map(np.concatenate, parts))

        if prompts is not None:
            packed = np.frombuffer(json.dumps(prompts).encode(), np.uint8)
            gathered = processes.gather_rows(packed)
            prompts = [prompt for own in gathered for prompt in json.loads(own.tobytes())]

        rgb = generalist.predict_seen(whole, task, steps, seed, prompts)
        first = sum(len(part) for part in parts[0][: jax.process_index()])
        return rgb[first : first + len(images)]

    return predict_rgb


class Painted(NamedTuple):
    """What the model painted for a batch.

    Attributes:
      images: those of this process, uint8 (h, w, 3) each.
      prompts: of the images, where they have their own.
      rgb: float32 (b, s, s, 3) in about [-1, 1]; of several samples (b, n, s, s, 3).
      total: number of images of all processes.
      seconds: how long they took.
    """

    images: list[np.ndarray]
    prompts: list[str] | None
    rgb: np.ndarray
    total: int
    seconds: float


class Model:
    """The model as a predictor. It paints a batch once, also where several tasks need it.

    Args:
      predict_rgb: the model.
      target_size: side of the square that the model paints, in pixels.
      samples: how many become one prediction, of the tasks that combine them.

    Attributes:
      seconds: {task: seconds an image for painting and decoding, of each batch}.
    """

    def __init__(self, predict_rgb: PredictRGB, target_size: int, samples: int = 1):
        self.seconds: dict[Task, list[float]] = {}
        self._predict_rgb = predict_rgb
        self._target_size = target_size
        self._samples = samples
        self._last: dict[tuple[str, int], Painted] = {}  # by component task and number of samples

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""
        samples = self._samples if task.combines_samples else 1
        painted = {part.name: self._paint(examples, part, samples) for part in task.component_tasks}

        began = time.perf_counter()
        rgbs = {name: part.rgb for name, part in painted.items()}
        predictions = decode(task, rgbs, examples, samples)
        decoding = time.perf_counter() - began

        # A task is charged for its painting also where another task has paid before.
        painting = sum(part.seconds for part in painted.values())
        total = painted[task.component_tasks[0].name].total
        self.seconds.setdefault(task, []).append((decoding + painting) / total)
        return predictions

    def _paint(self, examples: Sequence[Example], part: Task, samples: int) -> Painted:
        """Returns what the model paints for these images; the same batch is not painted again."""
        name = part.name
        images = [example["image"] for example in examples]
        prompts = _prompts(part, examples)
        last = self._last.get((name, samples))
        same = last is not None and _same(last.images, images) and last.prompts == prompts
        # All processes paint, or none does.
        counts = processes.gather_values(np.asarray([len(images), same], np.int32))
        total, agreeing = counts.sum(axis=0).tolist()
        if last is not None and agreeing == len(counts):
            return last

        began = time.perf_counter()
        drawn = _draw(self._predict_rgb, images, name, prompts, samples)
        seconds = time.perf_counter() - began

        for rgb in drawn:
            self._check(rgb, len(images), name)
        rgb = drawn[0] if samples == 1 else np.stack(drawn, axis=1)
        self._last[name, samples] = Painted(images, prompts, rgb, total, seconds)
        return self._last[name, samples]

    def _check(self, rgb: np.ndarray, count: int, name: str) -> None:
        """Raises ValueError unless this is one sample of `count` images."""
        # Without these checks a wrong model would fail in a decoder, or have figures of nan.
        expected = (count, self._target_size, self._target_size, 3)
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


class Tiles:
    """The model on overlapping tiles of its target size, as `Generalist.predict` restores images.

    An image that fits into a tile is seen whole, as there.

    Args:
      predict_rgb: the model.
      target_size: side of a tile in pixels; neighbors overlap by at least a quarter of it.
      batch_size: tiles a call of the model, of all processes together.
      samples: how many become one prediction, of the tasks that combine them.

    Attributes:
      seconds: {task: seconds an image for painting and decoding, of each batch}.
    """

    def __init__(
        self,
        predict_rgb: PredictRGB,
        target_size: int,
        batch_size: int = CHUNK,
        samples: int = 1,
    ):
        self.seconds: dict[Task, list[float]] = {}
        self._predict_rgb = predict_rgb
        self._side = target_size
        self._batch_size = batch_size
        self._samples = samples

    def _tiles(self, example: Example, samples: int) -> list["_Tile"]:
        image = example["image"]
        if max(image.shape[:2]) <= self._side:
            return [_Tile(example, None, 0)]
        tilings = [Tiling(image, self._side, self._side // 4) for _ in range(samples)]
        return [_Tile(example, tilings, index) for index in range(len(tilings[0]))]

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""
        samples = self._samples if task.combines_samples else 1
        tiles = [tile for example in examples for tile in self._tiles(example, samples)]

        # Where the tiles of this process lie among those of all.
        counts = processes.gather_values(np.asarray(len(tiles), np.int32))
        first = int(counts[: jax.process_index()].sum())

        # A call takes tiles of several images, so that few of its places are empty, and the same
        # ones whatever the number of processes.
        began = time.perf_counter()
        predictions = []
        for start in range(0, int(counts.sum()), self._batch_size):
            own = tiles[max(start - first, 0) : max(start + self._batch_size - first, 0)]
            prompts = _prompts(task, [tile.example for tile in own])
            cut = [tile.cut() for tile in own]
            drawn = _draw(self._predict_rgb, cut, task.name, prompts, samples)
            for tile, *rgbs in zip(own, *drawn, strict=True):
                whole = tile.add(rgbs)
                if whole:
                    colors = {task.name: np.stack(whole)}
                    size = native_size(tile.example["label"])
                    predictions.append(task.decode_samples(colors, size, samples))

        seconds = time.perf_counter() - began
        total = int(processes.gather_values(np.asarray(len(examples), np.int32)).sum())
        self.seconds.setdefault(task, []).append(seconds / total)
        return predictions


class _Tile(NamedTuple):
    """One tile of an example.

    Attributes:
      example: what it is of.
      tilings: all tiles of the image, for each sample; None for an image that is seen whole.
      index: of the tile.
    """

    example: Example
    tilings: list[Tiling] | None
    index: int

    def cut(self) -> np.ndarray:
        """Returns what the model is shown, uint8 (h, w, 3)."""
        return self.example["image"] if self.tilings is None else self.tilings[0].cut(self.index)

    def add(self, rgbs: list[np.ndarray]) -> list[np.ndarray]:
        """Takes the samples painted for it; returns those of the image after its last tile."""
        if self.tilings is None:
            return rgbs
        for tiling, rgb in zip(self.tilings, rgbs, strict=True):
            tiling.add(self.index, rgb)
        if self.index < len(self.tilings[0]) - 1:
            return []
        return [tiling.take() for tiling in self.tilings]


def _draw(
    predict_rgb: PredictRGB,
    images: list[np.ndarray],
    task: str,
    prompts: list[str] | None,
    samples: int,
) -> list[np.ndarray]:
    """Returns the samples of a batch, float32 (b, s, s, 3) each.

    The first is what one sample is. Each is a batch as large as that of one: memory stays.
    """
    batch = _as_batch(images)
    own_prompts = () if prompts is None else (prompts,)
    drawn = [np.asarray(predict_rgb(batch, task, *own_prompts))]
    for seed in range(1, samples):
        drawn.append(np.asarray(predict_rgb(batch, task, *own_prompts, seed=seed)))
    return drawn


def decode(
    task: Task,
    rgbs: Mapping[str, np.ndarray],
    examples: Sequence[Example],
    samples: int = 1,
) -> list[Any]:
    """Decodes a batch.

    Args:
      task: what is measured.
      rgbs: {component task: what was painted for it, float32 (b, s, s, 3) in about [-1, 1]}; of
        several samples (b, n, s, s, 3).
      examples: the b examples, whose labels say at which sizes.
      samples: n, which become one prediction.

    Returns:
      b predictions of the task.
    """

    # The model paints one size; every prediction takes the size of its own label.
    def decode_one(index: int) -> Any:
        colors = {name: rgb[index] for name, rgb in rgbs.items()}
        size = native_size(examples[index]["label"])
        if samples == 1:
            return task.decode_components(colors, size)
        return task.decode_samples(colors, size, samples)

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


def _prompts(task: Task, examples: Sequence[Example]) -> list[str] | None:
    """The prompts of examples; None where all have the task's."""
    return [task.prompt_of(example) for example in examples] if task.own_prompts else None


def _as_batch(images: list[np.ndarray]) -> np.ndarray | list[np.ndarray]:
    """Images of one size as an array; the model itself resizes those of several sizes."""
    return np.stack(images) if len({image.shape for image in images}) == 1 else images


def _same(images: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> bool:
    return len(images) == len(others) and all(map(np.array_equal, images, others))
