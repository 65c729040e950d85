"""Reads what is measured: of every batch each process reads a part of its own."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from generalist.devices import processes
from generalist.evaluation.predictors import in_parallel
from generalist.input_pipeline import Example, Source

_FAILED = -1  # in place of a number of examples, by a process that could not read them


class Rows(NamedTuple):
    """What is to be read for one task.

    Attributes:
      source: held-out examples.
      rows: which of them.
      done: how many of those were measured by an earlier call.
    """

    source: Source
    rows: Sequence[int]
    done: int


class Batch(NamedTuple):
    """A batch of one task, as far as this process reads it.

    Attributes:
      count: how many rows all processes have read.
      total: how many examples that are.
      places: of the examples of this process, among all rows of the task.
      examples: of this process, those that are not damaged.
    """

    count: int
    total: int
    places: list[int]
    examples: list[Example]


class _Part(NamedTuple):
    """The rows of a batch that this process reads."""

    count: int
    places: list[int]
    examples: list[Example]


def batches(group: Sequence[Rows], batch_size: int) -> Iterator[list[Batch | None]]:
    """Yields the next batch of every task of a group; None where a task has no more.

    The next batches are read while these are measured. A batch has the same examples in the same
    order whatever the number of processes: those of process 0 first.

    Args:
      group: of tasks that are measured beside one another.
      batch_size: rows of a batch, of all processes together.

    Raises:
      DataError: an example is damaged and the source does not skip it.
      ValueError: an example has no image, or another process could not read its part.
    """

    def read(start: int) -> list[_Part | None]:
        return _read(group, range(start, start + batch_size))

    # One batch ahead: the device never waits for files. The last request reads nothing.
    longest = max(len(task.rows) - task.done for task in group)
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, 0)
        for start in range(0, longest, batch_size):
            try:
                parts = pending.result()
            except Exception:
                processes.gather_values(np.full(len(group), _FAILED, np.int32))
                raise
            pending = reader.submit(read, start + batch_size)
            yield _with_totals(parts)


def _read(group: Sequence[Rows], steps: range) -> list[_Part | None]:
    """Reads the part of this process of the rows at `steps` behind those that are done."""
    places = []
    for task in group:
        first = min(task.done + steps.start, len(task.rows))
        last = min(task.done + steps.stop, len(task.rows))
        places.append(range(first, last))
    own = [_own_part(of_task) for of_task in places]

    # Tasks that show the same image read it one after the other, and decode it once.
    def read_beside(index: int) -> list[Example | None]:
        decoded = {}
        examples = []
        for task, of_task in zip(group, own, strict=True):
            example = None
            if index < len(of_task):
                example = task.source.intact(task.rows[of_task[index]], decoded)
            if example is not None:
                _check_image(example, task.source.task)
            examples.append(example)
        return examples

    read = in_parallel(read_beside, range(max(map(len, own))))

    # Damaged examples are missing.
    parts: list[_Part | None] = []
    for number, (all_places, own_places) in enumerate(zip(places, own, strict=True)):
        part = _Part(len(all_places), [], [])
        for place, examples in zip(own_places, read, strict=False):
            example = examples[number]
            if example is not None:
                part.places.append(place)
                part.examples.append(example)
        parts.append(part if all_places else None)
    return parts


def _own_part(places: range) -> range:
    """Returns the part of this process: as many as of any other, or one more in the first ones."""
    each, more = divmod(len(places), jax.process_count())
    index = jax.process_index()
    first = index * each + min(index, more)
    return places[first : first + each + (index < more)]


def _with_totals(parts: Sequence[_Part | None]) -> list[Batch | None]:
    """Counts the examples of all processes.

    Raises:
      ValueError: another process could not read its part.
    """
    own = [len(part.examples) if part else 0 for part in parts]
    counts = processes.gather_values(np.asarray(own, np.int32))
    failed = np.flatnonzero((counts == _FAILED).any(axis=1))
    if failed.size:
        raise ValueError(
            f"process {failed[0]} could not read its examples; its own message says why"
        )

    batches = []
    for part, total in zip(parts, counts.sum(axis=0).tolist(), strict=True):
        batches.append(Batch(part.count, total, part.places, part.examples) if part else None)
    return batches


def _check_image(example: Example, task: str) -> None:
    """Raises ValueError unless an example has an image."""
    image = np.asarray(example["image"])
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Task '{task}', example {example['key']!r}: the image must be uint8 of shape "
            f"(height, width, 3), got {image.dtype} of shape {image.shape}."
        )
