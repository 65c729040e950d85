"""FLOP counted in the traced program: published values, products by hand, the compiled program."""

import collections
import math
import re

import jax
import jax.extend.core
import jax.numpy as jnp
import pytest

from generalist import models
from generalist.configs import common
from generalist.models import flops, parameters
from generalist.models.attention import attention
from generalist.models.autoencoder import Autoencoder
from generalist.models.layers import HostRngs, conv
from generalist.models.unet import UNet
from generalist.recipe import Recipe

VARIANTS = {
    "A": {},
    "C": {"attention_levels": (False, True, True, False)},
    "W": {"window": 16},
    "E": {"patch": 2},
}
SMALL = {"channels": (16, 32, 48, 48), "context_dim": 24, "heads": 2, "groups": 8}
AUTOENCODER = {"channels": (16, 32), "layers_per_block": 1, "groups": 8, "latent_channels": 4}
ALL = {"unet", "image_encoder", "image_projection", "text_projection"}


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def trace_unet(side, tokens, channels=3, **settings):
    """The program of one call of the UNet for one image of (side, side) pixels."""

    def make():
        return UNet(in_channels=channels, out_channels=channels, **settings, rngs=HostRngs(None))

    graphdef, shapes = parameters.abstract(make)

    def forward(values, *inputs):
        return parameters.merge(graphdef, values)(*inputs)

    inputs = shaped(1, side, side, channels), shaped(1), shaped(1, tokens, 768)
    return jax.make_jaxpr(forward)(shapes, *inputs)


def test_stable_diffusion_costs_what_is_published():
    """Stable Diffusion 1.5 at 64x64 latents and 77 tokens: 803 GFLOP."""
    assert round(flops.count_flops(trace_unet(64, 77, channels=4)).total() / 1e9) == 803


@pytest.mark.parametrize(("variant", "gigas"), [("A", 4731), ("C", 2641), ("W", 2818), ("E", 825)])
def test_full_size_variants(variant, gigas):
    """128x128 pixels and 333 tokens; GFLOP."""
    program = trace_unet(128, 333, **VARIANTS[variant])
    assert round(flops.count_flops(program).total() / 1e9) == gigas


def test_scopes_tell_the_levels_and_the_attentions():
    """The faithful UNet on 128x128 pixels and 333 tokens, GFLOP; every product is in a level."""
    levels = collections.Counter()
    attentions = collections.Counter()
    for product in flops.products(trace_unet(128, 333)):
        level, *inner = product.scope.split("/")
        levels[level] += product.flops / 1e9
        if product.kind == flops.ATTENTION or inner == ["key_value"]:
            attentions[inner[0]] += product.flops / 1e9
    assert {level: round(gigas) for level, gigas in levels.items()} == {
        "level_0": 2658,
        "level_1": 1115,
        "level_2": 798,
        "level_3": 160,
    }
    assert {kind: round(gigas) for kind, gigas in attentions.items()} == {
        "self_attention": 1960,
        "cross_attention": 62,
        "key_value": 13,
    }


def test_products_by_hand():
    """A dense layer and a strided convolution, forward and backward."""

    def dense(x, kernel):
        return (x @ kernel).sum()

    forward = 2 * 5 * 7 * 11

    def by_kind(function, *inputs):
        return flops.count_flops(jax.make_jaxpr(function)(*inputs))

    inputs = shaped(5, 7), shaped(7, 11)
    assert by_kind(dense, *inputs) == {flops.LINEAR: forward}
    assert by_kind(jax.grad(dense, 1), *inputs) == {flops.LINEAR: 2 * forward}
    assert by_kind(jax.grad(dense, (0, 1)), *inputs) == {flops.LINEAR: 3 * forward}

    def strided(x, kernel):
        module = conv(4, 6, 3, stride=2, rngs=HostRngs(None), dtype=jnp.float32)
        module.kernel[...] = kernel
        return module(x).sum()

    forward = 2 * (8 * 8) * (3 * 3 * 4 * 6)
    inputs = shaped(1, 16, 16, 4), shaped(3, 3, 4, 6)
    assert by_kind(strided, *inputs) == {flops.CONVOLUTION: forward}
    gradients = by_kind(jax.grad(strided, (0, 1)), *inputs)
    assert list(gradients) == [flops.CONVOLUTION]
    # The input's gradient also makes the pixels of the border that the stride leaves out.
    assert gradients.total() == pytest.approx(3 * forward, rel=0.2)


