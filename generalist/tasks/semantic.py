"""Semantic segmentation as an image of class colours."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from generalist.tasks import base, drawing, palettes


@dataclasses.dataclass(frozen=True)
class SemanticPrediction:
    """Attributes: classes int32 (h, w) in 0..K-1; confidence float32 (h, w) in [0, 1], the colour margin."""

    classes: np.ndarray
    confidence: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Semantic(base.Task):
    """Painter's class colours: class k is the colour k of `palettes.make_palette`, void is black and masked.

    Labels are int (h, w) in 0..K-1, -1 = void. The round trip is exact. Decoding takes the nearest class colour by L1
    distance on the 0..255 scale and never predicts void.

    Attributes:
      classes: the K class names, in the order of their indices.
      levels: levels a channel of the palette; None takes the smallest that fits.
      upsample: how a prediction reaches a larger size. "rgb", Painter's: colours are interpolated, then decoded, which
        invents third classes where two colours blend. "distance": the distances to each class colour are interpolated,
        which does not.
      colours: K colours for people, (r, g, b) in 0..255; empty takes distinct ones.
    """

    name: str = "semantic"
    prompt: str = "Performance semantic segmentation"
    protocol: str = "semantic-detectron2"
    classes: tuple[str, ...]
    levels: int | None = None
    upsample: str = "rgb"
    colours: tuple[tuple[int, int, int], ...] = ()

    def __post_init__(self):
        if self.upsample not in ("rgb", "distance"):
            raise ValueError(
                f"Task '{self.name}': upsample must be 'rgb' or 'distance', got {self.upsample!r}."
            )
        if len(self.colours) not in (0, len(self.classes)):
            raise ValueError(
                f"Task '{self.name}': {len(self.colours)} colours for {len(self.classes)} classes."
            )

    @classmethod
    def from_classes(cls, classes: Sequence[str], **fields) -> "Semantic":
        """A task for any list of class names; the palette follows from their number."""
        return cls(classes=tuple(classes), **fields)

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @functools.cached_property
    def palette(self) -> np.ndarray:
        """What the model paints: float32 (K, 3) in 0..255."""
        return palettes.make_palette(self.num_classes, self.levels)

    @functools.cached_property
    def min_distance(self) -> float:
        """Smallest L1 distance of two palette colours, in levels: the scale of the confidence."""
        distances = np.abs(self.palette[:, None] - self.palette).sum(-1)
        return float(distances[~np.eye(self.num_classes, dtype=bool)].min())

    def encode(self, label: np.ndarray, size: base.Size) -> base.Target:
        """Int (h, w) class indices -> Target, resized by nearest neighbour: colours never blend."""
        label = base.check_map(self.name, label, "iu", "an integer map of class indices")
        base.check_range(self.name, label, -1, self.num_classes - 1, "class indices, -1 = void")
        label = base.resize_nearest(label, base.to_size(size)).astype(np.int32)
        colours = base.from_levels(np.concatenate([self.palette, np.zeros((1, 3), np.float32)]))
        return base.Target(
            np.take(colours, label, axis=0), (label >= 0).astype(np.float32)[..., None]
        )

    def decode(self, rgb: np.ndarray, size: base.Size | None = None) -> SemanticPrediction:
        """Float (h, w, 3) in [-1, 1] -> classes at `size`.

        Confidence is the distance to the second nearest colour minus that to the nearest, over `min_distance`, at most
        1: a perfect colour has confidence 1, the middle between two classes 0.
        """
        size = rgb.shape[:2] if size is None else base.to_size(size)
        return self._nearest(self.distances(rgb, size))

    def distances(self, rgb: np.ndarray, size: base.Size) -> Iterable[np.ndarray]:
        """Yields, class after class, the L1 distance to its colour in levels: float32 `size`."""
        size = base.to_size(size)
        levels = base.to_levels(self.name, rgb)
        if self.upsample == "rgb":
            levels = base.resize_bilinear(levels, size)
        red, green, blue = np.ascontiguousarray(np.moveaxis(levels, -1, 0))
        for r, g, b in self.palette:
            yield base.resize_bilinear(np.abs(red - r) + np.abs(green - g) + np.abs(blue - b), size)

    def _nearest(self, distances: Iterable[np.ndarray]) -> SemanticPrediction:
        # One class at a time: memory stays at a few maps, however many classes there are.
        distances = iter(distances)
        best = next(distances)
        second = np.full_like(best, np.inf)
        classes = np.zeros(best.shape, np.int32)
        for index, distance in enumerate(distances, start=1):
            np.minimum(second, np.maximum(best, distance), out=second)
            np.copyto(classes, index, where=distance < best)
            best = np.minimum(best, distance)
        return SemanticPrediction(
            classes, np.minimum((second - best) / self.min_distance, 1.0).astype(np.float32)
        )

    def label_of(self, prediction: SemanticPrediction) -> np.ndarray:
        """int32 (h, w)."""
        return prediction.classes

    def metric(self):
        """`generalist.metrics.SegmentationMetric` over the K classes."""
        from generalist import metrics

        return metrics.SegmentationMetric(self.num_classes)

    def further_metrics(self) -> tuple[base.FurtherMetric, ...]:
        """How good the outlines are, and how honest the confidence is."""
        from generalist import metrics

        return (
            base.FurtherMetric("", metrics.BoundaryF()),
            base.FurtherMetric("", metrics.CalibrationError(), takes_confidence=True),
        )

    def variants(self) -> dict[str, base.Task]:
        """The other way to reach a larger size."""
        if self.upsample == "rgb":
            return {"_distance": dataclasses.replace(self, upsample="distance")}
        return {"_painter": dataclasses.replace(self, upsample="rgb")}

    def class_figures(self, metric) -> dict[str, float]:
        """The IoU of each class, `iou/<class>`."""
        ious = metric.per_class()
        return {f"iou/{name}": ious[index] for index, name in enumerate(self.classes)}

    def official(self, other: base.Task) -> "Semantic":
        """This task by the protocol of `other`; ValueError unless it has the same classes."""
        check_same_classes(self.name, self.classes, getattr(other, "classes", ()))
        return super().official(other)

    def trivial_rgb(self, labels: Iterable[np.ndarray], size: tuple[int, int]) -> np.ndarray:
        """The most frequent class of each pixel."""
        return self.encode(majority_map(labels, self.num_classes, size), size).rgb

    def error_map(self, prediction: SemanticPrediction, label: np.ndarray) -> np.ndarray:
        """Where the class is wrong; void counts as right."""
        return drawing.right_or_wrong((prediction.classes != label) & (label >= 0))

    def error_legend(self) -> drawing.Legend:
        """The colors of `error_map`."""
        return drawing.RIGHT_OR_WRONG

    def submission_pixels(self, prediction: SemanticPrediction) -> np.ndarray:
        """uint8 (h, w), class index + 1, so ADE20K's 1..150."""
        return base.to_unsigned(prediction.classes + 1, np.uint8, "class indices + 1")

    @functools.cached_property
    def _people_colours(self) -> np.ndarray:
        colours = np.array(self.colours or palettes.distinct_colours(self.num_classes), np.uint8)
        return np.concatenate([colours, np.zeros((1, 3), np.uint8)])

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """The classes, all or those in `labels`, then void."""
        shown = range(self.num_classes)
        if labels is not None:
            shown = sorted(set().union(*(np.unique(label).tolist() for label in labels)) - {-1})
        colors = self._people_colours.tolist()
        classes = [(self.classes[index], tuple(colors[index])) for index in shown]
        return drawing.Legend(classes=(*classes, ("void", (0, 0, 0))))

    def render(self, prediction_or_label: SemanticPrediction | np.ndarray) -> np.ndarray:
        """Class colours for people, uint8 (h, w, 3); void is black."""
        return self._people_colours[getattr(prediction_or_label, "classes", prediction_or_label)]


def majority_map(
    labels: Iterable[np.ndarray], num_classes: int, size: tuple[int, int]
) -> np.ndarray:
    """Returns the most frequent class of each pixel, int32 `size`.

    Void is not counted, the lower class wins a tie, and pixels that are void everywhere take the most frequent class
    of all.
    """
    count = np.zeros((num_classes, *size), np.int64)
    for label in labels:
        label = base.resize_nearest(label, size)
        rows, columns = np.nonzero(label >= 0)
        count[label[rows, columns], rows, columns] += 1

    overall = count.sum((1, 2)).argmax()
    return np.where(count.any(0), count.argmax(0), overall).astype(np.int32)


def check_same_classes(task: str, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """Raises ValueError unless the classes that a model paints are those of the data."""
    if ours != theirs:
        raise ValueError(
            f"Task '{task}': the model paints {len(ours)} classes ({', '.join(ours[:3])}, ...), the data "
            f"have {len(theirs)} ({', '.join(theirs[:3])}, ...): train it on them first."
        )
