"""Mean IoU and accuracies of class maps, from one confusion matrix over the whole data set."""

import dataclasses
import math
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import ArrayLike

from generalist.metrics.base import Metric, check_integers, check_same_shape

VOID = -1
SEGMENTATION_PROTOCOLS = {
    "semantic-detectron2": (
        "one confusion matrix over all images but void labels, mean over classes with label pixels"
    )
}


@dataclasses.dataclass(eq=False)
class SegmentationMetric(Metric):
    """Semantic segmentation as detectron2's SemSegEvaluator (and mmsegmentation) count it.

    Keys, all fractions: `miou` (IoU = true positives / (labeled + predicted - true positives), mean
    over the classes with label pixels), `macc` (recall, mean over the same classes), `aacc`
    (fraction of right pixels), `fwiou` (IoU weighted by label pixels). All are nan before the first
    labeled pixel.

    Args:
      num_classes: K; the classes are 0 .. K - 1.
      ignore: the label of pixels that count nowhere.

    Attributes:
      confusion: (K, K + 1) pixels; rows are labels, columns predictions, the last column predicted
        void.

    Raises:
      ValueError: `num_classes` is below 1.
    """

    num_classes: int
    ignore: int = VOID
    confusion: Int64[np.ndarray, "labels predictions"] = dataclasses.field(init=False, repr=False)
    protocol = "semantic-detectron2"

    def __post_init__(self):
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}.")
        self.confusion = np.zeros((self.num_classes, self.num_classes + 1), np.int64)

    def update(self, prediction: ArrayLike, label: ArrayLike) -> dict[str, float]:
        """Adds one image and returns its own values, over the classes in its own label.

        Args:
          prediction: (h, w) integers 0 .. K - 1, or -1 for predicted void, which is wrong whatever
            the label.
          label: (h, w) integers 0 .. K - 1, or `ignore`.

        Raises:
          TypeError: an array does not hold integers.
          ValueError: the shapes differ, or a value is out of range.
        """
        prediction = check_integers(prediction, "prediction")
        label = check_integers(label, "label")
        check_same_shape(prediction, label, "(h, w)")

        counted = label != self.ignore
        prediction = prediction[counted].astype(np.int64)
        label = label[counted].astype(np.int64)
        self._check_range("prediction", prediction, VOID)
        self._check_range("label", label, 0)

        # One number for each cell (label, prediction); predicted void, -1, is the last column.
        columns = self.num_classes + 1
        cells = label * columns + prediction % columns
        confusion = np.bincount(cells, minlength=self.confusion.size).reshape(self.confusion.shape)

        self.confusion += confusion
        return _summary(confusion)

    def compute(self) -> dict[str, float]:
        """Returns `miou`, `macc`, `aacc`, `fwiou` over all images; nan without a labeled pixel."""
        return _summary(self.confusion)

    def per_class(self) -> dict[int, float]:
        """Returns the IoU of every class over all images; nan for a class without label pixels."""
        pixels = _count(self.confusion)
        iou = np.full(self.num_classes, np.nan)
        np.divide(pixels.true_positive, pixels.union, out=iou, where=pixels.labeled > 0)
        return dict(enumerate(iou.tolist()))

    def _absorb(self, other: Self) -> None:
        self.confusion += other.confusion

    def _check_range(self, name: str, classes: Int64[np.ndarray, " n"], lowest: int) -> None:
        wrong = classes[(classes < lowest) | (classes >= self.num_classes)]
        if wrong.size:
            besides = f" and the ignored {self.ignore}." if name == "label" else " (-1 is void)."
            raise ValueError(
                f"{name} holds class {wrong[0]}, "
                f"allowed are {lowest} .. {self.num_classes - 1}{besides}"
            )


class _Pixels(NamedTuple):
    """Numbers of pixels, one of each a class."""

    true_positive: Int64[np.ndarray, " K"]
    labeled: Int64[np.ndarray, " K"]
    union: Int64[np.ndarray, " K"]  # of label and prediction


def _count(confusion: Int64[np.ndarray, "labels predictions"]) -> _Pixels:
    true_positive = confusion.diagonal()
    labeled = confusion.sum(axis=1)
    predicted = confusion[:, :-1].sum(axis=0)
    return _Pixels(true_positive, labeled, labeled + predicted - true_positive)


def _summary(confusion: Int64[np.ndarray, "labels predictions"]) -> dict[str, float]:
    pixels = _count(confusion)

    # Only classes with label pixels count.
    occurs = pixels.labeled > 0
    if not occurs.any():
        return dict.fromkeys(("miou", "macc", "aacc", "fwiou"), math.nan)
    true_positive, labeled, union = (count[occurs] for count in pixels)

    iou: Float[np.ndarray, " occurring"] = true_positive / union
    return {
        "miou": float(iou.mean()),
        "macc": float(np.mean(true_positive / labeled)),
        "aacc": float(true_positive.sum() / labeled.sum()),
        "fwiou": float(np.sum(iou * labeled) / labeled.sum()),
    }
