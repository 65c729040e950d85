"""Pictures of a data set as the tasks see it: some images, and their labels rendered."""

import os
from collections.abc import Mapping
from typing import Any

from PIL import Image

from generalist.evaluation.panels import SIDE, compose, enlarge
from generalist.input_pipeline.reading import evenly_spaced
from generalist.input_pipeline.sources import SOURCES, open_source
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks import TASKS, Task, get_tasks
from generalist.tasks.drawing import Legend

ROWS = 4


def dataset_panel(
    name: str,
    split: str,
    data_dir: str | os.PathLike,
    own: Mapping[str, Any] | None = None,
    rows: int = ROWS,
) -> Image.Image:
    """Draws evenly spaced examples, one a row: the image and the label of each task of the set.

    Args:
      name: of the data set, or of the task on own data.
      split: of the data set.
      data_dir: the folder of all data sets.
      own: the definition of the task on own data; the legend of its colors is below the rows.
      rows: number of examples.

    Raises:
      DataError: nothing of the split can be read.
    """
    tasks: dict[str, Task]
    if own:
        tasks = get_tasks({name: own})
        sources = [Folder(data_dir, split, name, own, on_error="skip", quiet=True)]
        legend = tasks[name].legend()
    else:
        tasks = {task: TASKS[task] for task in SOURCES[name].TASKS}
        sources = [
            open_source(name, task, split, data_dir, on_error="skip", quiet=True) for task in tasks
        ]
        legend = Legend()

    pictures = []
    captions = []
    for index in evenly_spaced(min(map(len, sources)), rows):
        # The sources of one data set have the same images in the same order.
        examples = [source[index] for source in sources]
        row = [examples[0]["image"]]
        for task, example in zip(tasks.values(), examples, strict=True):
            row.append(task.render(example["label"]))
        pictures.append([enlarge(picture, SIDE) for picture in row])
        captions.append(f"{split}: {examples[0]['key']}")
    return compose(["image", *tasks], pictures, captions, legend)
