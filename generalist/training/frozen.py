"""The parameters that do not learn: written once a run, beside its checkpoints."""

import pathlib
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import safetensors.numpy

from generalist.devices import processes
from generalist.files import write_atomically
from generalist.pretrained.weights import DamagedFileError, read_tensor_file

FILE = "frozen.safetensors"


class FrozenError(RuntimeError):
    """The file of the parameters that do not learn is missing, damaged or another run's."""


def write(folder: pathlib.Path, values: Mapping[str, np.ndarray]) -> None:
    """Writes them on process 0; where there are none, nothing."""
    if values and processes.is_first():
        arrays = {path: np.ascontiguousarray(value) for path, value in values.items()}
        write_atomically(folder / FILE, safetensors.numpy.save(arrays))


def read(folder: pathlib.Path, paths: Iterable[str], checksum: int | None) -> dict[str, np.ndarray]:
    """Reads the parameters of these paths, {path: float32 array} in host memory.

    The file may hold others, so that a `model.safetensors` of the same run can replace it.

    Raises:
      FrozenError: they are not there, or not those of this checksum; says what to do.
    """
    paths = list(paths)
    if not paths:
        return {}
    path = folder / FILE
    try:
        found = read_tensor_file(path)
        values = {name: found[name] for name in paths}
    except (OSError, DamagedFileError, KeyError) as error:
        raise FrozenError(_what_to_do(path, f"{type(error).__name__}: {error}")) from error

    if checksum_of(values) != checksum:
        raise FrozenError(_what_to_do(path, "its values are not those that the run began with"))
    return values


def checksum_of(values: Mapping[str, np.ndarray]) -> int:
    """Returns the CRC-32 of all values, in the order of their paths."""
    total = 0
    for path in sorted(values):
        bits = np.ascontiguousarray(values[path]).reshape(-1).view(np.uint8)
        total = zlib.crc32(bits, zlib.crc32(path.encode(), total))
    return total


def _what_to_do(path: pathlib.Path, reason: str) -> str:
    return (
        f"{path}, the parameters that do not learn, cannot be used ({reason}). The checkpoints "
        "beside it are untouched, and need it: restore it from a backup, or copy the run's own "
        f"model.safetensors to {path.name}, which holds the same values."
    )
