"""Errors of maps of any quantity, in its own unit."""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from generalist.metrics.base import ImageMean, check_same_shape

SCALAR_PROTOCOLS = {
    "scalar": "errors of a map on every pixel whose label is known, mean over images"
}


@dataclasses.dataclass(eq=False)
class ScalarMetric(ImageMean):
    """Errors per image over the pixels with a label, averaged over images.

    Keys: `mae`, `rms_error`, both in the label's unit. An image without such a pixel has nan values
    and stays out of the mean.
    """

    keys = ("mae", "rms_error")
    protocol: str = "scalar"

    def update(self, prediction: ArrayLike, label: ArrayLike) -> dict[str, float]:
        """Adds one image and returns its own values.

        Args:
          prediction: (h, w) float.
          label: (h, w) float; nan = unknown.

        Raises:
          ValueError: the shapes differ or are not (h, w).
        """
        prediction = np.asarray(prediction)
        label = np.asarray(label)
        check_same_shape(prediction, label, "(h, w)")

        known = ~np.isnan(label)
        if not known.any():
            return dict.fromkeys(self.keys, math.nan)

        error = np.abs(prediction[known].astype(np.float64) - label[known])
        image = {"mae": float(error.mean()), "rms_error": float(np.sqrt((error**2).mean()))}
        self.images.append(image)
        return image
