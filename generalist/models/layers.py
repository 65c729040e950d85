"""Layers shared by the UNet and the encoders. Parameters are float32, computation is in `dtype`."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

# What callers may pass: a NumPy array becomes JAX's with the first operation.
AnyArray = Array | np.ndarray

zeros = nnx.initializers.zeros_init()


class HostRngs:
    """Stands in for `nnx.Rngs`: gives every initializer a NumPy generator of its own.

    The initial values are drawn on the host, so nothing is compiled for them (with `jax.random`
    that takes longer than compiling the step), and they are the same on every platform. With seed
    None the values are zeros, for `parameters.abstract`.
    """

    def __init__(self, seed: int | None):
        self._seed = seed
        self._count = 0

    def params(self) -> np.random.Generator | None:
        """Returns the generator of the next initializer, a function of (seed, its position)."""
        self._count += 1
        if self._seed is None:
            return None
        return np.random.default_rng((self._seed, self._count))


def normal(
    rng: np.random.Generator | None,
    shape: Sequence[int],
    dtype: DTypeLike = np.float32,
    *,
    scale: float = 1.0,
) -> AnyArray:
    """Draws normal values of standard deviation `scale`; zeros without a generator."""
    if rng is None:
        return jnp.zeros(shape, dtype)
    return (scale * rng.standard_normal(shape, np.float32)).astype(dtype)


def lecun_normal(
    rng: np.random.Generator | None, shape: Sequence[int], dtype: DTypeLike = np.float32
) -> AnyArray:
    """Draws a kernel (..., in, out) that keeps the variance of its input (LeCun et al. 1998)."""
    return normal(rng, shape, dtype, scale=1.0 / math.sqrt(math.prod(shape[:-1])))


def linear(
    d_in: int,
    d_out: int,
    *,
    use_bias: bool = True,
    zero_init: bool = False,  # outputs zero at first: for what is new beside pre-trained parts
    rngs: HostRngs,
    dtype: DTypeLike,
) -> nnx.Linear:
    """Builds a dense layer."""
    return nnx.Linear(
        d_in,
        d_out,
        use_bias=use_bias,
        dtype=dtype,
        rngs=rngs,
        kernel_init=zeros if zero_init else lecun_normal,
    )


def conv(
    c_in: int,
    c_out: int,
    size: int,
    *,
    stride: int = 1,
    padding: int | None = None,  # on every side, as in torch; None: `size // 2`
    use_bias: bool = True,
    zero_init: bool = False,  # outputs zero at first: for what is new beside pre-trained parts
    rngs: HostRngs,
    dtype: DTypeLike,
) -> nnx.Conv:
    """Builds a `size` x `size` convolution of NHWC pictures."""
    return nnx.Conv(
        c_in,
        c_out,
        (size, size),
        strides=stride,
        padding=size // 2 if padding is None else padding,
        use_bias=use_bias,
        dtype=dtype,
        rngs=rngs,
        kernel_init=zeros if zero_init else lecun_normal,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def group_norm(
    x: Float[AnyArray, "b h w c"],
    scale: Float[AnyArray, " c"],
    bias: Float[AnyArray, " c"],
    groups: int,
    epsilon: float,
    silu: bool,
) -> Float[Array, "b h w c"]:
    """Normalizes over (h, w, channels of the group), then applies SiLU if asked.

    Computes the folded form: one pass for the sums of each channel, then one multiply-add, all in
    float32. The backward pass keeps x alone, in its own dtype, and the statistics of the groups;
    autodiff would keep float32 copies of what lies between.

    Args:
        x: picture.
        scale: float32 factor of each channel.
        bias: float32 offset of each channel.
        groups: a divisor of c.
        epsilon: added to the variance.
        silu: whether silu(y) = y sigmoid(y) follows.

    Returns:
        The result in the dtype of x. Equals Wu & He (2018) with population variance.
    """
    return _group_norm_forward(x, scale, bias, groups, epsilon, silu)[0]


def _group_norm_forward(x, scale, bias, groups, epsilon, silu):
    b, h, w, c = x.shape
    x32 = x.astype(jnp.float32)

    # The statistics of the groups, from the sums of the channels.
    sums = jnp.stack([x32.sum((1, 2)), jnp.square(x32).sum((1, 2))])  # (2, b, c)
    mean, square = sums.reshape(2, b, groups, c // groups).sum(-1) / (h * w * c // groups)
    rstd = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)

    # Normalization, scale and bias folded into one multiply-add.
    factor = _per_channel(rstd, c) * scale
    y = x32 * factor + (bias - _per_channel(mean, c) * factor)
    if silu:
        y = jax.nn.silu(y)
    return y.astype(x.dtype), (x, scale, bias, mean, rstd)


def _group_norm_backward(groups, epsilon, silu, saved, g):
    """Returns the gradients by x, scale and bias.

    With x' = (x - mean) rstd and y = scale x' + bias:
    dx = rstd (scale dy - mean(scale dy) - x' mean(scale dy x')).
    """
    x, scale, bias, mean, rstd = saved
    b, h, w, c = x.shape
    x32 = x.astype(jnp.float32)
    dy = g.astype(jnp.float32)

    mean = _per_channel(mean, c)
    rstd = _per_channel(rstd, c)
    factor = rstd * scale

    # Back through the SiLU: y is cheaper to compute again than to keep.
    if silu:
        y = x32 * factor + (bias - mean * factor)
        sigmoid = jax.nn.sigmoid(y)
        dy = dy * sigmoid * (1.0 + y * (1.0 - sigmoid))

    # Of every image, (b, c): the sums that follow need them by image.
    dbias = dy.sum((1, 2))
    dscale = (dy * (x32 - mean)).sum((1, 2)) * rstd[:, 0, 0]

    def group_mean(sums):
        of_groups = sums.reshape(b, groups, c // groups).sum(-1)
        return _per_channel(of_groups, c) / (h * w * c // groups)

    # The formula above, sorted by powers of x: again one multiply-add for each pixel.
    slope = jnp.square(rstd) * group_mean(scale * dscale)
    dx = factor * dy - slope * x32 + (slope * mean - rstd * group_mean(scale * dbias))
    return dx.astype(x.dtype), dscale.sum(0), dbias.sum(0)


def _per_channel(of_groups, c: int):
    """Repeats (b, groups) to (b, 1, 1, c)."""
    return jnp.repeat(of_groups, c // of_groups.shape[-1], axis=-1)[:, None, None]


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


class GroupNorm(nnx.Module):
    """`group_norm` with its parameters, computed in float32 and rounded to `dtype`."""

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 32,
        epsilon: float = 1e-5,
        dtype: DTypeLike = jnp.float32,
    ):
        if channels % groups:
            raise ValueError(
                f"{channels} channels cannot be split into {groups} groups: "
                f"choose a divisor of {channels}"
            )
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.groups = groups
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(
        self, x: Float[AnyArray, "b h w c"], *, silu: bool = False
    ) -> Float[Array, "b h w c"]:
        """Normalizes x; `silu`: then applies SiLU."""
        return group_norm(
            x.astype(self.dtype), self.scale[...], self.bias[...], self.groups, self.epsilon, silu
        )


def timestep_embedding(
    timesteps: Num[AnyArray, " b"], dim: int, max_period: float = 10_000.0
) -> Float[Array, "b dim"]:
    """Returns sinusoidal features, cosines first, as Stable Diffusion orders them."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_embedding(h: int, w: int, dim: int) -> Float[Array, "h w dim"]:
    """Returns 2-D sin-cos features of pixel centers in [0, 1], frequencies pi, 2 pi, 4 pi, ..."""
    bands = dim // 4
    frequencies = math.pi * 2.0 ** jnp.arange(bands)

    features = []
    for size, shape in ((h, (h, 1, bands)), (w, (1, w, bands))):
        angles = ((jnp.arange(size) + 0.5) / size)[:, None] * frequencies
        angles = jnp.broadcast_to(angles.reshape(shape), (h, w, bands))
        features += [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(features, axis=-1)


def resize_positions(
    positions: Float[AnyArray, "rows columns d"], grid: Sequence[int], method: str
) -> Float[AnyArray, "h w d"]:
    """Interpolates learned positions for another grid, as the encoders' own code does.

    Args:
        positions: one vector for each token of the grid they were learned on.
        grid: (h, w) of the grid to make them for.
        method: "bicubic" is torch's (a = -0.75, no antialiasing); "bicubic_antialias" and
            "bilinear_antialias" are PIL's.
    """
    if positions.shape[:2] == tuple(grid):
        return positions

    if method == "bicubic":
        rows = cubic_matrix(positions.shape[0], grid[0])
        columns = cubic_matrix(positions.shape[1], grid[1])
        return jnp.einsum("hi,wj,ijd->hwd", rows, columns, positions)

    filters = {"bicubic_antialias": "cubic", "bilinear_antialias": "linear"}
    shape = (*grid, positions.shape[-1])
    return jax.image.resize(positions, shape, filters[method], antialias=True)


def cubic_matrix(old: int, new: int, a: float = -0.75) -> Float[np.ndarray, "new old"]:
    """Returns the weights of cubic convolution (Keys 1981) at pixel centers, edges repeated.

    Args:
        old: pixels of the input.
        new: pixels of the output.
        a: parameter of the cubic, by default that of torch and OpenCV.
    """
    # Each output pixel sees the four input pixels around its center.
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(centers)[:, None] + np.arange(-1, 3)

    d = np.abs(centers[:, None] - taps)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((d - 5) * d + 8) * a * d - 4 * a
    weights = np.where(d <= 1, near, far)

    # `add.at`, since at an edge several taps are the same pixel.
    matrix = np.zeros((new, old), np.float32)
    columns = np.clip(taps, 0, old - 1).astype(int)
    np.add.at(matrix, (np.arange(new)[:, None], columns), weights)
    return matrix


def patchify(x: Num[AnyArray, "b h w c"], patch: int) -> Num[AnyArray, "b h//{patch} w//{patch} _"]:
    """Space to depth: (b, h, w, c) -> (b, h / patch, w / patch, patch * patch * c)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def unpatchify(x: Num[AnyArray, "b h w c"], patch: int) -> Num[AnyArray, "b h*{patch} w*{patch} _"]:
    """Depth to space, the inverse of `patchify`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // (patch * patch)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * patch, w * patch, c // (patch * patch))


def upsample(x: Num[AnyArray, "b h w c"]) -> Num[AnyArray, "b 2*h 2*w c"]:
    """Doubles height and width, nearest neighbor.

    Broadcasts, which XLA handles far better than a gather or a resize.
    """
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
