"""How closely a class map follows the outlines of its classes, which mean IoU hardly sees."""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Bool, Integer
from numpy.typing import ArrayLike

from generalist.metrics.base import ImageMean, check_integers, check_same_shape, mean

BOUNDARY_PROTOCOLS = {
    "boundary-f-0.75": (
        "per image and class, F1 of outlines within 0.75 % of the diagonal; "
        "mean over classes, then over images (Csurka et al.)"
    )
}

# Fraction of the image's diagonal, rounded up to whole pixels: Csurka et al. 2013; DAVIS 2016 has
# 0.008.
TOLERANCE = 0.0075

# Slices of the pixels below (right of) another, and of those others above (left of) them.
_NEIGHBORS = ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1]))


@dataclasses.dataclass(eq=False)
class BoundaryF(ImageMean):
    """Boundary F-score of Csurka et al.

    "What is a good evaluation measure for semantic segmentation?", BMVC 2013.

    The outline of a class is its pixels beside (above, below, left or right of) a pixel of another
    class. Precision is the fraction of the predicted outline within the tolerance (Euclidean,
    between pixel centers) of the label's, recall the reverse, F their harmonic mean; a class that
    has an outline on one side only has F = 0. Void neither has an outline nor makes one.

    Key: `boundary_f`, a fraction. An image without an outline on either side has nan and stays out
    of the mean.

    Args:
      ignore: the label of pixels that count nowhere.
    """

    keys = ("boundary_f",)
    ignore: int = -1
    protocol = "boundary-f-0.75"

    def update(self, prediction: ArrayLike, label: ArrayLike) -> dict[str, float]:
        """Adds one image and returns its own value.

        Args:
          prediction: (h, w) integers, as `SegmentationMetric` takes them.
          label: (h, w) integers.

        Raises:
          TypeError: an array does not hold integers.
          ValueError: the shapes differ.
        """
        prediction = check_integers(prediction, "prediction")
        label = check_integers(label, "label")
        check_same_shape(prediction, label, "(h, w)")

        # Void is the label's, for the prediction too: what is predicted there has no outline.
        void = label == self.ignore
        predicted_outline = _outline(prediction, void)
        label_outline = _outline(label, void)
        predicted_classes = set(prediction[predicted_outline].tolist())
        label_classes = set(label[label_outline].tolist())

        tolerance = math.ceil(TOLERANCE * math.hypot(*label.shape))
        scores = []
        for index in predicted_classes & label_classes:
            predicted = predicted_outline & (prediction == index)
            labeled = label_outline & (label == index)
            scores.append(_f1(predicted, labeled, tolerance))

        # A class with an outline on one side only has F = 0.
        scores += [0.0] * len(predicted_classes ^ label_classes)

        image = {"boundary_f": mean(scores)}
        if scores:
            self.images.append(image)
        return image


def _outline(
    classes: Integer[np.ndarray, "h w"], void: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Returns the pixels beside one of another class, neither of the two being void."""
    edge = np.zeros(classes.shape, bool)
    for one, other in _NEIGHBORS:
        differ = (classes[one] != classes[other]) & ~void[one] & ~void[other]
        edge[one] |= differ
        edge[other] |= differ
    return edge


def _f1(
    predicted: Bool[np.ndarray, "h w"], labeled: Bool[np.ndarray, "h w"], tolerance: int
) -> float:
    """Returns the F-score of two outlines, neither of them empty."""
    # Distances inside the bounding box of both outlines are those in the whole image, and cheaper.
    both = predicted | labeled
    rows = np.flatnonzero(both.any(axis=1))
    columns = np.flatnonzero(both.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    precision = _fraction_near(predicted[box], labeled[box], tolerance)
    recall = _fraction_near(labeled[box], predicted[box], tolerance)
    if not precision or not recall:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _fraction_near(
    ones: Bool[np.ndarray, "h w"], others: Bool[np.ndarray, "h w"], tolerance: int
) -> float:
    """Returns the fraction of the pixels of `ones` within the tolerance of one of `others`."""
    distance = cv2.distanceTransform((~others).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # float32 distances of a few pixels are off by far less than 1e-3.
    return float(np.mean(distance[ones] <= tolerance + 1e-3))
