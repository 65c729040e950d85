"""Where pixels come from, up to the batches of a training step."""

from collections.abc import Iterable, Mapping
from typing import Any

from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources import DATASET_OF, open_source


def open_sources(settings: Mapping[str, Any], data_dir: str, tasks: Iterable[str], split: str, seed: int,
                 length: int | None = None) -> dict[str, Any]:
    """The source of every task.

    Args:
      settings: the `data` group of a config.
      data_dir: where the paper's data sets lie.
      tasks: names.
      split: "train", "val" or "test".
      seed: of the built-in scenes.
      length: number of scenes; None takes the config's for "train", else 200.
    """
    if settings["source"] == "scenes":
        length = length or (settings["scenes_train"] if split == "train" else 200)
        return {task: ScenesSource(task, split, length, settings["scenes_size"], seed) for task in tasks}
    return {task: open_source(DATASET_OF[task], task, split, data_dir, on_error=settings["on_error"]) for task in tasks}
