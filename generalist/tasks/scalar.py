"""Any quantity a pixel has one of, height or temperature or moisture, as a grey image: black is the low end of its range, white the high."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np

from generalist.tasks import base, drawing


@dataclasses.dataclass(frozen=True)
class ScalarPrediction:
    """Attributes: values float32 (h, w) in the task's unit; confidence float32 (h, w) in [0, 1], 1 - spread of the channels."""

    values: np.ndarray
    confidence: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scalar(base.Task):
    """A linear grey code of the range, in floating point. Labels are float (h, w) in low..high, nan = unknown.

    The round trip is exact to 1e-6 of the range.

    Attributes:
      low, high: the ends of the range.
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
                f"Task '{self.name}': the range must be (low, high) with low < high, got ({self.low}, {self.high})."
            )

    def encode(self, label: np.ndarray, size: base.Size) -> base.Target:
        """Float (h, w), nan = unknown -> grey Target; unknown pixels are black, masked, and never blend into others."""
        values = base.check_map(
            self.name, label, "f", f"a float map in {self.unit or 'its unit'}"
        ).astype(np.float32, copy=False)
        valid = self.known(values)
        values = np.where(valid, values, np.float32(self.low))
        base.check_range(self.name, values, self.low, self.high, "the task's range, nan = unknown")
        values -= np.float32(self.low)
        above, valid = base.resize_valid(values, valid, base.to_size(size))
        grey = (above * (2 / (self.high - self.low)) - 1).astype(np.float32)
        return base.Target(
            cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), valid.astype(np.float32)[..., None]
        )

    def decode(self, rgb: np.ndarray, size: base.Size | None = None) -> ScalarPrediction:
        """Float (h, w, 3) in [-1, 1] -> values at `size`: mean of the clipped channels, then bilinear."""
        unit = base.to_levels(self.name, rgb) / np.float32(255)
        size = rgb.shape[:2] if size is None else base.to_size(size)
        share = base.resize_bilinear(unit.mean(-1), size)
        confidence = base.resize_bilinear(1.0 - (unit.max(-1) - unit.min(-1)), size)
        return ScalarPrediction(
            (self.low + share * (self.high - self.low)).astype(np.float32), confidence
        )

    def known(self, label: np.ndarray) -> np.ndarray:
        """Bool (h, w): where the label has a value."""
        return ~np.isnan(label)

    def label_of(self, prediction: ScalarPrediction) -> np.ndarray:
        """float32 (h, w) in the task's unit."""
        return prediction.values

    def metric(self):
        """`generalist.metrics.ScalarMetric`."""
        from generalist import metrics

        return metrics.ScalarMetric()

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """The color bar of `render`."""
        bar = drawing.value_bar(self.name, self.low, self.high, self.unit, self.render)
        return drawing.Legend(bars=(bar,))

    def error_map(self, prediction: ScalarPrediction, label: np.ndarray) -> np.ndarray:
        """Absolute error; the brightest color is a tenth of the range, black is an unknown label."""
        known = self.known(label)
        error = np.abs(prediction.values - np.where(known, label, 0))
        return drawing.error_heat(error, known, (self.high - self.low) / 10)

    def error_legend(self) -> drawing.Legend:
        """The color bar of `error_map`."""
        worst = f"{(self.high - self.low) / 10:g} {self.unit}"
        return drawing.Legend(bars=(drawing.heat_bar(f"{self.name} error", worst),))

    def submission_pixels(self, prediction: ScalarPrediction) -> np.ndarray:
        """uint16 (h, w), see `to_uint16`."""
        return self.to_uint16(prediction.values)

    def to_uint16(self, values: np.ndarray) -> np.ndarray:
        """Values -> what a 16-bit PNG holds: 0 = low, 65535 = high."""
        return np.rint(np.clip((values - self.low) / (self.high - self.low), 0, 1) * 65535).astype(
            np.uint16
        )

    def render(self, prediction_or_label: ScalarPrediction | np.ndarray) -> np.ndarray:
        """Values -> uint8 (h, w, 3) in the perceptually uniform colours "viridis"; unknown pixels are black."""
        values = getattr(prediction_or_label, "values", prediction_or_label)
        known = self.known(values)
        share = np.clip(
            (np.where(known, values, self.low) - self.low) / (self.high - self.low), 0, 1
        )
        colours = cv2.applyColorMap(np.round(255 * share).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[
            ..., ::-1
        ]
        return np.where(known[..., None], colours, 0).astype(np.uint8)
