"""Class-agnostic instances as an image of location colors."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, UInt8, UInt16

from generalist.names import one_of
from generalist.tasks import arrays, drawing, instance_decoders, palettes, votes
from generalist.tasks.base import Prediction, Target, Task
from generalist.tasks.instance_decoders import Axes, Candidates

VOID = -1  # in labels: what nobody knows, and crowds, whose instances nobody counted

# Painter measures centers on a canvas of this many pixels a side, whatever the size of the image.
_CANVAS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InstancePrediction(Prediction):
    """Instances of an image, class-agnostic, saved as 16-bit PNG of instance ids, 0 = none.

    Attributes:
      instances: 0 = background, k + 1 = painted by masks[k]; an id may be unused.
      masks: of all candidates by descending score; they may overlap.
      scores: of the candidates, in [0, 1].
      confidence: the score of the instance, or 1 - brightness where there is none.
    """

    instances: Int32[np.ndarray, "h w"]
    masks: Bool[np.ndarray, "n h w"]
    scores: Float64[np.ndarray, " n"]

    def pixels(self) -> UInt16[np.ndarray, "h w"]:
        """Returns instance ids."""
        return arrays.to_unsigned(self.instances, np.uint16, "instance ids")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instance(Task):
    """Painter's location code, generalized: the color of an instance says where its center lies.

    The image is a grid of n x n cells, n = blocks * cells. A center of mass (cx, cy) lies in cell
    X = int(cx / W * (n - 1)), Y likewise; X = cells * gx + lx and Y = cells * gy + ly, so (gx, gy)
    is the block and (lx, ly) the cell in it, and
        R = 255 - block_step * (blocks * gy + gx),  G = 255 - cell_step * ly,
        B = 255 - cell_step * lx.
    The defaults are Painter's 6,400 colors. With blocks = 1, red is a foreground flag and green and
    blue are smooth coordinates, which is easier to learn and to decode from a blurred prediction.

    Labels are int (h, w): -1 = void or a crowd, 0 = background or stuff, other ids = instances.
    Background is black and counts in the loss, void does not. The round trip is exact except that
    instances whose centers share a cell become one.

    Attributes:
      blocks: blocks per axis.
      cells: cells per axis and block.
      block_step: levels between the reds of neighboring blocks; Painter's 255 // blocks**2.
      cell_step: levels between the greens (blues) of neighboring cells; Painter's
        256 // cells + 1.
      mode: decoder, see `instance_decoders`: "threshold" (Painter's default), "minmax" (Painter's
        alternative) or "vote" (for blocks = 1).
      threshold: mean distance of colors, in levels, below which a pixel belongs to a candidate
        ("threshold").
      min_pixels: smallest instance, in pixels of what the model painted ("vote").
      score_gate: candidates with a lower score are not painted into the id map.
      overlap: a candidate is not painted if more than this fraction of it is painted already.
    """

    name: str = "instance"
    prompt: str = "Performance instance segmentation"
    protocol: str = "panoptic-instances"
    blocks: int = 4
    cells: int = 20
    block_step: int = 15
    cell_step: int = 13
    mode: str = "threshold"
    threshold: float = 19.0
    min_pixels: int = 6
    score_gate: float = 0.55
    overlap: float = 0.5

    votes_on_samples: ClassVar[bool] = True
    trivial_learns: ClassVar[bool] = False

    def __post_init__(self):
        one_of(self.mode, ("threshold", "minmax", "vote"), f"mode of task '{self.name}':")
        if self.mode == "vote" and (self.blocks != 1 or self.cells < 2):
            raise ValueError(
                f"Task '{self.name}': mode 'vote' needs 1 block of at least 2 cells, got "
                f"{self.blocks} blocks of {self.cells} cells."
            )

        # Every color of the code must be one of 256 levels.
        darkest = min(levels.min() for levels in self.axes)
        if darkest < 0:
            raise ValueError(
                f"Task '{self.name}': {self.blocks} blocks of {self.cells} cells with steps "
                f"{self.block_step} and {self.cell_step} reach level {darkest}; allowed are 0..255."
            )

    @functools.cached_property
    def axes(self) -> Axes:
        """The levels of red (blocks**2), green (cells) and blue (cells), descending from 255."""
        cells = 255 - self.cell_step * np.arange(self.cells)
        return Axes(255 - self.block_step * np.arange(self.blocks**2), cells, cells)

    def encode(self, label: np.ndarray, size: arrays.Size) -> Target:
        """Encodes int (h, w) ids, resized by nearest neighbor; every pixel but void counts."""
        label = arrays.check_map(self.name, label, "iu", "an integer map of instance ids")
        what = "instance ids, 0 = background, -1 = void"
        arrays.check_range(self.name, label, VOID, np.inf, what)

        # A color for each id, then for each pixel.
        centers = centers_of_mass(label)
        colors = np.where(centers.ids[:, None] > 0, self.color(centers.x, centers.y), 0)
        small = arrays.resize_nearest(label, arrays.to_size(size))
        rgb = np.take(arrays.from_levels(colors), np.searchsorted(centers.ids, small), axis=0)
        return Target(rgb, (small != VOID)[..., None].astype(np.float32))

    def color(
        self, x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]
    ) -> Int[np.ndarray, "n 3"]:
        """Returns the colors, in 0..255, of the cells that centers lie in.

        Args:
          x: fraction of the width, in [0, 1).
          y: fraction of the height.
        """
        # The cell of the whole grid, then its block and the cell within it.
        last_cell = self.blocks * self.cells - 1
        column = np.int64(np.clip(x, 0.0, 1.0) * last_cell)
        row = np.int64(np.clip(y, 0.0, 1.0) * last_cell)
        block = self.blocks * (row // self.cells) + column // self.cells

        red = self.axes.red[block]
        green = self.axes.green[row % self.cells]
        blue = self.axes.blue[column % self.cells]
        return np.stack([red, green, blue], axis=-1)

    def decode(self, rgb: np.ndarray, size: arrays.Size | None = None) -> InstancePrediction:
        """Decodes to instances at `size`: decoded at the size of `rgb`, masks then resized."""
        # Colors must not be interpolated, since their mean is another place: masks are resized.
        masks, scores = self.candidates(rgb)
        size = arrays.to_size(rgb.shape[:2] if size is None else size)
        masks = arrays.resize_masks(masks, size)
        instances = self.paint(masks, scores)

        # Where there is no instance the color should be black.
        brightness = arrays.resize_nearest(arrays.to_levels(self.name, rgb).max(-1), size) / 255.0
        score = np.append(scores, 0.0)[instances - 1]
        confidence = np.where(instances > 0, score, 1.0 - brightness).astype(np.float32)
        return InstancePrediction(
            decoded_by=self,
            instances=instances,
            masks=masks,
            scores=scores,
            confidence=confidence,
        )

    def candidates(self, rgb: np.ndarray) -> Candidates:
        """Decodes to candidates at the size of `rgb`."""
        levels = arrays.to_levels(self.name, rgb)
        if self.mode == "threshold":
            return instance_decoders.by_threshold(levels, self.axes, self.threshold)
        if self.mode == "minmax":
            return instance_decoders.by_nearest(levels, self.axes)
        return instance_decoders.by_votes(levels, self.axes, self.min_pixels)

    def paint(
        self, masks: Bool[np.ndarray, "n h w"], scores: Float64[np.ndarray, " n"]
    ) -> Int32[np.ndarray, "h w"]:
        """Paints candidates, by descending score, into an id map: 0 = none, k + 1 = masks[k].

        Candidates below `score_gate` are left out, and so are those of which more than `overlap` is
        painted already; of the others the free part is painted.
        """
        instances = np.zeros(masks.shape[1:], np.int32)
        for index in np.flatnonzero(scores >= self.score_gate):
            # Earlier candidates, which score higher, keep their pixels.
            mask = masks[index]
            free = mask & (instances == 0)
            taken = mask.sum() - free.sum()
            if taken <= self.overlap * mask.sum():
                instances[free] = index + 1
        return instances

    def vote(self, predictions: Sequence[InstancePrediction]) -> InstancePrediction:
        """Returns the prediction whose instances the others have most."""
        maps = [one.instances for one in predictions]
        index, share = votes.most_central(maps, drawing.unmatched)
        return dataclasses.replace(predictions[index], confidence=share, uncertainty=1 - share)

    # Figures --------------------------------------------------------------------------------------

    def metric(self):
        """Returns `generalist.metrics.InstanceQuality`."""
        from generalist import metrics

        return metrics.InstanceQuality()

    def label_of(self, prediction: InstancePrediction) -> Int32[np.ndarray, "h w"]:
        """Returns the instances, 0 = background."""
        return prediction.instances

    def trivial_rgb(
        self, labels: Iterable[np.ndarray], size: tuple[int, int]
    ) -> Float32[np.ndarray, "h w 3"]:
        """Returns black: no instance anywhere."""
        return np.full((*size, 3), -1, np.float32)

    # Pictures -------------------------------------------------------------------------------------

    def render(
        self, prediction_or_label: InstancePrediction | Int[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws instances in distinct colors; background and void are black."""
        ids = prediction_or_label
        if isinstance(ids, InstancePrediction):
            ids = ids.instances
        values, first, index = np.unique(ids, return_index=True, return_inverse=True)

        # Colors follow the order of first appearance, whatever the ids are.
        colors = np.zeros((len(values), 3), np.uint8)
        things = np.flatnonzero(values > 0)
        by_appearance = things[np.argsort(first[things])]
        colors[by_appearance] = palettes.distinct_colors(len(things))
        return colors[index.reshape(ids.shape)]

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """Returns the color of the background: those of instances have no meaning of their own."""
        background = ("background", (0, 0, 0))
        instances = ("every other color is one instance", (255, 255, 255))
        return drawing.Legend(classes=(background, instances))

    def error_map(
        self, prediction: InstancePrediction, label: Int[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws where an instance is lost, merged, split or invented; void counts as right."""
        wrong = drawing.unmatched(prediction.instances, np.maximum(label, 0))
        return drawing.right_or_wrong(wrong & (label != VOID))

    def error_legend(self) -> drawing.Legend:
        """Returns the colors of `error_map`."""
        return drawing.RIGHT_OR_WRONG


class Centers(NamedTuple):
    """Where the segments of a map lie.

    Attributes:
      ids: in the map, ascending.
      x: their centers of mass as fractions of the width.
      y: as fractions of the height.
    """

    ids: Int[np.ndarray, " n"]
    x: Float64[np.ndarray, " n"]
    y: Float64[np.ndarray, " n"]


def centers_of_mass(label: Int[np.ndarray, "h w"]) -> Centers:
    """Finds the centers of all segments.

    A center is the mean position of the segment's pixels in pixels of a 1024 x 1024 canvas, over
    1024: Painter's numbers where labels have that size, and independent of the size of the label
    otherwise.
    """
    height, width = label.shape
    runs = arrays.find_runs(label)
    ids, index = np.unique(runs.values, return_inverse=True)
    row, column = np.divmod(runs.starts, width)

    # The mean position over the runs of a segment, weighted by their lengths.
    count = np.bincount(index, runs.lengths)
    x = np.bincount(index, runs.lengths * (column + (runs.lengths - 1) / 2)) / count
    y = np.bincount(index, runs.lengths * row) / count
    return Centers(ids, (x + 0.5) / width - 0.5 / _CANVAS, (y + 0.5) / height - 0.5 / _CANVAS)
