"""The pixel-space UNet, in the topology and with the parameter names of Stable Diffusion's UNet.

`down_blocks.0.resnets.0.conv1.kernel` here is `down_blocks.0.resnets.0.conv1.weight` there
(kernels are HWIO, dense kernels (in, out)). What is new beside a pre-trained checkpoint starts at
zero and leaves its function unchanged: `position`, `pooled_text`, `aligned` and `refine`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from generalist.models import layers
from generalist.models.attention import attention


def _is_product(primitive, *_, **settings) -> bool:
    """Convolutions and dense layers; not attention's scores, which are as large as all else together."""
    batched = (
        settings["dimension_numbers"][1] != ((), ())
        if primitive is jax.lax.dot_general_p
        else False
    )
    return primitive in (jax.lax.dot_general_p, jax.lax.conv_general_dilated_p) and not batched


# What the backward pass computes again, a layer (ResNet block and transformer) at a time.
REMAT = {
    "none": lambda layer: layer,
    "products": functools.partial(
        jax.checkpoint, policy=_is_product
    ),  # norms, activations and attention: few percent of the arithmetic
    "blocks": jax.checkpoint,  # all: the forward pass once more, a third of the arithmetic
}


class ResnetBlock(nnx.Module):
    """GroupNorm-SiLU-conv twice, with the time embedding, where there is one, added in between."""

    def __init__(
        self, c_in: int, c_out: int, time_dim: int | None, *, groups: int, epsilon=1e-5, rngs, dtype
    ):
        self.norm1 = layers.GroupNorm(c_in, groups=groups, epsilon=epsilon, dtype=dtype)
        self.conv1 = layers.conv(c_in, c_out, 3, rngs=rngs, dtype=dtype)
        self.time_emb_proj = (
            layers.linear(time_dim, c_out, rngs=rngs, dtype=dtype) if time_dim else None
        )
        self.norm2 = layers.GroupNorm(c_out, groups=groups, epsilon=epsilon, dtype=dtype)
        self.conv2 = layers.conv(c_out, c_out, 3, rngs=rngs, dtype=dtype)
        self.conv_shortcut = (
            layers.conv(c_in, c_out, 1, rngs=rngs, dtype=dtype) if c_in != c_out else None
        )

    def __call__(self, x, time=None):
        """X (b, h, w, c_in), time (b, time_dim) -> (b, h, w, c_out)."""
        h = self.conv1(self.norm1(x, silu=True))
        if time is not None:
            h = h + self.time_emb_proj(jax.nn.silu(time))[:, None, None]
        h = self.conv2(self.norm2(h, silu=True))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nnx.Module):
    """Multi-head attention with separate key/value projection, so that keys can be cached.

    XLA's GPU compiler merges the products for q, k and v by itself, and on CPU one product was no faster.
    """

    def __init__(self, dim: int, context_dim: int, heads: int, *, rngs, dtype):
        self.to_q = layers.linear(dim, dim, use_bias=False, rngs=rngs, dtype=dtype)
        self.to_k = layers.linear(context_dim, dim, use_bias=False, rngs=rngs, dtype=dtype)
        self.to_v = layers.linear(context_dim, dim, use_bias=False, rngs=rngs, dtype=dtype)
        self.to_out = nnx.List([layers.linear(dim, dim, rngs=rngs, dtype=dtype)])
        self.heads = heads

    def _split(self, x):
        return x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)

    def key_value(self, context):
        """Context (b, m, context_dim) -> keys and values, each (b, m, heads, d)."""
        return self._split(self.to_k(context)), self._split(self.to_v(context))

    def __call__(self, x, key_value):
        """X (b, n, dim), key_value from `key_value` -> (b, n, dim)."""
        out = attention(self._split(self.to_q(x)), *key_value)
        return self.to_out[0](out.reshape(x.shape))


