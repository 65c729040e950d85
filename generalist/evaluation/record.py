"""The files of an evaluation: figures, what they mean, values per image, pictures."""

import csv
import hashlib
import io
import json
import pathlib
import platform
import resource
import sys
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import PIL

from generalist import __version__
from generalist.evaluation import panels, tables
from generalist.evaluation.scores import WAYS, further_metrics
from generalist.files import write_atomically
from generalist.metrics import PROTOCOLS
from generalist.pictures import encode_png
from generalist.tasks import Task

METRICS, CARD, CARD_TEXT, PER_IMAGE, PANELS = (
    "metrics.json",
    "card.json",
    "card.md",
    "per_image.csv",
    "panels",
)


def card(
    tasks: Mapping[str, Task],
    sources: Mapping,
    rows: Mapping[str, Sequence[Mapping]],
    left_out: Mapping[str, Sequence[str]],
    facts: Mapping,
) -> dict:
    """What one has to know to repeat the numbers: protocols, data, codecs, settings, device, memory, versions.

    Args:
      tasks: {name: codec}.
      sources: {name: source}.
      rows: {name: values per image}, whose keys say exactly which examples were measured.
      left_out: {name: damaged files}, of examples that were not.
      facts: settings of the evaluation.
    """
    import jax

    versions = {
        "generalist": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
    }
    return {
        "tasks": {
            name: _describe(task, sources[name], rows[name], left_out[name])
            for name, task in tasks.items()
        },
        **facts,
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "machine": platform.platform(),
        "peak_memory": _peak_memory(jax.local_devices()[0]),
        "versions": versions,
        "null": "undefined (no such pixels or segments), or for psnr: exact, that is infinite",
        "seconds_per_image": "median over batches of painting and decoding",
    }


def _describe(task: Task, source, rows: Sequence[Mapping], left_out: Sequence[str]) -> dict:
    protocol, keys = task.metric().protocol, [row["key"] for row in rows]
    also = {key: metric.protocol for key, metric in further_metrics(task).items()}
    return {
        "protocol": protocol,
        "counts": PROTOCOLS[protocol],
        "also": {key: f"{name}: {PROTOCOLS[name]}" for key, name in also.items()},
        "ways": {
            suffix: said
            for suffix, said in WAYS.items()
            if rows and any(key.endswith(suffix) for key in rows[0])
        },
        "codec_version": task.version,
        "examples": len(rows),
        "left_out": list(left_out),
        **describe_source(source),
        "keys_sha256": hashlib.sha256("\n".join(keys).encode()).hexdigest(),
    }


def describe_source(source) -> dict[str, str | int | None]:
    """What kind of source it is, its split and, where it has one, its seed."""
    return {
        "source": type(source).__name__,
        "split": getattr(source, "split", None),
        "data_seed": getattr(source, "seed", None),
    }


def _peak_memory(device) -> dict[str, str | int]:
    """Bytes, and of what: the device where it counts them, else this process since it began."""
    counted = device.memory_stats() or {}
    if "peak_bytes_in_use" in counted:
        return {"of": device.device_kind, "bytes": counted["peak_bytes_in_use"]}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"of": "the process", "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def markdown(card: Mapping, metrics: Mapping) -> str:
    """The card for people, as Markdown: the results, then what they are results of."""
    results = [tables.HEADER._replace(prediction="model"), *tables.rows(metrics)]
    data = [
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
    for name, task in card["tasks"].items():
        data.append(
            (
                name,
                task["protocol"],
                task["counts"],
                task["source"],
                task["split"] or "–",
                f"{task['examples']:,}",
                task["keys_sha256"][:16],
                f"{metrics[f'{name}/seconds_per_image']:.3g}",
            )
        )
    said = {
        f"`{suffix}`": text
        for task in card["tasks"].values()
        for suffix, text in task["ways"].items()
    }
    said |= {
        f"`{key}`": text for task in card["tasks"].values() for key, text in task["also"].items()
    }
    left_out = {
        name: f"{len(task['left_out'])} damaged: {', '.join(task['left_out'][:5])}"
        for name, task in card["tasks"].items()
        if task["left_out"]
    }
    memory = card["peak_memory"]
    facts = {
        key: value
        for key, value in card.items()
        if isinstance(value, str | int | float) and key not in ("null", "seconds_per_image")
    }
    facts |= {
        "peak memory": f"{memory['bytes'] / 2**30:.2f} GiB of {memory['of']}, batches of {card['batch_size']}",
        "versions": ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
    }
    parts = [
        "# Results card",
        _table(results, right=(2, 3, 4, 5)),
        "Figures of errors stand against the trivial predictor as a multiple, all others as a difference; "
        "“–” is undefined or not measured, “exact” an infinite PSNR.",
        "## Data and protocols",
        _table(data, right=(5, 7)),
        "## Left out: the figures are not those of the whole set" if left_out else "",
        _list(left_out),
        "## Other keys" if said else "",
        _list(said),
        "## Settings",
        _list(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    widths = [max(2, *map(len, column)) for column in zip(*rows)]
    lines = [
        [
            cell.rjust(w) if i in right else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths))
        ]
        for row in rows
    ]
    rule = ["-" * (w - 1) + (":" if i in right else "-") for i, w in enumerate(widths)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def _list(facts: Mapping) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def write(
    out_dir: pathlib.Path,
    metrics: Mapping,
    card: Mapping,
    runs: Mapping[str, tuple[Task, list[dict], list]],
) -> None:
    """Writes the files of an evaluation, each atomically; `runs` is {name: (task, values per image, samples to show)}.

    metrics.json comes last: where it is, all others are.
    """
    write_atomically(out_dir / CARD, json.dumps(card, indent=1).encode())
    write_atomically(out_dir / CARD_TEXT, markdown(card, metrics).encode())
    write_atomically(out_dir / PER_IMAGE, _csv({name: rows for name, (_, rows, _) in runs.items()}))
    shown = {name: (task, samples) for name, (task, _, samples) in runs.items() if samples}
    pictures = {name: panels.task_panel(*pair) for name, pair in shown.items()}
    if shown:
        pictures["overview"] = panels.overview(shown)
    for name, picture in pictures.items():
        write_atomically(out_dir / PANELS / f"{name}.png", encode_png(np.asarray(picture)))
    write_atomically(out_dir / METRICS, json.dumps(metrics, indent=1, allow_nan=False).encode())


def _csv(rows: Mapping[str, Sequence[Mapping]]) -> bytes:
    """One line a task and example; a metric that the task does not have is empty, an undefined one nan, an exact PSNR inf."""
    columns = dict.fromkeys(
        ["task", "key", *(key for task in rows.values() for row in task for key in row)]
    )
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"task": name, **row} for name, task in rows.items() for row in task)
    return text.getvalue().encode()
