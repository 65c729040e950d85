"""One table a family: the names of its published tensors, and ours.

`#` stands for a number, `*` for anything; the last part (`weight` there; `kernel` or `scale` here) is translated by the
layout: a kernel there is (out, in) or OIHW, here (in, out) or HWIO. The first row that matches counts, in both directions.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple


class Family(NamedTuple):
    """Rows (theirs, ours), the prefix of its names (absent in some files), and the tensors that our model does not have.

    normalisation: mean and standard deviation of the colours, each (r, g, b) of 0 to 1, that its image encoders were trained with.
    """

    rows: Sequence[tuple[str, str]]
    prefix: str = ""
    ignored: Sequence[str] = ()
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None


UNET = Family(rows=[("*", "*")])  # ours is named after theirs

# Stable Diffusion's autoencoder was published with the left names; diffusers renames them when it reads them, too.
_AUTOENCODER_ATTENTION = [
    (f"*.attentions.0.{theirs}.*", f"*.attentions.0.{ours}.*") for theirs, ours in (
        ("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0"))]

AUTOENCODER = Family(rows=[*_AUTOENCODER_ATTENTION, ("*", "*")])

_CLIP_LAYERS = [("encoder.layers.#.*", "layers.#.*")]
_POSITION_IDS = "embeddings.position_ids"

CLIP_TEXT = Family(
    rows=[("embeddings.token_embedding.weight", "token_embedding"), ("embeddings.position_embedding.weight", "position_embedding"),
          *_CLIP_LAYERS, ("final_layer_norm.*", "final_layer_norm.*")],
    prefix="text_model.",
    ignored=[_POSITION_IDS, "vision_model.*", "visual_projection.weight", "text_projection.weight", "logit_scale"])

CLIP_VISION = Family(
    rows=[("embeddings.class_embedding", "class_token"), ("embeddings.position_embedding.weight", "position_embedding"),
          ("embeddings.patch_embedding.*", "patch_embedding.*"), ("pre_layrnorm.*", "pre_layernorm.*"), *_CLIP_LAYERS],
    prefix="vision_model.",
    ignored=[_POSITION_IDS, "post_layernorm.*", "text_model.*", "visual_projection.weight", "text_projection.weight", "logit_scale"],
    normalisation=((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)))

SIGLIP_VISION = Family(
    rows=[("embeddings.position_embedding.weight", "position_embedding"), ("embeddings.patch_embedding.*", "patch_embedding.*"),
          *_CLIP_LAYERS, ("post_layernorm.*", "post_layernorm.*")],
    prefix="vision_model.",
    ignored=[_POSITION_IDS, "head.*", "text_model.*", "logit_scale", "logit_bias"],
    normalisation=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))

_DINOV2_ATTENTION = [
    (f"encoder.layer.#.attention.{theirs}.*", f"layers.#.self_attn.{ours}.*") for theirs, ours in (
        ("attention.query", "q_proj"), ("attention.key", "k_proj"), ("attention.value", "v_proj"), ("output.dense", "out_proj"))]

DINOV2 = Family(
    rows=[("embeddings.cls_token", "class_token"), ("embeddings.register_tokens", "registers"),
          ("embeddings.position_embeddings", "position_embedding"), ("embeddings.patch_embeddings.projection.*", "patch_embedding.*"),
          *_DINOV2_ATTENTION,
          ("encoder.layer.#.norm#.*", "layers.#.layer_norm#.*"), ("encoder.layer.#.layer_scale#.lambda1", "layers.#.layer_scale#"),
          ("encoder.layer.#.mlp.*", "layers.#.mlp.*"), ("layernorm.*", "post_layernorm.*")],
    ignored=["embeddings.mask_token", "classifier.*"],
    normalisation=((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

T5 = Family(
    rows=[("shared.weight", "token_embedding"), ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight", "relative_bias"),
          ("encoder.block.#.layer.0.SelfAttention.*", "layers.#.attention.*"), ("encoder.block.#.layer.0.layer_norm.*", "layers.#.norm1.*"),
          ("encoder.block.#.layer.1.DenseReluDense.*", "layers.#.feed_forward.*"),
          ("encoder.block.#.layer.1.layer_norm.*", "layers.#.norm2.*"), ("encoder.final_layer_norm.*", "final_norm.*")],
    ignored=["encoder.embed_tokens.weight", "decoder.*", "lm_head.weight"])  # embed_tokens is shared.weight again


def translate(name: str, rows: Sequence[tuple[str, str]]) -> str | None:
    """`name` by the first row (from, to) that matches, or None."""
    for source, target in rows:
        pattern = re.escape(source).replace(r"\#", "#").replace("#", r"(\d+)").replace(r"\*", "(.+)")
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
    name = translate(re.sub(r"\.(kernel|scale)$", ".weight", path), [(ours, theirs) for theirs, ours in family.rows])
    return name and family.prefix + name


def is_ignored(name: str, family: Family) -> bool:
    """Whether a published tensor belongs to a part that we do not build."""
    return translate(name.removeprefix(family.prefix), [(pattern, "") for pattern in family.ignored]) is not None
