"""The files of an evaluation: figures, what they mean, values per image, pictures."""

import csv
import io
import json
import pathlib
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import PIL

from generalist import __version__
from generalist.evaluation import panels
from generalist.metrics import PROTOCOLS
from generalist.files import write_atomically
from generalist.tasks import Task

METRICS, CARD, PER_IMAGE, PANELS = "metrics.json", "card.json", "per_image.csv", "panels"


def card(tasks: Mapping[str, Task], sources: Mapping, counts: Mapping[str, int], facts: Mapping) -> dict:
    """What one has to know to repeat the numbers: protocols, data, codecs, settings, device, versions."""
    import jax

    described = {}
    for name, task in tasks.items():
        source, protocol = sources[name], task.metric().protocol
        described[name] = {
            "protocol": protocol, "counts": PROTOCOLS[protocol], "codec_version": task.version, "examples": counts[name],
            "source": type(source).__name__, "split": getattr(source, "split", None), "data_seed": getattr(source, "seed", None)}
    versions = {"generalist": __version__, "jax": jax.__version__, "numpy": np.__version__, "opencv": cv2.__version__,
                "pillow": PIL.__version__}
    return {"tasks": described, **facts, "device_kind": jax.devices()[0].device_kind, "versions": versions,
            "null": "undefined (no such pixels or segments), or for psnr: exact, that is infinite",
            "seconds_per_image": "median over batches of painting and decoding"}


def write(out_dir: pathlib.Path, metrics: Mapping, card: Mapping, runs: Mapping[str, tuple[Task, list[dict], list]]) -> None:
    """Writes the files of an evaluation, each atomically; `runs` is {name: (task, values per image, samples to show)}.

    metrics.json comes last: where it is, all others are.
    """
    write_atomically(out_dir / CARD, json.dumps(card, indent=1).encode())
    write_atomically(out_dir / PER_IMAGE, _csv({name: rows for name, (_, rows, _) in runs.items()}))
    shown = {name: (task, samples) for name, (task, _, samples) in runs.items() if samples}
    pictures = {name: panels.task_panel(*pair) for name, pair in shown.items()}
    if shown:
        pictures["overview"] = panels.overview(shown)
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, "png")
        write_atomically(out_dir / PANELS / f"{name}.png", buffer.getvalue())
    write_atomically(out_dir / METRICS, json.dumps(metrics, indent=1, allow_nan=False).encode())


def _csv(rows: Mapping[str, Sequence[Mapping]]) -> bytes:
    """One line a task and example; a metric that the task does not have is empty, an undefined one nan, an exact PSNR inf."""
    columns = dict.fromkeys(["task", "key", *(key for task in rows.values() for row in task for key in row)])
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"task": name, **row} for name, task in rows.items() for row in task)
    return text.getvalue().encode()
