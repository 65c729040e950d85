"""One table a family: the names of its published tensors, and ours.

`#` stands for a number, `*` for anything; the last part (`weight` there; `kernel` or `scale` here) is translated by the
layout: a kernel there is (out, in) or OIHW, here (in, out) or HWIO. The first row that matches counts, in both directions.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Family(NamedTuple):
    """Rows (theirs, ours), the prefix of its names (absent in some files), and the tensors that our model does not have.

    defaults: what a config.json leaves out where it is the library's default.
    normalization: mean and standard deviation of the colours, each (r, g, b) of 0 to 1, that its image encoders were trained with.
    """

    rows: Sequence[tuple[str, str]]
    prefix: str = ""
    ignored: Sequence[str] = ()
    defaults: Mapping[str, Any] = {}
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

# Stable Diffusion's autoencoder was published with the left names; diffusers renames them when it reads them, too. The row
# before them makes that the names it is written with are those of today.
_AUTOENCODER_ATTENTION = [("*.attentions.0.to_*", "*.attentions.0.to_*")] + [
    (f"*.attentions.0.{theirs}.*", f"*.attentions.0.{ours}.*")
    for theirs, ours in (
        ("query", "to_q"),
        ("key", "to_k"),
        ("value", "to_v"),
        ("proj_attn", "to_out.0"),
    )
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
    (f"encoder.layer.#.attention.{theirs}.*", f"layers.#.self_attn.{ours}.*")
    for theirs, ours in (
        ("attention.query", "q_proj"),
        ("attention.key", "k_proj"),
        ("attention.value", "v_proj"),
        ("output.dense", "out_proj"),
    )
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
    ignored=[
        "encoder.embed_tokens.weight",
        "decoder.*",
        "lm_head.weight",
    ],  # embed_tokens is shared.weight again
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
    """Width of DINOv2's gated MLP in place of a plain one of width `inner`: two thirds, up to a multiple of 8."""
    return -(-int(inner * 2 / 3) // 8) * 8


def translate(name: str, rows: Sequence[tuple[str, str]]) -> str | None:
    """`name` by the first row (from, to) that matches, or None."""
    for source, target in rows:
        pattern = (
            re.escape(source).replace(r"\#", "#").replace("#", r"(\d+)").replace(r"\*", "(.+)")
        )
        if match := re.fullmatch(pattern, name):
            values = iter(match.groups())
            return re.sub(r"[#*]", lambda _: next(values), target)
    return None


def to_ours(name: str, rank: int, family: Family) -> str | None:
    """Name of a published tensor with `rank` axes -> our parameter's path, or None if no row has it."""
    path = translate(name.removeprefix(family.prefix), family.rows)
    return path and re.sub(r"\.weight$", ".scale" if rank == 1 else ".kernel", path)


def to_theirs(path: str, family: Family) -> str | None:
    """Our parameter's path -> the published tensor's name, or None if no row has it."""
    name = translate(
        re.sub(r"\.(kernel|scale)$", ".weight", path),
        [(ours, theirs) for theirs, ours in family.rows],
    )
    return name and family.prefix + name


def is_ignored(name: str, family: Family) -> bool:
    """Whether a published tensor belongs to a part that we do not build."""
    return (
        translate(name.removeprefix(family.prefix), [(pattern, "") for pattern in family.ignored])
        is not None
    )
