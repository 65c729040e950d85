"""A model on patches of another size, for pictures of more or fewer pixels.

Pictures of twice the side in patches of twice the side have the same grid: all between the first
layer and the last can stay. The first then sees each block of 2x2 pixels as their mean, and the
last paints it in one color. (Patches by a linear resize: arXiv 2212.08013, section 3.4.)
"""

import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

logger = logging.getLogger("generalist")


class Pixels(NamedTuple):
    """Where a parameter has the pixels of a patch.

    Attributes:
      axis: that has them, (row, column, channel); an encoder's kernel has an axis for each, which
        count as one.
      read: whether it reads a patch, rather than paints it.
    """

    axis: int
    read: bool


PARAMETERS = {
    "unet.conv_in.kernel": Pixels(axis=2, read=True),
    "unet.conv_out.kernel": Pixels(axis=3, read=False),
    "unet.conv_out.bias": Pixels(axis=0, read=False),
    "image_encoder.patch_embedding.kernel": Pixels(axis=0, read=True),
}


def resize_patches(
    values: Mapping[str, np.ndarray],
    theirs: Mapping,
    initial: Mapping[str, np.ndarray],
    ours: Mapping,
) -> dict[str, np.ndarray]:
    """Returns a model's parameters for patches of another size.

    What has another shape besides, such as `refine`, which works on pixels, keeps its initial
    values if `adapt.new` allows it; all else is left as it is, for `check_fit` to name.

    Args:
      values: {path: array} of a model.
      theirs: its `model` group.
      initial: {path: array} of the new model, from scratch.
      ours: its `model` group.
    """
    resized = dict(values)
    for path in sorted(values.keys() & initial.keys()):
        part = path.partition(".")[0]
        shape = initial[path].shape
        if values[path].shape == shape:
            continue

        # From the side of the old patches to that of the new ones.
        if path in PARAMETERS and _fit(theirs[part]["patch"], ours[part]["patch"]):
            old = theirs[part]["patch"]
            new = ours[part]["patch"]
            resized[path] = _resize(values[path], PARAMETERS[path], old, new).reshape(shape)
            logger.info(f"weights: {path} of {old}x{old} pixels, now {new}x{new}")
        elif any(re.search(pattern, path) for pattern in ours["adapt"]["new"]):
            resized[path] = initial[path]
            logger.info(f"weights: {path} new, as its shape differs")
    return resized


def _fit(old: int, new: int) -> bool:
    """Says whether one side is a multiple of the other."""
    return max(old, new) % min(old, new) == 0


def _resize(value: np.ndarray, pixels: Pixels, old: int, new: int) -> np.ndarray:
    """Returns a parameter of old x old pixels for new x new; its pixels are on one axis."""
    if value.shape[0] == old:
        value = value.reshape(-1, value.shape[-1])
    first = np.moveaxis(value, pixels.axis, 0)
    patch = first.reshape(old, old, -1)

    # A mean of what is read; one color for what is painted. And the other way round.
    factor = max(old, new) // min(old, new)
    if new > old:
        patch = patch.repeat(factor, 0).repeat(factor, 1)
        divided = pixels.read
    else:
        patch = patch.reshape(new, factor, new, factor, -1).sum((1, 3))
        divided = not pixels.read
    if divided:
        patch = patch / np.float32(factor**2)
    return np.moveaxis(patch.reshape(-1, *first.shape[1:]), 0, pixels.axis)
