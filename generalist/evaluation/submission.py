"""Writes predictions as the benchmarks take them: one file an image, in the official format."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from generalist.evaluation.predictors import in_parallel
from generalist.files import write_atomically
from generalist.pictures import encode_png
from generalist.tasks import Task


class Submission:
    """Writes the predictions of one task into `folder`/<task>, <key>.png each.

    Depth is 16-bit, in millimeters. Semantic is 8-bit, class index + 1, so ADE20K's 1..150.
    Instances are 16-bit ids, 0 = none. Restoration is the image. Panoptic is COCO's PNG,
    id = R + 256 G + 65536 B, with <task>.json beside the folder, as panopticapi reads it.

    Args:
      folder: of all tasks.
      task: what is predicted.
      suffix: of the folder's name, such as "_whole".

    Attributes:
      annotations: what is known of each image beside its pixels, as JSON; None if nothing.
    """

    def __init__(self, folder: pathlib.Path, task: Task, suffix: str = ""):
        self.annotations: list[dict[str, Any] | None] = []
        self._folder = folder / (task.name + suffix)
        self._task = task

    def add(self, keys: Sequence[str], predictions: Sequence[Any]) -> None:
        """Writes the files of a batch.

        Raises:
          ValueError: a value does not fit the format.
        """

        def write(index: int) -> dict[str, Any] | None:
            pixels = self._task.submission_pixels(predictions[index])
            write_atomically(self._folder / f"{keys[index]}.png", encode_png(pixels))
            return self._task.submission_annotation(keys[index], predictions[index])

        self.annotations += in_parallel(write, range(len(keys)))

    def finish(self) -> None:
        """Writes what belongs to all images together, and removes what a kill left behind."""
        # A killed evaluation leaves its half-written file.
        for unfinished in self._folder.rglob(".*.tmp"):
            unfinished.unlink()
        annotations = [annotation for annotation in self.annotations if annotation is not None]
        if annotations:
            content = self._task.submission_index(annotations)
            path = self._folder.with_name(f"{self._folder.name}.json")
            write_atomically(path, json.dumps(content).encode())
