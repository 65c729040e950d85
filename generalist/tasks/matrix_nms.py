"""Matrix NMS (Wang et al., SOLOv2, 2020): overlapping masks lower each other's scores, all at once."""

import numpy as np

# Pixels multiplied at a time; few enough that only the masks around one object take part.
_CHUNK = 256


def intersections(mask: np.ndarray, pixel: np.ndarray, num_masks: int) -> np.ndarray:
    """Pixels shared by each two of n masks, float32 (n, n), exact below 2**24; the diagonal holds the areas.

    Args:
      mask: int (m,), `pixel`: int (m,) ascending: mask[i] contains pixel[i].
      num_masks: n.
    """
    shared = np.zeros((num_masks, num_masks), np.float32)
    mask, column = _group_pixels(mask, pixel)
    num_columns = column[-1] + 1 if len(column) else 0
    position = np.empty(num_masks, np.int64)
    for start in range(0, num_columns, _CHUNK):
        part = slice(*np.searchsorted(column, (start, start + _CHUNK)))
        involved = np.flatnonzero(np.bincount(mask[part], minlength=num_masks))
        position[involved] = np.arange(len(involved))
        dense = np.zeros((len(involved), _CHUNK), np.float32)
        dense[position[mask[part]], column[part] - start] = 1
        shared[np.ix_(involved, involved)] += dense @ dense.T
    return shared


def _group_pixels(mask: np.ndarray, pixel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same pairs with pixels numbered 0, 1, ... in the order of the first mask that contains them.

    Neighbours in this order lie in nearly the same masks, which keeps the blocks of `intersections` small.
    """
    starts = np.flatnonzero(np.diff(pixel, prepend=-1))
    if not len(starts):
        return mask, pixel
    order = np.argsort(np.minimum.reduceat(mask, starts), kind="stable")
    lengths = np.diff(starts, append=len(pixel))[order]
    column = np.repeat(np.arange(len(order)), lengths)
    source = np.arange(len(pixel)) + (starts[order] - (np.cumsum(lengths) - lengths))[column]
    return mask[source], column


def matrix_nms(scores: np.ndarray, shared: np.ndarray, sigma: float = 2.0) -> np.ndarray:
    """Scores after the Gaussian decay of Matrix NMS, float64 (n,).

    With masks in descending order of score, decay_j = min over i < j of exp(-sigma iou_ij^2) / exp(-sigma comp_i^2),
    where comp_i is the largest IoU of mask i with a mask before it.

    Args:
      scores: (n,), descending.
      shared: float32 (n, n), see `intersections`.
      sigma: strength of the decay.
    """
    area = np.diagonal(shared)
    iou = np.triu(shared / (area[:, None] + area - shared), k=1)
    compensation = iou.max(axis=0, initial=0.0)
    # The minimum of a quotient of exponentials is the exponential of the largest difference. Pairs i >= j have IoU 0
    # here and so never win over i = 0, whose compensation is 0.
    decay = np.max(np.square(iou) - np.square(compensation)[:, None], axis=0, initial=-1.0)
    return scores * np.exp(-sigma * decay.astype(np.float64))
