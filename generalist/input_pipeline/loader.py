"""Sources and tasks -> batches whose content is a pure function of (seed, step)."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import grain
import numpy as np
from absl import flags

from generalist.input_pipeline.sources.base import Source
from generalist.input_pipeline.sources.files import Part
from generalist.input_pipeline.transforms import CropAndFlip, Jitter
from generalist.tasks import Restoration, Task
from generalist.tasks.base import resize_image, to_size

Batch = dict[str, np.ndarray]

# Sides of a decoded window over those of the network's image, at least. With less, a JPEG decoded at a fraction of its size and then shrunk
# is further from the mean of the area than one that bicubic shrinks.
FINER = 1.5


class Encode:
    """Example -> what the step takes: image uint8 (S, S, 3), target and mask at (s, s), task index."""

    def __init__(self, task: Task, index: int, image_size: int, target_size: int):
        self.task, self.index, self.image_size, self.target_size = (
            task,
            index,
            image_size,
            target_size,
        )

    def __call__(self, example: dict) -> Batch:
        target = self.task.encode(example["label"], self.target_size)
        return {
            "image": fit(example["image"], self.image_size),
            "target": target.rgb,
            "mask": target.mask,
            "task": np.int32(self.index),
        }


def fit(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 (h, w, 3) -> uint8 (size, size, 3), antialiased."""
    return resize_image(image, to_size(size))


class _Unread:
    """A source whose examples are functions: called with a `Part`, they read only that."""

    def __init__(self, source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Callable[[Part], dict]:
        return functools.partial(read_part_of, self._source, index)


def read_part_of(source, index: int, part: Part) -> dict:
    """Part of an example: files are decoded no further than it needs, what is made as a whole is cut."""
    if isinstance(source, Source):
        return source.get(index, part)
    example = source[index]
    window = part.window(example["image"].shape[:2])
    return example | {name: example[name][window] for name in ("image", "label")}


class _Augment:
    """What reads an example -> the encoded example: crop and flip, encode, then change colours: of the small image, and never of a
    restoration, whose colours are its target.
    """

    def __init__(self, encode: Encode, settings: Mapping):
        self._encode, self._crop = (
            encode,
            CropAndFlip(settings, math.ceil(FINER * encode.image_size)),
        )
        self._jitter = None if isinstance(encode.task, Restoration) else Jitter(settings)

    def __call__(self, read: Callable[[Part], dict], rng: np.random.Generator) -> Batch:
        sample = self._encode(self._crop(read, rng))
        return self._jitter(sample, rng) if self._jitter else sample


class _Rows:
    """Of every `batch_size` examples of a data set, those at `rows`; the others are never read."""

    def __init__(self, examples: grain.MapDataset, rows: Sequence[int], batch_size: int):
        self._examples, self._rows, self._batch_size = examples, rows, batch_size

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        batch, row = divmod(index, len(self._rows))
        return self._examples[batch * self._batch_size + int(self._rows[row])]


def training_batches(
    sources: Mapping[str, object],
    tasks: Mapping[str, Task],
    weights: Mapping[str, float],
    *,
    seed: int,
    batch_size: int,
    image_size: int,
    target_size: int,
    first_step: int = 0,
    rows: Sequence[int] | None = None,
    augment: Mapping | None = None,
    threads: int = 2,
    prefetch: int = 8,
    workers: int = 0,
) -> Iterator[Batch]:
    """Endless shuffled mixture of the tasks, beginning with the batch of step `first_step`.

    Args:
      sources: {task: random-access source}.
      tasks: {task: codec}; the order gives the task index.
      weights: {task: share of the samples}, relative.
      seed: of the shuffle; every epoch has its own order.
      batch_size: of all processes together.
      image_size, target_size: sides of the batch's images and targets.
      rows: of every global batch, those that this process makes; None makes all.
      augment: the `data.augment` group of a config; None changes nothing.
      threads, prefetch: reader threads, and batches made ahead; of each worker, where there are any.
      workers: processes that read; 0 reads in threads of this one, which is enough wherever NumPy and OpenCV do the work.

    The global position is all there is to save: batch `k` holds examples `k * batch_size ...` of the global order.
    """
    rows = range(batch_size) if rows is None else rows
    names = [name for name in tasks if weights.get(name, 0) > 0]
    parts = []
    for i, name in enumerate(names):
        encode = Encode(tasks[name], list(tasks).index(name), image_size, target_size)
        augmented = augment and name in augment["tasks"]
        examples = (
            grain.MapDataset.source(_Unread(sources[name]) if augmented else sources[name])
            .seed(seed + i)
            .shuffle()
            .repeat()
        )
        parts.append(
            examples.random_map(_Augment(encode, augment)) if augmented else examples.map(encode)
        )
    mixed = grain.MapDataset.mix(parts, weights=[weights[name] for name in names])
    batches = grain.MapDataset.source(_Rows(mixed, rows, batch_size)).batch(len(rows))
    examples = batches[first_step:].to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    )
    if workers:
        if not flags.FLAGS.is_parsed():  # grain hands its own flags to the workers
            flags.FLAGS.mark_as_parsed()
        examples = examples.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
        )
    return iter(examples)
