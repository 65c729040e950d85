"""What the readers of the official data sets share: listing, pairing, reading parts, and leaving out damaged files.

Paths go through `etils.epath`, so that `data_dir` may be a local folder or gs://bucket/folder.
"""

import difflib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from etils import epath

from generalist.input_pipeline.sources.files import (
    IMAGE_SUFFIXES,
    NO_FOLDER,
    DataError,
    File,
    LayoutError,
    Part,
    Stored,
    png_or_jpeg,
    read_image,
    read_part,
    require_same_size,
)
from generalist.input_pipeline.sources.left_out import LeftOut

EVALUATION = ("val", "test")


def choose(what: str, value, allowed: Iterable[str]):
    """Returns `value` if it is allowed, else raises ValueError with the closest match."""
    allowed = list(allowed)
    if value in allowed:
        return value
    close = difflib.get_close_matches(str(value), allowed, n=1, cutoff=0.4)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"unknown {what} {value!r}.{guess} Allowed: {', '.join(allowed)}.")


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
        takes its place, always the same one, `skipped` counts its file and `log` names it once; both include
        copies of the source in worker processes.
      log: takes each line about unusual counts and files left out.
      prepared: records of this split to read instead of the original files (see `sources.tfds`).

    Attributes:
      counts: {split, or part of it: number of examples found}.
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
    # Figures are means over these groups of examples; a group is the first part of an example's key.
    groups: tuple[str, ...] = ()
    seed: int | None = None  # only a source that makes its examples has one
    USUAL: dict[str, int]  # split -> usual number of examples: printed when another, never required

    def __init__(
        self,
        data_dir,
        split: str = "train",
        task: str | None = None,
        on_error: str = "raise",
        log: Callable[[str], object] = to_stderr,
        prepared=None,
    ):
        self.task = choose(f"task of {self.NAME}", task or self.TASKS[0], self.TASKS)
        split = choose(f"split of {self.NAME}", split, dict.fromkeys([*self.SPLITS, *EVALUATION]))
        self.split = self.EVAL_SPLIT if split in EVALUATION else split
        self.log = log
        self.counts: dict[str, int] = {}
        self._left_out = (
            LeftOut() if choose("on_error", on_error, ("raise", "skip")) == "skip" else None
        )
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
            raise LayoutError(
                self.root, f"its examples have no feature {error}", allowed
            ) from error
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
        label, key = (
            record[self.LABEL],
            text_of(record, "key", "image/filename") or where.rpartition(" ")[2].strip(")"),
        )
        return (
            key,
            Stored(f"{where}, image", record["image"]),
            Stored(f"{where}, {self.LABEL}", label) if isinstance(label, bytes) else label,
        )

    def read_record(self, record: dict[str, Any], where: str) -> dict:
        """The example of a record."""
        return self.example(*self.locate_in(record, where))

    def example(
        self, key: str, image: File | np.ndarray, label: File | np.ndarray, part: Part | None = None
    ) -> dict:
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

    def intact(self, index: int) -> dict | None:
        """`source[index]`, but None where that is damaged and to be skipped: a figure must not count another example in its place."""
        try:
            return self.read(index)
        except DataError as error:
            self._skip(error)
            return None

    def stamp(self) -> str:
        """Names and sizes of the files of this split, the same on every machine that has them; "" for gs://, where to ask takes long."""
        if "://" in self.root:
            return ""
        paths = self.paths() if self.prepared is None else map(str, epath.Path(self.root).glob("*"))
        return str(
            [
                (os.path.relpath(path, self.root), os.path.getsize(path))
                for path in sorted(set(paths))
                if os.path.isfile(path)
            ]
        )

    def paths(self) -> Iterable[str]:
        """The original files of this split; what is no file among them does not count."""
        return (part for item in self.items for part in item if isinstance(part, str))

    @property
    def damaged(self) -> dict[str, str]:
        """{file left out so far, by this process or a worker: what is wrong with it}."""
        return self._left_out.read() if self._left_out else {}

    @property
    def skipped(self) -> int:
        """Number of damaged files that were left out so far."""
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
            stem, suffix = os.path.splitext(path[len(str(base)) + 1 :])
            if suffix.lower() in self.SUFFIXES and not os.path.basename(stem).startswith("."):
                key = stem.replace(strip, "")
                if key in found:
                    raise LayoutError(
                        path, f"has the same name as {found[key]}", "Keep one of them."
                    )
                found[key] = path
        if not found:
            state = f"holds no image {pattern}" if base.exists() else NO_FOLDER
            raise LayoutError(base, state, self.expected_layout())
        return found

    def pair(self, images: dict[str, str], labels: dict[str, str]) -> list[tuple[str, str, str]]:
        """Joins images and labels by name, sorted; a half without its twin is a DataError."""
        for key in sorted(images.keys() ^ labels.keys()):
            half, lost, others = (
                (images, "label", labels) if key in images else (labels, "image", images)
            )
            self._skip(
                DataError(
                    half[key],
                    f"has no {lost}: none is named like {key!r}",
                    f"A {lost} such as {min(others.values())} must exist.",
                )
            )
        return [(key, images[key], labels[key]) for key in sorted(images.keys() & labels.keys())]

    def _skip(self, error: DataError) -> None:
        path, problem, _ = error.args
        if not epath.Path(self.root).exists():  # not one file after the other
            raise LayoutError(
                self.root,
                "the folder is no longer there",
                "Mount or restore it: the same command goes on.",
            ) from error
        if self._left_out is None or isinstance(error, LayoutError):
            raise error
        if self._left_out.add(path, problem):
            self.log(f"{self.NAME}: skipped {path}: {problem}")

    def _report_count(self, split: str, count: int) -> None:
        if not count:
            raise LayoutError(self.root, f"no complete example of {split}", self.expected_layout())
        self.counts[split] = count
        usual = self.USUAL.get(split, count)
        if count != usual:
            self.log(f"{self.NAME}/{split}: {count} examples in {self.root} (usually {usual})")
