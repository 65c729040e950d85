"""Our parts -> the folders of diffusers and transformers: the inverse of `huggingface.py`.

    export_component("image_encoder", part.settings, part.values, "out/image_encoder")
    transformers.AutoModel.from_pretrained("out/image_encoder")

What the library's class cannot compute is an error that lists it, unless it is zero and without effect: then it is left out.
"""

import dataclasses
import inspect
import json
import logging
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from flax import nnx

from generalist.files import write_atomically
from generalist.models import layers, parameters
from generalist.models.autoencoder import Autoencoder
from generalist.models.t5_encoder import T5Encoder
from generalist.models.text_encoder import TextEncoder
from generalist.models.unet import UNet
from generalist.models.vision_transformer import VisionTransformer
from generalist.pretrained import families
from generalist.pretrained.huggingface import ACTIVATIONS
from generalist.pretrained.weights import WeightsError, check_fit, load_weights

logger = logging.getLogger("generalist")

DTYPES = {"float32": np.float32, "float16": np.float16}
THEIR_ACTIVATIONS = {
    ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())
}  # of two names, the first in the table
EXTRAS = ("position", "pooled_text", "aligned", "refine")  # new beside a published UNet
# (class_token, patch_bias, pre_norm, final_norm, layer_scale, has registers, interpolation) -> who has that form
FORMS = {
    (True, False, True, False, False, False, "bicubic"): "clip_vision_model",
    (False, True, False, True, False, False, "bicubic"): "siglip_vision_model",
    (False, True, False, True, False, False, "bilinear_antialias"): "siglip2_vision_model",
    (True, True, False, True, True, False, "bicubic"): "dinov2",
    (True, True, False, True, True, True, "bicubic_antialias"): "dinov2_with_registers",
}


@dataclasses.dataclass(frozen=True)
class Export:
    """A part as its library's class, ready to be written.

    config: of config.json. tensors: {their name: float32 array}. stem: of the weights' file name. left_out: our parameters that are
    zero and that their class has no place for. added: their tensors that ours has no equivalent of. processor: of
    preprocessor_config.json, or empty.
    """

    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    stem: str = "model"
    left_out: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    processor: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        name = self.config.get("_class_name") or self.config["architectures"][0]
        return "\n".join(
            [
                f"{name}: {len(self.tensors)} tensors, {len(self.left_out)} parameters left out",
                *(f"  left out, zero and without effect: {path}" for path in self.left_out),
                *(f"  added: {name}" for name in self.added),
            ]
        )

    def write(self, folder: str | os.PathLike, dtype: str = "float32") -> None:
        """Writes the weights and, last, config.json, each whole or not at all.

        Raises WeightsError for an unknown dtype, values beyond float16's range, or a folder that holds anything else.
        """
        folder = pathlib.Path(folder)
        files = {f"{self.stem}.safetensors", "config.json", "preprocessor_config.json"}
        if (
            others := sorted(file.name for file in folder.iterdir() if file.name not in files)
            if folder.is_dir()
            else []
        ):
            raise WeightsError(
                f"{folder}: holds {', '.join(others[:3])}, which is no part of this model; choose an empty or a new folder"
            )
        arrays = {name: _cast(tensor, dtype, name) for name, tensor in self.tensors.items()}
        write_atomically(
            folder / f"{self.stem}.safetensors",
            safetensors.numpy.save(arrays, metadata={"format": "pt"}),
        )
        library = {} if "_class_name" in self.config else {"dtype": dtype}
        for name, content in (
            ("preprocessor_config.json", self.processor),
            ("config.json", self.config | library),
        ):
            if content:
                write_atomically(
                    folder / name, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
                )


def export_component(
    kind: str,
    settings: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    folder: str | os.PathLike,
    dtype: str = "float32",
    normalization: Sequence[Sequence[float]] | None = None,
) -> Export:
    """Writes a part as a folder that diffusers or transformers reads; see `plan_component` and `Export.write`, whose errors it raises."""
    export = plan_component(kind, settings, values, normalization)
    export.write(folder, dtype)
    return export


