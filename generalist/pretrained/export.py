"""Components of our models -> the folders of diffusers and transformers.

The inverse of `huggingface.py`:

    export_component("image_encoder", published.settings, published.values, "out/image_encoder")
    transformers.AutoModel.from_pretrained("out/image_encoder")

What the library's class cannot compute is an error that lists it, unless it is zero and without
effect: then it is left out.
"""

import dataclasses
import inspect
import json
import logging
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
from generalist.pretrained.parts import WHOLE_CONFIG
from generalist.pretrained.tokenizer import FOLDER as TOKENIZER
from generalist.pretrained.tokenizer import copy_tokenizer
from generalist.pretrained.weights import WeightsError, check_fit, folder_of, load_weights

logger = logging.getLogger("generalist")

DTYPES = {"float32": np.float32, "float16": np.float16}

# Ours -> theirs; of two names for one activation, the first in the table.
THEIR_ACTIVATIONS = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}

EXTRAS = ("position", "pooled_text", "aligned", "refine")  # new beside a published UNet


class VisionForm(NamedTuple):
    """What tells the published vision transformers apart."""

    class_token: bool  # a token before those of the patches
    patch_bias: bool  # in the patches' projection
    pre_norm: bool  # before the first layer
    final_norm: bool  # after the last layer
    layer_scale: bool  # a learned factor on every branch
    registers: bool  # further tokens after the class token
    interpolation: str  # of the positions, for an image of another size


# The form of each `model_type`.
VISION_FORMS = {
    "clip_vision_model": VisionForm(
        class_token=True,
        patch_bias=False,
        pre_norm=True,
        final_norm=False,
        layer_scale=False,
        registers=False,
        interpolation="bicubic",
    ),
    "siglip_vision_model": VisionForm(
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        final_norm=True,
        layer_scale=False,
        registers=False,
        interpolation="bicubic",
    ),
    "siglip2_vision_model": VisionForm(
        class_token=False,
        patch_bias=True,
        pre_norm=False,
        final_norm=True,
        layer_scale=False,
        registers=False,
        interpolation="bilinear_antialias",
    ),
    "dinov2": VisionForm(
        class_token=True,
        patch_bias=True,
        pre_norm=False,
        final_norm=True,
        layer_scale=True,
        registers=False,
        interpolation="bicubic",
    ),
    "dinov2_with_registers": VisionForm(
        class_token=True,
        patch_bias=True,
        pre_norm=False,
        final_norm=True,
        layer_scale=True,
        registers=True,
        interpolation="bicubic_antialias",
    ),
}


@dataclasses.dataclass(frozen=True)
class Export:
    """A component as its library's class, ready to be written."""

    config: dict[str, Any]  # of config.json
    tensors: dict[str, np.ndarray]  # {their name: float32 array}
    stem: str = "model"  # of the weights' file name
    left_out: tuple[str, ...] = ()  # our parameters that are zero and that their class lacks
    added: tuple[str, ...] = ()  # their tensors that ours has no equivalent of
    processor: dict[str, Any] = dataclasses.field(default_factory=dict)  # preprocessor_config.json

    def __str__(self) -> str:
        name = self.config.get("_class_name") or self.config["architectures"][0]
        lines = [f"{name}: {len(self.tensors)} tensors, {len(self.left_out)} parameters left out"]
        lines += [f"  left out, zero and without effect: {path}" for path in self.left_out]
        lines += [f"  added: {name}" for name in self.added]
        return "\n".join(lines)

    def write(self, folder: str | os.PathLike, dtype: str = "float32") -> None:
        """Writes the weights and, last, config.json, each whole or not at all.

        Raises:
          WeightsError: an unknown dtype, values beyond float16's range, or a folder that holds
            anything else.
        """
        folder = pathlib.Path(folder)
        weights = f"{self.stem}.safetensors"
        _check_only(folder, {weights, "config.json", "preprocessor_config.json"})

        arrays = {name: _cast(tensor, dtype, name) for name, tensor in self.tensors.items()}
        content = safetensors.numpy.save(arrays, metadata={"format": "pt"})
        write_atomically(folder / weights, content)

        # The config goes last: a folder without it is not taken for a model.
        if self.processor:
            write_atomically(folder / "preprocessor_config.json", _to_json(self.processor))
        library = {} if "_class_name" in self.config else {"dtype": dtype}
        write_atomically(folder / "config.json", _to_json(self.config | library))


