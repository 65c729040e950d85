"""What users call an image -> uint8 (h, w, 3)."""

import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

ALLOWED = (
    "an image file, a PIL image, or an array of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4) of "
    "uint8, or of floats in [0, 1]"
)

# Pillow's modes of 8 bits a channel and below; it would clip deeper ones without a word.
MODES = tuple("1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB".split())


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
        return _from_pil(image, "the image")
    return _from_array(np.asarray(image))


def _read_file(path: pathlib.Path) -> np.ndarray:
    if not path.is_file():
        reason = "a folder, not an image file" if path.is_dir() else "no such file"
        raise ImageError(f"{path}: {reason}")

    try:
        with Image.open(path) as image:
            return _from_pil(image, str(path))
    except ImageError:
        raise
    # On damaged files decoders raise anything from OSError to SyntaxError and struct.error.
    except Exception as error:
        raise ImageError(
            f"{path}: no readable image ({error}); "
            "give a complete file in a format such as PNG or JPEG"
        ) from error


def _from_pil(image: Image.Image, name: str) -> np.ndarray:
    if image.mode not in MODES:
        raise ImageError(
            f"{name}: pixels of mode {image.mode!r}; convert it to 8 bits a channel first"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        return _on_white(np.asarray(upright.convert("RGBA")))
    return np.asarray(upright.convert("RGB"))


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
        return _on_white(array)
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


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 4) -> uint8 (h, w, 3), composited."""
    alpha = rgba[..., 3:] / 255.0
    return np.rint(rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)
