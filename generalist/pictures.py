"""Image files: what their headers say, photographs as people see them, arrays as PNG."""

import io
import re
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

# What is read, in training, checking, evaluation and prediction alike. Of an animation, or of a
# file with several pages, it is the first.
FORMATS = "PNG, JPEG, WebP, TIFF, BMP, GIF or PPM"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm")

# Of an image, or of a label: a file can have, and a header claim, more than any memory has.
MOST_BYTES = 2**31
MOST_PIXELS = 500_000_000
Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow refuses more than twice as many

# Pillow's modes of 8 bits a channel and below; it would clip deeper ones without a word.
MODES = tuple("1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB".split())

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"IEND"  # the last chunk
PNG_GRAY = 0  # the color types in a PNG's header
PNG_PALETTE = 3
PNG_ALPHA = (4, 6)
JPEG_START = b"\xff\xd8"
JPEG_SCAN = b"\xff\xda"
JPEG_END = b"\xff\xd9"
JPEG_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
SCAN = 0xDA  # second bytes of markers
RESTART_INTERVAL = 0xDD
PROGRESSIVE = 0xC2
UNUSED = 32  # bytes at the end of a JPEG's data: some encoders leave a few behind the last pixels

# A JPEG's size is in the header of its frame, whose marker is one of C0..CF but for these.
NO_FRAME = (0xC4, 0xC8, 0xCC)

# What a PNG's pixels need; the rest is text, profiles, and the later frames of an animation.
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")

ORIENTATION = 0x0112  # EXIF's tag
# Its values other than 1 -> how the stored pixels become upright.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


DAMAGED = "cut short or damaged"  # where a decoder says no more


class PictureError(ValueError):
    """The content of a file is no image that can be read; says why."""


# Photographs --------------------------------------------------------------------------------------


def read_photo(data: bytes) -> np.ndarray:
    """Decodes an image file as people see it: uint8 (h, w, 3) RGB.

    It is turned upright as its EXIF says, gray becomes three equal channels, and what is
    transparent lies on white. Other metadata, and bytes behind the end of the image, do not matter.

    Raises:
      PictureError: no image of FORMATS, a damaged one, more than 8 bits a channel, or more than
        MOST_PIXELS.
    """
    problem = damage(data)
    if problem:
        raise PictureError(problem)

    try:
        with open_picture(data) as image:
            pixels = upright(image)
    except PictureError:
        raise
    # On damaged files decoders raise anything from OSError to SyntaxError and struct.error.
    except Exception as error:
        raise PictureError(f"{DAMAGED}: {error}") from error

    if ends_gray(pixels) and has_lost_its_end(data):
        raise PictureError("the last part of its data is lost")
    return pixels


def open_picture(data: bytes) -> Image.Image:
    """Opens an image file without its metadata of any size; it is decoded when it is used."""
    return Image.open(io.BytesIO(_only_pixels(data)))


def upright(image: Image.Image) -> np.ndarray:
    """Converts a PIL image to uint8 (h, w, 3) RGB, upright, what is transparent on white.

    Raises:
      PictureError: it has more than 8 bits a channel.
    """
    # Of 16 bits a channel Pillow keeps 8 without a word, and tells it by how it would decode them.
    if any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        raise PictureError("16 bits a channel; convert it to 8 bits a channel first")
    if image.mode not in MODES:
        raise PictureError(f"pixels of mode {image.mode!r}; convert it to 8 bits a channel first")
    turn = TURNS.get(orientation(image))
    if turn is not None:
        image = image.transpose(turn)
    if image.has_transparency_data:
        return on_white(np.asarray(image.convert("RGBA")))
    return np.asarray(image.convert("RGB"))


def needs_turning_or_blending(data: bytes) -> bool:
    """Returns whether the stored colors of an image file are not yet what people see.

    Of a plain PNG, and of a JPEG without orientation, they are.
    """
    if data.startswith(PNG_START):
        header = data[: max(data.find(b"IDAT"), 0)]
        has_alpha = data[25] in PNG_ALPHA or b"tRNS" in header
        return has_alpha or b"eXIf" in data
    if not data.startswith(JPEG_START):
        return True
    return b"Exif\0\0" in data[: _jpeg_header(data).scan] and is_turned(data)


