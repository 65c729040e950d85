"""The image encoder: a pre-norm Vision Transformer (Dosovitskiy et al. 2021)."""

from flax import nnx
import jax
import jax.numpy as jnp

from generalist.models import layers
from generalist.models.attention import attention


class SelfAttention(nnx.Module):
    """Multi-head self-attention among the tokens."""

    def __init__(self, dim: int, heads: int, *, rngs, dtype):
        make = lambda: layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = make(), make(), make(), make()
        self.heads = heads

    def __call__(self, x):
        """x (b, n, dim) -> (b, n, dim)."""
        split = lambda y: y.reshape(*y.shape[:2], self.heads, -1)
        out = attention(split(self.q_proj(x)), split(self.k_proj(x)), split(self.v_proj(x)))
        return self.out_proj(out.reshape(x.shape))


class MLP(nnx.Module):
    """Dense, GELU, dense."""

    def __init__(self, dim: int, inner: int, *, rngs, dtype):
        self.fc1 = layers.linear(dim, inner, rngs=rngs, dtype=dtype)
        self.fc2 = layers.linear(inner, dim, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        """x (b, n, dim) -> (b, n, dim)."""
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class EncoderLayer(nnx.Module):
    """Attention and MLP, each pre-normed with a residual."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio=4, rngs, dtype):
        norm = lambda: nnx.LayerNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.layer_norm1, self.layer_norm2 = norm(), norm()
        self.self_attn = SelfAttention(dim, heads, rngs=rngs, dtype=dtype)
        self.mlp = MLP(dim, mlp_ratio * dim, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        """x (b, n, dim) -> (b, n, dim)."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionTransformer(nnx.Module):
    """Image -> patch tokens.

    Args:
        image_size: side the learned position embeddings are made for; other sizes interpolate them.
        patch: side of a patch in pixels.
        dim, depth, heads: width, layers, attention heads.
    """

    def __init__(self, *, image_size=224, patch=16, dim=768, depth=12, heads=12, rngs: layers.Rngs, dtype=jnp.float32):
        if image_size % patch:
            raise ValueError(f"image_size {image_size} is not a multiple of the patch {patch}")
        grid = image_size // patch
        self.patch_embedding = layers.conv(3, dim, patch, stride=patch, padding=0, rngs=rngs, dtype=dtype)
        self.position_embedding = nnx.Param(layers.normal(rngs.params(), (grid, grid, dim), scale=0.02))
        self.layers = nnx.List([EncoderLayer(dim, heads, rngs=rngs, dtype=dtype) for _ in range(depth)])
        self.post_layernorm = nnx.LayerNorm(dim, epsilon=1e-6, dtype=dtype, rngs=rngs)
        self.patch, self.dtype = patch, dtype

    def __call__(self, image):
        """image (b, h, w, 3) float in [-1, 1], sides multiples of `patch` -> tokens (b, n, dim), row major."""
        if image.shape[1] % self.patch or image.shape[2] % self.patch:
            raise ValueError(f"image of {image.shape[1]}x{image.shape[2]} pixels: sides must be multiples of {self.patch}")
        x = self.patch_embedding(image.astype(self.dtype))
        positions = self.position_embedding[...]
        if positions.shape[:2] != x.shape[1:3]:
            positions = jax.image.resize(positions, x.shape[1:], "bicubic", antialias=False)
        x = (x + positions.astype(self.dtype)).reshape(x.shape[0], -1, x.shape[-1])
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)
