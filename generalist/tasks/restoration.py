"""Restoration: the clean image itself is what the model paints."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from generalist.tasks import base, drawing

# Levels of 255: the error that has the brightest color in a picture.
_WORST_ERROR = 64


@dataclasses.dataclass(frozen=True)
class RestorationPrediction:
    """A restored image.

    Attributes:
      levels: (h, w, 3) in [0, 255], not rounded.
      confidence: float32 (h, w) in [0, 1]: 1 minus how far the strongest channel left [-1, 1] before it was clipped.
    """

    levels: np.ndarray
    confidence: np.ndarray

    @property
    def image(self) -> np.ndarray:
        """uint8 (h, w, 3), the nearest of the 256 levels."""
        return np.round(self.levels).astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoration(base.Task):
    """Denoising, deraining, light enhancement: labels are clean images, uint8 (h, w, 3).

    At the label's own size the round trip is exact. Resizing takes the area mean where the image shrinks and bicubic
    where it grows (Painter's training targets are resized by nearest neighbour, which aliases; that is not copied).
    """

    averages_samples: ClassVar[bool] = True
    prefers_tiles: ClassVar[bool] = True
    # The colors of the image are its target.
    jitters_color: ClassVar[bool] = False
    trivial_learns: ClassVar[bool] = False

    def encode(self, label: np.ndarray, size: base.Size) -> base.Target:
        """uint8 (h, w, 3) -> Target; every pixel counts."""
        image = base.check_image(self.name, label, np.uint8)
        levels = base.resize_image(image.astype(np.float32), base.to_size(size))
        return base.Target(
            base.from_levels(np.clip(levels, 0.0, 255.0)),
            np.ones((*levels.shape[:2], 1), np.float32),
        )

    def decode(self, rgb: np.ndarray, size: base.Size | None = None) -> RestorationPrediction:
        """Float (h, w, 3) in [-1, 1] -> image at `size`."""
        overshoot = np.abs(base.check_image(self.name, rgb, np.float32)).max(-1) - 1.0
        size = rgb.shape[:2] if size is None else base.to_size(size)
        levels = base.resize_image(base.to_levels(self.name, rgb), size)
        confidence = base.resize_bilinear(
            (1.0 - np.clip(overshoot, 0.0, 1.0)).astype(np.float32), size
        )
        return RestorationPrediction(np.clip(levels, 0.0, 255.0), confidence)

    def label_of(self, prediction: RestorationPrediction) -> np.ndarray:
        """float64 (h, w, 3) in [0, 1]: some protocols round it to 8 bits, others do not."""
        return prediction.levels.astype(np.float64) / 255.0

    def metric(self):
        """`generalist.metrics.ImageQuality` with this task's protocol."""
        from generalist import metrics

        return metrics.ImageQuality(protocol=self.protocol)

    def render(self, prediction_or_label: RestorationPrediction | np.ndarray) -> np.ndarray:
        """The image itself, uint8 (h, w, 3)."""
        return getattr(prediction_or_label, "image", prediction_or_label)

    def further_metrics(self) -> tuple[base.FurtherMetric, ...]:
        """For low light, PSNR and SSIM by the two other protocols of its papers."""
        from generalist import metrics

        if self.protocol != "lol-rgb-painter":
            return ()
        return (
            base.FurtherMetric("_gaussian", metrics.ImageQuality("rgb-matlab")),
            base.FurtherMetric("_gt_mean", metrics.ImageQuality("lol-rgb-gt-mean")),
        )

    def trivial_prediction(
        self,
        image: np.ndarray,
        rgbs: Mapping[str, np.ndarray],
        size: base.Size | None = None,
    ) -> RestorationPrediction:
        """The degraded image itself, uint8 (h, w, 3), at its own size."""
        confidence = np.ones(image.shape[:2], np.float32)
        return RestorationPrediction(image.astype(np.float32), confidence)

    def sample_std(self, predictions: Sequence[RestorationPrediction]) -> np.ndarray:
        """float32 (h, w): the mean over the channels, in levels of 0..255."""
        return 255.0 * super().sample_std(predictions).mean(-1)

    def error_map(self, prediction: RestorationPrediction, label: np.ndarray) -> np.ndarray:
        """Absolute error, mean of the channels."""
        difference = prediction.image.astype(np.float32) - label
        return drawing.heat(np.abs(difference).mean(-1) / _WORST_ERROR)

    def error_legend(self) -> drawing.Legend:
        """The color bar of `error_map`."""
        bar = drawing.heat_bar("error, mean of the channels", f"{_WORST_ERROR} of 255")
        return drawing.Legend(bars=(bar,))

    def submission_pixels(self, prediction: RestorationPrediction) -> np.ndarray:
        """uint8 (h, w, 3), the image."""
        return prediction.image