def _check_only(folder: pathlib.Path, files: set[str]) -> None:
    """Checks that a folder holds nothing but `files`, if it exists."""
    if not folder.is_dir():
        return
    others = sorted(file.name for file in folder.iterdir() if file.name not in files)
    if others:
        raise WeightsError(
            f"{folder}: holds {', '.join(others[:3])}, which does not belong to this model; "
            "choose an empty or a new folder"
        )


def _to_json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def export_component(
    component: str,
    settings: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    folder: str | os.PathLike,
    dtype: str = "float32",
    normalization: Sequence[Sequence[float]] | None = None,
) -> Export:
    """Writes a component as a folder that diffusers or transformers reads.

    Arguments and errors are those of `plan_component` and `Export.write`.
    """
    export = plan_component(component, settings, values, normalization)
    export.write(folder, dtype)
    return export


def plan_component(
    component: str,
    settings: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    normalization: Sequence[Sequence[float]] | None = None,
) -> Export:
    """Expresses a component in its library's form.

    Args:
      component: "unet", "image_encoder", "text_encoder" or "autoencoder".
      settings: keyword arguments of the module; what follows from the values (a UNet's channels,
        the widths of its extras) may be absent.
      values: {path without the component's name: array}, all of its parameters.
      normalization: mean and standard deviation, each (r, g, b) of 0 to 1, of what an image
        encoder wants.

    Raises:
      WeightsError: values that do not fit the settings, or a model that the library has no class
        for, with all the reasons.
    """
    if component not in PLANS:
        raise WeightsError(f"component {component!r}: choose one of {', '.join(PLANS)}")
    export = PLANS[component](settings, values)
    if normalization and component == "image_encoder":
        export.processor.update(_processor(normalization, settings.get("image_size", 224)))
    return export


def export_model(
    source: str | os.PathLike,
    out: str | os.PathLike,
    components: Sequence[str] = (),
    dtype: str = "float32",
) -> None:
    """Writes components of a model folder of this project to out/unet, out/image_encoder, ...

    Beside them come the files of the tokenizer, where the model has one, and the config: of a
    text-to-image model `Generalist.load` reads the folder again.

    Args:
      source: a model folder, or the name of shipped weights.
      out: the folder to write to.
      components: which to write; by default all that there are.
      dtype: "float32" or "float16".

    Raises:
      WeightsError: a component is absent or cannot be expressed; nothing is written then.
    """
    config, values = load_weights(source)
    model = config["model"]
    present = [name for name in PLANS if any(path.startswith(f"{name}.") for path in values)]
    if absent := [name for name in components if name not in present]:
        raise WeightsError(f"{source} has no {', '.join(absent)}, only {', '.join(present)}")

    half = (0.5, 0.5, 0.5)
    normalization = (model.get("image_mean", half), model.get("image_std", half))

    # Plan everything before anything is written.
    plans = {}
    problems = []
    for name in components or present:
        own = {
            path.removeprefix(f"{name}."): value
            for path, value in values.items()
            if path.startswith(f"{name}.")
        }
        try:
            plans[name] = plan_component(name, model[name], own, normalization)
        except WeightsError as error:
            problems.append(str(error))
    if problems:
        able = "no component can be written"
        if plans:
            able = f"--part {' '.join(plans)} can be written"
        raise WeightsError(".\n".join([*problems, f"Nothing was written; {able}."]))

    for name, plan in plans.items():
        folder = pathlib.Path(out) / name
        plan.write(folder, dtype)
        logger.info(f"{name} -> {folder}: {plan}")
    _write_beside(folder_of(source), pathlib.Path(out), config)
    if rest := sorted({path.split(".")[0] for path in values} - set(present)):
        logger.info(f"not exported, of no component: {', '.join(rest)}")


def _write_beside(source: pathlib.Path, out: pathlib.Path, config: Mapping[str, Any]) -> None:
    """Writes what belongs to all components: the tokenizer, and the config without its origin."""
    if (source / TOKENIZER).is_dir():
        copy_tokenizer(source / TOKENIZER, out)
    whole = {**config, "model": {**config["model"], "init_from": ""}}
    write_atomically(out / WHOLE_CONFIG, _to_json(whole))


