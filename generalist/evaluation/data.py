"""What a model is measured on: tasks, codecs and sources of its own config, or of official data that it was not trained on."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from generalist.input_pipeline import open_sources
from generalist.names import first_line
from generalist.tasks import Instance, Panoptic, Restoration, Semantic, Task, get_tasks

logger = logging.getLogger("generalist")


class Data(NamedTuple):
    """What is measured, by task.

    Attributes:
      tasks: the codecs.
      sources: held-out examples.
      train_sources: of the training split, for the tasks whose trivial predictor learns from one, as far as there is one.
    """

    tasks: dict[str, Task]
    sources: dict[str, Any]
    train_sources: dict[str, Any]


def open_data(
    config,
    names: Sequence[str] = (),
    limit: int = 0,
    trivial: bool = True,
) -> Data:
    """Opens the evaluation split `config.eval.split` of the tasks.

    Args:
      config: of the model; its `data` and `data_dir` say where the data are now.
      names: tasks that must be there. None given: those of `config.eval.tasks` that can be measured there, the others are named in the log.
      limit: scenes to render; 0 takes all.
      trivial: open the training split too, from which the trivial predictor learns.

    Raises:
      ValueError: one of `names`, or every task, has no data or stands for other classes than the data have.
    """
    data = Data({}, {}, {})
    for name in names or config.eval.tasks:
        try:
            (task,) = get_tasks(config.tasks.set, [name]).values()
            task = with_official_protocol(task) if config.data.source == "paper" else task
            source = _open(config, name, config.eval.split, limit or None)
        except ValueError as error:
            if names:
                raise
            logger.info(f"{name} is left out: {first_line(error)}")
            continue
        data.tasks[name], data.sources[name] = task, source
        if not trivial or isinstance(
            task, Instance | Restoration
        ):  # whose trivial predictor learns nothing
            continue
        try:
            data.train_sources[name] = _open(config, name, "train", None)
        except ValueError as error:
            logger.info(
                f"{name} has no trivial predictor, which needs the training split: {first_line(error)}"
            )
    if not data.tasks:
        raise ValueError(
            f"nothing to measure in {config.data_dir or 'the data directory'}: {', '.join(config.eval.tasks)} are all left out; "
            "give another --data-dir, or --task to see why one is."
        )
    return data


def read(source, rows: Sequence[int]) -> list[Mapping[str, Any]]:
    """The examples at `rows`; those that are damaged are missing where the source skips them, an error elsewhere."""
    one = getattr(source, "intact", source.__getitem__)
    return [example for example in map(one, rows) if example is not None]


def with_official_protocol(task: Task) -> Task:
    """The codec that a model was trained with, measured by the protocol of the paper's data set.

    Raises ValueError for classes that are not those of the data set: their colours have another meaning.
    """
    (official,) = get_tasks("paper", [task.name]).values()
    if isinstance(task, Semantic | Panoptic) and _classes(task) != _classes(official):
        raise ValueError(
            f"Task '{task.name}': the model paints {len(_classes(task))} classes ({', '.join(_classes(task)[:3])}, ...), the data "
            f"have {len(_classes(official))} ({', '.join(_classes(official)[:3])}, ...): train it on them first."
        )
    return dataclasses.replace(task, protocol=official.protocol)


def _classes(task: Semantic | Panoptic) -> tuple[str, ...]:
    return (task.semantic if isinstance(task, Panoptic) else task).classes


def _open(config, name: str, split: str, length: int | None):
    return open_sources(config, [name], split, length)[name]
