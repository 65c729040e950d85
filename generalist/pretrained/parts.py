"""A generalist that starts from published models.

`model.init_from` names them: one folder of a whole model, or one folder a component,
`unet=FOLDER,image_encoder=FOLDER,...`.
"""

import dataclasses
import logging
import pathlib
import re
from collections.abc import Mapping, Sequence

import numpy as np

from generalist.models import layers
from generalist.names import did_you_mean, listed
from generalist.pretrained.folders import local_folder
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

# The config of the model whose parts lie beside it, written by `export.export_model`.
WHOLE_CONFIG = "generalist.json"

# What a UNet must have in common with its checkpoint; the rest (variant, stem, extras) is the
# config's.
UNET_SIZES = ("channels", "layers_per_block", "context_dim", "heads", "head_dim", "groups")

# Ids of a prompt where the text encoder takes any number (T5) and examples have their own: CLIP's.
CAPTION_LENGTH = 77

STRATEGIES = ("cycle", "mean", "fresh")  # see `adapt_channels`; "fresh" keeps the initial values

# What the kernels of x_t are multiplied by, for x_t and for the image that is concatenated to it.
IMAGE_KERNELS = {
    "zero": (1.0, 0.0),  # the image has no influence at first
    "copied": (1.0, 1.0),  # it is seen as x_t is
    "halved": (0.5, 0.5),  # the same, and the sum of both keeps its size (arXiv 2312.02145)
}


def parse(init_from: str) -> dict[str, str]:
    """Parses `model.init_from`.

    A Stable Diffusion folder (with unet/ in it) alone names its UNet and its text encoder. The
    autoencoder is only used where it is named, since the model paints pixels.

    Returns:
      {component: folder}; {} if it is empty or names a whole model of this project.

    Raises:
      WeightsError: an unknown component, or folders that do not go together.
    """
    # A folder may have commas and = in its name.
    if pathlib.Path(init_from).expanduser().exists():
        items = [init_from]
    else:
        items = re.split(r",(?=\w+=)", init_from)

    whole = []
    named = {}
    for item in filter(None, items):
        component, is_named, folder = item.partition("=")
        if is_named and not pathlib.Path(item).expanduser().exists():
            named[component] = folder
        else:
            whole.append(item)

    for component in named:
        if component not in READERS:
            raise WeightsError(
                f"model.init_from: unknown component {component!r}."
                f"{did_you_mean(component, READERS)} Components: {', '.join(READERS)}."
            )

    if len(whole) == 1 and (local_folder(whole[0]) / "unet" / "config.json").is_file():
        return {"unet": whole[0], "text_encoder": whole[0]} | named
    if len(whole) > 1 or (whole and named):
        form = ",".join(f"{component}=FOLDER" for component in READERS)
        raise WeightsError(
            f"model.init_from={init_from}: give one model folder, one Stable Diffusion folder, or "
            f"components as {form}"
        )
    return named


def read_parts(init_from: str) -> dict[str, PublishedModel]:
    """Reads every component that `init_from` names; raises WeightsError as the readers do."""
    return {component: READERS[component](folder) for component, folder in parse(init_from).items()}


def settle(
    model: Mapping,
    published: Mapping[str, PublishedModel],
    prompts: Mapping[str, str],
    own_prompts: bool = False,
) -> dict:
    """Returns the `model` group of a config with the sizes of the published components.

    What a checkpoint does not decide stays: the UNet's variant, stem and extras, and the size of
    the encoder's image, which is rounded to a multiple of its patch.

    Args:
      model: the group, as plain dicts.
      published: from `read_parts`.
      prompts: {task: prompt}, for the published text encoder's own tokenizer.
      own_prompts: whether examples have others, which may be longer.
    """
    model = dict(model)

    if unet := published.get("unet"):
        levels = model["unet"]["attention_levels"]
        sizes = {name: unet.settings[name] for name in UNET_SIZES}

        # The variant says which levels have attention, as long as there are as many levels.
        if len(levels) != len(sizes["channels"]):
            levels = unet.settings["attention_levels"]

        # A config has 0 where the module has None.
        heads = sizes["heads"] or 0
        model["unet"] = model["unet"] | sizes | {"heads": heads, "attention_levels": levels}

    if image := published.get("image_encoder"):
        patch = image.settings["patch"]
        size = patch * max(1, round(model["image_encoder"]["image_size"] / patch))
        model["image_encoder"] = image.settings | {"image_size": size}
        model["image_mean"], model["image_std"] = image.normalization

    if text := published.get("text_encoder"):
        kind = "t5" if "buckets" in text.settings else "transformer"
        model["text_encoder"] = text.settings | {"kind": kind}

        # The ids are kept in the config, so that the model predicts without the tokenizer's files.
        tokenizer = read_tokenizer(text.report.source, text.settings.get("length"))
        if own_prompts and tokenizer.length is None:
            tokenizer = dataclasses.replace(tokenizer, length=CAPTION_LENGTH)
        ids = tokenizer(list(prompts.values())).tolist()
        model["prompt_ids"] = dict(zip(prompts, ids, strict=True))

    if autoencoder := published.get("autoencoder"):
        model["autoencoder"] = autoencoder.settings
    return model


