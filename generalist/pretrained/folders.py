"""Hugging Face model folders: config.json and safetensors, in one file or in shards."""

import json
import os
import pathlib

import ml_dtypes
import numpy as np
import safetensors

from generalist.pretrained.weights import SHIPPED_AUTOENCODER, WeightsError

# transformers' name and diffusers' name of the weights; the fp16 variant is read where it is the only one.
STEMS = ("model", "diffusion_pytorch_model", "model.fp16", "diffusion_pytorch_model.fp16")
DTYPES = {  # safetensors' names; its NumPy reader has no bfloat16
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
    """A local folder as it is, or the package's "scenes_autoencoder" by that name; otherwise a hub id such as "org/name", downloaded or
    found in the cache by `huggingface_hub`.

    `subfolder` (a pipeline's "unet", "vae", "text_encoder") is taken where the folder itself has no config.json.
    """
    folder = (
        SHIPPED_AUTOENCODER
        if str(path_or_id) == SHIPPED_AUTOENCODER.name
        else pathlib.Path(path_or_id).expanduser()
    )
    if not folder.exists():
        folder = _download(str(path_or_id), subfolder)
    if folder.is_file():
        folder = folder.parent
    if not (folder / "config.json").is_file() and subfolder:
        folder = folder / subfolder
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{path_or_id}: no config.json in {folder}. Give a model's folder as transformers and diffusers write it"
            f"{f', or a pipeline with {subfolder}/ in it' if subfolder else ''}."
        )
    return folder


def _download(name: str, subfolder: str) -> pathlib.Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise WeightsError(f"{name}: no such folder, and no hub id of the form organisation/name")
    try:
        import huggingface_hub
    except ImportError as error:
        raise WeightsError(
            f"{name}: no such folder; to fetch it from the hub, pip install huggingface_hub"
        ) from error
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                name,
                allow_patterns=[
                    f"{part}{pattern}"
                    for part in {"", f"{subfolder}/" if subfolder else "", "tokenizer/"}
                    for pattern in ("*.json", "merges.txt", "*.safetensors")
                ],
            )
        )
    except Exception as error:  # the hub's own errors, and those of the network below it
        raise WeightsError(f"{name}: no such folder, and the hub gave: {error}") from error


class Config(dict):
    """A config.json: a key that is asked for and is not there is a WeightsError that names it."""

    def __missing__(self, key: str):
        raise WeightsError(
            f"config.json has no {key!r}, which has no default: add the key with its value"
        )


def read_config(folder: pathlib.Path) -> Config:
    """config.json. WeightsError if it is damaged."""
    try:
        return json.loads((folder / "config.json").read_text(), object_hook=Config)
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(
            f"{folder / 'config.json'}: damaged ({error}). Fetch the file again."
        ) from error


def read_normalization(folder: pathlib.Path) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation, each (r, g, b) of 0 to 1, by preprocessor_config.json, or None where it does not say."""
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return None
    try:
        c = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise WeightsError(f"{file}: damaged ({error}). Fetch the file again.") from error
    if c.get("do_normalize") is False:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    values = [c.get(key) for key in ("image_mean", "image_std")]
    if None in values:
        return None
    mean, std = values
    if (
        not all(
            isinstance(v, list) and len(v) == 3 and all(isinstance(x, (int, float)) for x in v)
            for v in values
        )
        or min(std) <= 0
    ):
        raise WeightsError(
            f"{file}: image_mean {mean!r} and image_std {std!r} must be three numbers each, the latter above 0. Fetch the file again."
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """{name: array in the file's own dtype} of all shards. WeightsError if a file is missing, damaged or only there as pickle."""
    for stem in STEMS:
        index = folder / f"{stem}.safetensors.index.json"
        if index.is_file():
            return _read_shards(folder, index)
        if (folder / f"{stem}.safetensors").is_file():
            return _read_file(folder / f"{stem}.safetensors")
    pickled = sorted(
        p.name for pattern in ("*.bin", "*.pt", "*.ckpt", "*.pth") for p in folder.glob(pattern)
    )
    why = (
        f"only {', '.join(pickled)}, which can run code when it is read: convert it to safetensors"
        if pickled
        else "give the whole folder"
    )
    raise WeightsError(
        f"{folder}: no {STEMS[0]}.safetensors or {STEMS[1]}.safetensors there; {why}."
    )


def _read_shards(folder: pathlib.Path, index: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        places = json.loads(index.read_text())["weight_map"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError) as error:
        raise WeightsError(f"{index}: damaged ({error!r}). Fetch the file again.") from error
    tensors = {}
    for name in sorted(set(places.values())):
        tensors.update(_read_file(folder / name))
    if missing := sorted(set(places) - set(tensors)):
        raise WeightsError(
            f"{index} names {len(missing)} tensors that its shards lack, such as {missing[0]}. Fetch the folder again."
        )
    return tensors


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
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
            f"{path}: tensors of type {', '.join(odd)} are not read, only {', '.join(DTYPES)} (no quantised checkpoints)"
        )
    return {
        name: np.frombuffer(t["data"], DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in tensors.items()
    }
