"""The two predictors that every figure is read against, and a cache of their figures.

`Trivial` never looks at the image. `Ceiling` paints the truth itself, so only the codec and the
resolution cost anything. Training changes neither, so their figures are computed once.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from generalist import __version__
from generalist.evaluation.predictors import decode, in_parallel, native_size
from generalist.files import write_atomically
from generalist.input_pipeline import Example, Source
from generalist.tasks import Task
from generalist.tasks.arrays import to_size

# Training labels that the mean depth map and the map of the most frequent classes are made of.
TRAIN_EXAMPLES = 256

MOST_BYTES = 2**26  # of a file of figures; a larger one is not read


class Ceiling:
    """The truth, encoded at the model's resolution and decoded at its own.

    Args:
      target_size: side of the square that the model paints, in pixels; None takes the size of the
        label, as tiles do.
    """

    def __init__(self, target_size: int | None):
        self._size = target_size

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""
        if self._size is not None:
            return decode(task, self.encode(task, examples), examples)

        def predict(example: Example) -> Any:
            size = native_size(example["label"])
            targets = task.encode_components(example["label"], size)
            rgbs = {name: target.rgb for name, target in targets.items()}
            return task.decode_components(rgbs, size)

        return in_parallel(predict, examples)

    def encode(self, task: Task, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Returns the colors of the labels, {component task: float32 (b, s, s, 3)}."""
        targets = [task.encode_components(example["label"], self._size) for example in examples]
        return {name: np.stack([target[name].rgb for target in targets]) for name in targets[0]}


class Trivial:
    """A predictor that learns from training labels only, never from an image.

    See `Task.trivial_rgb` and `Task.trivial_prediction` for what it predicts.

    Args:
      train_sources: {task: source} of the training split; None if there are none, which leaves the
        tasks that learn nothing from labels.
      target_size: side of the square that the model paints, in pixels; the trivial colors are
        decoded at the size of the label, as the model's are.
    """

    def __init__(self, train_sources: Mapping[str, Source] | None, target_size: int):
        self._train_sources = train_sources or {}
        self._size = to_size(target_size)
        self._rgbs: dict[str, np.ndarray] = {}  # by component task

    def __call__(self, task: Task, examples: Sequence[Example]) -> list[Any]:
        """Returns the task's prediction for each example of a batch, at the size of its label."""
        rgbs = {part.name: self._rgb(part, task) for part in task.component_tasks}

        def predict(example: Example) -> Any:
            return task.trivial_prediction(example["image"], rgbs, native_size(example["label"]))

        return in_parallel(predict, examples)

    def sources(self, task: Task) -> list[Source] | None:
        """Returns the training sources that `task` learns from; None if one of them is missing."""
        learning = [part for part in task.component_tasks if part.trivial_learns]
        sources = [self._source(part, task) for part in learning]
        return None if None in sources else sources

    def _source(self, part: Task, task: Task) -> Source | None:
        """Returns the training source of a component, else that of the task that merges it."""
        return self._train_sources.get(part.name, self._train_sources.get(task.name))

    def _rgb(self, part: Task, task: Task) -> np.ndarray:
        """Returns the trivial colors of a component, float32 (*size, 3)."""
        if part.name not in self._rgbs:
            labels = self._labels(part, task) if part.trivial_learns else ()
            self._rgbs[part.name] = part.trivial_rgb(labels, self._size)
        return self._rgbs[part.name]

    def _labels(self, part: Task, task: Task) -> Iterator[Any]:
        """Yields training labels of a component."""
        source = self._source(part, task)
        # Evenly spaced over the whole source: neighbors in a list of files are often frames of one
        # video.
        indices = np.linspace(0, len(source) - 1, TRAIN_EXAMPLES).astype(int)
        for index in np.unique(indices).tolist():
            label = source[index]["label"]
            # A source of the merged task has the label of all components.
            if source.task == task.name:
                label = task.component_labels(label)[part.name]
            yield label


class Cache:
    """Figures in a file: {predictor: {metric: value or None}} by a key of all they depend on.

    Args:
      path: the JSON file. A damaged one only costs the time to compute its figures again.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._entries: dict[str, dict[str, dict[str, float | None]]] = {}
        # The file of a model folder may be anyone's.
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            with contextlib.suppress(ValueError, RecursionError):
                content = json.loads(path.read_bytes())
                _check_figures(content, 3)
                self._entries = content

    def get(self, key: str) -> dict[str, dict[str, float | None]]:
        """Returns the figures under `key`; {} if there are none."""
        return self._entries.get(key, {})

    def put(self, entries: Mapping[str, dict[str, dict[str, float | None]]]) -> None:
        """Adds figures and writes the file."""
        if entries:
            self._entries |= entries
            write_atomically(self._path, json.dumps(self._entries, indent=1).encode())


def _check_figures(content: Any, depth: int) -> None:
    """Raises ValueError unless this is dicts in dicts, `depth` of them, of numbers or None."""
    if depth == 0 and not isinstance(content, int | float | None):
        raise ValueError(f"{content!r} is no figure")
    if depth > 0 and not isinstance(content, dict):
        raise ValueError(f"{content!r} is no dict")
    for value in content.values() if depth else ():
        _check_figures(value, depth - 1)


def cache_key(
    task: Task,
    target_size: int,
    source: Source,
    rows: Sequence[int],
    train_sources: Sequence[Source] | None,
    in_tiles: bool = False,
) -> str:
    """Returns a hash of all that trivial and ceiling figures depend on.

    It covers the release, the codec with all its settings, its metrics, the resolution and the
    examples. Of each source it takes class, length, first and last example; of the one that is
    measured also the names and sizes of its files.

    Args:
      task: what is measured.
      target_size: side of the square that the model paints, in pixels.
      source: the held-out examples.
      rows: which of them are measured.
      train_sources: what the trivial predictor learns from; None if it cannot predict the task.
      in_tiles: whether the ceiling is that of tiles.

    Returns:
      32 hexadecimal digits.
    """
    sha = hashlib.sha256(
        f"{__version__} {task!r} {list(task.variants())} {task.further_metrics()} "
        f"{target_size} {rows} {TRAIN_EXAMPLES} {in_tiles}".encode()
    )
    _add_source(sha, source, source.stamp(), rows[0], rows[-1])
    for train_source in train_sources or ():
        _add_source(sha, train_source, "", 0, len(train_source) - 1)
    return sha.hexdigest()[:32]


def _add_source(sha: Any, source: Source, stamp: str, first: int, last: int) -> None:
    """Adds a source to a hash: what it is, and the two examples at its ends."""
    sha.update(f"{type(source).__name__} {len(source)} {stamp}".encode())
    for index in (first, last):
        example = source[index]
        label = example["label"]
        array, rest = label if isinstance(label, tuple) else (label, None)
        sha.update(f"{example['key']} {rest}".encode())
        sha.update(example["image"].tobytes())
        sha.update(array.tobytes())
