"""Prepared data sets: ArrayRecord shards in the folders of TensorFlow Datasets, written by us or by the TFDS catalogue.

<data_dir>/<name>/1.0.0/                        by `generalist data prepare`
<data_dir>/{nyu_depth_v2,scene_parse150,coco/2017_panoptic}/<version>/     by TFDS, file_format="array_record"
"""

import functools
import json
import os
import re
from typing import Any

from etils import epath

from generalist.input_pipeline.sources.base import EVALUATION, Source
from generalist.input_pipeline.sources.files import DataError, LayoutError

VERSION = "1.0.0"  # of the prepared form
INFO = "dataset_info.json"
DAMAGED_INFO = "It must be the dataset_info.json of TFDS. If `generalist data prepare` wrote it, delete it and run that again."
EVALUATION_NAMES = ("validation", "val", "test")  # of the evaluation split, in the TFDS catalogue


def subsets_file(split: str) -> str:
    """The file beside the shards that has, by task, the rows of a split it is trained on."""
    return f"subsets-{split}.json"


class Prepared:
    """One split of a prepared data set: `prepared[row]` is its record, images still encoded.

    Random access, picklable; every process opens the shards for itself, at its first record.

    Attributes:
      folder: with the shards.
      split: its name in that folder.
    """

    def __init__(self, folder: str, split: str, count: int):
        self.folder, self.split, self._count = folder, split, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: int) -> dict[str, Any]:
        try:
            return open_records(self.folder, self.split, os.getpid())[row]
        except LayoutError:
            raise
        except (
            RuntimeError,
            ValueError,
            OSError,
            IndexError,
        ) as error:  # ArrayRecord raises RuntimeError or ValueError for damage
            where = f"{self.folder} ({self.split}, row {row})"
            raise DataError(
                where,
                f"cannot be read ({error})",
                "A shard is damaged: delete it and prepare again.",
            ) from error

    def rows(self, task: str) -> list[int]:
        """The rows that `task` uses: all, unless the data set was prepared with a choice."""
        path = epath.Path(self.folder) / subsets_file(self.split)
        chosen = json.loads(path.read_text()) if path.exists() else {}
        return chosen.get(task, list(range(len(self))))


@functools.lru_cache(maxsize=32)
def open_records(folder: str, split: str, process: int):
    """TFDS's data source of a split, images left encoded: one for each process, since readers do not survive a fork.

    LayoutError for a folder that cannot be read so; ImportError with the command that installs TFDS.
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
        builder = tfds.builder_from_directory(folder)
        images = [
            name
            for name, feature in builder.info.features.items()
            if isinstance(feature, tfds.features.Image)
        ]
        return builder.as_data_source(
            split, decoders={name: tfds.decode.SkipDecoding() for name in images}
        )
    except Exception as error:  # TFDS raises many kinds: NotImplementedError for tfrecord, KeyError, ValueError, JSONDecodeError, ...
        allowed = "It must be a TFDS folder of ArrayRecord shards (file_format='array_record')."
        raise LayoutError(
            folder,
            f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:300]})",
            allowed,
        ) from error


def find_prepared(source: type[Source], data_dir, split: str) -> Prepared | None:
    """The prepared form of a split, ours or else that of the TFDS catalogue; None where there is none.

    "val" and "test" both mean the one evaluation split. LayoutError if its metadata are damaged.
    """
    if not data_dir:
        return None
    split = source.EVAL_SPLIT if split in EVALUATION else split
    base = epath.Path(data_dir).expanduser()
    counts = split_counts(base / source.NAME / VERSION)
    if split in counts:
        return Prepared(str(base / source.NAME / VERSION), split, counts[split])
    if not source.CATALOGUE or not (base / source.CATALOGUE).exists():
        return None
    names = EVALUATION_NAMES if split == source.EVAL_SPLIT else (split,)
    for folder in sorted(
        (base / source.CATALOGUE).iterdir(), key=version, reverse=True
    ):  # the newest first
        counts = split_counts(folder)
        name = next((name for name in names if name in counts), None)
        if name:
            return Prepared(str(folder), name, counts[name])
    return None


def version(folder: epath.Path) -> list[int]:
    """The numbers in a folder's name, which order versions: 10.0.0 is newer than 9.0.0."""
    return [int(number) for number in re.findall(r"\d+", folder.name)]


def split_counts(folder: epath.Path) -> dict[str, int]:
    """{split: number of examples} of a TFDS folder; empty if it is none. LayoutError if dataset_info.json is damaged."""
    path = folder / INFO
    if not path.exists():
        return {}
    try:
        splits = json.loads(path.read_text())["splits"]
        return {split["name"]: sum(map(int, split["shardLengths"])) for split in splits}
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutError(
            path, f"cannot be read ({type(error).__name__}: {error})", DAMAGED_INFO
        ) from error
