"""One self-contained report.html of a run: results, pictures, curves, facts. No JavaScript, nothing from the network."""

import base64
import html
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from generalist.evaluation import tables
from generalist.evaluation.curves import line_chart
from generalist.evaluation.page import page
from generalist.evaluation.record import CARD, METRICS, PANELS
from generalist.files import write_atomically

_CLASS_HEAD = """<thead><tr><th>class</th><th class="number main">prediction %</th><th class="number">trivial %</th>
<th class="number">ceiling %</th><th>0 to 100 %, trivial marked</th></tr></thead>"""


def write_report(
    workdir: str | os.PathLike, out_path: str | os.PathLike | None = None
) -> pathlib.Path:
    """Writes the report of a run and returns its path.

    Args:
      workdir: folder of the run: `eval/<step>/` of `evaluate` (the largest step is reported) and, where there are any,
        metrics.jsonl, run.json and config.json.
      out_path: the file; default report.html in the workdir.

    Raises:
      FileNotFoundError: the workdir holds no evaluation.
    """
    workdir = pathlib.Path(workdir)
    step, folder = _latest(workdir)
    metrics, card = _read(folder / METRICS), _read(folder / CARD)
    history = _history(workdir / "metrics.jsonl")
    config, run = _read(workdir / "config.json"), _read(workdir / "run.json")
    sections = [
        ("Results", _results(metrics)),
        ("Every class", _classes(metrics)),
        ("Pictures", _panels(folder / PANELS, metrics)),
        ("Training", _curves(history)),
        ("How to read this", _guide(metrics, card)),
        ("The run", _facts(run, config, card)),
    ]
    body = "\n".join(
        f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content
    )
    body = _picture(folder / PANELS / "overview.png", "All tasks") + body
    out_path = pathlib.Path(out_path) if out_path else workdir / "report.html"
    write_atomically(out_path, page(workdir.absolute().name, _summary(step, card), body).encode())
    return out_path


def _latest(workdir: pathlib.Path) -> tuple[int, pathlib.Path]:
    """The evaluation of the largest step that has its figures."""
    found = [
        (int(path.parent.name), path.parent)
        for path in workdir.glob(f"eval/*/{METRICS}")
        if path.parent.name.isdecimal()
    ]
    if not found:
        raise FileNotFoundError(
            f"{workdir.absolute()} holds no eval/<step>/{METRICS}: "
            f"run main.py with --workdir={workdir} and --mode=eval first."
        )
    return max(found)


def _read(path: pathlib.Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {}


def _history(path: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl, of each step the last; a line that a kill cut short is left out."""
    lines = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            scalars = json.loads(line)
        except json.JSONDecodeError:
            continue
        lines[scalars["step"]] = lines.get(scalars["step"], {}) | scalars
    return [lines[step] for step in sorted(lines)]


def _summary(step: int, card: Mapping) -> str:
    tasks = card["tasks"].values()
    fewest, most = (choose(task["examples"] for task in tasks) for choose in (min, max))
    examples = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    splits = ", ".join(sorted({task["split"] for task in tasks if task["split"]}))
    steps = [f"{card['steps']} denoising step" + "s" * (card["steps"] > 1)] if card["steps"] else []
    parts = [
        f"step {step:,}",
        f"{len(tasks)} tasks",
        f"{examples} examples a task" + (f" ({splits})" if splits else ""),
    ]
    return html.escape(" · ".join([*parts, *steps, card["device_kind"]]))


def _results(metrics: Mapping) -> str:
    header = "".join(f"<th{_class(i)}>{cell}</th>" for i, cell in enumerate(tables.HEADER))
    lines, last = [], ""
    for row in tables.rows(metrics):
        cells = ["" if row.task == last else row.task, *row[1:]]
        first = ' class="first"' if row.task != last else ""
        written = "".join(
            f"<td{_class(i)}>{html.escape(cell)}</td>" for i, cell in enumerate(cells)
        )
        lines.append(f"<tr{first}>{written}</tr>")
        last = row.task
    return f'<div class="wide"><table><thead><tr>{header}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _class(column: int) -> str:
    return (' class="task"', "", ' class="number main"', *[' class="number"'] * 3, ' class="unit"')[
        column
    ]


def _classes(metrics: Mapping) -> str:
    """IoU (or PQ) of every class, as numbers and bars; a tick marks the trivial predictor's."""
    parts = []
    for task in tables.task_names(metrics):
        for key, label in (("iou", "IoU"), ("pq", "PQ")):
            prefix = f"{task}/{key}/"
            names = [name.removeprefix(prefix) for name in metrics if name.startswith(prefix)]
            if names:
                lines = [
                    _class_line(
                        name,
                        *(
                            metrics.get(kind + prefix + name)
                            for kind in ("", "trivial/", "ceiling/")
                        ),
                    )
                    for name in names
                ]
                parts.append(
                    f'<div class="wide"><table><caption>{label} of the classes, {html.escape(task)}</caption>'
                    f"{_CLASS_HEAD}<tbody>{''.join(lines)}</tbody></table></div>"
                )
    return "".join(parts)


def _class_line(
    name: str, prediction: float | None, trivial: float | None, ceiling: float | None
) -> str:
    numbers = [
        f"{100 * value:.1f}" if value is not None else "–"
        for value in (prediction, trivial, ceiling)
    ]
    bar = f'<b style="width:{100 * (prediction or 0):.1f}%"></b><u style="left:{100 * (trivial or 0):.1f}%"></u>'
    return (
        f'<tr><td>{html.escape(name)}</td><td class="number main">{numbers[0]}</td><td class="number">{numbers[1]}</td>'
        f'<td class="number">{numbers[2]}</td><td class="bar"><div>{bar}</div></td></tr>'
    )


def _panels(folder: pathlib.Path, metrics: Mapping) -> str:
    pictures = [
        (name, _picture(folder / f"{name}.png", name)) for name in tables.task_names(metrics)
    ]
    return "".join(
        f"<h3>{html.escape(name)}</h3>{picture}" for name, picture in pictures if picture
    )


def _picture(path: pathlib.Path, alt: str) -> str:
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<div class="wide"><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}"></div>'
    )


