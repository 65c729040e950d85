"""What a perfectly trained model would reach: the truth encoded at its resolution and decoded, also through a latent autoencoder.

The paper diffuses in pixel space because a latent autoencoder, made for photographs, changes the colours that stand for metres, classes
and instances. What this costs is measured here: a latent model is trained to paint the truth as its autoencoder hands it back.
"""

import json
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from generalist import __version__
from generalist.console import Progress
from generalist.evaluation import panels, tables
from generalist.evaluation.baselines import Ceiling
from generalist.evaluation.data import open_data, read
from generalist.evaluation.record import describe_source
from generalist.evaluation.scores import (
    Example,
    Scores,
    decode,
    decoders,
    finite_or_none,
    native_size,
)
from generalist.files import write_atomically
from generalist.input_pipeline.reading import evenly_spaced
from generalist.pictures import encode_png
from generalist.tasks import Depth, Instance, Restoration, Scalar, Semantic, Task
from generalist.tasks.base import to_levels

logger = logging.getLogger("generalist")

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
)  # of tables.QUANTITIES
BATCH = 8  # maps a call of the autoencoder
RIGHT, WRONG = (226, 228, 232), (208, 32, 48)  # pixels of an error map of classes or instances

# float32 (b, s, s, 3) in [-1, 1] -> what an autoencoder makes of it, the same shape
Autoencoder = Callable[[np.ndarray], np.ndarray]


def ceiling(
    config,
    out_dir: str | pathlib.Path,
    *,
    names: Sequence[str] = (),
    sizes: Sequence[int] = (),
    autoencoder: Autoencoder | None = None,
    limit: int = 0,
    facts: Mapping | None = None,
) -> dict:
    """Measures the ceilings of tasks on held-out data; writes ceiling.json and, for each size, ceiling_<size>.png.

    Args:
      config: as configs/multitask.py gives it; its data, tasks, eval and seed count.
      out_dir: folder of the files.
      names: tasks that must be measured. None given: those of `config.eval.tasks` whose data are there, the others are named in the log.
      sizes: sides of the square that a model paints, in pixels; none takes the config's `model.target_size`.
      autoencoder: what a latent model would see the colours through; None leaves the latent figures out.
      limit: examples a task; 0 takes all (200 scenes).
      facts: more for the settings in ceiling.json, such as {"autoencoder": "its folder"}.

    Returns:
      {"settings": {...}, "tasks": {task: {"protocol", "source", "split", "examples", "sizes": {"64": {"pixel": figures, "latent": figures}}}}},
      ratios as fractions. Beside the official figures stand `colours`, the number of distinct colours of a map at 8 bits (mean over
      the images), and `colour_change`, the mean absolute change of a channel in levels of 255. None is an undefined figure or, for
      PSNR, an exact image.

    Raises:
      ValueError: no data, an unknown task, or the autoencoder returns another shape or nan.
    """
    out_dir, sizes = pathlib.Path(out_dir), list(sizes) or [config.model.target_size]
    data = open_data(config, names, limit, trivial=False)
    results = {
        "settings": {
            "sizes": sizes,
            "split": config.eval.split,
            "generalist": __version__,
            **(facts or {}),
        },
        "tasks": {
            name: {
                "protocol": task.protocol,
                **describe_source(data.sources[name]),
                "examples": 0,
                "sizes": {},
            }
            for name, task in data.tasks.items()
        },
    }
    for size in sizes:
        runs = measure(data.tasks, data.sources, size, autoencoder, limit)
        for name, run in runs.items():
            results["tasks"][name]["sizes"][str(size)] = run.figures()
            results["tasks"][name]["examples"] = len(run.scores["pixel"].rows)
        if any(run.first for run in runs.values()):
            picture = encode_png(np.asarray(draw(runs)), optimize=True)
            write_atomically(out_dir / f"ceiling_{size}.png", picture)
    write_atomically(
        out_dir / "ceiling.json", json.dumps(results, indent=1, allow_nan=False).encode()
    )
    logger.info(format_table(results["tasks"]))
    return results


