"""What `Generalist.predict` returns: one class a kind of task, each with a picture and a file format."""

import abc
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from generalist import tasks
from generalist.files import write_atomically


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result(abc.ABC):
    """A prediction at the size of the user's image.

    Attributes:
      codec: the task (prompt, palette, protocol) it was decoded by.
      decoded: the task's own prediction, as `codec.decode` returns it.
      uncertainty: float32 (h, w), the standard deviation of the samples in the unit of the result (metres; levels of
        0..255, mean of the channels); None for a single sample.
    """

    codec: tasks.Task
    decoded: Any
    uncertainty: np.ndarray | None = None
    suffixes: ClassVar[tuple[str, ...]] = (".png",)

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.codec.name

    @property
    def confidence(self) -> np.ndarray:
        """float32 (h, w) in [0, 1]: how cleanly the codec could read the colours; not a calibrated probability."""
        return self.decoded.confidence

    def render(self) -> np.ndarray:
        """A picture for people, uint8 (h, w, 3)."""
        return self.codec.render(self.decoded)

    def save(self, path: str | os.PathLike) -> list[pathlib.Path]:
        """Writes the data in the format of the suffix, folders included; returns the files written.

        Raises ValueError for a suffix that the task has no format for.
        """
        path = pathlib.Path(path)
        if path.suffix.lower() not in self.suffixes:
            allowed = " or ".join(self.suffixes)
            raise ValueError(
                f"{path}: a result of task '{self.task}' is saved as {allowed}, not {path.suffix!r}"
            )
        files = self._files(path)
        for file, content in files.items():
            write_atomically(file, content)
        return list(files)

    @abc.abstractmethod
    def _files(self, path: pathlib.Path) -> dict[pathlib.Path, bytes]:
        """Contents of the files that `save(path)` writes."""

    def __repr__(self) -> str:
        height, width = self.confidence.shape
        return f"{type(self).__name__}(task={self.task!r}, height={height}, width={width})"


class DepthResult(Result):
    """Saved as 16-bit PNG in millimetres, or as .npy in metres."""

    suffixes = (".png", ".npy")

    @property
    def depth(self) -> np.ndarray:
        """float32 (h, w) metres."""
        return self.decoded.depth

    def _files(self, path):
        if path.suffix.lower() == ".npy":
            return {path: _npy(self.depth)}
        return {path: png(_to_uint16(np.rint(self.depth * 1000.0), path, "millimetres"))}


class ScalarResult(Result):
    """Saved as 16-bit PNG, 0 = low end of the range and 65535 = high end, or as .npy in the task's unit."""

    suffixes = (".png", ".npy")

    @property
    def values(self) -> np.ndarray:
        """float32 (h, w) in `codec.unit`."""
        return self.decoded.values

    def _files(self, path):
        return {
            path: _npy(self.values)
            if path.suffix.lower() == ".npy"
            else png(self.codec.to_uint16(self.values))
        }


