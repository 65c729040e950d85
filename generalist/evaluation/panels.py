"""Pictures for people: input, prediction, truth and how they differ, with titles and legends.

Only Pillow draws here.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from generalist.evaluation import tables
from generalist.input_pipeline import Example
from generalist.tasks import Task
from generalist.tasks.drawing import Color, ColorBar, Legend, heat, heat_bar

# Pixels: the longer side of an image in the panel of a task and in the overview of all.
SIDE = 256
OVERVIEW_SIDE = 192

# Pixels: around the picture, between images, for a line of text, and of its letters.
MARGIN = 16
GAP = 8
LINE = 22
TITLE_SIZE = 15
TEXT_SIZE = 13

_NO_LEGEND = Legend()

INK = (28, 30, 34)
FAINT = (110, 114, 120)
PAPER = (255, 255, 255)


class _Columns(NamedTuple):
    """The titles of a task's input and output in the overview."""

    input: str
    output: str


_RESTORATION = {
    "denoise": _Columns("noisy", "denoised"),
    "derain": _Columns("rainy", "derained"),
    "light": _Columns("dark", "lightened"),
}


class Sample(NamedTuple):
    """One row of a task's pictures; plain values, so that an unfinished evaluation can keep it.

    Attributes:
      key: of the example.
      values: of the prediction by the official metric.
      image: the input, uint8 (h, w, 3).
      prediction: its picture, uint8 (h, w, 3).
      truth: the picture of the label, uint8 (h, w, 3).
      error_or_confidence: uint8 (h, w, 3), see `describe`.
      labels: prediction and truth as the metric takes them, which the legend follows from.
      prompt: of the example, where the task's examples have their own; else "".
    """

    key: str
    values: Mapping[str, Any]
    image: np.ndarray
    prediction: np.ndarray
    truth: np.ndarray
    error_or_confidence: np.ndarray
    labels: tuple[Any, Any]
    prompt: str


def describe(task: Task, example: Example, prediction: Any, values: Mapping[str, Any]) -> Sample:
    """Draws an example: the error of a quantity, but the confidence of classes and instances.

    Args:
      task: what is measured.
      example: as its source returns it.
      prediction: for the example.
      values: of the prediction by the official metric.
    """
    label = example["label"]

    # How wrong a class is has no scale, so what is shown is how sure the prediction is of it.
    if task.averages_samples:
        fourth = task.error_map(prediction, label)
    else:
        fourth = heat(prediction.confidence)

    return Sample(
        key=example["key"],
        values=values,
        image=example["image"],
        prediction=task.render(prediction),
        truth=task.render(label),
        error_or_confidence=fourth,
        labels=(task.label_of(prediction), label),
        prompt=task.prompt_of(example) if task.own_prompts else "",
    )


def task_panel(task: Task, samples: Sequence[Sample]) -> Image.Image:
    """Draws one row a sample, captioned with its key and values, and a legend below.

    Where the prompt is all that the model knew, the row shows what was painted, beside the picture
    that the prompt is of.
    """
    if not task.sees_image:
        rows = [[enlarge(s.prediction, SIDE), enlarge(s.truth, SIDE)] for s in samples]
        return compose(["painted", "truth"], rows, [sample.prompt for sample in samples])

    rows = []
    captions = []
    labels = []
    for sample in samples:
        pictures = (sample.image, sample.prediction, sample.truth, sample.error_or_confidence)
        rows.append([enlarge(picture, SIDE) for picture in pictures])
        caption = f"{sample.key}   {tables.format_values(sample.values)}   {sample.prompt}"
        captions.append(caption.rstrip())
        labels += sample.labels

    # Only the classes in the pictures: a data set may have hundreds.
    legend = task.legend(labels)
    if task.averages_samples:
        fourth = "error"
        bars = legend.bars + task.error_legend().bars
    else:
        fourth = "confidence"
        bars = (*legend.bars, heat_bar("confidence", "1"))
    titles = ["input", "prediction", "truth", fourth]
    return compose(titles, rows, captions, Legend(bars, legend.classes))


def overview(tasks: Mapping[str, Task], samples: Mapping[str, Sequence[Sample]]) -> Image.Image:
    """Draws all tasks side by side, one row an image: input, then every task's prediction.

    A task whose input is another image (a degraded one, or another data set's) shows its own input
    before its prediction.

    Args:
      tasks: {name: task}.
      samples: {name: examples of the task}, the same number of each.
    """
    # Restoration, whose colors are its target, comes last: its input is a degraded copy.
    names = sorted(tasks, key=lambda name: not tasks[name].jitters_color)
    first = samples[names[0]]

    # The first column is the input that most tasks share.
    titles = ["input" if tasks[names[0]].sees_image else "truth"]
    rows = [[enlarge(sample.image, OVERVIEW_SIDE)] for sample in first]
    for name in names:
        columns = _RESTORATION.get(name, _Columns(f"input of {name}", name))
        own_input = any(
            not np.array_equal(sample.image, other.image)
            for sample, other in zip(samples[name], first, strict=False)
        )
        own_input = own_input and tasks[name].sees_image
        if own_input:
            titles.append(columns.input)
        titles.append(columns.output)

        for row, sample in zip(rows, samples[name], strict=False):
            if own_input:
                row.append(enlarge(sample.image, OVERVIEW_SIDE))
            row.append(enlarge(sample.prediction, OVERVIEW_SIDE))
    return compose(titles, rows)


