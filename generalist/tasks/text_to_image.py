"""Text to image: a picture of what a caption says, painted without seeing any image."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from generalist.tasks import arrays
from generalist.tasks.base import FurtherMetric
from generalist.tasks.restoration import Restoration, RestorationPrediction


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToImage(Restoration):
    """Labels are pictures, uint8 (h, w, 3), by the codec of restoration; prompts are captions.

    There is no right picture of a caption, so nothing is compared pixel by pixel: the metric
    compares all painted pictures with all labels, as two sets.
    """

    name: str = "text_to_image"
    prompt: str = "a picture"
    protocol: str = "frechet-thumbnails"
    own_prompts: bool = True
    tiles: bool = False

    sees_image: ClassVar[bool] = False
    # The mean of two pictures is none.
    averages_samples: ClassVar[bool] = False
    trivial_learns: ClassVar[bool] = True

    def metric(self):
        """Returns `generalist.metrics.FrechetDistance`."""
        from generalist import metrics

        return metrics.FrechetDistance(protocol=self.protocol)

    def further_metrics(self) -> tuple[FurtherMetric, ...]:
        """Returns none."""
        return ()

    def trivial_prediction(
        self,
        image: UInt8[np.ndarray, "h w 3"],
        rgbs: Mapping[str, np.ndarray],
        size: arrays.Size | None = None,
    ) -> RestorationPrediction:
        """Returns the mean picture."""
        return self.decode(rgbs[self.name], size)
