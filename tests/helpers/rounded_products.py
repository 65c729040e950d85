"""Products as accelerators make them by default: operands rounded, sums in float32."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal


def to_bfloat16(x: jax.Array) -> jax.Array:
    """Seven bits of mantissa, the operands of a TPU."""
    return x.astype(jnp.bfloat16).astype(jnp.float32)


def to_tf32(x: jax.Array) -> jax.Array:
    """Ten bits of mantissa, the operands of a GPU; half a unit rounds away from zero."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    return jnp.asarray(((bits + 0x1000) & 0xFFFFE000).view(np.float32))


def with_rounded_products(function: Callable, round_to: Callable) -> Callable:
    """Returns `function` with the operands of its products rounded.

    A product that states a precision higher than the default keeps its operands.
    """

    @functools.wraps(function)
    def run(*arguments):
        program = jax.make_jaxpr(function)(*arguments)
        (result,) = _evaluate(program.jaxpr, program.consts, arguments, round_to)
        return result

    return run


def _evaluate(jaxpr, consts, arguments, round_to) -> list:
    values = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= zip(jaxpr.invars, arguments, strict=True)

    def read(variable):
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        if "jaxpr" in equation.params:
            inner = equation.params["jaxpr"]
            results = _evaluate(inner.jaxpr, inner.consts, inputs, round_to)
        else:
            if equation.primitive.name == "dot_general" and _is_default(equation.params):
                inputs = [round_to(x) for x in inputs]
            results = equation.primitive.bind(*inputs, **equation.params)
            if not equation.primitive.multiple_results:
                results = [results]
        values |= zip(equation.outvars, results, strict=True)
    return [read(variable) for variable in jaxpr.outvars]


def _is_default(parameters) -> bool:
    return parameters["precision"] in (None, (jax.lax.Precision.DEFAULT,) * 2)
