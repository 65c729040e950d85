"""The text encoder: frozen, run once at start on the prompts of the tasks."""

import zlib

from flax import nnx
import jax.numpy as jnp
import numpy as np

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
            raise ValueError(f"prompt {prompt!r} has {len(words)} words, at most {length} are allowed")
        row[:len(words)] = [1 + zlib.crc32(w.encode()) % (VOCABULARY - 1) for w in words]
    return ids


class TextEncoder(nnx.Module):
    """Transformer over word ids.

    Args:
        dim, depth, heads: width, layers, attention heads.
        length: the number of positions.
    """

    def __init__(self, *, dim=768, depth=12, heads=12, length=LENGTH, rngs: layers.Rngs, dtype=jnp.float32):
        self.token_embedding = nnx.Param(layers.normal(rngs.params(), (VOCABULARY, dim)))
        self.position_embedding = nnx.Param(layers.normal(rngs.params(), (length, dim), scale=0.1))
        self.layers = nnx.List([EncoderLayer(dim, heads, rngs=rngs, dtype=dtype) for _ in range(depth)])
        self.final_layer_norm = nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.dtype = dtype

    def __call__(self, ids):
        """ids (k, n) int32 -> (k, n, dim)."""
        x = (self.token_embedding[...][ids] + self.position_embedding[...][:ids.shape[1]]).astype(self.dtype)
        for layer in self.layers:
            x = layer(x)
        return self.final_layer_norm(x)