class Run:
    """One task on its way through pixels and, where there is an autoencoder, through latents.

    Attributes:
      scores: {way: Scores}, way being "pixel" or "latent".
      first: {way: (colour map uint8 (s, s, 3), prediction)} of the first example; None for a task that is a merge of others.
    """

    def __init__(self, task: Task, ways: Mapping[str, Autoencoder]):
        self.task, self._ways, self.first, self.example = task, ways, {}, None
        self.scores, self._decoders = {way: Scores(task) for way in ways}, decoders(task)
        self._colours = {way: [] for way in ways}
        self._change = {way: [] for way in ways}

    def update(self, examples: Sequence[Example], size: int) -> None:
        """Adds a batch of examples."""
        truth = Ceiling(size).paint(self.task, examples)
        self.example = self.example or examples[0]
        for way, function in self._ways.items():
            painted = {name: _check(function(rgb), rgb.shape) for name, rgb in truth.items()}
            sizes = [native_size(example["label"]) for example in examples]
            predictions = {
                suffix: decode(codec, painted, sizes) for suffix, codec in self._decoders.items()
            }
            self.scores[way].update(examples, predictions)
            if not self.task.components:
                self._compare(way, painted[self.task.name], truth[self.task.name])
                self.first.setdefault(
                    way, (to_8_bits(painted[self.task.name][0]), predictions[""][0])
                )

    def _compare(self, way: str, painted: np.ndarray, truth: np.ndarray) -> None:
        for ours, theirs in zip(painted, truth):
            self._colours[way].append(count_colours(ours))
            self._change[way].append(
                float(
                    np.abs(
                        to_levels(self.task.name, ours) - to_levels(self.task.name, theirs)
                    ).mean()
                )
            )

    def figures(self) -> dict[str, dict[str, float | None]]:
        """{way: {metric: value}}."""
        found = {
            way: {key: finite_or_none(value) for key, value in scores.compute().items()}
            for way, scores in self.scores.items()
        }
        for way in () if self.task.components else found:
            found[way] |= {
                "colours": float(np.mean(self._colours[way])),
                "colour_change": float(np.mean(self._change[way])),
            }
        return found

    def caption(self) -> str:
        """The first example's figures, way after way."""
        said = []
        for way, scores in self.scores.items():
            values = {
                key: value
                for key, value in scores.rows[0].items()
                if key in FIGURES and np.isfinite(value)
            }
            said.append(
                f"{way}: {tables.format_values(values)}   {self._colours[way][0]:,} colours"
            )
        name = (
            f"clean image ({self.task.name})"
            if isinstance(self.task, Restoration)
            else self.task.name
        )
        return f"{name}     " + "     ".join(said)


def measure(
    tasks: Mapping[str, Task],
    sources: Mapping,
    size: int,
    autoencoder: Autoencoder | None,
    limit: int = 0,
) -> dict[str, Run]:
    """Runs every task over `limit` examples of its source, evenly spread (0: all), encoded at `size` x `size` pixels."""
    ways = {"pixel": lambda rgb: rgb} | ({"latent": autoencoder} if autoencoder else {})
    runs = {name: Run(task, ways) for name, task in tasks.items()}
    chosen = {name: evenly_spaced(len(sources[name]), limit) for name in tasks}
    progress = Progress(f"ceiling at {size} pixels:", sum(map(len, chosen.values())))
    for name, run in runs.items():
        for start in range(0, len(chosen[name]), BATCH):
            part = chosen[name][start : start + BATCH]
            if examples := read(sources[name], part):
                run.update(examples, size)
            progress.add(len(part), name)
    return runs


