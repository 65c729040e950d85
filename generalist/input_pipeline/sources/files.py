"""Files of images and labels: what is read of them, and what is wrong with them."""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from etils import epath

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_START = b"\x89PNG"
AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
# The bare bits for "a fraction of the size"; with AS_STORED the colours stay, whatever their names say.
SHRINK = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
NO_FILE, NO_FOLDER = (
    "no such file",
    "no such folder",
)  # the problem where something whole is not there
NO_FRAME = (0xC4, 0xC8, 0xCC)  # of the JPEG markers C0..CF those that begin no frame


class DataError(ValueError):
    """A file is missing, damaged or out of its range: which one, what is wrong, what is allowed."""

    hint = "Set --config.data.on_error=skip to go on without such files: they are counted and reported."

    def __init__(self, path, problem: str, allowed: str):
        super().__init__(
            str(path), problem, allowed
        )  # all three in `args`, so that it survives pickling

    def __str__(self) -> str:
        path, problem, allowed = self.args
        return f"{path}: {problem}. {allowed} {self.hint}".rstrip()


class LayoutError(DataError):
    """A whole folder or annotation file is not as it must be; leaving out single files does not help."""

    hint = ""


def read_bytes(path: str) -> bytes:
    """The content of a file; DataError if it cannot be read or is empty."""
    try:
        if "://" in path:
            data = epath.Path(path).read_bytes()
        else:
            with (
                open(path, "rb") as file
            ):  # epath would look at the path first, which takes longer than to read a label
                data = file.read()
    except OSError as error:
        reason = NO_FILE if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise DataError(path, reason, "Every example needs its image and its label.") from error
    if not data:
        raise DataError(path, "the file is empty (0 bytes)", "It must be a PNG or JPEG image.")
    return data


class Stored(NamedTuple):
    """The content of an image file that lies inside another file; `name` says where, in errors."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


File = str | Stored  # what the functions below read: a path, or an image file's content
Window = tuple[slice, slice]  # rows and columns
EVERYTHING = (slice(None), slice(None))


class Part(NamedTuple):
    """What to read of an example, instead of all of it.

    Attributes:
      window: size (h, w) of the image -> the rows and columns to read.
      enough: number of rows, and of columns, that the reader needs; with twice as many in the window a JPEG is decoded at half the size.
    """

    window: Callable[[tuple[int, int]], Window]
    enough: int


def decode(path: File, flags: int) -> np.ndarray:
    """Decodes one image file by OpenCV; channels in OpenCV's order (BGR)."""
    data = path.data if isinstance(path, Stored) else read_bytes(path)
    # Some decoders fill the lost part of a cut JPEG with grey and say nothing: look for its end marker.
    cut = (
        data.startswith(JPEG_START)
        and not data.endswith(JPEG_END)
        and data.find(JPEG_END, data.rfind(JPEG_SCAN)) < 0
    )
    try:
        pixels = None if cut else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # a header that asks for more pixels than OpenCV allows
        pixels = None
    if pixels is None:
        raise DataError(
            path,
            f"cannot be decoded ({len(data)} bytes, cut short or damaged)",
            "It must be a PNG or JPEG image.",
        )
    return pixels


def read_image(path: File, shrink: int = 1) -> np.ndarray:
    """Reads an image as uint8 (h, w, 3) RGB in 0..255; DataError for one of 16 bits, which would lose half of them.

    An EXIF orientation is ignored: the labels of these data sets lie on the stored pixel grid. With `shrink` 2, 4 or 8 a JPEG
    has that fraction of its rows and columns, rounded up: pixel (i, j) is the mean of a square of so many pixels a side.
    """
    pixels = decode(path, AS_STORED | SHRINK[shrink])
    if pixels.dtype != np.uint8:
        raise DataError(
            path, f"{pixels.dtype.itemsize * 8}-bit image", "An image must have 8 bits a channel."
        )
    return pixels


def read_part(
    image: File | np.ndarray, part: Part | None
) -> tuple[np.ndarray, Window, tuple[int, int]]:
    """Reads a part of an image, or all of it for None: (pixels uint8, its window in the stored image, size (h, w) of that).

    A JPEG whose window has at least 2, 4 or 8 times the pixels that are enough, along both axes, is decoded at that fraction of its
    size. Its window is then cut to whole squares of so many pixels, so that it shows exactly what the label's window shows.
    """
    if isinstance(image, str):
        image = Stored(image, read_bytes(image))
    size = jpeg_size(image.data) if part and isinstance(image, Stored) else None
    if size is None:
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        window = part.window(pixels.shape[:2]) if part else EVERYTHING
        return pixels[window], window, pixels.shape[:2]
    window = part.window(size)
    side = min(axis.stop - axis.start for axis in window)
    shrink = max(n for n in SHRINK if n == 1 or side // n >= part.enough)
    pixels = read_image(image, shrink)
    small = tuple(
        slice(axis.start // shrink, axis.start // shrink + (axis.stop - axis.start) // shrink)
        for axis in window
    )
    return (
        pixels[small],
        tuple(slice(axis.start * shrink, axis.stop * shrink) for axis in small),
        size,
    )


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(h, w) as the header of a JPEG file says, before anything is decoded; None for any other file."""
    at = 2
    while data.startswith(JPEG_START) and at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        at += (
            1 if marker == 0xFF else 2 + length
        )  # any number of bytes FF may stand before a marker
    return None


def read_map(path: File, dtype: type, what: str) -> np.ndarray:
    """Reads a label image (h, w) of exactly this dtype, as stored; DataError for any other."""
    pixels = decode(path, cv2.IMREAD_UNCHANGED)
    if pixels.dtype != dtype or pixels.ndim != 2:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise DataError(
            path,
            f"{pixels.dtype.itemsize * 8}-bit image with {channels} channel(s)",
            f"{what} must be {'an 8' if dtype == np.uint8 else 'a 16'}-bit PNG with 1 channel.",
        )
    return pixels


def require_same_size(
    size: tuple[int, int], image: File, label_size: tuple[int, int], label: File
) -> None:
    """DataError unless both lie on one pixel grid."""
    if size != label_size:
        (h, w), (label_h, label_w) = size, label_size
        raise DataError(
            label,
            f"is {label_w}x{label_h} (width x height), but its image {image} is {w}x{h}",
            "Image and label must have the same size.",
        )


def png(pixels: np.ndarray) -> bytes:
    """uint8 (h, w, 3) RGB, or uint8 or uint16 (h, w) -> a PNG file."""
    return cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)[1].tobytes()


def png_or_jpeg(path: str) -> bytes:
    """The content of an image file as it is; a file of another format as PNG, which loses nothing."""
    data = read_bytes(path)
    return data if data.startswith((PNG_START, JPEG_START)) else png(read_image(Stored(path, data)))
