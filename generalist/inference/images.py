"""What users call an image -> uint8 (h, w, 3)."""

import os
import pathlib

import numpy as np
from PIL import Image, ImageOps

ALLOWED = (
    "an image file, a PIL image, "
    "or a uint8 array of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)"
)

# Pillow's modes of 8 bits a channel and below; it would clip deeper ones without a word.
MODES = tuple("1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB".split())


class ImageError(ValueError):
    """The input is no image that can be read."""


def read_image(image: str | os.PathLike | Image.Image | np.ndarray) -> np.ndarray:
    """Returns an image of any size as uint8 (h, w, 3), RGB.

    Gray becomes three equal channels, an alpha channel is dropped, and a photograph is turned
    upright as its EXIF says.

    Args:
      image: a path, a PIL image, or a uint8 array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4).

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
    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]

    is_image = array.ndim == 3 and array.shape[-1] in (1, 3, 4) and array.size > 0
    if array.dtype != np.uint8 or not is_image:
        hint = "; multiply floats in [0, 1] by 255 and round" if array.dtype.kind == "f" else ""
        raise ImageError(
            f"got an array of dtype {array.dtype} and shape {array.shape}, need {ALLOWED}{hint}"
        )

    rgb = np.repeat(array, 3, -1) if array.shape[-1] == 1 else array[..., :3]
    return np.ascontiguousarray(rgb)
