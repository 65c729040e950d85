"""A generalist that starts from published parts: `model.init_from=FOLDER` or `unet=FOLDER,image_encoder=FOLDER,...`."""

import logging
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from generalist.models import layers
from generalist.names import did_you_mean, listed
from generalist.pretrained.huggingface import (
    PublishedModel,
    read_autoencoder,
    read_image_encoder,
    read_text_encoder,
    read_unet,
)
from generalist.pretrained.tokenizer import read_tokenizer
from generalist.pretrained.weights import WeightsError

logger = logging.getLogger("generalist")

READERS = {
    "unet": read_unet,
    "image_encoder": read_image_encoder,
    "text_encoder": read_text_encoder,
    "autoencoder": read_autoencoder,
}
# What a UNet must have in common with its checkpoint; the rest (variant, stem, extras) is the config's.
UNET_SIZES = ("channels", "layers_per_block", "context_dim", "heads", "head_dim", "groups")
STRATEGIES = ("cycle", "mean", "fresh")


def parse(init_from: str) -> dict[str, str]:
    """`model.init_from` -> {part: folder}; {} where it is empty or names a whole model of this project.

    A Stable Diffusion folder (with unet/ in it) alone stands for its UNet and its text encoder: the autoencoder is only
    used where it is named, since the model paints pixels. Raises WeightsError for an unknown part.
    """
    whole, named = [], {}
    for item in filter(None, init_from.split(",")):
        part, is_named, folder = item.partition("=")
        if is_named:
            named[part] = folder
        else:
            whole.append(item)
    for part in named:
        if part not in READERS:
            raise WeightsError(
                f"model.init_from: unknown component {part!r}.{did_you_mean(part, READERS)} "
                f"Components: {', '.join(READERS)}."
            )
    if len(whole) == 1 and (pathlib.Path(whole[0]).expanduser() / "unet" / "config.json").is_file():
        return {"unet": whole[0], "text_encoder": whole[0]} | named
    if len(whole) > 1 or (whole and named):
        raise WeightsError(
            f"model.init_from={init_from}: give one model folder, one Stable Diffusion folder, or parts as "
            f"{','.join(f'{part}=FOLDER' for part in READERS)}"
        )
    return named


def read_parts(init_from: str) -> dict[str, PublishedModel]:
    """Reads every part that `init_from` names. WeightsError as the readers raise it."""
    return {part: READERS[part](folder) for part, folder in parse(init_from).items()}


def settle(model: Mapping, parts: Mapping[str, PublishedModel], prompts: Mapping[str, str]) -> dict:
    """The `model` group of a config, plain, with the sizes of the parts that are given, and the ids of the prompts.

    What the checkpoint does not decide stays: the UNet's variant, stem and extras, and the size of the encoder's image, which is
    rounded to a multiple of its patch. prompts: {task: prompt}, for the part's own tokenizer.
    """
    model = dict(model)
    if unet := parts.get("unet"):
        levels = model["unet"]["attention_levels"]
        sizes = {name: unet.settings[name] for name in UNET_SIZES}
        same_depth = len(levels) == len(sizes["channels"])
        model["unet"] = (
            model["unet"]
            | sizes
            | {
                "heads": sizes["heads"] or 0,
                "attention_levels": levels if same_depth else unet.settings["attention_levels"],
            }
        )
    if image := parts.get("image_encoder"):
        patch, size = image.settings["patch"], model["image_encoder"]["image_size"]
        model["image_encoder"] = image.settings | {
            "image_size": patch * max(1, round(size / patch))
        }
        model["image_mean"], model["image_std"] = image.normalization
    if text := parts.get("text_encoder"):
        kind = "t5" if "buckets" in text.settings else "transformer"
        model["text_encoder"] = text.settings | {"kind": kind}
        tokenizer = read_tokenizer(text.report.source, text.settings.get("length"))
        model["prompt_ids"] = dict(zip(prompts, tokenizer(list(prompts.values())).tolist()))
    if autoencoder := parts.get("autoencoder"):
        model["autoencoder"] = autoencoder.settings
    return model


