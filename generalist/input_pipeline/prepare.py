"""Rewrites a data set as ArrayRecord shards that TFDS reads, without loss: image files are stored as they are."""

import contextlib
import itertools
import json
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from generalist.files import write_atomically
from generalist.input_pipeline.reading import in_threads
from generalist.input_pipeline.sources import (
    SOURCES,
    WHOLE_TASK,
    DataError,
    LayoutError,
    Source,
    choose,
)
from generalist.input_pipeline.sources.base import EVALUATION
from generalist.input_pipeline.sources.coco import NUM_CATEGORIES
from generalist.input_pipeline.sources.tfds import (
    INFO,
    VERSION,
    open_records,
    split_counts,
    subsets_file,
)

SHARD = 1_000  # examples: shards of 50 to 500 MB
EVERY = 50  # one example of so many is decoded again and compared with the original


def prepare(
    source: Source,
    out,
    shards: tuple[int, int] | None = None,
    threads: int = 8,
    log: Callable[[str], object] = print,
) -> epath.Path:
    """Writes one split of a data set below `out`/<name>, or goes on where a run was interrupted; returns the folder.

    Args:
      source: of `open_original`.
      out: a path, or gs://, to which whole shards are copied. `open_source(name, ..., data_dir=out)` reads it.
      shards: write only these, from the first up to before the second, so that machines can share the work; the call
        that finds all of them there writes the metadata, without which nothing reads the split.
      threads: reading at a time.
      log: takes lines about the progress.

    A shard appears under its name when it is whole and verified; one that is there is verified and kept. Raises
    ValueError for unknown names and for a damaged example, OSError naming the shard where writing fails.
    """
    paths = shard_paths(source, out)
    first, end = shards or (0, len(paths))
    if not 0 <= first < end <= len(paths):
        raise ValueError(
            f"shards {first}:{end}: {source.NAME}/{source.split} has the shards 0:{len(paths)}"
        )
    write_shards(source, paths, range(first, end), threads, log)
    return finish(source, paths, log)


def shard_paths(source: Source, out) -> list[epath.Path]:
    """Where the shards of a split lie below `out`, whose folder is made."""
    folder = epath.Path(out).expanduser() / source.NAME / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-len(source) // SHARD)
    return [folder / shard_name(source, index, count) for index in range(count)]


def write_shards(
    source: Source,
    paths: list[epath.Path],
    indices: Sequence[int],
    threads: int,
    log: Callable[[str], object],
) -> None:
    """Writes and verifies those of the shards that are not there or differ; see `prepare`."""
    name, codec = f"{source.NAME}/{source.split}", Codec(source.NAME)
    finished = in_threads(
        lambda index: is_finished(paths[index], rows_of(index, source), source, codec, log),
        indices,
        threads,
        f"{name}: shards compared",
        log,
    )
    todo = [index for index, done in zip(indices, list(finished)) if not done]
    log(
        f"{name}: {len(source)} examples in {len(paths)} shard(s), {len(indices) - len(todo)} of them finished before"
    )
    records = in_threads(
        lambda row: encode_row(source, codec, row),
        [row for index in todo for row in rows_of(index, source)],
        threads,
        name,
        log,
    )
    with contextlib.closing(records):
        for index in todo:
            rows = rows_of(index, source)
            write_shard(
                paths[index],
                itertools.islice(records, len(rows)),
                lambda path: flaw(path, rows, source, codec),
            )


def finish(source: Source, paths: list[epath.Path], log: Callable[[str], object]) -> epath.Path:
    """Writes the metadata if all shards are there, else says what is lacking; returns their folder."""
    name, folder = f"{source.NAME}/{source.split}", paths[0].parent
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        log(f"{name}: {len(absent)} shard(s) are still to be written, the first is {absent[0]}")
        return folder
    before = shard_lengths(folder, source.split)
    write_metadata(folder, source, Codec(source.NAME), paths)
    remove_old(folder, source, len(before), paths, log)
    log(f"{name}: prepared in {folder}")
    return folder


