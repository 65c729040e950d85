"""Metric depth as a gray image: black is 0 m, white is `max_depth`."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8, UInt16

from generalist.tasks import arrays, drawing
from generalist.tasks.base import FurtherMetric, Prediction, Target, Task


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DepthPrediction(Prediction):
    """Depth of an image, saved as 16-bit PNG in millimeters or as .npy in meters.

    Attributes:
      depth: in meters along the camera's axis (z), not along each pixel's ray.
      confidence: 1 minus the range of the three channels.
    """

    suffixes = (".png", ".npy")

    depth: Float32[np.ndarray, "h w"]

    def pixels(self) -> UInt16[np.ndarray, "h w"]:
        """Returns millimeters."""
        millimeters = np.rint(self.depth * 1000.0)
        return arrays.to_unsigned(millimeters, np.uint16, "depths in millimeters")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depth(Task):
    """Painter's linear gray code of metric depth: depth / max_depth in all three channels.

    Labels are float (h, w) in meters along the camera's axis (z-depth), 0 = unknown. The round trip
    is exact to 1e-5 m for depths in 0.001..max_depth meters; larger depths saturate. Painter itself
    rounds to 8 bits, which are steps of 39 mm.

    Attributes:
      max_depth: depth that is painted white, in meters.
    """

    name: str = "depth"
    prompt: str = "Performance depth estimation"
    protocol: str = "nyu-eigen-metric"
    max_depth: float = 10.0

    averages_samples: ClassVar[bool] = True

    def encode(self, label: np.ndarray, size: arrays.Size) -> Target:
        """Encodes float (h, w) meters; unknown pixels are black, masked, and never blend."""
        label = arrays.check_map(self.name, label, "f", "a float map of meters")
        depth = label.astype(np.float32, copy=False)
        if not np.all(depth >= 0) or np.isinf(depth).any():
            raise ValueError(
                f"Task '{self.name}': depth must be finite and >= 0 meters (0 = unknown), got "
                f"values in {depth.min()}..{depth.max()}."
            )

        # Painter counts less than 1e-4 of the range (1 mm of 10 m) as missing.
        valid = depth >= 1e-4 * self.max_depth
        depth = np.where(valid, np.minimum(depth, self.max_depth), 0.0)
        depth, valid = arrays.resize_valid(depth, valid, arrays.to_size(size))

        gray = (depth * (2.0 / self.max_depth) - 1.0).astype(np.float32)
        rgb = np.repeat(gray[..., None], 3, axis=-1)
        return Target(rgb, valid.astype(np.float32)[..., None])

    def decode(self, rgb: np.ndarray, size: arrays.Size | None = None) -> DepthPrediction:
        """Decodes to meters at `size`: the mean of the clipped channels, then bilinear."""
        rgb = arrays.check_image(self.name, rgb, np.float32)
        unit = np.clip((rgb.astype(np.float32) + 1.0) / 2.0, 0.0, 1.0)
        size = arrays.to_size(rgb.shape[:2] if size is None else size)

        # The channels of a clean gray agree: how far they differ says how sure the model is.
        depth = unit.mean(-1) * np.float32(self.max_depth)
        confidence = 1.0 - (unit.max(-1) - unit.min(-1))
        return DepthPrediction(
            decoded_by=self,
            depth=arrays.resize_bilinear(depth, size),
            confidence=arrays.resize_bilinear(confidence, size),
        )

    # Figures --------------------------------------------------------------------------------------

    def metric(self):
        """Returns `generalist.metrics.DepthMetric` with this task's protocol."""
        from generalist import metrics

        return metrics.DepthMetric(protocol=self.protocol)

    def label_of(self, prediction: DepthPrediction) -> Float32[np.ndarray, "h w"]:
        """Returns meters."""
        return prediction.depth

    def further_metrics(self) -> tuple[FurtherMetric, ...]:
        """Returns what certainty is worth and, on NYU Depth v2, affine-invariant errors."""
        from generalist import metrics

        error = metrics.SparsificationError(self.protocol)
        sparsification = FurtherMetric("", error, takes="certainty")
        if self.protocol != "nyu-eigen-metric":
            return (sparsification,)
        affine = FurtherMetric("_affine", metrics.DepthMetric("nyu-affine-invariant"))
        return (sparsification, affine)

    # Pictures -------------------------------------------------------------------------------------

    def render(
        self,
        prediction_or_label: DepthPrediction | Float[np.ndarray, "h w"],
        vmin: float | None = None,
        vmax: float | None = None,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws depth in the perceptually uniform colors "inferno"; unknown pixels are black.

        Args:
          prediction_or_label: what to draw.
          vmin: depth of the darkest color in meters; None takes 0. Smaller depths saturate.
          vmax: depth of the brightest color; None takes `max_depth`. Larger depths saturate.

        Raises:
          ValueError: vmin is not below vmax.
        """
        depth = prediction_or_label
        if isinstance(depth, DepthPrediction):
            depth = depth.depth
        vmin = 0.0 if vmin is None else vmin
        vmax = self.max_depth if vmax is None else vmax
        if not vmin < vmax:
            raise ValueError(f"render needs vmin < vmax, got vmin={vmin} and vmax={vmax} meters.")

        gray = np.round(255 * np.clip((depth - vmin) / (vmax - vmin), 0.0, 1.0)).astype(np.uint8)
        # OpenCV returns blue, green, red.
        colors = cv2.applyColorMap(gray, cv2.COLORMAP_INFERNO)[..., ::-1]
        return np.where(self._known(depth)[..., None], colors, 0).astype(np.uint8)

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """Returns the color bar of `render` at its default scale."""
        bar = drawing.value_bar(self.name, 0.0, self.max_depth, "m", self.render)
        return drawing.Legend(bars=(bar,))

    def error_map(
        self, prediction: DepthPrediction, label: Float[np.ndarray, "h w"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws the absolute error: brightest from a tenth of the range on, black where unknown."""
        known = self._known(label)
        error = np.abs(prediction.depth - np.where(known, label, 0))
        return drawing.error_heat(error, known, self.max_depth / 10)

    def error_legend(self) -> drawing.Legend:
        """Returns the color bar of `error_map`."""
        bar = drawing.heat_bar(f"{self.name} error", f"{self.max_depth / 10:g} m")
        return drawing.Legend(bars=(bar,))

    def _known(self, depth: Float[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
        return depth > 0
