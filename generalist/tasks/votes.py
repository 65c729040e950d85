"""Several answers for one image become one, with the share of them that says the same."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32


class Classes(NamedTuple):
    """What most answers say of each pixel.

    Attributes:
      classes: the most frequent class; of equally frequent ones the lower.
      share: of the answers that say it.
    """

    classes: Int32[np.ndarray, "h w"]
    share: Float32[np.ndarray, "h w"]


class Central(NamedTuple):
    """The answer that is nearest to all of them.

    Attributes:
      index: which one; of equally near ones the first.
      share: of the answers that say the same of a pixel, itself included.
    """

    index: int
    share: Float32[np.ndarray, "h w"]


def most_frequent(answers: Sequence[Int32[np.ndarray, "h w"]]) -> Classes:
    """Returns the vote on every pixel."""
    stacked = np.stack(answers)
    winner = stacked[0]
    most = np.zeros(winner.shape, np.int64)
    # One class at a time, in ascending order, so that the lower one wins a tie.
    for value in np.unique(stacked):
        count = (stacked == value).sum(0)
        winner = np.where(count > most, value, winner)
        most = np.maximum(most, count)
    return Classes(winner.astype(np.int32), (most / len(stacked)).astype(np.float32))


def most_central(answers: Sequence, differ: Callable[..., Bool[np.ndarray, "h w"]]) -> Central:
    """Returns the answer that differs from the others in the fewest pixels.

    Args:
      answers: of segments, whose ids need not be the same: no mean of them is an answer.
      differ: (answer, other answer) -> where they differ; symmetric.
    """
    count = len(answers)
    where = {}
    for i in range(count):
        for j in range(i + 1):
            where[i, j] = where[j, i] = differ(answers[i], answers[j])

    pixels = [sum(where[i, j].sum() for j in range(count)) for i in range(count)]
    index = int(np.argmin(pixels))
    agrees = np.stack([~where[index, j] for j in range(count)])
    return Central(index, agrees.mean(0, dtype=np.float32))
