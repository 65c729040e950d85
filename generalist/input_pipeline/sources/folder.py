"""A user's own data: folders of images and labels, paired by name, read as a definition in the config says (docs/own_data.md)."""

import functools
import io
import tokenize
from collections.abc import Callable, Mapping

import cv2
import numpy as np

from generalist.input_pipeline.sources.base import Source, to_stderr
from generalist.input_pipeline.sources.files import (
    IMAGE_SUFFIXES,
    DataError,
    File,
    decode,
    read_bytes,
    read_image,
)

LABELS = {  # kind -> what its label files hold
    "classes": "8- or 16-bit PNGs with one channel of ids, or RGB PNGs of class colours",
    "scalar": "8- or 16-bit PNGs with one channel, times `scale`, or .npy files of shape (height, width); nan is unknown",
    "instances": "8- or 16-bit PNGs with one channel of ids, 0 = background",
    "image": "clean images",
}


class Folder(Source):
    """Pairs `<folder>/<split>/images/<name>` and `<folder>/<split>/labels/<name>`, with any image suffix each, labels also .npy.

    The label, by kind: classes int32 (h, w), 0..K-1 in the order of the definition, -1 = void; scalar float32 (h, w) in its unit,
    nan = unknown; instances int32 (h, w), 0 = none; image uint8 (h, w, 3).

    Args:
      name: of the task.
      definition: of the task, as in `config.tasks.set`.
      The others: see `Source`. "val" and "test" both open val.
    """

    SPLITS = {"train": "train", "val": "val"}
    EVAL_SPLIT = "val"
    SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
    USUAL = {}

    def __init__(
        self,
        data_dir,
        split: str,
        name: str,
        definition: Mapping,
        on_error: str = "raise",
        log: Callable[[str], object] = to_stderr,
    ):
        self.NAME, self.TASKS, self.FOLDERS = name, (name,), (definition.get("folder", "."),)
        self._kind, self._definition = definition["kind"], definition
        super().__init__(data_dir, split, name, on_error, log)

    def expected_layout(self) -> str:
        """What must lie below data_dir."""
        folder = "" if self.FOLDERS[0] == "." else f"{self.FOLDERS[0]}/"
        return (
            f"Layout expected below data_dir for task '{self.NAME}':\n"
            f"  {folder}{{train,val}}/images/<name>.jpg or .png\n"
            f"  {folder}{{train,val}}/labels/<name>.png     {LABELS[self._kind]}"
        )

    def index(self) -> list[tuple[str, str, str]]:
        return self.pair(self.files(f"{self.split}/images"), self.files(f"{self.split}/labels"))

    def decode_label(self, label: File) -> np.ndarray:
        if self._kind == "scalar" and str(label).lower().endswith(".npy"):
            return _load_array(label)
        return read_image(label) if self._kind == "image" or self._coloured else _one_channel(label)

    def to_label(self, stored: np.ndarray, path: File) -> np.ndarray:
        convert = {
            "classes": self._classes,
            "scalar": self._scalar,
            "instances": lambda stored, path: stored.astype(np.int32),
        }
        return convert[self._kind](stored, path) if self._kind in convert else stored

    @property
    def _coloured(self) -> bool:
        return self._kind == "classes" and not isinstance(self._definition["classes"][0][1], int)

    def _classes(self, stored: np.ndarray, path: File) -> np.ndarray:
        values, void, name = (
            [value for _, value in self._definition["classes"]],
            self._definition.get("void", ()),
            str,
        )
        if self._coloured:
            values, void, name = list(map(_pack, values)), list(map(_pack, void)), _unpack
            stored = _pack(np.moveaxis(stored.astype(np.int32), -1, 0))
            label = _position(stored, values, void)
        else:
            label = self._look_up(stored)
        if label.min() < -1:
            strange = label < -1
            raise DataError(
                path,
                f"{'colour' if self._coloured else 'id'} {name(int(stored[strange][0]))} is no class "
                f"({strange.mean():.1%} of the pixels are none)",
                f"Allowed are {', '.join(map(name, values))}{_also(map(name, void), ' for void')}. Add it to `classes` or to `void`.",
            )
        return label

    def _scalar(self, stored: np.ndarray, path: File) -> np.ndarray:
        values = (
            self._look_up(stored)
            if stored.dtype in (np.uint8, np.uint16)
            else self._measure(stored)
        )
        if np.isinf(values).any():
            wrong = stored[np.isinf(values)][0]
            void, scale = (
                self._definition.get("void", ()),
                float(self._definition.get("scale", 1.0)),
            )
            low, high = self._definition["range"]
            raise DataError(
                path,
                f"value {wrong * scale:g} (stored as {wrong:g})",
                f"Allowed are {low}..{high}, the `range` of task '{self.NAME}', and nan{_also(void, '')} for unknown. "
                "Is `scale` right?",
            )
        return values

    def _measure(self, stored: np.ndarray) -> np.ndarray:
        """Stored values -> float32 in the task's unit, nan where unknown, inf where out of range."""
        low, high = self._definition["range"]
        values = stored * float(self._definition.get("scale", 1.0))
        values = np.where((values >= low) & (values <= high) | np.isnan(values), values, np.inf)
        return np.where(
            np.isin(stored, list(self._definition.get("void", ()))), np.nan, values
        ).astype(np.float32)

    def _look_up(self, stored: np.ndarray) -> np.ndarray:
        """What the numbers stand for; both ways are several times faster than indexing."""
        return (
            cv2.LUT(stored, self._table[:256])
            if stored.dtype == np.uint8
            else np.take(self._table, stored)
        )

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """What each 16-bit number stands for: far faster than to work it out for every pixel."""
        numbers = np.arange(2**16)
        if self._kind == "scalar":
            return self._measure(numbers)
        return _position(
            numbers,
            [value for _, value in self._definition["classes"]],
            list(self._definition.get("void", ())),
        )


