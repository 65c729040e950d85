"""Rewrites a data set as ArrayRecord shards that TFDS reads, without loss.

Image files are stored as they are.
"""

import contextlib
import functools
import itertools
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from generalist.files import write_atomically
from generalist.input_pipeline.reading import in_threads
from generalist.input_pipeline.sources import (
    WHOLE_TASK,
    DataError,
    Dataset,
    LayoutError,
    reader_of,
)
from generalist.input_pipeline.sources.base import EVALUATION
from generalist.input_pipeline.sources.coco import NUM_CATEGORIES
from generalist.input_pipeline.sources.files import naming
from generalist.input_pipeline.sources.tfds import (
    INFO,
    VERSION,
    open_records,
    split_counts,
    subsets_file,
)
from generalist.names import listed, one_of

logger = logging.getLogger("generalist")

SHARD = 1_000  # examples: shards of 50 to 500 MB
EVERY = 50  # one example of so many is decoded again and compared with the original


def prepare(
    source: Dataset, out, shards: tuple[int, int] | None = None, threads: int = 8
) -> epath.Path:
    """Writes one split of a data set below `out`/<name>, or continues where it was interrupted.

    A shard appears under its name when it is whole and verified; one that is there is verified and
    kept.

    Args:
      source: what `open_original` returns.
      out: a path, or gs://, to which whole shards are copied. It is a data_dir of `open_source`.
      shards: write only these, from the first up to before the second, so that machines can share
        the work; the call that finds all of them there writes the metadata, without which nothing
        reads the split.
      threads: number of reading threads.

    Returns:
      The folder.

    Raises:
      ValueError: unknown shards, a damaged example, or nothing to write.
      OSError: writing fails; the message names the shard.
    """
    paths = shard_paths(source, out)
    if not paths:
        raise ValueError(f"{source.NAME}/{source.split} in {source.root} has no example to prepare")
    first, end = shards or (0, len(paths))
    if not 0 <= first < end <= len(paths):
        raise ValueError(
            f"shards {first}:{end}: {source.NAME}/{source.split} has the shards 0:{len(paths)}"
        )
    write_shards(source, paths, range(first, end), threads)
    return finish(source, paths)


def open_original(name: str, split: str, data_dir, on_error: str = "raise") -> Dataset:
    """Opens the original files of a split to prepare it, never a prepared form.

    Args:
      name: name of the data set.
      split: "train", "val" or "test", or NYU's "labeled".
      data_dir: local path or gs://.
      on_error: "raise", or "skip" to leave half pairs out, with a line in the log.

    Raises:
      ValueError: unknown name or split, or half a pair.
    """
    reader = reader_of(name)

    # Part of a split, "test/Rain100H", is no split for TFDS.
    whole = [split for split in reader.SPLITS if split.isalnum()]
    one_of(split, dict.fromkeys([*whole, *EVALUATION]), f"split of {name} to prepare")
    with prepare_hint():
        return reader(data_dir, split, WHOLE_TASK.get(name), on_error=on_error, hold_out=False)


@contextlib.contextmanager
def prepare_hint() -> Iterator[None]:
    """Raises a DataError as a ValueError that says how to go on here, a LayoutError as it is."""
    try:
        yield
    except LayoutError:
        raise
    except DataError as error:
        path, problem, allowed = error.args
        raise ValueError(
            f"{path}: {problem}. {allowed} "
            "Repair it, or take the pair away (`generalist data check` lists all such files), or "
            "give --skip-damaged, then run the command again: finished shards are kept."
        ) from error


