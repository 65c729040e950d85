"""Writes report.html of a run: results, pictures, curves, facts.

It is one file without JavaScript, and nothing in it comes from the network.
"""

import base64
import html
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from generalist.evaluation import tables
from generalist.evaluation.curves import Series, line_chart
from generalist.evaluation.page import page
from generalist.evaluation.record import CARD, METRICS, PANELS
from generalist.files import read_json, read_text, write_atomically

Metrics = Mapping[str, float | None]  # the content of metrics.json
History = Sequence[Mapping[str, Any]]  # the lines of metrics.jsonl, one a step

_CLASS_HEAD = (
    '<thead><tr><th>class</th><th class="number main">prediction %</th>'
    '<th class="number">trivial %</th><th class="number">ceiling %</th>'
    "<th>0 to 100 %, trivial marked</th></tr></thead>"
)

# The attributes of the cells in each column of the results.
_CELL = tables.Row(
    task=' class="task"',
    metric="",
    before=' class="number"',
    shipped=' class="number"',
    prediction=' class="number main"',
    trivial=' class="number"',
    ceiling=' class="number"',
    gain=' class="number"',
    unit=' class="unit"',
)

MOST_HISTORY = 2**30  # bytes of metrics.jsonl: a line a step of a million steps

# The metrics whose course over the training is drawn.
_DRAWN = ("rmse", "miou", "pq", "psnr")


def write_report(
    workdir: str | os.PathLike, out_path: str | os.PathLike | None = None
) -> pathlib.Path:
    """Writes the report of a run and returns its path.

    Args:
      workdir: folder of the run: `eval/<step>/` of `evaluate` (the largest step is reported) and,
        where there are any, metrics.jsonl, run.json and config.json.
      out_path: the file; default report.html in the workdir.

    Raises:
      FileNotFoundError: the workdir holds no evaluation.
    """
    workdir = pathlib.Path(workdir)
    step, folder = _latest(workdir)
    metrics = _read(folder / METRICS)
    card = _read(folder / CARD)
    history = _history(workdir / "metrics.jsonl")
    config = _read(workdir / "config.json")
    run = _read(workdir / "run.json")

    # What has nothing to show has no section: a run without an evaluation of classes, say.
    sections = [
        ("Results", _results(metrics)),
        ("Every class", _classes(metrics)),
        ("Pictures", _panels(folder / PANELS, metrics)),
        ("Training", _curves(history)),
        ("How to read this", _guide(metrics, card)),
        ("The run", _facts(run, config, card)),
    ]
    written = [
        f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content
    ]
    body = _picture(folder / PANELS / "overview.png", "All tasks") + "\n".join(written)

    out_path = pathlib.Path(out_path) if out_path else workdir / "report.html"
    title = workdir.absolute().name
    write_atomically(out_path, page(title, _summary(step, card), body).encode("utf-8", "replace"))
    return out_path