def fill(
    published: Mapping[str, PublishedModel],
    initial: Mapping[str, np.ndarray],
    model: Mapping,
) -> dict[str, np.ndarray]:
    """Puts the published components into the initial parameters of a model.

    Logs, a line a component, what was adapted and what is new.

    Args:
      published: from `read_parts`.
      initial: {path: array} of the model as `settle` sized it, from scratch.
      model: that `model` group. `adapt.conv` says how conv_in and conv_out get other channels (see
        `adapt_channels`), `adapt.image` the kernels of a concatenated image (see IMAGE_KERNELS),
        `adapt.new` lists regexes of parameters that no checkpoint has; they keep their initial
        values.

    Raises:
      WeightsError: lists every parameter that a folder does not have and `adapt.new` does not
        allow, every tensor left over (but for the transformers of levels where this variant has
        none), and every other shape.
    """
    values = dict(initial)
    if "unet" in published:
        # No image token has been seen yet: at first there are none but zeros.
        kernel = "image_projection.kernel"
        values[kernel] = np.zeros_like(initial[kernel])

    problems = []
    for component, source in published.items():
        expected = {
            path.removeprefix(f"{component}."): value.shape
            for path, value in initial.items()
            if path.startswith(f"{component}.")
        }

        # What is there, adapted to this model.
        theirs = dict(source.values)
        notes = []
        if component == "unet":
            notes = _adapt_unet(theirs, initial, model)
        if component == "image_encoder" and "position_embedding" in theirs:
            notes = _resize_positions(theirs, expected, source.settings["interpolation"])

        new = [path for path in expected if path not in theirs]
        unused = [path for path in theirs if path not in expected]
        problems += _misfits(component, theirs, expected, model["adapt"]["new"])
        for path in expected:
            if path in theirs:
                values[f"{component}.{path}"] = theirs[path]

        line = f"{component}: {len(expected) - len(new)} parameters from {source.report.source}"
        for note in notes:
            line += f"; {note}"
        if new:
            line += f"; new: {', '.join(sorted({path.split('.')[0] for path in new}))}"
        if unused:
            line += f"; {len(unused)} not in this variant"
        logger.info(line)

    if problems:
        raise WeightsError(
            "model.init_from does not fit the model (model.adapt.new lists what may be new):\n"
            + listed(problems)
        )
    return values


def _misfits(
    component: str,
    theirs: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    may_be_new: Sequence[str],
) -> list[str]:
    """Lists what keeps the parameters `theirs` from filling a component of `expected` shapes."""
    problems = []
    for path in theirs:
        if path not in expected and not _in_bare_block(path, expected):
            problems.append(f"left over: {component}.{path}")

    for path, shape in expected.items():
        if path in theirs and theirs[path].shape != shape:
            problems.append(
                f"shape of {component}.{path}: {theirs[path].shape} in the folder, "
                f"{shape} in the model"
            )

    for path, shape in expected.items():
        if path not in theirs and not _matches(may_be_new, f"{component}.{path}"):
            problems.append(f"missing: {component}.{path} {shape}")
    return problems


