"""Layers shared by the UNet and the encoders. Parameters are float32, computation is in `dtype`."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

zeros = nnx.initializers.zeros_init()


class HostRngs:
    """Stands in for `nnx.Rngs`: hands every initialiser a NumPy generator of its own.

    The initial values are drawn on the host, so nothing is compiled for them (with `jax.random` that takes longer than
    compiling the step), and they are the same on every platform. With seed None the values are zeros, for `parameters.abstract`.
    """

    def __init__(self, seed: int | None):
        self._seed, self._count = seed, 0

    def params(self) -> np.random.Generator | None:
        """The generator of the next initialiser, a function of (seed, its position)."""
        self._count += 1
        return None if self._seed is None else np.random.default_rng((self._seed, self._count))


def normal(
    rng: np.random.Generator | None, shape: Sequence[int], dtype=np.float32, *, scale: float = 1.0
):
    """Normal values of standard deviation `scale`; zeros without a generator."""
    if rng is None:
        return jnp.zeros(shape, dtype)
    return (scale * rng.standard_normal(shape, np.float32)).astype(dtype)


def lecun_normal(rng: np.random.Generator | None, shape: Sequence[int], dtype=np.float32):
    """Kernels (..., in, out) whose output has the variance of their input (LeCun et al. 1998)."""
    return normal(rng, shape, dtype, scale=1.0 / math.sqrt(math.prod(shape[:-1])))


def linear(d_in: int, d_out: int, *, rngs, dtype, use_bias=True, zero_init=False) -> nnx.Linear:
    """Dense layer; `zero_init` makes it output zero, for parts that are new beside pre-trained ones."""
    init = zeros if zero_init else lecun_normal
    return nnx.Linear(d_in, d_out, use_bias=use_bias, dtype=dtype, rngs=rngs, kernel_init=init)


def conv(
    c_in: int,
    c_out: int,
    size: int,
    *,
    rngs,
    dtype,
    stride=1,
    padding: int | None = None,
    use_bias=True,
    zero_init=False,
) -> nnx.Conv:
    """NHWC convolution with torch's symmetric padding, by default `size // 2`."""
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
def group_norm(x, scale, bias, groups: int, epsilon: float, silu: bool):
    """Group normalisation over (h, w, channels of the group), then SiLU if asked.

    In the folded form: one pass for the per-channel sums, then one multiply-add; all in float32. The backward pass
    keeps x alone, in its own dtype, and the statistics of the groups: autodiff would keep float32 copies of what lies between.

    Args:
        x: (b, h, w, c). scale, bias: (c,) float32.
        groups: a divisor of c. epsilon: added to the variance.
        silu: whether silu(y) = y sigmoid(y) follows.

    Returns:
        (b, h, w, c) in the dtype of x. Equals Wu & He (2018) with population variance.
    """
    return _group_norm_forward(x, scale, bias, groups, epsilon, silu)[0]


def _group_norm_forward(x, scale, bias, groups, epsilon, silu):
    b, h, w, c = x.shape
    x32 = x.astype(jnp.float32)
    sums = jnp.stack([x32.sum((1, 2)), jnp.square(x32).sum((1, 2))])  # (2, b, c)
    mean, square = sums.reshape(2, b, groups, c // groups).sum(-1) / (h * w * c // groups)
    rstd = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0.0) + epsilon)
    factor = _per_channel(rstd, c) * scale
    y = x32 * factor + (bias - _per_channel(mean, c) * factor)
    return (jax.nn.silu(y) if silu else y).astype(x.dtype), (x, scale, bias, mean, rstd)


