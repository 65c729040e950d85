"""The whole model: what reaches the UNet, what hiding a condition means, what is computed once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from generalist import models
from generalist.models import parameters
from generalist.models.generalist import Condition, resize

SETTINGS = {
    "dtype": "float32",
    "target_size": 16,
    "concatenate_image": True,
    "aligned_features": True,
    "pooled_text": True,
    "unet": {
        "channels": (8, 16),
        "layers_per_block": 1,
        "attention_levels": (False, True),
        "context_dim": 8,
        "heads": 2,
        "groups": 4,
        "patch": 2,
        "refine": 4,
        "position": True,
    },
    "image_encoder": {"image_size": 16, "patch": 8, "dim": 12, "depth": 1, "heads": 2},
    "text_encoder": {"dim": 6, "depth": 1, "heads": 2},
}


@pytest.fixture(scope="module")
def model(random_weights):
    """(encode, denoise, weights) of a model with every way the image and the prompt can go in."""
    graphdef, weights = random_weights(lambda: models.build(SETTINGS), seed=1)

    def merged(p):
        return parameters.merge(graphdef, p)

    def encode_with(p, image, picture, text, keep_image=None, keep_text=None):
        return merged(p).encode(
            image, text, picture=picture, keep_image=keep_image, keep_text=keep_text
        )

    encode = jax.jit(encode_with)
    denoise = jax.jit(lambda p, x_t, t, condition: merged(p).denoise(x_t, t, condition))
    return lambda *a: encode(weights, *a), lambda *a: denoise(weights, *a)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    return {
        "image": normal(2, 16, 16, 3),
        "picture": normal(2, 16, 16, 3),
        "text": normal(2, 4, 6),
        "x_t": normal(2, 16, 16, 3),
        "t": np.array([0.3, 1.0], np.float32),
    }


ON, OFF = np.ones(2, np.float32), np.zeros(2, np.float32)


def run(model, inputs, keep_image=ON, keep_text=ON, **changes):
    encode, denoise = model
    inputs = inputs | changes
    return np.asarray(
        denoise(
            inputs["x_t"],
            inputs["t"],
            encode(inputs["image"], inputs["picture"], inputs["text"], keep_image, keep_text),
        )
    )


def test_output_is_a_float32_picture(model, inputs):
    out = run(model, inputs)
    assert out.shape == (2, 16, 16, 3) and out.dtype == np.float32


@pytest.mark.parametrize("name", ["image", "picture", "text", "x_t", "t"])
def test_every_input_matters(model, inputs, name):
    assert (
        np.abs(run(model, inputs, **{name: 0.5 * inputs[name]}) - run(model, inputs)).max() > 1e-3
    )


def test_a_hidden_image_has_no_influence_at_all(model, inputs):
    other = {name: -3 * inputs[name][::-1] for name in ("image", "picture")}
    np.testing.assert_array_equal(
        run(model, inputs, keep_image=OFF), run(model, inputs, keep_image=OFF, **other)
    )


def test_a_hidden_prompt_has_no_influence_at_all(model, inputs):
    other = {"text": -3 * inputs["text"][::-1]}
    np.testing.assert_array_equal(
        run(model, inputs, keep_text=OFF), run(model, inputs, keep_text=OFF, **other)
    )


def test_conditions_are_hidden_sample_by_sample(model, inputs):
    both, none = run(model, inputs), run(model, inputs, keep_image=OFF)
    mixed = run(model, inputs, keep_image=np.array([0, 1], np.float32))
    np.testing.assert_array_equal(mixed, np.stack([none[0], both[1]]))
    assert np.abs(none - both).max() > 1e-3


def test_keeping_everything_is_the_default(model, inputs):
    encode, _ = model
    ours, default = (
        jax.tree.leaves(encode(inputs["image"], inputs["picture"], inputs["text"], *keep))
        for keep in ((ON, ON), ())
    )
    assert all(np.array_equal(a, b) for a, b in zip(ours, default, strict=True))


def test_condition_holds_what_the_parts_need(model, inputs):
    encode, _ = model
    condition = encode(inputs["image"], inputs["picture"], inputs["text"], ON, ON)
    assert len(condition.context) == 4  # level 2 down, the middle, level 2 up twice
    assert {x.shape for pair in condition.context for x in pair} == {
        (2, 4 + 4, 2, 8)
    }  # 2x2 patches and 4 words
    np.testing.assert_array_equal(condition.image, inputs["picture"])
    np.testing.assert_allclose(condition.pooled, inputs["text"].mean(1), atol=1e-6)
    assert condition.features.shape == (2, 2, 2, 12)
    np.testing.assert_allclose(
        np.square(condition.features).mean(-1), 1.0, atol=1e-4
    )  # unit variance a channel


def test_a_model_that_concatenates_wants_the_picture(model, inputs):
    encode, _ = model
    with pytest.raises(ValueError, match="at the target's size, 16 x 16 pixels"):
        encode(inputs["image"], None, inputs["text"])


def test_one_condition_serves_every_denoising_step(model, inputs):
    """Nothing in it depends on x_t or t.

    Sample 0 of a batch with another x_t and t beside it is the same.
    """
    encode, denoise = model
    condition = encode(inputs["image"], inputs["picture"], inputs["text"], ON, ON)
    twice = jax.tree.map(lambda x: jnp.stack([x[0], x[0]]), condition)
    out = np.asarray(denoise(inputs["x_t"], inputs["t"], twice))
    alone = [
        np.asarray(denoise(jnp.stack([x, x]), jnp.stack([t, t]), twice))[0]
        for x, t in zip(inputs["x_t"], inputs["t"], strict=True)
    ]
    np.testing.assert_allclose(out, alone, atol=1e-5)


def test_time_reaches_the_unet_in_its_own_units(inputs):
    """t = 1 is timestep 999 of Stable Diffusion."""
    model = models.GeneralistModel.__new__(models.GeneralistModel)
    seen = {}

    def unet(x, timesteps, context, **kw):
        seen.update(x=x, timesteps=timesteps)
        return x[..., :3]

    object.__setattr__(model, "unet", unet)
    models.GeneralistModel.denoise(
        model, inputs["x_t"], inputs["t"], Condition([], inputs["image"], None, None)
    )
    np.testing.assert_allclose(seen["timesteps"], [299.7, 999.0], rtol=1e-6)
    np.testing.assert_array_equal(seen["x"], np.concatenate([inputs["x_t"], inputs["image"]], -1))


def test_bfloat16_computes_in_bfloat16_and_stores_float32():
    settings = dict(
        SETTINGS,
        dtype="bfloat16",
        concatenate_image=False,
        aligned_features=False,
        pooled_text=False,
    )
    shapes = parameters.abstract(lambda: models.build(settings))[1]
    assert {x.dtype for x in shapes.values()} == {jnp.dtype("float32")}

    def forward(image, text):
        model = models.build(settings)
        condition = model.encode(image, text)
        return condition, model.denoise(image, jnp.zeros(2), condition)

    condition, out = jax.eval_shape(forward, jnp.zeros((2, 16, 16, 3)), jnp.zeros((2, 4, 6)))
    assert {x.dtype for pair in condition.context for x in pair} == {jnp.dtype("bfloat16")}
    assert (condition.image, condition.features, condition.pooled) == (None, None, None)
    assert out.dtype == jnp.float32


def test_a_text_encoder_of_the_unets_width_needs_no_projection():
    settings = dict(SETTINGS, text_encoder={"dim": 8, "depth": 1, "heads": 2})
    shapes = parameters.abstract(lambda: models.build(settings))[1]
    assert not [path for path in shapes if path.startswith("text_projection")]
    assert shapes["image_projection.kernel"].shape == (12, 8)


def test_resize_keeps_constants_and_is_the_identity_at_the_same_size():
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 8, 8, 3)), jnp.float32)
    assert resize(image, 8) is image
    np.testing.assert_allclose(
        resize(jnp.full((1, 12, 8, 3), 0.25), 4), np.full((1, 4, 4, 3), 0.25), atol=1e-6
    )
