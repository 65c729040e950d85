"""What the readers of the official data sets share: listing, pairing, decoding, and damaged files.

Paths go through `etils.epath`, so that `data_dir` may be a local folder or gs://bucket/folder.
"""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import cv2
from etils import epath
import numpy as np

EVALUATION = ("val", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_START = b"\x89PNG"
AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
# The bare bits for "a fraction of the size"; with AS_STORED the colours stay, whatever their names say.
SHRINK = {1: 0, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 8: cv2.IMREAD_REDUCED_GRAYSCALE_8}
NO_FRAME = (0xC4, 0xC8, 0xCC)  # of the JPEG markers C0..CF those that begin no frame


class DataError(ValueError):
    """A file is missing, damaged or out of its range: which one, what is wrong, what is allowed."""

    hint = "Set --config.data.on_error=skip to go on without such files: they are counted and reported."

    def __init__(self, path, problem: str, allowed: str):
        super().__init__(str(path), problem, allowed)  # all three in `args`, so that it survives pickling

    def __str__(self) -> str:
        path, problem, allowed = self.args
        return f"{path}: {problem}. {allowed} {self.hint}".rstrip()


class LayoutError(DataError):
    """A whole folder or annotation file is not as it must be; leaving out single files does not help."""

    hint = ""


def choose(what: str, value, allowed: Iterable[str]):
    """Returns `value` if it is allowed, else raises ValueError with the closest match."""
    allowed = list(allowed)
    if value in allowed:
        return value
    close = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {what} {value!r}.{guess} Allowed: {', '.join(allowed)}.")


def read_bytes(path: str) -> bytes:
    """The content of a file; DataError if it cannot be read or is empty."""
    try:
        data = epath.Path(path).read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(path, reason, "Every example needs its image and its label.") from error
    if not data:
        raise DataError(path, "the file is empty (0 bytes)", "It must be a PNG or JPEG image.")
    return data


class Stored(NamedTuple):
    """The content of an image file that lies inside another file; `name` says where, in errors."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


File = str | Stored  # what the functions below read: a path, or an image file's content
Window = tuple[slice, slice]  # rows and columns
EVERYTHING = (slice(None), slice(None))


class Part(NamedTuple):
    """What to read of an example, instead of all of it.

    Attributes:
      window: size (h, w) of the image -> the rows and columns to read.
      enough: number of rows, and of columns, that the reader needs; with twice as many in the window a JPEG is decoded at half the size.
    """

    window: Callable[[tuple[int, int]], Window]
    enough: int


def decode(path: File, flags: int) -> np.ndarray:
    """Decodes one image file by OpenCV; channels in OpenCV's order (BGR)."""
    data = path.data if isinstance(path, Stored) else read_bytes(path)
    # Some decoders fill the lost part of a cut JPEG with grey and say nothing: look for its end marker.
    cut = data.startswith(JPEG_START) and not data.endswith(JPEG_END) and data.find(JPEG_END, data.rfind(JPEG_SCAN)) < 0
    try:
        pixels = None if cut else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a header that asks for more pixels than OpenCV allows
        pixels = None
    if pixels is None:
        raise DataError(path, f"cannot be decoded ({len(data)} bytes, cut short or damaged)",
                        "It must be a PNG or JPEG image.")
    return pixels


def read_image(path: File, shrink: int = 1) -> np.ndarray:
    """Reads an image as uint8 (h, w, 3) RGB in 0..255; DataError for one of 16 bits, which would lose half of them.

    An EXIF orientation is ignored: the labels of these data sets lie on the stored pixel grid. With `shrink` 2, 4 or 8 a JPEG
    has that fraction of its rows and columns, rounded up: pixel (i, j) is the mean of a square of so many pixels a side.
    """
    pixels = decode(path, AS_STORED | SHRINK[shrink])
    if pixels.dtype != np.uint8:
        raise DataError(path, f"{pixels.dtype.itemsize * 8}-bit image", "An image must have 8 bits a channel.")
    return pixels


def read_part(image: File | np.ndarray, part: Part | None) -> tuple[np.ndarray, Window, tuple[int, int]]:
    """Reads a part of an image, or all of it for None: (pixels uint8, its window in the stored image, size (h, w) of that).

    A JPEG whose window has at least 2, 4 or 8 times the pixels that are enough, along both axes, is decoded at that fraction of its
    size. Its window is then cut to whole squares of so many pixels, so that it shows exactly what the label's window shows.
    """
    if isinstance(image, str):
        image = Stored(image, read_bytes(image))
    size = jpeg_size(image.data) if part and isinstance(image, Stored) else None
    if size is None:
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        window = part.window(pixels.shape[:2]) if part else EVERYTHING
        return pixels[window], window, pixels.shape[:2]
    window = part.window(size)
    side = min(axis.stop - axis.start for axis in window)
    shrink = max(n for n in SHRINK if n == 1 or side // n >= part.enough)
    pixels = read_image(image, shrink)
    small = tuple(slice(axis.start // shrink, axis.start // shrink + (axis.stop - axis.start) // shrink) for axis in window)
    return pixels[small], tuple(slice(axis.start * shrink, axis.stop * shrink) for axis in small), size


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(h, w) as the header of a JPEG file says, before anything is decoded; None for any other file."""
    at = 2
    while data.startswith(JPEG_START) and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2:at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            return int.from_bytes(data[at + 5:at + 7]), int.from_bytes(data[at + 7:at + 9])
        at += 1 if marker == 0xFF else 2 + length  # any number of bytes FF may stand before a marker
    return None


def read_map(path: File, dtype: type, what: str) -> np.ndarray:
    """Reads a label image (h, w) of exactly this dtype, as stored; DataError for any other."""
    pixels = decode(path, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != dtype or pixels.ndim != 2:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise DataError(path, f"{pixels.dtype.itemsize * 8}-bit image with {channels} channel(s)",
                        f"{what} must be {'an 8' if dtype == np.uint8 else 'a 16'}-bit PNG with 1 channel.")
    return pixels


def require_same_size(size: tuple[int, int], image: File, label_size: tuple[int, int], label: File) -> None:
    """DataError unless both lie on one pixel grid."""
    if size != label_size:
        (h, w), (label_h, label_w) = size, label_size
        raise DataError(label, f"is {label_w}x{label_h} (width x height), but its image {image} is {w}x{h}",
                        "Image and label must have the same size.")


def png(pixels: np.ndarray) -> bytes:
    """uint8 (h, w, 3) RGB, or uint8 or uint16 (h, w) -> a PNG file."""
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def png_or_jpeg(path: str) -> bytes:
    """The content of an image file as it is; a file of another format as PNG, which loses nothing."""
    data = read_bytes(path)
    return data if data.startswith((PNG_START, JPEG_START)) else png(read_image(Stored(path, data)))


def find_root(data_dir, folders: tuple[str, ...]) -> epath.Path | None:
    """The first of `folders` that exists below `data_dir`, or None."""
    if not data_dir:
        return None
    candidates = (epath.Path(data_dir).expanduser() / folder for folder in folders)
    return next((path for path in candidates if path.exists()), None)


def text_of(record: dict[str, Any], *names: str) -> str:
    """The first text feature of `names` that a record has, or ""; TFDS gives bytes."""
    value = next((record[name] for name in names if record.get(name)), "")
    return value.decode() if isinstance(value, bytes) else value


def to_stderr(message: str) -> None:
    """Where a source says what it counted and left out, unless it is told otherwise."""
    print(message, file=sys.stderr)


class Source:
    """Random access to one split of one data set: picklable, deterministic, read on demand.

    `source[i]` is {"image": uint8 (h, w, 3) RGB, "label": the form of the task, "key": str}.
    `source.get(i, part)` reads only a part of it. A subclass states the class attributes, fills `items` in `index()`, finds an example in
    `locate()`, and reads its label in `decode_label()` and `to_label()`.

    Args:
      data_dir: local path or gs:// of the folder that holds the data set's folder.
      split: one of SPLITS; "val" and "test" both open the one evaluation set that each data set publishes.
      task: one of TASKS (default: the first).
      on_error: "raise" the DataError of a damaged example, or "skip" it: the next readable example
        takes its place, always the same one, `skipped` counts its file and `log` names it once.
      log: takes each line about unusual counts and files left out.
      prepared: records of this split to read instead of the original files (see `sources.tfds`).

    Attributes:
      counts: {split, or part of it: number of examples found}.
      damaged: {file left out: what is wrong with it}.
    """

    NAME: str  # the key in SOURCES
    TASKS: tuple[str, ...]
    SPLITS: dict[str, str]  # split -> its folder or name on disk
    EVAL_SPLIT: str
    FOLDERS: tuple[str, ...]  # accepted names below data_dir; the first is the one we recommend
    WHERE: str  # where it comes from
    LICENCE: str  # under which terms
    LAYOUT: str  # what must lie below data_dir
    NEEDED: tuple[tuple[str, ...], ...]  # below the folder, one of each tuple must exist
    LABEL = "label"  # the feature of the label in the prepared form, named as in the TFDS catalogue where that has the data set
    SUFFIXES = IMAGE_SUFFIXES  # of the files it reads
    CATALOGUE = ""  # the data set's folder in the TFDS catalogue
    USUAL: dict[str, int]  # split -> usual number of examples: printed when another, never required

    def __init__(self, data_dir, split: str = "train", task: str | None = None, on_error: str = "raise",
                 log: Callable[[str], object] = to_stderr, prepared=None):
        self.task = choose(f"task of {self.NAME}", task or self.TASKS[0], self.TASKS)
        split = choose(f"split of {self.NAME}", split, dict.fromkeys([*self.SPLITS, *EVALUATION]))
        self.split = self.EVAL_SPLIT if split in EVALUATION else split
        self.on_error = choose("on_error", on_error, ("raise", "skip"))
        self.log = log
        self.counts: dict[str, int] = {}
        self.damaged: dict[str, str] = {}
        self.prepared = prepared
        root = find_root(data_dir, self.FOLDERS) if prepared is None else prepared.folder
        if root is None:
            problem = f"holds no folder {' or '.join(self.FOLDERS)}"
            raise LayoutError(data_dir or "data_dir", problem, self.expected_layout())
        self.root = str(root)
        self.items = self.index() if prepared is None else prepared.rows(self.task)
        self._report_count(self.split, len(self))

    def index(self) -> list:
        """Lists the examples: (key, image path, label path) each."""
        raise NotImplementedError

    def decode_label(self, label: File | np.ndarray) -> np.ndarray:
        """The label as it is stored, (h, w, ...); that of a restoration task is the clean image."""
        return label if isinstance(label, np.ndarray) else read_image(label)

    def to_label(self, stored: np.ndarray, path: File) -> np.ndarray:
        """What `decode_label` returns, or a part of it -> the form of the task; DataError for values out of range."""
        return stored

    def read(self, index: int, part: Part | None = None) -> dict:
        """Reads example `index`, or a part of it, or raises DataError."""
        if self.prepared is None:
            return self.example(*self.locate(index), part=part)
        row = self.items[index]
        record = self.prepared[row]
        try:
            located = self.locate_in(record, f"{self.root} ({self.split}, row {row})")
        except KeyError as error:
            allowed = f"They have {', '.join(sorted(record))}: is it another data set's folder?"
            raise LayoutError(self.root, f"its examples have no feature {error}", allowed) from error
        return self.example(*located, part=part)

    def locate(self, index: int) -> tuple:
        """Of example `index` what `example` takes: its key, image and label in the original files."""
        return self.items[index]

    def record(self, index: int) -> dict[str, Any]:
        """What `generalist data prepare` stores of example `index`: image files as they are, values that JSON files hold."""
        key, image_path, label_path = self.items[index]
        return {"key": key, "image": png_or_jpeg(image_path), self.LABEL: png_or_jpeg(label_path)}

    def subsets(self) -> dict[str, list[int]]:
        """{task: the examples it is trained on} for the tasks that leave out some of this split."""
        return {}

    def locate_in(self, record: dict[str, Any], where: str) -> tuple:
        """`locate` in a record; `where` it lies is for errors. Some of the TFDS catalogue have no key: the row at its end stands in."""
        label, key = record[self.LABEL], text_of(record, "key", "image/filename") or where.rpartition(" ")[2].strip(")")
        return (key, Stored(f"{where}, image", record["image"]),
                Stored(f"{where}, {self.LABEL}", label) if isinstance(label, bytes) else label)

    def read_record(self, record: dict[str, Any], where: str) -> dict:
        """The example of a record."""
        return self.example(*self.locate_in(record, where))

    def example(self, key: str, image: File | np.ndarray, label: File | np.ndarray, part: Part | None = None) -> dict:
        """Decodes an example, or a part of it."""
        pixels, window, size = read_part(image, part)
        stored = self.decode_label(label)
        require_same_size(size, image, stored.shape[:2], label)
        return {"image": pixels, "label": self.to_label(stored[window], label), "key": key}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict:
        return self.get(index)

    def get(self, index: int, part: Part | None = None) -> dict:
        """`source[index]`, or only a part of it."""
        count = len(self)
        first = range(count)[index]  # negative indices and IndexError as a list has them
        for step in range(count):
            try:
                return self.read((first + step) % count, part)
            except DataError as error:
                self._skip(error)
        problem = f"none of the {count} examples of {self.split} can be read"
        raise LayoutError(self.root, problem, self.expected_layout())

    @property
    def skipped(self) -> int:
        """Number of damaged files that this process has met and left out."""
        return len(self.damaged)

    @classmethod
    def expected_layout(cls) -> str:
        """Where the data set comes from, its terms and its layout, for errors."""
        return f"{cls.NAME} comes from {cls.WHERE} ({cls.LICENCE}). Layout expected below data_dir:\n{cls.LAYOUT}"

    def files(self, folder: str, pattern: str = "*", strip: str = "") -> dict[str, str]:
        """Image files of `folder` (below the root): {relative path without suffix and `strip`: full path}."""
        base = epath.Path(self.root) / folder
        found: dict[str, str] = {}
        for path in map(str, base.glob(pattern) if base.exists() else ()):
            # Plain strings: path objects double the time, and some data sets have 200,000 files.
            stem, suffix = os.path.splitext(path[len(str(base)) + 1:])
            if suffix.lower() in self.SUFFIXES and not os.path.basename(stem).startswith("."):
                key = stem.replace(strip, "")
                if key in found:
                    raise LayoutError(path, f"has the same name as {found[key]}", "Keep one of them.")
                found[key] = path
        if not found:
            state = f"holds no image {pattern}" if base.exists() else "no such folder"
            raise LayoutError(base, state, self.expected_layout())
        return found

    def pair(self, images: dict[str, str], labels: dict[str, str]) -> list[tuple[str, str, str]]:
        """Joins images and labels by name, sorted; a half without its twin is a DataError."""
        for key in sorted(images.keys() ^ labels.keys()):
            half, lost, others = (images, "label", labels) if key in images else (labels, "image", images)
            self._skip(DataError(half[key], f"has no {lost}: none is named like {key!r}",
                                 f"A {lost} such as {min(others.values())} must exist."))
        return [(key, images[key], labels[key]) for key in sorted(images.keys() & labels.keys())]

    def _skip(self, error: DataError) -> None:
        path, problem, _ = error.args
        if not epath.Path(self.root).exists():  # not one file after the other
            raise LayoutError(self.root, "the folder is no longer there", "Mount or restore it: the same command goes on.") from error
        if self.on_error == "raise" or isinstance(error, LayoutError):
            raise error
        if path not in self.damaged:
            self.damaged[path] = problem
            self.log(f"{self.NAME}: skipped {path}: {problem}")

    def _report_count(self, split: str, count: int) -> None:
        if not count:
            raise LayoutError(self.root, f"no complete example of {split}", self.expected_layout())
        self.counts[split] = count
        usual = self.USUAL.get(split, count)
        if count != usual:
            self.log(f"{self.NAME}/{split}: {count} examples in {self.root} (usually {usual})")
