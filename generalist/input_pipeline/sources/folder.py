"""A user's own data: folders of images and labels, paired by name (docs/own_data.md)."""

import functools
import io
import math
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np

from generalist import pictures
from generalist.input_pipeline.source import Decoded, ReadWindow
from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.examples import Location, OriginalFiles
from generalist.input_pipeline.sources.files import (
    DataError,
    File,
    ImageWindow,
    kind_of,
    naming,
    read_bytes,
    read_image,
    read_numbers,
    read_photo,
    read_window,
    require_lossless,
)
from generalist.names import first_line

# `kind` of a task's definition -> what its label files hold.
LABELS = {
    "classes": "PNGs with one channel of ids or a palette, or RGB PNGs of class colors",
    "scalar": (
        "8- or 16-bit PNGs with one channel, times `scale`, "
        "or .npy files of shape (height, width); nan is unknown"
    ),
    "instances": "PNGs with one channel of ids or a palette, 0 = background",
    "image": "clean images",
}

CAPTION = (".txt",)  # suffix of the file beside an image

# Version of a .npy file -> what reads its header.
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# What a stored value becomes where it is no position in the list of classes.
VOID = -1
NO_CLASS = -2


class Folder(Dataset):
    """Pairs `<folder>/<split>/images/<name>` and `<folder>/<split>/labels/<name>`.

    Where the definition says `captions`, the prompt of an example is in
    `<folder>/<split>/images/<name>.txt`.

    Images have any image suffix, labels may also be .npy files. The label is, by kind:

    classes: int32 (h, w), 0..K-1 in the order of the definition, -1 = void.
    scalar: float32 (h, w) in its unit, nan = unknown.
    instances: int32 (h, w), 0 = none.
    image: uint8 (h, w, 3).
    text_to_image: the image itself; there are no label files, and always captions.

    Args:
      data_dir: local path or gs:// of the folder that holds the task's folder.
      split: "train", or "val"; "test" opens val too.
      name: name of the task.
      definition: its definition, as in `config.tasks.set`.
      on_error, quiet: see `Dataset`.
    """

    SPLITS: ClassVar = {"train": "train", "val": "val"}
    EVAL_SPLIT = "val"
    SUFFIXES = (*pictures.SUFFIXES, ".npy")
    USUAL: ClassVar = {}
    HOLDS_OUT = False  # val is what the user held out
    UPRIGHT = True  # they were drawn on what a viewer shows

    def __init__(
        self,
        data_dir,
        split: str,
        name: str,
        definition: Mapping[str, Any],
        *,
        on_error: str = "raise",
        quiet: bool = False,
    ):
        self.NAME = name
        self.TASKS = (name,)
        self.FOLDERS = (definition.get("folder", "."),)
        self._definition = definition
        self._kind = definition["kind"]
        super().__init__(data_dir, split, name, on_error=on_error, quiet=quiet)

    def expected_layout(self) -> str:
        """Returns what must lie below data_dir, for errors."""
        folder = "" if self.FOLDERS[0] == "." else f"{self.FOLDERS[0]}/"
        lines = [
            f"Layout expected below data_dir for task '{self.NAME}':",
            f"  {folder}{{train,val}}/images/<name>.jpg or .png",
        ]
        if self._has_labels:
            lines.append(f"  {folder}{{train,val}}/labels/<name>.png     {LABELS[self._kind]}")
        if self._has_captions:
            lines.append(f"  {folder}{{train,val}}/images/<name>.txt     captions")
        return "\n".join(lines)

    def index(self) -> OriginalFiles:
        """Pairs the images and labels of the split, and their captions where there are any."""
        images = f"{self.official_split}/images"
        labels = f"{self.official_split}/labels" if self._has_labels else images
        pairs = self.pair_files(images, labels)
        return self._with_captions(pairs, images) if self._has_captions else pairs

    def decode_files(
        self, location: Location, window: ReadWindow | None, decoded: Decoded | None
    ) -> tuple[ImageWindow, np.ndarray]:
        """Decodes an image and its label; an image that is its own label once."""
        if self._has_labels:
            return super().decode_files(location, window, decoded)
        with naming(str(location.image)):
            image = read_window(location.image, window, self.UPRIGHT)
        whole = (slice(None), slice(None))
        return image._replace(crop=whole), image.pixels

    def decode_label(self, label: File) -> np.ndarray:
        """Reads a label as it is stored: numbers (h, w), or colors uint8 (h, w, 3)."""
        if self._kind == "scalar" and str(label).lower().endswith(".npy"):
            return _load_array(label)
        if self._kind == "image":
            return read_photo(label)
        require_lossless(label)
        return read_image(label) if self._has_colors else _one_channel(label)

    def to_label(self, stored: np.ndarray, location: Location, whole: bool) -> np.ndarray:
        """Converts a stored label as the definition says."""
        if self._kind == "classes":
            return self._to_classes(stored, location.label)
        if self._kind == "scalar":
            return self._to_values(stored, location.label)
        if self._kind == "instances":
            return stored.astype(np.int32)
        return stored

    def _with_captions(self, pairs: OriginalFiles, images: str) -> OriginalFiles:
        """Gives every example the path of its caption; one without a caption is damaged."""
        captions = self.files(images, suffixes=CAPTION)
        captioned = []
        for location in map(pairs.locate, range(len(pairs))):
            caption = captions.get(location.key)
            if caption:
                captioned.append(location._replace(caption=caption))
                continue
            problem = f"has no caption: there is no {location.key}.txt beside it"
            allowed = f"Task '{self.NAME}' has captions: every image needs one."
            self.skip_or_raise(DataError(location.image, problem, allowed))
        return OriginalFiles(captioned)

    @property
    def _has_captions(self) -> bool:
        return not self._has_labels or self._definition.get("captions", False)

    @property
    def _has_labels(self) -> bool:
        return self._kind != "text_to_image"

    @property
    def _has_colors(self) -> bool:
        if self._kind != "classes":
            return False
        _, first = self._definition["classes"][0]
        return not isinstance(first, int)

    @property
    def _void(self) -> list:
        return list(self._definition.get("void", ()))

    @property
    def _class_values(self) -> list:
        return [value for _, value in self._definition["classes"]]

    def _to_classes(self, stored: np.ndarray, path: File) -> np.ndarray:
        """Stored ids or colors -> class indices; DataError for one that the definition lacks."""
        if self._has_colors:
            # A color is one number from here on, so that it can be looked up as an id.
            stored = _pack(np.moveaxis(stored.astype(np.int32), -1, 0))
            values = [_pack(color) for color in self._class_values]
            void = [_pack(color) for color in self._void]
            label = _class_index(stored, values, void)
        else:
            label = self._look_up(stored)

        strange = label == NO_CLASS
        if strange.any():
            raise self._no_class(path, int(stored[strange][0]), strange.mean())
        return label

    def _no_class(self, path: File, value: int, fraction: float) -> DataError:
        # A color is shown as the definition writes it, not as the number it was looked up by.
        values = self._class_values
        void = self._void
        if self._has_colors:
            what = f"color {_unpack(value)}"
            values = [tuple(color) for color in values]
            void = [tuple(color) for color in void]
        else:
            what = f"id {value}"

        allowed = ", ".join(map(str, values)) + _and(void, " for void")
        return DataError(
            path,
            f"{what} is no class ({fraction:.1%} of the pixels are none)",
            f"Allowed are {allowed}. Add it to `classes` or to `void`.",
        )

    def _to_values(self, stored: np.ndarray, path: File) -> np.ndarray:
        """Stored numbers -> float32 in the task's unit; DataError for one out of its range."""
        # 8- and 16-bit numbers are looked up, which is faster than computing each pixel.
        if stored.dtype in (np.uint8, np.uint16):
            values = self._look_up(stored)
        else:
            values = self._measure(stored)

        wrong = np.isinf(values)
        if wrong.any():
            value = stored[wrong][0]
            scale = float(self._definition.get("scale", 1.0))
            low, high = self._definition["range"]
            void = _and(self._void, "")
            raise DataError(
                path,
                f"value {value * scale:g} (stored as {value:g})",
                f"Allowed are {low}..{high}, the `range` of task '{self.NAME}', "
                f"and nan{void} for unknown. Is `scale` right?",
            )
        return values

    def _measure(self, stored: np.ndarray) -> np.ndarray:
        """Stored values -> float32 in the task's unit; nan is unknown, inf out of range."""
        low, high = self._definition["range"]
        values = stored * float(self._definition.get("scale", 1.0))
        valid = (values >= low) & (values <= high) | np.isnan(values)
        values = np.where(valid, values, np.inf)
        return np.where(np.isin(stored, self._void), np.nan, values).astype(np.float32)

    def _look_up(self, stored: np.ndarray) -> np.ndarray:
        """What the numbers mean; both ways are several times faster than indexing."""
        if stored.dtype == np.uint8:
            return cv2.LUT(stored, self._table[:256])
        return np.take(self._table, stored)

    @functools.cached_property
    def _table(self) -> np.ndarray:
        """What each 16-bit number means: far faster than to work it out for every pixel."""
        numbers = np.arange(2**16)
        if self._kind == "scalar":
            return self._measure(numbers)
        return _class_index(numbers, self._class_values, self._void)