def open_original(name: str, split: str, data_dir) -> Source:
    """The reader of the original files of one split ("train", "val" or "test", NYU's "labeled"), never of a prepared form.

    ValueError for unknown names and half pairs.
    """
    source = SOURCES[choose("data set", name, SOURCES)]
    whole = [
        split for split in source.SPLITS if split.isalnum()
    ]  # a part, "test/Rain100H", is no split for TFDS
    choose(f"split of {name} to prepare", split, dict.fromkeys([*whole, *EVALUATION]))
    with prepare_hint():
        return source(data_dir, split, WHOLE_TASK.get(name))


@contextlib.contextmanager
def prepare_hint() -> Iterator[None]:
    """A DataError leaves as a ValueError that says how to go on here, a LayoutError as it is."""
    try:
        yield
    except LayoutError:
        raise
    except DataError as error:
        path, problem, allowed = error.args
        raise ValueError(
            f"{path}: {problem}. {allowed} Mend it or take the pair away (`generalist data check` lists all such "
            "files), then run the command again: finished shards are kept."
        ) from error


def rows_of(index: int, source: Source) -> range:
    """The examples of a shard."""
    return range(index * SHARD, min((index + 1) * SHARD, len(source)))


def shard_name(source: Source, index: int, count: int) -> str:
    """As TFDS names it."""
    return f"{source.NAME}-{source.split}.array_record-{index:05d}-of-{count:05d}"


class Codec:
    """Records of a data set <-> the bytes that TFDS stores; images stay encoded both ways."""

    def __init__(self, name: str):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import example_serializer

        self.features = tfds.features.FeaturesDict(
            {"key": tfds.features.Text(), "image": tfds.features.Image(), **_labels(name, tfds)}
        )
        self._serializer = example_serializer.ExampleSerializer(self.features.get_serialized_info())
        images = [
            key
            for key, feature in self.features.items()
            if isinstance(feature, tfds.features.Image)
        ]
        self._decoders = {key: tfds.decode.SkipDecoding() for key in images}

    def encode(self, record: Mapping[str, Any]) -> bytes:
        """A record of `Source.record` -> bytes."""
        return self._serializer.serialize_example(self.features.encode_example(record))

    def decode(self, content: bytes) -> dict[str, Any]:
        """Bytes -> a record for `Source.read_record`."""
        return self.features.deserialize_example_np(content, decoders=self._decoders)


def _labels(name: str, tfds) -> dict[str, Any]:
    """The features of the label, with the names and types of the TFDS catalogue where that keeps the original files."""
    feature = tfds.features
    grey = {"shape": (None, None, 1), "encoding_format": "png"}
    if name == "nyu":
        return {
            "depth": feature.Image(dtype=np.uint16, **grey)
        }  # millimetres; the catalogue's float16 metres lose digits
    if name == "ade20k":
        return {"annotation": feature.Image(**grey)}
    if name == "coco":
        segment = {
            "id": np.int64,
            "area": np.int64,
            "label": feature.ClassLabel(num_classes=NUM_CATEGORIES),
            "is_crowd": np.bool_,
        }
        return {
            "panoptic_image": feature.Image(encoding_format="png"),
            "panoptic_objects": feature.Sequence(segment),
        }
    return {"label": feature.Image()}


def encode_row(source: Source, codec: Codec, row: int) -> bytes:
    """The stored form of an example, which was decoded once to see that it can be."""
    with prepare_hint():
        record = source.record(row)
        try:
            source.read_record(record, source.root)
        except DataError:
            source.read(row)  # fails as well, and names the file
            raise
    return codec.encode(record)


