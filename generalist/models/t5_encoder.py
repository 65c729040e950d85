"""The encoder of T5 (Raffel et al. 2020), in its 1.0 (ReLU) and 1.1 (gated GELU) forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from generalist.models import layers
from generalist.models.attention import attention

BUCKETS = 32
MAX_DISTANCE = 128


def _projection(d_in: int, d_out: int, *, rngs: layers.HostRngs, dtype: DTypeLike) -> nnx.Linear:
    """Builds a dense layer without a bias, as all of T5's are."""
    return layers.linear(d_in, d_out, use_bias=False, rngs=rngs, dtype=dtype)


class T5SelfAttention(nnx.Module):
    """Unscaled multi-head attention without biases; its width need not be the model's."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, *, rngs: layers.HostRngs, dtype: DTypeLike
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        self.q = _projection(dim, heads * head_dim, **kw)
        self.k = _projection(dim, heads * head_dim, **kw)
        self.v = _projection(dim, heads * head_dim, **kw)
        self.o = _projection(heads * head_dim, dim, **kw)
        self.heads = heads

    def __call__(
        self, x: Float[Array, "b n dim"], bias: Float[Array, "*#b heads n n"]
    ) -> Float[Array, "b n dim"]:
        """Lets the tokens attend to each other; `bias` is added to the scores."""

        def split_heads(y):
            return y.reshape(*y.shape[:2], self.heads, -1)

        q = split_heads(self.q(x))
        k = split_heads(self.k(x))
        v = split_heads(self.v(x))
        out = attention(q, k, v, bias=bias, scale=1.0)
        return self.o(out.reshape(*x.shape[:2], -1))


class T5FeedForward(nnx.Module):
    """wo(relu(wi x)), or wo(gelu(wi_0 x) * wi_1 x) if gated."""

    def __init__(
        self, dim: int, inner: int, gated: bool, *, rngs: layers.HostRngs, dtype: DTypeLike
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        if gated:
            self.wi_0 = _projection(dim, inner, **kw)
            self.wi_1 = _projection(dim, inner, **kw)
        else:
            self.wi = _projection(dim, inner, **kw)
        self.wo = _projection(inner, dim, **kw)
        self.gated = gated

    def __call__(self, x: Float[Array, "b n dim"]) -> Float[Array, "b n dim"]:
        """Transforms each token by itself."""
        if self.gated:
            h = jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x)
        else:
            h = jax.nn.relu(self.wi(x))
        return self.wo(h)


class T5Layer(nnx.Module):
    """Attention and feed-forward, each after an RMSNorm, with residuals."""

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        inner: int,
        gated: bool,
        *,
        epsilon: float,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        self.norm1 = nnx.RMSNorm(dim, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.RMSNorm(dim, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.attention = T5SelfAttention(dim, heads, head_dim, rngs=rngs, dtype=dtype)
        self.feed_forward = T5FeedForward(dim, inner, gated, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "b n dim"], bias: Float[Array, "*#b heads n n"]
    ) -> Float[Array, "b n dim"]:
        """Transforms the tokens; `bias` is added to the attention's scores."""
        x = x + self.attention(self.norm1(x), bias)
        return x + self.feed_forward(self.norm2(x))


def relative_buckets(
    n: int, buckets: int = BUCKETS, max_distance: int = MAX_DISTANCE
) -> Int[np.ndarray, "n n"]:
    """Returns the bucket of (query, key) for the distance between them, key - query.

    One half of the buckets is for each sign; of it, half are exact, the others logarithmic.
    """
    distance = np.arange(n)[None] - np.arange(n)[:, None]
    half = buckets // 2
    exact = buckets // 4
    size = np.abs(distance)

    # In float32, as the published code computes it: a bucket's edge depends on the rounding.
    octaves = np.float32(math.log(max_distance / exact))
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / exact) / octaves
    far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    return half * (distance > 0) + np.where(size < exact, size, far)


class T5Encoder(nnx.Module):
    """Token ids -> tokens."""

    def __init__(
        self,
        *,
        vocabulary: int = 32128,  # number of ids
        dim: int = 768,
        depth: int = 12,  # layers
        heads: int = 12,
        head_dim: int = 64,  # width of a head
        inner: int = 2048,  # width of the feed-forward
        gated: bool = True,  # gated GELU (T5 1.1, Flan-T5) instead of ReLU (T5 1.0)
        epsilon: float = 1e-6,  # of the RMSNorms
        # Of the relative positions, which the first layer's table gives to all.
        buckets: int = BUCKETS,
        max_distance: int = MAX_DISTANCE,
        rngs: layers.HostRngs,
        dtype: DTypeLike = jnp.float32,
    ):
        self.buckets = buckets
        self.max_distance = max_distance
        self.dtype = dtype

        self.token_embedding = nnx.Param(layers.normal(rngs.params(), (vocabulary, dim)))
        self.relative_bias = nnx.Param(layers.normal(rngs.params(), (buckets, heads), scale=0.1))
        self.layers = nnx.List([])
        for _ in range(depth):
            layer = T5Layer(
                dim, heads, head_dim, inner, gated, epsilon=epsilon, rngs=rngs, dtype=dtype
            )
            self.layers.append(layer)
        self.final_norm = nnx.RMSNorm(dim, epsilon=epsilon, dtype=dtype, rngs=rngs)

    def __call__(
        self, ids: Int[layers.AnyArray, "b n"], valid: Bool[layers.AnyArray, "b n"] | None = None
    ) -> Float[Array, "b n dim"]:
        """Encodes prompts; tokens that are not `valid` are not seen by the others."""
        buckets = relative_buckets(ids.shape[1], self.buckets, self.max_distance)
        bias = jnp.asarray(self.relative_bias[...][buckets].transpose(2, 0, 1))
        if valid is not None:
            bias = jnp.where(valid[:, None, None], bias, -jnp.inf)

        x = jnp.asarray(self.token_embedding[...][ids], self.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        return self.final_norm(x)
