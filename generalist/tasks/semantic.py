"""Semantic segmentation as an image of class colors."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from generalist.names import one_of
from generalist.tasks import arrays, drawing, palettes, votes
from generalist.tasks.base import FurtherMetric, Prediction, Target, Task

_BLACK = np.zeros((1, 3), np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SemanticPrediction(Prediction):
    """Classes of an image, saved as 8-bit PNG of class ids.

    Attributes:
      classes: indices into `names`.
      confidence: the color margin, see `Semantic.decode`.
    """

    decoded_by: "Semantic"
    classes: Int32[np.ndarray, "h w"]

    @property
    def names(self) -> tuple[str, ...]:
        """Name of every class."""
        return self.decoded_by.classes

    def pixels(self) -> UInt8[np.ndarray, "h w"]:
        """Returns class indices."""
        if len(self.names) > 256:
            raise ValueError(f"{len(self.names)} classes do not fit 8 bits")
        return self.classes.astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Semantic(Task):
    """Painter's class colors: class k is color k of `palettes.make_palette`, void is black.

    Labels are int (h, w) in 0..K-1, -1 = void, which is masked. The round trip is exact. Decoding
    takes the nearest class color by L1 distance on the 0..255 scale and never predicts void.

    Attributes:
      classes: the K class names, in the order of their indices.
      levels: levels a channel of the palette; None takes the smallest that fits.
      upsample: how a prediction reaches a larger size. "rgb", Painter's: colors are interpolated,
        then decoded, which invents third classes where two colors blend. "distance": the distances
        to each class color are interpolated, which does not.
      colors: K colors for people, (r, g, b) in 0..255; empty takes distinct ones.
    """

    name: str = "semantic"
    prompt: str = "Performance semantic segmentation"
    protocol: str = "semantic-detectron2"
    classes: tuple[str, ...]
    levels: int | None = None
    upsample: str = "rgb"
    colors: tuple[drawing.Color, ...] = ()

    votes_on_samples: ClassVar[bool] = True

    def __post_init__(self):
        one_of(self.upsample, ("rgb", "distance"), f"upsample of task '{self.name}':")
        if len(self.colors) not in (0, len(self.classes)):
            raise ValueError(
                f"Task '{self.name}': {len(self.colors)} colors for {len(self.classes)} classes."
            )

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)

    @functools.cached_property
    def palette(self) -> Float32[np.ndarray, "classes 3"]:
        """What the model paints, in 0..255."""
        return palettes.make_palette(self.num_classes, self.levels)

    @functools.cached_property
    def min_distance(self) -> float:
        """Smallest L1 distance of two palette colors, in levels: the scale of the confidence."""
        distances = np.abs(self.palette[:, None] - self.palette).sum(-1)
        return float(distances[~np.eye(self.num_classes, dtype=bool)].min())

    def encode(self, label: np.ndarray, size: arrays.Size) -> Target:
        """Encodes int (h, w), resized by nearest neighbor so that colors never blend."""
        label = arrays.check_map(self.name, label, "iu", "an integer map of class indices")
        arrays.check_range(self.name, label, -1, self.num_classes - 1, "class indices, -1 = void")
        label = arrays.resize_nearest(label, arrays.to_size(size)).astype(np.int32)

        # Void has index -1: black is the last color.
        colors = arrays.from_levels(np.concatenate([self.palette, _BLACK.astype(np.float32)]))
        rgb = np.take(colors, label, axis=0)
        return Target(rgb, (label >= 0).astype(np.float32)[..., None])

    def decode(self, rgb: np.ndarray, size: arrays.Size | None = None) -> SemanticPrediction:
        """Decodes to classes at `size`.

        Confidence is the distance to the second nearest color minus that to the nearest, over
        `min_distance`, at most 1: a perfect color has confidence 1, the middle between two classes
        0.
        """
        size = arrays.to_size(rgb.shape[:2] if size is None else size)
        distances = self.distances(rgb, size)

        # One class at a time: memory stays at a few maps, however many classes there are.
        best = next(distances)
        second = np.full_like(best, np.inf)
        classes = np.zeros(best.shape, np.int32)
        for index, distance in enumerate(distances, start=1):
            np.minimum(second, np.maximum(best, distance), out=second)
            np.copyto(classes, index, where=distance < best)
            best = np.minimum(best, distance)

        margin = np.minimum((second - best) / self.min_distance, 1.0)
        return SemanticPrediction(
            decoded_by=self, classes=classes, confidence=margin.astype(np.float32)
        )

    def distances(
        self, rgb: np.ndarray, size: tuple[int, int]
    ) -> Iterator[Float32[np.ndarray, "h w"]]:
        """Yields, class after class, the L1 distance to its color at `size`, in levels."""
        levels = arrays.to_levels(self.name, rgb)
        if self.upsample == "rgb":
            levels = arrays.resize_bilinear(levels, size)

        # Each channel contiguous: the loop below runs over it once a class.
        red, green, blue = np.ascontiguousarray(np.moveaxis(levels, -1, 0))
        for r, g, b in self.palette:
            distance = np.abs(red - r) + np.abs(green - g) + np.abs(blue - b)
            yield arrays.resize_bilinear(distance, size)

    def vote(self, predictions: Sequence[SemanticPrediction]) -> SemanticPrediction:
        """Returns the most frequent class of every pixel."""
        classes, share = votes.most_frequent([one.classes for one in predictions])
        return SemanticPrediction(
            decoded_by=self, classes=classes, confidence=share, uncertainty=1 - share
        )

    def variants(self) -> Mapping[str, "Semantic"]:
        """Returns the other way to reach a larger size."""
        if self.upsample == "rgb":
            return {"_distance": dataclasses.replace(self, upsample="distance")}
        return {"_painter": dataclasses.replace(self, upsample="rgb")}

    # Figures --------------------------------------------------------------------------------------

    def metric(self):
        """Returns `generalist.metrics.SegmentationMetric` over the K classes."""
        from generalist import metrics

        return metrics.SegmentationMetric(self.num_classes)

    def label_of(self, prediction: SemanticPrediction) -> Int32[np.ndarray, "h w"]:
        """Returns class indices."""
        return prediction.classes

    def further_metrics(self) -> tuple[FurtherMetric, ...]:
        """Returns the quality of the outlines and what the confidence is worth."""
        from generalist import metrics

        return (
            FurtherMetric("", metrics.BoundaryF()),
            FurtherMetric("", metrics.CalibrationError(), takes="confidence"),
            FurtherMetric("", metrics.ClassSparsificationError(), takes="certainty"),
        )

    def class_figures(self, metric) -> dict[str, float]:
        """Returns the IoU of each class, `iou/<class>`."""
        ious = metric.per_class()
        return {f"iou/{name}": ious[index] for index, name in enumerate(self.classes)}

    def official(self, other: Task) -> "Semantic":
        """Returns this task by the protocol of `other`, whose classes must be the same."""
        check_same_classes(self.name, self.classes, getattr(other, "classes", ()))
        return super().official(other)

    def trivial_rgb(
        self, labels: Iterable[Int[np.ndarray, "h w"]], size: tuple[int, int]
    ) -> Float32[np.ndarray, "h w 3"]:
        """Returns the most frequent class of each pixel."""
        return self.encode(majority_map(labels, self.num_classes, size), size).rgb

    # Pictures -------------------------------------------------------------------------------------

    @functools.cached_property
    def _shown_colors(self) -> UInt8[np.ndarray, "classes_and_void 3"]:
        colors = self.colors or palettes.distinct_colors(self.num_classes)
        return np.concatenate([np.array(colors, np.uint8), _BLACK])

    def render(
        self, prediction_or_label: SemanticPrediction | Int[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws the classes in colors for people; void is black."""
        classes = prediction_or_label
        if isinstance(classes, SemanticPrediction):
            classes = classes.classes
        return self._shown_colors[classes]

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """Returns the colors of the classes and of void."""
        # A legend of 150 classes would be larger than the picture.
        shown = range(self.num_classes)
        if labels is not None:
            present = np.unique(np.concatenate([np.ravel(label) for label in labels]))
            shown = present[present >= 0].tolist()

        colors = self._shown_colors.tolist()
        classes = [(self.classes[index], tuple(colors[index])) for index in shown]
        return drawing.Legend(classes=(*classes, ("void", (0, 0, 0))))

    def error_map(
        self, prediction: SemanticPrediction, label: Int[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws where the class is wrong; void counts as right."""
        return drawing.right_or_wrong((prediction.classes != label) & (label >= 0))

    def error_legend(self) -> drawing.Legend:
        """Returns the colors of `error_map`."""
        return drawing.RIGHT_OR_WRONG

    # Submissions ----------------------------------------------------------------------------------

    def submission_pixels(self, prediction: SemanticPrediction) -> UInt8[np.ndarray, "h w"]:
        """Returns class indices + 1, so ADE20K's 1..150."""
        return arrays.to_unsigned(prediction.classes + 1, np.uint8, "class indices + 1")


def majority_map(
    labels: Iterable[Int[np.ndarray, "h w"]], num_classes: int, size: tuple[int, int]
) -> Int32[np.ndarray, "new_h new_w"]:
    """Returns the most frequent class of each pixel.

    Void is not counted, the lower class wins a tie, and pixels that are void everywhere take the
    most frequent class of all.
    """
    count = np.zeros((num_classes, *size), np.int64)
    for label in labels:
        label = arrays.resize_nearest(label, size)
        rows, columns = np.nonzero(label >= 0)
        count[label[rows, columns], rows, columns] += 1

    # The first of equal counts is the lower class.
    overall = count.sum((1, 2)).argmax()
    return np.where(count.any(0), count.argmax(0), overall).astype(np.int32)


def check_same_classes(task: str, painted: Sequence[str], in_data: Sequence[str]) -> None:
    """Raises ValueError unless the classes that a model paints are those of the data."""
    if painted != in_data:
        raise ValueError(
            f"Task '{task}': the model paints {len(painted)} classes ({', '.join(painted[:3])}, "
            f"...), the data have {len(in_data)} ({', '.join(in_data[:3])}, ...): train it on them "
            "first."
        )
