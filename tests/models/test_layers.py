"""The shared layers against torch, NumPy, diffusers and hand examples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from generalist.models import layers


def group_norm(x, scale, bias, *, groups, silu=False, dtype=jnp.float32):
    module = layers.GroupNorm(x.shape[-1], groups=groups, dtype=dtype)
    module.scale[...], module.bias[...] = scale, bias
    return module(x, silu=silu)


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(("offset", "tolerance"), [(0, 2e-6), (10, 1e-4), (100, 1e-2)])
def test_group_norm_equals_torch(silu, offset, tolerance):
    """Also with a mean of `offset` standard deviations, where the folded form cancels.

    Within what float32 leaves.
    """
    rng = np.random.default_rng(0)
    x = offset + rng.standard_normal((2, 5, 7, 12), np.float32)
    scale, bias = rng.standard_normal((2, 12), np.float32)
    expected = torch.nn.functional.group_norm(
        torch.tensor(x.transpose(0, 3, 1, 2)).double(),
        3,
        torch.tensor(scale).double(),
        torch.tensor(bias).double(),
        1e-5,
    )
    expected = (
        (torch.nn.functional.silu(expected) if silu else expected).numpy().transpose(0, 2, 3, 1)
    )
    np.testing.assert_allclose(
        group_norm(x, scale, bias, groups=3, silu=silu), expected, atol=tolerance
    )


def test_group_norm_of_a_constant_is_the_bias():
    np.testing.assert_allclose(
        group_norm(jnp.full((1, 4, 4, 4), 1e3), jnp.ones(4), jnp.arange(4.0), groups=2),
        np.broadcast_to(np.arange(4.0), (1, 4, 4, 4)),
        atol=0.2,
    )


def test_group_norm_computes_statistics_in_float32():
    """Sums of 4,096 values of 3 are far beyond what bfloat16 can count."""
    x = jnp.asarray(3.0 + np.random.default_rng(0).standard_normal((1, 32, 32, 4)), jnp.bfloat16)
    y = group_norm(x, jnp.ones(4), jnp.zeros(4), groups=1, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert abs(float(y.astype(jnp.float32).mean())) < 0.01
    assert float(y.astype(jnp.float32).std()) == pytest.approx(1.0, abs=0.01)


def gradients(x, scale, bias, weights, silu):
    """Of sum(y * weights) by x, scale and bias, three groups; in float32."""

    def loss(x, *affine):
        return (layers.group_norm(x, *affine, 3, 1e-5, silu).astype(jnp.float32) * weights).sum()

    return [np.asarray(g, np.float32) for g in jax.grad(loss, (0, 1, 2))(x, scale, bias)]


def torch_gradients(x, scale, bias, weights, silu):
    """The same by torch's autograd in float64."""
    x, scale, bias = (
        torch.tensor(np.asarray(a, np.float64)).requires_grad_() for a in (x, scale, bias)
    )
    y = torch.nn.functional.group_norm(x.permute(0, 3, 1, 2), 3, scale, bias, 1e-5)
    y = torch.nn.functional.silu(y) if silu else y
    (y * torch.tensor(weights).double().permute(0, 3, 1, 2)).sum().backward()
    return [a.grad.numpy() for a in (x, scale, bias)]


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize(
    ("offset", "dtype", "tolerance"),
    [(0, jnp.float32, 2e-5), (10, jnp.float32, 1e-3), (1, jnp.bfloat16, 2e-2)],
)
def test_group_norm_gradients_equal_torch(silu, offset, dtype, tolerance):
    """Sums of 70 products of size 1.

    In bfloat16 the gradient of x (about 1) is rounded to 2^-9, the others are float32.
    """
    rng = np.random.default_rng(0)
    x = jnp.asarray(offset + rng.standard_normal((2, 5, 7, 12)), dtype)
    arguments = (
        x,
        *rng.standard_normal((2, 12), np.float32),
        rng.standard_normal((2, 5, 7, 12), np.float32),
        silu,
    )
    weights = np.asarray(
        jnp.asarray(arguments[3], dtype), np.float32
    )  # the rounded ones are what comes back in bfloat16
    arguments = (*arguments[:3], weights, silu)
    for ours, theirs in zip(gradients(*arguments), torch_gradients(*arguments), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_group_norm_keeps_its_input_and_nothing_else_of_that_size():
    """The backward pass needs x in its own dtype, two figures a group, and the parameters."""
    x = jnp.ones((2, 8, 8, 12), jnp.bfloat16)
    _, vjp = jax.vjp(
        lambda x, *affine: layers.group_norm(x, *affine, 3, 1e-5, True),
        x,
        jnp.ones(12),
        jnp.zeros(12),
    )
    assert sorted((a.shape, str(a.dtype)) for a in jax.tree.leaves(vjp) if hasattr(a, "shape")) == [
        ((2, 3), "float32"),
        ((2, 3), "float32"),
        ((2, 8, 8, 12), "bfloat16"),
        ((12,), "float32"),
        ((12,), "float32"),
    ]


def test_group_norm_names_the_channels_it_cannot_split():
    with pytest.raises(ValueError, match="10 channels cannot be split into 4 groups"):
        layers.GroupNorm(10, groups=4)


def test_patchify_by_hand():
    """Two channels, 2x4 pixels valued 10 * row + column, and the same plus 100."""
    rows = np.array([[0, 1, 2, 3], [10, 11, 12, 13]], np.float32)
    x = np.stack([rows, rows + 100], -1)[None]
    expected = [[[0, 100, 1, 101, 10, 110, 11, 111], [2, 102, 3, 103, 12, 112, 13, 113]]]
    np.testing.assert_array_equal(layers.patchify(x, 2)[0], expected)


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_unpatchify_is_the_inverse(patch):
    x = np.random.default_rng(0).standard_normal((2, 8, 12, 3), np.float32)
    patches = layers.patchify(x, patch)
    assert patches.shape == (2, 8 // patch, 12 // patch, 3 * patch**2)
    np.testing.assert_array_equal(layers.unpatchify(patches, patch), x)


def test_upsample_repeats_pixels():
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 4), np.float32)
    np.testing.assert_array_equal(layers.upsample(x), x.repeat(2, axis=1).repeat(2, axis=2))


