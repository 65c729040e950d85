"""Writes the files of an evaluation: figures, what they mean, values per image, pictures."""

import csv
import hashlib
import io
import json
import pathlib
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL

from generalist import __version__
from generalist.evaluation import panels, tables
from generalist.files import write_atomically
from generalist.input_pipeline import Source
from generalist.metrics import PROTOCOLS
from generalist.names import some_of
from generalist.pictures import encode_png
from generalist.tasks import Task

try:
    import resource
except ImportError:  # Windows has none
    resource = None

# The files in the folder of an evaluation.
METRICS = "metrics.json"
CARD = "card.json"
CARD_TEXT = "card.md"
PER_IMAGE = "per_image.csv"
PANELS = "panels"


# What a suffix of a metric's name means: how else the task was predicted. Without one, it is the
# task's own way.
WAYS = {
    "_painter": "the colors interpolated to the label's size, then the nearest class; of panoptic "
    "also stuff from 8192 pixels on (Painter)",
    "_distance": "the distances to the class colors interpolated to the label's size, then the "
    "smallest",
    "_whole": "on the whole image, resized to the model and back, not in tiles at its own "
    "resolution",
}


class TaskRecord(NamedTuple):
    """What an evaluation has seen of one task.

    Attributes:
      task: what is measured.
      source: the held-out examples.
      rows: {"key": str, metric: value, ...} of each measured image.
      left_out: the damaged files, whose examples were not measured.
      samples: the examples shown in the pictures.
    """

    task: Task
    source: Source
    rows: Sequence[Mapping[str, Any]]
    left_out: Sequence[str]
    samples: Sequence[panels.Sample]


