"""What the readers of data sets share: listing and pairing files, reading, skipping damaged ones.

Paths go through `etils.epath`, so that `data_dir` may be a local folder or gs://bucket/folder.
"""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from etils import epath

from generalist import pictures
from generalist.input_pipeline.source import Decoded, Example, ReadWindow
from generalist.input_pipeline.sources.examples import (
    Examples,
    Location,
    OriginalFiles,
    PreparedRecords,
)
from generalist.input_pipeline.sources.files import (
    NO_FOLDER,
    DataError,
    File,
    ImageWindow,
    LayoutError,
    Stored,
    naming,
    png_or_jpeg,
    read_caption,
    read_image,
    read_window,
    require_same_size,
)
from generalist.input_pipeline.sources.held_out import HELD_OUT, ONE_OF, choose_held_out
from generalist.input_pipeline.sources.left_out import LeftOut
from generalist.input_pipeline.sources.tfds import Shards
from generalist.names import one_of

logger = logging.getLogger("generalist")

EVALUATION = ("val", "test")  # both open the one evaluation set that each data set publishes


def find_root(data_dir, folders: tuple[str, ...]) -> epath.Path | None:
    """Returns the first of `folders` that exists below `data_dir`, or None."""
    if not data_dir:
        return None
    candidates = (epath.Path(data_dir).expanduser() / folder for folder in folders)
    return next((path for path in candidates if path.exists()), None)


def text_of(record: Mapping[str, Any], *names: str) -> str:
    """Returns the first text feature of `names` that a record has, or ""; TFDS gives bytes."""
    value = next((record[name] for name in names if record.get(name)), "")
    return value.decode() if isinstance(value, bytes) else value


