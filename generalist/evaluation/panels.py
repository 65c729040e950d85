"""Pictures for people: input, prediction, truth and where they differ, with titles, legends and values. Pillow only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from generalist.evaluation import tables
from generalist.evaluation.scores import Example
from generalist.tasks import Depth, Restoration, Scalar, Task

SIDE, OVERVIEW_SIDE = 256, 192  # pixels: the longer side of an image in a panel
MARGIN, GAP, LINE = 16, 8, 22  # pixels around the picture, between images, and for a line of text
INK, FAINT, PAPER = (28, 30, 34), (110, 114, 120), (255, 255, 255)
# How the columns of a restoration are called in the overview: input, prediction.
_RESTORATION = {
    "denoise": ("noisy", "denoised"),
    "derain": ("rainy", "derained"),
    "light": ("dark", "lightened"),
}
_ERROR_LEVELS = 64  # of 255: the brightest restoration error


class Sample(NamedTuple):
    """An example, the prediction for it, and its values by the official metric."""

    example: Example
    prediction: Any
    values: Mapping[str, Any]


class Bar(NamedTuple):
    """A colour bar: what it shows, its ends, and its colours, uint8 (n, 3) from low to high."""

    title: str
    low: str
    high: str
    colours: np.ndarray


class Column(NamedTuple):
    """A title and the picture, uint8 (h, w, 3), of each sample."""

    title: str
    picture: Callable[[Sample], np.ndarray]


def task_panel(task: Task, samples: Sequence[Sample]) -> Image.Image:
    """One row a sample, captioned with its key and values: input, prediction, truth, error or confidence; a legend below."""
    columns, bars = _columns(task)
    rows = [[enlarge(column.picture(sample), SIDE) for column in columns] for sample in samples]
    captions = [
        f"{sample.example['key']}   {tables.format_values(sample.values)}" for sample in samples
    ]
    return compose(
        [column.title for column in columns], rows, captions, bars, _legend(task, samples)
    )


def overview(runs: Mapping[str, tuple[Task, Sequence[Sample]]]) -> Image.Image:
    """All tasks side by side, one row an image: input, then every task's prediction, restoration last.

    A task whose input is another image (a degraded one, or another data set's) shows its own input before it.
    """
    runs = dict(sorted(runs.items(), key=lambda item: isinstance(item[1][0], Restoration)))
    first = next(iter(runs.values()))[1]
    rows = [[enlarge(sample.example["image"], OVERVIEW_SIDE)] for sample in first]
    titles = ["input"]
    for name, (task, samples) in runs.items():
        before, after = _RESTORATION.get(name, (f"input of {name}", name))
        own_input = any(
            not np.array_equal(a.example["image"], b.example["image"])
            for a, b in zip(samples, first)
        )
        titles += [before, after] if own_input else [after]
        for row, sample in zip(rows, samples):
            row += [enlarge(sample.example["image"], OVERVIEW_SIDE)] if own_input else []
            row.append(enlarge(task.render(sample.prediction), OVERVIEW_SIDE))
    return compose(titles, rows)


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """uint8 (h, w, 3) -> the longer side at most `side`: whole multiples of a small picture, the area mean of a large one."""
    height, width = picture.shape[:2]
    factor = side // max(height, width)
    if factor:
        return picture.repeat(factor, 0).repeat(factor, 1)
    scale = side / max(height, width)
    return cv2.resize(
        picture,
        (max(round(width * scale), 1), max(round(height * scale), 1)),
        interpolation=cv2.INTER_AREA,
    )


def heat(values: np.ndarray) -> np.ndarray:
    """Float in [0, 1] -> uint8 colours of "viridis", dark to bright; the shape gains an axis of 3."""
    levels = np.round(255 * np.clip(values, 0.0, 1.0)).astype(np.uint8)
    return cv2.applyColorMap(levels.reshape(-1, 1), cv2.COLORMAP_VIRIDIS)[:, 0, ::-1].reshape(
        *levels.shape, 3
    )


def _columns(task: Task) -> tuple[list[Column], list[Bar]]:
    columns = [
        Column("input", lambda sample: sample.example["image"]),
        Column("prediction", lambda sample: task.render(sample.prediction)),
        Column("truth", lambda sample: task.render(sample.example["label"])),
    ]
    ramp = np.linspace(0.0, 1.0, 256)
    if isinstance(task, Depth | Scalar):
        return [
            *columns,
            Column(
                "error",
                lambda sample: value_error(task, sample.prediction, sample.example["label"]),
            ),
        ], value_bars(task)
    if isinstance(task, Restoration):
        bar = Bar("error, mean of the channels", "0", f"{_ERROR_LEVELS} of 255", heat(ramp))
        return [*columns, Column("error", _restoration_error)], [bar]
    confidence = Column("confidence", lambda sample: heat(sample.prediction.confidence))
    return [*columns, confidence], [Bar("confidence", "0", "1", heat(ramp))]


def value_error(task: Depth | Scalar, prediction: Any, label: np.ndarray) -> np.ndarray:
    """How far a quantity is from the label, uint8 (h, w, 3): brightest from a tenth of its range on, black where the label is unknown."""
    return task.error_map(prediction, label)


def value_bars(task: Depth | Scalar) -> list[Bar]:
    """Colour bars of a quantity and of `value_error`."""
    return [Bar(*bar) for bar in task.legend().bars + task.error_legend().bars]


def _restoration_error(sample: Sample) -> np.ndarray:
    difference = sample.prediction.image.astype(np.float32) - sample.example["label"]
    return heat(np.abs(difference).mean(-1) / _ERROR_LEVELS)


def _legend(task: Task, samples: Sequence[Sample]) -> list[tuple[str, tuple[int, int, int]]]:
    """(name, colour) of the classes to be seen in the pictures, of at most a few dozen names."""
    if isinstance(task, Depth | Scalar | Restoration):
        return []
    labels = []
    for sample in samples:
        labels += [task.label_of(sample.prediction), sample.example["label"]]
    return list(task.legend(labels).classes)


def compose(
    titles: Sequence[str],
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[str] = (),
    bars: Sequence[Bar] = (),
    legend: Sequence[tuple[str, tuple[int, int, int]]] = (),
) -> Image.Image:
    """Lays out titled columns of pictures, a caption above each row, colour bars and legend below."""
    widths = [
        max((row[i].shape[1] for row in rows if i < len(row)), default=SIDE)
        for i in range(len(titles))
    ]
    heights = [max(picture.shape[0] for picture in row) for row in rows]
    width = 2 * MARGIN + max(sum(widths) + GAP * (len(widths) - 1), sum(map(_bar_width, bars)))
    swatches = _flow(legend, width - 2 * MARGIN)
    caption = LINE if captions else 0
    below = LINE * (2 * bool(bars) + (swatches[-1][1] + 1 if swatches else 0))
    height = 2 * MARGIN + LINE + sum(heights) + len(rows) * (caption + GAP) + below
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    lefts = [MARGIN + sum(widths[:i]) + GAP * i for i in range(len(widths))]
    for left, title in zip(lefts, titles):
        draw.text((left, MARGIN), title, INK, _font(15))
    top = MARGIN + LINE
    for index, row in enumerate(rows):
        if captions:
            draw.text((MARGIN, top + 3), captions[index], FAINT, _font(13))
        for left, picture in zip(lefts, row):
            canvas.paste(Image.fromarray(picture), (left, top + caption))
        top += caption + heights[index] + GAP
    _draw_bars(canvas, draw, bars, top)
    _draw_legend(draw, swatches, top + 2 * LINE * bool(bars))
    return canvas


def _draw_bars(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, bars: Sequence[Bar], top: int
) -> None:
    start = MARGIN
    for bar in bars:
        left = start
        for text in (bar.title, bar.low):
            draw.text((left, top + 3), text, INK if text == bar.title else FAINT, _font(13))
            left += _text_width(text) + GAP
        colours = np.repeat(bar.colours[None], LINE - 8, 0)
        canvas.paste(Image.fromarray(np.ascontiguousarray(colours)), (left, top + 4))
        draw.text((left + colours.shape[1] + GAP, top + 3), bar.high, FAINT, _font(13))
        start += _bar_width(bar)


def _bar_width(bar: Bar) -> int:
    """Pixels that a colour bar takes with its texts and the room behind it."""
    return len(bar.colours) + sum(map(_text_width, (bar.title, bar.low, bar.high))) + 7 * GAP


def _flow(
    legend: Sequence[tuple[str, tuple[int, int, int]]], width: int
) -> list[tuple[int, int, str, tuple[int, int, int]]]:
    """Places legend entries like words in a paragraph: (left, line, name, colour) each."""
    placed, left, line = [], 0, 0
    for name, colour in legend:
        needed = _text_width(name) + LINE + 2 * GAP
        if left and left + needed > width:
            left, line = 0, line + 1
        placed.append((left, line, name, colour))
        left += needed
    return placed


def _draw_legend(draw: ImageDraw.ImageDraw, swatches, top: int) -> None:
    for left, line, name, colour in swatches:
        x, y = MARGIN + left, top + line * LINE
        draw.rectangle((x, y + 4, x + LINE - 8, y + LINE - 4), fill=colour, outline=FAINT)
        draw.text((x + LINE - 2, y + 3), name, INK, _font(13))


def _font(size: int):
    return ImageFont.load_default(size)


def _text_width(text: str) -> int:
    return round(_font(13).getlength(text))
