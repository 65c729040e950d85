"""Published models in the folders of transformers and diffusers -> our modules.

    unet = load_unet("stable-diffusion-v1-5")  # a folder on disk, a pipeline's folder, or a hub id
    eps = unet(x, timestep, tokens)

The readers are strict: every tensor of the folder is used or known to belong to another component,
every parameter is filled, and anything else is an error. The report lists what became of each.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from generalist.models import layers, parameters
from generalist.models.autoencoder import Autoencoder
from generalist.models.t5_encoder import T5Encoder
from generalist.models.text_encoder import TextEncoder
from generalist.models.unet import UNet
from generalist.models.vision_transformer import VisionTransformer
from generalist.names import first_line, listed
from generalist.pretrained import families
from generalist.pretrained.folders import (
    MOST_LAYERS,
    Config,
    find_folder,
    read_config,
    read_normalization,
    read_tensors,
)
from generalist.pretrained.weights import WeightsError

# transformers' name -> ours.
ACTIVATIONS = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}

# The image encoders, by the `model_type` of their config.json (with or without "_vision_model").
IMAGE_ENCODERS = {
    "clip": families.CLIP_VISION,
    "siglip": families.SIGLIP_VISION,
    "siglip2": families.SIGLIP2_VISION,
    "dinov2": families.DINOV2,
    "dinov2_with_registers": families.DINOV2_WITH_REGISTERS,
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor of a folder."""

    source: str  # the folder
    used: Mapping[str, str]  # {their name: our path}
    reshaped: Mapping[str, str]  # {our path: how}
    ignored: tuple[str, ...]  # their names that belong to components we do not build

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {len(self.used)} tensors used, {len(self.ignored)} of other "
            f"components, {len(self.reshaped)} reshaped"
        ]
        for theirs, ours in sorted(self.used.items()):
            how = f"  ({self.reshaped[ours]})" if ours in self.reshaped else ""
            lines.append(f"  {theirs} -> {ours}{how}")
        for name in self.ignored:
            lines.append(f"  not needed: {name}")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A published model, read into our names."""

    make: Callable[[int | None], nnx.Module]  # `make(seed)` builds it
    settings: dict[str, Any]  # the keyword arguments it is built with, but for dtype and rngs
    values: dict[str, np.ndarray]  # its parameters, {our path: float32 array}
    report: Report
    family: families.Family  # the names it was published under

    # (mean, std), each (r, g, b) of 0 to 1: an image encoder wants (image - mean) / std. None for
    # the other components.
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def module(self) -> nnx.Module:
        """Returns the module, filled."""
        graphdef, _ = parameters.abstract(lambda: self.make(None))
        return parameters.merge(graphdef, jax.tree.map(jnp.asarray, self.values))


def load_unet(path: str | os.PathLike, dtype=jnp.float32) -> UNet:
    """Loads the `UNet2DConditionModel` of Stable Diffusion 1.x or 2.x.

    Returns:
      `unet(x (b, h, w, c), timestep (b,), tokens (b, n, d)) -> (b, h, w, c)`.
    """
    return read_unet(path, dtype).module()


def load_text_encoder(
    path: str | os.PathLike, dtype=jnp.float32, skip: int = 0
) -> TextEncoder | T5Encoder:
    """Loads a `CLIPTextModel` (OpenAI's or OpenCLIP's) or the encoder of T5.

    Args:
      path: a folder on disk, a pipeline's folder, or a hub id.
      dtype: of the computation.
      skip: how many of CLIP's layers to leave out at the end, before the final norm. Stable
        Diffusion 2.x uses OpenCLIP without the last one, which its own text_encoder folder
        already leaves out.

    Returns:
      `encoder(ids (b, n)) -> last_hidden_state (b, n, d)`.
    """
    return read_text_encoder(path, dtype, skip).module()


def load_image_encoder(path: str | os.PathLike, dtype=jnp.float32) -> VisionTransformer:
    """Loads a CLIP, SigLIP, SigLIP 2 or DINOv2 encoder.

    Returns:
      `encoder(image (b, h, w, 3), normalized as it wants) -> last_hidden_state (b, n, d)`.
    """
    return read_image_encoder(path, dtype).module()


def load_autoencoder(path: str | os.PathLike, dtype=jnp.float32) -> Autoencoder:
    """Loads an `AutoencoderKL`.

    Returns:
      A module with `.encode(image) -> (mean, logvar)` and `.decode(latent) -> image`, all NHWC;
      latents are unscaled.
    """
    return read_autoencoder(path, dtype).module()


def read_published(path: str | os.PathLike) -> PublishedModel:
    """Reads a folder of any of these models, by what its config.json says it is."""
    config = read_config(find_folder(path))
    name = str(config.get("_class_name") or config.get("model_type"))
    readers = {
        "UNet2DConditionModel": read_unet,
        "AutoencoderKL": read_autoencoder,
        "t5": read_text_encoder,
        "clip_text_model": read_text_encoder,
    }
    return readers.get(name, read_image_encoder)(path)


def read_unet(path: str | os.PathLike, dtype=jnp.float32) -> PublishedModel:
    """Reads what `load_unet` loads.

    Raises:
      WeightsError: the config asks for what our UNet is not, such as SDXL's extras.
    """
    folder = find_folder(path, "unet")
    config = _with_defaults(read_config(folder), families.UNET)
    _require(
        config,
        folder,
        _class_name="UNet2DConditionModel",
        act_fn="silu",
        norm_eps=1e-5,
        conv_in_kernel=3,
        conv_out_kernel=3,
        flip_sin_to_cos=True,
        freq_shift=0,
        class_embed_type=None,
        addition_embed_type=None,
        num_class_embeds=None,
        dual_cross_attention=False,
        only_cross_attention=False,
        transformer_layers_per_block=1,
        mid_block_type="UNetMidBlock2DCrossAttn",
        resnet_time_scale_shift="default",
        encoder_hid_dim=None,
        time_embedding_type="positional",
        downsample_padding=1,
        mid_block_scale_factor=1,
        center_input_sample=False,
        attention_type="default",
        cross_attention_norm=None,
        time_embedding_dim=None,
        time_embedding_act_fn=None,
        timestep_post_act=None,
        time_cond_proj_dim=None,
        resnet_skip_time_act=False,
        resnet_out_scale_factor=1.0,
    )
    channels = config.wholes("block_out_channels")

    # What diffusers calls attention_head_dim is the number of heads: one for all levels (1.x), or
    # one a level (2.x), where all heads are of the same width.
    key = "num_attention_heads" if config["num_attention_heads"] else "attention_head_dim"
    heads = config.wholes(key) if isinstance(config[key], list | tuple) else config.whole(key)
    widths = set()
    if isinstance(heads, tuple):
        widths = {width // count for width, count in zip(channels, heads, strict=False)}
    if len(widths) > 1 or (isinstance(heads, tuple) and len(heads) != len(channels)):
        raise WeightsError(
            f"{folder}: attention heads {heads} of different widths at channels {channels} are "
            "not supported"
        )

    settings = dict(
        in_channels=config.whole("in_channels"),
        out_channels=config.whole("out_channels"),
        channels=channels,
        layers_per_block=config.whole("layers_per_block", MOST_LAYERS),
        attention_levels=tuple(
            block.startswith("CrossAttn") for block in config.texts("down_block_types")
        ),
        context_dim=config.whole("cross_attention_dim"),
        heads=None if widths else heads,
        head_dim=next(iter(widths), 0),
        groups=config.whole("norm_num_groups"),
    )
    return _read_model(folder, families.UNET, UNet, settings, dtype)


def read_text_encoder(path: str | os.PathLike, dtype=jnp.float32, skip: int = 0) -> PublishedModel:
    """Reads what `load_text_encoder` loads."""
    folder = find_folder(path, "text_encoder")
    config = read_config(folder)
    model_type = config.get("model_type")
    if model_type == "t5":
        return _read_t5(folder, config, dtype, skip)
    if model_type in ("clip", "clip_text_model"):
        return _read_clip_text(folder, config, dtype, skip)
    raise WeightsError(
        f"{folder}: model_type {model_type!r} is no text encoder that is read here; "
        "choose clip_text_model, clip or t5"
    )


def _read_t5(folder: pathlib.Path, config: Config, dtype, skip: int) -> PublishedModel:
    config = _with_defaults(config, families.T5)
    if skip:
        raise WeightsError(
            f"{folder}: skip={skip} is for CLIP's text encoders; T5 is used whole, skip=0"
        )
    activation = config["feed_forward_proj"]
    if activation not in ("relu", "gated-gelu"):
        raise WeightsError(
            f"{folder}: T5 with feed_forward_proj={activation!r} is not supported, "
            "only 'relu' and 'gated-gelu'"
        )

    settings = dict(
        vocabulary=config.whole("vocab_size"),
        dim=config.whole("d_model"),
        depth=config.whole("num_layers", MOST_LAYERS),
        heads=config.whole("num_heads"),
        head_dim=config.whole("d_kv"),
        inner=config.whole("d_ff"),
        gated=activation == "gated-gelu",
        epsilon=config.number("layer_norm_epsilon"),
        buckets=config.whole("relative_attention_num_buckets"),
        max_distance=config.whole("relative_attention_max_distance"),
    )
    return _read_model(folder, families.T5, T5Encoder, settings, dtype)


def _read_clip_text(folder: pathlib.Path, config: Config, dtype, skip: int) -> PublishedModel:
    config = _with_defaults(_tower(config, "text_config"), families.CLIP_TEXT)

    # Our final norm has this epsilon; that of the layers would be free.
    _require(config, folder, layer_norm_eps=1e-5)

    # The skipped layers are in the folder, and expected to be left over.
    depth = config.whole("num_hidden_layers", MOST_LAYERS)
    if not 0 <= skip < depth:
        raise WeightsError(f"{folder}: skip={skip} of {depth} layers; choose 0 to {depth - 1}")
    skipped = [f"encoder.layers.{i}.*" for i in range(depth - skip, depth)]
    family = families.CLIP_TEXT._replace(ignored=[*families.CLIP_TEXT.ignored, *skipped])

    settings = dict(
        dim=config.whole("hidden_size"),
        depth=depth - skip,
        heads=config.whole("num_attention_heads"),
        inner=config.whole("intermediate_size"),
        vocabulary=config.whole("vocab_size"),
        length=config.whole("max_position_embeddings"),
        activation=_activation(config, folder),
        epsilon=config.number("layer_norm_eps"),
        causal=True,
    )
    return _read_model(folder, family, TextEncoder, settings, dtype)


def read_image_encoder(path: str | os.PathLike, dtype=jnp.float32) -> PublishedModel:
    """Reads what `load_image_encoder` loads."""
    folder = find_folder(path, "image_encoder")
    config = read_config(folder)
    model_type = str(config.get("model_type", ""))
    name = model_type.removesuffix("_vision_model")
    if name not in IMAGE_ENCODERS:
        raise WeightsError(
            f"{folder}: model_type {model_type!r} is no image encoder that is read here; "
            f"choose one of {', '.join(IMAGE_ENCODERS)}"
        )

    family = IMAGE_ENCODERS[name]
    config = _with_defaults(_tower(config, "vision_config"), family)
    settings = _vision_settings(config, name, folder)
    published = _read_model(folder, family, VisionTransformer, settings, dtype)

    # The folder's own processor knows best how the images were normalized.
    return dataclasses.replace(
        published, normalization=read_normalization(folder) or family.normalization
    )


def _vision_settings(config: Mapping[str, Any], name: str, folder: pathlib.Path) -> dict:
    """Returns the keyword arguments of a VisionTransformer; `name` as in IMAGE_ENCODERS."""
    _require(config, folder, num_channels=3)

    # Some sizes are no multiple of the patch (384 of 14): their library leaves out the pixels
    # beyond the last whole one.
    if name == "siglip2":
        grid = round(config.whole("num_patches") ** 0.5)
    else:
        grid = config.whole("image_size") // config.whole("patch_size")
    settings = dict(
        image_size=grid * config.whole("patch_size"),
        patch=config.whole("patch_size"),
        dim=config.whole("hidden_size"),
        depth=config.whole("num_hidden_layers", MOST_LAYERS),
        heads=config.whole("num_attention_heads"),
        inner=config.whole("intermediate_size") if "intermediate_size" in config else None,
        activation=_activation(config, folder),
        epsilon=config.number("layer_norm_eps"),
    )

    if name == "clip":
        return dict(settings, class_token=True, patch_bias=False, pre_norm=True, final_norm=False)
    if name == "siglip":
        return dict(settings, interpolation="bicubic")
    if name == "siglip2":
        return dict(settings, interpolation="bilinear_antialias")

    # DINOv2 states the width of its feed-forward as a ratio, before the gate takes a third of it.
    _require(config, folder, qkv_bias=True)
    has_registers = name == "dinov2_with_registers"
    gated = config.flag("use_swiglu_ffn")
    inner = int(config.whole("hidden_size") * config.number("mlp_ratio"))
    return dict(
        settings,
        class_token=True,
        layer_scale=True,
        registers=config.whole("num_register_tokens") if has_registers else 0,
        gated=gated,
        inner=families.swiglu_width(inner) if gated else inner,
        interpolation="bicubic_antialias" if has_registers else "bicubic",
    )


def read_autoencoder(path: str | os.PathLike, dtype=jnp.float32) -> PublishedModel:
    """Reads what `load_autoencoder` loads."""
    folder = find_folder(path, "vae")
    config = _with_defaults(read_config(folder), families.AUTOENCODER)

    # What our module computes; a checkpoint that asks for anything else is refused.
    _require(
        config,
        folder,
        _class_name="AutoencoderKL",
        act_fn="silu",
        use_quant_conv=True,
        use_post_quant_conv=True,
        in_channels=3,
        out_channels=3,
        mid_block_add_attention=True,
        shift_factor=None,
        latents_mean=None,
        latents_std=None,
    )

    settings = dict(
        channels=config.wholes("block_out_channels"),
        layers_per_block=config.whole("layers_per_block", MOST_LAYERS),
        latent_channels=config.whole("latent_channels"),
        groups=config.whole("norm_num_groups"),
        scaling_factor=config.number("scaling_factor"),
    )
    return _read_model(folder, families.AUTOENCODER, Autoencoder, settings, dtype)


def _tower(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Returns the config of one encoder.

    A model of both encoders has it under "text_config" or "vision_config". Old files repeat it
    with a "_dict" added to the key, which wins.
    """
    if key not in config:
        return config
    towers = [config.get(name) or {} for name in (key, f"{key}_dict")]
    for tower in towers:
        if not isinstance(tower, Mapping):
            raise WeightsError(f"config.json has {key} = {tower!r}: allowed is an object of fields")
    return towers[0] | towers[1]


