"""Text encoders: frozen, run once at start on the prompts of the tasks."""

import zlib

import jax.numpy as jnp
import numpy as np
from flax import nnx

from generalist.models import layers
from generalist.models.vision_transformer import EncoderLayer

VOCABULARY, LENGTH = 4096, 8


def tokenize(prompts: list[str], length: int = LENGTH) -> np.ndarray:
    """Words -> ids (k, length) int32 by a checksum of the lower-cased word; 0 is padding.

    Needs no vocabulary file, so a model that is trained from scratch is complete in itself.
    Raises ValueError for a prompt of more than `length` words, which it names.
    """
    ids = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(ids, prompts):
        words = prompt.lower().split()
        if len(words) > length:
            raise ValueError(
                f"prompt {prompt!r} has {len(words)} words, at most {length} are allowed"
            )
        row[: len(words)] = [1 + zlib.crc32(w.encode()) % (VOCABULARY - 1) for w in words]
    return ids


class TextEncoder(nnx.Module):
    """Transformer over word ids; with `causal`, CLIP's.

    Args:
        dim, depth, heads: width, layers, attention heads; inner: width of the MLP, by default 4 * dim.
        vocabulary, length: the number of ids and of positions.
        activation: see `VisionTransformer`. epsilon: of the layers' LayerNorms.
        causal: a token sees only those before it.
    """

    def __init__(
        self,
        *,
        dim=768,
        depth=12,
        heads=12,
        inner: int | None = None,
        vocabulary=VOCABULARY,
        length=LENGTH,
        activation="gelu",
        epsilon=1e-6,
        causal=False,
        rngs: layers.HostRngs,
        dtype=jnp.float32,
    ):
        self.token_embedding = nnx.Param(layers.normal(rngs.params(), (vocabulary, dim)))
        self.position_embedding = nnx.Param(layers.normal(rngs.params(), (length, dim), scale=0.1))
        self.layers = nnx.List(
            [
                EncoderLayer(
                    dim,
                    heads,
                    inner=inner,
                    activation=activation,
                    epsilon=epsilon,
                    rngs=rngs,
                    dtype=dtype,
                )
                for _ in range(depth)
            ]
        )
        self.final_layer_norm = nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.dtype, self.causal = dtype, causal

    def __call__(self, ids):
        """Ids (k, n) int32 -> (k, n, dim)."""
        n = ids.shape[1]
        mask = jnp.where(jnp.tril(jnp.ones((n, n), bool)), 0.0, -jnp.inf) if self.causal else None
        x = (self.token_embedding[...][ids] + self.position_embedding[...][: ids.shape[1]]).astype(
            self.dtype
        )
        for layer in self.layers:
            x = layer(x, mask)
        return self.final_layer_norm(x)
