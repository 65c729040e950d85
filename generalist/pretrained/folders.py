"""Hugging Face model folders: config.json and safetensors, in one file or in shards."""

import math
import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from generalist.files import DamagedFileError, read_json
from generalist.pretrained.weights import SHIPPED_PARTS, WeightsError, read_tensor_file

# transformers' and diffusers' names of the weights; an fp16 variant counts if it is the only one.
STEMS = ("model", "diffusion_pytorch_model", "model.fp16", "diffusion_pytorch_model.fp16")

MOST_SIZE = 2**20  # of any number in a config.json: wider than any layer, or any vocabulary
MOST_LAYERS = 2**10


def find_folder(path_or_id: str | os.PathLike, subfolder: str = "") -> pathlib.Path:
    """Finds the folder of a published model.

    Args:
      path_or_id: a local folder or a file in it, a name of SHIPPED_PARTS, or a hub id such as
        "org/name", which `huggingface_hub` downloads once.
      subfolder: of a pipeline ("unet", "vae", "text_encoder"); it is taken where the folder itself
        has no config.json.

    Raises:
      WeightsError: there is no such folder, or no config.json in it.
    """
    folder = local_folder(path_or_id)
    if not folder.exists():
        folder = _download(str(path_or_id), subfolder)
    if folder.is_file():
        folder = folder.parent
    if not (folder / "config.json").is_file() and subfolder:
        folder = folder / subfolder
    if not (folder / "config.json").is_file():
        pipeline = f", or a pipeline with {subfolder}/ in it" if subfolder else ""
        raise WeightsError(
            f"{path_or_id}: no config.json in {folder}. Give a model's folder as transformers and "
            f"diffusers write it{pipeline}."
        )
    return folder


def local_folder(name_or_path: str | os.PathLike) -> pathlib.Path:
    """Returns the folder of shipped parts by their name, else the path; there may be nothing."""
    return SHIPPED_PARTS.get(str(name_or_path)) or pathlib.Path(name_or_path).expanduser()


