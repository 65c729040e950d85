"""The names of published tensors and ours: one table a family of models, read in both directions.

`#` stands for a number, `*` for anything. The last word of a name (`weight` there; `kernel` or
`scale` here) is translated by the layout: a kernel there is (out, in) or OIHW, here (in, out) or
HWIO. The first row that matches counts, in both directions.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Family(NamedTuple):
    """How a family of models is published."""

    rows: Sequence[tuple[str, str]]  # (theirs, ours)
    prefix: str = ""  # of its names; some files leave it out
    ignored: Sequence[str] = ()  # tensors that our model does not have
    defaults: Mapping[str, Any] = {}  # what a config.json leaves out: the library's defaults

    # Mean and standard deviation of the colors, each (r, g, b) of 0 to 1, that its image encoders
    # were trained with.
    normalization: tuple[tuple[float, ...], tuple[float, ...]] | None = None


UNET = Family(
    rows=[("*", "*")],  # ours is named after theirs
    defaults={
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "down_block_types": (
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
            "DownBlock2D",
        ),
        "cross_attention_dim": 1280,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "norm_num_groups": 32,
    },
)

# Stable Diffusion's autoencoder was published with the names on the left; diffusers renames them
# when it reads them, too. The first row makes that today's names are the ones that are written.
_AUTOENCODER_ATTENTION = [
    ("*.attentions.0.to_*", "*.attentions.0.to_*"),
    ("*.attentions.0.query.*", "*.attentions.0.to_q.*"),
    ("*.attentions.0.key.*", "*.attentions.0.to_k.*"),
    ("*.attentions.0.value.*", "*.attentions.0.to_v.*"),
    ("*.attentions.0.proj_attn.*", "*.attentions.0.to_out.0.*"),
]

AUTOENCODER = Family(
    rows=[*_AUTOENCODER_ATTENTION, ("*", "*")],
    defaults={
        "block_out_channels": (64,),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
    },
)

_CLIP_LAYERS = [("encoder.layers.#.*", "layers.#.*")]
_POSITION_IDS = "embeddings.position_ids"
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
}

CLIP_TEXT = Family(
    rows=[
        ("embeddings.token_embedding.weight", "token_embedding"),
        ("embeddings.position_embedding.weight", "position_embedding"),
        *_CLIP_LAYERS,
        ("final_layer_norm.*", "final_layer_norm.*"),
    ],
    prefix="text_model.",
    ignored=[
        _POSITION_IDS,
        "vision_model.*",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
    ],
    defaults={
        "vocab_size": 49408,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 8,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
)

CLIP_VISION = Family(
    rows=[
        ("embeddings.class_embedding", "class_token"),
        ("embeddings.position_embedding.weight", "position_embedding"),
        ("embeddings.patch_embedding.*", "patch_embedding.*"),
        ("pre_layrnorm.*", "pre_layernorm.*"),
        *_CLIP_LAYERS,
    ],
    prefix="vision_model.",
    ignored=[
        _POSITION_IDS,
        "post_layernorm.*",
        "text_model.*",
        "visual_projection.weight",
        "text_projection.weight",
        "logit_scale",
    ],
    defaults=_VISION
    | {"image_size": 224, "patch_size": 32, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
    normalization=((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
)

SIGLIP_VISION = Family(
    rows=[
        ("embeddings.position_embedding.weight", "position_embedding"),
        ("embeddings.patch_embedding.*", "patch_embedding.*"),
        *_CLIP_LAYERS,
        ("post_layernorm.*", "post_layernorm.*"),
    ],
    prefix="vision_model.",
    ignored=[_POSITION_IDS, "head.*", "text_model.*", "logit_scale", "logit_bias"],
    defaults=_VISION
    | {
        "image_size": 224,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    },
    normalization=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
)
SIGLIP2_VISION = SIGLIP_VISION._replace(
    defaults=_VISION
    | {
        "num_patches": 256,
        "patch_size": 16,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
    }
)

_DINOV2_ATTENTION = [
    ("encoder.layer.#.attention.attention.query.*", "layers.#.self_attn.q_proj.*"),
    ("encoder.layer.#.attention.attention.key.*", "layers.#.self_attn.k_proj.*"),
    ("encoder.layer.#.attention.attention.value.*", "layers.#.self_attn.v_proj.*"),
    ("encoder.layer.#.attention.output.dense.*", "layers.#.self_attn.out_proj.*"),
]

DINOV2 = Family(
    rows=[
        ("embeddings.cls_token", "class_token"),
        ("embeddings.register_tokens", "registers"),
        ("embeddings.position_embeddings", "position_embedding"),
        ("embeddings.patch_embeddings.projection.*", "patch_embedding.*"),
        *_DINOV2_ATTENTION,
        ("encoder.layer.#.norm#.*", "layers.#.layer_norm#.*"),
        ("encoder.layer.#.layer_scale#.lambda1", "layers.#.layer_scale#"),
        ("encoder.layer.#.mlp.*", "layers.#.mlp.*"),
        ("layernorm.*", "post_layernorm.*"),
    ],
    ignored=["embeddings.mask_token", "classifier.*"],
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": 224,
        "patch_size": 14,
        "use_swiglu_ffn": False,
    },
    normalization=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
DINOV2_WITH_REGISTERS = DINOV2._replace(
    defaults=DINOV2.defaults | {"patch_size": 16, "num_register_tokens": 4}
)

T5 = Family(
    rows=[
        ("shared.weight", "token_embedding"),
        ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "relative_bias"),
        ("encoder.block.#.layer.0.SelfAttention.*", "layers.#.attention.*"),
        ("encoder.block.#.layer.0.layer_norm.*", "layers.#.norm1.*"),
        ("encoder.block.#.layer.1.DenseReluDense.*", "layers.#.feed_forward.*"),
        ("encoder.block.#.layer.1.layer_norm.*", "layers.#.norm2.*"),
        ("encoder.final_layer_norm.*", "final_norm.*"),
    ],
    # embed_tokens is shared.weight again
    ignored=["encoder.embed_tokens.weight", "decoder.*", "lm_head.weight"],
    defaults={
        "vocab_size": 32128,
        "d_model": 512,
        "d_kv": 64,
        "d_ff": 2048,
        "num_layers": 6,
        "num_heads": 8,
        "feed_forward_proj": "relu",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
    },
)


def swiglu_width(inner: int) -> int:
    """Returns the width of DINOv2's gated MLP in place of a plain one of width `inner`.

    It is two thirds, rounded up to a multiple of 8.
    """
    return -(-int(inner * 2 / 3) // 8) * 8


def translate(name: str, rows: Sequence[tuple[str, str]]) -> str | None:
    """Translates `name` by the first row (from, to) that matches; None if there is none."""
    for source, target in rows:
        match = re.fullmatch(_regex(source), name)
        if match:
            return _fill(target, match.groups())
    return None


def _regex(pattern: str) -> str:
    """Returns the regular expression of a row's side, with a group a `#` or `*`."""
    escaped = re.escape(pattern).replace(r"\#", "#")
    return escaped.replace("#", r"(\d+)").replace(r"\*", "(.+)")


def _fill(pattern: str, values: Sequence[str]) -> str:
    """Puts `values` in the places of `#` and `*`, in their order."""
    remaining = iter(values)
    return re.sub(r"[#*]", lambda _: next(remaining), pattern)


def to_ours(name: str, rank: int, family: Family) -> str | None:
    """Returns our path of a published tensor with `rank` axes, or None if no row has it."""
    path = translate(name.removeprefix(family.prefix), family.rows)
    if path is None:
        return None
    return re.sub(r"\.weight$", ".scale" if rank == 1 else ".kernel", path)


def to_theirs(path: str, family: Family) -> str | None:
    """Returns the published name of our parameter, or None if no row has it."""
    backward = [(ours, theirs) for theirs, ours in family.rows]
    name = translate(re.sub(r"\.(kernel|scale)$", ".weight", path), backward)
    return None if name is None else family.prefix + name


def is_ignored(name: str, family: Family) -> bool:
    """Says whether a published tensor belongs to what we do not build."""
    rows = [(pattern, "") for pattern in family.ignored]
    return translate(name.removeprefix(family.prefix), rows) is not None
