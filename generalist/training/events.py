"""TensorBoard's event files: three protocol buffers (tensorflow/core/util/event.proto) in TFRecord frames.

Written here, as the packages for it import TensorFlow or torch wherever those are installed: seconds of every start.
"""

import os
import pathlib
import socket
import struct
import time
from collections.abc import Mapping


def _table() -> list[int]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return rows


_TABLE = _table()


def crc32c(content: bytes) -> int:
    """The CRC of Castagnoli's polynomial, which zlib lacks."""
    value = 0xFFFFFFFF
    for byte in content:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


class EventFile:
    """A new event file in a folder, to which scalars are appended.

    Args:
      folder: must exist.
      first_step: TensorBoard drops the points of earlier files from this step on, which are written again; 0 drops none.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(pathlib.Path(folder) / name, "ab")
        self._append(_bytes(3, b"brain.Event:2"))
        if first_step:
            self._append(_varint(2, first_step) + _bytes(7, _varint(1, 1)))  # a session starts

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """One point a scalar, which a reader sees at once."""
        values = (_bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value) for name, value in scalars.items())
        self._append(_varint(2, step) + _bytes(5, b"".join(_bytes(1, value) for value in values)))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, fields: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc(length) + event + _masked_crc(event))
        self._file.flush()


def _masked_crc(content: bytes) -> bytes:
    """As TFRecord stores it: rotated and shifted, so that a CRC of data that hold CRCs stays a good one."""
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _number(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(content)) + content
