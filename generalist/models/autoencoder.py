"""The latent autoencoder of Stable Diffusion (Rombach et al. 2022), with the parameter names of its published weights."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from generalist.models import layers
from generalist.models.attention import attention
from generalist.models.unet import Resample, ResnetBlock

EPSILON = 1e-6


class AttentionBlock(nnx.Module):
    """Single-head self-attention over all pixels, with a residual."""

    def __init__(self, channels: int, *, groups, rngs, dtype):
        make = lambda: layers.linear(channels, channels, rngs=rngs, dtype=dtype)
        self.group_norm = layers.GroupNorm(channels, groups=groups, epsilon=EPSILON, dtype=dtype)
        self.to_q, self.to_k, self.to_v = make(), make(), make()
        self.to_out = nnx.List([make()])

    def __call__(self, x):
        """X (b, h, w, c) -> (b, h, w, c)."""
        b, h, w, c = x.shape
        tokens = self.group_norm(x).reshape(b, h * w, 1, c)
        out = attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](out).reshape(x.shape)


class MidBlock(nnx.Module):
    """ResNet, attention, ResNet at the lowest resolution."""

    def __init__(self, channels: int, **kw):
        self.resnets = nnx.List(
            [ResnetBlock(channels, channels, None, epsilon=EPSILON, **kw) for _ in range(2)]
        )
        self.attentions = nnx.List([AttentionBlock(channels, **kw)])

    def __call__(self, x):
        """X (b, h, w, c) -> (b, h, w, c)."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Level(nnx.Module):
    """ResNet blocks of one level and, but for the last, the resampling behind them."""

    def __init__(
        self, c_in: int, c_out: int, depth: int, *, down: bool, last: bool, groups, rngs, dtype
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        self.resnets = nnx.List(
            [
                ResnetBlock(
                    c_in if i == 0 else c_out, c_out, None, groups=groups, epsilon=EPSILON, **kw
                )
                for i in range(depth)
            ]
        )
        # Down, the published model pads right and below only.
        resamplers = (
            []
            if last
            else [Resample(c_out, 2, padding=0, **kw) if down else Resample(c_out, 1, **kw)]
        )
        self.downsamplers, self.upsamplers = (
            nnx.List(resamplers if down else []),
            nnx.List([] if down else resamplers),
        )

    def __call__(self, x):
        """X (b, h, w, c_in) -> (b, h', w', c_out)."""
        for block in self.resnets:
            x = block(x)
        if len(self.downsamplers):
            x = self.downsamplers[0].conv(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))
        if len(self.upsamplers):
            x = self.upsamplers[0].conv(layers.upsample(x))
        return x


class Coder(nnx.Module):
    """The encoder (`down`) or the decoder: convolution, levels and a middle, norm, convolution."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        channels: Sequence[int],
        depth: int,
        *,
        down: bool,
        groups,
        rngs,
        dtype,
    ):
        kw = {"groups": groups, "rngs": rngs, "dtype": dtype}
        order = list(channels) if down else list(channels)[::-1]
        self.conv_in = layers.conv(c_in, order[0], 3, rngs=rngs, dtype=dtype)
        levels = nnx.List(
            [
                Level(a, b, depth, down=down, last=i == len(order) - 1, **kw)
                for i, (a, b) in enumerate(zip([order[0], *order[:-1]], order))
            ]
        )
        if down:
            self.down_blocks = levels
        else:
            self.up_blocks = levels
        self.mid_block = MidBlock(channels[-1], **kw)
        self.conv_norm_out = layers.GroupNorm(
            order[-1], groups=groups, epsilon=EPSILON, dtype=dtype
        )
        self.conv_out = layers.conv(order[-1], c_out, 3, rngs=rngs, dtype=dtype)
        self.down = down

    def __call__(self, x):
        """X (b, h, w, c_in) -> (b, h', w', c_out)."""
        x = self.conv_in(x)
        if not self.down:
            x = self.mid_block(x)
        for level in self.down_blocks if self.down else self.up_blocks:
            x = level(x)
        if self.down:
            x = self.mid_block(x)
        return self.conv_out(self.conv_norm_out(x, silu=True))


class Autoencoder(nnx.Module):
    """Image <-> latent, unscaled: multiply a latent by the checkpoint's `scaling_factor` before diffusing it.

    Args:
        channels: width of each level; every level but the last halves the image.
        layers_per_block: ResNet blocks a level of the encoder (one more in the decoder).
        latent_channels: channels of the latent.
        groups: groups of every GroupNorm.
    """

    def __init__(
        self,
        *,
        channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
        groups=32,
        scaling_factor=0.18215,
        rngs: layers.HostRngs,
        dtype=jnp.float32,
    ):
        kw = {"groups": groups, "rngs": rngs, "dtype": dtype}
        self.encoder = Coder(3, 2 * latent_channels, channels, layers_per_block, down=True, **kw)
        self.decoder = Coder(latent_channels, 3, channels, layers_per_block + 1, down=False, **kw)
        self.quant_conv = layers.conv(
            2 * latent_channels, 2 * latent_channels, 1, rngs=rngs, dtype=dtype
        )
        self.post_quant_conv = layers.conv(
            latent_channels, latent_channels, 1, rngs=rngs, dtype=dtype
        )
        self.dtype, self.factor, self.scaling_factor = (
            dtype,
            2 ** (len(channels) - 1),
            scaling_factor,
        )

    def encode(self, image) -> tuple[jax.Array, jax.Array]:
        """Image (b, h, w, 3) in [-1, 1] -> mean and log variance, each (b, h / f, w / f, latent_channels) float32."""
        if image.shape[1] % self.factor or image.shape[2] % self.factor:
            raise ValueError(
                f"image of {image.shape[1]}x{image.shape[2]} pixels: sides must be multiples of {self.factor}"
            )
        moments = self.quant_conv(self.encoder(image.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latent):
        """Latent (b, h, w, latent_channels) -> image (b, f h, f w, 3) float32 in about [-1, 1]."""
        return self.decoder(self.post_quant_conv(latent.astype(self.dtype))).astype(jnp.float32)