@pytest.mark.parametrize("limit", [2**30, 2**12])
def test_attention_costs_the_same_at_once_and_in_blocks(limit):
    """Scores and weighted values forward, two products for the gradient of each backward."""
    q = shaped(2, 64, 3, 8)

    def loss(*qkv):
        return attention(*qkv, score_limit=limit).sum()

    program = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1, 2)))(q, q, q)
    assert ("scan[" in str(program)) == (limit == 2**12)
    forward = 2 * 2 * (2 * 64 * 64 * 3 * 8)
    assert flops.count_flops(program) == {flops.ATTENTION: 3 * forward}


def small_model(**changes) -> dict:
    """Settings of a model with every addition, but features only where `changes` say so."""
    config = common.get_config("scenes,small,scratch")
    config.model.update({"target_size": 32, "aligned_features": False, **changes})
    config.model.unet.update(
        {**SMALL, "attention_levels": (False, True, True, True), "patch": 2, "position": False}
    )
    config.model.image_encoder.update(
        {
            "image_size": 32,
            "patch": 4,
            "dim": 16,
            "depth": 1,
            "registers": 2,
            "gated": bool(changes),
        }
    )
    config.diffusion.prototype_weight = 0.0  # which latents cannot have
    return Recipe.from_config(config).model


def trace_step(settings, trained=ALL, batch=2):
    """The program of loss and gradient of the parts `trained`, of prompts of 5 tokens."""
    graphdef, shapes = parameters.abstract(lambda: models.build(settings))
    learned = {path: x for path, x in shapes.items() if path.split(".")[0] in trained}
    frozen = {path: x for path, x in shapes.items() if path not in learned}

    def loss(learned, frozen, image, text, target, mask, t):
        model = parameters.merge(graphdef, {**frozen, **learned})
        x, _ = model.encode_target(target, mask)
        return jnp.square(model.denoise(x, t, model.encode(image, text, picture=image)) - x).mean()

    side = settings["target_size"]
    picture = shaped(batch, side, side, 3)
    text = shaped(batch, 5, settings["text_encoder"]["dim"])
    return jax.make_jaxpr(jax.value_and_grad(loss))(
        learned, frozen, picture, text, picture, shaped(batch, side, side, 1), shaped(batch)
    )


def count(program, within="") -> int:
    return flops.count_flops(program, within).total()


def test_every_product_goes_backward_twice_but_those_of_data():
    """Gradients of weights and input; the second is not needed where the input is data."""
    program = trace_step(small_model())
    forward = sum(
        product.flops for product in flops.products(program) if "transpose" not in product.scope
    )
    of_data = {
        "patch_embedding": 2 * 64 * (4 * 4 * 3 * 16),
        "text_projection": 2 * 5 * (64 * 24),
        "pooled_text": 2 * (64 * 64),
        "time_embedding.linear_1": 2 * (16 * 64),
        "conv_in": 2 * 16 * 16 * (3 * 3 * 4 * 6 * 16),
    }
    assert count(program) == 3 * forward - 2 * sum(of_data.values())
    assert count(program, within="model") == count(program)


def test_what_is_frozen_goes_forward_only():
    """The image encoder, whose input is data: nothing flows back through it."""
    settings = small_model(concatenate_image=False, pooled_text=False)
    program = trace_step(settings, ALL - {"image_encoder"})
    trained = count(trace_step(settings), within="image_encoder")
    frozen = count(program, within="image_encoder")
    patch_embedding = 2 * 2 * 64 * (4 * 4 * 3 * 16)
    assert trained == 3 * frozen - patch_embedding


