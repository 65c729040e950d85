"""Metric depth as a grey image: black is 0 m, white is `max_depth`."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import cv2
import numpy as np

from generalist.tasks import base, drawing


@dataclasses.dataclass(frozen=True)
class DepthPrediction:
    """Attributes: depth float32 (h, w) metres; confidence float32 (h, w) in [0, 1], 1 - spread of the channels."""

    depth: np.ndarray
    confidence: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depth(base.Task):
    """Painter's linear grey code of metric depth, in floating point: depth / max_depth in all three channels.

    Labels are float (h, w) metres with 0 = unknown. The round trip is exact to 1e-5 m for depths in
    0.001..max_depth metres; larger depths saturate. Painter itself rounds to 8 bits, steps of 39 mm.

    Attributes:
      max_depth: metres painted white.
    """

    name: str = "depth"
    prompt: str = "Performance depth estimation"
    protocol: str = "nyu-eigen-metric"
    max_depth: float = 10.0
    averages_samples: ClassVar[bool] = True

    def encode(self, label: np.ndarray, size: base.Size) -> base.Target:
        """Float (h, w) metres -> grey Target; unknown pixels are black, masked, and never blend into others."""
        depth = base.check_map(self.name, label, "f", "a float map of metres").astype(
            np.float32, copy=False
        )
        if not np.all(depth >= 0) or np.isinf(depth).any():
            raise ValueError(
                f"Task '{self.name}': depth must be finite and >= 0 metres (0 = unknown), got values "
                f"in {depth.min()}..{depth.max()}."
            )
        # Painter counts less than 1e-4 of the range (1 mm of 10 m) as missing.
        valid = depth >= 1e-4 * self.max_depth
        depth, valid = base.resize_valid(
            np.where(valid, np.minimum(depth, self.max_depth), 0.0), valid, base.to_size(size)
        )
        grey = (depth * (2.0 / self.max_depth) - 1.0).astype(np.float32)
        return base.Target(
            np.repeat(grey[..., None], 3, axis=-1), valid.astype(np.float32)[..., None]
        )

    def decode(self, rgb: np.ndarray, size: base.Size | None = None) -> DepthPrediction:
        """Float (h, w, 3) in [-1, 1] -> metres at `size`: mean of the clipped channels, then bilinear."""
        unit = np.clip(
            (base.check_image(self.name, rgb, np.float32).astype(np.float32) + 1.0) / 2.0, 0.0, 1.0
        )
        size = rgb.shape[:2] if size is None else base.to_size(size)
        depth = base.resize_bilinear(unit.mean(-1) * np.float32(self.max_depth), size)
        confidence = base.resize_bilinear(1.0 - (unit.max(-1) - unit.min(-1)), size)
        return DepthPrediction(depth, confidence)

    def known(self, label: np.ndarray) -> np.ndarray:
        """Bool (h, w): where the label has a depth."""
        return label > 0

    def label_of(self, prediction: DepthPrediction) -> np.ndarray:
        """float32 (h, w) metres."""
        return prediction.depth

    def metric(self):
        """`generalist.metrics.DepthMetric` with this task's protocol."""
        from generalist import metrics

        return metrics.DepthMetric(protocol=self.protocol)

    def further_metrics(self) -> tuple[base.FurtherMetric, ...]:
        """How well the confidence sorts the errors; on NYU Depth v2 also the affine-invariant errors."""
        from generalist import metrics

        found = [base.FurtherMetric("", metrics.SparsificationError(self.protocol), True)]
        if self.protocol == "nyu-eigen-metric":
            found.append(base.FurtherMetric("_affine", metrics.DepthMetric("nyu-affine-invariant")))
        return tuple(found)

    def legend(self, labels: Sequence[np.ndarray] | None = None) -> drawing.Legend:
        """The color bar of `render` at its default scale."""
        bar = drawing.value_bar(self.name, 0.0, self.max_depth, "m", self.render)
        return drawing.Legend(bars=(bar,))

    def error_map(self, prediction: DepthPrediction, label: np.ndarray) -> np.ndarray:
        """Absolute error; the brightest color is a tenth of the range, black is an unknown label."""
        known = self.known(label)
        error = np.abs(prediction.depth - np.where(known, label, 0))
        return drawing.error_heat(error, known, self.max_depth / 10)

    def error_legend(self) -> drawing.Legend:
        """The color bar of `error_map`."""
        bar = drawing.heat_bar(f"{self.name} error", f"{self.max_depth / 10:g} m")
        return drawing.Legend(bars=(bar,))

    def submission_pixels(self, prediction: DepthPrediction) -> np.ndarray:
        """uint16 (h, w), millimetres."""
        millimetres = np.rint(prediction.depth * 1000.0)
        return base.to_unsigned(millimetres, np.uint16, "depths in millimetres")

    def render(
        self,
        prediction_or_label: DepthPrediction | np.ndarray,
        vmin: float | None = None,
        vmax: float | None = None,
    ) -> np.ndarray:
        """Metres -> uint8 (h, w, 3) in the perceptually uniform colours "inferno"; unknown pixels are black.

        The scale is 0..max_depth unless `vmin` and `vmax` (metres) say otherwise; values outside saturate.
        """
        depth = getattr(prediction_or_label, "depth", prediction_or_label)
        vmin, vmax = 0.0 if vmin is None else vmin, self.max_depth if vmax is None else vmax
        if not vmin < vmax:
            raise ValueError(f"render needs vmin < vmax, got vmin={vmin} and vmax={vmax} metres.")
        grey = np.round(255 * np.clip((depth - vmin) / (vmax - vmin), 0.0, 1.0)).astype(np.uint8)
        colours = cv2.applyColorMap(grey, cv2.COLORMAP_INFERNO)[..., ::-1]
        return np.where((depth > 0)[..., None], colours, 0).astype(np.uint8)