def fill(
    parts: Mapping[str, PublishedModel],
    initial: Mapping[str, np.ndarray],
    model: Mapping,
) -> dict[str, np.ndarray]:
    """The initial parameters of a model, with those of the given parts put in; says what was adapted and what is new.

    Args:
      parts: from `read_parts`.
      initial: {path: array} of the model as `settle` sized it, from scratch.
      model: that `model` group. `adapt.conv` says how conv_in and conv_out get other channels (see `adapt_channels`),
        `adapt.new` lists regexes of parameters that no checkpoint has; they keep their initial values.

    Raises:
      WeightsError: lists every parameter of a part that the folder lacks and `adapt.new` does not allow, every tensor left over
        (but for the transformers of levels where this variant has none), and every other shape.
    """
    values, problems = dict(initial), []
    for name, part in parts.items():
        expected = {
            path.removeprefix(f"{name}."): value.shape
            for path, value in initial.items()
            if path.startswith(f"{name}.")
        }
        given, notes = dict(part.values), []
        if name == "unet":
            notes = _adapt_unet(given, initial, model)
        if "position_embedding" in given and name == "image_encoder":
            notes = _resize_positions(given, expected, part.settings["interpolation"])
        new = [path for path in expected if path not in given]
        unused = [path for path in given if path not in expected]
        problems += [
            f"left over: {name}.{path}" for path in unused if not _in_bare_block(path, expected)
        ]
        problems += [
            f"shape of {name}.{path}: {given[path].shape} in the folder, {shape} in the model"
            for path, shape in expected.items()
            if path in given and given[path].shape != shape
        ]
        problems += [
            f"missing: {name}.{path} {expected[path]}"
            for path in new
            if not _matches(model["adapt"]["new"], f"{name}.{path}")
        ]
        values.update({f"{name}.{path}": given[path] for path in expected if path in given})
        groups = sorted({path.split(".")[0] for path in new})
        logger.info(
            f"{name}: {len(expected) - len(new)} parameters from {part.report.source}"
            + "".join(f"; {note}" for note in notes)
            + (f"; new: {', '.join(groups)}" if groups else "")
            + (f"; {len(unused)} not in this variant" if unused else "")
        )
    if problems:
        raise WeightsError(
            "model.init_from does not fit the model (model.adapt.new lists what may be new):\n"
            + listed(problems)
        )
    return values


def adapt_channels(
    kernel: np.ndarray, bias: np.ndarray | None, channels: int, strategy: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """A convolution's kernel (3, 3, latent channels, c) for another number of channels (3, 3, n, c); the same number stays as it is.

    strategy: "cycle": channel i is the checkpoint's i mod k, times sqrt(k / n): noise of unit variance gives the response of
        the variance it gave. "mean": every channel is their mean, times k / n: the same value in all channels gives the
        response it gave. For the output (a kernel turned around, with its bias) the factor is 1, since channels are not summed.
    """
    old = kernel.shape[2]
    if channels == old:
        return kernel, bias
    gain = (
        1.0
        if bias is not None
        else {"cycle": np.sqrt(old / channels), "mean": old / channels}[strategy]
    )
    pick = np.arange(channels) % old if strategy == "cycle" else np.zeros(channels, int)
    if strategy == "mean":
        kernel, bias = (
            kernel.mean(2, keepdims=True),
            bias if bias is None else bias.mean(keepdims=True),
        )
    return np.float32(gain) * kernel[:, :, pick], bias if bias is None else bias[pick]


def _adapt_unet(given: dict, initial: Mapping, model: Mapping) -> list[str]:
    """conv_in and conv_out from latent to pixel channels; an image concatenated to x_t starts without influence."""
    strategy = model["adapt"]["conv"]
    if strategy not in STRATEGIES:
        raise WeightsError(f"model.adapt.conv {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    old = given["conv_in.kernel"].shape[2], given["conv_out.kernel"].shape[3]
    *size, total, width = initial["unet.conv_in.kernel"].shape
    channels = initial["unet.conv_out.kernel"].shape[
        3
    ]  # of x_t, in all positions of the stem's patch
    if old == (total, channels):
        return []
    if strategy == "fresh":
        given.update(
            {
                path: initial[f"unet.{path}"]
                for path in ("conv_in.kernel", "conv_out.kernel", "conv_out.bias")
            }
        )
    else:
        positions = model["unet"]["patch"] ** 2
        stem = np.zeros(
            (*size, positions, total // channels, channels // positions, width), np.float32
        )  # x_t, then the image
        kernel, _ = adapt_channels(given["conv_in.kernel"], None, channels, strategy)
        stem[:, :, :, 0] = kernel.reshape(*size, positions, channels // positions, width)
        given["conv_in.kernel"] = stem.reshape(*size, total, width)
        kernel, given["conv_out.bias"] = adapt_channels(
            given["conv_out.kernel"].swapaxes(2, 3), given["conv_out.bias"], channels, strategy
        )
        given["conv_out.kernel"] = np.ascontiguousarray(kernel.swapaxes(2, 3))
    return [f"conv_in {old[0]} -> {total} channels, conv_out {old[1]} -> {channels} ({strategy})"]


def _resize_positions(given: dict, expected: Mapping, method: str) -> list[str]:
    old, new = given["position_embedding"].shape[:2], tuple(expected["position_embedding"][:2])
    given["position_embedding"] = np.asarray(
        layers.resize_positions(given["position_embedding"], new, method), np.float32
    )
    return [f"positions {old[0]}x{old[1]} -> {new[0]}x{new[1]} ({method})"] if old != new else []


def _matches(patterns: Sequence[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def _in_bare_block(path: str, expected: Mapping) -> bool:
    """Whether a path lies in the transformers of a block that has none in the model."""
    block = re.match(r"((down|up)_blocks\.\d+\.attentions\.)", path)
    return bool(block) and not any(other.startswith(block[1]) for other in expected)
