"""Prepared data sets: ArrayRecord shards in the folders of TensorFlow Datasets.

<data_dir>/<name>/1.0.0/             written by `generalist data prepare`
<data_dir>/<catalog name>/<version>/ written by the TFDS catalog, file_format="array_record"

The catalog's names are nyu_depth_v2, scene_parse150 and coco/2017_panoptic.
"""

from __future__ import annotations

import functools
import json
import os
import re
from typing import TYPE_CHECKING, Any

from etils import epath

from generalist.files import MOST_JSON
from generalist.input_pipeline.sources.files import DataError, LayoutError
from generalist.names import first_line

if TYPE_CHECKING:
    from generalist.input_pipeline.sources.base import Dataset

VERSION = "1.0.0"  # of the prepared form
INFO = "dataset_info.json"
DAMAGED_INFO = (
    "It must be the dataset_info.json of TFDS. If `generalist data prepare` wrote it, delete it "
    "and run that again."
)
EVALUATION_NAMES = ("validation", "val", "test")  # of the evaluation split, in the TFDS catalog


def subsets_file(split: str) -> str:
    """Returns the name of the file that has the rows held out, and by task those trained on."""
    return f"subsets-{split}.json"


class Shards:
    """One split of a prepared data set: `shards[row]` is its record, images still encoded.

    Random access, picklable; every process opens the shards for itself, at its first record.

    Attributes:
      folder: the folder with the shards.
      split: the split's name in that folder.
    """

    def __init__(self, folder: str, split: str, count: int):
        self.folder = folder
        self.split = split
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            return open_records(self.folder, self.split, os.getpid())[row]
        except LayoutError:
            raise
        # ArrayRecord raises RuntimeError or ValueError where a shard is damaged.
        except (RuntimeError, ValueError, OSError, IndexError) as error:
            where = f"{self.folder} ({self.split}, row {row})"
            allowed = "A shard is damaged: delete it and prepare again."
            raise DataError(where, f"cannot be read ({error})", allowed) from error

    def subsets(self) -> dict[str, list[int]]:
        """Returns the rows held out, and by task those it is trained on, as far as prepared.

        Raises:
          LayoutError: their file is damaged, or of other data.
        """
        path = epath.Path(self.folder) / subsets_file(self.split)
        if not path.exists():
            return {}
        try:
            subsets = _read_metadata(path)
            if all(set(rows) <= set(range(len(self))) for rows in subsets.values()):
                return subsets
            problem = f"names rows that are not in 0..{len(self) - 1}"
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            problem = f"cannot be read ({type(error).__name__}: {first_line(error)})"
        allowed = "It must be of `generalist data prepare`: delete it and run that again."
        raise LayoutError(path, problem, allowed)


@functools.lru_cache(maxsize=32)
def open_records(folder: str, split: str, process: int):
    """Opens TFDS's data source of a split, with images left encoded.

    There is one for each process, since readers do not survive a fork.

    Raises:
      LayoutError: the folder cannot be read so.
      ImportError: TFDS is not installed; the message has the command that installs it.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "prepared data sets are read by TFDS: pip install tensorflow-datasets"
        ) from error

    if "://" in folder and not folder.startswith("gs://"):
        raise LayoutError(
            folder,
            "is no folder that ArrayRecord reads",
            "Give one of this machine or gs://, mount it, or copy it.",
        )

    try:
        for path in epath.Path(folder).glob("*.json"):
            _check_length(path.stat().length)
        builder = tfds.builder_from_directory(folder)
        images = [
            name
            for name, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        ]
        decoders = {name: tfds.decode.SkipDecoding() for name in images}
        return builder.as_data_source(split, decoders=decoders)
    # TFDS raises many kinds: NotImplementedError for tfrecord, KeyError, JSONDecodeError, ...
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise LayoutError(
            folder,
            f"cannot be read ({reason})",
            "It must be a TFDS folder of ArrayRecord shards (file_format='array_record').",
        ) from error


def find_prepared(reader: type[Dataset], data_dir, split: str) -> Shards | None:
    """Returns the prepared form of a split, ours or else that of the TFDS catalog.

    Args:
      reader: one of SOURCES.
      data_dir: local path or gs://; None or "" has nothing.
      split: "val" and "test" both mean the one evaluation split, "held_out" a part of train.

    Returns:
      None where there is none.

    Raises:
      LayoutError: its metadata are damaged.
    """
    if not data_dir:
        return None
    split = reader.resolve_split(split)
    base = epath.Path(data_dir).expanduser()

    # What was prepared here knows the tasks' choices of images; the catalog does not.
    ours = base / reader.NAME / VERSION
    counts = split_counts(ours)
    if split in counts:
        return Shards(str(ours), split, counts[split])

    catalog = base / reader.CATALOG
    if not reader.CATALOG or not catalog.exists():
        return None

    names = EVALUATION_NAMES if split == reader.EVAL_SPLIT else (split,)
    newest_first = sorted(catalog.iterdir(), key=version, reverse=True)
    for folder in newest_first:
        counts = split_counts(folder)
        for name in names:
            if name in counts:
                return Shards(str(folder), name, counts[name])
    return None


def version(folder: epath.Path) -> list[int]:
    """Returns the numbers in a folder's name, by which 10.0.0 is newer than 9.0.0."""
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def split_counts(folder: epath.Path) -> dict[str, int]:
    """Returns {split: number of examples} of a TFDS folder; {} if it is none.

    Raises:
      LayoutError: its dataset_info.json is damaged.
    """
    path = folder / INFO
    if not path.exists():
        return {}
    try:
        splits = _read_metadata(path)["splits"]
        return {split["name"]: sum(map(int, split["shardLengths"])) for split in splits}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
        raise LayoutError(path, problem, DAMAGED_INFO) from error


def _read_metadata(path: epath.Path) -> Any:
    with path.open("rb") as file:
        content = file.read(MOST_JSON + 1)
    _check_length(len(content))
    return json.loads(content)


def _check_length(length: int) -> None:
    if length > MOST_JSON:
        raise ValueError(f"longer than {MOST_JSON >> 20} MiB, which no such file is")
