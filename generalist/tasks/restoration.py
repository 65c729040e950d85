"""Restoration: the clean image itself is what the model paints."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from generalist.tasks import arrays, drawing
from generalist.tasks.base import FurtherMetric, Prediction, Target, Task

# The error, in levels of 255, from which on it has the brightest color in a picture.
_WORST_ERROR = 64


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RestorationPrediction(Prediction):
    """A restored image, saved as 8-bit RGB PNG.

    Attributes:
      levels: in [0, 255], not rounded.
      confidence: 1 minus how far the strongest channel left [-1, 1] before it was clipped.
    """

    levels: Float32[np.ndarray, "h w 3"]

    @property
    def image(self) -> UInt8[np.ndarray, "h w 3"]:
        """The restored image: the nearest of the 256 levels."""
        return np.round(self.levels).astype(np.uint8)

    def pixels(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image."""
        return self.image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoration(Task):
    """Denoising, deraining, light enhancement: labels are clean images, uint8 (h, w, 3).

    At the label's own size the round trip is exact. Resizing takes the area mean where the image
    shrinks and bicubic where it grows. (Painter resizes its targets by nearest neighbor, which
    aliases; that is not copied.)

    Attributes:
      tiles: whether a large image is restored in tiles at its own resolution, which keeps its
        finest detail. Not where the answer depends on the whole image, as its exposure does.
    """

    tiles: bool = True

    averages_samples: ClassVar[bool] = True
    # The colors of the image are its target.
    jitters_color: ClassVar[bool] = False
    trivial_learns: ClassVar[bool] = False

    @property
    def prefers_tiles(self) -> bool:
        """Whether large images are better restored in tiles, and trained so, too."""
        return self.tiles

    def encode(self, label: np.ndarray, size: arrays.Size) -> Target:
        """Encodes an image, uint8 (h, w, 3); every pixel counts."""
        image = arrays.check_image(self.name, label, np.uint8)

        # Bicubic enlarging may leave the range.
        levels = arrays.resize_image(image.astype(np.float32), arrays.to_size(size))
        rgb = arrays.from_levels(np.clip(levels, 0.0, 255.0))
        return Target(rgb, np.ones((*levels.shape[:2], 1), np.float32))

    def decode(self, rgb: np.ndarray, size: arrays.Size | None = None) -> RestorationPrediction:
        """Decodes to an image at `size`."""
        levels = arrays.to_levels(self.name, rgb)
        size = arrays.to_size(rgb.shape[:2] if size is None else size)

        # Colors outside of [-1, 1] are no image: the further out, the less to be trusted.
        overshoot = np.abs(rgb).max(-1) - 1.0
        confidence = (1.0 - np.clip(overshoot, 0.0, 1.0)).astype(np.float32)
        return RestorationPrediction(
            decoded_by=self,
            levels=np.clip(arrays.resize_image(levels, size), 0.0, 255.0),
            confidence=arrays.resize_bilinear(confidence, size),
        )

    def sample_std(
        self, predictions: Sequence[RestorationPrediction]
    ) -> Float32[np.ndarray, "h w"]:
        """Returns the mean over the channels, in levels of 0..255."""
        values = np.stack([self.label_of(prediction) for prediction in predictions])
        return 255.0 * values.astype(np.float32).std(0).mean(-1)

    # Figures --------------------------------------------------------------------------------------

    def metric(self):
        """Returns `generalist.metrics.ImageQuality` with this task's protocol."""
        from generalist import metrics

        return metrics.ImageQuality(protocol=self.protocol)

    def label_of(self, prediction: RestorationPrediction) -> Float64[np.ndarray, "h w 3"]:
        """Returns the image in [0, 1]: some protocols round it to 8 bits, others do not."""
        return prediction.levels.astype(np.float64) / 255.0

    def further_metrics(self) -> tuple[FurtherMetric, ...]:
        """Returns what the spread of samples is worth, and low light's two other protocols."""
        from generalist import metrics

        # A single restored image says little of its certainty: nearly all of it has confidence 1.
        error = metrics.ImageSparsificationError()
        sparsification = FurtherMetric("", error, takes="certainty", of_samples=True)
        if self.protocol != "lol-rgb-painter":
            return (sparsification,)
        return (
            sparsification,
            FurtherMetric("_gaussian", metrics.ImageQuality("rgb-matlab")),
            FurtherMetric("_gt_mean", metrics.ImageQuality("lol-rgb-gt-mean")),
        )

    def trivial_prediction(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        rgbs: Mapping[str, np.ndarray],
        size: arrays.Size | None = None,
    ) -> RestorationPrediction:
        """Returns the degraded image itself, at its own size."""
        return RestorationPrediction(
            decoded_by=self,
            levels=image.astype(np.float32),
            confidence=np.ones(image.shape[:2], np.float32),
        )

    # Pictures -------------------------------------------------------------------------------------

    def render(
        self, prediction_or_label: RestorationPrediction | UInt8[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the image itself."""
        if isinstance(prediction_or_label, RestorationPrediction):
            return prediction_or_label.image
        return prediction_or_label

    def error_map(
        self, prediction: RestorationPrediction, label: UInt8[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "h w 3"]:
        """Draws the absolute error, mean of the channels."""
        difference = prediction.image.astype(np.float32) - label
        return drawing.heat(np.abs(difference).mean(-1) / _WORST_ERROR)

    def error_legend(self) -> drawing.Legend:
        """Returns the color bar of `error_map`."""
        bar = drawing.heat_bar("error, mean of the channels", f"{_WORST_ERROR} of 255")
        return drawing.Legend(bars=(bar,))
