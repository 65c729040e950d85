"""A model as two things: how it is built (a graph definition) and a plain dict of parameters."""

import jax
from flax import nnx

Parameters = dict[str, jax.Array]  # {"unet.conv_in.kernel": array, ...}


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Parameters]:
    """Module -> (graph definition, {dotted path: array}), paths in sorted order."""
    graphdef, state = nnx.split(model, nnx.Param)
    flat = {".".join(map(str, path)): variable[...] for path, variable in nnx.to_flat_state(state)}
    return graphdef, dict(sorted(flat.items()))


def merge(graphdef: nnx.GraphDef, parameters: Parameters) -> nnx.Module:
    """The inverse of `split`; costs only trace time inside `jax.jit`."""
    flat = {
        tuple(int(p) if p.isdigit() else p for p in path.split(".")): nnx.Param(value)
        for path, value in parameters.items()
    }
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def abstract(make_model) -> tuple[nnx.GraphDef, dict[str, jax.ShapeDtypeStruct]]:
    """Graph definition and shapes of `make_model()` without computing or storing a value."""
    graphdef, state = nnx.split(nnx.eval_shape(make_model), nnx.Param)
    flat = {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }
    return graphdef, dict(sorted(flat.items()))
