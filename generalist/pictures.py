"""Arrays as image files."""

import io

import numpy as np
from PIL import Image


def encode_png(array: np.ndarray, *, optimize: bool = False) -> bytes:
    """Encodes an image as PNG.

    Args:
      array: uint8 (h, w), uint8 (h, w, 3) or uint16 (h, w).
      optimize: search for the smallest file, which takes longer.
    """
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", optimize=optimize)
    return buffer.getvalue()
