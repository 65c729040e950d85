"""Readers of the official data sets, each in its official layout below one `data_dir`."""

import dataclasses
from collections.abc import Iterable

from etils import epath

from generalist.input_pipeline.sources.ade20k import ADE20K
from generalist.input_pipeline.sources.base import Source, choose, find_root
from generalist.input_pipeline.sources.coco import COCO
from generalist.input_pipeline.sources.files import DataError, LayoutError
from generalist.input_pipeline.sources.lol import LOL
from generalist.input_pipeline.sources.nyu import NYUV2
from generalist.input_pipeline.sources.rain13k import Rain13K
from generalist.input_pipeline.sources.sidd import SIDD
from generalist.input_pipeline.sources.tfds import find_prepared

SOURCES: dict[str, type[Source]] = {
    "nyu": NYUV2,
    "ade20k": ADE20K,
    "coco": COCO,
    "sidd": SIDD,
    "rain13k": Rain13K,
    "lol": LOL,
}
DATASET_OF: dict[str, str] = {
    task: name for name, source in SOURCES.items() for task in source.TASKS
}

WHOLE_TASK = {
    "coco": "panoptic"
}  # of a data set with several tasks the one whose labels hold those of the others


@dataclasses.dataclass(frozen=True)
class MissingDataset:
    """A data set that is not, or not completely, below data_dir."""

    name: str
    folder: str  # where it was looked for
    where: str  # where it comes from
    licence: str
    layout: str
    absent: tuple[str, ...]  # what was not found below `folder`; empty: the folder itself
    resembles: str = ""  # the data set whose layout the folder has instead

    @property
    def state(self) -> str:
        """The folder, and what of it is missing."""
        hint = f"; it holds what {self.resembles} needs" if self.resembles else ""
        return (
            f"{self.folder} lacks {', '.join(self.absent)}{hint}"
            if self.absent
            else f"{self.folder} not found"
        )


def open_source(dataset: str, task: str | None, split: str, data_dir, **kwargs) -> Source:
    """Opens one split ("train"; "val" or "test") of a data set of SOURCES for a task of it (None: its first).

    The prepared form (see `tfds`) is taken where data_dir holds it, else the original files.
    Raises ValueError for unknown names, LayoutError if the folders are not as LAYOUT says.
    """
    source = SOURCES[choose("data set", dataset, SOURCES)]
    return source(data_dir, split, task, prepared=find_prepared(source, data_dir, split), **kwargs)


def missing(data_dir, names: Iterable[str] = tuple(SOURCES)) -> list[MissingDataset]:
    """The data sets of `names` that are not complete below `data_dir` (a path, gs://, or None)."""
    found = (_missing(data_dir, SOURCES[choose("data set", name, SOURCES)]) for name in names)
    return [dataset for dataset in found if dataset is not None]


def _missing(data_dir, source: type[Source]) -> MissingDataset | None:
    prepared = {
        split: find_prepared(source, data_dir, split) for split in ("train", source.EVAL_SPLIT)
    }
    root = find_root(data_dir, source.FOLDERS)
    absent = () if root is None else _absent(root, source)
    if all(prepared.values()) or (root is not None and not absent):
        return None
    if any(prepared.values()):
        absent = tuple(f"split {split}" for split, records in prepared.items() if records is None)
        root = epath.Path(next(filter(None, prepared.values())).folder)
    folder = root or epath.Path(data_dir or "<data_dir>") / source.FOLDERS[0]
    others = (
        name
        for name, other in SOURCES.items()
        if root and len(absent) == len(source.NEEDED) and not _absent(root, other)
    )
    return MissingDataset(
        source.NAME,
        str(folder),
        source.WHERE,
        source.LICENCE,
        source.LAYOUT,
        absent,
        next(others, ""),
    )


def _absent(root: epath.Path, source: type[Source]) -> tuple[str, ...]:
    return tuple(
        " or ".join(parts)
        for parts in source.NEEDED
        if not any((root / part).exists() for part in parts)
    )


def describe_missing(datasets: list[MissingDataset], data_dir) -> str:
    """The user's error: what is missing, where it comes from, the layout expected; "" if nothing is."""
    if not datasets:
        return ""
    if not data_dir:
        head = "no data directory was given: set GENERALIST_DATA_DIR or --config.data_dir to a local path or gs://"
    elif not epath.Path(data_dir).expanduser().exists():
        head = f"the data directory {data_dir} does not exist"
    else:
        head = f"the data directory {data_dir} is not complete"
    return "\n\n".join([f"{head}. {len(datasets)} data set(s) missing:", *map(describe, datasets)])


def describe(dataset: MissingDataset) -> str:
    """What is missing of a data set, where it comes from, its licence and its layout."""
    return f"{dataset.name}: {dataset.state}\n  from {dataset.where}\n  licence: {dataset.licence}\n{dataset.layout}"
