"""The image and text encoders against torch's transformer layers, and the tokens of prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from generalist.models import parameters
from generalist.models.layers import HostRngs
from generalist.models.text_encoder import LENGTH, VOCABULARY, TextEncoder, tokenize
from generalist.models.vision_transformer import VisionTransformer
from generalist.tasks import TASK_SETS

DIM, HEADS, DEPTH = 16, 4, 2


def torch_layers(weights, x, epsilon):
    """Tokens (b, n, DIM) through torch's pre-norm layers with our weights.

    A final norm without weights follows.
    """
    for i in range(DEPTH):

        def own(name, i=i):
            return torch.tensor(np.asarray(weights[f"layers.{i}.{name}"]))

        layer = torch.nn.TransformerEncoderLayer(
            DIM,
            HEADS,
            4 * DIM,
            dropout=0.0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
        layer.load_state_dict(
            {
                "self_attn.in_proj_weight": torch.cat(
                    [own(f"self_attn.{p}_proj.kernel").T for p in "qkv"]
                ),
                "self_attn.in_proj_bias": torch.cat(
                    [own(f"self_attn.{p}_proj.bias") for p in "qkv"]
                ),
                "self_attn.out_proj.weight": own("self_attn.out_proj.kernel").T,
                "self_attn.out_proj.bias": own("self_attn.out_proj.bias"),
                "linear1.weight": own("mlp.fc1.kernel").T,
                "linear1.bias": own("mlp.fc1.bias"),
                "linear2.weight": own("mlp.fc2.kernel").T,
                "linear2.bias": own("mlp.fc2.bias"),
                "norm1.weight": own("layer_norm1.scale"),
                "norm1.bias": own("layer_norm1.bias"),
                "norm2.weight": own("layer_norm2.scale"),
                "norm2.bias": own("layer_norm2.bias"),
            }
        )
        x = layer.eval()(x)
    return torch.nn.functional.layer_norm(x, (DIM,), eps=epsilon).detach().numpy()


@pytest.fixture(scope="module")
def vit(random_weights):
    graphdef, weights = random_weights(
        lambda: VisionTransformer(
            image_size=12, patch=4, dim=DIM, depth=DEPTH, heads=HEADS, rngs=HostRngs(0)
        )
    )
    return weights, jax.jit(lambda p, image: parameters.merge(graphdef, p)(image))


def test_vision_transformer_equals_torch(vit):
    weights, forward = vit
    image = np.random.default_rng(0).standard_normal((2, 12, 12, 3), np.float32)

    def tensor(x):
        return torch.tensor(np.asarray(x))

    patches = torch.nn.functional.conv2d(
        tensor(image.transpose(0, 3, 1, 2)),
        tensor(weights["patch_embedding.kernel"].transpose(3, 2, 0, 1)),
        tensor(weights["patch_embedding.bias"]),
        stride=4,
    )
    tokens = patches.permute(0, 2, 3, 1) + tensor(weights["position_embedding"])
    expected = torch_layers(weights, tokens.reshape(2, 9, DIM), 1e-6)
    expected = expected * weights["post_layernorm.scale"] + weights["post_layernorm.bias"]
    np.testing.assert_allclose(forward(weights, image), expected, atol=1e-5)


def test_positions_are_interpolated_for_other_sizes(vit):
    """Positions that are the same everywhere stay so.

    Others give each token of a larger image its own.
    """
    weights, forward = vit
    image = np.zeros((1, 16, 24, 3), np.float32)
    tokens = np.asarray(forward(weights, image))
    assert tokens.shape == (1, 4 * 6, DIM)
    assert np.abs(tokens[0, 0] - tokens[0, -1]).max() > 1e-3
    flat = weights | {"position_embedding": np.full((3, 3, DIM), 0.5, np.float32)}
    tokens = np.asarray(forward(flat, image))
    np.testing.assert_allclose(tokens, np.broadcast_to(tokens[:, :1], tokens.shape), atol=1e-5)


def test_vision_transformer_errors(vit):
    weights, forward = vit
    with pytest.raises(ValueError, match="image of 12x14 pixels: sides must be multiples of 4"):
        forward(weights, jnp.zeros((1, 12, 14, 3)))
    with pytest.raises(ValueError, match="image_size 30 is not a multiple of the patch 4"):
        VisionTransformer(image_size=30, patch=4, rngs=HostRngs(0))


def test_text_encoder_equals_torch(random_weights):
    graphdef, weights = random_weights(
        lambda: TextEncoder(dim=DIM, depth=DEPTH, heads=HEADS, rngs=HostRngs(0))
    )
    ids = tokenize(["monocular depth", "light"])
    tokens = torch.tensor(
        np.asarray(weights["token_embedding"])[ids] + np.asarray(weights["position_embedding"])
    )
    expected = torch_layers(weights, tokens, 1e-5)
    expected = expected * weights["final_layer_norm.scale"] + weights["final_layer_norm.bias"]
    actual = jax.jit(lambda p, ids: parameters.merge(graphdef, p)(ids))(weights, ids)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_word_ids_by_hand():
    """1 + CRC-32 mod 4095; the check value of CRC-32 is 0xCBF43926 for "123456789"."""
    first = 1 + 0xCBF43926 % (VOCABULARY - 1)
    np.testing.assert_array_equal(tokenize(["123456789", ""], length=3), [[first, 0, 0], [0, 0, 0]])


def test_case_and_spaces_of_a_prompt_do_not_matter():
    ids = tokenize(["Performance  Depth ", "performance depth"])
    assert ids.dtype == np.int32 and ids.shape == (2, LENGTH)
    np.testing.assert_array_equal(ids[0], ids[1])


def test_too_long_a_prompt_is_named():
    with pytest.raises(ValueError, match="prompt 'a b c' has 3 words, at most 2 are allowed"):
        tokenize(["a", "a b c"], length=2)
    np.testing.assert_array_equal(tokenize(["a b c"], length=2, cut=True), tokenize(["a b"], 2))


@pytest.mark.parametrize("name", TASK_SETS)
def test_every_painted_task_has_ids_of_its_own(name):
    ids = tokenize([task.prompt for task in TASK_SETS[name].values() if not task.components])
    assert len(np.unique(ids, axis=0)) == len(ids)
