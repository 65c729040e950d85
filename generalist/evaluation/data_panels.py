"""Pictures of a data set as the tasks see it: some images, and their labels rendered."""

from PIL import Image

from generalist.evaluation.panels import SIDE, compose, enlarge
from generalist.input_pipeline.check import spread
from generalist.input_pipeline.sources import SOURCES, open_source
from generalist.tasks import TASKS

ROWS = 4


def dataset_panel(name: str, split: str, data_dir, rows: int = ROWS) -> Image.Image:
    """Evenly spread examples of a split, one a row: the image and the label of each task of the data set.

    ValueError (DataError) if nothing of the split can be read.
    """
    tasks = SOURCES[name].TASKS
    sources = [open_source(name, task, split, data_dir, on_error="skip", log=lambda line: None) for task in tasks]
    pictures, captions = [], []
    for index in spread(min(map(len, sources)), rows):
        examples = [source[index] for source in sources]
        labels = [TASKS[task].render(example["label"]) for task, example in zip(tasks, examples)]
        pictures.append([enlarge(picture, SIDE) for picture in (examples[0]["image"], *labels)])
        captions.append(f"{split}: {examples[0]['key']}")
    return compose(["image", *tasks], pictures, captions)
