"""Class-agnostic instances as an image of location colours."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import ClassVar

import numpy as np

from generalist.tasks import base, drawing, instance_decoders, palettes

# Painter measures centres on a canvas of this many pixels a side, whatever the size of the image.
_CANVAS = 1024


@dataclasses.dataclass(frozen=True)
class InstancePrediction:
    """Instances of an image, class-agnostic.

    Attributes:
      instances: int32 (h, w); 0 = background, k + 1 = painted by masks[k].
      masks: bool (n, h, w), the candidates by descending score; they may overlap.
      scores: float64 (n,) in [0, 1].
      confidence: float32 (h, w) in [0, 1]: the score of the instance, or 1 - brightness where there is none.
    """

    instances: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    confidence: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instance(base.Task):
    """Painter's location code, generalised: the colour of an instance says where its centre of mass lies.

    The image is a grid of n x n cells, n = blocks * cells. A centre (cx, cy) lies in cell X = int(cx / W * (n - 1)),
    Y likewise; X = cells * gx + lx and Y = cells * gy + ly, so (gx, gy) is the block and (lx, ly) the cell in it, and
        R = 255 - block_step * (blocks * gy + gx),  G = 255 - cell_step * ly,  B = 255 - cell_step * lx.
    The defaults are Painter's 6,400 colours. With blocks = 1, red is a foreground flag and green and blue are smooth
    coordinates, which is easier to learn and to decode from a blurred prediction.

    Labels are int (h, w): 0 = background, stuff or void, other ids = instances. Background is black and counts in the
    loss. The round trip is exact except that instances whose centres share a cell become one.

    Attributes:
      blocks: blocks per axis.
      cells: cells per axis and block.
      block_step: levels between the reds of neighbouring blocks; Painter's 255 // blocks**2.
      cell_step: levels between the greens (blues) of neighbouring cells; Painter's 256 // cells + 1.
      mode: decoder, see `instance_decoders`: "threshold" (Painter's default), "minmax" (Painter's alternative) or
        "vote" (for blocks = 1).
      threshold: mean distance of colours, in levels, below which a pixel belongs to a candidate ("threshold").
      min_pixels: smallest instance, in pixels of what the model painted ("vote").
      score_gate: candidates with a lower score are not painted into the id map.
      overlap: a candidate is not painted if more than this share of it is painted already.
    """

    name: str = "instance"
    prompt: str = "Performance instance segmentation"
    protocol: str = "panoptic-coco"
    blocks: int = 4
    cells: int = 20
    block_step: int = 15
    cell_step: int = 13
    mode: str = "threshold"
    threshold: float = 19.0
    min_pixels: int = 6
    score_gate: float = 0.55
    overlap: float = 0.5
    trivial_learns: ClassVar[bool] = False

    def __post_init__(self):
        if self.mode not in ("threshold", "minmax", "vote"):
            raise ValueError(
                f"Task '{self.name}': mode must be 'threshold', 'minmax' or 'vote', got {self.mode!r}."
            )
        if self.mode == "vote" and (self.blocks != 1 or self.cells < 2):
            raise ValueError(
                f"Task '{self.name}': mode 'vote' needs 1 block of at least 2 cells, got {self.blocks} "
                f"blocks of {self.cells} cells."
            )
        darkest = min(values[-1] for values in self.axes)
        if darkest < 0:
            raise ValueError(
                f"Task '{self.name}': {self.blocks} blocks and {self.cells} cells in steps of "
                f"{self.block_step} and {self.cell_step} reach level {darkest}; allowed are 0..255."
            )

    @functools.cached_property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The levels of red (blocks**2,), green (cells,) and blue (cells,), int, descending from 255."""
        cells = 255 - self.cell_step * np.arange(self.cells)
        return 255 - self.block_step * np.arange(self.blocks**2), cells, cells

    def encode(self, label: np.ndarray, size: base.Size) -> base.Target:
        """Int (h, w) ids -> Target, resized by nearest neighbour; every pixel counts."""
        label = base.check_map(self.name, label, "iu", "an integer map of instance ids")
        base.check_range(self.name, label, 0, np.inf, "instance ids, 0 = background")
        ids, *centres = centres_of_mass(label)
        colours = base.from_levels(np.where(ids[:, None] > 0, self.colour(*centres), 0))
        rgb = np.take(
            colours, np.searchsorted(ids, base.resize_nearest(label, base.to_size(size))), axis=0
        )
        return base.Target(rgb, np.ones((*rgb.shape[:2], 1), np.float32))

    def colour(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Centres as shares of width and height, (n,) in [0, 1) -> the colours of their cells, int (n, 3) in 0..255."""
        column, row = (
            np.int64(np.clip(share, 0.0, 1.0) * (self.blocks * self.cells - 1)) for share in (x, y)
        )
        block = self.blocks * (row // self.cells) + column // self.cells
        red, green, blue = self.axes
        return np.stack([red[block], green[row % self.cells], blue[column % self.cells]], axis=-1)

    def candidates(self, rgb: np.ndarray) -> instance_decoders.Candidates:
        """Float (h, w, 3) in [-1, 1] -> masks bool (n, h, w), scores float64 (n,) descending, at the size of `rgb`."""
        levels = base.to_levels(self.name, rgb)
        if self.mode == "threshold":
            return instance_decoders.by_threshold(levels, self.axes, self.threshold)
        if self.mode == "minmax":
            return instance_decoders.by_nearest(levels, self.axes)
        return instance_decoders.by_votes(levels, self.axes, self.min_pixels)

    def decode(self, rgb: np.ndarray, size: base.Size | None = None) -> InstancePrediction:
        """Float (h, w, 3) in [-1, 1] -> instances at `size`: decoded at the size of `rgb`, masks then resized."""
        masks, scores = self.candidates(rgb)
        size = rgb.shape[:2] if size is None else base.to_size(size)
        masks = base.resize_masks(masks, size)
        instances = self.paint(masks, scores)
        darkness = 1.0 - base.resize_nearest(base.to_levels(self.name, rgb).max(-1), size) / 255.0
        confidence = np.where(
            instances > 0, np.append(scores, 0.0)[instances - 1], darkness
        ).astype(np.float32)
        return InstancePrediction(instances, masks, scores, confidence)

    def paint(self, masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Candidates by descending score -> int32 (h, w) id map, 0 = none, k + 1 = masks[k].

        Candidates below `score_gate` are left out, and so are those of which more than `overlap` is painted already;
        of the others the free part is painted.
        """
        instances = np.zeros(masks.shape[1:], np.int32)
        for index in np.flatnonzero(scores >= self.score_gate):
            mask = masks[index]
            free = mask & (instances == 0)
            if mask.sum() - free.sum() <= self.overlap * mask.sum():
                instances[free] = index + 1
        return instances

    def label_of(self, prediction: InstancePrediction) -> tuple[np.ndarray, list[dict]]:
        """(id map, segments_info) in COCO's form, all of one category."""
        return as_panoptic(prediction.instances)

    def metric(self):
        """`generalist.metrics.PanopticQuality` with a single thing category; it takes `as_panoptic` pairs."""
        from generalist import metrics

        return metrics.PanopticQuality([{"id": 1, "name": "instance", "isthing": 1}])

    def metric_label(self, label: np.ndarray) -> tuple[np.ndarray, list[dict]]:
        """(id map, segments_info) in COCO's form, all of one category."""
        return as_panoptic(label)

    def trivial_rgb(self, labels: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """No instance anywhere."""
        return np.full((*size, 3), -1, np.float32)

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """Colors of instances have no meaning of their own: only the background has a name."""
        return drawing.Legend(
            classes=(
                ("background", (0, 0, 0)),
                ("every other color is one instance", (255, 255, 255)),
            )
        )

    def error_map(self, prediction: InstancePrediction, label: np.ndarray) -> np.ndarray:
        """Where an instance is lost, merged, split or invented."""
        return drawing.right_or_wrong(drawing.unmatched(prediction.instances, label))

    def error_legend(self) -> drawing.Legend:
        """The colors of `error_map`."""
        return drawing.RIGHT_OR_WRONG

    def submission_pixels(self, prediction: InstancePrediction) -> np.ndarray:
        """uint16 (h, w), instance ids, 0 = none."""
        return base.to_unsigned(prediction.instances, np.uint16, "instance ids")

    def render(self, prediction_or_label: InstancePrediction | np.ndarray) -> np.ndarray:
        """Distinct colours, uint8 (h, w, 3), numbered by the order of first appearance; background is black."""
        ids = getattr(prediction_or_label, "instances", prediction_or_label)
        values, first, index = np.unique(ids, return_index=True, return_inverse=True)
        colours = np.zeros((len(values), 3), np.uint8)
        things = np.flatnonzero(values > 0)
        colours[things[np.argsort(first[things])]] = palettes.distinct_colours(len(things))
        return colours[index.reshape(ids.shape)]


def as_panoptic(instances: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    """Int (h, w), 0 = background -> (id map, segments_info) in COCO's form with the one category 1."""
    ids, areas = np.unique(instances[instances > 0], return_counts=True)
    return instances, [
        {"id": int(i), "category_id": 1, "iscrowd": 0, "area": int(n)} for i, n in zip(ids, areas)
    ]


def centres_of_mass(label: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Int (h, w) -> the ids in it, ascending, and their centres (x, y), each float64 (n,), as shares of width and height.

    A centre is the mean position of the segment's pixels in pixels of a 1024 x 1024 canvas, over 1024: Painter's
    numbers where labels have that size, and independent of the size of the label otherwise.
    """
    height, width = label.shape
    runs = base.find_runs(label)
    ids, index = np.unique(runs.values, return_inverse=True)
    row, column = np.divmod(runs.starts, width)
    count = np.bincount(index, runs.lengths)
    x = np.bincount(index, runs.lengths * (column + (runs.lengths - 1) / 2)) / count
    y = np.bincount(index, runs.lengths * row) / count
    return ids, (x + 0.5) / width - 0.5 / _CANVAS, (y + 0.5) / height - 0.5 / _CANVAS
