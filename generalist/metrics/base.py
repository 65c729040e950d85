"""What every metric is: `update` per image, exact `merge`, `compute`, and the id of the protocol it follows."""

from __future__ import annotations

import abc
import copy
import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np


class Metric(abc.ABC):
    """A number over a data set, gathered image by image.

    `merge` is exact: however the images are split over hosts, the merged parts give the same bits as one metric that
    saw them all. Subclasses are dataclasses; their constructor arguments are the settings that two metrics must share
    to be merged. A metric that has seen nothing computes to nan.
    """

    protocol: str

    @abc.abstractmethod
    def update(self, prediction: Any, label: Any) -> dict[str, float]:
        """Adds one image and returns that image's own values, under the keys of `compute`."""

    @abc.abstractmethod
    def compute(self) -> dict[str, float]:
        """Returns the values over everything seen so far."""

    @abc.abstractmethod
    def _absorb(self, other: Self) -> None:
        """Adds what `other`, a metric of the same settings, has gathered."""

    def merge(self, other: Self) -> Self:
        """Returns a new metric that has seen the images of both; neither of the two changes.

        Raises:
          ValueError: `other` is another metric, or has other settings.
        """
        if type(other) is not type(self) or other._settings() != self._settings():
            raise ValueError(
                f"cannot merge {self!r} with {other!r}: merge metrics made with the same arguments."
            )
        merged = copy.deepcopy(self)
        merged._absorb(other)
        return merged

    def _settings(self) -> dict[str, Any]:
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.init
        }


@dataclasses.dataclass(eq=False)
class ImageMean(Metric):
    """A metric whose value over a data set is the mean of its values per image.

    Attributes:
      images: the values of each image that counted, in the order of the updates.
    """

    keys = ()
    images: list[dict[str, float]] = dataclasses.field(default_factory=list, init=False, repr=False)

    def compute(self) -> dict[str, float]:
        """Returns the mean over images for each key; nan without images, inf where an image has inf."""
        return {key: mean(image[key] for image in self.images) for key in self.keys}

    def _absorb(self, other: Self) -> None:
        self.images.extend(other.images)


def mean(values: Iterable[float]) -> float:
    """Mean that does not depend on the order of its values (correctly rounded sum); nan of nothing."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def lookup_protocol(name: str, protocols: Mapping[str, Any], metric: str) -> Any:
    """Returns `protocols[name]`, or raises a ValueError that lists the valid names and the closest one."""
    if name in protocols:
        return protocols[name]
    closest = difflib.get_close_matches(str(name), protocols, n=1, cutoff=0.0)[0]
    raise ValueError(
        f"unknown protocol {name!r} for {metric}; did you mean {closest!r}? Valid: {', '.join(sorted(protocols))}."
    )


def check_same_shape(prediction: np.ndarray, label: np.ndarray, dims: str) -> None:
    """Raises a ValueError unless both arrays have one shape with as many dimensions as `dims`, such as "(h, w)"."""
    if prediction.shape != label.shape or label.ndim != dims.count(",") + 1:
        raise ValueError(
            f"prediction has shape {prediction.shape} and label {label.shape}; both must be {dims}: "
            "decode the prediction at the label's size."
        )


def check_integers(array: np.ndarray, name: str) -> np.ndarray:
    """Returns `array` as an array, or raises a TypeError unless it holds integers."""
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"{name} has dtype {array.dtype}; it must hold integers: cast it, for example to int32."
        )
    return array