def shard_paths(source: Dataset, out) -> list[epath.Path]:
    """Returns where the shards of a split lie below `out`; makes their folder."""
    folder = epath.Path(out).expanduser() / source.NAME / VERSION
    folder.mkdir(parents=True, exist_ok=True)
    count = -(-len(source) // SHARD)
    return [folder / shard_name(source, index, count) for index in range(count)]


def shard_name(source: Dataset, index: int, count: int) -> str:
    """Returns the file name that TFDS gives a shard."""
    return f"{source.NAME}-{source.split}.array_record-{index:05d}-of-{count:05d}"


def rows_of(index: int, source: Dataset) -> range:
    """Returns the examples of a shard."""
    return range(index * SHARD, min((index + 1) * SHARD, len(source)))


def write_shards(
    source: Dataset, paths: Sequence[epath.Path], indices: Sequence[int], threads: int
) -> None:
    """Writes and verifies those of the shards that are not there, or differ; see `prepare`."""
    name = f"{source.NAME}/{source.split}"
    form = RecordForm(source.NAME)

    # Shards of an earlier run count after they are compared with the original.
    is_done = functools.partial(_is_finished, paths, source, form)
    finished = list(in_threads(is_done, indices, threads, f"{name}: compared", "shards"))
    todo = [index for index, done in zip(indices, finished, strict=True) if not done]
    logger.info(
        f"{name}: {len(source)} examples in {len(paths)} shard(s), "
        f"{len(indices) - len(todo)} of them finished before"
    )

    # Threads read ahead of the shard that is written.
    rows = list(itertools.chain.from_iterable(rows_of(index, source) for index in todo))
    encode = functools.partial(encode_row, source, form)
    records = in_threads(encode, rows, threads, name)
    with contextlib.closing(records):
        for index in todo:
            shard_rows = rows_of(index, source)
            shard_records = itertools.islice(records, len(shard_rows))
            check = functools.partial(flaw, rows=shard_rows, source=source, form=form)
            write_shard(paths[index], shard_records, check)


def _is_finished(
    paths: Sequence[epath.Path], source: Dataset, form: "RecordForm", index: int
) -> bool:
    return is_finished(paths[index], rows_of(index, source), source, form)


def finish(source: Dataset, paths: Sequence[epath.Path]) -> epath.Path:
    """Writes the metadata if all shards are there, else logs what is missing.

    Returns:
      The folder of the shards.
    """
    name = f"{source.NAME}/{source.split}"
    folder = paths[0].parent
    # Another machine may still write its part of the shards.
    absent = [path.name for path in paths if not path.exists()]
    if absent:
        logger.info(
            f"{name}: {len(absent)} shard(s) are still to be written, the first is {absent[0]}"
        )
        return folder

    before = shard_lengths(folder, source.split)
    write_metadata(folder, source, RecordForm(source.NAME), paths)
    remove_old(folder, source, len(before), paths)
    logger.info(f"{name}: prepared in {folder}")
    return folder


class RecordForm:
    """Converts records of a data set to the bytes that TFDS stores, and back.

    Images stay encoded both ways.
    """

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
        """Encodes a record of `Dataset.record`."""
        return self._serializer.serialize_example(self.features.encode_example(record))

    def decode(self, content: bytes) -> dict[str, Any]:
        """Returns a record for `Dataset.read_record`."""
        return self.features.deserialize_example_np(content, decoders=self._decoders)


def _labels(name: str, tfds) -> dict[str, Any]:
    """The features of the label.

    They have the names and types of the TFDS catalog where that keeps the original files.
    """
    feature = tfds.features
    gray = {"shape": (None, None, 1), "encoding_format": "png"}
    if name == "nyu":
        # Millimeters; the catalog's float16 meters lose digits.
        return {"depth": feature.Image(dtype=np.uint16, **gray)}
    if name == "ade20k":
        return {"annotation": feature.Image(**gray)}

    # COCO's segments are in its PNG and in a list beside it.
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

    # The label of a restoration is the clean image.
    return {"label": feature.Image()}


def encode_row(source: Dataset, form: RecordForm, row: int) -> bytes:
    """Returns the stored form of an example, after decoding it to see that it can be."""
    with prepare_hint():
        return form.encode(readable_record(source, row))


def readable_record(source: Dataset, row: int) -> dict[str, Any]:
    """Returns what is stored of an example; DataError where it cannot be decoded."""
    record = source.record(row)
    try:
        source.read_record(record, source.root)
    except DataError:
        source.read_or_raise(row)  # fails as well, and names the file
        raise
    return record


def find_damaged(source: Dataset, threads: int = 8) -> dict[int, str]:
    """Reads every example of a split.

    Returns:
      {row: what is wrong} of those that cannot be stored.
    """

    def problem(row: int) -> str:
        try:
            with naming(f"{source.root} ({source.split}, example {row})"):
                readable_record(source, row)
        except LayoutError:
            raise
        except DataError as error:
            path, what, _ = error.args
            return f"{path}: {what}"
        return ""

    name = f"{source.NAME}/{source.split}"
    problems = in_threads(problem, range(len(source)), threads, f"{name}: looked for damage")
    damaged = {row: line for row, line in enumerate(problems) if line}
    if damaged:
        logger.warning(
            f"{name}: {len(damaged)} of {len(source)} examples are damaged and left out:\n"
            f"{listed(list(damaged.values()))}"
        )
    return damaged


def write_shard(
    path: epath.Path, records: Iterator[bytes], check: Callable[[epath.Path], str]
) -> None:
    """Writes a shard under a temporary name, checks it, then gives it its name.

    Args:
      path: local path or gs://.
      records: its records.
      check: returns what is wrong with the file at a path, or "".

    Raises:
      OSError: it cannot be written, or differs from what was written; the message names the shard.
    """
    from array_record.python import array_record_module

    # ArrayRecord writes local files only; one for a bucket is copied there when it is whole.
    remote = "://" in str(path)
    folder = pathlib.Path(tempfile.gettempdir() if remote else path.parent)
    temporary = folder / f".{path.name}.tmp"
    try:
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()

        problem = check(epath.Path(temporary))
        if problem:
            raise OSError(f"what was written {problem}")
        if remote:
            epath.Path(temporary).copy(path, overwrite=True)
        else:
            os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError on a full disk
        raise OSError(
            f"{path}: cannot be written ({error}). Finished shards are kept: "
            "run the command again when there is room"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def is_finished(path: epath.Path, rows: range, source: Dataset, form: RecordForm) -> bool:
    """Returns whether the shard is there and holds these examples; if not, it is written again."""
    if not path.exists():
        return False

    with tempfile.TemporaryDirectory() as folder:
        local = path
        if "://" in str(path):
            local = path.copy(epath.Path(folder) / path.name)
        problem = flaw(local, rows, source, form)

    if problem:
        logger.info(f"{path}: {problem}; it is written again")
    return not problem


def flaw(path: epath.Path, rows: range, source: Dataset, form: RecordForm) -> str:
    """Returns what is wrong with a shard, or "".

    Compares the number of records, and every EVERY-th example with the original.

    Args:
      path: a path on this machine.
      rows: the examples that the shard must hold.
      source: their original.
      form: how they are stored.
    """
    from array_record.python import array_record_module

    options = "readahead_buffer_size:0,max_parallelism:0"
    try:
        reader = array_record_module.ArrayRecordReader(str(path), options)
        count = reader.num_records()
        if count != len(rows):
            return f"has {count} records instead of {len(rows)}"

        # All records would take as long as preparing them again; the last one shows a cut file.
        samples = sorted({*range(0, len(rows), EVERY), len(rows) - 1})
        for sample, content in zip(samples, reader.read(samples), strict=True):
            stored = source.read_record(form.decode(content), f"{path} (record {sample})")
            if not same(stored, source.read(rows[sample])):
                return f"record {sample} differs from {stored['key']}"
    except (RuntimeError, ValueError, IndexError) as error:
        return f"cannot be read ({error})"
    return ""


def same(one: Any, other: Any) -> bool:
    """Returns whether two examples, or parts of them, are equal bit for bit."""
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def shard_lengths(folder: epath.Path, split: str) -> list[int]:
    """Returns the number of examples of each shard, from the metadata; [] if there are none."""
    import tensorflow_datasets as tfds

    if split not in split_counts(folder):
        return []
    return tfds.builder_from_directory(folder).info.splits[split].shard_lengths


def remove_old(
    folder: epath.Path, source: Dataset, before: int, paths: Sequence[epath.Path]
) -> None:
    """Removes the shards that the metadata named until now; names others, which nothing reads.

    Args:
      folder: folder of the shards.
      source: the split.
      before: number of shards that the metadata named.
      paths: the shards that it names now.
    """
    new_names = {path.name for path in paths}
    named = {shard_name(source, index, before) for index in range(before)} - new_names
    old = set(folder.glob(f"{source.NAME}-{source.split}.array_record-*")) - set(paths)
    for path in sorted(old):
        if path.name in named:
            path.unlink()
            logger.info(f"{path}: removed, it was replaced")
        else:
            logger.info(f"{path}: no shard of this data set, and nothing reads it: delete it")


class _SplitFiles(NamedTuple):
    shard_lengths: list[int]
    num_bytes: int


def write_metadata(
    folder: epath.Path, source: Dataset, form: RecordForm, paths: Sequence[epath.Path]
) -> None:
    """Adds a split to what TFDS needs to read the folder.

    That is features.json, dataset_info.json, and our choices of rows.
    """
    splits = _prepared_splits(folder)
    splits[source.split] = _SplitFiles(
        [len(rows_of(index, source)) for index in range(len(paths))],
        sum(path.stat().length for path in paths),
    )
    files = _tfds_files(folder, source, form, splits)
    if source.subsets:
        files[subsets_file(source.split)] = json.dumps(source.subsets).encode()

    # The info comes last, since it makes the split readable.
    info = files.pop(INFO)
    for name, content in [*sorted(files.items()), (INFO, info)]:
        path = folder / name
        if "://" in str(folder):
            path.write_bytes(content)
        else:
            write_atomically(pathlib.Path(path), content)
    open_records.cache_clear()


def _prepared_splits(folder: epath.Path) -> dict[str, _SplitFiles]:
    import tensorflow_datasets as tfds

    if not split_counts(folder):
        return {}
    splits = tfds.builder_from_directory(folder).info.splits
    return {
        name: _SplitFiles(split.shard_lengths, split.num_bytes) for name, split in splits.items()
    }


def _tfds_files(
    folder: epath.Path, source: Dataset, form: RecordForm, splits: Mapping[str, _SplitFiles]
) -> dict[str, bytes]:
    """TFDS's own metadata, {name: content}."""
    import tensorflow_datasets as tfds

    # TFDS writes all splits of a folder at once.
    infos = []
    for name, split in splits.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=folder, dataset_name=source.NAME, split=name, filetype_suffix="array_record"
        )
        infos.append(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=split.shard_lengths,
                num_bytes=split.num_bytes,
                filename_template=template,
            )
        )

    # There is no builder class that others could run: the metadata alone describe the shards.
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=source.NAME, version=tfds.core.Version(VERSION), data_dir=str(folder), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        features=form.features,
        description=source.WHERE,
        homepage="see the description",
        license=source.LICENSE,
        disable_shuffling=True,
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.splits.SplitDict(infos))

    with tempfile.TemporaryDirectory() as local:
        info.write_to_directory(local)
        return {path.name: path.read_bytes() for path in pathlib.Path(local).iterdir()}
