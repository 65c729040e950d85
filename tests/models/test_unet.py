"""The UNet's options beside Stable Diffusion's: they begin as nothing, and its variants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from generalist.models import parameters
from generalist.models.layers import HostRngs
from generalist.models.unet import Refine, UNet
from generalist.models.unet_blocks import REMAT, ResnetBlock, TransformerBlock

PLAIN = {
    "channels": (8, 16),
    "layers_per_block": 1,
    "attention_levels": (False, False),
    "context_dim": 8,
    "heads": 2,
    "groups": 4,
    "patch": 2,
}
OPTIONS = {"position": True, "pooled_text": 6, "aligned": 5, "refine": 4}
NEW = ("position.", "pooled_text.", "aligned.", "refine.")
OPENING = {
    "position": "position.kernel",
    "pooled_text": "pooled_text.kernel",
    "aligned": "aligned.1.kernel",
    "refine": "refine.conv_out.kernel",
}  # what has to leave zero for the option to act


def make(**settings):
    return lambda: UNet(**settings, rngs=HostRngs(0))


def runner(graphdef):
    def forward(params, x, t, tokens, pooled, features):
        model = parameters.merge(graphdef, params)
        return model(x, t, model.context(tokens), pooled=pooled, features=features)

    return jax.jit(forward)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(1)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    return {
        "x": normal(2, 16, 16, 3),
        "t": np.array([0.0, 999.0], np.float32),
        "tokens": normal(2, 5, 8),
        "pooled": normal(2, 6),
        "features": normal(2, 2, 2, 5),
    }


@pytest.fixture(scope="module")
def optional(random_weights):
    """(function, weights) of the UNet with every option; the new weights are the initial ones."""
    graphdef, weights = random_weights(make(**PLAIN, **OPTIONS))
    weights = {path: value for path, value in weights.items() if not path.startswith(NEW)}
    new = jax.jit(
        lambda: {
            path: x
            for path, x in parameters.split(make(**PLAIN, **OPTIONS)())[1].items()
            if path.startswith(NEW)
        }
    )()
    return runner(graphdef), weights | new


def test_options_leave_the_pretrained_function_unchanged(optional, inputs):
    forward, weights = optional
    graphdef, shapes = parameters.abstract(make(**PLAIN))
    assert set(shapes) == {path for path in weights if not path.startswith(NEW)}
    plain = runner(graphdef)({path: weights[path] for path in shapes}, **inputs)
    assert plain.shape == (2, 16, 16, 3)
    np.testing.assert_allclose(forward(weights, **inputs), plain, atol=1e-6)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_acts_once_its_weights_leave_zero(optional, inputs, option):
    forward, weights = optional
    opened = weights | {OPENING[option]: np.full_like(weights[OPENING[option]], 0.1)}
    assert not weights[OPENING[option]].any()
    assert np.abs(forward(opened, **inputs) - forward(weights, **inputs)).max() > 1e-3


def test_refine_can_begin_with_the_image_itself(inputs):
    """Around its layers there is a linear path.

    With those at zero and identities at both ends, the image comes out as it went in.
    """
    refine = Refine(3, 12, 3, 4, rngs=HostRngs(0), dtype=jnp.float32)
    identity = np.zeros((3, 3, 12, 12), np.float32)
    identity[1, 1] = np.eye(12)
    refine.conv_in.kernel[...] = refine.conv_out.kernel[...] = jnp.asarray(identity)
    for conv in refine.convs:
        conv.kernel[...] = jnp.zeros_like(conv.kernel[...])
    np.testing.assert_allclose(refine(inputs["x"], jnp.ones((2, 4))), inputs["x"], atol=1e-6)


def test_time_and_tokens_matter(optional, inputs):
    forward, weights = optional
    base = forward(weights, **inputs)
    assert np.abs(forward(weights, **dict(inputs, t=inputs["t"] + 50)) - base).max() > 1e-3
    assert np.abs(forward(weights, **dict(inputs, tokens=-inputs["tokens"])) - base).max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"attention_levels": (True, False)}, id="A"),
        pytest.param({"attention_levels": (False, True)}, id="C"),
        pytest.param({"attention_levels": (True, False), "window": 4}, id="W"),
        pytest.param({"attention_levels": (True, False), "patch": 2, "refine": 4}, id="E"),
    ],
)
def test_variants_keep_the_shape_and_have_the_attention_they_say(settings):
    settings = {
        "channels": (8, 8),
        "layers_per_block": 1,
        "context_dim": 8,
        "heads": 2,
        "groups": 4,
    } | settings

    def forward(x, t, tokens):
        model = make(**settings)()
        context = model.context(tokens)
        return model(x, t, context), context

    shaped = jax.ShapeDtypeStruct
    out, context = jax.eval_shape(
        forward,
        shaped((2, 16, 32, 3), jnp.float32),
        shaped((2,), jnp.float32),
        shaped((2, 5, 8), jnp.float32),
    )
    assert out.shape == (2, 16, 32, 3) and out.dtype == jnp.float32
    # One transformer a layer on the way down, one in the middle, two on the way up.
    assert len(context) == 3 * sum(settings["attention_levels"]) + 1
    assert {k.shape for k, _ in context} == {(2, 5, 2, 4)}


def test_windows_must_divide_the_grid():
    model = make(**dict(PLAIN, patch=1, attention_levels=(True, False), window=4))

    def forward(x):
        return (unet := model())(x, jnp.zeros(1), unet.context(jnp.zeros((1, 5, 8))))

    with pytest.raises(
        ValueError, match="a 10x12 grid cannot be cut into windows of 4: choose a divisor of both"
    ):
        jax.eval_shape(forward, jax.ShapeDtypeStruct((1, 10, 12, 3), jnp.float32))


def test_attention_levels_must_cover_the_channels():
    with pytest.raises(ValueError, match=r"attention_levels has 1 entries for 2 levels: \(True,\)"):
        make(**dict(PLAIN, attention_levels=(True,)))()


@pytest.fixture(scope="module")
def self_attention(random_weights):
    """(grid (h, w, 8), window, shift) -> the grid after the self-attention of a block."""

    def build(window, shift):
        return TransformerBlock(
            8, 8, 2, window=window, shift=shift, rngs=HostRngs(0), dtype=jnp.float32
        )

    _, weights = random_weights(lambda: build(None, False))

    @functools.cache
    def compiled(window, shift):
        graphdef, _ = parameters.abstract(lambda: build(window, shift))

        def run(weights, grid):
            tokens = grid.reshape(1, -1, 8)
            return (
                parameters.merge(graphdef, weights)
                ._self_attention(tokens, *grid.shape[:2])
                .reshape(grid.shape)
            )

        return jax.jit(run)

    return lambda grid, window, shift=False: np.asarray(compiled(window, shift)(weights, grid))


@pytest.fixture(scope="module")
def grid():
    return np.random.default_rng(0).standard_normal((8, 8, 8), np.float32)


def test_a_window_that_covers_the_grid_is_global_attention(self_attention, grid):
    for shift in (False, True):
        np.testing.assert_array_equal(self_attention(grid, 8, shift), self_attention(grid, None))


def test_windowed_attention_is_global_attention_on_each_tile(self_attention, grid):
    out = self_attention(grid, 4)
    for rows in (slice(0, 4), slice(4, 8)):
        for columns in (slice(0, 4), slice(4, 8)):
            np.testing.assert_allclose(
                out[rows, columns], self_attention(grid[rows, columns], None), atol=1e-5
            )
    assert np.abs(out - self_attention(grid, None)).max() > 1e-3


def test_shifted_windows_lie_between_the_others(self_attention, grid):
    """Moved by half a window: the tile in the middle of the grid is one of them."""
    out = self_attention(grid, 4, shift=True)
    np.testing.assert_allclose(out[2:6, 2:6], self_attention(grid[2:6, 2:6], None), atol=1e-5)
    corners = np.roll(grid, (2, 2), (0, 1))[:4, :4]
    np.testing.assert_allclose(
        np.roll(out, (2, 2), (0, 1))[:4, :4], self_attention(corners, None), atol=1e-5
    )


def test_every_second_transformer_of_a_level_is_shifted():
    model = nnx.eval_shape(
        make(**dict(PLAIN, attention_levels=(False, True), layers_per_block=3, window=4))
    )
    assert [a.transformer_blocks[0].shift for a in model.down_blocks[1].attentions] == [
        False,
        True,
        False,
    ]


@pytest.mark.parametrize("remat", ["products", "blocks"])
def test_remat_changes_no_gradient(remat):
    graphdef, weights = parameters.split(
        ResnetBlock(4, 8, 6, groups=2, rngs=HostRngs(0), dtype=jnp.float32)
    )
    x, time = (
        np.random.default_rng(0).standard_normal((2, 4, 4, 4), np.float32),
        np.ones((2, 6), np.float32),
    )

    def gradient(remat):
        def loss(weights):
            return jnp.square(REMAT[remat](parameters.merge(graphdef, weights))(x, time)).sum()

        return jax.jit(jax.grad(loss))(weights)

    again = gradient(remat)
    for path, expected in gradient("none").items():
        np.testing.assert_allclose(again[path], expected, rtol=1e-5, atol=1e-4)


def test_remat_computes_again_what_it_says():
    """Counted in the traced program, as a compiler may undo it.

    "blocks" repeats convolutions, "products" only what is between.
    """
    convolutions = {}
    activations = {}
    for remat in ("none", "products", "blocks"):
        graphdef, shapes = parameters.abstract(make(**PLAIN, remat=remat))

        def loss(weights, graphdef=graphdef):
            model = parameters.merge(graphdef, weights)
            return model(
                np.ones((1, 8, 8, 3), np.float32),
                np.ones(1, np.float32),
                model.context(np.ones((1, 5, 8), np.float32)),
            ).sum()

        traced = str(jax.make_jaxpr(jax.grad(loss))(shapes))
        convolutions[remat] = traced.count(" = conv_general_dilated[")
        activations[remat] = traced.count(" = logistic ")
    assert convolutions["blocks"] > convolutions["products"] == convolutions["none"]
    assert activations["blocks"] == activations["products"] > activations["none"]


def test_an_unknown_remat_lists_the_known():
    with pytest.raises(
        ValueError, match="unknown model.remat 'dots'.*Allowed: none, products, blocks"
    ):
        make(**PLAIN, remat="dots")()
