"""Errors of maps of any quantity, in its own unit."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from generalist.metrics.base import ImageMean, check_same_shape

SCALAR_PROTOCOLS = {
    "scalar": "errors of a map on every pixel whose label is known, mean over images"
}


@dataclasses.dataclass(eq=False)
class ScalarMetric(ImageMean):
    """Errors per image over the pixels with a label, averaged over images: `mae` and `rms_error`, both in the label's unit.

    An image without such a pixel has nan values and stays out of the mean.
    """

    keys = ("mae", "rms_error")
    protocol: str = "scalar"

    def update(self, prediction: np.ndarray, label: np.ndarray) -> dict[str, float]:
        """Adds one image. prediction, label: float (h, w); label nan = unknown. Raises ValueError for other shapes."""
        prediction, label = np.asarray(prediction), np.asarray(label)
        check_same_shape(prediction, label, "(h, w)")
        known = ~np.isnan(label)
        if not known.any():
            return dict.fromkeys(self.keys, math.nan)
        error = np.abs(prediction[known].astype(np.float64) - label[known])
        self.images.append(
            {"mae": float(error.mean()), "rms_error": float(np.sqrt((error**2).mean()))}
        )
        return self.images[-1]
