"""Where pixels come from, up to the batches of a training step."""

from collections.abc import Iterable, Mapping
from typing import Any

from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.source import Example, ReadWindow, Source
from generalist.input_pipeline.sources import DATASET_OF, open_source
from generalist.input_pipeline.sources.folder import Folder
from generalist.names import one_of

__all__ = ["Example", "ReadWindow", "Source", "open_sources"]

OTHER_SCENES = 200  # scenes of a split that is not "train", where no number is asked for


def open_sources(
    config: Mapping[str, Any], tasks: Iterable[str], split: str, length: int | None = None
) -> dict[str, Source]:
    """Opens the source of every task, of the kind that `config.data.source` names.

    Args:
      config: the config of a run. "paper" reads the data sets below `config.data_dir`, "folder" the
        own data that `config.tasks.set` defines, "scenes" renders by `config.data.scenes_seed`.
      tasks: names of tasks.
      split: "train", "held_out", "val", "test" or another of the source; own data have no
        "held_out", as their "val" is it.
      length: number of scenes; None takes the config's for "train", else OTHER_SCENES.

    Raises:
      ValueError: unknown `config.data.source`, task or split.
      LayoutError: a data set is not there, or not in its layout.
    """
    data = config["data"]
    kind = one_of(data["source"], ("paper", "folder", "scenes"), "data.source")

    if kind == "scenes":
        length = length or (data["scenes_train"] if split == "train" else OTHER_SCENES)
        seed = config["seed"] if data["scenes_seed"] < 0 else data["scenes_seed"]
        return {
            task: ScenesSource(
                task, split, length, data["scenes_size"], seed, data["scenes_captions"]
            )
            for task in tasks
        }

    # Both others read files, of which some may be damaged.
    data_dir = config["data_dir"]
    on_error = data["on_error"]
    if kind == "folder":
        definitions = config["tasks"]["set"]
        return {
            task: Folder(data_dir, split, task, definitions[task], on_error=on_error)
            for task in tasks
        }

    return {
        task: open_source(DATASET_OF[task], task, split, data_dir, on_error=on_error)
        for task in tasks
    }
