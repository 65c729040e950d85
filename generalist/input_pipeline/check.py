"""Looks at the examples of a data set: what is there, what is damaged or out of range, and which images two splits share."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping

import cv2
import numpy as np

from generalist.input_pipeline.reading import evenly_spaced, in_threads
from generalist.input_pipeline.sources import (
    SOURCES,
    WHOLE_TASK,
    DataError,
    LayoutError,
    MissingDataset,
    Source,
    choose,
    describe,
    find_prepared,
    find_root,
    missing,
    open_source,
)
from generalist.input_pipeline.sources.files import NO_FILE, NO_FOLDER
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks import get_tasks

FAR = 20.0  # metres: NYU's sensor reaches about 10, so that more means another unit
THUMBNAIL = 16  # side of the thumbnails that are compared, pixels
SAME, FLAT = (
    1.0,
    8.0,
)  # levels: mean difference of two thumbnails of one image; spread under which a thumbnail says nothing


@dataclasses.dataclass
class Measured:
    """What one example says of itself: numbers for the table, and what is wrong with it.

    Attributes:
      size: (h, w) pixels.
      thumbnail: uint8 (THUMBNAIL, THUMBNAIL, 3) of the image, of a restoration's clean one; None where it is flat.
      problems: one line each.
      form: of the label: "classes", "values", "instances" or "pair".
      share: of the pixels without a label, of instances those of the background.
      low, high: of the values, of a restoration's input in dB, or the number of instances.
      classes: ids seen.
    """

    size: tuple[int, int]
    thumbnail: np.ndarray | None
    problems: list[str]
    form: str = "classes"
    share: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    classes: frozenset[int] = frozenset()


@dataclasses.dataclass
class SplitReport:
    """One split: `found` examples of which `read` were looked at; sizes and values for people; all problems, and parts with fewer
    examples than usual, a line each.
    """

    dataset: str
    split: str
    folder: str = ""  # where it was found
    found: int = 0
    usual: int = 0  # 0: of own data, where no number is usual
    read: int = 0
    sizes: str = ""
    values: str = ""
    problems: list[str] = dataclasses.field(default_factory=list)
    incomplete: list[str] = dataclasses.field(default_factory=list)
    keys: list[str] = dataclasses.field(default_factory=list, repr=False)  # of `thumbnails`
    thumbnails: np.ndarray | None = dataclasses.field(
        default=None, repr=False
    )  # uint8 (n, side, side, 3)


@dataclasses.dataclass
class Report:
    """Of `check`: the splits that were looked at, the data sets that are not there, and images that two splits share."""

    splits: list[SplitReport]
    absent: list[MissingDataset]
    leaks: list[str]

    @property
    def problems(self) -> list[str]:
        """All that is wrong with the data that are there, one line each."""
        return [
            f"{split.dataset}/{split.split}: {line}"
            for split in self.splits
            for line in split.problems
        ] + self.leaks

    @property
    def incomplete(self) -> list[str]:
        """What of the splits that are there is fewer than usual, one line each: that may be meant so."""
        return [
            f"incomplete: {split.dataset}/{split.split}: {line}"
            for split in self.splits
            for line in split.incomplete
        ]


def check(
    data_dir,
    names: Iterable[str] = (),
    limit: int = 0,
    threads: int = 8,
    log: Callable[[str], object] = print,
) -> Report:
    """Reads the training and the evaluation split of every data set below `data_dir`, whatever is wrong with it.

    Args:
      data_dir: local path or gs://.
      names: of data sets (default: all); ValueError for an unknown one.
      limit: examples of a split, evenly spread (0: all).
      threads: reading at a time.
      log: takes lines about the progress.
    """
    names = list(dict.fromkeys(choose("data set", name, SOURCES) for name in names or SOURCES))
    report = Report([], [], [])
    for name in names:
        try:
            absent = missing(data_dir, [name])
        except LayoutError as error:  # metadata of a prepared form
            report.splits.append(SplitReport(name, "-", problems=[one_line(error)]))
            continue
        report.absent += absent
        if absent and not absent[0].absent:
            continue
        for split in splits_of(name, data_dir):
            opened = functools.partial(
                open_source,
                name,
                WHOLE_TASK.get(name),
                split,
                data_dir,
                on_error="skip",
                log=_quiet,
            )
            report.splits.append(
                check_split(
                    SplitReport(name, split, usual=SOURCES[name].USUAL[split]),
                    opened,
                    limit,
                    threads,
                    log,
                )
            )
        report.leaks += leaks(name, report.splits)
    return report


def check_own(
    data_dir,
    definitions: Mapping[str, Mapping],
    names: Iterable[str] = (),
    limit: int = 0,
    threads: int = 8,
    log: Callable[[str], object] = print,
) -> Report:
    """`check` of a user's own data (docs/own_data.md): a folder that is not there is a line of `incomplete`.

    Args:
      definitions: of the tasks, as in `config.tasks.set`.
      names: of tasks (default: all).
      The others: see `check`.

    Raises:
      ValueError: a wrong definition, an unknown task, or `data_dir` has the folder of none.
    """
    folders = {
        name: definitions[name].get("folder", ".")
        for name in get_tasks(definitions, list(names) or None)
    }
    if not any(find_root(data_dir, (folder,)) for folder in folders.values()):
        where = data_dir or "GENERALIST_DATA_DIR, which is not set"
        raise ValueError(
            f"none of the folders {', '.join(dict.fromkeys(folders.values()))} in {where}: give --data-dir"
        )
    report = Report([], [], [])
    for name, folder in folders.items():
        if not find_root(data_dir, (folder,)):
            report.splits.append(
                SplitReport(name, "-", incomplete=[f"{data_dir}/{folder}: {NO_FOLDER}"])
            )
            continue
        for split in Folder.SPLITS:
            opened = functools.partial(
                Folder, data_dir, split, name, definitions[name], on_error="skip", log=_quiet
            )
            report.splits.append(
                check_split(
                    SplitReport(name, split), opened, limit, threads, log, definitions[name]
                )
            )
        report.leaks += leaks(name, report.splits)
    return report


def _quiet(line: str) -> None:
    """What a source says while it is opened and read stands in the report."""


def splits_of(name: str, data_dir) -> list[str]:
    """train, and the evaluation split or its parts, each once; a prepared form does not know the parts."""
    source = SOURCES[name]
    parts = [split for split in source.SPLITS if split.startswith(f"{source.EVAL_SPLIT}/")]
    return [
        "train",
        *(
            parts
            if parts and not find_prepared(source, data_dir, source.EVAL_SPLIT)
            else [source.EVAL_SPLIT]
        ),
    ]


def check_split(
    report: SplitReport,
    opened: Callable[[], Source],
    limit: int,
    threads: int,
    log: Callable[[str], object],
    own: Mapping | None = None,
) -> SplitReport:
    """Reads the examples of one split into its report; a damaged one is a line among the problems and never the end.

    own: the definition of the task, of own data.
    """
    try:
        source = opened()
    except (DataError, ImportError) as error:
        absent = isinstance(error, LayoutError) and error.args[1] in (NO_FILE, NO_FOLDER)
        (report.incomplete if absent else report.problems).append(one_line(error))
        return report
    report.found, report.folder = len(source), source.root
    report.problems += [f"{path}: {problem}" for path, problem in source.damaged.items()]
    report.incomplete += [
        f"{count} examples, usually {source.USUAL[part]}"
        for part, count in source.counts.items()
        if count < source.USUAL.get(part, 0)
    ]
    rows = evenly_spaced(len(source), limit)
    measured = list(
        in_threads(
            lambda row: look(source, row, own),
            rows,
            threads,
            f"{report.dataset}/{report.split}",
            log,
        )
    )
    report.problems += dict.fromkeys(line for _, one in measured for line in one.problems)
    summarise(report, [(key, one) for key, one in measured if one.size != (0, 0)], own)
    return report


def look(source: Source, row: int, own: Mapping | None) -> tuple[str, Measured]:
    """The key and the numbers of an example; of one that cannot be read only the problem, and the size (0, 0)."""
    try:
        example = source.read(row)
    except DataError as error:
        return "", Measured((0, 0), None, [one_line(error)])
    return example["key"], measure(example, own)


def one_line(error: DataError | ImportError) -> str:
    """What is wrong and what is allowed, without the layout and the way to skip it."""
    if isinstance(error, ImportError):
        return str(error)
    path, problem, allowed = error.args
    return f"{path}: {problem}" + ("" if "\n" in allowed else f". {allowed}")


def measure(example: dict, own: Mapping | None = None) -> Measured:
    """Numbers and problems of one example, by the form of its label; own: the definition of the task, of own data."""
    image, label, key = example["image"], example["label"], example["key"]
    if isinstance(label, tuple):
        return _measure_panoptic(image, key, *label)
    if label.dtype == np.uint8:
        return _measure_pair(image, label, key)
    if label.dtype.kind == "f":
        return _measure_values(
            image,
            key,
            label.size,
            label[~np.isnan(label)] if own else label[label > 0],
            math.inf if own else FAR,
        )
    if own and own["kind"] == "instances":
        count = len(np.unique(label[label > 0]))
        return Measured(
            image.shape[:2],
            thumbnail(image),
            [],
            "instances",
            float((label == 0).mean()),
            count,
            count,
        )
    return Measured(
        image.shape[:2],
        thumbnail(image),
        [],
        share=float((label < 0).mean()),
        classes=frozenset(np.unique(label[label >= 0]).tolist()),
    )


def _measure_values(
    image: np.ndarray, key: str, pixels: int, known: np.ndarray, far: float
) -> Measured:
    measured = Measured(image.shape[:2], thumbnail(image), [], "values", 1 - known.size / pixels)
    if not known.size:
        measured.problems.append(f"{key}: no pixel has a value")
        return measured
    measured.low, measured.high = float(known.min()), float(known.max())
    if measured.high > far:
        measured.problems.append(f"{key}: depth up to {measured.high:.1f} m: is it in millimetres?")
    return measured


def _measure_pair(image: np.ndarray, clean: np.ndarray, key: str) -> Measured:
    error = float(np.mean((image.astype(np.float32) - clean) ** 2))
    decibel = 10 * math.log10(255**2 / error) if error else math.inf
    problems = [] if error else [f"{key}: the degraded and the clean image are the same"]
    return Measured(
        image.shape[:2],
        thumbnail(clean),
        problems,
        "pair",
        low=decibel,
        high=decibel if error else -math.inf,
    )


def _measure_panoptic(
    image: np.ndarray, key: str, ids: np.ndarray, segments: list[dict]
) -> Measured:
    pixels = dict(zip(*(values.tolist() for values in np.unique(ids, return_counts=True))))
    problems = [
        f"{key}: segment {segment['id']} has {pixels[segment['id']]} pixels, its area in the JSON is {segment['area']}"
        for segment in segments
        if segment["area"] != pixels[segment["id"]]
    ]
    return Measured(
        image.shape[:2],
        thumbnail(image),
        problems,
        share=float((ids == 0).mean()),
        classes=frozenset(segment["category_id"] for segment in segments),
    )


def thumbnail(image: np.ndarray) -> np.ndarray | None:
    """uint8 (h, w, 3) -> its area mean, uint8 (THUMBNAIL, THUMBNAIL, 3), or None if that is nearly one colour."""
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return small if small.std() >= FLAT else None


def summarise(
    report: SplitReport, measured: list[tuple[str, Measured]], own: Mapping | None = None
) -> None:
    """Fills in what the examples say together; own: the definition of the task, of own data."""
    report.read = len(measured)
    seen = [(key, one.thumbnail) for key, one in measured if one.thumbnail is not None]
    report.keys = [key for key, _ in seen]
    report.thumbnails = np.array([small for _, small in seen], np.uint8).reshape(
        -1, THUMBNAIL, THUMBNAIL, 3
    )
    if not measured:
        return
    sizes = sorted({one.size[::-1] for _, one in measured}, key=math.prod)
    report.sizes = "x".join(map(str, sizes[0])) + (
        f"..{sizes[-1][0]}x{sizes[-1][1]}" if len(sizes) > 1 else ""
    )
    report.values = _values([one for _, one in measured], own or {"unit": "m"})


def _values(measured: list[Measured], definition: Mapping) -> str:
    """What the examples hold together, for people."""
    low, high, share = (
        min(one.low for one in measured),
        max(one.high for one in measured),
        np.mean([one.share for one in measured]),
    )
    form = measured[0].form
    if form == "classes":
        of = f" of {len(definition['classes'])}" if "classes" in definition else ""
        return f"{len(frozenset().union(*(one.classes for one in measured)))}{of} classes, {share:.1%} void"
    if form == "instances":
        return f"{low}..{high} instances an image, {share:.1%} background"
    if form == "values":
        return (
            f"{low:.4g}..{high:.4g} {definition.get('unit', '')}".rstrip()
            + f", {share:.1%} missing"
            if low <= high
            else "no values"
        )
    return f"input {low:.1f}..{high:.1f} dB"


def leaks(name: str, splits: Iterable[SplitReport]) -> list[str]:
    """A line for every image that the training and another split of the data set `name` show."""
    train, *held_out = [split for split in splits if split.dataset == name]
    return [
        f"{name}: train {one!r} and {split.split} {other!r} show the same image"
        for split in held_out
        for one, other in shared(train, split)
    ]


def shared(one: SplitReport, other: SplitReport) -> list[tuple[str, str]]:
    """Keys of the images that both splits show, though their files may differ in size or compression a little.

    Candidates have nearly the same mean colour; of those the thumbnails differ by at most SAME levels on average.
    """
    if one.thumbnails is None or other.thumbnails is None or not len(one.thumbnails):
        return []
    means = one.thumbnails.mean((1, 2, 3))
    order, means, pairs = np.argsort(means), np.sort(means), []
    for key, small in zip(other.keys, other.thumbnails):
        first, last = np.searchsorted(means, [small.mean() - SAME, small.mean() + SAME])
        near = order[first:last]
        difference = np.abs(one.thumbnails[near].astype(np.int16) - small).mean((1, 2, 3))
        pairs += [(one.keys[row], key) for row in near[difference <= SAME]]
    return pairs


def format_report(report: Report) -> str:
    """The table of splits, then the folders, what is not there, and every problem on a line of its own."""
    header = ("data set", "split", "examples", "usually", "read", "wrong", "sizes", "values")
    lines = [
        header,
        *(
            (
                s.dataset,
                s.split,
                f"{s.found:,}",
                f"{s.usual:,}" if s.usual else "-",
                f"{s.read:,}",
                str(len(s.problems)),
                s.sizes,
                s.values,
            )
            for s in report.splits
        ),
    ]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = (
        [
            "  ".join(
                cell.rjust(w) if 2 <= i <= 5 else cell.ljust(w)
                for i, (cell, w) in enumerate(zip(line, widths))
            ).rstrip()
            for line in lines
        ]
        if report.splits
        else []
    )
    text += [
        "",
        *dict.fromkeys(
            f"{split.dataset}: read from {split.folder}" for split in report.splits if split.folder
        ),
    ]
    for dataset in report.absent:
        text += ["", describe(dataset)]
    problems = report.problems
    last = f"{len(problems)} problem(s)" if problems else "all that is there is well"
    return "\n".join(
        [
            *text,
            "",
            *problems,
            *report.incomplete,
            last + (", but incomplete" if report.incomplete else ""),
        ]
    )
