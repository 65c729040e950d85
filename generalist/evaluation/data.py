"""Opens what a model is measured on: its own data, or official data it was not trained on."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from generalist.evaluation.predictors import in_parallel
from generalist.input_pipeline import Example, Source, open_sources
from generalist.names import first_line
from generalist.tasks import Task, get_tasks

logger = logging.getLogger("generalist")


class Data(NamedTuple):
    """What is measured, by task.

    Attributes:
      tasks: the codecs.
      sources: held-out examples.
      train_sources: of the training split, as far as there is one, for the tasks whose trivial
        predictor learns from labels.
    """

    tasks: dict[str, Task]
    sources: dict[str, Source]
    train_sources: dict[str, Source]


def open_data(
    config: ConfigDict,
    names: Sequence[str] = (),
    limit: int = 0,
    trivial: bool = True,
    split: str | None = None,
) -> Data:
    """Opens the data of the tasks that a model is measured on.

    The log names each task that is left out, or has no trivial figures.

    Args:
      config: the model's; its `data` and `data_dir` say where the data are now.
      names: tasks that must be there. Without any it takes those of `config.eval.tasks` that can be
        measured.
      limit: scenes to render; 0 takes all.
      trivial: open the training split too, from which the trivial predictor learns.
      split: what to measure on; None takes the official split, `config.eval.final_split`.

    Raises:
      ValueError: one of `names`, or every task, has no data or stands for other classes than the
        data have.
    """
    split = split or config.eval.final_split
    data = Data({}, {}, {})
    for name in names or config.eval.tasks:
        # A task that was asked for must be there; one of the config's is left out.
        try:
            task = _open_task(config, name)
            source = _open_source(config, name, split, limit or None)
        except ValueError as error:
            if names:
                raise
            logger.info(f"{name} is left out: {first_line(error)}")
            continue
        data.tasks[name] = task
        data.sources[name] = source

        # Without a training split only the trivial figures of the task are missing.
        if trivial and any(part.trivial_learns for part in task.component_tasks):
            try:
                data.train_sources[name] = _open_source(config, name, "train", None)
            except ValueError as error:
                logger.info(
                    f"{name} has no trivial predictor, which needs the training split: "
                    f"{first_line(error)}"
                )

    if not data.tasks:
        raise ValueError(
            f"nothing to measure in {config.data_dir or 'the data directory'}: "
            f"{', '.join(config.eval.tasks)} are all left out; "
            "give another --data-dir, or --task to see why one is."
        )
    return data


def read(source: Source, rows: Sequence[int]) -> list[Example]:
    """Reads the examples at `rows`; damaged ones are missing if the source skips them.

    Raises:
      DataError: an example is damaged and the source does not skip it.
    """
    examples = in_parallel(source.intact, rows)
    return [example for example in examples if example is not None]


def _open_task(config: ConfigDict, name: str) -> Task:
    """Returns the task that the model was trained on, by the official protocol on its data."""
    (task,) = get_tasks(config.tasks.set, [name]).values()
    if config.data.source != "paper":
        return task
    (official,) = get_tasks("paper", [name]).values()
    return task.official(official)


def _open_source(config: ConfigDict, name: str, split: str, length: int | None) -> Source:
    return open_sources(config, [name], split, length)[name]
