"""How far painted pictures are from true ones, as two sets."""

import dataclasses
import math

import cv2
import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from generalist.metrics.base import Metric, check_same_shape
from generalist.names import one_of

THUMBNAIL = 4  # side, pixels

FRECHET_PROTOCOLS = {
    "frechet-thumbnails": "squared Fréchet distance (Heusel et al., arXiv 1706.08500) between the "
    "Gaussians of the 4x4 thumbnails of predictions and labels, levels in [0, 1]"
}


@dataclasses.dataclass(eq=False)
class FrechetDistance(Metric):
    """Squared Fréchet distance between all predictions and all labels.

    |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)), of means m and covariances C of their thumbnails. FID
    has the features of a network in their place; thumbnails need no weights, and tell layout and
    colors, nothing finer. A predictor that always paints the mean picture has the whole variance of
    the labels for its distance. Key: `frechet`; of one image it is the distance of its thumbnails.

    Attributes:
      predicted: thumbnail of each prediction, 48 numbers.
      true: thumbnail of each label.
    """

    protocol: str = "frechet-thumbnails"
    predicted: list[list[float]] = dataclasses.field(default_factory=list, init=False, repr=False)
    true: list[list[float]] = dataclasses.field(default_factory=list, init=False, repr=False)

    def __post_init__(self):
        one_of(self.protocol, FRECHET_PROTOCOLS, "protocol of Fréchet distances")

    def update(self, prediction: ArrayLike, label: ArrayLike) -> dict[str, float]:
        """Adds one image and returns its own distance.

        Args:
          prediction: (h, w, 3) float in [0, 1].
          label: (h, w, 3) in 0..255.

        Raises:
          ValueError: the shapes differ or are not (h, w, 3).
        """
        prediction = np.asarray(prediction, np.float64)
        label = np.asarray(label, np.float64) / 255.0
        check_same_shape(prediction, label, "(h, w, 3)")

        self.predicted.append(_thumbnail(prediction))
        self.true.append(_thumbnail(label))
        return {"frechet": _distance(self.predicted[-1:], self.true[-1:])}

    def compute(self) -> dict[str, float]:
        """Returns the distance over everything seen so far; nan of nothing."""
        return {"frechet": _distance(self.predicted, self.true)}

    def _absorb(self, other: "FrechetDistance") -> None:
        self.predicted.extend(other.predicted)
        self.true.extend(other.true)


def _thumbnail(image: np.ndarray) -> list[float]:
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return small.ravel().tolist()


def _distance(predicted: list[list[float]], true: list[list[float]]) -> float:
    """The squared Fréchet distance of two sets; the same bits in whatever order they come."""
    if not true:
        return math.nan
    mean, covariance = _moments(np.array(sorted(predicted)))
    true_mean, true_covariance = _moments(np.array(sorted(true)))

    # tr (C C')^(1/2) is that of a symmetric matrix with the same eigenvalues.
    root = _square_root(covariance)
    eigenvalues = np.linalg.eigvalsh(root @ true_covariance @ root)
    cross = np.sqrt(np.maximum(eigenvalues, 0.0)).sum()
    spread = np.trace(covariance) + np.trace(true_covariance) - 2.0 * cross
    return max(float(np.square(mean - true_mean).sum() + spread), 0.0)


def _moments(
    features: Float64[np.ndarray, "n d"],
) -> tuple[Float64[np.ndarray, " d"], Float64[np.ndarray, "d d"]]:
    mean = features.mean(0)
    centered = features - mean
    return mean, centered.T @ centered / len(features)


def _square_root(matrix: Float64[np.ndarray, "d d"]) -> Float64[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
