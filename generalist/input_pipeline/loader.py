"""Sources and tasks -> batches whose content is a pure function of (seed, step)."""

import dataclasses
import functools
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from generalist.input_pipeline.source import Example, ReadWindow, Source
from generalist.input_pipeline.transforms import CropAndFlip, Jitter
from generalist.tasks import Task
from generalist.tasks.arrays import resize_image

logger = logging.getLogger("generalist")

Batch = dict[str, np.ndarray]
# (prompts, cut=False) -> int32 (k, n); ValueError for one that is too long, unless it may be cut.
Tokenizer = Callable[..., np.ndarray]

# Sides of a decoded window over those of the network's image, at least. With less, a JPEG decoded
# at a fraction of its size and then shrunk is further from the mean of the area than one that
# bicubic shrinks.
FINER = 1.5


class Prompts:
    """Turns the prompts of examples into ids. One that is too long loses its end.

    The first such prompt is named in the log, once in every process that reads.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._named = False

    def __call__(self, prompt: str) -> np.ndarray:
        """Returns the ids of a prompt, int32 (n,)."""
        try:
            return self._tokenizer([prompt])[0]
        except ValueError as error:
            if not self._named:
                logger.warning(f"{error}. Its end is cut off, as are those of all longer ones")
            self._named = True
            return self._tokenizer([prompt], cut=True)[0]


@dataclasses.dataclass(frozen=True)
class Encode:
    """Encodes an example as the training step takes it.

    The result has `image` uint8 (S, S, 3) for the encoder and `picture` uint8 (s, s, 3) at the
    target's size, each antialiased from the stored pixels, `target` float32 (s, s, 3), `mask`
    float32 (s, s, 1), and `task`, the index as int32. With `prompts` it has `prompt_ids` int32
    (n,) too: of the example's prompt where the task's examples have their own, else of the task's.
    """

    task: Task
    index: int  # of the task, in a batch
    image_size: int  # S
    target_size: int  # s
    prompts: Prompts | None = None

    def __call__(self, example: Example) -> Batch:
        """Returns the encoded example."""
        target = self.task.encode(example["label"], self.target_size)
        image = resize_image(example["image"], (self.image_size, self.image_size))
        picture = image
        if self.target_size != self.image_size:
            picture = resize_image(example["image"], (self.target_size, self.target_size))

        sample = {
            "image": image,
            "picture": picture,
            "target": target.rgb,
            "mask": target.mask,
            "task": np.int32(self.index),
        }
        if self.prompts is not None:
            sample["prompt_ids"] = self.prompts(self.task.prompt_of(example))
        return sample


class _Unread:
    """A source whose items are functions that read an example, or only a window of it."""

    def __init__(self, source: Source):
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Callable[[ReadWindow], Example]:
        return functools.partial(self._source.read, index)


class _Augment:
    """Crops and flips an example as it is read, encodes it, then changes its colors.

    Colors come last, since a small image takes less time. Those of a task whose target they are,
    such as restoration, stay.
    """

    def __init__(self, encode: Encode, settings: Mapping[str, Any]):
        self._encode = encode
        self._crop = CropAndFlip(
            settings,
            enough=math.ceil(FINER * encode.image_size),
            native_side=encode.target_size if encode.task.prefers_tiles else None,
        )
        self._jitter = Jitter(settings) if encode.task.jitters_color else None

    def __call__(self, read: Callable[[ReadWindow], Example], rng: np.random.Generator) -> Batch:
        sample = self._encode(self._crop(read, rng))
        return self._jitter(sample, rng) if self._jitter else sample


class _Rows:
    """Of every `batch_size` examples of a data set, those at `rows`; the others are never read."""

    def __init__(self, examples: grain.MapDataset, rows: Sequence[int], batch_size: int):
        self._examples = examples
        self._rows = rows
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._examples) // self._batch_size * len(self._rows)

    def __getitem__(self, index: int) -> Batch:
        batch, row = divmod(index, len(self._rows))
        return self._examples[batch * self._batch_size + int(self._rows[row])]


def training_batches(
    sources: Mapping[str, Source],
    tasks: Mapping[str, Task],
    weights: Mapping[str, float],
    *,
    seed: int,
    batch_size: int,
    image_size: int,
    target_size: int,
    first_step: int = 0,
    rows: Sequence[int] | None = None,
    augment: Mapping[str, Any] | None = None,
    threads: int = 2,
    prefetch: int = 8,
    workers: int = 0,
    tokenizer: Tokenizer | None = None,
) -> Iterator[Batch]:
    """Yields an endless shuffled mixture of the tasks, from the batch of step `first_step` on.

    The global position is all there is to save: batch `k` holds the examples from
    `k * batch_size` on of the global order.

    Args:
      sources: {task: its source}.
      tasks: {name: task}; the order gives the task index.
      weights: {task: relative number of its samples}; a task without weight has none.
      seed: seed of the shuffle; every epoch has its own order.
      batch_size: size of the global batch, of all processes together.
      image_size: side of the batch's images.
      target_size: side of the batch's targets.
      first_step: step of the first batch.
      rows: of every global batch, those that this process makes; None makes all.
      augment: the `data.augment` group of a config; None changes nothing.
      threads: reader threads; of each worker, where there are any.
      prefetch: batches made ahead; by each worker, where there are any.
      workers: processes that read; 0 reads in threads of this one, which is enough wherever NumPy
        and OpenCV do the work.
      tokenizer: gives every sample `prompt_ids`, see `Encode`; None leaves them out.
    """
    rows = range(batch_size) if rows is None else rows
    index_of_task = {name: index for index, name in enumerate(tasks)}
    names = [name for name in tasks if weights.get(name, 0) > 0]
    prompts = Prompts(tokenizer) if tokenizer else None

    # Each task is shuffled by itself, by a seed that depends on its place among the trained ones.
    samples = []
    for place, name in enumerate(names):
        encode = Encode(tasks[name], index_of_task[name], image_size, target_size, prompts)
        augmented = augment is not None and name in augment["tasks"]
        source = _Unread(sources[name]) if augmented else sources[name]
        examples = grain.MapDataset.source(source).seed(seed + place).shuffle().repeat()
        if augmented:
            samples.append(examples.random_map(_Augment(encode, augment)))
        else:
            samples.append(examples.map(encode))

    # Positions are global until here: a process reads only its rows of each batch.
    mixed = grain.MapDataset.mix(samples, weights=[weights[name] for name in names])
    own = grain.MapDataset.source(_Rows(mixed, rows, batch_size))[first_step * len(rows) :]

    if not workers:
        # Every thread reads examples, so that several make the parts of one batch. At least one
        # lies ahead for each of them: grain lets no more threads work.
        ahead = max(threads, prefetch * len(rows))
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        return iter(own.to_iter_dataset(options).batch(len(rows)))

    # A worker makes whole batches: grain deals out what a data set of positions holds.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, prefetch))
    iterated = own.batch(len(rows)).to_iter_dataset(options)
    # grain passes its own flags on to the workers, so they must count as parsed.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
    return _explain_dead_workers(iter(iterated.mp_prefetch(processes)))


def _explain_dead_workers(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Turns the death of a reading process, mostly by too little memory, into one message."""
    try:
        yield from batches
    except RuntimeError as error:
        died = re.search(
            r"Worker process was terminated unexpectedly with exit code (-?\d+)", str(error)
        )
        if not died:
            raise
        raise ChildProcessError(
            f"a process that reads data died (exit code {died[1]}; -9: killed, by the system where "
            "memory ran out). The same command goes on from the last checkpoint; "
            "--config.data.workers and --config.data.prefetch say how much is read ahead, "
            "workers=0 reads in threads"
        ) from error
