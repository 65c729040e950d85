"""Hugging Face model folders: config.json and safetensors, in one file or in shards."""

import json
import os
import pathlib

import ml_dtypes
import numpy as np
import safetensors

from generalist.pretrained.weights import SHIPPED_AUTOENCODER, WeightsError

# transformers' and diffusers' names of the weights; an fp16 variant counts if it is the only one.
STEMS = ("model", "diffusion_pytorch_model", "model.fp16", "diffusion_pytorch_model.fp16")

# By safetensors' names. Its own NumPy reader has no bfloat16.
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


def find_folder(path_or_id: str | os.PathLike, subfolder: str = "") -> pathlib.Path:
    """Finds the folder of a published model.

    Args:
      path_or_id: a local folder or a file in it, "scenes_autoencoder" for the one that comes with
        the package, or a hub id such as "org/name", which `huggingface_hub` downloads once.
      subfolder: of a pipeline ("unet", "vae", "text_encoder"); it is taken where the folder itself
        has no config.json.

    Raises:
      WeightsError: there is no such folder, or no config.json in it.
    """
    if str(path_or_id) == SHIPPED_AUTOENCODER.name:
        folder = SHIPPED_AUTOENCODER
    else:
        folder = pathlib.Path(path_or_id).expanduser()

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
    """A config.json. A key that is absent raises a WeightsError that names it."""

    def __missing__(self, key: str):
        raise WeightsError(
            f"config.json has no {key!r}, which has no default: add the key with its value"
        )


def read_config(folder: pathlib.Path) -> Config:
    """Reads config.json; WeightsError if it is damaged."""
    try:
        return json.loads((folder / "config.json").read_text(), object_hook=Config)
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(
            f"{folder / 'config.json'}: damaged ({error}). Fetch the file again."
        ) from error


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
    try:
        config = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(f"{file}: damaged ({error}). Fetch the file again.") from error

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
    return all(isinstance(number, (int, float)) for number in value)


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
    pickled = sorted(file.name for file in folder.glob("*") if file.suffix in pickles)
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
    """Reads all files that an index names."""
    try:
        places = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise WeightsError(f"{index}: damaged ({error!r}). Fetch the file again.") from error

    tensors = {}
    for name in sorted(set(places.values())):
        tensors.update(_read_file(folder / name))
    if missing := sorted(set(places) - set(tensors)):
        raise WeightsError(
            f"{index} names {len(missing)} tensors that its shards lack, such as {missing[0]}. "
            "Fetch the folder again."
        )
    return tensors


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads one safetensors file."""
    try:
        tensors = dict(safetensors.deserialize(path.read_bytes()))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: missing, though the index of the folder names it. Fetch the folder again."
        ) from error
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: damaged ({error}). Fetch the file again.") from error

    if odd := sorted({t["dtype"] for t in tensors.values()} - set(DTYPES)):
        raise WeightsError(
            f"{path}: tensors of type {', '.join(odd)} are not read, only {', '.join(DTYPES)} "
            "(no quantized checkpoints)"
        )
    return {
        name: np.frombuffer(t["data"], DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in tensors.items()
    }
