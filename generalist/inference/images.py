"""What users call an image -> uint8 (h, w, 3)."""

import os
import pathlib

import numpy as np
from PIL import Image

from generalist import pictures

ALLOWED = (
    "an image file, a PIL image, or an array of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of "
    "uint8, or of floats in [0, 1]"
)


class ImageError(ValueError):
    """The input is no image that can be read."""


def read_image(image: str | os.PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """Returns an image of any size as uint8 (h, w, 3), RGB.

    Gray becomes three equal channels, what is transparent lies on white, and a photograph is turned
    upright as its EXIF says.

    Args:
      image: a path, a PIL image, or an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of uint8, or
        of floats in [0, 1], which are rounded to 8 bits.

    Raises:
      ImageError: a missing or damaged file, or an array of another dtype or shape; the message
        names it and what is allowed.
    """
    if isinstance(image, str | os.PathLike):
        return _read_file(pathlib.Path(image))
    if isinstance(image, Image.Image):
        try:
            return pictures.upright(image)
        except pictures.PictureError as error:
            raise ImageError(f"the image: {error}") from error
    return _from_array(np.asarray(image))


def _read_file(path: pathlib.Path) -> np.ndarray:
    if not path.is_file():
        reason = "a folder, not an image file" if path.is_dir() else "no such file"
        raise ImageError(f"{path}: {reason}")
    if path.stat().st_size > pictures.MOST_BYTES:
        raise ImageError(f"{path}: longer than {pictures.MOST_BYTES >> 20} MiB")

    try:
        return pictures.read_photo(path.read_bytes())
    except pictures.PictureError as error:
        raise ImageError(
            f"{path}: no readable image ({error}); give a whole one: {pictures.FORMATS}"
        ) from error


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]

    is_image = array.ndim == 3 and array.shape[-1] in (1, 3, 4) and array.size > 0
    if is_image and array.dtype.kind == "f":
        array = _from_floats(array)
    if array.dtype != np.uint8 or not is_image:
        raise ImageError(
            f"got an array of dtype {array.dtype} and shape {array.shape}, need {ALLOWED}"
        )

    if array.shape[-1] == 4:
        return pictures.on_white(array)
    rgb = np.repeat(array, 3, -1) if array.shape[-1] == 1 else array
    return np.ascontiguousarray(rgb)


def _from_floats(array: np.ndarray) -> np.ndarray:
    """Floats in [0, 1] -> uint8. Of 0 and 1 alone nobody can say whether they are levels."""
    low = float(array.min())
    high = float(array.max())
    if not 0.0 <= low <= high <= 1.0:
        raise ImageError(f"got floats from {low:g} to {high:g}, need {ALLOWED}")
    if not np.any(array % 1.0):
        raise ImageError(
            "got floats that are all 0 or 1, which may be of [0, 1] or levels of 0..255: convert "
            f"them to uint8; need {ALLOWED}"
        )
    return np.rint(array * 255.0).astype(np.uint8)