class Dataset:
    """One split of one data set on disk, for one of its tasks: a `Source`.

    A reader is a subclass. It states the constants below, says in `index` where its examples lie,
    and, unless its labels are images, reads them in `decode_label` and `to_label`. The same reader
    serves original files and prepared records.

    Args:
      data_dir: local path or gs:// of the folder that holds the data set's folder.
      split: one of SPLITS; "val" and "test" both open the evaluation split; "held_out" is the part
        of the official training split that "train" leaves out, see `choose_held_out`.
      task: one of TASKS (default: the first).
      on_error: "raise" the DataError of a damaged example, or "skip" it: the next readable example
        takes its place, always the same one; `damaged` has its file and the log names it once.
        Both include copies of the source in worker processes.
      hold_out: False opens the official training split as "train", with what is held out.
      quiet: log nothing about counts and files left out; the caller looks into `counts` and
        `damaged`.
      shards: records of this split to read instead of the original files.

    Attributes:
      official_split: the split on disk, of which `split` may be a part.
      counts: {official split, or part of it: number of examples there}.
      root: the folder that is read.
      subsets: rows of the official split: {"held_out": those never trained on, task: those that a
        task is trained on, where it leaves out some}.
      examples: where the examples lie.

    Raises:
      ValueError: unknown split, task or `on_error`.
      LayoutError: the folder is not as LAYOUT says.
    """

    NAME: str  # the key in SOURCES
    TASKS: tuple[str, ...]
    SPLITS: ClassVar[Mapping[str, str]]  # split -> its folder or name on disk
    EVAL_SPLIT: str
    FOLDERS: tuple[str, ...]  # accepted names below data_dir; the first is the one we recommend
    WHERE: str  # where it comes from
    LICENSE: str  # under which terms
    LAYOUT: str  # what must lie below data_dir
    NEEDED: tuple[tuple[str, ...], ...]  # below the folder, one of each tuple must exist
    USUAL: ClassVar[Mapping[str, int]]  # split -> usual number of examples; another is logged
    SUFFIXES = pictures.SUFFIXES  # of the files it reads
    LABEL = "label"  # feature of the label in the prepared form, named as in the TFDS catalog
    CATALOG = ""  # the data set's folder in the TFDS catalog
    HOLDS_OUT = True  # whether "train" leaves out the examples of "held_out"
    UPRIGHT = False  # whether labels lie on the image as people see it, not as it is stored

    seed: int | None = None
    groups: tuple[str, ...] = ()

    def __init__(
        self,
        data_dir,
        split: str = "train",
        task: str | None = None,
        *,
        on_error: str = "raise",
        hold_out: bool = True,
        quiet: bool = False,
        shards: Shards | None = None,
    ):
        # Names are checked before the disk is asked.
        self.task = one_of(task or self.TASKS[0], self.TASKS, f"task of {self.NAME}")
        part = [HELD_OUT] if self.HOLDS_OUT else []
        splits = dict.fromkeys([*self.SPLITS, *EVALUATION, *part])
        self.official_split = self.resolve_split(one_of(split, splits, f"split of {self.NAME}"))
        self.split = HELD_OUT if split == HELD_OUT else self.official_split
        skip = one_of(on_error, ("raise", "skip"), "on_error") == "skip"
        self._left_out = LeftOut() if skip else None
        self._quiet = quiet
        self.counts: dict[str, int] = {}

        root = find_root(data_dir, self.FOLDERS) if shards is None else shards.folder
        if root is None:
            problem = f"holds no folder {' or '.join(self.FOLDERS)}"
            raise LayoutError(data_dir or "data_dir", problem, self.expected_layout())
        self.root = str(root)

        # From here on it does not matter which of the two the examples are.
        if shards is None:
            whole = self.index()
            prepared = {}
        else:
            whole = PreparedRecords(shards, self.official_split, self.from_record)
            prepared = shards.subsets()
        self.subsets = self.choose(whole) | prepared
        self.examples = self._part(whole, hold_out)
        self.report_count(self.official_split, len(whole) if len(self) else 0)

    def _part(self, whole: Examples, hold_out: bool) -> Examples:
        """Returns the examples of `split` for the task."""
        held_out = self.subsets.get(HELD_OUT, [])
        if self.split == HELD_OUT:
            if not held_out:
                raise LayoutError(
                    self.root,
                    f"none of the {len(whole)} examples of {self.official_split} are held out",
                    f"One scene of {ONE_OF} is. Measure another split during training, "
                    "--config.eval.split=val, or none, --config.eval.every_steps=0.",
                )
            return whole.part(held_out)

        # Few of the data sets, and no evaluation split, are used in part.
        rows = self.subsets.get(self.task)
        if held_out and hold_out:
            excluded = set(held_out)
            rows = range(len(whole)) if rows is None else rows
            rows = [row for row in rows if row not in excluded]
        return whole if rows is None else whole.part(rows)

    # What a reader defines.

    def index(self) -> Examples:
        """Finds the examples of `official_split` below `root`."""
        raise NotImplementedError

    def scene_of(self, key: str) -> str:
        """Returns the scene that an example shows; where none is known, the example's own key."""
        return key

    def choose(self, examples: Examples) -> dict[str, list[int]]:
        """Returns `subsets` of the examples of `official_split`."""
        if self.official_split != "train" or not self.HOLDS_OUT:
            return {}
        return {HELD_OUT: choose_held_out([self.scene_of(key) for key in examples.names()])}

    def decode_label(self, label: File | np.ndarray) -> np.ndarray:
        """Returns the label as it is stored, (h, w, ...); by default it is an image."""
        return label if isinstance(label, np.ndarray) else read_image(label)

    def to_label(self, stored: np.ndarray, location: Location, whole: bool) -> Any:
        """Converts a stored label to the form of the task.

        Args:
          stored: what `decode_label` returned, or a window of it.
          location: where the example lies.
          whole: whether `stored` is all of the label.

        Raises:
          DataError: a value is out of range.
        """
        return stored

    def decode_files(
        self, location: Location, window: ReadWindow | None, decoded: Decoded | None
    ) -> tuple[ImageWindow, np.ndarray]:
        """Decodes the window of an image, and all of its label as it is stored.

        Args:
          location: where the example lies.
          window: of the image; None is all of it.
          decoded: as of `intact`; by default the tasks of a reader share nothing.
        """
        with naming(self._name(location.image, location)):
            image = read_window(location.image, window, self.UPRIGHT)
        with naming(self._name(location.label, location)):
            stored = self.decode_label(location.label)
            require_same_size(
                image.size, location.image, stored.shape[:2], location.label, self.UPRIGHT
            )
        return image, stored

    def leave_out(self, rows: Collection[int]) -> None:
        """Leaves examples out of a source of original files, as if their files were not there."""
        kept = [row for row in range(len(self)) if row not in rows]
        self.examples = self.examples.part(kept)
        self.subsets = self.choose(self.examples)

    # Reading.

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        return self.read(index)

    def read(self, index: int, window: ReadWindow | None = None) -> Example:
        """Reads example `index`, or a window of it; where it is skipped, the next readable one.

        Raises:
          IndexError: as a list; negative indices count from the end.
          DataError: the example is damaged, and not to be skipped.
          LayoutError: no example can be read.
        """
        count = len(self)
        first = range(count)[index]
        for step in range(count):
            try:
                return self.read_or_raise((first + step) % count, window)
            except DataError as error:
                self.skip_or_raise(error)

        problem = f"none of the {count} examples of {self.split} can be read"
        raise LayoutError(self.root, problem, self.expected_layout())

    def intact(self, index: int, decoded: Decoded | None = None) -> Example | None:
        """Reads example `index`, or returns None where it is damaged and to be skipped."""
        try:
            return self.read_or_raise(index, decoded=decoded)
        except DataError as error:
            self.skip_or_raise(error)
            return None

    def read_or_raise(
        self, index: int, window: ReadWindow | None = None, decoded: Decoded | None = None
    ) -> Example:
        """Reads example `index`, or a window of it; DataError if damaged, whatever `on_error`."""
        with naming(f"{self.root} ({self.split}, example {index})"):
            location = self.examples.locate(index)
        return self._decode(location, window, decoded)

    def _decode(
        self, location: Location, window: ReadWindow | None, decoded: Decoded | None
    ) -> Example:
        image, stored = self.decode_files(location, window, decoded)
        with naming(self._name(location.label, location)):
            label = self.to_label(stored[image.crop], location, whole=window is None)
        example = {"image": image.pixels, "label": label, "key": location.key}
        if location.caption:
            example["prompt"] = read_caption(location.caption)
        return example

    def _name(self, file: File | np.ndarray, location: Location) -> str:
        """Returns what errors call a file; pixels that were cut out of one have a key only."""
        return f"{self.root} ({location.key})" if isinstance(file, np.ndarray) else str(file)

    # Records of the prepared form.

    def record(self, index: int) -> dict[str, Any]:
        """Returns what `generalist data prepare` stores of example `index`.

        Image files are stored as they are, beside the values that JSON files hold.
        """
        location = self.examples.locate(index)
        return {
            "key": location.key,
            "image": png_or_jpeg(location.image),
            self.LABEL: png_or_jpeg(location.label),
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any], where: str) -> Location:
        """Returns the example in a record as a location, with its files' contents.

        Args:
          record: a record of the prepared form, or of the TFDS catalog.
          where: where the record lies, for errors; it ends with the row, which is the key where
            the catalog has none.

        Raises:
          KeyError: it is the record of another form.
        """
        label = record[cls.LABEL]
        key = text_of(record, "key", "image/filename") or where.rpartition(" ")[2].strip(")")
        return Location(
            key,
            Stored(f"{where}, image", record["image"]),
            Stored(f"{where}, {cls.LABEL}", label) if isinstance(label, bytes) else label,
        )

    def read_record(self, record: Mapping[str, Any], where: str) -> Example:
        """Reads the example in a record."""
        return self._decode(self.from_record(record, where), None, None)

    # What a source says of itself.

    @property
    def damaged(self) -> dict[str, str]:
        """{file left out so far, by this process or a worker: what is wrong with it}."""
        return self._left_out.read() if self._left_out else {}

    def stamp(self) -> str:
        """Returns names and sizes of the files of this split, the same on every machine.

        "" for gs://, where asking takes long.
        """
        if "://" in self.root:
            return ""
        paths = sorted({path for path in self.examples.paths() if os.path.isfile(path)})
        return str([(os.path.relpath(path, self.root), os.path.getsize(path)) for path in paths])

    def expected_layout(self) -> str:
        """Returns where the data set comes from, its terms and its layout, for errors."""
        return (
            f"{self.NAME} comes from {self.WHERE} ({self.LICENSE}). "
            f"Layout expected below data_dir:\n{self.LAYOUT}"
        )

    @classmethod
    def resolve_split(cls, split: str) -> str:
        """Returns the split on disk that has the examples of `split`."""
        if split == HELD_OUT:
            return "train"
        return cls.EVAL_SPLIT if split in EVALUATION else split

    # Help for `index`.

    def files(
        self,
        folder: str,
        pattern: str = "*",
        strip: str = "",
        suffixes: Sequence[str] | None = None,
    ) -> dict[str, str]:
        """Lists the image files of a folder.

        Args:
          folder: path below the root.
          pattern: glob pattern of the files in it.
          strip: text to remove from the names, so that image and label have one name.
          suffixes: of the files; None takes SUFFIXES.

        Returns:
          {path below `folder` without suffix and `strip`: full path}.

        Raises:
          LayoutError: there is no such file, or two have one name.
        """
        base = epath.Path(self.root) / folder
        paths_by_key: dict[str, str] = {}
        suffixes = suffixes or self.SUFFIXES

        # Plain strings: path objects double the time, and some data sets have 200,000 files.
        for path in map(str, base.glob(pattern) if base.exists() else ()):
            stem, suffix = os.path.splitext(path[len(str(base)) + 1 :])
            hidden = os.path.basename(stem).startswith(".")
            if hidden or suffix.lower() not in suffixes:
                continue

            key = stem.replace(strip, "")
            if key in paths_by_key:
                problem = f"has the same name as {paths_by_key[key]}"
                raise LayoutError(path, problem, "Keep one of them.")
            paths_by_key[key] = path

        if not paths_by_key:
            kind = "image" if suffixes == self.SUFFIXES else "file"
            problem = f"holds no {kind} {pattern}" if base.exists() else NO_FOLDER
            raise LayoutError(base, problem, self.expected_layout())
        return paths_by_key

    def pair(self, images: Mapping[str, str], labels: Mapping[str, str]) -> list[Location]:
        """Joins images and labels of one name, sorted; a half without its twin is damaged."""
        # The error names a file of the other folder, which shows how the lost half is called.
        for key in sorted(images.keys() ^ labels.keys()):
            if key in images:
                path = images[key]
                absent = "label"
                example = min(labels.values())
            else:
                path = labels[key]
                absent = "image"
                example = min(images.values())
            problem = f"has no {absent}: none is named like {key!r}"
            self.skip_or_raise(
                DataError(path, problem, f"A {absent} such as {example} must exist.")
            )

        keys = sorted(images.keys() & labels.keys())
        return [Location(key, images[key], labels[key]) for key in keys]

    def pair_files(self, images: str, labels: str) -> OriginalFiles:
        """Pairs the files of two folders below the root."""
        return OriginalFiles(self.pair(self.files(images), self.files(labels)))

    def skip_or_raise(self, error: DataError) -> None:
        """Notes a damaged file as left out, or raises its error where files are not skipped.

        Raises:
          LayoutError: the whole folder is gone, so that not one file after the other is skipped.
        """
        path, problem, _ = error.args
        if not epath.Path(self.root).exists():
            raise LayoutError(
                self.root,
                "the folder is no longer there",
                "Mount or restore it: the same command goes on.",
            ) from error

        if self._left_out is None or isinstance(error, LayoutError):
            raise error
        if self._left_out.add(path, problem):
            self.log(logging.WARNING, f"{self.NAME}: skipped {path}: {problem}")

    def report_count(self, split: str, count: int) -> None:
        """Notes the number of examples of a split, or part of it; LayoutError if it has none."""
        if not count:
            raise LayoutError(self.root, f"no complete example of {split}", self.expected_layout())
        self.counts[split] = count
        usual = self.USUAL.get(split, count)
        if count != usual:
            self.log(
                logging.WARNING,
                f"{self.NAME}/{split}: {count} examples in {self.root} (usually {usual})",
            )

    def log(self, level: int, message: str) -> None:
        """Logs a message, unless the source is quiet."""
        if not self._quiet:
            logger.log(level, message)