def _curves(history: Sequence[Mapping]) -> str:
    """Loss, loss of each task, learning rate and, from two evaluations on, the heading metric of each task."""
    by_task = {
        key.removeprefix("loss/"): _series(history, key) for key in _keys(history, r"loss/.+")
    }
    charts = [
        ("Loss, all tasks together", {"loss": _series(history, "loss")}, "loss", True),
        ("Loss of each task, before its weight", by_task, "loss", True),
        (
            "Learning rate",
            {"learning rate": _series(history, "learning_rate")},
            "learning rate",
            False,
        ),
    ]
    for key, quantity in tables.QUANTITIES.items():
        lines = {
            name.split("/")[1]: _series(history, name)
            for name in _keys(history, rf"eval/[^/]+/{key}")
        }
        if key in ("rmse", "miou", "pq", "psnr") and any(len(line) > 1 for line in lines.values()):
            unit = (
                f" in {quantity.unit}" if quantity.unit in ("m", "dB") else ""
            )  # ratios stay fractions here
            charts.append(
                (f"{quantity.label} on held-out examples", lines, quantity.label + unit, False)
            )
    drawn = [
        f"<div><h3>{title}</h3>{line_chart(series, y_label=label, log_y=log)}</div>"
        for title, series, label, log in charts
        if any(series.values())
    ]
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _keys(history: Sequence[Mapping], pattern: str) -> list[str]:
    return [
        key
        for key in dict.fromkeys(key for line in history for key in line)
        if re.fullmatch(pattern, key)
    ]


def _series(history: Sequence[Mapping], key: str) -> list[tuple[float, float]]:
    return [(line["step"], line[key]) for line in history if line.get(key) is not None]


def _guide(metrics: Mapping, card: Mapping) -> str:
    terms = [
        (
            "prediction",
            "what the model painted, decoded and measured at the labels' own resolution.",
        ),
        (
            "trivial",
            "a predictor that never looks at the image: mean depth map, most frequent class of each pixel, no instances; "
            "for restoration, the degraded input unchanged. A model that has learnt something beats it.",
        ),
        (
            "ceiling",
            "the ground truth painted at the model's resolution and decoded again: what this codec leaves of a perfect "
            "answer at this resolution. “exact” is an infinite PSNR.",
        ),
        (
            "vs trivial",
            "errors as a multiple of the trivial one's (below 1 is better), all else as the difference.",
        ),
        ("–", "undefined: no such class or segment among the examples."),
    ]
    for name, task in card["tasks"].items():
        terms.append((name, f"protocol {task['protocol']}: {task['counts']}."))
    rows = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in terms
    )
    speed = [(name, metrics[f"{name}/seconds_per_image"]) for name in tables.task_names(metrics)]
    lines = ", ".join(f"{html.escape(name)} {1000 * seconds:.1f} ms" for name, seconds in speed)
    return f'<dl>{rows}</dl><p class="note">Time an image, painting and decoding: {lines}.</p>'


def _facts(run: Mapping, config: Mapping, card: Mapping) -> str:
    parts = []
    for title, tree, is_open in (
        ("Run", run, True),
        ("Evaluation", card, False),
        ("Config", config, False),
    ):
        if tree:
            rows = "".join(
                f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>"
                for key, value in _flat(tree)
            )
            parts.append(
                f"<details{' open' * is_open}><summary>{title}</summary>"
                f'<div class="wide"><table class="facts">{rows}</table></div></details>'
            )
    return "".join(parts)


def _flat(tree: Mapping, prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, " ".join(map(str, value)) if isinstance(value, list) else str(value)
