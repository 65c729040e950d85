"""Readers of the official data sets, each in its official layout below one `data_dir`."""

import dataclasses
from collections.abc import Iterable, Sequence

from etils import epath

from generalist.input_pipeline.sources.ade20k import ADE20K
from generalist.input_pipeline.sources.base import Dataset, find_root
from generalist.input_pipeline.sources.coco import COCO
from generalist.input_pipeline.sources.files import DataError, LayoutError
from generalist.input_pipeline.sources.held_out import HELD_OUT
from generalist.input_pipeline.sources.lol import LOL
from generalist.input_pipeline.sources.nyu import NYUV2
from generalist.input_pipeline.sources.rain13k import Rain13K
from generalist.input_pipeline.sources.sidd import SIDD
from generalist.input_pipeline.sources.tfds import find_prepared
from generalist.names import one_of

__all__ = [
    "DATASET_OF",
    "HELD_OUT",
    "SOURCES",
    "WHOLE_TASK",
    "DataError",
    "Dataset",
    "LayoutError",
    "MissingDataset",
    "describe",
    "describe_missing",
    "find_prepared",
    "find_root",
    "missing",
    "open_source",
    "reader_of",
]

SOURCES: dict[str, type[Dataset]] = {
    "nyu": NYUV2,
    "ade20k": ADE20K,
    "coco": COCO,
    "sidd": SIDD,
    "rain13k": Rain13K,
    "lol": LOL,
}

# Task -> the data set it is read from.
DATASET_OF: dict[str, str] = {
    task: name for name, reader in SOURCES.items() for task in reader.TASKS
}

# Of a data set with several tasks, the one whose labels contain those of the others.
WHOLE_TASK = {"coco": "panoptic"}


@dataclasses.dataclass(frozen=True)
class MissingDataset:
    """A data set that is not, or not completely, below data_dir."""

    name: str
    folder: str  # where it was looked for
    where: str  # where it comes from
    license: str
    layout: str
    absent: tuple[str, ...]  # what is not below `folder`; empty: the folder itself is not there
    resembles: str = ""  # the data set whose layout the folder has instead

    @property
    def state(self) -> str:
        """The folder, and what of it is missing."""
        if not self.absent:
            return f"{self.folder} not found"
        hint = f"; it holds what {self.resembles} needs" if self.resembles else ""
        return f"{self.folder} lacks {', '.join(self.absent)}{hint}"


def reader_of(dataset: str) -> type[Dataset]:
    """Returns the reader of a data set; ValueError with the closest name if there is none."""
    return SOURCES[one_of(dataset, SOURCES, "data set")]


def open_source(dataset: str, task: str | None, split: str, data_dir, **kwargs) -> Dataset:
    """Opens one split of a data set for one of its tasks.

    The prepared form (see `tfds`) is read where data_dir holds it, else the original files.

    Args:
      dataset: a name in SOURCES.
      task: one of the data set's tasks; None takes its first.
      split: "train", "held_out", "val" or "test".
      data_dir: local path or gs://.
      **kwargs: see `Dataset`.

    Raises:
      ValueError: unknown data set, task or split.
      LayoutError: the folders are not as LAYOUT says.
    """
    reader = reader_of(dataset)
    shards = find_prepared(reader, data_dir, split)
    return reader(data_dir, split, task, shards=shards, **kwargs)


def missing(data_dir, names: Iterable[str] = tuple(SOURCES)) -> list[MissingDataset]:
    """Returns the data sets of `names` that are not complete below `data_dir`."""
    datasets = (_missing(data_dir, reader_of(name)) for name in names)
    return [dataset for dataset in datasets if dataset is not None]


def _missing(data_dir, reader: type[Dataset]) -> MissingDataset | None:
    # Complete is either form: prepared, or the original files.
    prepared = {
        split: find_prepared(reader, data_dir, split) for split in ("train", reader.EVAL_SPLIT)
    }
    root = find_root(data_dir, reader.FOLDERS)
    absent = () if root is None else _absent(root, reader)
    if all(prepared.values()) or (root is not None and not absent):
        return None

    # Half a prepared form is not completed from original files.
    shards = next(filter(None, prepared.values()), None)
    if shards is not None:
        absent = tuple(f"split {split}" for split, records in prepared.items() if records is None)
        root = epath.Path(shards.folder)

    # A folder that lacks everything may be another data set under a wrong name.
    resembles = ""
    if root and len(absent) == len(reader.NEEDED):
        others = (name for name, other in SOURCES.items() if not _absent(root, other))
        resembles = next(others, "")

    return MissingDataset(
        reader.NAME,
        folder=str(root or epath.Path(data_dir or "<data_dir>") / reader.FOLDERS[0]),
        where=reader.WHERE,
        license=reader.LICENSE,
        layout=reader.LAYOUT,
        absent=absent,
        resembles=resembles,
    )


def _absent(root: epath.Path, reader: type[Dataset]) -> tuple[str, ...]:
    absent = []
    for alternatives in reader.NEEDED:
        if not any((root / path).exists() for path in alternatives):
            absent.append(" or ".join(alternatives))
    return tuple(absent)


def describe_missing(datasets: Sequence[MissingDataset], data_dir) -> str:
    """Returns the user's error: what is missing, where it comes from, the layout; "" if nothing."""
    if not datasets:
        return ""
    if not data_dir:
        head = (
            "no data directory was given: "
            "set GENERALIST_DATA_DIR or --config.data_dir to a local path or gs://"
        )
    elif not epath.Path(data_dir).expanduser().exists():
        head = f"the data directory {data_dir} does not exist"
    else:
        head = f"the data directory {data_dir} is not complete"
    return "\n\n".join([f"{head}. {len(datasets)} data set(s) missing:", *map(describe, datasets)])


def describe(dataset: MissingDataset) -> str:
    """Returns what is missing of a data set, where it comes from, its license and its layout."""
    return (
        f"{dataset.name}: {dataset.state}\n"
        f"  from {dataset.where}\n"
        f"  license: {dataset.license}\n"
        f"{dataset.layout}"
    )