def is_turned(data: bytes) -> bool:
    """Returns whether the EXIF of an image file says to turn its stored pixels."""
    try:
        with open_picture(data) as image:
            return orientation(image) in TURNS
    except Exception:  # damaged: whoever decodes it says what is wrong
        return False


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an image, 1 (as stored) to 8; 1 where it has none."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # other fields that cannot be read: viewers show the picture all the same
        return 1
    return value if value in TURNS else 1


def on_white(rgba: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 4) -> uint8 (h, w, 3), composited."""
    alpha = rgba[..., 3:] / 255.0
    return np.rint(rgba[..., :3] * alpha + 255.0 * (1.0 - alpha)).astype(np.uint8)


def _only_pixels(data: bytes) -> bytes:
    """A PNG without text, profiles and later frames; any other file as it is."""
    if not data.startswith(PNG_START):
        return data

    parts = [PNG_START]
    at = len(PNG_START)
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] in PNG_PIXELS:
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


# Headers ------------------------------------------------------------------------------------------


def picture_size(data: bytes) -> tuple[int, int]:
    """Returns (h, w) as the header of an image file claims it, undecoded.

    Raises:
      PictureError: no such file.
    """
    if data.startswith(PNG_START):
        return int.from_bytes(data[20:24]), int.from_bytes(data[16:20])
    size = jpeg_size(data)
    if size is not None:
        return size
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width
    except Exception as error:  # decoders raise anything from OSError to struct.error
        raise PictureError(DAMAGED) from error


def damage(data: bytes) -> str:
    """Returns what is wrong with an image file as far as its header and markers tell, or ""."""
    try:
        h, w = picture_size(data)
    except PictureError as error:
        return str(error)
    if not 0 < h * w <= MOST_PIXELS:
        return f"its header says {w}x{h} pixels (width x height), allowed are 1 to {MOST_PIXELS:,}"
    if data.startswith(JPEG_START):
        return _jpeg_damage(data)
    return _png_damage(data) if data.startswith(PNG_START) else ""


def _png_damage(data: bytes) -> str:
    """What is wrong with the lengths of a PNG's chunks, or "".

    Decoders take memory for whatever a chunk claims, up to 2 GiB, before they look for it.
    """
    at = len(PNG_START)
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end > len(data):
            return "cut short"
        if data[at + 4 : at + 8] == PNG_END:
            break
        at = end + 4  # behind the checksum
    return ""


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Returns (h, w) from the header of a JPEG file, undecoded; None for any other file."""
    frame = _jpeg_header(data).frame
    return (int.from_bytes(frame[1:3]), int.from_bytes(frame[3:5])) if frame else None


class _JpegHeader(NamedTuple):
    frame: bytes  # the segment with size and components; empty if there is none
    interval: int  # number of units between two restart markers; 0: there are none
    scan: int  # where the first scan begins; 0 if there is none
    progressive: bool


def _jpeg_header(data: bytes) -> _JpegHeader:
    """Reads the segments before a JPEG's first pixels."""
    frame = b""
    interval = 0
    progressive = False
    at = 2
    while data.startswith(JPEG_START) and at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        # Any number of bytes FF may stand before a marker.
        if marker == 0xFF:
            at += 1
            continue
        if marker == SCAN:
            return _JpegHeader(frame, interval, at, progressive)

        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAME:
            frame = frame or data[at + 4 : end]
            progressive = marker == PROGRESSIVE
        elif marker == RESTART_INTERVAL:
            interval = int.from_bytes(data[at + 4 : end])
        at = end
    return _JpegHeader(frame, interval, 0, progressive)


# JPEG: what decoders pass over --------------------------------------------------------------------