def write_shard(
    path: epath.Path, records: Iterator[bytes], check: Callable[[epath.Path], str]
) -> None:
    """Writes a shard under a temporary name, checks it, and gives it its name; OSError names the shard."""
    from array_record.python import array_record_module

    remote = "://" in str(path)
    temporary = pathlib.Path(tempfile.gettempdir() if remote else path.parent) / f".{path.name}.tmp"
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        if problem := check(epath.Path(temporary)):
            raise OSError(f"what was written {problem}")
        epath.Path(temporary).copy(path, overwrite=True) if remote else os.replace(temporary, path)
    except (
        OSError,
        RuntimeError,
    ) as error:  # ArrayRecord raises RuntimeError where the disk is full
        raise OSError(
            f"{path}: cannot be written ({error}). Finished shards are kept: run the command again when there is room"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_finished(
    path: epath.Path, rows: range, source: Source, codec: Codec, log: Callable[[str], object]
) -> bool:
    """Whether the shard is there and holds these examples; one that does not is written again."""
    if not path.exists():
        return False
    with tempfile.TemporaryDirectory() as folder:
        local = path
        if "://" in str(path):
            local = path.copy(epath.Path(folder) / path.name)
        problem = flaw(local, rows, source, codec)
    if problem:
        log(f"{path}: {problem}; it is written again")
    return not problem


def flaw(path: epath.Path, rows: range, source: Source, codec: Codec) -> str:
    """What is wrong with a shard on this machine, "" if nothing: count, and every EVERY-th example against the original."""
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(
            str(path), "readahead_buffer_size:0,max_parallelism:0"
        )
        if reader.num_records() != len(rows):
            return f"has {reader.num_records()} records instead of {len(rows)}"
        samples = sorted({*range(0, len(rows), EVERY), len(rows) - 1})
        for sample, content in zip(samples, reader.read(samples)):
            stored = source.read_record(codec.decode(content), f"{path} (record {sample})")
            if not same(stored, source.read(rows[sample])):
                return f"record {sample} differs from {stored['key']}"
    except (RuntimeError, ValueError, IndexError) as error:
        return f"cannot be read ({error})"
    return ""


def same(one: Any, other: Any) -> bool:
    """Whether two examples, or parts of them, are equal bit for bit."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def shard_lengths(folder: epath.Path, split: str) -> list[int]:
    """Examples of each shard of a split, as the metadata say; [] where they have none."""
    import tensorflow_datasets as tfds

    return (
        tfds.builder_from_directory(folder).info.splits[split].shard_lengths
        if split in split_counts(folder)
        else []
    )


def remove_old(
    folder: epath.Path,
    source: Source,
    before: int,
    paths: list[epath.Path],
    log: Callable[[str], object],
) -> None:
    """Removes the shards that the metadata named until now, `before` of them, and no longer do; names others, which nothing reads."""
    named = {shard_name(source, index, before) for index in range(before)} - {
        path.name for path in paths
    }
    old = sorted(
        path
        for path in folder.glob(f"{source.NAME}-{source.split}.array_record-*")
        if path not in paths
    )
    for path in old:
        if path.name in named:
            path.unlink()
            log(f"{path}: removed, it was replaced")
        else:
            log(f"{path}: no shard of this data set, and nothing reads it: delete it")


def write_metadata(
    folder: epath.Path, source: Source, codec: Codec, paths: list[epath.Path]
) -> None:
    """Adds the split to what TFDS needs to read the folder: features.json, dataset_info.json, and our choices of rows."""
    import tensorflow_datasets as tfds

    def split_info(name: str, lengths: list[int], size: int):
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=source.NAME, split=name, filetype_suffix="array_record"
        )
        return tfds.core.SplitInfo(
            name=name, shard_lengths=lengths, num_bytes=size, filename_template=template
        )

    splits = {}
    if split_counts(folder):
        splits = {
            name: split_info(name, info.shard_lengths, info.num_bytes)
            for name, info in tfds.builder_from_directory(folder).info.splits.items()
        }
    size = sum(path.stat().length for path in paths)
    splits[source.split] = split_info(
        source.split, [len(rows_of(index, source)) for index in range(len(paths))], size
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=source.NAME, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=codec.features,
        description=source.WHERE,
        homepage="see the description",
        license=source.LICENCE,
        disable_shuffling=True,
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(list(splits.values())))
    with tempfile.TemporaryDirectory() as local:
        info.write_to_directory(local)
        files = {path.name: path.read_bytes() for path in pathlib.Path(local).iterdir()}
    if subsets := source.subsets():
        files[subsets_file(source.split)] = json.dumps(subsets).encode()
    for name in sorted(
        files, key=lambda name: name == INFO
    ):  # last, since it makes the split readable
        path = folder / name
        path.write_bytes(files[name]) if "://" in str(folder) else write_atomically(
            pathlib.Path(path), files[name]
        )
    open_records.cache_clear()
