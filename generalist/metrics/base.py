"""What every metric is: `update` per image, exact `merge`, `compute`, and the id of its protocol.

An `update` takes whatever NumPy makes an array of, and says itself what is wrong with it; behind
its checks, shapes are types.
"""

import abc
import copy
import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike


class Metric(abc.ABC):
    """A number over a data set, gathered image by image.

    `merge` is exact: however the images are split over hosts, the merged metrics compute to the
    same bits as one metric that saw all images. A metric that has seen nothing computes to nan.

    Subclasses are dataclasses. Their constructor arguments are the settings that two metrics must
    share to be merged; their other fields are what they gather, which `state` and `restore` carry
    to another process.
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

    def absorb(self, other: Self) -> None:
        """Adds the images that another metric has seen, and leaves that one as it is.

        Raises:
          ValueError: `other` is another metric, or has other settings.
        """
        if type(other) is not type(self) or other._settings() != self._settings():
            raise ValueError(
                f"cannot merge {self!r} with {other!r}: merge metrics made with the same arguments."
            )
        self._absorb(other)

    def merge(self, other: Self) -> Self:
        """Returns a new metric that has seen the images of both; neither of the two changes.

        Raises:
          ValueError: `other` is another metric, or has other settings.
        """
        merged = copy.deepcopy(self)
        merged.absorb(other)
        return merged

    def state(self) -> dict[str, Any]:
        """Returns what the metric has gathered: NumPy arrays, and values that JSON has."""
        return self._fields(init=False)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from the `state` of a metric of the same settings.

        Raises:
          ValueError: it is of another form.
        """
        own = self.state()
        if state.keys() != own.keys() or any(_form(state[key]) != _form(own[key]) for key in own):
            raise ValueError(f"{self!r} takes {sorted(own)}, not such a state: {sorted(state)}")
        for name, value in state.items():
            setattr(self, name, value)

    def _settings(self) -> dict[str, Any]:
        return self._fields(init=True)

    def _fields(self, init: bool) -> dict[str, Any]:
        """Returns the fields that the constructor takes, or the others."""
        # Every subclass is a dataclass, which a type checker cannot know of this class.
        fields = dataclasses.fields(self)  # pyright: ignore[reportArgumentType]
        return {field.name: getattr(self, field.name) for field in fields if field.init is init}


def _form(value: Any) -> Any:
    """Returns what two values of one field of a metric have in common."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype
    return type(value)


@dataclasses.dataclass(eq=False)
class ImageMean(Metric):
    """A metric whose value over a data set is the mean of its values per image.

    Attributes:
      keys: the names of its values.
      images: the values of each image that counted, in the order of the updates.
    """

    keys: ClassVar[tuple[str, ...]] = ()
    images: list[dict[str, float]] = dataclasses.field(default_factory=list, init=False, repr=False)

    def compute(self) -> dict[str, float]:
        """Returns the mean over images for each key; nan without images, inf if one has inf."""
        return {key: mean(image[key] for image in self.images) for key in self.keys}

    def _absorb(self, other: Self) -> None:
        self.images.extend(other.images)


def mean(values: Iterable[float]) -> float:
    """Returns the mean, with the same bits in whatever order the values come; nan of nothing."""
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


def check_same_shape(prediction: np.ndarray, label: np.ndarray, dims: str) -> None:
    """Checks that two arrays have one shape, of as many dimensions as `dims`, such as "(h, w)".

    Raises:
      ValueError: they have not.
    """
    if prediction.shape != label.shape or label.ndim != dims.count(",") + 1:
        raise ValueError(
            f"prediction has shape {prediction.shape} and label {label.shape}; "
            f"both must be {dims}: decode the prediction at the label's size."
        )


def check_integers(array: ArrayLike, name: str) -> np.ndarray:
    """Returns `array` as a NumPy array of integers.

    Raises:
      TypeError: it holds something else.
    """
    array = np.asarray(array)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"{name} has dtype {array.dtype}; it must hold integers: cast it, for example to int32."
        )
    return array
