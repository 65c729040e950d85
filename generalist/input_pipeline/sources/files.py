"""Image and label files: how they are read, and the errors that name what is wrong with them."""

from typing import NamedTuple

import cv2
import numpy as np
from etils import epath

from generalist.input_pipeline.source import Crop, ReadWindow
from generalist.pictures import encode_png

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

PNG_START = b"\x89PNG"
JPEG_START = b"\xff\xd8"
JPEG_SCAN = b"\xff\xda"
JPEG_END = b"\xff\xd9"

# A JPEG's size is in the header of its frame, whose marker is one of C0..CF but for these.
NO_FRAME = (0xC4, 0xC8, 0xCC)

AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

# Fraction of a JPEG's size -> OpenCV's flag. The flags are bare bits: with AS_STORED the colors
# stay, whatever the names say.
SHRINK = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

# The problems of a LayoutError where something whole is absent.
NO_FILE = "no such file"
NO_FOLDER = "no such folder"


class DataError(ValueError):
    """A file is missing, damaged or out of its range: which one, what is wrong, what is allowed."""

    hint = (
        "Set --config.data.on_error=skip to go on without such files: "
        "they are counted and reported."
    )

    def __init__(self, path, problem: str, allowed: str):
        # All three are in `args`, so that the error survives pickling.
        super().__init__(str(path), problem, allowed)

    def __str__(self) -> str:
        path, problem, allowed = self.args
        return f"{path}: {problem}. {allowed} {self.hint}".rstrip()


class LayoutError(DataError):
    """A whole folder or annotation file is wrong, so that skipping single files does not help."""

    hint = ""


class Stored(NamedTuple):
    """The content of an image file that lies inside another file; `name` names it in errors."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


File = str | Stored  # a path, or the content of an image file


class ImageWindow(NamedTuple):
    """Pixels of an image that were read, and where they lie in the stored image.

    Attributes:
      pixels: uint8 (h', w', 3), at a fraction of the stored resolution if that is enough.
      crop: the rows and columns of the stored image that the pixels show.
      size: (h, w) of the stored image.
    """

    pixels: np.ndarray
    crop: Crop
    size: tuple[int, int]


def read_bytes(path: str) -> bytes:
    """Returns the content of a file; DataError if it cannot be read or is empty."""
    try:
        if "://" in path:
            data = epath.Path(path).read_bytes()
        else:
            # epath would look at the path first, which takes longer than to read a label.
            with open(path, "rb") as file:
                data = file.read()
    except OSError as error:
        reason = NO_FILE if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(path, reason, "Every example needs its image and its label.") from error

    if not data:
        raise DataError(path, "the file is empty (0 bytes)", "It must be a PNG or JPEG image.")
    return data


def decode(path: File, flags: int) -> np.ndarray:
    """Decodes one image file by OpenCV; channels in OpenCV's order (BGR)."""
    data = path.data if isinstance(path, Stored) else read_bytes(path)

    # Some decoders silently fill the lost part of a cut JPEG with gray: look for its end marker.
    cut_short = (
        data.startswith(JPEG_START)
        and not data.endswith(JPEG_END)
        and data.find(JPEG_END, data.rfind(JPEG_SCAN)) < 0
    )
    try:
        pixels = None if cut_short else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a header that asks for more pixels than OpenCV allows
        pixels = None

    if pixels is None:
        problem = f"cannot be decoded ({len(data)} bytes, cut short or damaged)"
        raise DataError(path, problem, "It must be a PNG or JPEG image.")
    return pixels


def read_image(path: File, shrink: int = 1) -> np.ndarray:
    """Reads an image as uint8 (h, w, 3) RGB in 0..255.

    An EXIF orientation is ignored: the labels of these data sets lie on the stored pixel grid.

    Args:
      path: path or content of the file.
      shrink: 1, 2, 4 or 8. A JPEG has that fraction of its rows and columns, rounded up: pixel
        (i, j) is the mean of a square of so many pixels a side.

    Raises:
      DataError: it cannot be decoded, or has 16 bits a channel, of which half would be lost.
    """
    pixels = decode(path, AS_STORED | SHRINK[shrink])
    if pixels.dtype != np.uint8:
        problem = f"{pixels.dtype.itemsize * 8}-bit image"
        raise DataError(path, problem, "An image must have 8 bits a channel.")
    return pixels