def _latest(workdir: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Returns step and folder of the last evaluation that has its figures."""
    evaluations = []
    for path in workdir.glob(f"eval/*/{METRICS}"):
        # Other names are evaluations on other data.
        if path.parent.name.isdecimal():
            evaluations.append((int(path.parent.name), path.parent))
    if not evaluations:
        raise FileNotFoundError(
            f"{workdir.absolute()} holds no eval/<step>/{METRICS}: "
            f"run main.py with --workdir={workdir} and --mode=eval first."
        )
    return max(evaluations)


def _read(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _history(path: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the scalars of each step. Later lines of a step replace earlier ones."""
    if not path.exists():
        return []
    by_step = {}
    for line in read_text(path, MOST_HISTORY).splitlines():
        try:
            scalars = json.loads(line)
        except ValueError:
            continue  # a kill cut the line short
        if not isinstance(scalars, dict) or not isinstance(scalars.get("step"), int):
            continue  # no line of a run
        by_step[scalars["step"]] = by_step.get(scalars["step"], {}) | scalars
    return [by_step[step] for step in sorted(by_step)]


def _summary(step: int, card: Mapping[str, Any]) -> str:
    """Returns the line below the title: step, tasks, examples, denoising steps, device."""
    tasks = card["tasks"].values()
    parts = [f"step {step:,}", f"{len(tasks)} tasks"]

    # Tasks on data sets of several sizes have different numbers of examples.
    counts = [task["examples"] for task in tasks]
    fewest = min(counts)
    most = max(counts)
    examples = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    splits = ", ".join(sorted({task["split"] for task in tasks if task["split"]}))
    parts.append(f"{examples} examples a task" + (f" ({splits})" if splits else ""))

    if card["steps"]:
        parts.append(f"{card['steps']} denoising step" + "s" * (card["steps"] > 1))
    if card.get("samples", 1) > 1:
        parts.append(f"{card['samples']} samples of each image")
    parts.append(card["device_kind"])
    return html.escape(" · ".join(parts))


def _results(metrics: Metrics) -> str:
    """Returns the results table; a task is named on its first line only."""
    # As in the terminal, and a line above each task.
    names = tables.columns(metrics)
    lines = []
    last = ""
    for row in tables.rows(metrics):
        first = ' class="first"' if row.task != last else ""
        shown = row._replace(task="") if row.task == last else row
        cells = [
            f"<td{getattr(_CELL, name)}>{html.escape(getattr(shown, name))}</td>" for name in names
        ]
        lines.append(f"<tr{first}>{''.join(cells)}</tr>")
        last = row.task

    header = "".join(
        f"<th{getattr(_CELL, name)}>{getattr(tables.HEADER, name)}</th>" for name in names
    )
    return (
        f'<div class="wide"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _classes(metrics: Metrics) -> str:
    """Returns a table a task with the IoU or PQ of every class."""
    # Semantic tasks have an IoU a class, panoptic ones a PQ.
    parts = []
    for task in tables.task_names(metrics):
        for key, label in (("iou", "IoU"), ("pq", "PQ")):
            prefix = f"{task}/{key}/"
            names = [name for name in metrics if name.startswith(prefix)]
            if not names:
                continue

            lines = [_class_line(metrics, name, name.removeprefix(prefix)) for name in names]
            caption = f"{label} of the classes, {html.escape(task)}"
            parts.append(
                f'<div class="wide"><table><caption>{caption}</caption>'
                f"{_CLASS_HEAD}<tbody>{''.join(lines)}</tbody></table></div>"
            )
    return "".join(parts)


def _class_line(metrics: Metrics, name: str, shown: str) -> str:
    """Returns a class as numbers and a bar, on which a tick marks the trivial predictor's figure.

    Args:
      metrics: the content of metrics.json.
      name: of the prediction's figure in it.
      shown: name of the class.
    """
    prediction = metrics.get(name)
    trivial = metrics.get(f"trivial/{name}")
    ceiling = metrics.get(f"ceiling/{name}")

    # An undefined figure has an empty bar.
    bar = (
        f'<b style="width:{100 * (prediction or 0):.1f}%"></b>'
        f'<u style="left:{100 * (trivial or 0):.1f}%"></u>'
    )
    return (
        f"<tr><td>{html.escape(shown)}</td>"
        f'<td class="number main">{_percent(prediction)}</td>'
        f'<td class="number">{_percent(trivial)}</td>'
        f'<td class="number">{_percent(ceiling)}</td>'
        f'<td class="bar"><div>{bar}</div></td></tr>'
    )


def _percent(value: float | None) -> str:
    return tables.UNDEFINED if value is None else f"{100 * value:.1f}"


def _panels(folder: pathlib.Path, metrics: Metrics) -> str:
    parts = []
    for name in tables.task_names(metrics):
        picture = _picture(folder / f"{name}.png", name)
        if picture:
            parts.append(f"<h3>{html.escape(name)}</h3>{picture}")
    return "".join(parts)


def _picture(path: pathlib.Path, alt: str) -> str:
    """Returns an image with its data inside the page; "" if there is no such file."""
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'
    return f'<div class="wide">{image}</div>'


class _Chart(NamedTuple):
    """A chart of the training.

    Attributes:
      title: HTML above it.
      series: {name: [(step, value), ...]}.
      label: of the y axis.
      log_y: whether that axis is logarithmic.
    """

    title: str
    series: Mapping[str, Series]
    label: str
    log_y: bool


def _curves(history: History) -> str:
    """Returns charts of loss, learning rate and, from two evaluations on, the figures of tasks."""
    # Losses fall over decades: their axis is logarithmic.
    by_task = {
        key.removeprefix("loss/"): _series(history, key) for key in _keys(history, r"loss/.+")
    }
    charts = [
        _Chart("Loss, all tasks together", {"loss": _series(history, "loss")}, "loss", True),
        _Chart("Loss of each task, before its weight", by_task, "loss", True),
        _Chart(
            "Learning rate",
            {"learning rate": _series(history, "learning_rate")},
            "learning rate",
            False,
        ),
    ]

    for key in _DRAWN:
        quantity = tables.QUANTITIES[key]
        names = _keys(history, rf"eval/[^/]+/{key}")
        lines = {name.split("/")[1]: _series(history, name) for name in names}
        if any(len(line) > 1 for line in lines.values()):
            # The table prints ratios in percent; here they stay fractions, without a unit.
            unit = f" in {quantity.unit}" if quantity.unit in ("m", "dB") else ""
            title = f"{quantity.label} on held-out examples"
            charts.append(_Chart(title, lines, quantity.label + unit, False))

    # Of a run without training no chart has a point.
    drawn = []
    for chart in charts:
        if any(chart.series.values()):
            svg = line_chart(chart.series, y_label=chart.label, log_y=chart.log_y)
            drawn.append(f"<div><h3>{chart.title}</h3>{svg}</div>")
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _keys(history: History, pattern: str) -> list[str]:
    """Returns the keys that match the whole of `pattern`, in the order of their appearance."""
    keys = {}
    for line in history:
        keys |= dict.fromkeys(line)
    return [key for key in keys if re.fullmatch(pattern, key)]


def _series(history: History, key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in history if line.get(key) is not None]


def _guide(metrics: Metrics, card: Mapping[str, Any]) -> str:
    """Returns what the words of the page mean, the protocols, and the time an image takes."""
    terms = {
        "prediction": (
            "what the model painted, decoded and measured at the labels' own resolution."
        ),
        "before": "the same of the weights that training began with.",
        "shipped": "the same of the weights that come with the package, for the built-in scenes.",
        "trivial": (
            "a predictor that never looks at the image: mean depth map, most frequent class of "
            "each pixel, no instances; for restoration, the degraded input unchanged. "
            "A model that has learned something beats it."
        ),
        "ceiling": (
            "the ground truth painted at the model's resolution and decoded again: what this "
            "codec leaves of a perfect answer at this resolution. “exact” is a PSNR above 100 dB."
        ),
        "vs trivial": (
            "errors as a multiple of the trivial one's (below 1 is better), all else as the "
            "difference."
        ),
        tables.UNDEFINED: "undefined: no such class or segment among the examples.",
    }
    # A column that is not in the table is not explained.
    for column in set(tables.EARLIER) - set(tables.columns(metrics)):
        del terms[column]
    for name, task in card["tasks"].items():
        terms[name] = f"protocol {task['protocol']}: {task['counts']}."
    rows = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in terms.items()
    )

    # Milliseconds, as models are compared by them.
    times = []
    for name in tables.task_names(metrics):
        seconds = metrics[f"{name}/seconds_per_image"]
        times.append(f"{html.escape(name)} {1000 * seconds:.1f} ms")
    note = f"Time an image, painting and decoding: {', '.join(times)}."
    return f'<dl>{rows}</dl><p class="note">{note}</p>'


def _facts(run: Mapping[str, Any], config: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """Returns run.json, card.json and config.json as tables that fold; the first is open."""
    parts = []
    for title, tree in (("Run", run), ("Evaluation", card), ("Config", config)):
        # A run that was only evaluated has no run.json.
        if not tree:
            continue

        rows = "".join(
            f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
            for key, value in _flat(tree)
        )
        is_open = " open" if title == "Run" else ""
        parts.append(
            f"<details{is_open}><summary>{title}</summary>"
            f'<div class="wide"><table class="facts">{rows}</table></div></details>'
        )
    return "".join(parts)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yields (dotted key, value as text) of nested dictionaries."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, " ".join(map(str, value))
        else:
            yield prefix + key, str(value)