class SemanticResult(Result):
    """Saved as 8-bit PNG of class ids."""

    @property
    def classes(self) -> np.ndarray:
        """int32 (h, w), indices into `names`."""
        return self.decoded.classes

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every class."""
        return self.codec.classes

    def _files(self, path):
        if len(self.names) > 256:
            raise ValueError(
                f"{path}: {len(self.names)} classes do not fit 8 bits; save `classes` with numpy.save"
            )
        return {path: png(self.classes.astype(np.uint8))}


class InstanceResult(Result):
    """Saved as 16-bit PNG of instance ids, 0 = none."""

    @property
    def instances(self) -> np.ndarray:
        """int32 (h, w): 0 = none, k + 1 = painted by masks[k]; an id may be unused."""
        return self.decoded.instances

    @property
    def masks(self) -> np.ndarray:
        """Bool (n, h, w), all candidates by descending score; they may overlap."""
        return self.decoded.masks

    @property
    def scores(self) -> np.ndarray:
        """float64 (n,) in [0, 1], of the candidates."""
        return self.decoded.scores

    def _files(self, path):
        return {path: png(_to_uint16(self.instances, path, "instance ids"))}


class PanopticResult(Result):
    """Saved in COCO's form: a PNG with id = R + 256 G + 65536 B, and segments and categories in a JSON file beside it."""

    @property
    def id_map(self) -> np.ndarray:
        """int32 (h, w), 0 = void."""
        return self.decoded.id_map

    @property
    def segments_info(self) -> list[dict]:
        """[{"id", "category_id", "name", "isthing", "iscrowd", "area"}, ...], area in pixels."""
        categories = {category["id"]: category for category in self.codec.categories}
        extra = lambda c: {"name": c["name"], "isthing": int(c["isthing"])}
        return [
            {**segment, **extra(categories[segment["category_id"]])}
            for segment in self.decoded.segments_info
        ]

    def _files(self, path):
        bytes_of_ids = self.id_map[..., None] >> np.array([0, 8, 16]) & 255
        annotation = {
            "image_id": path.stem,
            "file_name": path.name,
            "segments_info": self.segments_info,
        }
        categories = [
            {key: category[key] for key in ("id", "name", "isthing")}
            for category in self.codec.categories
        ]
        content = json.dumps({"annotations": [annotation], "categories": categories}, indent=1)
        return {
            path: png(bytes_of_ids.astype(np.uint8)),
            path.with_suffix(".json"): content.encode(),
        }


class RestorationResult(Result):
    """Saved as 8-bit RGB PNG."""

    @property
    def image(self) -> np.ndarray:
        """The restored image, uint8 (h, w, 3)."""
        return self.decoded.image

    def _files(self, path):
        return {path: png(self.image)}


RESULTS: dict[type, type[Result]] = {
    tasks.Depth: DepthResult,
    tasks.Scalar: ScalarResult,
    tasks.Semantic: SemanticResult,
    tasks.Instance: InstanceResult,
    tasks.Panoptic: PanopticResult,
    tasks.Restoration: RestorationResult,
}
AVERAGED = (
    tasks.Depth,
    tasks.Scalar,
    tasks.Restoration,
)  # colours that are quantities; the mean of two class colours is a third class


def make_result(
    codec: tasks.Task, painted: Mapping[str, np.ndarray], size: tuple[int, int], samples: int = 1
) -> Result:
    """Decodes what the model painted.

    Args:
      codec: the task.
      painted: {component: float32 (draws, s, s, 3)}; draws is 1 where all samples are equal.
      size: (h, w) of the result.
      samples: how many were asked for; with more than one the result is their mean and has an `uncertainty`.
    """
    kind = RESULTS[type(codec)]
    if codec.components:
        return kind(
            codec, codec.decode({name: painted[name][0] for name in codec.components}, size)
        )
    draws = painted[codec.name]
    return kind(
        codec,
        codec.decode(draws.mean(0), size),
        _spread(codec, draws, size) if samples > 1 else None,
    )


def _spread(codec: tasks.Task, draws: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    values = np.stack([codec.label_of(codec.decode(rgb, size)) for rgb in draws]).astype(np.float32)
    return (
        values.std(0) if values.ndim == 3 else 255.0 * values.std(0).mean(-1)
    )  # of an image: in levels


def check_samples(codecs: Mapping[str, tasks.Task], samples: int) -> None:
    """Raises ValueError for samples below 1, and above 1 for a task whose colours have no mean."""
    if samples < 1:
        raise ValueError(f"samples is {samples}; give 1 or more")
    coded = [name for name, codec in codecs.items() if not isinstance(codec, AVERAGED)]
    if samples > 1 and coded:
        raise ValueError(
            f"samples={samples} averages what the model paints, and colours that stand for classes or instances "
            f"have no mean: predict {', '.join(coded)} with samples=1"
        )


def png(array: np.ndarray) -> bytes:
    """uint8 (h, w), uint8 (h, w, 3) or uint16 (h, w) -> a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _to_uint16(values: np.ndarray, path: pathlib.Path, unit: str) -> np.ndarray:
    if values.max() > np.iinfo(np.uint16).max:
        raise ValueError(
            f"{path}: {unit} up to {values.max():.0f} do not fit 16 bits; save the array with numpy.save"
        )
    return values.astype(np.uint16)
