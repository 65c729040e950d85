"""How well a class map follows the outlines of its classes, which mean IoU hardly sees."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from generalist.metrics.base import ImageMean, check_integers, check_same_shape, mean

BOUNDARY_PROTOCOLS = {
    "boundary-f-0.75": "per image and class, F1 of outlines within 0.75 % of the diagonal; mean over classes, then over images (Csurka et al.)"
}
TOLERANCE = 0.0075  # of the image's diagonal, rounded up to whole pixels: Csurka et al. 2013; DAVIS 2016 has 0.008


@dataclasses.dataclass(eq=False)
class BoundaryF(ImageMean):
    """Boundary F-score of Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013.

    The outline of a class is its pixels beside (above, below, left or right of) a pixel of another class. Precision is the share of the
    predicted outline within the tolerance (Euclidean, between pixel centres) of the label's, recall the reverse, F their
    harmonic mean; a class that has an outline on one side only has F = 0. Void neither has an outline nor makes one.

    Key: `boundary_f`, a fraction. An image without an outline on either side has nan and stays out of the mean.

    Args:
      ignore: the label of pixels that count nowhere.
    """

    keys = ("boundary_f",)
    ignore: int = -1
    protocol = "boundary-f-0.75"

    def update(self, prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Adds one image and returns its own value; two integer class maps (h, w), as `SegmentationMetric` takes them.

        Raises:
          TypeError: an array does not hold integers.
          ValueError: the shapes differ.
        """
        prediction, label = check_integers(prediction, "prediction"), check_integers(label, "label")
        check_same_shape(prediction, label, "(h, w)")
        void = label == self.ignore
        outlines = _outline(prediction, void), _outline(label, void)
        tolerance = math.ceil(TOLERANCE * math.hypot(*label.shape))
        predicted, labelled = (
            set(ids[edge].tolist()) for edge, ids in zip(outlines, (prediction, label))
        )
        scores = [
            _f1(outlines[0] & (prediction == index), outlines[1] & (label == index), tolerance)
            for index in predicted & labelled
        ]
        scores += [0.0] * len(predicted ^ labelled)
        image = {"boundary_f": mean(scores)}
        if scores:
            self.images.append(image)
        return image


def _outline(classes: np.ndarray, void: np.ndarray) -> np.ndarray:
    """Bool (h, w): pixels beside one of another class, neither of the two being void."""
    edge = np.zeros(classes.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = (classes[one] != classes[other]) & ~void[one] & ~void[other]
        edge[one] |= differ
        edge[other] |= differ
    return edge


def _f1(predicted: np.ndarray, labelled: np.ndarray, tolerance: int) -> float:
    """Of two outlines bool (h, w), neither of them empty."""
    both = predicted | labelled
    window = tuple(
        slice(found[0], found[-1] + 1)
        for found in (np.flatnonzero(both.any(axis)) for axis in (1, 0))
    )
    predicted, labelled = predicted[window], labelled[window]
    precision, recall = (
        _share_near(predicted, labelled, tolerance),
        _share_near(labelled, predicted, tolerance),
    )
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _share_near(ones: np.ndarray, others: np.ndarray, tolerance: int) -> float:
    """Share of the pixels of `ones` within the tolerance of one of `others`."""
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(
        np.mean(distance[ones] <= tolerance + 1e-3)
    )  # float32 distances of a few pixels are off by far less
