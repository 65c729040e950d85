"""Any quantity of which a pixel has one (height, temperature, moisture) as a gray image.

Black is the low end of its range, white the high end.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8, UInt16

from generalist.tasks import arrays, drawing
from generalist.tasks.base import Prediction, Target, Task


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ScalarPrediction(Prediction):
    """Values of an image, saved as 16-bit PNG or as .npy in the task's unit.

    In the PNG 0 is the low end of the range and 65535 the high end.

    Attributes:
      values: in the task's unit.
      confidence: 1 minus the range of the three channels.
    """

    suffixes = (".png", ".npy")

    decoded_by: "Scalar"
    values: Float32[np.ndarray, "h w"]

    def pixels(self) -> UInt16[np.ndarray, "h w"]:
        """Returns the values as 16-bit fractions of the range."""
        return np.rint(self.decoded_by.fraction(self.values) * 65535).astype(np.uint16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scalar(Task):
    """A linear gray code of a range, in floating point.

    Labels are float (h, w) in low..high, nan = unknown. The round trip is exact to 1e-6 of the
    range.

    Attributes:
      low: low end of the range.
      high: high end of the range.
      unit: of the values, for people.
    """

    protocol: str = "scalar"
    low: float
    high: float
    unit: str = ""

    averages_samples: ClassVar[bool] = True

    def __post_init__(self):
        if not self.low < self.high:
            raise ValueError(
                f"Task '{self.name}': the range must be (low, high) with low < high, got "
                f"({self.low}, {self.high})."
            )

    def encode(self, label: np.ndarray, size: arrays.Size) -> Target:
        """Encodes float (h, w), nan = unknown: black, masked, and never blended into others."""
        label = arrays.check_map(self.name, label, "f", f"a float map in {self.unit or 'its unit'}")
        values = label.astype(np.float32, copy=False)
        valid = self._known(values)
        values = np.where(valid, values, np.float32(self.low))
        arrays.check_range(
            self.name, values, self.low, self.high, "the task's range, nan = unknown"
        )

        # `resize_valid` wants zeros where there is no value.
        above = values - np.float32(self.low)
        above, valid = arrays.resize_valid(above, valid, arrays.to_size(size))

        gray = (above * (2 / (self.high - self.low)) - 1).astype(np.float32)
        rgb = cv2.cvtColor(gray, cv2.COLOR_GRAY2RGB)
        return Target(rgb, valid.astype(np.float32)[..., None])

    def decode(self, rgb: np.ndarray, size: arrays.Size | None = None) -> ScalarPrediction:
        """Decodes to values at `size`: the mean of the clipped channels, then bilinear."""
        unit = arrays.to_levels(self.name, rgb) / np.float32(255)
        size = arrays.to_size(rgb.shape[:2] if size is None else size)

        # The channels of a clean gray agree: how far they differ says how sure the model is.
        fraction = arrays.resize_bilinear(unit.mean(-1), size)
        confidence = arrays.resize_bilinear(1.0 - (unit.max(-1) - unit.min(-1)), size)
        return ScalarPrediction(
            decoded_by=self,
            values=(self.low + fraction * (self.high - self.low)).astype(np.float32),
            confidence=confidence,
        )

    def fraction(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Returns where values lie in the range: 0 is the low end, 1 the high end; clipped."""
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)

    # Figures --------------------------------------------------------------------------------------

    def metric(self):
        """Returns `generalist.metrics.ScalarMetric`."""
        from generalist import metrics

        return metrics.ScalarMetric()

    def label_of(self, prediction: ScalarPrediction) -> Float32[np.ndarray, "h w"]:
        """Returns values in the task's unit."""
        return prediction.values

    # Pictures -------------------------------------------------------------------------------------

    def render(
        self, prediction_or_label: ScalarPrediction | Float[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws values in the perceptually uniform colors "viridis"; unknown pixels are black."""
        values = prediction_or_label
        if isinstance(values, ScalarPrediction):
            values = values.values
        known = self._known(values)
        colors = drawing.heat(self.fraction(np.where(known, values, self.low)))
        return np.where(known[..., None], colors, 0).astype(np.uint8)

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """Returns the color bar of `render`."""
        bar = drawing.value_bar(self.name, self.low, self.high, self.unit, self.render)
        return drawing.Legend(bars=(bar,))

    def error_map(
        self, prediction: ScalarPrediction, label: Float[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws the absolute error: brightest from a tenth of the range on, black where unknown."""
        known = self._known(label)
        error = np.abs(prediction.values - np.where(known, label, 0))
        return drawing.error_heat(error, known, (self.high - self.low) / 10)

    def error_legend(self) -> drawing.Legend:
        """Returns the color bar of `error_map`."""
        worst = f"{(self.high - self.low) / 10:g} {self.unit}"
        return drawing.Legend(bars=(drawing.heat_bar(f"{self.name} error", worst),))

    def _known(self, values: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        return ~np.isnan(values)
