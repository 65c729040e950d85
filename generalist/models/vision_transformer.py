"""The image encoder: a pre-norm Vision Transformer (Dosovitskiy et al. 2021).

With what CLIP, SigLIP and DINOv2 add to it. Parameter names are those of transformers' CLIP.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from generalist.models import layers
from generalist.models.attention import attention


def _quick_gelu(x: Array) -> Array:
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),  # SigLIP
    "quick_gelu": _quick_gelu,  # OpenAI's CLIP
    "relu": jax.nn.relu,
}


class SelfAttention(nnx.Module):
    """Multi-head self-attention among the tokens."""

    def __init__(self, dim: int, heads: int, *, rngs: layers.HostRngs, dtype: DTypeLike):
        self.q_proj = layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        self.k_proj = layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        self.v_proj = layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        self.out_proj = layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        self.heads = heads

    def __call__(
        self, x: Float[Array, "b n dim"], bias: Float[Array, "..."] | None = None
    ) -> Float[Array, "b n dim"]:
        """Lets the tokens attend to each other; `bias` is added to the scores."""

        def split_heads(y):
            return y.reshape(*y.shape[:2], self.heads, -1)

        q = split_heads(self.q_proj(x))
        k = split_heads(self.k_proj(x))
        v = split_heads(self.v_proj(x))
        out = attention(q, k, v, bias=bias)
        return self.out_proj(out.reshape(x.shape))


class MLP(nnx.Module):
    """Dense, activation, dense."""

    def __init__(
        self,
        dim: int,
        inner: int,
        *,
        activation: str = "gelu",  # a name of ACTIVATIONS
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        self.fc1 = layers.linear(dim, inner, rngs=rngs, dtype=dtype)
        self.fc2 = layers.linear(inner, dim, rngs=rngs, dtype=dtype)
        self.activation = activation

    def __call__(self, x: Float[Array, "b n dim"]) -> Float[Array, "b n dim"]:
        """Transforms each token by itself."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class SwiGLU(nnx.Module):
    """Gated MLP (Shazeer 2020): the SiLU of one half of the first dense layer scales the other."""

    def __init__(self, dim: int, inner: int, *, rngs: layers.HostRngs, dtype: DTypeLike):
        self.weights_in = layers.linear(dim, 2 * inner, rngs=rngs, dtype=dtype)
        self.weights_out = layers.linear(inner, dim, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b n dim"]) -> Float[Array, "b n dim"]:
        """Transforms each token by itself."""
        gate, value = jnp.split(self.weights_in(x), 2, axis=-1)
        return self.weights_out(jax.nn.silu(gate) * value)


class EncoderLayer(nnx.Module):
    """Attention and MLP, each pre-normed with a residual."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        inner: int | None = None,  # width of the MLP; None: 4 * dim
        activation: str = "gelu",  # a name of ACTIVATIONS; SwiGLU has its own
        epsilon: float = 1e-6,  # of the LayerNorms
        layer_scale: bool = False,  # learned scale of every residual (DINOv2)
        gated: bool = False,  # SwiGLU instead of the MLP (DINOv2-giant)
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        inner = inner or 4 * dim

        # The order decides which initial values each part draws.
        self.layer_norm1 = nnx.LayerNorm(dim, epsilon=epsilon, **kw)
        self.layer_norm2 = nnx.LayerNorm(dim, epsilon=epsilon, **kw)
        self.self_attn = SelfAttention(dim, heads, **kw)
        if gated:
            self.mlp = SwiGLU(dim, inner, **kw)
        else:
            self.mlp = MLP(dim, inner, activation=activation, **kw)
        self.layer_scale1 = _ones(dim) if layer_scale else None
        self.layer_scale2 = _ones(dim) if layer_scale else None

    def __call__(
        self, x: Float[Array, "b n dim"], bias: Float[Array, "..."] | None = None
    ) -> Float[Array, "b n dim"]:
        """Transforms the tokens; `bias` is added to the attention's scores."""
        x = x + _scaled(self.self_attn(self.layer_norm1(x), bias), self.layer_scale1)
        return x + _scaled(self.mlp(self.layer_norm2(x)), self.layer_scale2)


def _ones(dim: int) -> nnx.Param:
    return nnx.Param(jnp.ones((dim,), jnp.float32))


def _scaled(y, scale: nnx.Param | None):
    return y if scale is None else y * scale[...].astype(y.dtype)


class VisionTransformer(nnx.Module):
    """Image -> tokens: class token and registers, if it has them, then the patches row by row.

    Raises:
        ValueError: if `image_size` is not a multiple of `patch`.
    """

    def __init__(
        self,
        *,
        # Side that the learned position embeddings are made for; other sizes interpolate them.
        image_size: int = 224,
        # Side of a patch in pixels.
        patch: int = 16,
        # Width, layers, attention heads.
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        # Width of the MLP; None: 4 * dim.
        inner: int | None = None,
        # "gelu", "gelu_tanh" (SigLIP) or "quick_gelu" (OpenAI's CLIP).
        activation: str = "gelu",
        # Of every LayerNorm.
        epsilon: float = 1e-6,
        # One more token in front; its position is part of it (CLIP, DINOv2).
        class_token: bool = False,
        # Further tokens behind it (Darcet et al. 2024).
        registers: int = 0,
        # False in CLIP.
        patch_bias: bool = True,
        # LayerNorm before the layers (CLIP), and after them.
        pre_norm: bool = False,
        final_norm: bool = True,
        # Learned scale of every residual (DINOv2).
        layer_scale: bool = False,
        # SwiGLU instead of the MLP (DINOv2-giant), without `activation`.
        gated: bool = False,
        # Of the positions: "bicubic" (a = -0.75, as torch), "bicubic_antialias" or
        # "bilinear_antialias".
        interpolation: str = "bicubic",
        rngs: layers.HostRngs,
        dtype: DTypeLike = jnp.float32,
    ):
        if image_size % patch:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch {patch}")
        self.patch = patch
        self.dtype = dtype
        self.interpolation = interpolation
        self.prefix = class_token + registers  # tokens before those of the patches

        def norm():
            return nnx.LayerNorm(dim, epsilon=epsilon, rngs=rngs, dtype=dtype)

        def token(*shape):
            return nnx.Param(layers.normal(rngs.params(), shape, scale=0.02))

        # Pixels to tokens. The order of all that follows decides which initial values each draws.
        grid = image_size // patch
        self.patch_embedding = layers.conv(
            3, dim, patch, stride=patch, padding=0, use_bias=patch_bias, rngs=rngs, dtype=dtype
        )
        self.position_embedding = token(grid, grid, dim)
        self.class_token = token(dim) if class_token else None
        self.registers = token(registers, dim) if registers else None

        # Layers, and the norms around them.
        self.pre_layernorm = norm() if pre_norm else None
        make_layer = functools.partial(
            EncoderLayer,
            dim,
            heads,
            inner=inner,
            activation=activation,
            epsilon=epsilon,
            layer_scale=layer_scale,
            gated=gated,
            rngs=rngs,
            dtype=dtype,
        )
        self.layers = nnx.List([make_layer() for _ in range(depth)])
        self.post_layernorm = norm() if final_norm else None

    def __call__(
        self, image: Float[layers.AnyArray, "b h w 3"], *, take: Sequence[int] = ()
    ) -> Float[Array, "b n d"]:
        """Encodes images whose sides are multiples of `patch`.

        Args:
            image: normalized as the encoder was trained to see it.
            take: layers, from 0, whose outputs (normed as the last) are concatenated along the
                width; by default the last alone.

        Returns:
            n = prefix + h w / patch^2 tokens of d = dim (times the layers taken) features.

        Raises:
            ValueError: for sides that are not multiples of `patch`.
        """
        _, h, w, _ = image.shape
        if h % self.patch or w % self.patch:
            raise ValueError(f"image of {h}x{w} pixels: sides must be multiples of {self.patch}")

        x = self._embed(image)
        if self.pre_layernorm is not None:
            x = self.pre_layernorm(x)

        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)

        # The final norm is for whatever layer is taken.
        taken = [outputs[i] for i in take] or [x]
        if self.post_layernorm is not None:
            taken = [self.post_layernorm(y) for y in taken]
        return jnp.concatenate(taken, axis=-1)

    def _embed(self, image):
        """Returns the tokens (b, n, dim) that enter the first layer."""
        x = self.patch_embedding(image.astype(self.dtype))
        grid = x.shape[1:3]
        positions = layers.resize_positions(self.position_embedding[...], grid, self.interpolation)
        x = (x + positions.astype(self.dtype)).reshape(x.shape[0], -1, x.shape[-1])

        # Class token and registers are the same for every image.
        prefix = [
            tokens[...].reshape(-1, x.shape[-1])
            for tokens in (self.class_token, self.registers)
            if tokens is not None
        ]
        repeated = [
            jnp.broadcast_to(tokens.astype(self.dtype), (len(x), *tokens.shape))
            for tokens in prefix
        ]
        return jnp.concatenate([*repeated, x], axis=1)
