"""The blocks of the UNet, with the parameter names of Stable Diffusion's.

`resnets.0.conv1.kernel` here is `resnets.0.conv1.weight` there (kernels are HWIO, dense kernels
(in, out)). In shapes, `n` counts the tokens of a picture, h * w, and `m` those of the condition.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from generalist.models import layers
from generalist.models.attention import attention

# Keys and values of one cross-attention.
KeyValue = tuple[Float[Array, "b m heads d"], Float[Array, "b m heads d"]]
# Those of several levels, whose heads differ in width.
KeyValues = list[tuple[Float[Array, "b m _ _"], Float[Array, "b m _ _"]]]


def _is_product(primitive, *_, **settings) -> bool:
    """Returns whether a primitive is a convolution or a dense layer.

    Attention's products, which have batch dimensions, are not: its scores are as large as all else
    together.
    """
    if primitive is jax.lax.dot_general_p:
        _, batch_dimensions = settings["dimension_numbers"]
        return batch_dimensions == ((), ())
    return primitive is jax.lax.conv_general_dilated_p


def _keep_everything(layer: Callable) -> Callable:
    return layer


# What the backward pass computes again, one layer (ResNet block and transformer) at a time.
REMAT = {
    "none": _keep_everything,
    # Norms, activations and attention: a few percent of the arithmetic.
    "products": functools.partial(jax.checkpoint, policy=_is_product),
    # All: the forward pass once more, a third of the arithmetic.
    "blocks": jax.checkpoint,
}


@dataclasses.dataclass(frozen=True)
class BlockConfig:
    """What the blocks of all levels of one UNet share."""

    time_dim: int  # width of the time embedding
    context_dim: int  # width of the condition tokens
    heads: int | None  # attention heads; None: as many as are `head_dim` wide
    head_dim: int
    groups: int  # groups of every GroupNorm
    window: int | None  # side of the self-attention windows; None: global attention
    dtype: DTypeLike


class ResnetBlock(nnx.Module):
    """GroupNorm-SiLU-conv twice, with the time embedding, if there is one, added in between."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        time_dim: int | None,
        *,
        groups: int,
        epsilon: float = 1e-5,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        self.norm1 = layers.GroupNorm(c_in, groups=groups, epsilon=epsilon, dtype=dtype)
        self.conv1 = layers.conv(c_in, c_out, 3, rngs=rngs, dtype=dtype)
        self.time_emb_proj = (
            layers.linear(time_dim, c_out, rngs=rngs, dtype=dtype) if time_dim else None
        )

        self.norm2 = layers.GroupNorm(c_out, groups=groups, epsilon=epsilon, dtype=dtype)
        self.conv2 = layers.conv(c_out, c_out, 3, rngs=rngs, dtype=dtype)

        # The residual needs a projection only where the width changes.
        self.conv_shortcut = (
            layers.conv(c_in, c_out, 1, rngs=rngs, dtype=dtype) if c_in != c_out else None
        )

    def __call__(
        self,
        x: Float[layers.AnyArray, "b h w c_in"],
        time: Float[layers.AnyArray, "b time_dim"] | None = None,
    ) -> Float[Array, "b h w c_out"]:
        """Transforms x, given the time embedding."""
        h = self.conv1(self.norm1(x, silu=True))
        if time is not None:
            h = h + self.time_emb_proj(jax.nn.silu(time))[:, None, None]
        h = self.conv2(self.norm2(h, silu=True))

        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return h + x


