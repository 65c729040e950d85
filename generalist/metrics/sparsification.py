"""Whether errors lie where a prediction is least certain."""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from generalist.metrics.base import ImageMean, check_same_shape
from generalist.metrics.depth import valid_pixels

SPARSIFICATION_PROTOCOLS = {
    "ause-rmse": (
        "area between the RMSE left by dropping the least certain and the worst pixels, "
        "over that of all (Ilg et al.)"
    ),
    "ause-wrong": (
        "area between the share of wrong pixels left by dropping the least certain and the wrong "
        "pixels, over that of all (after Ilg et al.)"
    ),
}

STEPS = 20  # of the curve: 0, 5, .. 95 % of the pixels are dropped
_EXACT = 1e-5  # a smaller RMSE (meters; of a range of 1) is rounding, whose place says nothing


@dataclasses.dataclass(eq=False)
class Sparsification(ImageMean):
    """Area under the sparsification error of Ilg et al. (ECCV 2018), relative to the error.

    "Uncertainty estimates and multi-hypotheses networks for optical flow", arXiv 1802.07095.

    Pixels are dropped by ascending certainty, and by descending error; `ause` is the mean
    difference of the two curves of what is left, over the error of all pixels. 0: errors lie
    exactly where certainty is low. Without any order it is 1 minus what the best order leaves, so
    nearly 1 where few pixels have all the error. Pixels of one certainty are dropped in no order,
    each counting their mean. Mean over images; one without an error or a valid pixel has nan and
    stays out.

    A subclass says what an error is.
    """

    keys = ("ause",)
    root: ClassVar[bool] = True  # whether costs are squares, and a curve is of their root mean

    def update(self, prediction: tuple[Any, ArrayLike], label: Any) -> dict[str, float]:
        """Adds one image and returns its own value.

        Args:
          prediction: (values as the subclass says, certainty float (h, w): any scale, larger is
            surer).
          label: as the subclass says.

        Raises:
          ValueError: the shapes differ, or a certainty is nan.
        """
        values, certainty, label = map(np.asarray, (*prediction, label))
        check_same_shape(values, label, "(h, w, 3)" if label.ndim == 3 else "(h, w)")
        check_same_shape(certainty, label[..., 0] if label.ndim == 3 else label, "(h, w)")
        if np.isnan(certainty).any():
            raise ValueError("a certainty is nan: give every pixel a number")

        costs, counted = self._costs(values, label)
        costs = costs[counted].astype(np.float64)
        if not costs.size or self._left(costs)[0] < _EXACT:
            return {"ause": math.nan}

        # Pixels of one certainty form a group, whose mean cost each of them counts; group 0 is
        # the surest.
        _, group = np.unique(-certainty[counted], return_inverse=True)
        expected = (np.bincount(group, costs) / np.bincount(group))[group]

        by_certainty = self._left(expected[np.argsort(group)])
        by_error = self._left(np.sort(costs))
        image = {"ause": float(np.mean(by_certainty - by_error) / by_error[0])}
        self.images.append(image)
        return image

    @abc.abstractmethod
    def _costs(self, values: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns what each pixel costs, (h, w), and which pixels count, bool (h, w)."""

    def _left(self, costs: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " steps"]:
        """Returns the error of all of n pixels, of the first 95 %, ... 5 %, rounded up."""
        kept = [-(-len(costs) * left // STEPS) for left in range(STEPS, 0, -1)]
        means = np.array([np.mean(costs[:count]) for count in kept])
        return np.sqrt(means) if self.root else means


@dataclasses.dataclass(eq=False)
class SparsificationError(Sparsification):
    """Of depth: values and labels are float (h, w) in meters.

    Args:
      depth_protocol: which pixels count, as in `DepthMetric`.
    """

    depth_protocol: str = "native"
    protocol = "ause-rmse"

    def _costs(self, values: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        square = (values.astype(np.float64) - label) ** 2
        return square, valid_pixels(label, self.depth_protocol)


@dataclasses.dataclass(eq=False)
class ImageSparsificationError(Sparsification):
    """Of restored images: values are float (h, w, 3) in [0, 1], labels uint8 or such floats."""

    protocol = "ause-rmse"

    def _costs(self, values: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        clean = label / 255.0 if label.dtype == np.uint8 else label
        square = ((values.astype(np.float64) - clean) ** 2).mean(-1)
        return square, np.ones(square.shape, bool)


@dataclasses.dataclass(eq=False)
class ClassSparsificationError(Sparsification):
    """Of classes: values and labels are int (h, w); an error is a wrong pixel.

    Args:
      ignore: the label of pixels that do not count.
    """

    ignore: int = -1
    protocol = "ause-wrong"
    root = False

    def _costs(self, values: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return values != label, label != self.ignore
