"""Opens MATLAB's files: version 5 by this page, version 7.3, which is HDF5, by h5py.

The format is that of "MAT-File Format" (The MathWorks, version 5): a header of 128 bytes, then
elements of a tag (type, number of bytes) and data. An element is an array or one that is compressed
by zlib; an array is made of elements: flags, shape, name, numbers. SciPy also reads it, but some
changed files end its process.
"""

import contextlib
import functools
import io
import math
import os
import zlib
from collections.abc import Iterator
from typing import IO, Any, NamedTuple

import numpy as np
from etils import epath

from generalist.input_pipeline.sources.files import LayoutError
from generalist.names import first_line

HEADER_BYTES = 128
BYTE_ORDERS = {b"IM": "<", b"MI": ">"}
ARRAY = 14  # type of an element
COMPRESSED = 15

# Type of an element of numbers -> how they are stored.
STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}

# Class of an array -> its type. Cells, structs, text and sparse arrays are listed, but not read.
CLASSES = {
    6: "float64",
    7: "float32",
    8: "int8",
    9: "uint8",
    10: "int16",
    11: "uint16",
    12: "int32",
    13: "uint32",
    14: "int64",
    15: "uint64",
}
COMPLEX = 0x800  # flag of an array

MOST_BYTES = 2**30  # of an array: four times SIDD's blocks
MOST_INFLATION = 1032  # zlib's bytes for one byte, at most
MOST_DIMENSIONS = 32
MOST_LETTERS = 64  # of a name, which MATLAB cuts at 63


class Variable(NamedTuple):
    """What a file says of one of its variables.

    Attributes:
      shape: of the array.
      dtype: a NumPy name; "" if it is no array of real numbers.
    """

    shape: tuple[int, ...]
    dtype: str


class _Array(NamedTuple):
    """A variable in an open file, whose numbers come next there."""

    name: str
    variable: Variable
    file: IO[bytes]
    order: str  # of bytes: "<" or ">"
    room: int  # bytes that can follow, at most


class _Tag(NamedTuple):
    """What an element begins with."""

    kind: int
    size: int  # bytes of the data
    data: bytes  # of an element so small that its tag holds them


class _Inflated(io.RawIOBase):
    """The content of a compressed element, inflated as far as it is read."""

    def __init__(self, file: IO[bytes], size: int):
        self._file = file
        self._left = size
        self._inflater = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        """Fills a part of the buffer; returns its bytes, 0 at the end."""
        while not self._inflater.eof:
            data = self._inflater.unconsumed_tail
            if not data:
                data = self._file.read(min(self._left, 2**16))
                self._left -= len(data)
            inflated = self._inflater.decompress(data, len(buffer))
            if inflated:
                buffer[: len(inflated)] = inflated
                return len(inflated)
            if not data:
                break
        return 0


def variables(path: str) -> dict[str, Variable]:
    """Returns what a version 5 .mat file holds, by name.

    Raises:
      FileNotFoundError: there is no such file.
      LayoutError: it is damaged, or of another version.
    """
    with _open(path) as file:
        return {array.name: array.variable for array in _arrays(file)}


def read_variable(path: str, name: str) -> np.ndarray:
    """Returns an array of a version 5 .mat file, in the type that MATLAB gave it.

    Raises:
      FileNotFoundError: there is no such file.
      LayoutError: the file is damaged or of another version, or holds no array of that name.
    """
    names = []
    with _open(path) as file:
        for array in _arrays(file):
            if array.name == name and array.variable.dtype:
                return _read_numbers(array)
            names.append(array.name)

    held = ", ".join(names) or "nothing"
    raise LayoutError(path, f"holds no array of numbers {name!r}", f"It holds {held}.")


@contextlib.contextmanager
def _open(path: str) -> Iterator[IO[bytes]]:
    """Opens a file; whatever is wrong with it becomes a LayoutError that names it."""
    allowed = "It must be a whole version 5 .mat file: get it again."
    try:
        with epath.Path(path).open("rb") as file:
            yield file
    except FileNotFoundError:
        raise
    except (ValueError, OSError, zlib.error) as error:
        raise LayoutError(path, f"cannot be read ({first_line(error)})", allowed) from error


