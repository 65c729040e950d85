"""Predictions as the benchmarks take them: one file an image, in the official format of the task."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from generalist.files import write_atomically
from generalist.pictures import encode_png
from generalist.tasks import Depth, Instance, Panoptic, Restoration, Scalar, Semantic, Task


class Submission:
    """Writes the predictions of one task into `folder`/<task>, <key>.png each.

    depth: 16-bit, millimetres. Semantic: 8-bit, class index + 1, so ADE20K's 1..150. Instance: 16-bit ids, 0 = none.
    Restoration: the image. Panoptic: COCO's PNG, id = R + 256 G + 65536 B, and <task>.json beside the folder, as panopticapi reads it.

    Args:
      folder: of all tasks.
      task: what is predicted.
      suffix: of the folder's name, such as "_tiles".
    """

    def __init__(self, folder: pathlib.Path, task: Task, suffix: str = ""):
        self._folder, self._task = folder / (task.name + suffix), task
        self.annotations: list[dict] = []

    def add(self, keys: Sequence[str], predictions: Sequence) -> None:
        """Writes the files of a batch."""
        for key, prediction in zip(keys, predictions, strict=True):
            write_atomically(
                self._folder / f"{key}.png", encode_png(to_pixels(self._task, prediction))
            )
            if isinstance(self._task, Panoptic):
                segments = [
                    {name: segment[name] for name in ("id", "category_id", "area", "iscrowd")}
                    for segment in prediction.segments_info
                ]
                image_id = (
                    int(key) if key.isdecimal() else key
                )  # COCO's file names are its image ids
                self.annotations.append(
                    {"image_id": image_id, "file_name": f"{key}.png", "segments_info": segments}
                )

    def finish(self) -> None:
        """Writes what belongs to all images together, and removes what a kill left behind."""
        for half in self._folder.rglob(".*.tmp"):
            half.unlink()
        if self.annotations:
            content = {
                "annotations": self.annotations,
                "categories": [dict(category) for category in self._task.categories],
            }
            write_atomically(
                self._folder.with_name(f"{self._folder.name}.json"), json.dumps(content).encode()
            )


def to_pixels(task: Task, prediction) -> np.ndarray:
    """A prediction as the pixels of its file: uint8 (h, w), uint8 (h, w, 3) or uint16 (h, w).

    Raises ValueError for values that the format cannot hold.
    """
    if isinstance(task, Depth):
        return _fit(np.rint(prediction.depth * 1000.0), np.uint16, "depths in millimetres")
    if isinstance(task, Scalar):
        return task.to_uint16(prediction.values)
    if isinstance(task, Semantic):
        return _fit(prediction.classes + 1, np.uint8, "class indices + 1")
    if isinstance(task, Instance):
        return _fit(prediction.instances, np.uint16, "instance ids")
    if isinstance(task, Restoration):
        return prediction.image
    return (prediction.id_map[..., None] >> np.array([0, 8, 16]) & 255).astype(np.uint8)


def _fit(values: np.ndarray, dtype: type, what: str) -> np.ndarray:
    if not 0 <= values.min() <= values.max() <= np.iinfo(dtype).max:
        raise ValueError(
            f"{what} {values.min()}..{values.max()} do not fit {np.iinfo(dtype).bits} bits"
        )
    return values.astype(dtype)