def test_latents_are_encoded_forward_only():
    """The target and the image: two times the encoder alone."""
    settings = small_model(autoencoder=AUTOENCODER)
    autoencoder = Autoencoder(**AUTOENCODER, rngs=HostRngs(None))
    alone = count(jax.make_jaxpr(autoencoder.encode)(shaped(2, 32, 32, 3)))
    assert count(trace_step(settings), within="autoencoder") == 2 * alone


def test_microbatches_add_up():
    """The gradient of a batch costs the same when it is accumulated, with or without remat."""

    def loss(matrix, x):
        with jax.named_scope("model"):
            return jnp.square(jnp.tanh(x @ matrix) @ matrix).sum()

    def accumulated(matrix, batch):
        gradient = jax.grad(jax.checkpoint(loss))

        def add(total, x):
            return total + gradient(matrix, x), None

        return jax.lax.scan(add, jnp.zeros((7, 7)), batch.reshape(4, 2, 7))[0]

    inputs = shaped(7, 7), shaped(8, 7)
    whole = count(jax.make_jaxpr(jax.grad(loss))(*inputs), within="model")
    assert whole == 2 * 8 * 7 * 7 * 5  # two forward, three for the gradients
    assert count(jax.make_jaxpr(accumulated)(*inputs), within="model") == whole


def test_what_is_outside_the_model_can_be_left_out():
    """The products of a loss or an optimizer, in loops too."""

    def step(x, matrix):
        with jax.named_scope("model"):
            y = x @ matrix
        return jax.lax.fori_loop(0, 3, lambda _, y: y @ matrix, y).sum()

    program = jax.make_jaxpr(jax.grad(step, 1))(shaped(5, 7), shaped(7, 7))
    assert count(program) == 2 * 5 * 7 * 7 * (2 + 3 * 3)
    assert count(program, within="model") == 2 * 5 * 7 * 7 * 2


def compiled_count(text: str) -> int:
    """FLOP of the products in the text of a compiled program, which has no loops."""
    dims = {
        name: [int(n) for n in shape.split(",") if n]
        for name, shape in re.findall(r"%([\w.-]+) = \w+\[([\d,]*)\]", text)
    }
    total = 0
    for out, kind, left, right, rest in re.findall(
        r"%([\w.-]+) = \S+ (dot|convolution)\(%([\w.-]+), %([\w.-]+)\)(.*)", text
    ):
        if kind == "dot":
            (contracted,) = re.findall(r"lhs_contracting_dims={([\d,]*)}", rest)
            inside = math.prod(dims[left][int(i)] for i in contracted.split(","))
        else:
            kernel, _result = re.search(r"dim_labels=\w+_(\w+)->(\w+)", rest).groups()
            inside = math.prod(dims[right]) // dims[right][kernel.index("o")]
            for zeros in re.findall(r"lhs_dilate=(\d+)x(\d+)", rest):  # where a stride is undone
                inside /= math.prod(map(int, zeros))
        total += 2 * math.prod(dims[out]) * inside
    return total


@pytest.mark.parametrize("aligned", [False, True])
def test_a_training_step_costs_what_its_compiled_program_does(aligned):
    """Within 1 %: the compiler finds that some products need not be made."""
    program = trace_step(small_model(aligned_features=aligned))
    step = jax.jit(
        jax.extend.core.jaxpr_as_fun(program),
    )
    inputs = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.in_avals]
    text = step.lower(*inputs).compile().as_text()
    assert text.count(" convolution(") > 100 and text.count(" dot(") > 200 and " while(" not in text
    assert compiled_count(text) == pytest.approx(count(program), rel=0.01)


def test_resizing_features_costs_little():
    """Products of a step, but no work of the layers."""
    settings = small_model(aligned_features=True)
    settings["image_encoder"]["dim"] = 128  # so that the features' projections matter
    program = trace_step(settings, ALL - {"image_encoder"})
    resizing = count(program, within="resize_features")
    assert 0 < resizing < 0.01 * count(program)


def test_remat_is_not_counted():
    """What the backward pass computes again is no work of the model."""
    none, products, blocks = (
        count(trace_step(small_model(remat=remat))) for remat in ("none", "products", "blocks")
    )
    assert none == products == blocks
