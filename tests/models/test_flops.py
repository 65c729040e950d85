"""Analytic FLOP equal those of the products in the traced program, counted there one by one, and published values."""

import collections
import math
import re

import jax
import jax.extend.core
import jax.numpy as jnp
import pytest

from generalist import models
from generalist.configs import common
from generalist.inference.generalist import model_settings
from generalist.models import flops, parameters
from generalist.models.layers import HostRngs
from generalist.models.unet import UNet

VARIANTS = {
    "A": {},
    "C": {"attention_levels": (False, True, True, False)},
    "W": {"window": 16},
    "E": {"patch": 2},
}
SMALL = {"channels": (16, 32, 48, 48), "context_dim": 24, "heads": 2, "groups": 8}


def product(equation) -> tuple[str, int] | None:
    """Kind and FLOP of one equation of a program, from its shapes alone; products with a batch dimension are attention's."""
    if equation.primitive.name == "dot_general":
        (contracted, _), (batched, _) = equation.params["dimension_numbers"]
        left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
        return "attention" if batched else flops.LINEAR, 2 * math.prod(out) * math.prod(
            left[i] for i in contracted
        )
    if equation.primitive.name == "conv_general_dilated":
        kernel, out = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
        numbers, groups = equation.params["dimension_numbers"], equation.params["batch_group_count"]
        inside = math.prod(kernel[i] for i in numbers.rhs_spec) // kernel[numbers.rhs_spec[0]]
        # Dilation is how a stride is undone in the backward pass: zeros between the pixels, which are no work.
        work = math.prod(equation.params["lhs_dilation"])
        return flops.CONVOLUTION, 2 * math.prod(out) * inside // groups // work
    return None


def count(jaxpr) -> collections.Counter:
    """{kind: FLOP} of a program and the programs in it; of a platform's alternatives the default."""
    total = collections.Counter()
    for equation in jaxpr.eqns:
        if found := product(equation):
            total[found[0]] += found[1]
        inner = [
            count(x.jaxpr if hasattr(x, "jaxpr") else x)
            for value in equation.params.values()
            for x in (value if isinstance(value, (tuple, list)) else [value])
            if hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        if equation.primitive.name == "cond":
            inner = inner[-1:]
        for counter in inner:
            total.update({kind: times * n for kind, n in counter.items()})
    return total


def by_kind(operations) -> dict[str, int]:
    """Analytic FLOP by the kinds that can be told apart in a program."""
    total = collections.Counter()
    for operation in operations:
        kind = {
            flops.SELF_ATTENTION: "attention",
            flops.CROSS_ATTENTION: "attention",
            flops.KEY_VALUE: flops.LINEAR,
        }.get(operation.kind, operation.kind)
        total[kind] += operation.flops
    return dict(total)


def test_published_values():
    """Stable Diffusion 1.5 at 64x64 latents and 77 tokens; the faithful UNet on 128x128 pixels and 333 tokens, by level; GFLOP."""
    assert round(flops.forward([*flops.unet(64, 77, in_channels=4, out_channels=4)]) / 1e9) == 803
    levels = collections.Counter()
    for operation in flops.unet(128, 333):
        levels[operation.part] += operation.flops / 1e9
    assert {part: round(gigas) for part, gigas in levels.items()} == {
        "unet.0": 2658,
        "unet.1": 1115,
        "unet.2": 798,
        "unet.3": 160,
    }


@pytest.mark.parametrize(("variant", "gigas"), [("A", 4731), ("C", 2641), ("W", 2818), ("E", 825)])
def test_full_size_costs_what_its_program_does(variant, gigas):
    graphdef, shapes = parameters.abstract(lambda: UNet(**VARIANTS[variant], rngs=HostRngs(None)))
    shaped = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    forward = lambda values, *inputs: parameters.merge(graphdef, values)(*inputs)
    program = count(
        jax.make_jaxpr(forward)(
            shapes, shaped(1, 128, 128, 3), shaped(1), shaped(1, 333, 768)
        ).jaxpr
    )
    assert by_kind(flops.unet(128, 333, **VARIANTS[variant])) == program
    assert round(program.total() / 1e9) == gigas


def small_model(**changes) -> dict:
    """Settings of a model with every addition but two: positions are projected once a batch, and features resized by products, uncounted."""
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
    return model_settings(config.to_dict())


def trace_step(settings, trained, batch=2):
    """The program of loss and gradient of the parts `trained`."""
    graphdef, shapes = parameters.abstract(lambda: models.build(settings))
    learn = {path: x for path, x in shapes.items() if path.split(".")[0] in trained}

    def loss(learn, image, text, target, t):
        model = parameters.merge(graphdef, {**shapes_of_rest(), **learn})
        x = model.to_diffused(target)
        return jnp.square(model.denoise(x, t, model.encode(image, text)) - x).mean()

    shapes_of_rest = lambda: {
        path: jnp.zeros(x.shape) for path, x in shapes.items() if path not in learn
    }
    shaped = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    side, text = settings["target_size"], settings["text_encoder"]["dim"]
    return jax.make_jaxpr(jax.value_and_grad(loss))(
        learn,
        shaped(batch, side, side, 3),
        shaped(batch, 5, text),
        shaped(batch, side, side, 3),
        shaped(batch),
    ).jaxpr


@pytest.mark.parametrize(
    ("changes", "frozen"),
    [
        ({}, ()),
        ({"concatenate_image": False, "pooled_text": False}, ("image_encoder",)),
        (
            {
                "autoencoder": {
                    "channels": (16, 32),
                    "layers_per_block": 1,
                    "groups": 8,
                    "latent_channels": 4,
                }
            },
            (),
        ),
    ],
)
def test_a_training_step_costs_what_its_program_does(changes, frozen):
    settings = small_model(**changes)
    trained = {"unet", "image_encoder", "image_projection", "text_projection"} - set(frozen)
    assert (
        2 * flops.training_step(settings, 5, trained)
        == count(trace_step(settings, trained)).total()
    )


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
            kernel, result = re.search(r"dim_labels=\w+_(\w+)->(\w+)", rest).groups()
            inside = math.prod(dims[right]) // dims[right][kernel.index("o")]
            for zeros in re.findall(r"lhs_dilate=(\d+)x(\d+)", rest):  # where a stride is undone
                inside /= math.prod(map(int, zeros))
        total += 2 * math.prod(dims[out]) * inside
    return total


@pytest.mark.parametrize("aligned", [False, True])
def test_a_training_step_costs_what_its_compiled_program_does(aligned):
    """Within 1 %: the compiler finds that some products need not be made, and resizing features is left out of the count."""
    settings = small_model(aligned_features=aligned)
    trained = {"unet", "image_encoder", "image_projection", "text_projection"}
    jaxpr = trace_step(settings, trained)
    step = jax.jit(
        jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(jaxpr, ())),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    text = (
        step.lower(*(jax.ShapeDtypeStruct(x.aval.shape, x.aval.dtype) for x in jaxpr.invars))
        .compile()
        .as_text()
    )
    assert text.count(" convolution(") > 100 and text.count(" dot(") > 200 and " while(" not in text
    assert compiled_count(text) == pytest.approx(
        2 * flops.training_step(settings, 5, trained), rel=0.01
    )


def test_resizing_features_costs_little():
    settings = small_model(aligned_features=True)
    settings["image_encoder"]["dim"] = (
        128  # so that the features' projections are a part of the whole
    )
    trained = {"unet", "image_projection", "text_projection"}
    program = count(trace_step(settings, trained)).total()
    assert 0 < program - 2 * flops.training_step(settings, 5, trained) < 0.01 * program