def _group_norm_backward(groups, epsilon, silu, saved, g):
    """With x' = (x - mean) rstd and y = scale x' + bias: dx = rstd (scale dy - mean(scale dy) - x' mean(scale dy x'))."""
    x, scale, bias, mean, rstd = saved
    (b, h, w, c), x32, dy = x.shape, x.astype(jnp.float32), g.astype(jnp.float32)
    mean, rstd = _per_channel(mean, c), _per_channel(rstd, c)
    factor = rstd * scale
    if silu:
        y = x32 * factor + (bias - mean * factor)
        sigmoid = jax.nn.sigmoid(y)
        dy = dy * sigmoid * (1.0 + y * (1.0 - sigmoid))
    dbias, dscale = (
        dy.sum((1, 2)),
        (dy * (x32 - mean)).sum((1, 2)) * rstd[:, 0, 0],
    )  # of every image, (b, c)
    group_mean = lambda s: (
        _per_channel(s.reshape(b, groups, c // groups).sum(-1), c) / (h * w * c // groups)
    )
    slope = jnp.square(rstd) * group_mean(scale * dscale)
    dx = factor * dy - slope * x32 + (slope * mean - rstd * group_mean(scale * dbias))
    return dx.astype(x.dtype), dscale.sum(0), dbias.sum(0)


def _per_channel(s, c: int):
    """(b, groups) -> (b, 1, 1, c)."""
    return jnp.repeat(s, c // s.shape[-1], axis=-1)[:, None, None]


group_norm.defvjp(_group_norm_forward, _group_norm_backward)


class GroupNorm(nnx.Module):
    """`group_norm` with its parameters, computed in float32 and rounded to `dtype`."""

    def __init__(
        self, channels: int, *, groups: int = 32, epsilon: float = 1e-5, dtype=jnp.float32
    ):
        if channels % groups:
            raise ValueError(
                f"{channels} channels cannot be split into {groups} groups: choose a divisor of {channels}"
            )
        self.scale = nnx.Param(jnp.ones((channels,), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((channels,), jnp.float32))
        self.groups, self.epsilon, self.dtype = groups, epsilon, dtype

    def __call__(self, x, *, silu: bool = False):
        """X (b, h, w, c) -> (b, h, w, c)."""
        return group_norm(
            x.astype(self.dtype), self.scale[...], self.bias[...], self.groups, self.epsilon, silu
        )


def timestep_embedding(timesteps, dim: int, max_period: float = 10_000.0):
    """Sinusoidal features (b,) -> (b, dim), cosines first, as Stable Diffusion orders them."""
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) * jnp.arange(half, dtype=jnp.float32) / half)
    angles = timesteps.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_embedding(h: int, w: int, dim: int):
    """2-D sin-cos features (h, w, dim) of pixel centres in [0, 1], frequencies pi, 2 pi, 4 pi, ..."""
    bands = dim // 4
    frequencies = math.pi * 2.0 ** jnp.arange(bands)
    features = []
    for size, shape in ((h, (h, 1, bands)), (w, (1, w, bands))):
        angles = ((jnp.arange(size) + 0.5) / size)[:, None] * frequencies
        angles = jnp.broadcast_to(angles.reshape(shape), (h, w, bands))
        features += [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(features, axis=-1)


def resize_positions(positions, grid: tuple[int, int], method: str):
    """Learned positions (g, g, d) for another grid, as the encoders' own code does: (h, w, d).

    method: "bicubic" is torch's (a = -0.75, no antialiasing), "bicubic_antialias" and "bilinear_antialias" are PIL's.
    """
    if positions.shape[:2] == tuple(grid):
        return positions
    if method == "bicubic":
        rows, columns = (cubic_matrix(old, new) for old, new in zip(positions.shape[:2], grid))
        return jnp.einsum("hi,wj,ijd->hwd", rows, columns, positions)
    kinds = {"bicubic_antialias": "cubic", "bilinear_antialias": "linear"}
    return jax.image.resize(positions, (*grid, positions.shape[-1]), kinds[method], antialias=True)


def cubic_matrix(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """(new, old) weights of cubic convolution (Keys 1981) at pixel centres, edges repeated; `a` as in torch and OpenCV."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.floor(centres)[:, None] + np.arange(-1, 3)
    d = np.abs(centres[:, None] - taps)
    near = ((a + 2) * d - (a + 3)) * d**2 + 1
    far = ((d - 5) * d + 8) * a * d - 4 * a
    matrix = np.zeros((new, old), np.float32)
    np.add.at(
        matrix,
        (np.arange(new)[:, None], np.clip(taps, 0, old - 1).astype(int)),
        np.where(d <= 1, near, far),
    )
    return matrix


def patchify(x, patch: int):
    """Space to depth: (b, h, w, c) -> (b, h / patch, w / patch, patch * patch * c)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h // patch, w // patch, patch * patch * c)


def unpatchify(x, patch: int):
    """Depth to space, the inverse of `patchify`."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, patch, patch, c // (patch * patch)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, h * patch, w * patch, c // (patch * patch))


def upsample(x):
    """Nearest 2x by broadcasting, which XLA handles far better than a gather or a resize."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)
