"""The encoder of T5 (Raffel et al. 2020), in its 1.0 (ReLU) and 1.1 (gated GELU) forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from generalist.models import layers
from generalist.models.attention import attention

BUCKETS, MAX_DISTANCE = 32, 128


class T5SelfAttention(nnx.Module):
    """Unscaled multi-head attention without biases; its width need not be the model's."""

    def __init__(self, dim: int, heads: int, head_dim: int, *, rngs, dtype):
        make = lambda a, b: layers.linear(a, b, use_bias=False, rngs=rngs, dtype=dtype)
        self.q, self.k, self.v = (make(dim, heads * head_dim) for _ in range(3))
        self.o = make(heads * head_dim, dim)
        self.heads = heads

    def __call__(self, x, bias):
        """X (b, n, dim), bias (heads, n, n) -> (b, n, dim)."""
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)
        out = attention(split(self.q(x)), split(self.k(x)), split(self.v(x)), bias=bias, scale=1.0)
        return self.o(out.reshape(*x.shape[:2], -1))


class T5FeedForward(nnx.Module):
    """wo(relu(wi x)), or wo(gelu(wi_0 x) * wi_1 x) where gated."""

    def __init__(self, dim: int, inner: int, gated: bool, *, rngs, dtype):
        make = lambda a, b: layers.linear(a, b, use_bias=False, rngs=rngs, dtype=dtype)
        if gated:
            self.wi_0, self.wi_1 = make(dim, inner), make(dim, inner)
        else:
            self.wi = make(dim, inner)
        self.wo, self.gated = make(inner, dim), gated

    def __call__(self, x):
        """X (b, n, dim) -> (b, n, dim)."""
        return self.wo(
            jax.nn.gelu(self.wi_0(x), approximate=True) * self.wi_1(x)
            if self.gated
            else jax.nn.relu(self.wi(x))
        )


class T5Layer(nnx.Module):
    """Attention and feed-forward, each after an RMSNorm, with residuals."""

    def __init__(
        self, dim: int, heads: int, head_dim: int, inner: int, gated: bool, *, epsilon, rngs, dtype
    ):
        norm = lambda: nnx.RMSNorm(dim, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2 = norm(), norm()
        self.attention = T5SelfAttention(dim, heads, head_dim, rngs=rngs, dtype=dtype)
        self.feed_forward = T5FeedForward(dim, inner, gated, rngs=rngs, dtype=dtype)

    def __call__(self, x, bias):
        """X (b, n, dim), bias (heads, n, n) -> (b, n, dim)."""
        x = x + self.attention(self.norm1(x), bias)
        return x + self.feed_forward(self.norm2(x))


def relative_buckets(
    n: int, buckets: int = BUCKETS, max_distance: int = MAX_DISTANCE
) -> np.ndarray:
    """(n, n) bucket of key - query: half of them for each sign, of which half exact, the others logarithmic."""
    distance = np.arange(n)[None] - np.arange(n)[:, None]
    half, exact = buckets // 2, buckets // 4
    size = np.abs(distance)
    ratio = np.log(np.maximum(size, 1).astype(np.float32) / exact) / np.float32(
        math.log(max_distance / exact)
    )
    far = np.minimum(exact + (ratio * (half - exact)).astype(int), half - 1)
    return half * (distance > 0) + np.where(size < exact, size, far)


class T5Encoder(nnx.Module):
    """Token ids -> tokens.

    Args:
        vocabulary: the number of ids.
        dim, depth, heads, head_dim, inner: width, layers, attention heads and their width, width of the feed-forward.
        gated: gated GELU (T5 1.1, Flan-T5) instead of ReLU (T5 1.0).
        buckets, max_distance: of the relative positions, which the first layer's table gives to all.
    """

    def __init__(
        self,
        *,
        vocabulary=32128,
        dim=768,
        depth=12,
        heads=12,
        head_dim=64,
        inner=2048,
        gated=True,
        epsilon=1e-6,
        buckets=BUCKETS,
        max_distance=MAX_DISTANCE,
        rngs: layers.HostRngs,
        dtype=jnp.float32,
    ):
        self.token_embedding = nnx.Param(layers.normal(rngs.params(), (vocabulary, dim)))
        self.relative_bias = nnx.Param(layers.normal(rngs.params(), (buckets, heads), scale=0.1))
        self.layers = nnx.List(
            [
                T5Layer(dim, heads, head_dim, inner, gated, epsilon=epsilon, rngs=rngs, dtype=dtype)
                for _ in range(depth)
            ]
        )
        self.final_norm = nnx.RMSNorm(dim, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.buckets, self.max_distance, self.dtype = buckets, max_distance, dtype

    def __call__(self, ids, valid=None):
        """Ids (b, n) int32 -> (b, n, dim); where `valid` (b, n) is False, a token is not seen by the others."""
        bias = self.relative_bias[...][
            relative_buckets(ids.shape[1], self.buckets, self.max_distance)
        ].transpose(2, 0, 1)
        if valid is not None:
            bias = jnp.where(valid[:, None, None], bias, -jnp.inf)
        x = self.token_embedding[...][ids].astype(self.dtype)
        for layer in self.layers:
            x = layer(x, bias)
        return self.final_norm(x)
