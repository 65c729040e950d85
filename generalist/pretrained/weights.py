"""A model folder: `config.json` and `model.safetensors`, parameters by their dotted paths.

A training workdir is one, and so is the folder of the shipped scenes model.
"""

import json
import os
import pathlib
import zlib
from collections.abc import Mapping

import numpy as np
import safetensors
import safetensors.numpy

from generalist.files import write_atomically
from generalist.names import listed
from generalist.pretrained.old_configs import rename_fields

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CHECKSUM = "crc32"  # in the metadata of the weights
# Weights that come with the package, by the name `model.init_from` and `generalist.load` take.
SHIPPED = {"scenes": pathlib.Path(__file__).parent / "scenes"}
SHIPPED_AUTOENCODER = (
    pathlib.Path(__file__).parent / "scenes_autoencoder"
)  # `load_autoencoder("scenes_autoencoder")`


class WeightsError(ValueError):
    """Weights or their config are missing, damaged or do not fit the model."""


def folder_of(name_or_path: str | os.PathLike) -> pathlib.Path:
    """A shipped model's name, a model folder or a file in it -> the folder. WeightsError if there is none."""
    path = SHIPPED.get(str(name_or_path)) or pathlib.Path(name_or_path)
    folder = path.parent if path.name in (WEIGHTS, CONFIG) else path
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise WeightsError(
                f"{name_or_path}: no {name} in {folder.absolute()}. Give a training workdir (such as runs/multitask), a folder "
                f"with {CONFIG} and {WEIGHTS}, or the name of shipped weights: {', '.join(SHIPPED)}."
            )
    return folder


def save_weights(
    folder: str | os.PathLike,
    parameters: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    dtype=None,
) -> None:
    """Writes `model.safetensors` atomically. `dtype` casts the floats (float16 halves the file); metadata are strings."""
    arrays = {
        path: np.ascontiguousarray(np.asarray(value, dtype)) for path, value in parameters.items()
    }
    write_atomically(
        pathlib.Path(folder) / WEIGHTS,
        safetensors.numpy.save(arrays, metadata={**metadata, CHECKSUM: _checksum(arrays)}),
    )


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """CRC-32 of all values, in the order of their paths."""
    value = 0
    for path in sorted(arrays):
        value = zlib.crc32(arrays[path].reshape(-1).view(np.uint8), value)
    return f"{value:08x}"


def load_weights(folder: str | os.PathLike) -> tuple[dict, dict[str, np.ndarray]]:
    """A model folder (or shipped name) -> (its config as a dict, {path: float32 array}).

    Raises WeightsError naming the file when it is missing, damaged or no safetensors file.
    """
    folder = folder_of(folder)
    try:
        config = rename_fields(json.loads((folder / CONFIG).read_text()))
        arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    except (
        safetensors.SafetensorError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        OSError,
    ) as error:
        raise WeightsError(
            f"{folder}: damaged {CONFIG} or {WEIGHTS} ({error}). Restore the folder, or train again."
        ) from error
    expected = read_metadata(folder).get(CHECKSUM)
    if expected and _checksum(arrays) != expected:
        raise WeightsError(
            f"{folder / WEIGHTS}: damaged, its checksum differs. Restore the file; a run that is started again writes it anew."
        )
    return config, {path: np.asarray(value, np.float32) for path, value in arrays.items()}


def read_metadata(folder: str | os.PathLike) -> dict[str, str]:
    """The strings saved beside the weights: step, codec versions, release."""
    path = folder_of(folder) / WEIGHTS
    try:
        with safetensors.safe_open(path, "numpy") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged ({error}). Restore the file, or train again."
        ) from error


def check_fit(parameters: Mapping[str, np.ndarray], expected: Mapping, source: str) -> None:
    """Raises WeightsError that lists every parameter that is missing, left over or of another shape than `expected`."""
    problems = [
        f"missing: {path} {tuple(x.shape)}"
        for path, x in expected.items()
        if path not in parameters
    ]
    problems += [f"left over: {path}" for path in parameters if path not in expected]
    problems += [
        f"shape of {path}: {tuple(parameters[path].shape)} in the file, {tuple(x.shape)} in the model"
        for path, x in expected.items()
        if path in parameters and parameters[path].shape != x.shape
    ]
    if problems:
        raise WeightsError(
            f"{source} does not fit the model of this config:\n{listed(problems)}\n"
            "Use the model group of the config beside the weights."
        )
