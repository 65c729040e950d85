"""The image encoder: a pre-norm Vision Transformer (Dosovitskiy et al. 2021), with what CLIP, SigLIP and DINOv2 add to it."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from generalist.models import layers
from generalist.models.attention import attention

ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
}


class SelfAttention(nnx.Module):
    """Multi-head self-attention among the tokens."""

    def __init__(self, dim: int, heads: int, *, rngs, dtype):
        make = lambda: layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = make(), make(), make(), make()
        self.heads = heads

    def __call__(self, x, bias=None):
        """X (b, n, dim), bias of the scores -> (b, n, dim)."""
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)
        out = attention(
            split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x)), bias=bias
        )
        return self.out_proj(out.reshape(x.shape))


class MLP(nnx.Module):
    """Dense, activation, dense."""

    def __init__(self, dim: int, inner: int, *, activation="gelu", rngs, dtype):
        self.fc1 = layers.linear(dim, inner, rngs=rngs, dtype=dtype)
        self.fc2 = layers.linear(inner, dim, rngs=rngs, dtype=dtype)
        self.activation = activation

    def __call__(self, x):
        """X (b, n, dim) -> (b, n, dim)."""
        return self.fc2(ACTIVATIONS[self.activation](self.fc1(x)))


class SwiGLU(nnx.Module):
    """Gated MLP (Shazeer 2020): the SiLU of one half of the first dense layer scales the other."""

    def __init__(self, dim: int, inner: int, *, rngs, dtype):
        self.weights_in = layers.linear(dim, 2 * inner, rngs=rngs, dtype=dtype)
        self.weights_out = layers.linear(inner, dim, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        """X (b, n, dim) -> (b, n, dim)."""
        gate, value = jnp.split(self.weights_in(x), 2, axis=-1)
        return self.weights_out(jax.nn.silu(gate) * value)


class EncoderLayer(nnx.Module):
    """Attention and MLP (`gated`: SwiGLU), each pre-normed with a residual, which DINOv2 scales (`layer_scale`)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        inner: int | None = None,
        activation="gelu",
        epsilon=1e-6,
        layer_scale=False,
        gated=False,
        rngs,
        dtype,
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        norm = lambda: nnx.LayerNorm(dim, epsilon=epsilon, dtype=dtype, rngs=rngs)
        scale = lambda: nnx.Param(jnp.ones((dim,), jnp.float32)) if layer_scale else None
        self.layer_norm1, self.layer_norm2 = norm(), norm()
        self.self_attn = SelfAttention(dim, heads, **kw)
        self.mlp = (
            SwiGLU(dim, inner or 4 * dim, **kw)
            if gated
            else MLP(dim, inner or 4 * dim, activation=activation, **kw)
        )
        self.layer_scale1, self.layer_scale2 = scale(), scale()

    def __call__(self, x, bias=None):
        """X (b, n, dim), bias of the attention scores -> (b, n, dim)."""
        scaled = lambda y, scale: y if scale is None else y * scale[...].astype(y.dtype)
        x = x + scaled(self.self_attn(self.layer_norm1(x), bias), self.layer_scale1)
        return x + scaled(self.mlp(self.layer_norm2(x)), self.layer_scale2)


class VisionTransformer(nnx.Module):
    """Image -> tokens: the class token and the registers, where it has them, then the patches row by row.

    Args:
        image_size: side the learned position embeddings are made for; other sizes interpolate them.
        patch: side of a patch in pixels.
        dim, depth, heads: width, layers, attention heads; inner: width of the MLP, by default 4 * dim.
        activation: "gelu", "gelu_tanh" (SigLIP) or "quick_gelu" (OpenAI's CLIP).
        epsilon: of every LayerNorm.
        class_token: one more token in front; its position is part of it (CLIP, DINOv2).
        registers: further tokens behind it (Darcet et al. 2024).
        patch_bias: False in CLIP. pre_norm: LayerNorm before the layers (CLIP). final_norm: and after them.
        layer_scale: learned scale of every residual (DINOv2). gated: SwiGLU instead of the MLP (DINOv2-giant), without `activation`.
        interpolation: of the positions, "bicubic" (a = -0.75, as torch), or "bicubic_antialias", "bilinear_antialias".
    """

    def __init__(
        self,
        *,
        image_size=224,
        patch=16,
        dim=768,
        depth=12,
        heads=12,
        inner: int | None = None,
        activation="gelu",
        epsilon=1e-6,
        class_token=False,
        registers=0,
        patch_bias=True,
        pre_norm=False,
        final_norm=True,
        layer_scale=False,
        gated=False,
        interpolation="bicubic",
        rngs: layers.HostRngs,
        dtype=jnp.float32,
    ):
        if image_size % patch:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch {patch}")
        grid, kw = image_size // patch, {"rngs": rngs, "dtype": dtype}
        norm = lambda: nnx.LayerNorm(dim, epsilon=epsilon, **kw)
        token = lambda *shape: nnx.Param(layers.normal(rngs.params(), shape, scale=0.02))
        self.patch_embedding = layers.conv(
            3, dim, patch, stride=patch, padding=0, use_bias=patch_bias, **kw
        )
        self.position_embedding = token(grid, grid, dim)
        self.class_token = token(dim) if class_token else None
        self.registers = token(registers, dim) if registers else None
        self.pre_layernorm = norm() if pre_norm else None
        self.layers = nnx.List(
            [
                EncoderLayer(
                    dim,
                    heads,
                    inner=inner,
                    activation=activation,
                    epsilon=epsilon,
                    layer_scale=layer_scale,
                    gated=gated,
                    **kw,
                )
                for _ in range(depth)
            ]
        )
        self.post_layernorm = norm() if final_norm else None
        self.patch, self.dtype, self.interpolation, self.prefix = (
            patch,
            dtype,
            interpolation,
            class_token + registers,
        )

    def __call__(self, image, *, take: Sequence[int] = ()):
        """Image (b, h, w, 3) float, sides multiples of `patch` -> tokens (b, prefix + h w / patch^2, dim).

        take: layers, from 0, whose outputs (normed as the last) are concatenated along the width; by default the last alone.
        """
        if image.shape[1] % self.patch or image.shape[2] % self.patch:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} pixels: sides must be multiples of {self.patch}"
            )
        x = self._embed(image)
        x = x if self.pre_layernorm is None else self.pre_layernorm(x)
        outputs = []
        for layer in self.layers:
            x = layer(x)
            outputs.append(x)
        outputs = [outputs[i] for i in take] or [x]
        return jnp.concatenate(
            outputs if self.post_layernorm is None else [self.post_layernorm(y) for y in outputs],
            axis=-1,
        )

    def _embed(self, image):
        x = self.patch_embedding(image.astype(self.dtype))
        positions = layers.resize_positions(
            self.position_embedding[...], x.shape[1:3], self.interpolation
        )
        x = (x + positions.astype(self.dtype)).reshape(x.shape[0], -1, x.shape[-1])
        prefix = [
            p[...].reshape(-1, x.shape[-1])
            for p in (self.class_token, self.registers)
            if p is not None
        ]
        wide = [jnp.broadcast_to(p.astype(self.dtype), (len(x), *p.shape)) for p in prefix]
        return jnp.concatenate([*wide, x], axis=1)
