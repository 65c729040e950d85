"""The two predictors every figure is read against, and a cache for theirs, which no training changes.

`Trivial` never looks at the image; `Ceiling` paints the truth itself, so that only codec and resolution cost anything.
"""

import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from generalist import __version__
from generalist.evaluation.scores import FIGURES, Example, component_tasks, decode, native_size
from generalist.files import write_atomically
from generalist.tasks import Instance, Panoptic, Restoration, RestorationPrediction, Semantic, Task
from generalist.tasks.base import resize_nearest, to_size

TRAIN_EXAMPLES = (
    256  # training labels that the mean depth map and the majority class map are made of
)


class Ceiling:
    """The ground truth, encoded at the model's resolution and decoded at its own.

    Args:
      target_size: side of the square that the model paints, in pixels.
    """

    def __init__(self, target_size: int):
        self._size = target_size

    def __call__(self, task: Task, examples: Sequence[Example]) -> list:
        return decode(
            task,
            self.paint(task, examples),
            [native_size(example["label"]) for example in examples],
        )

    def paint(self, task: Task, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """{component: its colour maps, float32 (b, s, s, 3)}; a task that is no merge of others is its own component."""
        encoded = [task.encode(example["label"], self._size) for example in examples]
        parts = encoded if task.components else [{task.name: target} for target in encoded]
        return {name: np.stack([part[name].rgb for part in parts]) for name in parts[0]}


class Trivial:
    """A predictor that learns from training labels only, never from an image.

    Depth (and any task without a rule of its own) is the mean target of each pixel over the training examples that are
    valid there, semantic the most frequent class of each pixel; there are no instances; panoptic is the merge of the
    two, so stuff only. Restoration returns its input unchanged.

    Args:
      train_sources: {task: source} of the training split; None where only restoration and instances can be predicted.
      target_size: side of the maps in pixels; they are decoded at the size of the label like a model's output.
    """

    def __init__(self, train_sources: Mapping | None, target_size: int):
        self._sources, self._size = train_sources or {}, to_size(target_size)
        self._painted: dict[str, np.ndarray] = {}

    def __call__(self, task: Task, examples: Sequence[Example]) -> list:
        if isinstance(task, Restoration):
            return [
                RestorationPrediction(
                    e["image"].astype(np.float32), np.ones(e["image"].shape[:2], np.float32)
                )
                for e in examples
            ]
        painted = {
            part.name: np.repeat(self._paint(part, task)[None], len(examples), 0)
            for part in component_tasks(task)
        }
        return decode(task, painted, [native_size(example["label"]) for example in examples])

    def sources(self, task: Task) -> list | None:
        """The training sources that the prediction of `task` follows from; None if one is not there."""
        parts = [
            part for part in component_tasks(task) if not isinstance(part, Instance | Restoration)
        ]
        found = [self._source(part, task) for part in parts]
        return None if None in found else found

    def _source(self, part, task):
        return self._sources.get(part.name, self._sources.get(task.name))

    def _paint(self, part: Task, task: Task) -> np.ndarray:
        if part.name not in self._painted:
            if isinstance(part, Instance):
                painted = np.full((*self._size, 3), -1, np.float32)
            elif isinstance(part, Semantic):
                painted = part.encode(
                    majority_map(self._labels(part, task), part.num_classes, self._size), self._size
                ).rgb
            else:
                painted = mean_target(part, self._labels(part, task), self._size)
            self._painted[part.name] = painted
        return self._painted[part.name]

    def _labels(self, part, task):
        source = self._source(part, task)
        # Spread over the whole source: neighbours in a file list are often frames of one video.
        for index in np.unique(
            np.linspace(0, len(source) - 1, TRAIN_EXAMPLES).astype(int)
        ).tolist():
            label = source[index]["label"]
            yield (
                task.component_labels(label)[part.name]
                if isinstance(task, Panoptic) and source.task == task.name
                else label
            )


def mean_target(task: Task, labels, size: tuple[int, int]) -> np.ndarray:
    """Mean colour of each pixel over the labels that are valid there, float32 (*size, 3); elsewhere the mean of all."""
    total, count = np.zeros((*size, 3)), np.zeros((*size, 1))
    for label in labels:
        rgb, mask = task.encode(label, size)
        total += rgb * mask
        count += mask
    overall = total.sum((0, 1)) / max(count.sum(), 1.0)
    return np.where(count > 0, total / np.maximum(count, 1.0), overall).astype(np.float32)


def majority_map(labels, num_classes: int, size: tuple[int, int]) -> np.ndarray:
    """Most frequent class of each pixel, int32 `size`; void is not counted, the lower class wins a tie."""
    count = np.zeros((num_classes, *size), np.int64)
    for label in labels:
        label = resize_nearest(label, size)
        rows, columns = np.nonzero(label >= 0)
        count[label[rows, columns], rows, columns] += 1
    overall = count.sum((1, 2)).argmax()
    return np.where(count.any(0), count.argmax(0), overall).astype(np.int32)


class Cache:
    """Figures on disk, {kind: {metric: value or None}} by a key that names all they depend on."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        try:
            self._entries = json.loads(path.read_text())
        except (
            FileNotFoundError,
            json.JSONDecodeError,
        ):  # a damaged cache costs only its recomputation
            self._entries = {}

    def get(self, key: str) -> dict[str, dict]:
        """The figures under `key`; {} if there are none."""
        return self._entries.get(key, {})

    def put(self, entries: Mapping[str, dict[str, dict]]) -> None:
        """Adds figures and writes the file."""
        if entries:
            self._entries |= entries
            write_atomically(self._path, json.dumps(self._entries, indent=1).encode())


def cache_key(
    task: Task, target_size: int, source, rows: Sequence[int], train_sources: Sequence | None
) -> str:
    """SHA-256 over the release, what is counted, the codec with all its settings, the resolution, and the examples of every source.

    Of a source it takes class, length, first and last example, of the one that is measured also names and sizes of its files.
    """
    sha = hashlib.sha256(
        f"{__version__} {task!r} {target_size} {rows} {TRAIN_EXAMPLES} {FIGURES}".encode()
    )
    for part, ends in [
        (source, (rows[0], rows[-1])),
        *((train, (0, len(train) - 1)) for train in train_sources or ()),
    ]:
        sha.update(
            f"{type(part).__name__} {len(part)} {source.stamp() if part is source and hasattr(source, 'stamp') else ''}".encode()
        )
        for example in map(part.__getitem__, ends):
            label = example["label"]
            array, rest = label if isinstance(label, tuple) else (label, None)
            sha.update(
                f"{example['key']} {rest}".encode() + example["image"].tobytes() + array.tobytes()
            )
    return sha.hexdigest()[:32]