def plan_component(
    kind: str,
    settings: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    normalization: Sequence[Sequence[float]] | None = None,
) -> Export:
    """A part in its library's form.

    Args:
        kind: "unet", "image_encoder", "text_encoder" or "autoencoder".
        settings: keyword arguments of the module; what follows from the values (a UNet's channels, the widths of its extras) may be absent.
        values: {path without the part's name: array}, all of its parameters.
        normalization: mean and standard deviation, each (r, g, b) of 0 to 1, of what an image encoder wants.

    Raises:
        WeightsError: values that do not fit the settings, or a model that the library has no class for, with all that stands in the way.
    """
    if kind not in PARTS:
        raise WeightsError(f"part {kind!r}: choose one of {', '.join(PARTS)}")
    export = PARTS[kind](settings, values)
    if normalization and kind == "image_encoder":
        export.processor.update(_processor(normalization, settings.get("image_size", 224)))
    return export


def export_model(
    source: str | os.PathLike,
    out: str | os.PathLike,
    components: Sequence[str] = (),
    dtype: str = "float32",
) -> None:
    """Writes parts of a model folder of this project (by default all it has) to out/unet, out/image_encoder, ...

    Raises WeightsError before anything is written if a part is not there or cannot be expressed.
    """
    config, values = load_weights(source)
    model, plans, problems = config["model"], {}, []
    present = [part for part in PARTS if any(path.startswith(f"{part}.") for path in values)]
    if absent := [part for part in components if part not in present]:
        raise WeightsError(f"{source} has no {', '.join(absent)}, only {', '.join(present)}")
    for part in components or present:
        try:
            own = {
                path.removeprefix(f"{part}."): value
                for path, value in values.items()
                if path.startswith(f"{part}.")
            }
            half = (0.5, 0.5, 0.5)
            plans[part] = plan_component(
                part,
                model[part],
                own,
                (model.get("image_mean", half), model.get("image_std", half)),
            )
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        able = f"--part {' '.join(plans)} can be written" if plans else "no part can be written"
        raise WeightsError(".\n".join([*problems, f"Nothing was written; {able}."]))
    for part, plan in plans.items():
        plan.write(pathlib.Path(out) / part, dtype)
        logger.info(f"{part} -> {pathlib.Path(out) / part}: {plan}")
    if rest := sorted({path.split(".")[0] for path in values} - set(present)):
        logger.info(f"not exported, of no component: {', '.join(rest)}")


