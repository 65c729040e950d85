"""Published models in the folders of transformers and diffusers -> our modules, with a strict report.

    unet = load_unet("stable-diffusion-v1-5")  # a folder on disk, a pipeline's folder, or a hub id
    eps = unet(x, timestep, tokens)

Every tensor of the folder is used or known to be of another part; every parameter is filled; anything else is an error.
"""

import dataclasses
import os
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
from generalist.names import listed
from generalist.pretrained import families
from generalist.pretrained.folders import (
    Config,
    find_folder,
    read_config,
    read_normalization,
    read_tensors,
)
from generalist.pretrained.weights import WeightsError

ACTIVATIONS = {  # transformers' name -> ours
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of every tensor of a folder.

    used: {their name: our path}. reshaped: {our path: how}. ignored: their names that belong to parts we do not build.
    """

    source: str
    used: Mapping[str, str]
    reshaped: Mapping[str, str]
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.source}: {len(self.used)} tensors used, {len(self.ignored)} of other parts, {len(self.reshaped)} reshaped"
        ]
        lines += [
            f"  {theirs} -> {ours}{f'  ({self.reshaped[ours]})' if ours in self.reshaped else ''}"
            for theirs, ours in sorted(self.used.items())
        ]
        return "\n".join(lines + [f"  not needed: {name}" for name in self.ignored])


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """A published part read into our names.

    make: builds it, `make(seed)`. settings: the keyword arguments it is built with, but for dtype and rngs.
    values: its parameters, {our path: float32 array}. family: the names they were published under.
    normalization: (mean, std), each (r, g, b) of 0 to 1: an image encoder wants (image - mean) / std. None for the other parts.
    """

    make: Callable[[int | None], nnx.Module]
    settings: dict[str, Any]
    values: dict[str, np.ndarray]
    report: Report
    family: families.Family
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def module(self) -> nnx.Module:
        """The module, filled."""
        graphdef, _ = parameters.abstract(lambda: self.make(None))
        return parameters.merge(graphdef, jax.tree.map(jnp.asarray, self.values))


def load_unet(path: str | os.PathLike, dtype=jnp.float32) -> UNet:
    """`UNet2DConditionModel` of Stable Diffusion 1.x or 2.x -> `unet(x (b, h, w, c), timestep (b,), tokens (b, n, d)) -> (b, h, w, c)`."""
    return read_unet(path, dtype).module()


def load_text_encoder(
    path: str | os.PathLike, dtype=jnp.float32, skip: int = 0
) -> TextEncoder | T5Encoder:
    """`CLIPTextModel` (OpenAI's or OpenCLIP's) or T5's encoder -> `encoder(ids (b, n)) -> last_hidden_state (b, n, d)`.

    skip: CLIP's layers to leave out at the end, before the final norm. Stable Diffusion 2.x uses OpenCLIP with the last one left
    out; its own text_encoder folder already lacks it.
    """
    return read_text_encoder(path, dtype, skip).module()


def load_image_encoder(path: str | os.PathLike, dtype=jnp.float32) -> VisionTransformer:
    """CLIP, SigLIP, SigLIP 2 or DINOv2 -> `encoder(image (b, h, w, 3), normalised as it wants) -> last_hidden_state (b, n, d)`."""
    return read_image_encoder(path, dtype).module()


def load_autoencoder(path: str | os.PathLike, dtype=jnp.float32) -> Autoencoder:
    """`AutoencoderKL` -> `.encode(image) -> (mean, logvar)` and `.decode(latent) -> image`, NHWC, unscaled."""
    return read_autoencoder(path, dtype).module()


def read_published(path: str | os.PathLike) -> PublishedModel:
    """A folder of any of these models, by what its config.json says it is."""
    c = read_config(find_folder(path))
    kind = c.get("_class_name") or c.get("model_type")
    readers = {
        "UNet2DConditionModel": read_unet,
        "AutoencoderKL": read_autoencoder,
        "t5": read_text_encoder,
        "clip_text_model": read_text_encoder,
    }
    return readers.get(kind, read_image_encoder)(path)


def read_unet(path: str | os.PathLike, dtype=jnp.float32) -> PublishedModel:
    """See `load_unet`. WeightsError where the config asks for what this UNet is not (SDXL's extras, for example)."""
    folder = find_folder(path, "unet")
    c = _with_defaults(read_config(folder), families.UNET)
    _require(
        c,
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
    channels = tuple(c["block_out_channels"])
    # What diffusers calls attention_head_dim is the number of heads: one for all levels (1.x) or one a level (2.x).
    heads = c["num_attention_heads"] or c["attention_head_dim"]
    widths = {width // n for width, n in zip(channels, heads)} if isinstance(heads, list) else set()
    if len(widths) > 1:
        raise WeightsError(
            f"{folder}: attention heads {heads} of different widths at channels {channels} are not supported"
        )
    settings = dict(
        in_channels=c["in_channels"],
        out_channels=c["out_channels"],
        channels=channels,
        layers_per_block=c["layers_per_block"],
        attention_levels=tuple(kind.startswith("CrossAttn") for kind in c["down_block_types"]),
        context_dim=c["cross_attention_dim"],
        heads=None if widths else heads,
        head_dim=next(iter(widths), 0),
        groups=c["norm_num_groups"],
    )
    return _read(folder, families.UNET, UNet, settings, dtype)


def read_text_encoder(path: str | os.PathLike, dtype=jnp.float32, skip: int = 0) -> PublishedModel:
    """See `load_text_encoder`."""
    folder = find_folder(path, "text_encoder")
    c = read_config(folder)
    kind = c.get("model_type")
    if kind == "t5":
        c = _with_defaults(c, families.T5)
        activation = c["feed_forward_proj"]
        if skip:
            raise WeightsError(
                f"{folder}: skip={skip} is for CLIP's text encoders; T5 is used whole, skip=0"
            )
        if activation not in ("relu", "gated-gelu"):
            raise WeightsError(
                f"{folder}: T5 with feed_forward_proj={activation!r} is not supported, only 'relu' and 'gated-gelu'"
            )
        settings = dict(
            vocabulary=c["vocab_size"],
            dim=c["d_model"],
            depth=c["num_layers"],
            heads=c["num_heads"],
            head_dim=c["d_kv"],
            inner=c["d_ff"],
            gated=activation == "gated-gelu",
            epsilon=c["layer_norm_epsilon"],
            buckets=c["relative_attention_num_buckets"],
            max_distance=c["relative_attention_max_distance"],
        )
        return _read(folder, families.T5, T5Encoder, settings, dtype)
    if kind not in ("clip", "clip_text_model"):
        raise WeightsError(
            f"{folder}: model_type {kind!r} is no text encoder that is read here; choose clip_text_model, clip or t5"
        )
    c = _with_defaults(_tower(c, "text_config"), families.CLIP_TEXT)
    _require(c, folder, layer_norm_eps=1e-5)  # of the final norm; the layers' would be free
    depth = c["num_hidden_layers"]
    if not 0 <= skip < depth:
        raise WeightsError(f"{folder}: skip={skip} of {depth} layers; choose 0 to {depth - 1}")
    family = families.CLIP_TEXT._replace(
        ignored=[
            *families.CLIP_TEXT.ignored,
            *(f"encoder.layers.{i}.*" for i in range(depth - skip, depth)),
        ]
    )
    settings = dict(
        dim=c["hidden_size"],
        depth=depth - skip,
        heads=c["num_attention_heads"],
        inner=c["intermediate_size"],
        vocabulary=c["vocab_size"],
        length=c["max_position_embeddings"],
        activation=_activation(c, folder),
        epsilon=c["layer_norm_eps"],
        causal=True,
    )
    return _read(folder, family, TextEncoder, settings, dtype)


def read_image_encoder(path: str | os.PathLike, dtype=jnp.float32) -> PublishedModel:
    """See `load_image_encoder`."""
    folder = find_folder(path, "image_encoder")
    c = read_config(folder)
    kind = c.get("model_type", "")
    known = {
        "clip": families.CLIP_VISION,
        "siglip": families.SIGLIP_VISION,
        "siglip2": families.SIGLIP2_VISION,
        "dinov2": families.DINOV2,
        "dinov2_with_registers": families.DINOV2_WITH_REGISTERS,
    }
    name = kind.removesuffix("_vision_model")
    if name not in known:
        raise WeightsError(
            f"{folder}: model_type {kind!r} is no image encoder that is read here; choose one of {', '.join(known)}"
        )
    settings = _vision_settings(
        _with_defaults(_tower(c, "vision_config"), known[name]), name, folder
    )
    part = _read(folder, known[name], VisionTransformer, settings, dtype)
    return dataclasses.replace(
        part, normalization=read_normalization(folder) or part.family.normalization
    )


def _vision_settings(c: Mapping[str, Any], family: str, folder) -> dict:
    _require(c, folder, num_channels=3)
    # Some sizes are no multiple of the patch (384 of 14): their library leaves out the pixels beyond the last whole one.
    grid = (
        round(c["num_patches"] ** 0.5)
        if family == "siglip2"
        else c["image_size"] // c["patch_size"]
    )
    settings = dict(
        image_size=grid * c["patch_size"],
        patch=c["patch_size"],
        dim=c["hidden_size"],
        depth=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        inner=c.get("intermediate_size"),
        activation=_activation(c, folder),
        epsilon=c["layer_norm_eps"],
    )
    if family == "clip":
        return dict(settings, class_token=True, patch_bias=False, pre_norm=True, final_norm=False)
    if family.startswith("siglip"):
        return dict(
            settings, interpolation="bilinear_antialias" if family == "siglip2" else "bicubic"
        )
    _require(c, folder, qkv_bias=True)
    has_registers, gated, inner = (
        family == "dinov2_with_registers",
        c["use_swiglu_ffn"],
        int(c["hidden_size"] * c["mlp_ratio"]),
    )
    return dict(
        settings,
        class_token=True,
        layer_scale=True,
        registers=c["num_register_tokens"] if has_registers else 0,
        gated=gated,
        inner=families.swiglu_width(inner) if gated else inner,
        interpolation="bicubic_antialias" if has_registers else "bicubic",
    )


def read_autoencoder(path: str | os.PathLike, dtype=jnp.float32) -> PublishedModel:
    """See `load_autoencoder`."""
    folder = find_folder(path, "vae")
    c = _with_defaults(read_config(folder), families.AUTOENCODER)
    _require(
        c,
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
        channels=tuple(c["block_out_channels"]),
        layers_per_block=c["layers_per_block"],
        latent_channels=c["latent_channels"],
        groups=c["norm_num_groups"],
        scaling_factor=c["scaling_factor"],
    )
    return _read(folder, families.AUTOENCODER, Autoencoder, settings, dtype)


def _tower(c: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The config of one encoder: "text_config" or "vision_config" of a model of both (old files add a "_dict"; it wins), else all of it."""
    return {**(c.get(key) or {}), **(c.get(f"{key}_dict") or {})} if key in c else c


def _with_defaults(c: Mapping[str, Any], family: families.Family) -> Config:
    return Config({**family.defaults, **c})


def _activation(c: Mapping[str, Any], folder) -> str:
    if c["hidden_act"] not in ACTIVATIONS:
        raise WeightsError(
            f"{folder}: hidden_act {c['hidden_act']!r} is not supported; choose one of {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[c["hidden_act"]]


def _require(c: Mapping[str, Any], folder, **values) -> None:
    """WeightsError that lists every key of the config that differs from what our model is; an absent key is fine."""
    other = [
        f"{key}={c[key]!r} (supported: {value!r})"
        for key, value in values.items()
        if key in c and c[key] != value
    ]
    if other:
        raise WeightsError(f"{folder}: a model with {', '.join(other)} cannot be read")


def _read(
    folder, family: families.Family, kind: type[nnx.Module], settings: dict, dtype
) -> PublishedModel:
    """The tensors of a folder as the parameters of a `kind`; WeightsError that lists all that is missing, left over or misshapen."""
    make = lambda seed: kind(**settings, rngs=layers.HostRngs(seed), dtype=dtype)
    _, shapes = parameters.abstract(lambda: make(None))
    tensors, used, ignored, problems = {}, {}, [], []
    for name, tensor in sorted(read_tensors(folder).items()):
        path = to_path(name, tensor, family, shapes)
        if path is not None:
            used[name], tensors[path] = path, tensor.astype(np.float32)
        elif families.is_ignored(name, family):
            ignored.append(name)
        else:
            problems.append(f"left over: {name} {tensor.shape}")
    values, reshaped = {}, _split_positions(tensors, shapes)
    for path, expected in shapes.items():
        if path not in tensors:
            problems.append(
                f"missing: {families.to_theirs(path, family)} for {path} {expected.shape}"
            )
        elif tensors[path].size != expected.size:
            problems.append(
                f"shape of {path}: {tensors[path].shape} in the folder, {expected.shape} here"
            )
        else:
            values[path], note = convert(tensors[path], path, expected.shape)
            reshaped.update({path: note} if note else {})
    if problems:
        raise WeightsError(f"{folder} does not fit its config.json:\n{listed(problems)}")
    return PublishedModel(
        make, settings, values, Report(str(folder), used, reshaped, tuple(ignored)), family
    )


def to_path(name: str, tensor: np.ndarray, family: families.Family, shapes: Mapping) -> str | None:
    """The parameter a tensor is for, or None if there is none of that name."""
    path = families.to_ours(name, tensor.ndim, family)
    return path if path in shapes else None


def convert(tensor: np.ndarray, path: str, shape: tuple[int, ...]) -> tuple[np.ndarray, str]:
    """A published tensor in our layout, and how it was reshaped, if it was."""
    ours = tensor
    if path.endswith(".kernel"):
        ours = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
    return np.ascontiguousarray(
        ours.reshape(shape)
    ), "" if ours.shape == shape else f"{tensor.shape} -> {shape}"


def _split_positions(tensors: dict[str, np.ndarray], shapes: Mapping) -> dict[str, str]:
    """Positions (1 + n, d) -> (g, g, d), the first of them added to the class token, which is all it is used for."""
    if (
        "class_token" not in shapes
        or "position_embedding" not in tensors
        or "class_token" not in tensors
    ):
        return {}
    dim = shapes["class_token"].shape[0]
    positions = tensors["position_embedding"].reshape(-1, dim)
    tensors["class_token"] = tensors["class_token"].reshape(dim) + positions[0]
    tensors["position_embedding"] = positions[1:]
    return {"class_token": "plus its position, row 0 of the position embeddings"}
