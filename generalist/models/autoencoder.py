"""The latent autoencoder of Stable Diffusion (Rombach et al. 2022).

With the parameter names of its published weights.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from generalist.models import layers
from generalist.models.attention import attention
from generalist.models.unet_blocks import Resample, ResnetBlock

EPSILON = 1e-6  # of every GroupNorm


class AttentionBlock(nnx.Module):
    """Single-head self-attention over all pixels, with a residual."""

    def __init__(self, channels: int, *, groups: int, rngs: layers.HostRngs, dtype: DTypeLike):
        kw = {"rngs": rngs, "dtype": dtype}
        self.group_norm = layers.GroupNorm(channels, groups=groups, epsilon=EPSILON, dtype=dtype)
        self.to_q = layers.linear(channels, channels, **kw)
        self.to_k = layers.linear(channels, channels, **kw)
        self.to_v = layers.linear(channels, channels, **kw)
        self.to_out = nnx.List([layers.linear(channels, channels, **kw)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Lets the pixels attend to each other."""
        b, h, w, c = x.shape
        tokens = self.group_norm(x).reshape(b, h * w, 1, c)
        out = attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + self.to_out[0](out).reshape(x.shape)


class MidBlock(nnx.Module):
    """ResNet, attention, ResNet at the lowest resolution."""

    def __init__(self, channels: int, *, groups: int, rngs: layers.HostRngs, dtype: DTypeLike):
        kw = {"groups": groups, "rngs": rngs, "dtype": dtype}
        self.resnets = nnx.List(
            [ResnetBlock(channels, channels, None, epsilon=EPSILON, **kw) for _ in range(2)]
        )
        self.attentions = nnx.List([AttentionBlock(channels, **kw)])

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Transforms x."""
        x = self.resnets[0](x)
        x = self.attentions[0](x)
        return self.resnets[1](x)


class Level(nnx.Module):
    """The ResNet blocks of one level and, except for the last, the resampling behind them."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        depth: int,  # ResNet blocks
        *,
        down: bool,  # of the encoder, else of the decoder
        last: bool,
        groups: int,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        self.resnets = nnx.List([])
        for width in [c_in] + [c_out] * (depth - 1):
            resnet = ResnetBlock(width, c_out, None, groups=groups, epsilon=EPSILON, **kw)
            self.resnets.append(resnet)

        self.downsamplers = nnx.List([])
        self.upsamplers = nnx.List([])
        if down and not last:
            # No padding: the published model pads right and below only, see `__call__`.
            self.downsamplers.append(Resample(c_out, 2, padding=0, **kw))
        if not down and not last:
            self.upsamplers.append(Resample(c_out, 1, **kw))

    def __call__(self, x: Float[Array, "b h w c_in"]) -> Float[Array, "b _h _w c_out"]:
        """Transforms x, then halves or doubles height and width."""
        for block in self.resnets:
            x = block(x)
        if len(self.downsamplers):
            x = self.downsamplers[0].conv(jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))
        if len(self.upsamplers):
            x = self.upsamplers[0].conv(layers.upsample(x))
        return x


class Coder(nnx.Module):
    """The encoder or the decoder: convolution, levels and a middle, norm, convolution."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        channels: Sequence[int],  # width of each level, from the image to the latent
        depth: int,  # ResNet blocks a level
        *,
        down: bool,  # the encoder, else the decoder
        groups: int,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        kw = {"groups": groups, "rngs": rngs, "dtype": dtype}
        order = list(channels) if down else list(channels)[::-1]
        self.down = down

        # The order of all that follows decides which initial values each part draws.
        self.conv_in = layers.conv(c_in, order[0], 3, rngs=rngs, dtype=dtype)
        levels = nnx.List([])
        entered = [order[0], *order[:-1]]
        for i, (before, width) in enumerate(zip(entered, order, strict=True)):
            last = i == len(order) - 1
            levels.append(Level(before, width, depth, down=down, last=last, **kw))
        if down:
            self.down_blocks = levels
        else:
            self.up_blocks = levels
        self.mid_block = MidBlock(channels[-1], **kw)

        self.conv_norm_out = layers.GroupNorm(
            order[-1], groups=groups, epsilon=EPSILON, dtype=dtype
        )
        self.conv_out = layers.conv(order[-1], c_out, 3, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b h w c_in"]) -> Float[Array, "b _h _w c_out"]:
        """Encodes or decodes x."""
        x = self.conv_in(x)

        # The middle is at the lowest resolution: the encoder's end, the decoder's beginning.
        if not self.down:
            x = self.mid_block(x)
        for level in self.down_blocks if self.down else self.up_blocks:
            x = level(x)
        if self.down:
            x = self.mid_block(x)

        return self.conv_out(self.conv_norm_out(x, silu=True))


class Autoencoder(nnx.Module):
    """Image <-> latent, unscaled: multiply a latent by `scaling_factor` before diffusing it."""

    def __init__(
        self,
        *,
        # Width of each level; every level except the last halves the image.
        channels: Sequence[int] = (128, 256, 512, 512),
        # ResNet blocks a level of the encoder; one more in the decoder.
        layers_per_block: int = 2,
        latent_channels: int = 4,
        # Groups of every GroupNorm.
        groups: int = 32,
        # Gives latents about unit variance; each published checkpoint has its own.
        scaling_factor: float = 0.18215,
        rngs: layers.HostRngs,
        dtype: DTypeLike = jnp.float32,
    ):
        self.dtype = dtype
        self.factor = 2 ** (len(channels) - 1)  # side of the image / side of the latent
        self.scaling_factor = scaling_factor

        # The order decides which initial values each part draws.
        kw = {"rngs": rngs, "dtype": dtype}
        depth = layers_per_block
        moments = 2 * latent_channels  # mean and log variance
        self.encoder = Coder(3, moments, channels, depth, down=True, groups=groups, **kw)
        self.decoder = Coder(
            latent_channels, 3, channels, depth + 1, down=False, groups=groups, **kw
        )
        self.quant_conv = layers.conv(moments, moments, 1, **kw)
        self.post_quant_conv = layers.conv(latent_channels, latent_channels, 1, **kw)

    def encode(
        self, image: Float[layers.AnyArray, "b height width 3"]
    ) -> tuple[Float[Array, "b h w c"], Float[Array, "b h w c"]]:
        """Encodes images in [-1, 1] whose sides are multiples of `factor`.

        Returns:
            Mean and log variance of the latent, float32: h = height / factor, w = width / factor,
            c = latent_channels.

        Raises:
            ValueError: for sides that are not multiples of `factor`.
        """
        _, h, w, _ = image.shape
        if h % self.factor or w % self.factor:
            raise ValueError(f"image of {h}x{w} pixels: sides must be multiples of {self.factor}")

        moments = self.quant_conv(self.encoder(image.astype(self.dtype))).astype(jnp.float32)
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(logvar, -30.0, 20.0)

    def decode(self, latent: Float[layers.AnyArray, "b h w c"]) -> Float[Array, "b height width 3"]:
        """Decodes latents to images, float32 in about [-1, 1], `factor` times their sides."""
        return self.decoder(self.post_quant_conv(latent.astype(self.dtype))).astype(jnp.float32)