def _one_channel(path: File) -> np.ndarray:
    """An 8- or 16-bit label image (h, w) as stored."""
    pixels = read_numbers(path)
    if pixels.ndim == 2 and pixels.dtype in (np.uint8, np.uint16):
        return pixels
    allowed = "It must be a PNG of up to 16 bits with 1 channel, or with a palette."
    raise DataError(path, kind_of(pixels), allowed)


def _load_array(path: File) -> np.ndarray:
    """The numbers (h, w) of a .npy file."""
    data = read_bytes(path)
    allowed = "It must be a .npy file of numbers."
    try:
        # np.load would also take archives of arrays.
        header = io.BytesIO(data)
        read_header = HEADERS[np.lib.format.read_magic(header)]
        shape, _, dtype = read_header(header)

        # A header can claim more numbers than follow, and than any memory has.
        if math.prod(shape) * dtype.itemsize > len(data):
            raise DataError(path, f"its header says {shape} numbers, which are not there", allowed)
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    # A header is Python, of which anything can be wrong.
    except (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(path, f"cannot be read ({first_line(error)})", allowed) from error

    if array.ndim != 2 or array.dtype.kind not in "fiu":
        problem = f"{array.dtype} array of shape {array.shape}"
        raise DataError(path, problem, "It must hold numbers of shape (height, width).")
    return array


def _pack(color):
    """(red, green, blue) -> one number; arrays too."""
    red, green, blue = color
    return (red << 16) + (green << 8) + blue


def _unpack(number: int) -> str:
    return str((number >> 16, number >> 8 & 255, number & 255))


def _class_index(stored: np.ndarray, values: Sequence[int], void: Sequence[int]) -> np.ndarray:
    """Stored values -> int32 positions in `values`, VOID for `void`, NO_CLASS for any other."""
    known = np.array([*values, *void])
    classes = np.append(np.arange(len(values)), np.full(len(void), VOID))

    # The nearest known value that is not smaller; it is the value, or the value is not known.
    order = np.argsort(known)
    nearest = np.minimum(np.searchsorted(known[order], stored), len(known) - 1)
    is_known = known[order][nearest] == stored
    return np.where(is_known, classes[order][nearest], NO_CLASS).astype(np.int32)


def _and(values: Iterable, what: str) -> str:
    text = ", ".join(map(str, values))
    return f" and {text}{what}" if text else ""