def _check(rgb: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """`rgb` as an array; ValueError unless it is finite and has `shape`."""
    rgb = np.asarray(rgb)
    if rgb.shape != shape or not np.isfinite(rgb).all():
        raise ValueError(
            f"the autoencoder made {rgb.dtype} of shape {rgb.shape}{'' if rgb.shape != shape else ' with nan or inf in it'} "
            f"of colours of shape {shape}: it must return finite values of the same shape"
        )
    return rgb


def to_8_bits(rgb: np.ndarray) -> np.ndarray:
    """Float (h, w, 3) in about [-1, 1] -> uint8, clipped and rounded to the nearest of 256 levels."""
    return np.rint(to_levels("ceiling", rgb)).astype(np.uint8)


def count_colours(rgb: np.ndarray) -> int:
    """Number of distinct colours of float (h, w, 3) in about [-1, 1] at 8 bits a channel."""
    return len(np.unique(to_8_bits(rgb).astype(np.int32) @ [1, 256, 65536]))


def format_table(results: Mapping[str, Mapping]) -> str:
    """The `tasks` of ceiling.json as a Markdown table: a column a size, or two where there are latents, units beside the figures' names."""
    first = next(iter(results.values()))["sizes"]
    columns = [(size, way) for size, ways in first.items() for way in ways]
    both = len(columns) > len(first)
    rows = [
        ("task", "figure", *(f"{size}, {way}" if both else size for size, way in columns)),
        ("---", "---", *("---:" for _ in columns)),
    ]
    for name, result in results.items():
        figures = [result["sizes"][size][way] for size, way in columns]
        for key in FIGURES:
            if key in figures[0]:
                q = tables.QUANTITIES[key]
                rows.append(
                    (
                        name,
                        f"{q.label}, {q.unit}".rstrip(", "),
                        *(tables.format_value(key, values, key) for values in figures),
                    )
                )
        if both and "colours" in figures[0]:
            rows.append(
                (name, "distinct colours", *(f"{values['colours']:,.0f}" for values in figures))
            )
            rows.append(
                (
                    name,
                    "change of colour, levels of 255",
                    *(f"{values['colour_change']:.2f}" for values in figures),
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows)]
    pad = lambda i, cell: cell.ljust(widths[i]) if i < 2 else cell.rjust(widths[i])
    return "\n".join(
        "| " + " | ".join(pad(i, cell) for i, cell in enumerate(row)) + " |" for row in rows
    )


def draw(runs: Mapping[str, Run]) -> Image.Image:
    """One example of depth, scalar, semantic, instances and restoration, where given: input, colour map, what is decoded, where it is wrong."""
    shown = {
        type(run.task): run for run in reversed(runs.values()) if run.first
    }  # one of a kind, the first of them
    shown = [
        shown[kind] for kind in (Depth, Scalar, Semantic, Instance, Restoration) if kind in shown
    ]
    ways = list(shown[0].first)
    titles = ["input", "truth as colours", *(["after the autoencoder"] if "latent" in ways else [])]
    for way in ways:
        titles += [f"{way}: decoded", f"{way}: error"]
    rows = []
    for run in shown:
        pictures = [run.example["image"], *(colours for colours, _ in run.first.values())]
        for _, prediction in run.first.values():
            pictures += [
                run.task.render(prediction),
                error(run.task, prediction, run.example["label"]),
            ]
        rows.append([panels.enlarge(picture, panels.OVERVIEW_SIDE) for picture in pictures])
    return panels.compose(
        titles, rows, [run.caption() for run in shown], *_keys([run.task for run in shown])
    )


def error(task: Task, prediction, label) -> np.ndarray:
    """Where a prediction differs from the label, uint8 (h, w, 3): heat for quantities, WRONG on RIGHT for classes and instances."""
    if isinstance(task, Depth | Scalar):
        return panels.value_error(task, prediction, label)
    if isinstance(task, Restoration):
        return panels.heat(np.abs(prediction.image.astype(np.float32) - label).mean(-1) / 64)
    if isinstance(task, Semantic):
        wrong = (prediction.classes != label) & (label >= 0)
    else:
        wrong = unmatched(prediction.instances, label)
    return np.where(wrong[..., None], np.uint8(WRONG), np.uint8(RIGHT))


def unmatched(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Bool (h, w): pixels outside the pairs of segments that overlap each other most; 0, no instance, pairs with 0 only."""
    (_, a), (_, b) = (np.unique(ids, return_inverse=True) for ids in (found, truth))
    a, b = a.reshape(found.shape), b.reshape(truth.shape)
    overlap = np.zeros((a.max() + 1, b.max() + 1), np.int64)
    np.add.at(overlap, (a, b), 1)
    return (overlap.argmax(1)[a] != b) | (overlap.argmax(0)[b] != a) | ((found > 0) != (truth > 0))


def _keys(tasks: Sequence[Task]) -> tuple[list[panels.Bar], list[tuple[str, tuple[int, int, int]]]]:
    """Colour bars and legend of the picture."""
    ramp, bars, legend = panels.heat(np.linspace(0.0, 1.0, 256)), [], []
    for task in tasks:
        if isinstance(task, Depth | Scalar):
            bars += panels.value_bars(task)
        if isinstance(task, Restoration):
            bars.append(panels.Bar("image error", "0", "64 of 255", ramp))
        if isinstance(task, Semantic | Instance) and not legend:
            legend = [
                ("right", RIGHT),
                ("wrong class, or an instance lost, merged or split", WRONG),
                ("no instance, or no truth", (0, 0, 0)),
            ]
    return bars, legend
