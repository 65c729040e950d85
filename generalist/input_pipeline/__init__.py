"""Where pixels come from, up to the batches of a training step."""

from collections.abc import Iterable, Mapping
from typing import Any

from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources import DATASET_OF, open_source
from generalist.input_pipeline.sources.base import choose
from generalist.input_pipeline.sources.folder import Folder


def open_sources(
    config: Mapping[str, Any], tasks: Iterable[str], split: str, length: int | None = None
) -> dict[str, Any]:
    """The source of every task: `config.data.source` says which kind.

    Args:
      config: of a run. "paper" reads the data sets below `config.data_dir`, "folder" the own data that `config.tasks.set` defines,
        "scenes" renders by `config.seed`.
      tasks: names.
      split: "train", "val" or "test".
      length: number of scenes; None takes the config's for "train", else 200.
    """
    data, kind = (
        config["data"],
        choose("data.source", config["data"]["source"], ("paper", "folder", "scenes")),
    )
    if kind == "scenes":
        length = length or (data["scenes_train"] if split == "train" else 200)
        return {
            task: ScenesSource(task, split, length, data["scenes_size"], config["seed"])
            for task in tasks
        }
    if kind == "folder":
        definitions = config["tasks"]["set"]
        return {
            task: Folder(config["data_dir"], split, task, definitions[task], data["on_error"])
            for task in tasks
        }
    return {
        task: open_source(
            DATASET_OF[task], task, split, config["data_dir"], on_error=data["on_error"]
        )
        for task in tasks
    }
