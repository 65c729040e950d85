"""The model's arithmetic: FLOP (two a multiply-add) of the products in a traced program.

Convolutions and matrix products are counted, also those that resize; norms, activations and
softmax are not. Nor is what the backward pass computes again to save memory (`remat`, attention in
blocks): these are the FLOP of the model, by which programs are compared, not those of a program.
"""

import collections
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

CONVOLUTION = "convolution"
LINEAR = "linear"
ATTENTION = "attention"  # scores and weighted values, without projections

# How JAX names what `jax.checkpoint` computes a second time.
AGAIN = "rematted_computation"


class Product(NamedTuple):
    """One convolution or matrix product of a program."""

    kind: str  # CONVOLUTION, LINEAR or ATTENTION
    scope: str  # the `jax.named_scope`s around it: "model/level_0/self_attention"
    flops: int


def count_flops(program: Jaxpr | ClosedJaxpr, within: str = "") -> collections.Counter[str]:
    """Counts the FLOP of a traced program by kind.

    Args:
        program: of `jax.make_jaxpr`, or `.jaxpr` of what `jax.jit(f).trace` returns.
        within: counts only what is in this `jax.named_scope`; "model" leaves out of a training step
            what belongs to the loss and to the optimizer.

    Returns:
        {CONVOLUTION: FLOP, LINEAR: FLOP, ATTENTION: FLOP}, without kinds that do not occur.
    """
    # In a backward pass a scope is called "transpose(jvp(model))".
    scope = re.compile(rf"\b{re.escape(within)}\b" if within else "")

    total = collections.Counter()
    for product in products(program):
        if scope.search(product.scope):
            total[product.kind] += product.flops
    return total


def products(program: Jaxpr | ClosedJaxpr, scope: str = "") -> Iterator[Product]:
    """Yields every product of a traced program and of the programs inside it.

    Args:
        program: as in `count_flops`.
        scope: the names around the whole program.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    for equation in jaxpr.eqns:
        inside = "/".join(filter(None, (scope, str(equation.source_info.name_stack))))
        if AGAIN in inside:
            continue
        if equation.primitive is jax.lax.dot_general_p:
            yield _matrix_product(equation, inside)
        if equation.primitive is jax.lax.conv_general_dilated_p:
            yield _convolution(equation, inside)

        # A loop repeats its body.
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in _inner_programs(equation):
            for kind, inner_scope, flops in products(inner, inside):
                yield Product(kind, inner_scope, times * flops)


def _inner_programs(equation) -> list[Jaxpr | ClosedJaxpr]:
    """Returns the programs that an equation runs."""
    programs = []
    for value in equation.params.values():
        values = value if isinstance(value, (tuple, list)) else [value]
        programs += [x for x in values if isinstance(x, (Jaxpr, ClosedJaxpr))]

    # Of a choice one alternative runs: of those for several platforms the default, which is last.
    return programs[-1:] if equation.primitive.name == "cond" else programs


def _matrix_product(equation, scope: str) -> Product:
    """Counts a matrix product; those with a batch dimension are attention's."""
    (contracted, _), (batched, _) = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    out = equation.outvars[0].aval.shape
    flops = 2 * math.prod(out) * math.prod(left[i] for i in contracted)
    return Product(ATTENTION if batched else LINEAR, scope, flops)


def _convolution(equation, scope: str) -> Product:
    """Counts a convolution, forward or of a backward pass."""
    kernel = equation.invars[1].aval.shape
    out = equation.outvars[0].aval.shape
    _, *summed = equation.params["dimension_numbers"].rhs_spec
    flops = 2 * math.prod(out) * math.prod(kernel[i] for i in summed)

    # In a backward pass dilation undoes a stride: zeros between the pixels, which are no work.
    flops //= math.prod(equation.params["lhs_dilation"])
    return Product(CONVOLUTION, scope, flops // equation.params["batch_group_count"])