def _one_channel(path: File) -> np.ndarray:
    """An 8- or 16-bit label image (h, w) as stored."""
    pixels = decode(path, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype not in (np.uint8, np.uint16):
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise DataError(
            path,
            f"{pixels.dtype} image with {channels} channel(s)",
            "It must be an 8- or 16-bit PNG with 1 channel. One with a palette counts as colours.",
        )
    return pixels


def _load_array(path: File) -> np.ndarray:
    try:
        array = np.lib.format.read_array(
            io.BytesIO(read_bytes(path)), allow_pickle=False
        )  # np.load would also take archives of arrays
    except (ValueError, tokenize.TokenError) as error:  # the second: of a header that is no Python
        if isinstance(error, DataError):
            raise
        raise DataError(
            path, f"cannot be read ({error})", "It must be a .npy file of numbers."
        ) from error
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise DataError(
            path,
            f"{array.dtype} array of shape {array.shape}",
            "It must hold numbers of shape (height, width).",
        )
    return array


def _pack(colour):
    """(red, green, blue) -> one number; of arrays too."""
    return (colour[0] << 16) + (colour[1] << 8) + colour[2]


def _unpack(number: int) -> str:
    return str((number >> 16, number >> 8 & 255, number & 255))


def _position(stored: np.ndarray, values: list, void: list) -> np.ndarray:
    """Stored values -> int32 positions in `values`, -1 for those in `void`, -2 for any other."""
    known = np.array([*values, *void])
    order = np.argsort(known)
    nearest = np.minimum(np.searchsorted(known[order], stored), len(known) - 1)
    position = np.append(np.arange(len(values)), np.full(len(void), -1))[order][nearest]
    return np.where(known[order][nearest] == stored, position, -2).astype(np.int32)


def _also(values, what: str) -> str:
    text = ", ".join(map(str, values))
    return f" and {text}{what}" if text else ""