class GEGLU(nnx.Module):
    """Gated GELU (Shazeer 2020): one matmul gives value and gate."""

    def __init__(self, dim: int, inner: int, *, rngs, dtype):
        self.proj = layers.linear(dim, 2 * inner, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        """X (b, n, dim) -> (b, n, inner)."""
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """GEGLU feed-forward; index 1 of `net` is the (absent) dropout of the original."""

    def __init__(self, dim: int, *, rngs, dtype):
        self.net = nnx.List(
            [
                GEGLU(dim, 4 * dim, rngs=rngs, dtype=dtype),
                None,
                layers.linear(4 * dim, dim, rngs=rngs, dtype=dtype),
            ]
        )

    def __call__(self, x):
        """X (b, n, dim) -> (b, n, dim)."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """Self-attention (global or in windows), cross-attention, feed-forward, each pre-normed."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        *,
        window: int | None,
        shift: bool,
        rngs,
        dtype,
    ):
        norm = lambda: nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2, self.norm3 = norm(), norm(), norm()
        self.attn1 = Attention(dim, dim, heads, rngs=rngs, dtype=dtype)
        self.attn2 = Attention(dim, context_dim, heads, rngs=rngs, dtype=dtype)
        self.ff = FeedForward(dim, rngs=rngs, dtype=dtype)
        self.window, self.shift = window, shift

    def _self_attention(self, x, h: int, w: int):
        window = self.window
        if window is None or (h <= window and w <= window):
            return self.attn1(x, self.attn1.key_value(x))
        if h % window or w % window:
            raise ValueError(
                f"a {h}x{w} grid cannot be cut into windows of {window}: choose a divisor of both"
            )
        b, _, c = x.shape
        grid = x.reshape(b, h, w, c)
        roll = window // 2 if self.shift else 0
        grid = jnp.roll(grid, (-roll, -roll), (1, 2))
        tiles = layers.patchify(grid, window).reshape(-1, window * window, c)
        tiles = self.attn1(tiles, self.attn1.key_value(tiles))
        grid = layers.unpatchify(tiles.reshape(b, h // window, w // window, -1), window)
        return jnp.roll(grid, (roll, roll), (1, 2)).reshape(b, h * w, c)

    def __call__(self, x, key_value, h: int, w: int):
        """X (b, h * w, dim) and the cached keys and values of the condition -> (b, h * w, dim)."""
        x = x + self._self_attention(self.norm1(x), h, w)
        x = x + self.attn2(self.norm2(x), key_value)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """GroupNorm, projection in, one transformer block, projection out, residual."""

    def __init__(
        self, dim: int, context_dim: int, heads: int, *, groups: int, window, shift, rngs, dtype
    ):
        self.norm = layers.GroupNorm(dim, groups=groups, epsilon=1e-6, dtype=dtype)
        self.proj_in = layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        self.transformer_blocks = nnx.List(
            [
                TransformerBlock(
                    dim, context_dim, heads, window=window, shift=shift, rngs=rngs, dtype=dtype
                )
            ]
        )
        self.proj_out = layers.linear(dim, dim, rngs=rngs, dtype=dtype)

    def __call__(self, x, key_value):
        """X (b, h, w, dim) -> (b, h, w, dim)."""
        b, h, w, c = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        tokens = self.transformer_blocks[0](tokens, key_value, h, w)
        return x + self.proj_out(tokens).reshape(b, h, w, c)


class Resample(nnx.Module):
    """The 3x3 convolution of a down- or upsampler."""

    def __init__(self, channels: int, stride: int, *, padding: int | None = None, rngs, dtype):
        self.conv = layers.conv(
            channels, channels, 3, stride=stride, padding=padding, rngs=rngs, dtype=dtype
        )


class Block(nnx.Module):
    """ResNet blocks of one level, each followed by a transformer where the level has attention."""

    def __init__(
        self, channels_in: Sequence[int], c_out: int, *, attend: bool, resample: int | None, make
    ):
        self.resnets = nnx.List([make.resnet(c, c_out) for c in channels_in])
        count = len(channels_in) if attend else 0
        self.attentions = nnx.List(
            [make.transformer(c_out, shift=bool(i % 2)) for i in range(count)]
        )
        resamplers = nnx.List(
            [Resample(c_out, resample, rngs=make.rngs, dtype=make.dtype)] if resample else []
        )
        if resample == 2:
            self.downsamplers = resamplers
        else:
            self.upsamplers = resamplers

    def layer(self, i: int, x, time, key_value):
        """ResNet block i and, where the level has one (key_value is not None), transformer i."""
        x = self.resnets[i](x, time)
        return x if key_value is None else self.attentions[i](x, key_value)


class MidBlock(nnx.Module):
    """ResNet, transformer, ResNet at the lowest resolution."""

    def __init__(self, channels: int, *, make):
        self.resnets = nnx.List([make.resnet(channels, channels) for _ in range(2)])
        self.attentions = nnx.List([make.transformer(channels, shift=False)])

    def __call__(self, x, time, key_value):
        """X (b, h, w, c) -> (b, h, w, c)."""
        x = self.attentions[0](self.resnets[0](x, time), key_value)
        return self.resnets[1](x, time)


class TimeEmbedding(nnx.Module):
    """Two dense layers on the sinusoidal features."""

    def __init__(self, d_in: int, d_out: int, *, rngs, dtype):
        self.linear_1 = layers.linear(d_in, d_out, rngs=rngs, dtype=dtype)
        self.linear_2 = layers.linear(d_out, d_out, rngs=rngs, dtype=dtype)

    def __call__(self, x):
        """(b, d_in) -> (b, d_out)."""
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class Modulation(nnx.Module):
    """Scales and shifts channels by the time embedding; the identity at initialization."""

    def __init__(self, channels: int, time_dim: int, *, rngs, dtype):
        self.linear = layers.linear(time_dim, 2 * channels, zero_init=True, rngs=rngs, dtype=dtype)

    def __call__(self, h, time):
        """H (b, h, w, channels), time (b, time_dim) -> (b, h, w, channels)."""
        scale, shift = jnp.split(self.linear(jax.nn.silu(time))[:, None, None], 2, axis=-1)
        return h * (1.0 + scale) + shift


class Refine(nnx.Module):
    """Residual after the pixel shuffle, on 2x2 blocks of pixels: removes the grid a patchify stem leaves, and the noise it cannot see.

    The time embedding, which carries the prompt where `pooled_text` is on, scales and shifts its channels: restoration needs
    the pixels of the image here, depth must not see its texture. From the image to the last convolution there is a linear way.
    """

    BLOCK, LAYERS = 2, 2

    def __init__(self, c_in: int, channels: int, c_out: int, time_dim: int, *, rngs, dtype):
        kw = {"rngs": rngs, "dtype": dtype}
        self.conv_in = layers.conv(c_in * self.BLOCK**2, channels, 3, **kw)
        self.convs = nnx.List(
            [layers.conv(channels, channels, 3, **kw) for _ in range(self.LAYERS)]
        )
        self.modulations = nnx.List(
            [Modulation(channels, time_dim, **kw) for _ in range(self.LAYERS + 1)]
        )
        self.conv_out = layers.conv(channels, c_out * self.BLOCK**2, 3, zero_init=True, **kw)

    def __call__(self, x, time):
        """X (b, h, w, c_in), h and w even, time (b, time_dim) -> (b, h, w, c_out), zero at initialization."""
        h = self.conv_in(layers.patchify(x, self.BLOCK))
        for conv, modulation in zip(self.convs, self.modulations):
            h = h + conv(modulation(jax.nn.silu(h), time))
        return layers.unpatchify(self.conv_out(self.modulations[-1](h, time)), self.BLOCK)


class _Maker:
    """Holds what every ResNet block and transformer of one UNet shares while it is built."""

    def __init__(self, *, time_dim, context_dim, head_dim, heads, groups, window, rngs, dtype):
        self.time_dim, self.context_dim, self.head_dim, self.heads = (
            time_dim,
            context_dim,
            head_dim,
            heads,
        )
        self.groups, self.window, self.rngs, self.dtype = groups, window, rngs, dtype

    def resnet(self, c_in, c_out):
        return ResnetBlock(
            c_in, c_out, self.time_dim, groups=self.groups, rngs=self.rngs, dtype=self.dtype
        )

    def transformer(self, dim, shift):
        heads = self.heads or dim // self.head_dim
        return SpatialTransformer(
            dim,
            self.context_dim,
            heads,
            groups=self.groups,
            window=self.window,
            shift=shift,
            rngs=self.rngs,
            dtype=self.dtype,
        )


class UNet(nnx.Module):
    """Denoiser eps/v/x0(x_t, t, context) on RGB pixels.

    Args:
        in_channels: channels of `x` (3, or 6 with the image concatenated) before the patchify stem.
        out_channels: 3.
        channels: width of each level; the published model has (320, 640, 1280, 1280).
        layers_per_block: ResNet blocks a level on the way down (one more on the way up).
        attention_levels: which levels have transformers. All but the last is the faithful variant
            "A"; without the first it is "C".
        context_dim: width of the condition tokens.
        heads: attention heads everywhere (SD 1.x: 8), or None for `head_dim` wide heads (SD 2.x: 64).
        window: side of the self-attention windows (variant "W"), or None for global attention.
        patch: side of the patchify stem: 1 none, 2 variant "E".
        groups: groups of every GroupNorm.
        position: add a zero-initialised projection of 2-D sin-cos positions after `conv_in`.
        pooled_text: width of a pooled text vector added to the time embedding (zero-init), or 0.
        aligned: width of encoder features added, resized, at every level (zero-init), or 0.
        refine: channels of the residual on 2x2 blocks of pixels after the pixel shuffle, or 0.
        remat: what the backward pass computes again instead of reading it from memory, a name of REMAT.

    Raises ValueError for an unknown `remat` or an `attention_levels` of another length than `channels`.
    """

    def __init__(
        self,
        *,
        in_channels=3,
        out_channels=3,
        channels=(320, 640, 1280, 1280),
        layers_per_block=2,
        attention_levels=(True, True, True, False),
        context_dim=768,
        heads: int | None = 8,
        head_dim=64,
        window: int | None = None,
        patch=1,
        groups=32,
        position=False,
        pooled_text=0,
        aligned=0,
        refine=0,
        remat="none",
        rngs: layers.HostRngs,
        dtype=jnp.float32,
    ):
        if len(attention_levels) != len(channels):
            raise ValueError(
                f"attention_levels has {len(attention_levels)} entries for {len(channels)} levels: {attention_levels}"
            )
        if remat not in REMAT:
            raise ValueError(f"model.remat {remat!r}: choose one of {', '.join(REMAT)}")
        self._remat = REMAT[remat]
        self.patch, self.time_channels, self.dtype = patch, channels[0], dtype
        time_dim = 4 * channels[0]
        make = _Maker(
            time_dim=time_dim,
            context_dim=context_dim,
            head_dim=head_dim,
            heads=heads,
            groups=groups,
            window=window,
            rngs=rngs,
            dtype=dtype,
        )
        kw = {"rngs": rngs, "dtype": dtype}
        self.conv_in = layers.conv(in_channels * patch**2, channels[0], 3, **kw)
        self.time_embedding = TimeEmbedding(channels[0], time_dim, **kw)
        self.down_blocks, skips = self._make_down(
            channels, layers_per_block, attention_levels, make
        )
        self.mid_block = MidBlock(channels[-1], make=make)
        self.up_blocks = self._make_up(channels, layers_per_block, attention_levels, skips, make)
        self.conv_norm_out = layers.GroupNorm(channels[0], groups=groups, dtype=dtype)
        self.conv_out = layers.conv(channels[0], out_channels * patch**2, 3, **kw)
        zero = {"zero_init": True, **kw}
        self.position = layers.linear(32, channels[0], **zero) if position else None
        self.pooled_text = layers.linear(pooled_text, time_dim, **zero) if pooled_text else None
        entering = (channels[0], *channels[:-1])  # width in which each level begins
        self.aligned = nnx.List(
            [layers.linear(aligned, c, **zero) for c in entering] if aligned else []
        )
        self.refine = (
            Refine(in_channels + out_channels, refine, out_channels, time_dim, **kw)
            if refine
            else None
        )

    @staticmethod
    def _make_down(channels, depth, attention_levels, make):
        blocks, skips, c = [], [channels[0]], channels[0]
        for level, width in enumerate(channels):
            last = level == len(channels) - 1
            blocks.append(
                Block(
                    [c] + [width] * (depth - 1),
                    width,
                    attend=attention_levels[level],
                    resample=None if last else 2,
                    make=make,
                )
            )
            skips += [width] * (depth if last else depth + 1)
            c = width
        return nnx.List(blocks), skips

    @staticmethod
    def _make_up(channels, depth, attention_levels, skips, make):
        blocks, c, skips = [], channels[-1], list(skips)
        for level in reversed(range(len(channels))):
            width = channels[level]
            inputs = []
            for _ in range(depth + 1):
                inputs.append(c + skips.pop())
                c = width
            blocks.append(
                Block(
                    inputs,
                    width,
                    attend=attention_levels[level],
                    resample=1 if level else None,
                    make=make,
                )
            )
        return nnx.List(blocks)

    def context(self, tokens):
        """Keys and values of every cross-attention, in the order of use.

        tokens (b, n, context_dim) -> list of (k, v), each (b, n, heads, d). Independent of x_t and t:
        compute it once a sample, whatever the number of denoising steps.
        """
        blocks = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [
            a.transformer_blocks[0].attn2.key_value(tokens)
            for block in blocks
            for a in block.attentions
        ]

    def __call__(self, x, timesteps, context, *, pooled=None, features=None):
        """Predicts the clean image, noise or velocity, whatever it was trained for.

        Args:
            x: (b, h, w, in_channels) noisy target, with the image appended where it is concatenated.
            timesteps: (b,) in the units of the schedule, 0..999.
            context: from `context`, or the condition tokens themselves, (b, n, context_dim).
            pooled: (b, pooled_text) pooled text features, where the model takes them.
            features: (b, g, g, aligned) L2-normalised encoder features, where the model takes them.

        Returns:
            (b, h, w, out_channels) float32.
        """
        context = iter(context if isinstance(context, list) else self.context(context))
        time = self.time_embedding(
            layers.timestep_embedding(timesteps, self.time_channels).astype(self.dtype)
        )
        if self.pooled_text is not None:
            time = time + self.pooled_text(pooled)
        pixels = x.astype(self.dtype)
        h = self.conv_in(layers.patchify(pixels, self.patch))
        if self.position is not None:
            h = h + self.position(layers.position_embedding(*h.shape[1:3], 32))
        h = self._up(*self._down(h, time, context, features), time, context)
        h = layers.unpatchify(self.conv_out(self.conv_norm_out(h, silu=True)), self.patch)
        if self.refine is not None:
            h = h + self.refine(jnp.concatenate([pixels, h], axis=-1), time)
        return h.astype(jnp.float32)

    def _down(self, h, time, context, features):
        skips = [h]
        for level, block in enumerate(self.down_blocks):
            if len(self.aligned):
                projected = self.aligned[level](
                    features
                )  # before it is resized: a product of fewer, narrower tokens, and the same sum
                h = h + jax.image.resize(projected, h.shape, "bilinear")
            for i in range(len(block.resnets)):
                h = self._layer(block, i, h, time, context)
                skips.append(h)
            if hasattr(block, "downsamplers") and len(block.downsamplers):
                h = block.downsamplers[0].conv(h)
                skips.append(h)
        return self._remat(self.mid_block)(h, time, next(context)), skips

    def _layer(self, block, i, h, time, context):
        return self._remat(functools.partial(block.layer, i))(
            h, time, next(context) if len(block.attentions) else None
        )

    def _up(self, h, skips, time, context):
        for block in self.up_blocks:
            for i in range(len(block.resnets)):
                h = self._layer(block, i, jnp.concatenate([h, skips.pop()], axis=-1), time, context)
            if len(block.upsamplers):
                h = block.upsamplers[0].conv(layers.upsample(h))
        return h
