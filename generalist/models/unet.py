"""The pixel-space UNet, in the topology and with the parameter names of Stable Diffusion's UNet.

`down_blocks.0.resnets.0.conv1.kernel` here is `down_blocks.0.resnets.0.conv1.weight` there
(kernels are HWIO, dense kernels (in, out)). What is new beside a pre-trained checkpoint starts at
zero and leaves its function unchanged: `position`, `pooled_text`, `aligned` and `refine`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from generalist.models import layers
from generalist.models.unet_blocks import (
    REMAT,
    BlockConfig,
    DownBlock,
    KeyValues,
    MidBlock,
    UpBlock,
)
from generalist.names import one_of

POSITION_FEATURES = 32


class TimeEmbedding(nnx.Module):
    """Two dense layers on the sinusoidal features."""

    def __init__(self, d_in: int, d_out: int, *, rngs: layers.HostRngs, dtype: DTypeLike):
        self.linear_1 = layers.linear(d_in, d_out, rngs=rngs, dtype=dtype)
        self.linear_2 = layers.linear(d_out, d_out, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b d_in"]) -> Float[Array, "b d_out"]:
        """Embeds the sinusoidal features x."""
        return self.linear_2(jax.nn.silu(self.linear_1(x)))


class Modulation(nnx.Module):
    """Scales and shifts channels by the time embedding; the identity at initialization."""

    def __init__(self, channels: int, time_dim: int, *, rngs: layers.HostRngs, dtype: DTypeLike):
        self.linear = layers.linear(time_dim, 2 * channels, zero_init=True, rngs=rngs, dtype=dtype)

    def __call__(
        self, h: Float[Array, "b h w c"], time: Float[Array, "b time_dim"]
    ) -> Float[Array, "b h w c"]:
        """Modulates h."""
        scale, shift = jnp.split(self.linear(jax.nn.silu(time))[:, None, None], 2, axis=-1)
        return h * (1.0 + scale) + shift


class Refine(nnx.Module):
    """Residual after the pixel shuffle, on 2x2 blocks of pixels.

    It removes the grid that a patchify stem leaves, and the noise that the stem cannot see. The
    time embedding, which includes the prompt with `pooled_text`, scales and shifts its channels:
    restoration needs the pixels of the image here, depth must not see its texture. From the image
    to the last convolution there is a linear path.
    """

    BLOCK = 2  # side of the blocks of pixels
    LAYERS = 2

    def __init__(
        self,
        c_in: int,
        channels: int,
        c_out: int,
        time_dim: int,
        *,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        kw = {"rngs": rngs, "dtype": dtype}
        area = self.BLOCK**2
        self.conv_in = layers.conv(c_in * area, channels, 3, **kw)

        convs = [layers.conv(channels, channels, 3, **kw) for _ in range(self.LAYERS)]
        self.convs = nnx.List(convs)
        modulations = [Modulation(channels, time_dim, **kw) for _ in range(self.LAYERS + 1)]
        self.modulations = nnx.List(modulations)

        self.conv_out = layers.conv(channels, c_out * area, 3, zero_init=True, **kw)

    def __call__(
        self, x: Float[layers.AnyArray, "b h w c_in"], time: Float[Array, "b time_dim"]
    ) -> Float[Array, "b h w c_out"]:
        """Returns the residual, zero at initialization; h and w must be even."""
        *inner, last = self.modulations
        h = self.conv_in(layers.patchify(x, self.BLOCK))
        for conv, modulation in zip(self.convs, inner, strict=True):
            h = h + conv(modulation(jax.nn.silu(h), time))
        return layers.unpatchify(self.conv_out(last(h, time)), self.BLOCK)


class UNet(nnx.Module):
    """Denoiser eps/v/x0(x_t, t, context) on RGB pixels.

    Raises:
        ValueError: for an unknown `remat`, or `attention_levels` of another length than `channels`.
    """

    def __init__(
        self,
        *,
        # Channels of x, before the patchify stem: 3, or 6 with the image concatenated.
        in_channels: int = 3,
        out_channels: int = 3,
        # Width of each level; these are the published model's.
        channels: Sequence[int] = (320, 640, 1280, 1280),
        # ResNet blocks a level on the way down; one more on the way up.
        layers_per_block: int = 2,
        # Which levels have transformers. All but the last is the faithful variant "A"; without the
        # first it is "C".
        attention_levels: Sequence[bool] = (True, True, True, False),
        # Width of the condition tokens.
        context_dim: int = 768,
        # Attention heads everywhere (SD 1.x: 8); None: heads of width `head_dim` (SD 2.x: 64).
        heads: int | None = 8,
        head_dim: int = 64,
        # Side of the self-attention windows (variant "W"), or None for global attention.
        window: int | None = None,
        # Side of the patchify stem: 1 none, 2 variant "E".
        patch: int = 1,
        # Groups of every GroupNorm.
        groups: int = 32,
        # Whether a projection of 2-D sin-cos positions is added after `conv_in` (starts at zero).
        position: bool = False,
        # Width of a pooled text vector added to the time embedding (starts at zero); 0: none.
        pooled_text: int = 0,
        # Width of encoder features added, resized, at every level (starts at zero); 0: none.
        aligned: int = 0,
        # Channels of the residual `Refine` after the pixel shuffle; 0: none.
        refine: int = 0,
        # What the backward pass computes again instead of reading it from memory: a name of REMAT.
        remat: str = "none",
        rngs: layers.HostRngs,
        dtype: DTypeLike = jnp.float32,
    ):
        if len(attention_levels) != len(channels):
            raise ValueError(
                f"attention_levels has {len(attention_levels)} entries "
                f"for {len(channels)} levels: {attention_levels}"
            )
        self._remat = REMAT[one_of(remat, REMAT, "model.remat")]
        self.patch = patch
        self.time_channels = channels[0]
        self.dtype = dtype

        # The order of all that follows decides which initial values each part draws.
        kw = {"rngs": rngs, "dtype": dtype}
        time_dim = 4 * channels[0]
        config = BlockConfig(
            time_dim=time_dim,
            context_dim=context_dim,
            heads=heads,
            head_dim=head_dim,
            groups=groups,
            window=window,
            dtype=dtype,
        )

        # Stem.
        self.conv_in = layers.conv(in_channels * patch**2, channels[0], 3, **kw)
        self.time_embedding = TimeEmbedding(channels[0], time_dim, **kw)

        # Down, middle and up.
        levels = list(zip(channels, attention_levels, strict=True))
        self.down_blocks, skips = _make_down(levels, layers_per_block, config, rngs)
        self.mid_block = MidBlock(channels[-1], config, rngs=rngs)
        self.up_blocks = _make_up(levels, layers_per_block, skips, config, rngs)

        # Head.
        self.conv_norm_out = layers.GroupNorm(channels[0], groups=groups, dtype=dtype)
        self.conv_out = layers.conv(channels[0], out_channels * patch**2, 3, **kw)

        # What no published UNet has; it starts at zero.
        zero = {"zero_init": True, **kw}
        width = channels[0]
        self.position = layers.linear(POSITION_FEATURES, width, **zero) if position else None
        self.pooled_text = layers.linear(pooled_text, time_dim, **zero) if pooled_text else None
        # A level begins in the width of the level before it.
        entered = (width, *channels[:-1]) if aligned else ()
        self.aligned = nnx.List([layers.linear(aligned, c, **zero) for c in entered])
        self.refine = (
            Refine(in_channels + out_channels, refine, out_channels, time_dim, **kw)
            if refine
            else None
        )

    def context(self, tokens: Float[layers.AnyArray, "b m context_dim"]) -> KeyValues:
        """Returns the keys and values of every cross-attention, in the order of use.

        They do not depend on x_t and t: compute them once a sample, whatever the number of
        denoising steps.
        """
        lowest = len(self.down_blocks) - 1
        blocks = [
            *enumerate(self.down_blocks),
            (lowest, self.mid_block),
            *zip(range(lowest, -1, -1), self.up_blocks, strict=True),
        ]

        keys_values = []
        for level, block in blocks:
            with jax.named_scope(f"level_{level}"):
                keys_values += [transformer.key_value(tokens) for transformer in block.attentions]
        return keys_values

    def __call__(
        self,
        x: Float[layers.AnyArray, "b h w in_channels"],
        timesteps: Num[layers.AnyArray, " b"],
        context: KeyValues | Float[layers.AnyArray, "b m context_dim"],
        *,
        pooled: Float[layers.AnyArray, "b pooled_text"] | None = None,
        features: Float[layers.AnyArray, "b g g aligned"] | None = None,
    ) -> Float[Array, "b h w out_channels"]:
        """Predicts the clean image, noise or velocity, whatever it was trained for.

        Args:
            x: noisy target, with the image appended if it is concatenated.
            timesteps: in the units of the schedule, 0..999.
            context: keys and values from `context`, or the condition tokens themselves.
            pooled: pooled text features, if the model takes them.
            features: L2-normalized encoder features, if the model takes them.

        Returns:
            The prediction, float32.
        """
        keys_values = iter(context if isinstance(context, list) else self.context(context))
        time = self._embed_time(timesteps, pooled)

        # Stem: pixels become the grid of the first level.
        pixels = x.astype(self.dtype)
        h = self._stem(pixels)

        # Down: the output of every layer and every downsampler is kept for the way up.
        skips = [h]
        for level, block in enumerate(self.down_blocks):
            with jax.named_scope(f"level_{level}"):
                if len(self.aligned):
                    h = h + self._resized_features(level, features, h.shape)
                outputs = block(h, time, keys_values, self._remat)
            h = outputs[-1]
            skips += outputs
            if len(block.downsamplers):
                # Belongs to the next level, whose resolution it computes.
                with jax.named_scope(f"level_{level + 1}"):
                    h = block.downsample(h)
                skips.append(h)

        # Middle: the lowest resolution once more, with attention whatever its level has.
        lowest = len(self.down_blocks) - 1
        with jax.named_scope(f"level_{lowest}"):
            h = self._remat(self.mid_block)(h, time, next(keys_values))

        # Up: every layer sees what the way down kept, last in, first out.
        for level, block in zip(range(lowest, -1, -1), self.up_blocks, strict=True):
            with jax.named_scope(f"level_{level}"):
                h = block(h, skips, time, keys_values, self._remat)
            if len(block.upsamplers):
                with jax.named_scope(f"level_{level - 1}"):
                    h = block.upsample(h)

        # Head: the grid becomes pixels again, and `refine` corrects them.
        h = self._head(h)
        if self.refine is not None:
            with jax.named_scope("refine"):
                h = h + self.refine(jnp.concatenate([pixels, h], axis=-1), time)
        return h.astype(jnp.float32)

    @jax.named_scope("level_0")
    def _embed_time(self, timesteps, pooled):
        """Returns the time embedding (b, time_dim), the pooled text added to it."""
        features = layers.timestep_embedding(timesteps, self.time_channels)
        time = self.time_embedding(features.astype(self.dtype))
        if self.pooled_text is not None:
            time = time + self.pooled_text(pooled)
        return time

    @jax.named_scope("level_0")
    def _stem(self, pixels):
        h = self.conv_in(layers.patchify(pixels, self.patch))
        if self.position is not None:
            h = h + self.position(layers.position_embedding(*h.shape[1:3], POSITION_FEATURES))
        return h

    @jax.named_scope("level_0")
    def _head(self, h):
        h = self.conv_out(self.conv_norm_out(h, silu=True))
        return layers.unpatchify(h, self.patch)

    def _resized_features(self, level: int, features, shape: Sequence[int]):
        """Returns the encoder's features as (b, h, w, c) of a level.

        Projected before they are resized: the sum is the same, the product has fewer and narrower
        tokens.
        """
        projected = self.aligned[level](features)
        with jax.named_scope("resize_features"):
            return jax.image.resize(projected, shape, "bilinear")


def _make_down(
    levels: Sequence[tuple[int, bool]], depth: int, config: BlockConfig, rngs: layers.HostRngs
) -> tuple[nnx.List, list[int]]:
    """Builds the levels on the way down.

    Args:
        levels: (width, whether it attends) of each.
        depth: ResNet blocks of each.
        config: what all blocks share.
        rngs: where the initial values come from.

    Returns:
        The blocks, and the widths of what they keep for the way up.
    """
    blocks = []
    c = levels[0][0]
    skips = [c]  # the stem's output
    for level, (width, attend) in enumerate(levels):
        downsample = level < len(levels) - 1
        inputs = [c] + [width] * (depth - 1)
        blocks.append(
            DownBlock(inputs, width, config, attend=attend, downsample=downsample, rngs=rngs)
        )
        skips += [width] * (depth + downsample)
        c = width
    return nnx.List(blocks), skips


def _make_up(
    levels: Sequence[tuple[int, bool]],
    depth: int,
    skips: Sequence[int],
    config: BlockConfig,
    rngs: layers.HostRngs,
) -> nnx.List:
    """Builds the levels on the way up, each one ResNet block deeper than on the way down."""
    blocks = []
    skips = list(skips)
    c = levels[-1][0]
    for level, (width, attend) in reversed(list(enumerate(levels))):
        # Every ResNet block sees what the way down kept beside its input.
        inputs = []
        for _ in range(depth + 1):
            inputs.append(c + skips.pop())
            c = width
        blocks.append(UpBlock(inputs, width, config, attend=attend, upsample=level > 0, rngs=rngs))
    return nnx.List(blocks)
