"""The built-in scenes as a data source of every task."""

import zlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from generalist.input_pipeline.scenes.degradations import add_noise, add_rain, low_light
from generalist.input_pipeline.scenes.renderer import SPLITS, Scene, image_size, position, render

_DEGRADATIONS = {"denoise": add_noise, "derain": add_rain, "light": low_light}
SCENES_SOURCE_TASKS = ("depth", "semantic", "instance", "panoptic", *_DEGRADATIONS)
_DEGRADATION_STREAM = 1_000  # keeps the degradations' seeds apart from those of the scenes


class ScenesSource:
    """`length` examples of `task` on the built-in scenes; scene i is the same for every task.

    An example is {"image": uint8 (h, w, 3), "label": the task's form, "key": str}, a pure function of (seed, split, index,
    task). Labels: depth float32 (h, w) metres, 0 = invalid; semantic int32 (h, w) classes 0..15, -1 = void; instance int32
    (h, w), 0 = none; panoptic (id map int32 (h, w), segments_info), 0 = void, category id = class + 1; denoise, derain and
    light the clean uint8 (h, w, 3), "image" being the degraded one.

    Args:
      task: one of SCENES_SOURCE_TASKS.
      split: "train", "val" or "test": no scene and no degradation occurs in two of them.
      length: number of examples.
      size: side or (h, w) in pixels.
      seed: integer >= 0; another seed is another data set.

    Raises:
      ValueError: unknown task or split, negative length, or a size that is not positive.
      IndexError: on `source[index]` outside 0 .. length - 1.
    """

    groups: tuple[str, ...] = ()  # see `sources.base.Source`
    damaged: Mapping[str, str] = MappingProxyType({})  # there are no files

    def __init__(
        self,
        task: str,
        split: str = "train",
        length: int = 10_000,
        size: int | tuple[int, int] = 64,
        seed: int = 0,
    ):
        position("task", task, SCENES_SOURCE_TASKS)
        position("split", split, SPLITS)
        if length < 0:
            raise ValueError(f"length is {length}; give the number of scenes, 0 or more")
        self.task, self.split, self.length, self.size, self.seed = (
            task,
            split,
            int(length),
            image_size(size),
            int(seed),
        )

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"ScenesSource({self.task!r}, {self.split!r}, length={self.length}, size={self.size}, seed={self.seed})"

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < self.length:
            raise IndexError(
                f"scene {index} is out of range: {self!r} has {self.length} scenes, 0 to {self.length - 1}"
            )
        scene = render(self.seed, self.split, int(index), self.size)
        image = (
            self._degraded(scene.image, int(index)) if self.task in _DEGRADATIONS else scene.image
        )
        return {
            "image": image,
            "label": _label(self.task, scene),
            "key": f"scenes/{self.seed}/{self.split}/{index:08d}",
        }

    def intact(self, index: int) -> dict:
        """Returns `source[index]`; no scene is damaged."""
        return self[index]

    def stamp(self) -> str:
        """Returns "": there are no files that could change."""
        return ""

    def _degraded(self, image: np.ndarray, index: int) -> np.ndarray:
        split = position("split", self.split, SPLITS)
        words = (self.seed, split, index, _DEGRADATION_STREAM, zlib.crc32(self.task.encode()))
        return _DEGRADATIONS[self.task](
            image, np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
        )


def _label(task: str, scene: Scene):
    if task == "panoptic":
        return panoptic_label(scene.classes, scene.instances)
    return {"depth": scene.depth, "semantic": scene.classes, "instance": scene.instances}.get(
        task, scene.image
    )


def panoptic_label(classes: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    """COCO's panoptic form of `classes` (-1 = void) and `instances` (0 = none), both int32 (h, w).

    Every thing is a segment, and so is every stuff class. Returns (id map int32 (h, w), 0 = void; segments
    [{"id", "category_id" = class + 1, "iscrowd" 0, "area" in pixels}]).
    """
    things = int(instances.max())
    id_map = np.where(
        instances > 0, instances, np.where(classes >= 0, things + 1 + classes, 0)
    ).astype(np.int32)
    ids, first, area = (
        column.tolist() for column in np.unique(id_map, return_index=True, return_counts=True)
    )
    category = (classes.ravel() + 1)[first].tolist()
    segments = [
        {"id": i, "category_id": c, "iscrowd": 0, "area": a}
        for i, c, a in zip(ids, category, area)
        if i
    ]
    return id_map, segments