def _jpeg_damage(data: bytes) -> str:
    """Looks for the end marker, and for lost restart intervals; decoders paint both gray."""
    header = _jpeg_header(data)
    # Bytes may follow the end; where none do, nothing has to be searched for it.
    whole = data.endswith(JPEG_END) or data.find(JPEG_END, header.scan) > 0
    if not header.scan or not whole:
        return "cut short"
    if not header.interval:
        return ""

    # Intervals are counted where all pixels are in one scan, which is so but for progressive files.
    end = data.find(JPEG_END, header.scan)
    if data.count(JPEG_SCAN, header.scan, end) > 1:
        return ""
    numbers = [marker[1] - 0xD0 for marker in JPEG_RESTART.findall(data, header.scan, end)]
    expected = -(-_units(header.frame) // header.interval) - 1
    if numbers != [number % 8 for number in range(expected)]:
        return f"part of its data is lost: {len(numbers)} of {expected} restart markers in order"
    return ""


def _units(frame: bytes) -> int:
    """The number of blocks that a JPEG's scan of all components is made of."""
    height = int.from_bytes(frame[1:3])
    width = int.from_bytes(frame[3:5])
    sampling = frame[7::3] if frame[5] > 1 else b"\x11"
    side_x = 8 * max(factors >> 4 for factors in sampling)
    side_y = 8 * max(factors & 15 for factors in sampling)
    return -(-height // side_y) * -(-width // side_x)


def ends_gray(pixels: np.ndarray) -> bool:
    """Returns whether the last pixel is the gray that a decoder paints where a JPEG has no data."""
    return all(127 <= int(level) <= 129 for level in pixels[-1, -1].reshape(-1)[:3])


def has_lost_its_end(data: bytes) -> bool:
    """Returns whether a JPEG has less data than pixels, although it has an end marker.

    Where data follow the last ones, a decoder that still needs some paints something else. Decodes
    twice: ask only for a picture that `ends_gray`.
    """
    if not data.startswith(JPEG_START):
        return False
    header = _jpeg_header(data)
    end = data.find(JPEG_END, header.scan)
    # A progressive file is decoded only if it has an end; else the decoder says that it has too
    # many bytes.
    tail = JPEG_END if header.progressive else b""
    return not np.array_equal(_decoded(data), _decoded(data[:end] + b"\x2a" * 2**16 + tail))


def has_lost_its_middle(data: bytes) -> bool:
    """Returns whether the data of a JPEG end before or behind its pixels; never of a progressive.

    It decodes up to four times.
    """
    header = _jpeg_header(data)
    if not header.scan or header.progressive:
        return False
    # Without its last bytes and its end, a whole file cannot be decoded.
    end = data.find(JPEG_END, header.scan)
    return _decoded(data[: end - UNUSED]) is not None or has_lost_its_end(data)


def _decoded(data: bytes) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


# Labels -------------------------------------------------------------------------------------------


def is_lossy(data: bytes) -> bool:
    """Returns whether an image file keeps its levels only roughly: JPEG, or WebP with losses."""
    if data.startswith(JPEG_START):
        return True
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP" and b"VP8L" not in data[:4096]


def holds_palette_or_few_bits(data: bytes) -> bool:
    """Returns whether OpenCV would decode other numbers than an image file holds.

    Of a PNG it does so for palettes and for fewer than 8 bits; of other formats Pillow knows.
    """
    if data.startswith(PNG_START) and len(data) >= 26:
        bits, color_type = data[24:26]
        return color_type == PNG_PALETTE or (color_type == PNG_GRAY and bits < 8)
    return True


def read_stored_numbers(data: bytes) -> np.ndarray:
    """Decodes the numbers of an image file: uint8 or uint16 (h, w), or (h, w, c) of colors.

    Raises:
      PictureError: no image of FORMATS, a damaged one, or more than MOST_PIXELS.
    """
    problem = damage(data)
    if problem:
        raise PictureError(problem)
    try:
        with open_picture(data) as image:
            pixels = np.asarray(image)
    except Exception as error:
        raise PictureError(f"{DAMAGED}: {error}") from error

    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    # Pillow stretches gray of 2 and 4 bits to 0..255.
    if data.startswith(PNG_START) and data[25] == PNG_GRAY and data[24] in (2, 4):
        return pixels // (255 // (2 ** data[24] - 1))
    # 16 bits come in several types.
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 1 and 0 <= pixels.min():
        return pixels.astype(np.uint16) if pixels.max() < 2**16 else pixels
    return pixels


# Arrays -------------------------------------------------------------------------------------------


def encode_png(array: np.ndarray, *, optimize: bool = False) -> bytes:
    """Encodes an image as PNG.

    Args:
      array: uint8 (h, w), uint8 (h, w, 3) or uint16 (h, w).
      optimize: search for the smallest file, which takes longer.
    """
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png", optimize=optimize)
    return buffer.getvalue()