def read_window(image: File | np.ndarray, window: ReadWindow | None) -> ImageWindow:
    """Reads a window of an image, or all of it for None.

    A JPEG whose crop has at least 2, 4 or 8 times the pixels that are enough, along both axes, is
    decoded at that fraction of its size. Its crop is then reduced to whole squares of so many
    pixels, so that it shows exactly what the same crop of the label shows.
    """
    if isinstance(image, str):
        image = Stored(image, read_bytes(image))

    # Only a JPEG can be decoded at a fraction of its size; anything else is decoded, then cut.
    size = jpeg_size(image.data) if window and isinstance(image, Stored) else None
    if window is None or size is None:
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        size = pixels.shape[:2]
        crop = window.crop(size) if window else (slice(None), slice(None))
        return ImageWindow(pixels[crop], crop, size)

    # The largest fraction that leaves enough pixels along the shorter side.
    rows, columns = window.crop(size)
    side = min(rows.stop - rows.start, columns.stop - columns.start)
    shrink = max(n for n in SHRINK if n == 1 or side // n >= window.enough)

    pixels = read_image(image, shrink)
    shrunk_rows = _shrunk(rows, shrink)
    shrunk_columns = _shrunk(columns, shrink)
    crop = (_enlarged(shrunk_rows, shrink), _enlarged(shrunk_columns, shrink))
    return ImageWindow(pixels[shrunk_rows, shrunk_columns], crop, size)


def _shrunk(axis: slice, shrink: int) -> slice:
    start = axis.start // shrink
    return slice(start, start + (axis.stop - axis.start) // shrink)


def _enlarged(axis: slice, shrink: int) -> slice:
    return slice(axis.start * shrink, axis.stop * shrink)


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns (h, w) from the header of a JPEG file, undecoded; None for any other file."""
    at = 2
    while data.startswith(JPEG_START) and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            height = int.from_bytes(data[at + 5 : at + 7])
            width = int.from_bytes(data[at + 7 : at + 9])
            return height, width

        # Any number of bytes FF may stand before a marker.
        length = int.from_bytes(data[at + 2 : at + 4])
        at += 1 if marker == 0xFF else 2 + length
    return None


def read_map(path: File, dtype: type, what: str) -> np.ndarray:
    """Reads a label image (h, w) of exactly this dtype, as stored; DataError for any other."""
    pixels = decode(path, cv2.IMREAD_UNCHANGED)
    if pixels.dtype == dtype and pixels.ndim == 2:
        return pixels

    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    bits = "an 8" if dtype == np.uint8 else "a 16"
    raise DataError(
        path,
        f"{pixels.dtype.itemsize * 8}-bit image with {channels} channel(s)",
        f"{what} must be {bits}-bit PNG with 1 channel.",
    )


def require_same_size(
    size: tuple[int, int],
    image: File | np.ndarray,
    label_size: tuple[int, int],
    label: File | np.ndarray,
) -> None:
    """Raises DataError unless image and label lie on one pixel grid; sizes are (h, w)."""
    if size == label_size:
        return
    h, w = size
    label_h, label_w = label_size
    raise DataError(
        label,
        f"is {label_w}x{label_h} (width x height), but its image {image} is {w}x{h}",
        "Image and label must have the same size.",
    )


def png_or_jpeg(image: str | np.ndarray) -> bytes:
    """Returns an image as the content of a PNG or JPEG file, without loss.

    Args:
      image: path, whose content is returned as it is if it is one of the two; or pixels, uint8
        (h, w, 3) RGB, uint8 (h, w) or uint16 (h, w).
    """
    if isinstance(image, np.ndarray):
        return encode_png(image)
    data = read_bytes(image)
    if data.startswith((PNG_START, JPEG_START)):
        return data
    return encode_png(read_image(Stored(image, data)))