class Attention(nnx.Module):
    """Multi-head attention with separate key/value projection, so that keys can be cached.

    XLA's GPU compiler merges the products for q, k and v by itself, and on CPU one product was no
    faster.
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        *,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        self.to_q = layers.linear(dim, dim, use_bias=False, rngs=rngs, dtype=dtype)
        self.to_k = layers.linear(context_dim, dim, use_bias=False, rngs=rngs, dtype=dtype)
        self.to_v = layers.linear(context_dim, dim, use_bias=False, rngs=rngs, dtype=dtype)
        self.to_out = nnx.List([layers.linear(dim, dim, rngs=rngs, dtype=dtype)])
        self.heads = heads

    def _split_heads(self, x):
        return x.reshape(*x.shape[:-1], self.heads, x.shape[-1] // self.heads)

    def key_value(self, context: Float[layers.AnyArray, "b m context_dim"]) -> KeyValue:
        """Returns the keys and values of `context`."""
        keys = self._split_heads(self.to_k(context))
        values = self._split_heads(self.to_v(context))
        return keys, values

    def __call__(self, x: Float[Array, "b n dim"], key_value: KeyValue) -> Float[Array, "b n dim"]:
        """Lets the tokens x attend to the keys and values of `key_value`."""
        queries = self._split_heads(self.to_q(x))
        out = attention(queries, *key_value)
        return self.to_out[0](out.reshape(x.shape))


class GEGLU(nnx.Module):
    """Gated GELU (Shazeer 2020): one matmul gives value and gate."""

    def __init__(self, dim: int, inner: int, *, rngs: layers.HostRngs, dtype: DTypeLike):
        self.proj = layers.linear(dim, 2 * inner, rngs=rngs, dtype=dtype)

    def __call__(self, x: Float[Array, "b n dim"]) -> Float[Array, "b n inner"]:
        """Widens the tokens to `inner`."""
        value, gate = jnp.split(self.proj(x), 2, axis=-1)
        return value * jax.nn.gelu(gate, approximate=False)


class FeedForward(nnx.Module):
    """GEGLU feed-forward; index 1 of `net` is the (absent) dropout of the original."""

    def __init__(self, dim: int, *, rngs: layers.HostRngs, dtype: DTypeLike):
        widen = GEGLU(dim, 4 * dim, rngs=rngs, dtype=dtype)
        narrow = layers.linear(4 * dim, dim, rngs=rngs, dtype=dtype)
        self.net = nnx.List([widen, None, narrow])

    def __call__(self, x: Float[Array, "b n dim"]) -> Float[Array, "b n dim"]:
        """Transforms each token by itself."""
        return self.net[2](self.net[0](x))


class TransformerBlock(nnx.Module):
    """Self-attention (global or in windows), cross-attention, feed-forward, each pre-normed."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        *,
        window: int | None,  # side of the self-attention windows; None: global attention
        shift: bool,  # moves the windows by half their side, so that they overlap another block's
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        self.norm1 = nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm2 = nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.norm3 = nnx.LayerNorm(dim, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.attn1 = Attention(dim, dim, heads, rngs=rngs, dtype=dtype)
        self.attn2 = Attention(dim, context_dim, heads, rngs=rngs, dtype=dtype)
        self.ff = FeedForward(dim, rngs=rngs, dtype=dtype)
        self.window = window
        self.shift = shift

    @jax.named_scope("self_attention")
    def _self_attention(self, x, h: int, w: int):
        window = self.window
        if window is None or (h <= window and w <= window):
            return self.attn1(x, self.attn1.key_value(x))
        if h % window or w % window:
            raise ValueError(
                f"a {h}x{w} grid cannot be cut into windows of {window}: choose a divisor of both"
            )

        # Shifted windows wrap around the edges of the grid.
        b, _, c = x.shape
        grid = x.reshape(b, h, w, c)
        roll = window // 2 if self.shift else 0
        grid = jnp.roll(grid, (-roll, -roll), (1, 2))

        # Each window is a sequence of its own.
        tiles = layers.patchify(grid, window).reshape(-1, window * window, c)
        tiles = self.attn1(tiles, self.attn1.key_value(tiles))

        grid = layers.unpatchify(tiles.reshape(b, h // window, w // window, -1), window)
        return jnp.roll(grid, (roll, roll), (1, 2)).reshape(b, h * w, c)

    @jax.named_scope("cross_attention")
    def _cross_attention(self, x, key_value: KeyValue):
        return self.attn2(x, key_value)

    @jax.named_scope("key_value")
    def key_value(self, context: Float[layers.AnyArray, "b m context_dim"]) -> KeyValue:
        """Returns the cross-attention's keys and values of the condition tokens."""
        return self.attn2.key_value(context)

    def __call__(
        self, x: Float[Array, "b n dim"], key_value: KeyValue, h: int, w: int
    ) -> Float[Array, "b n dim"]:
        """Transforms the tokens x of an (h, w) grid, given keys and values of the condition."""
        x = x + self._self_attention(self.norm1(x), h, w)
        x = x + self._cross_attention(self.norm2(x), key_value)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nnx.Module):
    """GroupNorm, projection in, one transformer block, projection out, residual."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        heads: int,
        *,
        groups: int,
        window: int | None,
        shift: bool,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        self.norm = layers.GroupNorm(dim, groups=groups, epsilon=1e-6, dtype=dtype)
        self.proj_in = layers.linear(dim, dim, rngs=rngs, dtype=dtype)
        block = TransformerBlock(
            dim, context_dim, heads, window=window, shift=shift, rngs=rngs, dtype=dtype
        )
        self.transformer_blocks = nnx.List([block])
        self.proj_out = layers.linear(dim, dim, rngs=rngs, dtype=dtype)

    def key_value(self, context: Float[layers.AnyArray, "b m context_dim"]) -> KeyValue:
        """Returns the keys and values that the condition tokens have here."""
        return self.transformer_blocks[0].key_value(context)

    def __call__(
        self, x: Float[Array, "b h w dim"], key_value: KeyValue
    ) -> Float[Array, "b h w dim"]:
        """Transforms x, given the keys and values of the condition."""
        b, h, w, c = x.shape
        tokens = self.proj_in(self.norm(x)).reshape(b, h * w, c)
        tokens = self.transformer_blocks[0](tokens, key_value, h, w)
        return x + self.proj_out(tokens).reshape(b, h, w, c)


class Resample(nnx.Module):
    """The 3x3 convolution of a down- or upsampler."""

    def __init__(
        self,
        channels: int,
        stride: int,
        *,
        padding: int | None = None,
        rngs: layers.HostRngs,
        dtype: DTypeLike,
    ):
        self.conv = layers.conv(
            channels, channels, 3, stride=stride, padding=padding, rngs=rngs, dtype=dtype
        )


def _resnet(c_in: int, c_out: int, config: BlockConfig, rngs: layers.HostRngs) -> ResnetBlock:
    return ResnetBlock(
        c_in, c_out, config.time_dim, groups=config.groups, rngs=rngs, dtype=config.dtype
    )


def _transformer(
    dim: int, config: BlockConfig, rngs: layers.HostRngs, *, shift: bool
) -> SpatialTransformer:
    return SpatialTransformer(
        dim,
        config.context_dim,
        config.heads or dim // config.head_dim,
        groups=config.groups,
        window=config.window,
        shift=shift,
        rngs=rngs,
        dtype=config.dtype,
    )


class LevelBlock(nnx.Module):
    """The ResNet blocks of one level, each followed by a transformer if the level attends.

    Args:
        channels_in: input width of each ResNet block.
        c_out: output width of all of them.
        config: what all levels share.
        attend: whether the level has transformers; the windows of every second one are shifted.
        rngs: where the initial values come from.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        c_out: int,
        config: BlockConfig,
        *,
        attend: bool,
        rngs: layers.HostRngs,
    ):
        # All ResNet blocks first: the order decides which initial values each part draws.
        self.resnets = nnx.List([_resnet(c_in, c_out, config, rngs) for c_in in channels_in])
        self.attentions = nnx.List([])
        if attend:
            for i in range(len(channels_in)):
                self.attentions.append(_transformer(c_out, config, rngs, shift=i % 2 == 1))

    def layer(
        self,
        i: int,
        x: Float[Array, "b h w c_in"],
        time: Float[Array, "b time_dim"],
        key_value: KeyValue | None,
    ) -> Float[Array, "b h w c_out"]:
        """Applies ResNet block i and, unless `key_value` is None, transformer i."""
        x = self.resnets[i](x, time)
        if key_value is None:
            return x
        return self.attentions[i](x, key_value)

    def _run_layer(self, i: int, x, time, context: Iterator[KeyValue], remat: Callable):
        key_value = next(context) if len(self.attentions) else None
        return remat(functools.partial(self.layer, i))(x, time, key_value)


class DownBlock(LevelBlock):
    """One level on the way down; with `downsample`, a convolution halves what leaves it.

    Args: as `LevelBlock`.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        c_out: int,
        config: BlockConfig,
        *,
        attend: bool,
        downsample: bool,
        rngs: layers.HostRngs,
    ):
        super().__init__(channels_in, c_out, config, attend=attend, rngs=rngs)
        self.downsamplers = nnx.List([])
        if downsample:
            self.downsamplers.append(Resample(c_out, 2, rngs=rngs, dtype=config.dtype))

    def downsample(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
        """Halves height and width."""
        return self.downsamplers[0].conv(x)

    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        time: Float[Array, "b time_dim"],
        context: Iterator[KeyValue],
        remat: Callable,
    ) -> list[Float[Array, "b h w c_out"]]:
        """Returns the output of every layer: the last goes on, all are kept for the way up.

        Args:
            x: output of the level above.
            time: time embedding.
            context: keys and values; takes as many as the level has transformers.
            remat: a value of REMAT.
        """
        outputs = []
        for i in range(len(self.resnets)):
            x = self._run_layer(i, x, time, context, remat)
            outputs.append(x)
        return outputs


class UpBlock(LevelBlock):
    """One level on the way up; with `upsample`, what leaves it is doubled, then convolved.

    Args: as `LevelBlock`; `channels_in` includes what was kept on the way down.
    """

    def __init__(
        self,
        channels_in: Sequence[int],
        c_out: int,
        config: BlockConfig,
        *,
        attend: bool,
        upsample: bool,
        rngs: layers.HostRngs,
    ):
        super().__init__(channels_in, c_out, config, attend=attend, rngs=rngs)
        self.upsamplers = nnx.List([])
        if upsample:
            self.upsamplers.append(Resample(c_out, 1, rngs=rngs, dtype=config.dtype))

    def upsample(self, x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
        """Doubles height and width."""
        return self.upsamplers[0].conv(layers.upsample(x))

    def __call__(
        self,
        x: Float[Array, "b h w c_in"],
        skips: list[Array],
        time: Float[Array, "b time_dim"],
        context: Iterator[KeyValue],
        remat: Callable,
    ) -> Float[Array, "b h w c_out"]:
        """Returns the output of the last layer.

        Args:
            x: output of the level below.
            skips: what was kept on the way down, the last of them (b, h, w, _); takes one for each
                layer, from the end.
            time: time embedding.
            context: keys and values; takes as many as the level has transformers.
            remat: a value of REMAT.
        """
        for i in range(len(self.resnets)):
            x = jnp.concatenate([x, skips.pop()], axis=-1)
            x = self._run_layer(i, x, time, context, remat)
        return x


class MidBlock(nnx.Module):
    """ResNet, transformer, ResNet at the lowest resolution."""

    def __init__(self, channels: int, config: BlockConfig, *, rngs: layers.HostRngs):
        self.resnets = nnx.List([_resnet(channels, channels, config, rngs) for _ in range(2)])
        self.attentions = nnx.List([_transformer(channels, config, rngs, shift=False)])

    def __call__(
        self,
        x: Float[Array, "b h w c"],
        time: Float[Array, "b time_dim"],
        key_value: KeyValue,
    ) -> Float[Array, "b h w c"]:
        """Transforms x, given the time embedding and the condition's keys and values."""
        x = self.resnets[0](x, time)
        x = self.attentions[0](x, key_value)
        return self.resnets[1](x, time)