def _with_defaults(config: Mapping[str, Any], family: families.Family) -> Config:
    return Config({**family.defaults, **config})


def _activation(config: Mapping[str, Any], folder: pathlib.Path) -> str:
    name = str(config["hidden_act"])
    if name not in ACTIVATIONS:
        raise WeightsError(
            f"{folder}: hidden_act {name!r} is not supported; "
            f"choose one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def _require(config: Mapping[str, Any], folder: pathlib.Path, **values) -> None:
    """Checks that a config says what our model is; an absent key is fine.

    Raises:
      WeightsError: lists every key that differs.
    """
    other = [
        f"{key}={config[key]!r} (supported: {value!r})"
        for key, value in values.items()
        if key in config and config[key] != value
    ]
    if other:
        raise WeightsError(f"{folder}: a model with {', '.join(other)} cannot be read")


def _read_model(
    folder: pathlib.Path,
    family: families.Family,
    module: type[nnx.Module],
    settings: dict[str, Any],
    dtype,
) -> PublishedModel:
    """Reads the tensors of a folder as the parameters of a module.

    Raises:
      WeightsError: lists all that is missing, left over or misshapen.
    """

    def make(seed: int | None) -> nnx.Module:
        return module(**settings, rngs=layers.HostRngs(seed), dtype=dtype)

    shapes = _shapes(lambda: make(None), f"{folder}: its config.json describes no", module)

    # Their tensors, by our paths. Each is used, ignored or a problem.
    tensors = {}
    used = {}
    ignored = []
    problems = []
    for name, tensor in sorted(read_tensors(folder).items()):
        path = to_path(name, tensor, family, shapes)
        if path is not None:
            used[name] = path
            tensors[path] = tensor.astype(np.float32)
        elif families.is_ignored(name, family):
            ignored.append(name)
        else:
            problems.append(f"left over: {name} {tensor.shape}")

    # Every parameter is filled, in our layout.
    values = {}
    reshaped = _split_positions(tensors, shapes)
    for path, expected in shapes.items():
        if path not in tensors:
            theirs = families.to_theirs(path, family)
            problems.append(f"missing: {theirs} for {path} {expected.shape}")
        elif tensors[path].size != expected.size:
            problems.append(
                f"shape of {path}: {tensors[path].shape} in the folder, {expected.shape} here"
            )
        else:
            values[path], note = convert(tensors[path], path, expected.shape)
            if note:
                reshaped[path] = note

    if problems:
        raise WeightsError(f"{folder} does not fit its config.json:\n{listed(problems)}")
    report = Report(str(folder), used, reshaped, tuple(ignored))
    return PublishedModel(make, settings, values, report, family)


def _shapes(make: Callable[[], nnx.Module], problem: str, module: type[nnx.Module]) -> Mapping:
    """Returns {path: shape} of a module; WeightsError where its sizes do not go together."""
    try:
        return parameters.abstract(make)[1]
    except (ValueError, TypeError, ZeroDivisionError) as error:
        raise WeightsError(f"{problem} {module.__name__} ({first_line(error)})") from error


def to_path(name: str, tensor: np.ndarray, family: families.Family, shapes: Mapping) -> str | None:
    """Returns the path of the parameter that a tensor is for, or None if there is none."""
    path = families.to_ours(name, tensor.ndim, family)
    return path if path in shapes else None


def convert(tensor: np.ndarray, path: str, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """Converts a published tensor to our layout.

    Args:
      tensor: as published: kernels are (out, in) or OIHW.
      path: of our parameter.
      shape: of our parameter: kernels are (in, out) or HWIO.

    Returns:
      The array, and how it was reshaped, or "" if it was not.
    """
    ours = tensor
    if path.endswith(".kernel"):
        ours = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    note = "" if ours.shape == shape else f"{tensor.shape} -> {shape}"
    return np.ascontiguousarray(ours.reshape(shape)), note


def _split_positions(tensors: dict[str, np.ndarray], shapes: Mapping) -> dict[str, str]:
    """Changes positions (1 + n, d) to (n, d) where the first belongs to the class token.

    The token never has another position, so that the sum of both is our parameter.

    Returns:
      What was reshaped: {path: how}.
    """
    if "class_token" not in shapes:
        return {}
    if "position_embedding" not in tensors or "class_token" not in tensors:
        return {}

    dim = shapes["class_token"].shape[0]
    if tensors["position_embedding"].size % dim or tensors["class_token"].size != dim:
        return {}  # their shapes are listed with all others that do not fit
    positions = tensors["position_embedding"].reshape(-1, dim)
    tensors["class_token"] = tensors["class_token"].reshape(dim) + positions[0]
    tensors["position_embedding"] = positions[1:]
    return {"class_token": "plus its position, row 0 of the position embeddings"}