def _arrays(file: IO[bytes]) -> Iterator[_Array]:
    """Yields every array of a file; its numbers can be read until the next one is asked for."""
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    order = _byte_order(file.read(HEADER_BYTES))
    while file.tell() < end:
        tag = _read_tag(file, order)
        start = file.tell()
        if start + tag.size > end:
            raise ValueError(f"{start + tag.size - end} bytes are lost")

        inside = file
        room = tag.size
        kind = tag.kind
        if kind == COMPRESSED:
            inside = io.BufferedReader(_Inflated(file, tag.size))
            room *= MOST_INFLATION
            kind = _read_tag(inside, order).kind
        if kind == ARRAY:
            yield _describe(inside, order, room)
        file.seek(start + tag.size)


def _byte_order(header: bytes) -> str:
    """The sign of the byte order; ValueError if it is not the header of version 5."""
    order = BYTE_ORDERS.get(header[126:128])
    if order is None:
        raise ValueError("it has no header of a .mat file")
    version = int(np.frombuffer(header[124:126], f"{order}u2")[0]) >> 8
    if version != 1:
        raise ValueError("it is of version 7.3" if version == 2 else f"unknown version {version}")
    return order


def _read_tag(file: IO[bytes], order: str) -> _Tag:
    kind, size = _integers(_exactly(file, 8), f"{order}u4")
    # Up to 4 bytes of data lie in the tag itself, whose first two then say how many.
    if kind >> 16:
        raw = np.array([size], f"{order}u4").tobytes()
        return _Tag(kind & 0xFFFF, kind >> 16, raw[: kind >> 16])
    return _Tag(kind, size, b"")


def _read_element(file: IO[bytes], order: str, most: int) -> bytes:
    """The data of a short element; ValueError if there are more than `most` bytes."""
    tag = _read_tag(file, order)
    if tag.size > most:
        raise ValueError(f"an element of {tag.size} bytes, where {most} are the most")
    if tag.data:
        return tag.data
    return _exactly(file, _padded(tag.size))[: tag.size]


def _describe(file: IO[bytes], order: str, room: int) -> _Array:
    """Reads what comes before the numbers of an array."""
    flags = _integers(_read_element(file, order, 8), f"{order}u4")
    shape = _integers(_read_element(file, order, 4 * MOST_DIMENSIONS), f"{order}i4")
    name = _read_element(file, order, MOST_LETTERS).decode("latin-1")
    if not flags or min(shape, default=-1) < 0:
        raise ValueError(f"{name!r} has the shape {shape}")

    dtype = "" if flags[0] & COMPLEX else CLASSES.get(flags[0] & 0xFF, "")
    return _Array(name, Variable(tuple(shape), dtype), file, order, room)


def _read_numbers(array: _Array) -> np.ndarray:
    tag = _read_tag(array.file, array.order)
    shape, dtype = array.variable
    count = math.prod(shape)
    if tag.kind not in STORED:
        raise ValueError(f"its numbers have the unknown type {tag.kind}")

    # Checked before memory is taken for them. MATLAB may store them in fewer bytes than their type.
    stored = np.dtype(array.order + STORED[tag.kind])
    if tag.size != count * stored.itemsize or tag.size > min(array.room, MOST_BYTES):
        raise ValueError(f"its shape is {shape}, its numbers have {tag.size} bytes")
    data = tag.data or _exactly(array.file, tag.size)
    return np.frombuffer(data, stored).reshape(shape, order="F").astype(dtype, copy=False)


def _exactly(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise ValueError(f"{size - len(data)} bytes are lost")
    return data


def _integers(data: bytes, dtype: str) -> list[int]:
    return np.frombuffer(data, dtype).tolist()


def _padded(size: int) -> int:
    """Elements inside an array begin at multiples of 8 bytes."""
    return size + -size % 8


def open_hdf5(path: str) -> Any:
    """Returns the h5py.File of a version 7.3 .mat file.

    Every process opens its own, so that copies in forked or spawned workers are independent; h5py
    serializes the calls of threads itself.

    Raises:
      LayoutError: the file is absent, cut short or of another version.
      ImportError: h5py is not installed; the message has the command that installs it.
    """
    return _open_hdf5(path, os.getpid())


@functools.lru_cache(maxsize=4)
def _open_hdf5(path: str, process: int):
    try:
        import h5py
    except ImportError as error:
        raise ImportError("version 7.3 .mat files are read by h5py: pip install h5py") from error

    try:
        return h5py.File(epath.Path(path).open("rb") if "://" in path else path, "r")
    except OSError as error:
        raise LayoutError(
            path,
            f"cannot be read ({error})",
            "It must be a whole version 7.3 .mat file: get it again.",
        ) from error
