"""Measures what a perfectly trained model would reach: the truth, encoded and decoded again.

The paper diffuses in pixel space because a latent autoencoder, made for photographs, changes the
colors that stand for meters, classes and instances. What this costs is measured here: a latent
model is trained to paint the truth as its autoencoder reconstructs it.
"""

import json
import logging
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from generalist import __version__
from generalist.console import Progress
from generalist.evaluation import panels, tables
from generalist.evaluation.baselines import Ceiling
from generalist.evaluation.data import open_data, read
from generalist.evaluation.predictors import decode
from generalist.evaluation.record import describe_source
from generalist.evaluation.scores import Scores
from generalist.files import write_atomically
from generalist.input_pipeline import Example, Source
from generalist.input_pipeline.reading import evenly_spaced
from generalist.pictures import encode_png
from generalist.tasks import Task
from generalist.tasks.arrays import to_levels
from generalist.tasks.drawing import Color, ColorBar, Legend

logger = logging.getLogger("generalist")

# The metrics in the table and the captions, of tables.QUANTITIES.
FIGURES = (
    "rmse",
    "delta1",
    "mae",
    "rms_error",
    "miou",
    "miou_painter",
    "miou_distance",
    "boundary_f",
    "pq",
    "psnr",
    "ssim",
)
BATCH = 8  # color maps a call of the autoencoder

# float32 (b, s, s, 3) in [-1, 1] -> what an autoencoder makes of it, the same shape
Autoencoder = Callable[[np.ndarray], np.ndarray]


