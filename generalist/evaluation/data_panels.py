"""Pictures of a data set as the tasks see it: some images, and their labels rendered."""

from collections.abc import Mapping

from PIL import Image

from generalist.evaluation.panels import SIDE, compose, enlarge, value_bars
from generalist.input_pipeline.reading import evenly_spaced
from generalist.input_pipeline.sources import SOURCES, open_source
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks import TASKS, Scalar, Semantic, get_tasks

ROWS = 4


def dataset_panel(
    name: str, split: str, data_dir, own: Mapping | None = None, rows: int = ROWS
) -> Image.Image:
    """Evenly spread examples of a split, one a row: the image and the label of each task of the data set.

    With `own`, the definition of the task `name` on own data, what the colours mean stands below.
    ValueError (DataError) if nothing of the split can be read.
    """
    settings = {"on_error": "skip", "log": lambda line: None}
    tasks = get_tasks({name: own}) if own else {task: TASKS[task] for task in SOURCES[name].TASKS}
    sources = [
        Folder(data_dir, split, name, own, **settings)
        if own
        else open_source(name, task, split, data_dir, **settings)
        for task in tasks
    ]
    pictures, captions = [], []
    for index in evenly_spaced(min(map(len, sources)), rows):
        examples = [source[index] for source in sources]
        labels = [task.render(example["label"]) for task, example in zip(tasks.values(), examples)]
        pictures.append([enlarge(picture, SIDE) for picture in (examples[0]["image"], *labels)])
        captions.append(f"{split}: {examples[0]['key']}")
    known = [tasks[name]] if own else []
    return compose(
        ["image", *tasks],
        pictures,
        captions,
        [value_bars(task)[0] for task in known if isinstance(task, Scalar)],
        [entry for task in known if isinstance(task, Semantic) for entry in task.legend().classes],
    )
