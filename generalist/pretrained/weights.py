"""A model folder: `config.json` and `model.safetensors`, parameters by their dotted paths.

A training workdir is one, and so is the folder of the shipped scenes model.
"""

import json
import os
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from generalist.files import DamagedFileError, read_json, write_atomically
from generalist.names import listed
from generalist.pretrained.old_configs import rename_fields

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CHECKSUM = "crc32"  # in the metadata of the weights

# What is read, by safetensors' names. Its own NumPy reader has no bfloat16.
DTYPES = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}

PACKAGE = pathlib.Path(__file__).parent
# Weights that come with the package, by the name that `model.init_from` and `generalist.load` take.
SHIPPED = {"scenes": PACKAGE / "scenes"}
# Published parts that come with the package, by the name that may stand for their folder.
SHIPPED_PARTS = {"scenes_autoencoder": PACKAGE / "scenes_autoencoder"}


class WeightsError(ValueError):
    """Weights or their config are missing, damaged or do not fit the model."""


def folder_of(name_or_path: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of a shipped model's name, a model folder or a file in it.

    Raises:
      WeightsError: there is none.
    """
    path = SHIPPED.get(str(name_or_path)) or pathlib.Path(name_or_path)
    folder = path.parent if path.name in (WEIGHTS, CONFIG) else path
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]

    # A run that was killed early has not come to the file.
    if missing == [WEIGHTS] and (folder / "checkpoints").is_dir():
        raise WeightsError(
            f"{name_or_path}: this run has checkpoints, but no {WEIGHTS} yet: a run writes it at "
            "its evaluations (eval.every_steps), at its end, and when SIGTERM stops it. The same "
            "command continues the run."
        )
    if missing:
        raise WeightsError(
            f"{name_or_path}: no {missing[0]} in {folder.absolute()}. Give a training workdir "
            f"(such as runs/multitask), a folder with {CONFIG} and {WEIGHTS}, or the name of "
            f"shipped weights: {', '.join(SHIPPED)}."
        )
    return folder


def save_weights(
    folder: str | os.PathLike,
    parameters: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    dtype: type | None = None,
) -> None:
    """Writes `model.safetensors` atomically.

    Args:
      folder: of the model.
      parameters: {path: array}.
      metadata: strings to keep beside the weights.
      dtype: casts the floats; float16 halves the file.

    Raises:
      WeightsError: `dtype` cannot hold a value.
    """
    arrays = {}
    for path, value in parameters.items():
        with np.errstate(over="ignore"):
            arrays[path] = np.ascontiguousarray(np.asarray(value, dtype))
        if dtype is not None and not np.isfinite(arrays[path]).all():
            raise WeightsError(
                f"{path}: has values that {np.dtype(dtype)} cannot hold, or nan; keep the weights "
                "as they are, or take an older checkpoint"
            )
    content = safetensors.numpy.save(arrays, metadata={**metadata, CHECKSUM: _checksum(arrays)})
    write_atomically(pathlib.Path(folder) / WEIGHTS, content)


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """The CRC-32 of all values, in the order of their paths."""
    value = 0
    for path in sorted(arrays):
        value = zlib.crc32(arrays[path].reshape(-1).view(np.uint8), value)
    return f"{value:08x}"


def load_weights(
    name_or_path: str | os.PathLike,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Reads a model folder, or a shipped model.

    Returns:
      Its config, with today's names of all fields, and {path: float32 array}.

    Raises:
      WeightsError: a file is missing, damaged, or no safetensors file; names it.
    """
    folder = folder_of(name_or_path)
    config = read_config(folder / CONFIG)
    try:
        arrays = read_tensor_file(folder / WEIGHTS)
    except (DamagedFileError, OSError) as error:
        raise WeightsError(
            f"{folder}: damaged {WEIGHTS} ({error}). Restore the folder, or train again."
        ) from error

    expected = read_metadata(folder).get(CHECKSUM)
    if expected and _checksum(arrays) != expected:
        raise WeightsError(
            f"{folder / WEIGHTS}: damaged, its checksum differs. Restore the file; a run that is "
            "started again writes it anew."
        )
    return config, {path: np.asarray(value, np.float32) for path, value in arrays.items()}


def read_config(file: pathlib.Path) -> dict[str, Any]:
    """Reads the config of a model, with today's names of all fields.

    Raises:
      WeightsError: it is damaged.
    """
    try:
        return rename_fields(read_json(file))
    except (DamagedFileError, OSError) as error:
        raise WeightsError(
            f"{file.parent}: damaged {file.name} ({error}). Restore the folder, or train again."
        ) from error


def read_tensor_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a safetensors file, {name: array in the file's own dtype}.

    Raises:
      DamagedFileError: it is none, or holds a dtype that is not read.
      OSError: it cannot be read.
    """
    # The library checks the length of the header, and that its tensors fill the file.
    try:
        tensors = dict(safetensors.deserialize(path.read_bytes()))
    except (safetensors.SafetensorError, MemoryError) as error:
        raise DamagedFileError(f"{path}: damaged ({error})") from error

    if odd := sorted({tensor["dtype"] for tensor in tensors.values()} - set(DTYPES)):
        raise DamagedFileError(
            f"{path}: tensors of type {', '.join(odd)} are not read, only {', '.join(DTYPES)} "
            "(no quantized checkpoints)"
        )
    return {
        name: np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        for name, tensor in tensors.items()
    }


def read_metadata(name_or_path: str | os.PathLike) -> dict[str, str]:
    """Reads the strings saved beside the weights: step, codec versions, release."""
    path = folder_of(name_or_path) / WEIGHTS
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged ({error}). Restore the file, or train again."
        ) from error


def read_step(name_or_path: str | os.PathLike) -> str:
    """Returns the step that the weights are of, "0" if they do not say; it names a folder.

    Raises WeightsError if it is no number.
    """
    step = read_metadata(name_or_path).get("step", "0")
    if not re.fullmatch(r"[0-9]{1,18}", step):
        raise WeightsError(
            f"{folder_of(name_or_path) / WEIGHTS}: its step is {step[:100]!r}, which is no number. "
            "Fetch the file again, or train again."
        )
    return step


def read_codecs(name_or_path: str | os.PathLike) -> dict[str, Any]:
    """Returns {task: version of its codec} that the weights were trained with.

    Raises WeightsError if that is not what the file says.
    """
    text = read_metadata(name_or_path).get("codecs", "{}")
    try:
        versions = json.loads(text)
    except (ValueError, RecursionError):
        versions = None
    if not isinstance(versions, dict):
        raise WeightsError(
            f"{folder_of(name_or_path) / WEIGHTS}: its codecs are {text[:100]!r}, no versions by "
            "task. Fetch the file again, or train again."
        )
    return versions


def check_fit(parameters: Mapping[str, np.ndarray], expected: Mapping, source: str) -> None:
    """Checks that parameters are those of a model.

    Args:
      parameters: {path: array}.
      expected: {path: array or shape} of the model.
      source: where the parameters come from, for the message.

    Raises:
      WeightsError: lists parameters that are missing, left over or of another shape.
    """
    missing = [
        f"missing: {path} {tuple(x.shape)}"
        for path, x in expected.items()
        if path not in parameters
    ]
    left_over = [f"left over: {path}" for path in parameters if path not in expected]
    other_shapes = []
    for path, x in expected.items():
        if path in parameters and parameters[path].shape != x.shape:
            found = tuple(parameters[path].shape)
            other_shapes.append(
                f"shape of {path}: {found} in the file, {tuple(x.shape)} in the model"
            )

    problems = missing + left_over + other_shapes
    if problems:
        raise WeightsError(
            f"{source} does not fit the model of this config:\n{listed(problems)}\n"
            "Use the model group of the config beside the weights."
        )