def enlarge(picture: np.ndarray, side: int) -> np.ndarray:
    """Scales a picture until its longer side is at most `side` pixels.

    A small picture grows by whole multiples, a large one shrinks to the mean of areas.

    Args:
      picture: uint8 (h, w, 3).
      side: in pixels.
    """
    height, width = picture.shape[:2]
    factor = side // max(height, width)
    if factor:
        return picture.repeat(factor, 0).repeat(factor, 1)

    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA)


def compose(
    titles: Sequence[str],
    rows: Sequence[Sequence[np.ndarray]],
    captions: Sequence[str] = (),
    legend: Legend = _NO_LEGEND,
) -> Image.Image:
    """Lays out titled columns of pictures, a caption above each row, and the legend below.

    Args:
      titles: of the columns.
      rows: pictures, uint8 (h, w, 3), at most one a column.
      captions: of the rows, or none.
      legend: color bars on one line, then the classes like words in a paragraph.
    """
    # Columns are as wide, and rows as high, as their largest picture.
    widths = []
    for column in range(len(titles)):
        pictures = [row[column] for row in rows if column < len(row)]
        widths.append(max((picture.shape[1] for picture in pictures), default=SIDE))
    heights = [max(picture.shape[0] for picture in row) for row in rows]

    bars_width = sum(map(_bar_width, legend.bars))
    texts_width = max(map(_text_width, captions), default=0)
    pictures_width = sum(widths) + GAP * (len(widths) - 1)
    width = 2 * MARGIN + max(pictures_width, bars_width, texts_width)

    # From top to bottom: titles, rows, color bars with an empty line below, classes.
    caption = LINE if captions else 0
    bars_height = 2 * LINE if legend.bars else 0
    entries = _flow(legend.classes, width - 2 * MARGIN)
    classes_height = LINE * (entries[-1].line + 1) if entries else 0
    rows_height = sum(heights) + len(rows) * (caption + GAP)
    height = 2 * MARGIN + LINE + rows_height + bars_height + classes_height

    # Titles, then each row below its caption.
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    lefts = [MARGIN + sum(widths[:column]) + GAP * column for column in range(len(widths))]
    for left, title in zip(lefts, titles, strict=True):
        draw.text((left, MARGIN), title, INK, _font(TITLE_SIZE))

    top = MARGIN + LINE
    for index, row in enumerate(rows):
        if captions:
            draw.text((MARGIN, top + 3), captions[index], FAINT, _font(TEXT_SIZE))
        for left, picture in zip(lefts, row, strict=False):
            canvas.paste(Image.fromarray(picture), (left, top + caption))
        top += caption + heights[index] + GAP

    _draw_bars(canvas, draw, legend.bars, top)
    _draw_classes(draw, entries, top + bars_height)
    return canvas


def _draw_bars(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, bars: Sequence[ColorBar], top: int
) -> None:
    """Draws color bars on one line: title, low end, colors, high end."""
    start = MARGIN
    for bar in bars:
        left = start
        for text, color in ((bar.title, INK), (bar.low, FAINT)):
            draw.text((left, top + 3), text, color, _font(TEXT_SIZE))
            left += _text_width(text) + GAP

        # The colors fill the line but for 4 pixels above and below.
        colors = np.repeat(bar.colors[None], LINE - 8, 0)
        canvas.paste(Image.fromarray(np.ascontiguousarray(colors)), (left, top + 4))
        left += len(bar.colors) + GAP
        draw.text((left, top + 3), bar.high, FAINT, _font(TEXT_SIZE))
        start += _bar_width(bar)


def _bar_width(bar: ColorBar) -> int:
    """Returns the pixels that a color bar takes with its texts and the room behind it."""
    return len(bar.colors) + sum(map(_text_width, (bar.title, bar.low, bar.high))) + 7 * GAP


class _Entry(NamedTuple):
    """A class in the legend: `left` in pixels, `line` from 0."""

    left: int
    line: int
    name: str
    color: Color


def _flow(classes: Sequence[tuple[str, Color]], width: int) -> list[_Entry]:
    """Places the classes like words in a paragraph of `width` pixels."""
    entries = []
    left = 0
    line = 0
    for name, color in classes:
        needed = _text_width(name) + LINE + 2 * GAP
        if left and left + needed > width:
            left = 0
            line += 1
        entries.append(_Entry(left, line, name, color))
        left += needed
    return entries


def _draw_classes(draw: ImageDraw.ImageDraw, entries: Sequence[_Entry], top: int) -> None:
    """Draws a patch of the color and the name of each class."""
    for entry in entries:
        x = MARGIN + entry.left
        y = top + entry.line * LINE
        patch = (x, y + 4, x + LINE - 8, y + LINE - 4)
        draw.rectangle(patch, fill=entry.color, outline=FAINT)
        draw.text((x + LINE - 2, y + 3), entry.name, INK, _font(TEXT_SIZE))


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _text_width(text: str) -> int:
    return round(_font(TEXT_SIZE).getlength(text))
