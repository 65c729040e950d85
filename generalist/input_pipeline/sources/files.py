"""Image and label files: how they are read, and the errors that name what is wrong with them."""

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath

from generalist import pictures
from generalist.input_pipeline.source import Crop, ReadWindow
from generalist.names import first_line
from generalist.pictures import JPEG_START, PNG_START, PictureError, encode_png, jpeg_size

AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

# Fraction of a JPEG's size -> OpenCV's flag. The flags are bare bits: with AS_STORED the colors
# stay, whatever the names say.
SHRINK = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

WHOLE_IMAGE = f"It must be a whole image: {pictures.FORMATS}."

MOST_CAPTION = 4096  # bytes

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


@contextlib.contextmanager
def naming(file: str) -> Iterator[None]:
    """Raises whatever reading a damaged file raises as a DataError that names it.

    A library that is not installed is not the file's fault.
    """
    try:
        yield
    except (DataError, ImportError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise DataError(file, f"cannot be read ({reason})", "It must be a whole file.") from error


def read_bytes(path: str, allowed: str = WHOLE_IMAGE) -> bytes:
    """Returns the content of a file.

    Raises:
      DataError: it cannot be read, is too long or empty; `allowed` is what it must be.
    """
    too_long = False
    try:
        if "://" in path:
            data = epath.Path(path).read_bytes()
        else:
            # epath would look at the path first, which takes longer than to read a label.
            with open(path, "rb") as file:
                too_long = os.fstat(file.fileno()).st_size > pictures.MOST_BYTES
                data = b"" if too_long else file.read()
    except OSError as error:
        reason = NO_FILE if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(path, reason, "Every example needs its image and its label.") from error

    if too_long:
        raise DataError(path, f"longer than {pictures.MOST_BYTES >> 20} MiB", allowed)
    if not data:
        raise DataError(path, "the file is empty (0 bytes)", allowed)
    return data


def read_caption(path: str) -> str:
    """Reads a prompt from a text file, on one line.

    Raises:
      DataError: it cannot be read, is longer than MOST_CAPTION bytes, no UTF-8, or empty.
    """
    allowed = f"A caption is text in UTF-8, of at most {MOST_CAPTION} bytes and not empty."
    data = read_bytes(path, allowed)
    if len(data) > MOST_CAPTION:
        raise DataError(path, f"has {len(data)} bytes", allowed)
    try:
        words = data.decode("utf-8-sig").split()
    except UnicodeDecodeError as error:
        raise DataError(path, f"is no UTF-8 ({error})", allowed) from error
    if not words:
        raise DataError(path, "holds no word", allowed)
    return " ".join(words)


def content(file: File) -> bytes:
    """Returns the content of a file; DataError if it cannot be read or is empty."""
    return file.data if isinstance(file, Stored) else read_bytes(file)


def decode(path: File, flags: int) -> np.ndarray:
    """Decodes one image file by OpenCV; channels in OpenCV's order (BGR).

    Raises:
      DataError: it cannot be decoded, data of it are lost, or it has too many pixels.
    """
    data = content(path)
    problem = pictures.damage(data)
    pixels = None
    if not problem:
        try:
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except (cv2.error, MemoryError):  # a header that asks for more pixels than there is room
            pixels = None

    # Some decoders silently fill the lost part of a JPEG with gray.
    if pixels is not None and pictures.ends_gray(pixels) and pictures.has_lost_its_end(data):
        problem = "the last part of its data is lost"
    if pixels is None or problem:
        problem = f"cannot be decoded ({len(data)} bytes, {problem or pictures.DAMAGED})"
        raise DataError(path, problem, WHOLE_IMAGE)
    return pixels


def read_image(path: File, shrink: int = 1) -> np.ndarray:
    """Reads an image as uint8 (h, w, 3) RGB in 0..255, on the pixel grid that is stored.

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


def read_photo(path: File) -> np.ndarray:
    """Reads an image as people see it, and as prediction reads it: uint8 (h, w, 3) RGB.

    Raises:
      DataError: it cannot be decoded, or has more than 8 bits a channel.
    """
    data = content(path)
    if not pictures.needs_turning_or_blending(data):
        return read_image(path)
    try:
        return pictures.read_photo(data)
    except PictureError as error:
        raise DataError(path, f"cannot be decoded ({error})", WHOLE_IMAGE) from error


def read_window(
    image: File | np.ndarray, window: ReadWindow | None, upright: bool = False
) -> ImageWindow:
    """Reads a window of an image, or all of it for None.

    A JPEG whose crop has at least 2, 4 or 8 times the pixels that are enough, along both axes, is
    decoded at that fraction of its size. Its crop is then reduced to whole squares of so many
    pixels, so that it shows exactly what the same crop of the label shows.

    Args:
      image: path or content of a file, or pixels.
      window: what to read of it.
      upright: read a file as `read_photo` does, not as its pixels are stored.
    """
    if isinstance(image, str):
        image = Stored(image, read_bytes(image))
    if upright and isinstance(image, Stored) and pictures.needs_turning_or_blending(image.data):
        image = read_photo(image)

    # Only a JPEG can be decoded at a fraction of its size; anything else is decoded, then cut.
    size = jpeg_size(image.data) if window and isinstance(image, Stored) else None
    if window is None or size is None:
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        size = pixels.shape[:2]
        crop = window.crop(size) if window else (slice(None), slice(None))
        return ImageWindow(pixels[crop], crop, size)

    if 0 in size:
        raise DataError(image, f"its header says {size[1]}x{size[0]} pixels", WHOLE_IMAGE)

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


def read_map(path: File, dtype: type, what: str) -> np.ndarray:
    """Reads a label image (h, w) of exactly this dtype, as stored; DataError for any other."""
    pixels = read_numbers(path)
    if pixels.dtype == dtype and pixels.ndim == 2:
        return pixels

    bits = "an 8" if dtype == np.uint8 else "a 16"
    raise DataError(path, kind_of(pixels), f"{what} must be {bits}-bit PNG with 1 channel.")


def kind_of(pixels: np.ndarray) -> str:
    """Returns depth and channels of an image, for errors."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return f"{pixels.dtype.itemsize * 8}-bit image with {channels} channel(s)"


def require_lossless(path: File) -> bytes:
    """Returns the content of a label; DataError if its format keeps values only roughly."""
    data = content(path)
    if pictures.is_lossy(data):
        raise DataError(
            path,
            "its format is lossy (JPEG, or WebP with losses): its values are no longer exact",
            "A label must be stored without loss, such as PNG: export it again.",
        )
    return data


def read_numbers(path: File) -> np.ndarray:
    """Reads a label image whose numbers mean something, exactly as they are stored.

    A palette, bit depths below 8, interlacing and metadata change nothing about them.

    Returns:
      uint8 or uint16 (h, w); another dtype, or (h, w, c), where the file has no such numbers.

    Raises:
      DataError: it cannot be decoded, or its format keeps numbers only roughly.
    """
    data = require_lossless(path)
    # OpenCV would show the colors of a palette, and stretch few bits to 8.
    if not pictures.holds_palette_or_few_bits(data):
        return decode(path, cv2.IMREAD_UNCHANGED)
    try:
        return pictures.read_stored_numbers(data)
    except PictureError as error:
        raise DataError(path, f"cannot be decoded ({error})", WHOLE_IMAGE) from error


def require_same_size(
    size: tuple[int, int],
    image: File | np.ndarray,
    label_size: tuple[int, int],
    label: File | np.ndarray,
    upright: bool = False,
) -> None:
    """Raises DataError unless image and label lie on one pixel grid; sizes are (h, w).

    Args:
      size: of the image.
      image: its file, for the error.
      label_size: of the label.
      label: its file, for the error.
      upright: the image was turned as its EXIF says.
    """
    if size == label_size:
        return
    h, w = size
    label_h, label_w = label_size
    problem = f"is {label_w}x{label_h} (width x height), but its image {image} is {w}x{h}"
    if upright and label_size == size[::-1] and pictures.is_turned(content(image)):
        raise DataError(
            label,
            f"{problem} when it is turned upright as its EXIF orientation says",
            "The label must lie on the upright image: turn it, or save the image without EXIF.",
        )
    raise DataError(label, problem, "Image and label must have the same size.")


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
