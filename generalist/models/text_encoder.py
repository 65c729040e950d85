"""Text encoders, which are frozen, and the ids of the words that they take."""

import zlib
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from generalist.models import layers
from generalist.models.vision_transformer import EncoderLayer

VOCABULARY = 4096  # ids
LENGTH = 8  # words of a prompt


def tokenize(
    prompts: Sequence[str], length: int = LENGTH, cut: bool = False
) -> Int[np.ndarray, "k length"]:
    """Returns a checksum of each lower-cased word as its id, int32; 0 is padding.

    Needs no vocabulary file, so a model that is trained from scratch is complete in itself.

    Args:
        prompts: k texts.
        length: ids of each.
        cut: leave out the words beyond `length`.

    Raises:
        ValueError: for a prompt of more than `length` words, which it names, unless `cut`.
    """
    ids = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        words = prompt.lower().split()
        if cut:
            words = words[:length]
        if len(words) > length:
            raise ValueError(
                f"prompt {prompt!r} has {len(words)} words, at most {length} are allowed"
            )
        row[: len(words)] = [1 + zlib.crc32(word.encode()) % (VOCABULARY - 1) for word in words]
    return ids


class TextEncoder(nnx.Module):
    """Transformer over word ids; with `causal`, CLIP's."""

    def __init__(
        self,
        *,
        dim: int = 768,
        depth: int = 12,  # layers
        heads: int = 12,
        inner: int | None = None,  # width of the MLP; None: 4 * dim
        vocabulary: int = VOCABULARY,  # number of ids
        length: int = LENGTH,  # number of positions
        activation: str = "gelu",  # a name of vision_transformer.ACTIVATIONS
        epsilon: float = 1e-6,  # of the layers' LayerNorms
        causal: bool = False,  # whether a token sees only those before it
        rngs: layers.HostRngs,
        dtype: DTypeLike = jnp.float32,
    ):
        self.dtype = dtype
        self.causal = causal

        self.token_embedding = nnx.Param(layers.normal(rngs.params(), (vocabulary, dim)))
        self.position_embedding = nnx.Param(layers.normal(rngs.params(), (length, dim), scale=0.1))
        self.layers = nnx.List([])
        for _ in range(depth):
            layer = EncoderLayer(
                dim,
                heads,
                inner=inner,
                activation=activation,
                epsilon=epsilon,
                rngs=rngs,
                dtype=dtype,
            )
            self.layers.append(layer)
        self.final_layer_norm = nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)

    def __call__(self, ids: Int[layers.AnyArray, "k n"]) -> Float[Array, "k n dim"]:
        """Encodes prompts."""
        n = ids.shape[1]
        mask = jnp.where(jnp.tril(jnp.ones((n, n), bool)), 0.0, -jnp.inf) if self.causal else None

        x = self.token_embedding[...][ids] + self.position_embedding[...][:n]
        x = jnp.asarray(x, self.dtype)
        for layer in self.layers:
            x = layer(x, mask)
        return self.final_layer_norm(x)
