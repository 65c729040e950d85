"""Mean IoU and accuracies of class maps, from one confusion matrix over the whole data set."""

from __future__ import annotations

import dataclasses
import math
from typing import Self

import numpy as np

from generalist.metrics.base import Metric, check_integers, check_same_shape

VOID = -1
SEGMENTATION_PROTOCOLS = {
    "semantic-detectron2": "one confusion matrix over all images but void labels, mean over classes with label pixels"
}


@dataclasses.dataclass(eq=False)
class SegmentationMetric(Metric):
    """Semantic segmentation as detectron2's SemSegEvaluator (and mmsegmentation) count it.

    Keys, all fractions: `miou` (IoU = true positives / (label + predicted - true positives), mean over the classes with
    label pixels), `macc` (recall, mean over the same classes), `aacc` (share of right pixels), `fwiou` (IoU weighted by
    label pixels). All are nan before the first labelled pixel.

    Args:
      num_classes: K; the classes are 0 .. K - 1.
      ignore: the label of pixels that count nowhere.

    Attributes:
      confusion: (K, K + 1) int64 pixels; rows are labels, columns predictions, the last column predicted void.

    Raises:
      ValueError: `num_classes` is below 1.
    """

    num_classes: int
    ignore: int = VOID
    confusion: np.ndarray = dataclasses.field(init=False, repr=False)
    protocol = "semantic-detectron2"

    def __post_init__(self):
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}.")
        self.confusion = np.zeros((self.num_classes, self.num_classes + 1), np.int64)

    def update(self, prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Adds one image and returns its own values, over the classes in its own label.

        Args:
          prediction: (h, w) integers 0 .. K - 1, or -1 for predicted void, which is wrong whatever the label.
          label: (h, w) integers 0 .. K - 1, or `ignore`.

        Raises:
          TypeError: an array does not hold integers.
          ValueError: the shapes differ, or a value is out of range.
        """
        prediction, label = check_integers(prediction, "prediction"), check_integers(label, "label")
        check_same_shape(prediction, label, "(h, w)")
        counted = label != self.ignore
        prediction, label = prediction[counted].astype(np.int64), label[counted].astype(np.int64)
        self._check_range("prediction", prediction, VOID)
        self._check_range("label", label, 0)
        columns = self.num_classes + 1
        cells = label * columns + prediction % columns  # predicted void, -1, is the last column
        confusion = np.bincount(cells, minlength=self.confusion.size).reshape(self.confusion.shape)
        self.confusion += confusion
        return _summary(confusion)

    def compute(self) -> dict[str, float]:
        """Returns `miou`, `macc`, `aacc` and `fwiou` over all images; nan without a labelled pixel."""
        return _summary(self.confusion)

    def per_class(self) -> dict[int, float]:
        """Returns the IoU of every class over all images; nan for a class without label pixels."""
        true_positives, labelled, union = _counts(self.confusion)
        iou = np.divide(
            true_positives, union, out=np.full(self.num_classes, np.nan), where=labelled > 0
        )
        return dict(enumerate(iou.tolist()))

    def _absorb(self, other: Self) -> None:
        self.confusion += other.confusion

    def _check_range(self, name: str, classes: np.ndarray, lowest: int) -> None:
        wrong = classes[(classes < lowest) | (classes >= self.num_classes)]
        if wrong.size:
            raise ValueError(
                f"{name} holds class {wrong[0]}, allowed are {lowest} .. {self.num_classes - 1}"
                + (f" and the ignored {self.ignore}." if name == "label" else " (-1 is void).")
            )


def _counts(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels per class: true positives, labelled, and in the union of label and prediction."""
    true_positives, labelled = confusion.diagonal(), confusion.sum(axis=1)
    return true_positives, labelled, labelled + confusion[:, :-1].sum(axis=0) - true_positives


def _summary(confusion: np.ndarray) -> dict[str, float]:
    true_positives, labelled, union = (
        count[confusion.sum(axis=1) > 0] for count in _counts(confusion)
    )
    if not labelled.size:
        return dict.fromkeys(("miou", "macc", "aacc", "fwiou"), math.nan)
    iou = true_positives / union
    return {
        "miou": float(iou.mean()),
        "macc": float(np.mean(true_positives / labelled)),
        "aacc": float(true_positives.sum() / labelled.sum()),
        "fwiou": float(np.sum(iou * labelled) / labelled.sum()),
    }