def _unet(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    """Plans a UNet2DConditionModel. That of a patchify stem takes `layers.patchify(x, patch)`."""
    patch = settings.get("patch", 1)

    # What follows from the values.
    derived = {
        "in_channels": values["conv_in.kernel"].shape[2] // patch**2,
        "out_channels": values["conv_out.kernel"].shape[3] // patch**2,
    }
    if "aligned.0.kernel" in values:
        derived["aligned"] = values["aligned.0.kernel"].shape[0]
    if "pooled_text.kernel" in values:
        derived["pooled_text"] = values["pooled_text.kernel"].shape[0]

    # A training config has 0 where the module has None.
    optional = {name: settings[name] or None for name in ("heads", "window") if name in settings}
    full = _complete(UNet, {**derived, **settings, **optional}, values)

    # Whatever diffusers' class cannot compute, all at once.
    extra = [path for path in values if path.split(".")[0] in EXTRAS]
    problems = []
    if full["window"]:
        problems.append(f"window={full['window']}: self-attention in windows")
    for path in extra:
        if _decides(path) and np.any(values[path]):
            problems.append(f"{path} is not zero")
    _refuse("unet", "UNet2DConditionModel", problems)

    # attention_head_dim is diffusers' name of the number of heads.
    attention = ["CrossAttn" if attends else "" for attends in full["attention_levels"]]
    heads = full["heads"] or [width // full["head_dim"] for width in full["channels"]]
    config = {
        "_class_name": "UNet2DConditionModel",
        # Of a block of pixels: what the stem does is left to whoever calls diffusers' UNet.
        "in_channels": full["in_channels"] * patch**2,
        "out_channels": full["out_channels"] * patch**2,
        "block_out_channels": list(full["channels"]),
        "layers_per_block": full["layers_per_block"],
        "cross_attention_dim": full["context_dim"],
        "down_block_types": [f"{name}DownBlock2D" for name in attention],
        "up_block_types": [f"{name}UpBlock2D" for name in reversed(attention)],
        "attention_head_dim": heads,
        "norm_num_groups": full["groups"],
        "use_linear_projection": full["heads"] is None,
    }

    # Stable Diffusion 1.x projects by 1x1 convolutions, 2.x by dense layers: the same function.
    ranks = {}
    if full["heads"] is not None:
        ranks = {r"\.attentions\.\d+\.proj_(in|out)\.kernel$": 4}
    kept = {path: value for path, value in values.items() if path not in extra}
    return Export(
        config,
        _tensors(kept, families.UNET, ranks),
        "diffusion_pytorch_model",
        left_out=tuple(sorted(extra)),
    )


def _decides(path: str) -> bool:
    """Says whether an extra's parameter must be zero for it to have no effect.

    Of refine it is the last convolution, of the others all.
    """
    return not path.startswith("refine.") or path.startswith("refine.conv_out.")


def _autoencoder(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    full = _complete(Autoencoder, settings, values)
    levels = len(full["channels"])

    # The fields of diffusers' AutoencoderKL, which reads the folder.
    config = {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": list(full["channels"]),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": full["layers_per_block"],
        "latent_channels": full["latent_channels"],
        "norm_num_groups": full["groups"],
        "scaling_factor": full["scaling_factor"],
    }
    return Export(config, _tensors(values, families.AUTOENCODER, {}), "diffusion_pytorch_model")


def _text_encoder(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    settings = {name: value for name, value in settings.items() if name != "kind"}
    if "relative_bias" in values:
        return _t5(settings, values)
    return _clip_text(settings, values)


def _t5(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    full = _complete(T5Encoder, settings, values)

    # The fields of transformers' T5Config, which reads the folder.
    config = {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": full["vocabulary"],
        "d_model": full["dim"],
        "d_kv": full["head_dim"],
        "d_ff": full["inner"],
        "num_layers": full["depth"],
        "num_heads": full["heads"],
        "layer_norm_epsilon": full["epsilon"],
        "feed_forward_proj": "gated-gelu" if full["gated"] else "relu",
        "relative_attention_num_buckets": full["buckets"],
        "relative_attention_max_distance": full["max_distance"],
    }
    return Export(config, _tensors(values, families.T5, {}))


def _clip_text(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    full = _complete(TextEncoder, settings, values)

    problems = []
    if not full["causal"]:
        problems.append("causal=False: its tokens see those behind them, CLIP's do not")
    if full["epsilon"] != 1e-5:
        problems.append(
            f"epsilon={full['epsilon']}: CLIP has the same in all norms, "
            "and the final one has 1e-05"
        )
    _refuse("text_encoder", "CLIPTextModel", problems)

    config = {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": full["vocabulary"],
        "hidden_size": full["dim"],
        "intermediate_size": full["inner"] or 4 * full["dim"],
        "num_hidden_layers": full["depth"],
        "num_attention_heads": full["heads"],
        "max_position_embeddings": full["length"],
        "hidden_act": THEIR_ACTIVATIONS[full["activation"]],
        "layer_norm_eps": full["epsilon"],
        # The last two of the vocabulary, as in CLIP's.
        "bos_token_id": full["vocabulary"] - 2,
        "eos_token_id": full["vocabulary"] - 1,
    }
    return Export(config, _tensors(values, families.CLIP_TEXT, {}))


def _image_encoder(settings: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> Export:
    full = _complete(VisionTransformer, settings, values)
    model_type = _model_type(full)
    config = {
        "model_type": model_type,
        "hidden_size": full["dim"],
        "num_hidden_layers": full["depth"],
        "num_attention_heads": full["heads"],
        "image_size": full["image_size"],
        "patch_size": full["patch"],
        "layer_norm_eps": full["epsilon"],
        "hidden_act": THEIR_ACTIVATIONS[full["activation"]],
    }
    inner = full["inner"] or 4 * full["dim"]

    if model_type.startswith("dinov2"):
        return _dinov2(config, full, inner, values)

    config["intermediate_size"] = inner
    if model_type == "clip_vision_model":
        # Its norm of the class token is not in its last hidden state, nor in our model.
        added = {
            "vision_model.post_layernorm.weight": np.ones(full["dim"], np.float32),
            "vision_model.post_layernorm.bias": np.zeros(full["dim"], np.float32),
        }
        config["architectures"] = ["CLIPVisionModel"]
        tensors = _tensors(values, families.CLIP_VISION, {})
        return Export(config, tensors | added, added=tuple(added))

    config["vision_use_head"] = False
    if model_type == "siglip_vision_model":
        config["architectures"] = ["SiglipVisionModel"]
        return Export(config, _tensors(values, families.SIGLIP_VISION, {}))

    # SigLIP 2 counts patches in place of pixels, and projects them by a dense layer.
    config["architectures"] = ["Siglip2VisionModel"]
    config["num_patches"] = (config.pop("image_size") // full["patch"]) ** 2
    ranks = {"^patch_embedding.kernel$": 2}
    return Export(config, _tensors(values, families.SIGLIP2_VISION, ranks))


def _model_type(full: Mapping[str, Any]) -> str:
    """Returns the `model_type` of a vision transformer's settings.

    Raises:
      WeightsError: none has this form.
    """
    settings = {name: full[name] for name in VisionForm._fields}
    form = VisionForm(**settings | {"registers": bool(full["registers"])})
    for model_type, known in VISION_FORMS.items():
        if form == known and (model_type.startswith("dinov2") or not full["gated"]):
            return model_type

    settings["gated"] = full["gated"]
    ours = ", ".join(f"{name}={value}" for name, value in settings.items())
    raise WeightsError(f"image_encoder: {ours} is the form of none of {', '.join(VISION_FORMS)}")


def _dinov2(
    config: dict[str, Any],
    full: Mapping[str, Any],
    inner: int,
    values: Mapping[str, np.ndarray],
) -> Export:
    # DINOv2 states the width of its feed-forward as a whole ratio, before the gate takes a third.
    width = families.swiglu_width if full["gated"] else int
    ratios = [ratio for ratio in range(1, 65) if width(ratio * full["dim"]) == inner]
    if not ratios:
        raise WeightsError(
            f"image_encoder: inner={inner} at dim={full['dim']} follows from no whole mlp_ratio, "
            "which is all that DINOv2 has for it"
        )

    config |= {
        "architectures": ["Dinov2Model"],
        "mlp_ratio": ratios[0],
        "use_swiglu_ffn": full["gated"],
        "qkv_bias": True,
    }
    ranks = {"^(class_token|registers|position_embedding)$": 3}
    tensors = _tensors(values, families.DINOV2, ranks)
    if not full["registers"]:
        return Export(config | {"use_mask_token": False}, tensors)

    # The form with registers always has a mask token, which only its pre-training uses.
    config["architectures"] = ["Dinov2WithRegistersModel"]
    config["num_register_tokens"] = full["registers"]
    added = {"embeddings.mask_token": np.zeros((1, full["dim"]), np.float32)}
    return Export(config, tensors | added, added=tuple(added))


PLANS = {
    "unet": _unet,
    "image_encoder": _image_encoder,
    "text_encoder": _text_encoder,
    "autoencoder": _autoencoder,
}


def _complete(
    module: type[nnx.Module], settings: Mapping[str, Any], values: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Adds the module's own defaults to `settings`.

    Raises:
      WeightsError: an unknown setting, or values that are not those of such a module.
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(module.__init__).parameters.items()
        if parameter.default is not parameter.empty and name != "dtype"
    }
    if unknown := sorted(set(settings) - set(defaults)):
        raise WeightsError(
            f"{module.__name__} has no setting {', '.join(unknown)}; "
            f"choose from {', '.join(defaults)}"
        )

    complete = defaults | dict(settings)
    _, shapes = parameters.abstract(lambda: module(**complete, rngs=layers.HostRngs(None)))
    check_fit(values, shapes, module.__name__)
    return complete


def _refuse(component: str, peer: str, problems: Sequence[str]) -> None:
    """Raises WeightsError if there are problems."""
    if problems:
        raise WeightsError(f"{component}: {peer} cannot express\n  " + ";\n  ".join(problems))


def _tensors(
    values: Mapping[str, np.ndarray], family: families.Family, ranks: Mapping[str, int]
) -> dict[str, np.ndarray]:
    """Returns our parameters by their names, in their layout.

    Args:
      values: {our path: array}.
      family: of the names.
      ranks: {regex of our path: number of axes} where that is not ours.
    """
    values = dict(values)
    if "position_embedding" in values:
        positions = values["position_embedding"]
        positions = positions.reshape(-1, positions.shape[-1])

        # Our class token includes its own position, so that theirs is zero.
        if "class_token" in values:
            own = np.zeros((1, positions.shape[-1]), np.float32)
            positions = np.concatenate([own, positions])
        values["position_embedding"] = positions

    tensors = {}
    for path, value in values.items():
        rank = next((count for regex, count in ranks.items() if re.search(regex, path)), None)
        tensors[families.to_theirs(path, family)] = from_ours(value, path, rank)
    return tensors


def from_ours(value: np.ndarray, path: str, rank: int | None = None) -> np.ndarray:
    """Converts a parameter to the published layout, in which kernels are (out, in) or OIHW.

    Args:
      value: in our layout.
      path: of the parameter.
      rank: number of axes, if that is not its own. A kernel gets its new axes at the end (a 1x1
        convolution), anything else at the front; a convolution as a kernel of two axes is one over
        whole patches.
    """
    new_axes = (1,) * ((rank or value.ndim) - value.ndim)
    if not path.endswith(".kernel"):
        return value.reshape(new_axes + value.shape)
    if value.ndim == 4 and rank == 2:
        return value.reshape(-1, value.shape[-1]).T
    kernel = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    return kernel.reshape(kernel.shape + new_axes)


def _cast(tensor: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Casts a tensor. WeightsError for an unknown dtype, or values that it cannot hold."""
    if dtype not in DTYPES:
        raise WeightsError(f"dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(tensor, DTYPES[dtype])
    if not np.isfinite(cast).all():
        raise WeightsError(
            f"{name}: has values that {dtype} cannot hold, up to {np.abs(tensor).max():.3g}; "
            "export float32"
        )
    return cast


def _processor(normalization: Sequence[Sequence[float]], size: int) -> dict[str, Any]:
    """Returns the content of preprocessor_config.json for square images of side `size`."""
    mean, std = normalization
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 3,  # bicubic
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [float(value) for value in mean],
        "image_std": [float(value) for value in std],
    }