def adapt_channels(
    kernel: np.ndarray, bias: np.ndarray | None, channels: int, strategy: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Adapts a convolution to another number of channels; the same number stays as it is.

    Args:
      kernel: (3, 3, k, c), of the checkpoint's k latent channels.
      bias: (k,) for the output, whose kernel is turned around; None for the input.
      channels: the new number n.
      strategy: "cycle": channel i is the checkpoint's i mod k, times sqrt(k / n), so that noise of
        unit variance gives a response of the variance it gave. "mean": every channel is their mean,
        times k / n, so that the same value in all channels gives the response it gave. For the
        output the factor is 1, since channels are not summed.

    Returns:
      The kernel (3, 3, n, c) and the bias (n,), or None.
    """
    old = kernel.shape[2]
    if channels == old:
        return kernel, bias

    if bias is not None:
        gain = 1.0
    elif strategy == "cycle":
        gain = np.sqrt(old / channels)
    else:
        gain = old / channels

    # Which of the checkpoint's channels each new one is.
    if strategy == "cycle":
        pick = np.arange(channels) % old
    else:
        kernel = kernel.mean(2, keepdims=True)
        bias = None if bias is None else bias.mean(keepdims=True)
        pick = np.zeros(channels, int)
    return np.float32(gain) * kernel[:, :, pick], None if bias is None else bias[pick]


def _adapt_unet(theirs: dict[str, np.ndarray], initial: Mapping, model: Mapping) -> list[str]:
    """Adapts conv_in and conv_out from latent to pixel channels, in place.

    Returns:
      What was done, as a list of at most one line.
    """
    strategy = model["adapt"]["conv"]
    if strategy not in STRATEGIES:
        raise WeightsError(f"model.adapt.conv {strategy!r}: choose one of {', '.join(STRATEGIES)}")
    image = model["adapt"]["image"]
    if image not in IMAGE_KERNELS:
        raise WeightsError(f"model.adapt.image {image!r}: choose one of {', '.join(IMAGE_KERNELS)}")

    old_in = theirs["conv_in.kernel"].shape[2]
    old_out = theirs["conv_out.kernel"].shape[3]
    *size, total, width = initial["unet.conv_in.kernel"].shape

    # The channels of x_t, in all positions of the stem's patch.
    channels = initial["unet.conv_out.kernel"].shape[3]
    if (old_in, old_out) == (total, channels):
        return []

    if strategy == "fresh":
        for path in ("conv_in.kernel", "conv_out.kernel", "conv_out.bias"):
            theirs[path] = initial[f"unet.{path}"]
    else:
        # The stem's input channels are (position in the patch; x_t, then the image; color).
        positions = model["unet"]["patch"] ** 2
        colors = channels // positions
        stem = np.zeros((*size, positions, total // channels, colors, width), np.float32)
        kernel, _ = adapt_channels(theirs["conv_in.kernel"], None, channels, strategy)
        kernel = kernel.reshape(*size, positions, 1, colors, width)
        # Without an image there is only x_t, whose kernels stay.
        factors = IMAGE_KERNELS[image] if total > channels else (1.0,)
        stem[:] = kernel * np.reshape(np.float32(factors), (-1, 1, 1))
        theirs["conv_in.kernel"] = stem.reshape(*size, total, width)

        # The output is turned around, so that its channels are where those of an input are.
        turned = theirs["conv_out.kernel"].swapaxes(2, 3)
        kernel, theirs["conv_out.bias"] = adapt_channels(
            turned, theirs["conv_out.bias"], channels, strategy
        )
        theirs["conv_out.kernel"] = np.ascontiguousarray(kernel.swapaxes(2, 3))
    note = f"conv_in {old_in} -> {total} channels, conv_out {old_out} -> {channels} ({strategy})"
    return [f"{note}, the image's kernels {image}" if total > channels else note]


def _resize_positions(theirs: dict[str, np.ndarray], expected: Mapping, method: str) -> list[str]:
    """Resizes the position embedding to the model's grid, in place; returns what was done."""
    old = theirs["position_embedding"].shape[:2]
    new = tuple(expected["position_embedding"][:2])
    resized = layers.resize_positions(theirs["position_embedding"], new, method)
    theirs["position_embedding"] = np.asarray(resized, np.float32)
    if old == new:
        return []
    return [f"positions {old[0]}x{old[1]} -> {new[0]}x{new[1]} ({method})"]


def _matches(patterns: Sequence[str], path: str) -> bool:
    return any(re.search(pattern, path) for pattern in patterns)


def _in_bare_block(path: str, expected: Mapping) -> bool:
    """Says whether a path is in the transformers of a block that has none in the model."""
    block = re.match(r"((down|up)_blocks\.\d+\.attentions\.)", path)
    return bool(block) and not any(other.startswith(block[1]) for other in expected)
