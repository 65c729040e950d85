"""Checks data sets: what is there, what is damaged or out of range, what two splits share."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from generalist import pictures
from generalist.input_pipeline.measure import (
    THUMBNAIL,
    Measured,
    describe_captions,
    describe_labels,
    describe_sizes,
    measure,
)
from generalist.input_pipeline.reading import evenly_spaced, in_threads
from generalist.input_pipeline.sources import (
    SOURCES,
    WHOLE_TASK,
    DataError,
    Dataset,
    LayoutError,
    MissingDataset,
    describe,
    find_prepared,
    find_root,
    missing,
    open_source,
    reader_of,
)
from generalist.input_pipeline.sources.files import NO_FILE, NO_FOLDER, content, naming
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks import get_tasks

SAME = 1.0  # levels: two thumbnails of one image differ by at most so much on average


@dataclasses.dataclass
class SplitReport:
    """What is in one split."""

    dataset: str
    split: str
    folder: str = ""  # where it was read
    examples: int = 0  # number there
    usual: int = 0  # 0: of own data, where no number is usual
    read: int = 0  # examples that were looked at
    sizes: str = ""  # for people
    values: str = ""  # for people
    problems: list[str] = dataclasses.field(default_factory=list)  # one line each
    incomplete: list[str] = dataclasses.field(default_factory=list)  # parts with fewer than usual

    # Images that are not flat: their keys, and uint8 (n, THUMBNAIL, THUMBNAIL, 3).
    keys: list[str] = dataclasses.field(default_factory=list, repr=False)
    thumbnails: np.ndarray | None = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass
class Report:
    """What `check` saw."""

    splits: list[SplitReport] = dataclasses.field(default_factory=list)
    absent: list[MissingDataset] = dataclasses.field(default_factory=list)
    leaks: list[str] = dataclasses.field(default_factory=list)  # images that two splits share

    @property
    def problems(self) -> list[str]:
        """All that is wrong with the data that are there, one line each."""
        lines = []
        for split in self.splits:
            lines += [f"{split.dataset}/{split.split}: {line}" for line in split.problems]
        return lines + self.leaks

    @property
    def incomplete(self) -> list[str]:
        """What is less than usual in the splits that are there, which may be meant."""
        lines = []
        for split in self.splits:
            where = f"{split.dataset}/{split.split}"
            lines += [f"incomplete: {where}: {line}" for line in split.incomplete]
        return lines


def check(data_dir, names: Iterable[str] = (), limit: int = 0, threads: int = 8) -> Report:
    """Reads the training and the evaluation split of every data set below `data_dir`.

    Whatever is wrong is a line of the report; nothing ends the check.

    Args:
      data_dir: local path or gs://.
      names: names of data sets (default: all).
      limit: examples of a split, evenly spaced (0: all).
      threads: number of reading threads.

    Raises:
      ValueError: unknown name.
    """
    readers = {name: reader_of(name) for name in names or SOURCES}
    report = Report()
    for name, reader in readers.items():
        try:
            absent = missing(data_dir, [name])
        except LayoutError as error:  # the metadata of a prepared form are damaged
            report.splits.append(SplitReport(name, "-", problems=[one_line(error)]))
            continue

        # A data set that lacks some folders is named, and the rest of it is read.
        report.absent += absent
        if absent and not absent[0].absent:
            continue
        for split in splits_of(reader, data_dir):
            open_split = functools.partial(
                open_source,
                name,
                WHOLE_TASK.get(name),
                split,
                data_dir,
                on_error="skip",
                hold_out=False,
                quiet=True,
            )
            split_report = SplitReport(name, split, usual=reader.USUAL[split])
            check_split(split_report, open_split, limit, threads)
            report.splits.append(split_report)
        report.leaks += leaks(name, report.splits)
    return report


def check_own(
    data_dir,
    definitions: Mapping[str, Mapping[str, Any]],
    names: Iterable[str] = (),
    limit: int = 0,
    threads: int = 8,
) -> Report:
    """Checks a user's own data (docs/own_data.md); an absent folder is a line of `incomplete`.

    Args:
      data_dir: local path or gs://.
      definitions: definitions of the tasks, as in `config.tasks.set`.
      names: names of tasks (default: all).
      limit: examples of a split, evenly spaced (0: all).
      threads: number of reading threads.

    Raises:
      ValueError: a wrong definition, an unknown task, or `data_dir` has the folder of none.
    """
    # The definitions are checked before anything is read.
    tasks = get_tasks(definitions, list(names) or None)
    folders = {name: definitions[name].get("folder", ".") for name in tasks}
    if not any(find_root(data_dir, (folder,)) for folder in folders.values()):
        where = data_dir or "GENERALIST_DATA_DIR, which is not set"
        all_folders = ", ".join(dict.fromkeys(folders.values()))
        raise ValueError(f"none of the folders {all_folders} in {where}: give --data-dir")

    # One of several folders may be missing: the others are read.
    report = Report()
    for name, folder in folders.items():
        if not find_root(data_dir, (folder,)):
            line = f"{data_dir}/{folder}: {NO_FOLDER}"
            report.splits.append(SplitReport(name, "-", incomplete=[line]))
            continue
        definition = definitions[name]
        for split in Folder.SPLITS:
            open_split = functools.partial(
                Folder, data_dir, split, name, definition, on_error="skip", quiet=True
            )
            split_report = SplitReport(name, split)
            check_split(split_report, open_split, limit, threads, definition)
            report.splits.append(split_report)
        report.leaks += leaks(name, report.splits)
    return report


def splits_of(reader: type[Dataset], data_dir) -> list[str]:
    """Returns train, and the evaluation split or its parts; a prepared form has no parts."""
    evaluation = reader.EVAL_SPLIT
    parts = [split for split in reader.SPLITS if split.startswith(f"{evaluation}/")]
    if parts and not find_prepared(reader, data_dir, evaluation):
        return ["train", *parts]
    return ["train", evaluation]


def check_split(
    report: SplitReport,
    open_split: Callable[[], Dataset],
    limit: int,
    threads: int,
    definition: Mapping[str, Any] | None = None,
) -> None:
    """Reads the examples of one split into its report; a damaged one is a line of the problems.

    Args:
      report: gets everything.
      open_split: opens the split, skipping damaged files.
      limit: examples to read, evenly spaced (0: all).
      threads: number of reading threads.
      definition: of own data, the definition of the task.
    """
    try:
        source = open_split()
    except (DataError, ImportError) as error:
        absent = isinstance(error, LayoutError) and error.args[1] in (NO_FILE, NO_FOLDER)
        lines = report.incomplete if absent else report.problems
        lines.append(one_line(error))
        return

    report.examples = len(source)
    report.folder = source.root
    report.problems += [f"{path}: {problem}" for path, problem in source.damaged.items()]
    for part, count in source.counts.items():
        usual = source.USUAL.get(part, 0)
        if count < usual:
            report.incomplete.append(f"{count} examples, usually {usual}")

    rows = evenly_spaced(len(source), limit)
    look_at = functools.partial(look, source, definition)
    looked_at = list(in_threads(look_at, rows, threads, f"{report.dataset}/{report.split}"))

    # Crops of one damaged frame fail alike: each line counts once.
    lines = (line for _, measured in looked_at for line in measured.problems)
    report.problems += dict.fromkeys(lines)
    readable = [(key, measured) for key, measured in looked_at if measured.size != (0, 0)]
    summarize(report, readable, definition)


def look(source: Dataset, definition: Mapping[str, Any] | None, row: int) -> tuple[str, Measured]:
    """Returns key and numbers of an example; the size is (0, 0) if it cannot be read."""
    try:
        example = source.read_or_raise(row)
        with naming(f"{source.root} ({example['key']})"):
            measured = measure(example, definition, source.official_split)
            measured.problems += lost_data(source, row)
            if "prompt" in example:
                measured.words = len(example["prompt"].split())
            return example["key"], measured
    except DataError as error:
        return "", Measured((0, 0), problems=[one_line(error)])


def lost_data(source: Dataset, row: int) -> list[str]:
    """Returns a line for every JPEG of an example that lost data in its middle.

    Reading does not look for it, since it takes as long as decoding the picture several times.
    """
    location = source.examples.locate(row)
    lines = []
    for file in (location.image, location.label):
        if isinstance(file, np.ndarray):
            continue
        data = content(file)
        if pictures.has_lost_its_middle(data):
            lines.append(f"{file}: data and pixels do not end together: part of the JPEG is lost")
    return lines


def one_line(error: DataError | ImportError) -> str:
    """Returns what is wrong and what is allowed, without the layout and the way to skip it."""
    if isinstance(error, ImportError):
        return str(error)
    path, problem, allowed = error.args
    layout = "\n" in allowed
    return f"{path}: {problem}" if layout else f"{path}: {problem}. {allowed}"


def summarize(
    report: SplitReport,
    examples: Sequence[tuple[str, Measured]],
    definition: Mapping[str, Any] | None = None,
) -> None:
    """Adds to the report what its examples have in common.

    Args:
      report: gets numbers, descriptions and thumbnails.
      examples: (key, numbers) of the examples that could be read.
      definition: of own data, the definition of the task.
    """
    report.read = len(examples)
    thumbnails = []
    for key, measured in examples:
        if measured.thumbnail is not None:
            report.keys.append(key)
            thumbnails.append(measured.thumbnail)
    report.thumbnails = np.array(thumbnails, np.uint8).reshape(-1, THUMBNAIL, THUMBNAIL, 3)

    if examples:
        all_measured = [measured for _, measured in examples]
        report.sizes = describe_sizes(all_measured)
        report.values = describe_labels(all_measured, definition)
        report.values += describe_captions(all_measured)


def leaks(name: str, splits: Iterable[SplitReport]) -> list[str]:
    """Returns a line for every image that training and another split of a data set share."""
    train, *held_out = [split for split in splits if split.dataset == name]
    lines = []
    for split in held_out:
        for one, other in shared(train, split):
            lines.append(f"{name}: train {one!r} and {split.split} {other!r} show the same image")
    return lines


def shared(one: SplitReport, other: SplitReport) -> list[tuple[str, str]]:
    """Returns the keys of the images that are in both splits.

    Their files may differ a little in size or compression: their thumbnails differ by at most SAME
    levels on average.
    """
    if one.thumbnails is None or other.thumbnails is None or not len(one.thumbnails):
        return []

    # Only images of nearly the same mean color are compared pixel by pixel.
    means = one.thumbnails.mean((1, 2, 3))
    order = np.argsort(means)
    means = np.sort(means)

    pairs = []
    for key, small in zip(other.keys, other.thumbnails, strict=True):
        first, last = np.searchsorted(means, [small.mean() - SAME, small.mean() + SAME])
        near = order[first:last]
        difference = np.abs(one.thumbnails[near].astype(np.int16) - small).mean((1, 2, 3))
        pairs += [(one.keys[row], key) for row in near[difference <= SAME]]
    return pairs


def format_report(report: Report) -> str:
    """Returns the report for people.

    First the table of splits, then the folders, what is not there, and every problem on a line.
    """
    lines = _table(report.splits)

    lines.append("")
    folders = dict.fromkeys((split.dataset, split.folder) for split in report.splits)
    lines += [f"{dataset}: read from {folder}" for dataset, folder in folders if folder]

    for dataset in report.absent:
        lines += ["", describe(dataset)]

    problems = report.problems
    incomplete = report.incomplete
    conclusion = f"{len(problems)} problem(s)" if problems else "no problems"
    if incomplete:
        conclusion += ", but incomplete"
    return "\n".join([*lines, "", *problems, *incomplete, conclusion])


# Column -> whether it holds numbers, which are aligned to the right.
COLUMNS = {
    "data set": False,
    "split": False,
    "examples": True,
    "usually": True,
    "read": True,
    "wrong": True,
    "sizes": False,
    "values": False,
}


def _table(splits: Sequence[SplitReport]) -> list[str]:
    if not splits:
        return []

    # Texts first, since the width of a column depends on all of them.
    rows = [tuple(COLUMNS)]
    for split in splits:
        usual = f"{split.usual:,}" if split.usual else "-"
        wrong = str(len(split.problems))
        rows.append(
            (
                split.dataset,
                split.split,
                f"{split.examples:,}",
                usual,
                f"{split.read:,}",
                wrong,
                split.sizes,
                split.values,
            )
        )

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for cell, width, is_number in zip(row, widths, COLUMNS.values(), strict=True):
            cells.append(cell.rjust(width) if is_number else cell.ljust(width))
        lines.append("  ".join(cells).rstrip())
    return lines