@pytest.mark.parametrize("dim", [8, 320])
def test_timestep_embedding_equals_diffusers(dim):
    timesteps = np.array([0.0, 0.5, 1.0, 17.25, 500.0, 999.0], np.float32)
    expected = get_timestep_embedding(
        torch.tensor(timesteps), dim, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    np.testing.assert_allclose(
        layers.timestep_embedding(timesteps, dim), expected, atol=2e-4
    )  # cos(999) in float32


def test_position_embedding_by_hand():
    """One band: sin and cos of pi y, then of pi x, at pixel centres."""
    features = layers.position_embedding(2, 1, 4)
    s = np.sqrt(0.5)
    np.testing.assert_allclose(features, [[[s, s, 1, 0]], [[s, -s, 1, 0]]], atol=1e-6)


def test_position_embedding_tells_every_pixel_apart():
    features = np.asarray(layers.position_embedding(16, 16, 32)).reshape(256, 32)
    distances = np.linalg.norm(features[:, None] - features, axis=-1) + 10 * np.eye(256)
    assert distances.min() > 0.1


def test_convolution_pads_like_torch():
    """A stride of 2 begins at the first pixel, unlike XLA's "SAME"."""
    rng = np.random.default_rng(0)
    x, kernel = (
        rng.standard_normal((1, 6, 6, 2), np.float32),
        rng.standard_normal((3, 3, 2, 4), np.float32),
    )
    module = layers.conv(
        2, 4, 3, stride=2, rngs=layers.HostRngs(0), dtype=jnp.float32, zero_init=True
    )
    module.kernel[...] = kernel
    expected = torch.nn.functional.conv2d(
        torch.tensor(x.transpose(0, 3, 1, 2)),
        torch.tensor(kernel.transpose(3, 2, 0, 1)),
        stride=2,
        padding=1,
    )
    np.testing.assert_allclose(module(x), expected.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("shape", [(400, 300), (3, 3, 40, 300)])
def test_initial_kernels_keep_the_variance(shape):
    """Unit variance in, unit variance out.

    The deviation of the values is one over the root of the inputs, 400 or 360.
    """
    kernel = layers.lecun_normal(np.random.default_rng(0), shape)
    assert kernel.dtype == np.float32 and kernel.shape == shape
    assert kernel.std() * np.prod(shape[:-1]) ** 0.5 == pytest.approx(1.0, rel=0.01)


def test_zero_init_outputs_zero():
    kw = {"rngs": layers.HostRngs(0), "dtype": jnp.float32, "zero_init": True}
    assert not layers.linear(4, 5, **kw)(jnp.ones((1, 4))).any()
    assert not layers.conv(4, 5, 3, **kw)(jnp.ones((1, 6, 6, 4))).any()