def _unet(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    patch = settings.get("patch", 1)
    extras = {"aligned": "aligned.0.kernel", "pooled_text": "pooled_text.kernel"}
    derived = {name: values[path].shape[0] for name, path in extras.items() if path in values} | {
        "in_channels": values["conv_in.kernel"].shape[2] // patch**2,
        "out_channels": values["conv_out.kernel"].shape[3] // patch**2,
    }
    optional = {
        name: settings[name] or None for name in ("heads", "window") if name in settings
    }  # 0 in a training config
    s = _complete(UNet, {**derived, **settings, **optional}, values)
    problems = (
        [
            f"patch={patch}: the stem works on blocks of {patch}x{patch} pixels, diffusers' conv_in on single ones"
        ]
        if patch > 1
        else []
    )
    problems += [f"window={s['window']}: self-attention in windows"] if s["window"] else []
    extra = [path for path in values if path.split(".")[0] in EXTRAS]
    problems += [f"{path} is not zero" for path in _decisive(extra) if np.any(values[path])]
    _refuse("unet", "UNet2DConditionModel", problems)
    kinds = ["CrossAttn" if attend else "" for attend in s["attention_levels"]]
    config = {
        "_class_name": "UNet2DConditionModel",
        "in_channels": s["in_channels"],
        "out_channels": s["out_channels"],
        "block_out_channels": list(s["channels"]),
        "layers_per_block": s["layers_per_block"],
        "cross_attention_dim": s["context_dim"],
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
        "attention_head_dim": s["heads"]
        or [
            width // s["head_dim"] for width in s["channels"]
        ],  # their name for the number of heads
        "norm_num_groups": s["groups"],
        "use_linear_projection": s["heads"] is None,
    }
    ranks = (
        {} if s["heads"] is None else {r"\.attentions\.\d+\.proj_(in|out)\.kernel$": 4}
    )  # 1.x and 2.x, the same function
    tensors = _tensors(
        {path: value for path, value in values.items() if path not in extra}, families.UNET, ranks
    )
    return Export(config, tensors, "diffusion_pytorch_model", left_out=tuple(sorted(extra)))


def _decisive(extra: Sequence[str]) -> list[str]:
    """Of the extras' paths, those that decide whether they have an effect: of refine the last convolution's, of the others all."""
    return [
        path
        for path in extra
        if not path.startswith("refine.") or path.startswith("refine.conv_out.")
    ]


def _autoencoder(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    s = _complete(Autoencoder, settings, values)
    levels = len(s["channels"])
    config = {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": list(s["channels"]),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": s["layers_per_block"],
        "latent_channels": s["latent_channels"],
        "norm_num_groups": s["groups"],
        "scaling_factor": s["scaling_factor"],
    }
    return Export(config, _tensors(values, families.AUTOENCODER, {}), "diffusion_pytorch_model")


def _text_encoder(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    settings = {name: value for name, value in settings.items() if name != "kind"}
    return (_t5 if "relative_bias" in values else _clip_text)(settings, values)


def _t5(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    s = _complete(T5Encoder, settings, values)
    config = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": s["vocabulary"],
        "d_model": s["dim"],
        "d_kv": s["head_dim"],
        "d_ff": s["inner"],
        "num_layers": s["depth"],
        "num_heads": s["heads"],
        "layer_norm_epsilon": s["epsilon"],
        "feed_forward_proj": "gated-gelu" if s["gated"] else "relu",
        "relative_attention_num_buckets": s["buckets"],
        "relative_attention_max_distance": s["max_distance"],
    }
    return Export(config, _tensors(values, families.T5, {}))


def _clip_text(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    s = _complete(TextEncoder, settings, values)
    problems = (
        [] if s["causal"] else ["causal=False: its tokens see those behind them, CLIP's do not"]
    )
    problems += (
        [f"epsilon={s['epsilon']}: CLIP has the same in all norms, and the final one has 1e-05"]
        if s["epsilon"] != 1e-5
        else []
    )
    _refuse("text_encoder", "CLIPTextModel", problems)
    config = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": s["vocabulary"],
        "hidden_size": s["dim"],
        "intermediate_size": s["inner"] or 4 * s["dim"],
        "num_hidden_layers": s["depth"],
        "num_attention_heads": s["heads"],
        "max_position_embeddings": s["length"],
        "hidden_act": THEIR_ACTIVATIONS[s["activation"]],
        "layer_norm_eps": s["epsilon"],
        "bos_token_id": s["vocabulary"] - 2,
        "eos_token_id": s["vocabulary"] - 1,
    }  # where CLIP's vocabulary has them
    return Export(config, _tensors(values, families.CLIP_TEXT, {}))


def _image_encoder(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    s = _complete(VisionTransformer, settings, values)
    form = {
        name: s[name]
        for name in (
            "class_token",
            "patch_bias",
            "pre_norm",
            "final_norm",
            "layer_scale",
            "registers",
            "interpolation",
        )
    }
    kind = FORMS.get(tuple(bool(v) if name == "registers" else v for name, v in form.items()))
    if kind is None or (s["gated"] and not kind.startswith("dinov2")):
        given = ", ".join(
            f"{name}={value}" for name, value in [*form.items(), ("gated", s["gated"])]
        )
        raise WeightsError(
            f"image_encoder: {given} is the form of none of {', '.join(FORMS.values())}"
        )
    config = {
        "model_type": kind,
        "hidden_size": s["dim"],
        "num_hidden_layers": s["depth"],
        "num_attention_heads": s["heads"],
        "image_size": s["image_size"],
        "patch_size": s["patch"],
        "layer_norm_eps": s["epsilon"],
        "hidden_act": THEIR_ACTIVATIONS[s["activation"]],
    }
    inner = s["inner"] or 4 * s["dim"]
    if kind.startswith("dinov2"):
        return _dinov2(config, s, inner, values)
    if (
        kind == "clip_vision_model"
    ):  # its norm of the class token is not in its last hidden state, nor in our model
        added = {
            f"vision_model.post_layernorm.{name}": np.full(s["dim"], fill, np.float32)
            for name, fill in (("weight", 1.0), ("bias", 0.0))
        }
        config |= {"architectures": ["CLIPVisionModel"], "intermediate_size": inner}
        return Export(
            config, _tensors(values, families.CLIP_VISION, {}) | added, added=tuple(added)
        )
    config |= {
        "architectures": ["SiglipVisionModel"],
        "intermediate_size": inner,
        "vision_use_head": False,
    }
    if kind == "siglip_vision_model":
        return Export(config, _tensors(values, families.SIGLIP_VISION, {}))
    config |= {
        "architectures": ["Siglip2VisionModel"],
        "num_patches": (config.pop("image_size") // s["patch"]) ** 2,
    }
    return Export(
        config, _tensors(values, families.SIGLIP2_VISION, {"^patch_embedding.kernel$": 2})
    )


def _dinov2(
    config: dict, s: Mapping[str, Any], inner: int, values: Mapping[str, np.ndarray]
) -> Export:
    width = families.swiglu_width if s["gated"] else int
    ratio = next((ratio for ratio in range(1, 65) if width(ratio * s["dim"]) == inner), None)
    if ratio is None:
        raise WeightsError(
            f"image_encoder: inner={inner} at dim={s['dim']} follows from no whole mlp_ratio, which is all that DINOv2 has for it"
        )
    config |= {
        "architectures": ["Dinov2Model"],
        "mlp_ratio": ratio,
        "use_swiglu_ffn": s["gated"],
        "qkv_bias": True,
    }
    tensors = _tensors(values, families.DINOV2, {"^(class_token|registers|position_embedding)$": 3})
    if not s["registers"]:
        return Export(config | {"use_mask_token": False}, tensors)
    config |= {"architectures": ["Dinov2WithRegistersModel"], "num_register_tokens": s["registers"]}
    added = {"embeddings.mask_token": np.zeros((1, s["dim"]), np.float32)}  # of its pre-training
    return Export(config, tensors | added, added=tuple(added))


PARTS = {
    "unet": _unet,
    "image_encoder": _image_encoder,
    "text_encoder": _text_encoder,
    "autoencoder": _autoencoder,
}


def _complete(
    module: type[nnx.Module], settings: Mapping[str, Any], values: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """`settings` with the module's own defaults. WeightsError if the values are not those of such a module."""
    defaults = {
        name: p.default
        for name, p in inspect.signature(module.__init__).parameters.items()
        if p.default is not p.empty and name != "dtype"
    }
    if unknown := sorted(set(settings) - set(defaults)):
        raise WeightsError(
            f"{module.__name__} has no setting {', '.join(unknown)}; choose from {', '.join(defaults)}"
        )
    complete = defaults | dict(settings)
    _, shapes = parameters.abstract(lambda: module(**complete, rngs=layers.HostRngs(None)))
    check_fit(values, shapes, module.__name__)
    return complete


def _refuse(part: str, peer: str, problems: Sequence[str]) -> None:
    if problems:
        raise WeightsError(f"{part}: {peer} cannot express\n  " + ";\n  ".join(problems))


def _tensors(
    values: Mapping[str, np.ndarray], family: families.Family, ranks: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Our parameters by their names, in their layout; `ranks` {regex of our path: number of axes} where that is not ours."""
    values = dict(values)
    if "class_token" in values:  # which holds its own position, so that theirs is zero
        positions = values["position_embedding"]
        values["position_embedding"] = np.concatenate(
            [
                np.zeros((1, positions.shape[-1]), np.float32),
                positions.reshape(-1, positions.shape[-1]),
            ]
        )
    elif "position_embedding" in values:
        values["position_embedding"] = values["position_embedding"].reshape(
            -1, values["position_embedding"].shape[-1]
        )
    rank = lambda path: next((n for pattern, n in ranks.items() if re.search(pattern, path)), None)
    return {
        families.to_theirs(path, family): from_ours(value, path, rank(path))
        for path, value in values.items()
    }


def from_ours(value: np.ndarray, path: str, rank: int | None = None) -> np.ndarray:
    """A parameter in the published layout: kernels (out, in) or OIHW; of `rank` axes, if that is not its own number.

    A kernel gets its new axes at the end (a 1x1 convolution), anything else at the front; a convolution of two axes is one over whole patches.
    """
    if not path.endswith(".kernel"):
        return value.reshape((1,) * ((rank or value.ndim) - value.ndim) + value.shape)
    if value.ndim == 4 and rank == 2:
        return value.reshape(-1, value.shape[-1]).T
    kernel = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return kernel.reshape(kernel.shape + (1,) * ((rank or value.ndim) - value.ndim))


def _cast(tensor: np.ndarray, dtype: str, name: str) -> np.ndarray:
    if dtype not in DTYPES:
        raise WeightsError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(tensor, DTYPES[dtype])
    if not np.isfinite(cast).all():
        raise WeightsError(
            f"{name}: has values that {dtype} cannot hold, up to {np.abs(tensor).max():.3g}; export float32"
        )
    return cast


def _processor(normalization: Sequence[Sequence[float]], size: int) -> dict[str, Any]:
    mean, std = (list(map(float, values)) for values in normalization)
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
