"""Matrix NMS (Wang et al., SOLOv2, 2020): overlapping masks lower each other's scores at once."""

import numpy as np
from jaxtyping import Float32, Float64, Int

# Pixels multiplied at a time; few enough that only the masks around one object take part.
_CHUNK = 256


def intersections(
    mask: Int[np.ndarray, " pairs"], pixel: Int[np.ndarray, " pairs"], num_masks: int
) -> Float32[np.ndarray, "n n"]:
    """Counts the pixels shared by each two of n masks, exact below 2**24.

    The diagonal holds the areas.

    Args:
      mask: mask[i] contains pixel[i].
      pixel: ascending.
      num_masks: n.
    """
    shared = np.zeros((num_masks, num_masks), np.float32)
    mask, column = _group_pixels(mask, pixel)
    num_columns = column[-1] + 1 if len(column) else 0

    # The product of the matrix (masks, pixels) with itself, by blocks of pixels; a block has only
    # the rows of the masks that contain any of its pixels.
    row_of = np.empty(num_masks, np.int64)
    for start in range(0, num_columns, _CHUNK):
        first, last = np.searchsorted(column, (start, start + _CHUNK))
        block_mask = mask[first:last]
        block_column = column[first:last] - start

        involved = np.flatnonzero(np.bincount(block_mask, minlength=num_masks))
        row_of[involved] = np.arange(len(involved))
        dense = np.zeros((len(involved), _CHUNK), np.float32)
        dense[row_of[block_mask], block_column] = 1
        shared[np.ix_(involved, involved)] += dense @ dense.T

    return shared


def _group_pixels(
    mask: Int[np.ndarray, " pairs"], pixel: Int[np.ndarray, " pairs"]
) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
    """Returns the same pairs with pixels numbered 0, 1, ... by the first mask that contains them.

    Neighbors in this order lie in nearly the same masks, which keeps the blocks of `intersections`
    small.
    """
    # The pairs of a pixel are a run, since pixels ascend.
    starts = np.flatnonzero(np.diff(pixel, prepend=-1))
    if not len(starts):
        return mask, pixel

    order = np.argsort(np.minimum.reduceat(mask, starts), kind="stable")
    lengths = np.diff(starts, append=len(pixel))[order]
    column = np.repeat(np.arange(len(order)), lengths)

    # Each run moves to its new place as a whole.
    new_starts = np.cumsum(lengths) - lengths
    source = np.arange(len(pixel)) + (starts[order] - new_starts)[column]
    return mask[source], column


def matrix_nms(
    scores: Float64[np.ndarray, " n"], shared: Float32[np.ndarray, "n n"], sigma: float = 2.0
) -> Float64[np.ndarray, " n"]:
    """Returns the scores after the Gaussian decay of Matrix NMS.

    With masks in descending order of score,
    decay_j = min over i < j of exp(-sigma iou_ij^2) / exp(-sigma comp_i^2), where comp_i is the
    largest IoU of mask i with a mask before it.

    Args:
      scores: descending.
      shared: see `intersections`.
      sigma: strength of the decay.
    """
    area = np.diagonal(shared)
    iou = np.triu(shared / (area[:, None] + area - shared), k=1)
    compensation = iou.max(axis=0, initial=0.0)

    # The minimum of a quotient of exponentials is the exponential of the largest difference. Pairs
    # i >= j have IoU 0 here and so never win over i = 0, whose compensation is 0.
    decay = np.max(np.square(iou) - np.square(compensation)[:, None], axis=0, initial=-1.0)
    return scores * np.exp(-sigma * decay.astype(np.float64))