def ceiling(
    config: ConfigDict,
    out_dir: str | pathlib.Path,
    *,
    names: Sequence[str] = (),
    sizes: Sequence[int] = (),
    autoencoder: Autoencoder | None = None,
    limit: int = 0,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures the ceilings of tasks on held-out data.

    Writes ceiling.json and, for each size, ceiling_<size>.png, and logs a table.

    Args:
      config: such as configs/multitask.py; its data, tasks, eval and seed count.
      out_dir: folder of the files.
      names: tasks that must be measured. Without any it takes those of `config.eval.tasks` whose
        data are there; the log names the others.
      sizes: sides of the square that a model paints, in pixels; none takes `model.target_size`.
      autoencoder: what a latent model would see the colors through; None measures pixels only.
      limit: examples a task; 0 takes all (200 scenes).
      facts: more for the settings in ceiling.json, such as {"autoencoder": "its folder"}.

    Returns:
      The content of ceiling.json: {"settings": {...}, "tasks": {task: {"protocol", "source",
      "split", "examples", "sizes": {"64": {"pixel": figures, "latent": figures}}}}}, ratios as
      fractions. Beside the official figures are `colours`, the number of distinct colors of a map
      at 8 bits (mean over the images), and `colour_change`, the mean absolute change of a channel
      in levels of 255. None is an undefined figure or, for PSNR, an exact image.

    Raises:
      ValueError: no data, an unknown task, or the autoencoder returns another shape or nan.
    """
    out_dir = pathlib.Path(out_dir)
    sizes = list(sizes) or [config.model.target_size]
    data = open_data(config, names, limit, trivial=False)

    # Every task has its place, in order, before the first size fills it.
    results = {}
    for name, task in data.tasks.items():
        source = describe_source(data.sources[name])
        results[name] = {"protocol": task.protocol, **source, "examples": 0, "sizes": {}}

    for size in sizes:
        measurements = measure(data.tasks, data.sources, size, autoencoder, limit)
        for name, measurement in measurements.items():
            results[name]["sizes"][str(size)] = measurement.figures()
            results[name]["examples"] = measurement.examples
        if any(measurement.first for measurement in measurements.values()):
            picture = np.asarray(draw(measurements))
            write_atomically(out_dir / f"ceiling_{size}.png", encode_png(picture, optimize=True))

    # The file says what it was measured with.
    settings = {
        "sizes": sizes,
        "split": config.eval.final_split,
        "generalist": __version__,
        **(facts or {}),
    }
    content = {"settings": settings, "tasks": results}
    write_atomically(
        out_dir / "ceiling.json", json.dumps(content, indent=1, allow_nan=False).encode()
    )
    logger.info(format_table(results))
    return content


class First(NamedTuple):
    """What is left of the first example.

    Attributes:
      colors: its color map, uint8 (s, s, 3).
      prediction: what is decoded.
    """

    colors: np.ndarray
    prediction: Any


class CeilingMeasurement:
    """One task on its way through pixels and, if there is an autoencoder, through latents.

    Args:
      task: what is measured.
      ways: {"pixel" or "latent": what the colors pass before they are decoded}.
      groups: of the source, see `Scores`.

    Attributes:
      task: what is measured.
      example: the first one.
      first: what is left of it, by way; empty for a task that merges others.
    """

    def __init__(self, task: Task, ways: Mapping[str, Autoencoder], groups: Sequence[str] = ()):
        self.task = task
        self.example: Example | None = None
        self.first: dict[str, First] = {}
        self._ways = ways
        self._codecs = {"": task, **task.variants()}
        self._scores = {way: Scores(task, groups) for way in ways}
        # Of each color map: its number of colors, and its mean change in levels of 255.
        self._colors: dict[str, list[int]] = {way: [] for way in ways}
        self._change: dict[str, list[float]] = {way: [] for way in ways}

    @property
    def examples(self) -> int:
        """How many examples were measured."""
        return len(self._scores["pixel"].rows)

    def update(self, examples: Sequence[Example], size: int) -> None:
        """Adds a batch of examples, encoded at `size` x `size` pixels."""
        self.example = self.example or examples[0]
        truth = Ceiling(size).encode(self.task, examples)
        for way, function in self._ways.items():
            rgbs = {name: _check_colors(function(rgb), rgb.shape) for name, rgb in truth.items()}
            predictions = {
                suffix: decode(codec, rgbs, examples) for suffix, codec in self._codecs.items()
            }
            self._scores[way].update(examples, predictions)

            # The colors of a merged task are measured with its components.
            if not self.task.components:
                rgb = rgbs[self.task.name]
                self._compare(way, rgb, truth[self.task.name])
                self.first.setdefault(way, First(to_8_bits(rgb[0]), predictions[""][0]))

    def _compare(self, way: str, rgb: np.ndarray, truth: np.ndarray) -> None:
        """Adds the number of colors, and their change, of a batch of color maps."""
        for ours, theirs in zip(rgb, truth, strict=True):
            change = to_levels(self.task.name, ours) - to_levels(self.task.name, theirs)
            self._colors[way].append(count_colors(ours))
            self._change[way].append(float(np.abs(change).mean()))

    def figures(self) -> dict[str, dict[str, float | None]]:
        """Returns {way: {metric: value}}."""
        figures = {way: scores.figures() for way, scores in self._scores.items()}
        if not self.task.components:
            for way, values in figures.items():
                values["colours"] = float(np.mean(self._colors[way]))
                values["colour_change"] = float(np.mean(self._change[way]))
        return figures

    def caption(self) -> str:
        """Returns the first example's figures, way after way."""
        parts = [self.task.name]
        for way, scores in self._scores.items():
            values = {}
            for key, value in scores.rows[0].items():
                if key in FIGURES and np.isfinite(value):
                    values[key] = value
            shown = tables.format_values(values)
            parts.append(f"{way}: {shown}   {self._colors[way][0]:,} colors")
        return "     ".join(parts)


def measure(
    tasks: Mapping[str, Task],
    sources: Mapping[str, Source],
    size: int,
    autoencoder: Autoencoder | None,
    limit: int = 0,
) -> dict[str, CeilingMeasurement]:
    """Measures every task on evenly spaced examples of its source.

    Args:
      tasks: {name: task}.
      sources: {name: source of held-out examples}.
      size: side of the color maps, in pixels.
      autoencoder: what a latent model would see the colors through; None measures pixels only.
      limit: examples a task; 0 takes all.
    """
    ways: dict[str, Autoencoder] = {"pixel": _unchanged}
    if autoencoder is not None:
        ways["latent"] = autoencoder

    rows = {name: evenly_spaced(len(sources[name]), limit) for name in tasks}
    progress = Progress(f"ceiling at {size} pixels:", sum(map(len, rows.values())))

    # Small batches: an autoencoder needs far more memory than a codec.
    measurements = {}
    for name, task in tasks.items():
        measurement = CeilingMeasurement(task, ways, sources[name].groups)
        for start in range(0, len(rows[name]), BATCH):
            part = rows[name][start : start + BATCH]
            examples = read(sources[name], part)
            if examples:
                measurement.update(examples, size)
            progress.add(len(part), name)
        measurements[name] = measurement
    return measurements


def _unchanged(rgb: np.ndarray) -> np.ndarray:
    """Returns the colors as a model in pixel space sees them."""
    return rgb


def _check_colors(rgb: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `rgb` as an array; raises ValueError unless it is finite and has `shape`."""
    rgb = np.asarray(rgb)
    if rgb.shape != shape or not np.isfinite(rgb).all():
        problem = "" if rgb.shape != shape else " with nan or inf in it"
        raise ValueError(
            f"the autoencoder made {rgb.dtype} of shape {rgb.shape}{problem} of colors of shape "
            f"{shape}: it must return finite values of the same shape"
        )
    return rgb


def to_8_bits(rgb: np.ndarray) -> np.ndarray:
    """Rounds float (h, w, 3) in about [-1, 1] to the nearest of 256 levels, uint8."""
    return np.rint(to_levels("ceiling", rgb)).astype(np.uint8)


def count_colors(rgb: np.ndarray) -> int:
    """Returns the number of distinct colors of float (h, w, 3) in about [-1, 1] at 8 bits."""
    return len(np.unique(to_8_bits(rgb).astype(np.int32) @ [1, 256, 65536]))


def format_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the `tasks` of ceiling.json as a Markdown table.

    It has a column a size, or two if there are latents, and units beside the figures' names.
    """
    sizes = next(iter(results.values()))["sizes"]
    columns = [(size, way) for size, ways in sizes.items() for way in ways]
    has_latents = len(columns) > len(sizes)

    # One task after the other, a line a figure; figures that a task has not are left out.
    heads = [f"{size}, {way}" if has_latents else size for size, way in columns]
    rows = [["task", "figure", *heads], ["---", "---", *("---:" for _ in columns)]]
    for name, result in results.items():
        figures = [result["sizes"][size][way] for size, way in columns]
        for key in FIGURES:
            if key in figures[0]:
                quantity = tables.QUANTITIES[key]
                label = f"{quantity.label}, {quantity.unit}".removesuffix(", ")
                cells = [tables.format_value(key, values, key) for values in figures]
                rows.append([name, label, *cells])

        # Pixels keep all colors, so only latents are compared with them.
        if has_latents and "colours" in figures[0]:
            counts = [f"{values['colours']:,.0f}" for values in figures]
            changes = [f"{values['colour_change']:.2f}" for values in figures]
            rows.append([name, "distinct colors", *counts])
            rows.append([name, "change of color, levels of 255", *changes])
    return _align(rows)


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Returns the rows of a Markdown table; the first two columns are text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            cells.append(cell.ljust(width) if column < 2 else cell.rjust(width))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(measurements: Mapping[str, CeilingMeasurement]) -> Image.Image:
    """Draws the first example of one task of each class.

    A row has the input, the color map of the truth and of what an autoencoder leaves of it, and for
    each way what is decoded and where it is wrong. Tasks of one class look alike: the first of them
    stands for all. A task that merges others has no color map.
    """
    shown: dict[type, CeilingMeasurement] = {}
    for measurement in measurements.values():
        if measurement.first:
            shown.setdefault(type(measurement.task), measurement)
    ways = list(next(iter(shown.values())).first)

    # Pixels leave the truth as it is, so its color map is shown once.
    titles = ["input", "truth as colors"]
    if "latent" in ways:
        titles.append("after the autoencoder")
    for way in ways:
        titles += [f"{way}: decoded", f"{way}: error"]

    rows = []
    for measurement in shown.values():
        task = measurement.task
        label = measurement.example["label"]
        pictures = [measurement.example["image"]]
        pictures += [first.colors for first in measurement.first.values()]
        for first in measurement.first.values():
            pictures.append(task.render(first.prediction))
            pictures.append(task.error_map(first.prediction, label))
        rows.append([panels.enlarge(picture, panels.OVERVIEW_SIDE) for picture in pictures])

    captions = [measurement.caption() for measurement in shown.values()]
    legend = _legend(measurement.task for measurement in shown.values())
    return panels.compose(titles, rows, captions, legend)


def _legend(tasks: Iterable[Task]) -> Legend:
    """Returns the color bars of all tasks, and what the colors in error maps of classes mean."""
    bars: list[ColorBar] = []
    classes: dict[str, Color] = {}
    for task in tasks:
        bars += task.legend().bars + task.error_legend().bars
        classes |= dict(task.error_legend().classes)
    if classes:
        classes["no instance, or no truth"] = (0, 0, 0)
    return Legend(tuple(bars), tuple(classes.items()))
