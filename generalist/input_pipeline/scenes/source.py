"""The built-in scenes as a data source of every task."""

import zlib
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from generalist import names
from generalist.input_pipeline.scenes.captions import caption
from generalist.input_pipeline.scenes.degradations import add_noise, add_rain, low_light
from generalist.input_pipeline.scenes.renderer import Scene, image_size, render, split_index
from generalist.input_pipeline.source import Decoded, Example, ReadWindow, cut

_DEGRADATIONS = {"denoise": add_noise, "derain": add_rain, "light": low_light}
_CAPTIONED = "text_to_image"
SCENES_SOURCE_TASKS = ("depth", "semantic", "instance", "panoptic", *_DEGRADATIONS, _CAPTIONED)
CAPTIONS = ("own", "others")

# Keep the seeds of degradations and captions apart from those of the scenes.
_DEGRADATION_STREAM = 1_000
_CAPTION_STREAM = 2_000


class ScenesSource:
    """`length` examples of `task` on the built-in scenes; scene i is the same for every task.

    An example is {"image": uint8 (h, w, 3), "label": the task's form, "key": str}, a pure function
    of (seed, split, index, task). The forms of labels are

    * depth: float32 (h, w) meters, 0 = invalid;
    * semantic: int32 (h, w) classes 0..15, -1 = void;
    * instance: int32 (h, w), 0 = none;
    * panoptic: (id map int32 (h, w), segments_info), 0 = void, category id = class + 1;
    * denoise, derain, light: the clean image uint8 (h, w, 3); "image" is the degraded one;
    * text_to_image: the image once more; the example also has "prompt", its caption. A window of
      it has a caption of its own.

    Args:
      task: one of SCENES_SOURCE_TASKS.
      split: one of SPLITS: no scene and no degradation occurs in two of them.
      length: number of examples.
      size: side or (h, w) in pixels.
      seed: integer >= 0; another seed is another data set.
      captions: one of CAPTIONS. With "others" each picture of text_to_image has the caption of
        another: captions and pictures are those of "own", and tell nothing of each other.

    Raises:
      ValueError: unknown task, split or captions, negative length, or a size that is not positive.
      IndexError: on `source[index]` outside 0 .. length - 1.
    """

    groups: tuple[str, ...] = ()  # every figure is a mean over all examples
    damaged: Mapping[str, str] = MappingProxyType({})  # there are no files

    def __init__(
        self,
        task: str,
        split: str = "train",
        length: int = 10_000,
        size: int | tuple[int, int] = 64,
        seed: int = 0,
        captions: str = "own",
    ):
        names.one_of(task, SCENES_SOURCE_TASKS, "task of the built-in scenes")
        names.one_of(captions, CAPTIONS, "captions of the built-in scenes")
        split_index(split)
        if length < 0:
            raise ValueError(f"length is {length}; give the number of scenes, 0 or more")
        self.task = task
        self.split = split
        self.length = int(length)
        self.size = image_size(size)
        self.seed = int(seed)
        self.captions = captions

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return (
            f"ScenesSource({self.task!r}, {self.split!r}, length={self.length}, "
            f"size={self.size}, seed={self.seed})"
        )

    def __getitem__(self, index: int) -> Example:
        return self.read(index)

    def read(self, index: int, window: ReadWindow | None = None) -> Example:
        """Renders example `index`, as a whole, and returns it or a window of it."""
        if not 0 <= index < self.length:
            raise IndexError(
                f"scene {index} is out of range: {self!r} has {self.length} scenes, "
                f"0 to {self.length - 1}"
            )

        if self.task == _CAPTIONED:
            return self._captioned(int(index), window)

        scene = render(self.seed, self.split, int(index), self.size)
        image = scene.image
        if self.task in _DEGRADATIONS:
            image = self._degraded(image, int(index))
        example = {
            "image": image,
            "label": _label(self.task, scene),
            "key": self._key(int(index)),
        }
        return cut(example, window)

    def intact(self, index: int, decoded: Decoded | None = None) -> Example:
        """Returns `source[index]`; no scene is damaged."""
        return self[index]

    def stamp(self) -> str:
        """Returns "": there are no files that could change."""
        return ""

    def _captioned(self, index: int, window: ReadWindow | None) -> Example:
        """Returns the picture of scene `index`, or of a window of it, with a caption."""
        # Before it is captioned: a caption names what is seen.
        crop = ... if window is None else window.crop(self.size)

        def seen(index: int) -> Scene:
            scene = render(self.seed, self.split, index, self.size)
            return Scene(*(part[crop] for part in scene))

        scene = seen(index)
        told = index
        if self.captions == "others":
            # Half of the data away: of two or more scenes never the same one.
            told = (index + self.length // 2) % self.length
        described = scene if told == index else seen(told)
        return {
            "image": scene.image,
            "label": scene.image,
            "key": self._key(index),
            "prompt": caption(described, self._generator(told, _CAPTION_STREAM)),
        }

    def _key(self, index: int) -> str:
        return f"scenes/{self.seed}/{self.split}/{index:08d}"

    def _degraded(self, image: np.ndarray, index: int) -> np.ndarray:
        """Returns the image as the task's degradation leaves it."""
        # No two tasks draw alike.
        rng = self._generator(index, _DEGRADATION_STREAM, zlib.crc32(self.task.encode()))
        return _DEGRADATIONS[self.task](image, rng)

    def _generator(self, index: int, *stream: int) -> np.random.Generator:
        """Returns random numbers for example `index` that no other use of it draws."""
        words = (self.seed, split_index(self.split), index, *stream)
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def _label(task: str, scene: Scene):
    """Returns the label of a scene in the form of a task."""
    if task == "panoptic":
        return panoptic_label(scene.classes, scene.instances)
    labels = {"depth": scene.depth, "semantic": scene.classes, "instance": scene.instances}

    # Restoration has the clean image for a label.
    return labels.get(task, scene.image)


def panoptic_label(classes: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    """Converts a scene's labels to COCO's panoptic form: a segment a thing, and one a stuff class.

    Args:
      classes: int32 (h, w), -1 = void.
      instances: int32 (h, w), 0 = none.

    Returns:
      id_map: int32 (h, w), 0 = void.
      segments: [{"id", "category_id": class + 1, "iscrowd": 0, "area": in pixels}].
    """
    # The ids of stuff follow those of the things.
    things = int(instances.max())
    stuff = np.where(classes >= 0, things + 1 + classes, 0)
    id_map = np.where(instances > 0, instances, stuff).astype(np.int32)

    # All pixels of a segment are of one class, so that any of them tells it.
    ids, first, areas = np.unique(id_map, return_index=True, return_counts=True)
    categories = classes.ravel()[first] + 1
    segments = []
    for segment, category, area in zip(ids, categories, areas, strict=True):
        if segment:
            segments.append(
                {
                    "id": int(segment),
                    "category_id": int(category),
                    "iscrowd": 0,
                    "area": int(area),
                }
            )
    return id_map, segments