def _download(name: str, subfolder: str) -> pathlib.Path:
    """Downloads a model from the hub, unless it is in the cache."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise WeightsError(f"{name}: no such folder, and no hub id of the form organization/name")

    # Optional: most folders are local.
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(
            f"{name}: no such folder; to fetch it from the hub, pip install huggingface_hub"
        ) from error

    # Only what is read here: a pipeline's other models may be large.
    patterns = []
    for folder in sorted({"", f"{subfolder}/" if subfolder else "", "tokenizer/"}):
        patterns += [f"{folder}*.json", f"{folder}merges.txt", f"{folder}*.safetensors"]
    try:
        return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub's own errors, and those of the network below it
        raise WeightsError(f"{name}: no such folder, and the hub gave: {error}") from error


class Config(dict):
    """A config.json, whose fields are checked when they are asked for.

    A key that is absent, or whose value is of another kind, raises a WeightsError that names it.
    """

    def __missing__(self, key: str):
        raise WeightsError(
            f"config.json has no {key!r}, which has no default: add the key with its value"
        )

    def whole(self, key: str, most: int = MOST_SIZE) -> int:
        """Returns a whole number of 1 to `most`."""
        return self._checked(key, lambda value: _is_whole(value, most), f"1 to {most}")

    def wholes(self, key: str) -> tuple[int, ...]:
        """Returns a list of whole numbers, one a level of a UNet or an autoencoder."""

        def is_valid(value: Any) -> bool:
            return _is_levels(value) and all(_is_whole(one, MOST_SIZE) for one in value)

        return tuple(self._checked(key, is_valid, f"a list of numbers of 1 to {MOST_SIZE}"))

    def texts(self, key: str) -> tuple[str, ...]:
        """Returns a list of texts, one a level."""

        def is_valid(value: Any) -> bool:
            return _is_levels(value) and all(isinstance(one, str) for one in value)

        return tuple(self._checked(key, is_valid, "a list of texts"))

    def number(self, key: str) -> float:
        """Returns a number above 0."""

        def is_valid(value: Any) -> bool:
            return _is_number(value) and value > 0

        return self._checked(key, is_valid, "a number above 0")

    def flag(self, key: str) -> bool:
        """Returns True or False."""
        return self._checked(key, lambda value: isinstance(value, bool), "true or false")

    def _checked(self, key: str, is_valid: Callable[[Any], bool], allowed: str) -> Any:
        if not is_valid(self[key]):
            raise WeightsError(
                f"config.json has {key} = {repr(self[key])[:100]}: allowed is {allowed}"
            )
        return self[key]


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_levels(value: Any) -> bool:
    return isinstance(value, list | tuple) and 1 <= len(value) <= 16


def read_config(folder: pathlib.Path) -> Config:
    """Reads config.json; WeightsError if it is damaged."""
    return _read_json(folder / "config.json", Config)


def _read_json(file: pathlib.Path, object_hook: Callable | None = None) -> Any:
    try:
        return read_json(file, object_hook)
    except (DamagedFileError, OSError) as error:
        raise WeightsError(f"{error}. Fetch the file again.") from error


def read_normalization(folder: pathlib.Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Reads how images are normalized from preprocessor_config.json.

    Returns:
      Mean and standard deviation, each (r, g, b) of 0 to 1, or None if the file does not say.

    Raises:
      WeightsError: the file is damaged, or its values are not three numbers each.
    """
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    config = _read_json(file)
    if config.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    mean = config.get("image_mean")
    std = config.get("image_std")
    if mean is None or std is None:
        return None

    if not (_is_color(mean) and _is_color(std)) or min(std) <= 0:
        raise WeightsError(
            f"{file}: image_mean {mean!r} and image_std {std!r} must be three numbers each, the "
            "latter above 0. Fetch the file again."
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def _is_color(value: object) -> bool:
    """Says whether a value of a JSON file is a list of three numbers."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(map(_is_number, value))


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors of all shards.

    Returns:
      {name: array in the file's own dtype}.

    Raises:
      WeightsError: a file is missing or damaged, or the weights are only there as pickle.
    """
    for stem in STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _read_shards(folder, index)
        if (folder / f"{stem}.safetensors").is_file():
            return _read_file(folder / f"{stem}.safetensors")

    # Never read a pickle: it can run code.
    pickles = (".bin", ".pt", ".ckpt", ".pth")
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in pickles)
    advice = "give the whole folder"
    if pickled:
        advice = (
            f"only {', '.join(pickled)}, which can run code when it is read: "
            "convert it to safetensors"
        )
    raise WeightsError(
        f"{folder}: no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors there; {advice}."
    )


def _read_shards(folder: pathlib.Path, index: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the tensors that an index names, each from the shard that it says."""
    places = _read_json(index).get("weight_map")
    is_map = isinstance(places, dict) and all(isinstance(name, str) for name in places.values())
    if not is_map:
        raise WeightsError(
            f"{index}: damaged, its weight_map is no file name a tensor. Fetch the file again."
        )

    # Never a file outside of the folder, whoever wrote the index.
    shards = sorted(set(places.values()))
    for name in shards:
        if name != pathlib.PurePosixPath(name).name or "\\" in name or "\0" in name:
            raise WeightsError(
                f"{index}: names the file {name!r}, which does not lie in its folder. Allowed are "
                "names of files beside the index."
            )

    # A tensor may also lie in a shard that an earlier save left behind.
    tensors = {}
    for shard in shards:
        for name, tensor in _read_file(folder / shard).items():
            if places.get(name, shard) == shard:
                tensors[name] = tensor
    if missing := sorted(set(places) - set(tensors)):
        raise WeightsError(
            f"{index} names {len(missing)} tensors that its shards lack, such as {missing[0]}. "
            "Fetch the folder again."
        )
    return tensors


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads one safetensors file."""
    try:
        return read_tensor_file(path)
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: missing, though the index of the folder names it. Fetch the folder again."
        ) from error
    except DamagedFileError as error:
        raise WeightsError(f"{error}. Fetch the file again.") from error
    except OSError as error:
        raise WeightsError(f"{path}: damaged ({error}). Fetch the file again.") from error