def make_card(records: Mapping[str, TaskRecord], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is needed to repeat the figures: protocols, data, settings, device, versions.

    Args:
      records: {task: what was measured}.
      facts: settings of the evaluation.
    """
    # Reading a record needs no JAX; only a card names the device.
    import jax

    # Other versions of these may change a figure in its last digits.
    versions = {
        "generalist": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }
    return {
        "tasks": {name: _describe(record) for name, record in records.items()},
        **facts,
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "machine": platform.platform(),
        "peak_memory": _peak_memory(jax.local_devices()[0]),
        "versions": versions,
        "null": "undefined (no such pixels or segments), or for psnr: exact, that is infinite",
        "seconds_per_image": "median over batches of painting and decoding",
    }


def _describe(record: TaskRecord) -> dict[str, Any]:
    """Returns the card of one task."""
    task = record.task
    protocol = task.metric().protocol

    # A further metric without a suffix has a name of its own.
    columns = list(record.rows[0]) if record.rows else []
    also = {}
    for further in task.further_metrics():
        column = next(iter(further.metric.compute())) + further.suffix
        if further.of_samples and column not in columns:
            continue
        name = further.metric.protocol
        also[further.suffix or column] = f"{name}: {PROTOCOLS[name]}"

    # The columns of the table per image show which ways to predict were measured.
    meanings = {suffix: repr(variant) for suffix, variant in task.variants().items()} | WAYS
    ways = {
        suffix: meaning
        for suffix, meaning in meanings.items()
        if any(column.endswith(suffix) for column in columns)
    }
    keys = [row["key"] for row in record.rows]
    return {
        "protocol": protocol,
        "counts": PROTOCOLS[protocol],
        "also": also,
        "ways": ways,
        "codec_version": task.version,
        "examples": len(record.rows),
        "left_out": list(record.left_out),
        **describe_source(record.source),
        "keys_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
    }


def describe_source(source: Source) -> dict[str, str | int | None]:
    """Returns a source's class, its split and, where it has one, its seed."""
    return {
        "source": type(source).__name__,
        "split": source.split,
        "data_seed": source.seed,
    }


def _peak_memory(device: Any) -> dict[str, str | int]:
    """Returns the most bytes used so far, of the device if it counts them, else of the process."""
    counted = device.memory_stats() or {}
    if "peak_bytes_in_use" in counted:
        return {"of": device.device_kind, "bytes": counted["peak_bytes_in_use"]}
    if resource is None:
        return {"of": "the process, which this system does not count", "bytes": 0}
    # macOS counts bytes, Linux kibibytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"of": "the process", "bytes": peak * unit}


def markdown(card: Mapping[str, Any], metrics: Mapping[str, float | None]) -> str:
    """Returns the card for people: the results, then what they are results of.

    Args:
      card: the content of card.json.
      metrics: the content of metrics.json.
    """
    tasks = card["tasks"]
    names = tables.columns(metrics)
    lines = [tables.HEADER._replace(prediction="model"), *tables.rows(metrics)]
    results = [[getattr(line, name) for name in names] for line in lines]
    numbers = range(2, len(names) - 1)  # between the words and the unit

    # What the suffixes and further names in metrics.json mean.
    meanings: dict[str, dict[str, None]] = {}
    for group in ("ways", "also"):
        for task in tasks.values():
            for key, meaning in task[group].items():
                meanings.setdefault(f"`{key}`", {})[meaning] = None
    keys = {key: "; ".join(distinct) for key, distinct in meanings.items()}

    left_out = {}
    for name, task in tasks.items():
        if task["left_out"]:
            left_out[name] = f"{len(task['left_out'])} damaged: {some_of(task['left_out'])}"

    # A section without content is dropped with its title.
    parts = [
        "# Results card",
        _table(results, right=numbers),
        "Figures of errors stand against the trivial predictor as a multiple, all others as a "
        "difference; “–” is undefined or not measured, “exact” a PSNR above 100 dB.",
        "## Data and protocols",
        _table(_data_rows(card, metrics), right=(5, 7)),
        "## Left out: the figures are not those of the whole set" if left_out else "",
        _list(left_out),
        "## Other keys" if keys else "",
        _list(keys),
        "## Settings",
        _list(_settings(card)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _data_rows(card: Mapping[str, Any], metrics: Mapping[str, float | None]) -> list[Sequence[str]]:
    """Returns the table of what was measured on what."""
    rows = [
        (
            "task",
            "protocol",
            "what it counts",
            "data",
            "split",
            "examples",
            "SHA-256 of the keys",
            "seconds an image",
        )
    ]

    # 16 digits of a hash tell any two lists of keys apart; card.json has all of them.
    for name, task in card["tasks"].items():
        rows.append(
            (
                name,
                task["protocol"],
                task["counts"],
                task["source"],
                task["split"] or tables.UNDEFINED,
                f"{task['examples']:,}",
                task["keys_sha256"][:16],
                f"{metrics[f'{name}/seconds_per_image']:.3g}",
            )
        )
    return rows


def _settings(card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the facts of the card that are not about one task."""
    # Everything that is one value; what belongs to a task is in the tables above.
    settings = {}
    for key, value in card.items():
        if isinstance(value, str | int | float) and key not in ("null", "seconds_per_image"):
            settings[key] = value

    memory = card["peak_memory"]
    gibibytes = memory["bytes"] / 2**30
    settings["peak memory"] = (
        f"{gibibytes:.2f} GiB of {memory['of']}, batches of {card['batch_size']}"
    )
    settings["versions"] = ", ".join(
        f"{name} {version}" for name, version in card["versions"].items()
    )
    return settings


def _table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    """Returns a Markdown table; `right` are the columns that are aligned to the right."""
    widths = [max(2, *map(len, column)) for column in zip(*rows, strict=True)]

    # Padded cells: the file is read as text, too.
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.rjust(width) if column in right else cell.ljust(width))
        lines.append(cells)

    # Markdown aligns a column to the right by a colon at the end of its rule.
    rule = []
    for column, width in enumerate(widths):
        rule.append("-" * (width - 1) + (":" if column in right else "-"))
    lines.insert(1, rule)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _list(facts: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def write(
    out_dir: pathlib.Path,
    metrics: Mapping[str, float | None],
    card: Mapping[str, Any],
    records: Mapping[str, TaskRecord],
) -> None:
    """Writes the files of an evaluation, each atomically.

    metrics.json comes last: where it is, all others are.

    Args:
      out_dir: the folder.
      metrics: the content of metrics.json.
      card: the content of card.json.
      records: {task: what was measured}.
    """
    write_atomically(out_dir / CARD, json.dumps(card, indent=1).encode())
    write_atomically(out_dir / CARD_TEXT, _to_bytes(markdown(card, metrics)))
    write_atomically(out_dir / PER_IMAGE, _csv(records))

    shown = {name: record for name, record in records.items() if record.samples}
    pictures = {
        name: panels.task_panel(record.task, record.samples) for name, record in shown.items()
    }
    if shown:
        pictures["overview"] = panels.overview(
            {name: record.task for name, record in shown.items()},
            {name: record.samples for name, record in shown.items()},
        )
    for name, picture in pictures.items():
        write_atomically(out_dir / PANELS / f"{name}.png", encode_png(np.asarray(picture)))

    # Last: its presence says that all others are complete.
    write_atomically(out_dir / METRICS, json.dumps(metrics, indent=1, allow_nan=False).encode())


def _csv(records: Mapping[str, TaskRecord]) -> bytes:
    """Returns a line a task and example.

    A metric that the task does not have is empty, an undefined one nan, an exact PSNR inf.
    """
    lines = []
    columns = {"task": None, "key": None}  # a dict keeps the order in which columns first appear
    for name, record in records.items():
        for row in record.rows:
            lines.append({"task": name, **row})
            columns |= dict.fromkeys(row)

    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return _to_bytes(text.getvalue())


def _to_bytes(text: str) -> bytes:
    """Returns UTF-8; of a path that is no Unicode, its bytes as escapes."""
    return text.encode("utf-8", "backslashreplace")
