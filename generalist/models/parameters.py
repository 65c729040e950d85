"""A model as two things: how it is built (a graph definition) and a plain dict of parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

Parameters = dict[str, jax.Array]  # {"unet.conv_in.kernel": array, ...}
Shapes = dict[str, jax.ShapeDtypeStruct]


def split(model: nnx.Module) -> tuple[nnx.GraphDef, Parameters]:
    """Returns the graph definition and {dotted path: array}, paths in sorted order."""
    graphdef, state = nnx.split(model, nnx.Param)
    flat = {_dotted(path): variable[...] for path, variable in nnx.to_flat_state(state)}
    return graphdef, dict(sorted(flat.items()))


def merge(graphdef: nnx.GraphDef, parameters: Mapping[str, Any]) -> Any:
    """Returns the model, the inverse of `split`; costs only trace time inside `jax.jit`.

    parameters: {path: array}; a shape stands for one that is not used.
    """
    flat = {}
    for dotted, value in parameters.items():
        path = tuple(int(name) if name.isdigit() else name for name in dotted.split("."))
        flat[path] = nnx.Param(value)
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def abstract(make_model: Callable[[], nnx.Module]) -> tuple[nnx.GraphDef, Shapes]:
    """Returns graph definition and shapes of `make_model()`; no value is computed or stored."""
    graphdef, state = nnx.split(nnx.eval_shape(make_model), nnx.Param)
    flat = {_dotted(path): variable.get_value() for path, variable in nnx.to_flat_state(state)}
    return graphdef, dict(sorted(flat.items()))


def is_of_text_encoder(path: str) -> bool:
    """Returns whether a parameter is only used to encode prompts, which happens once."""
    return path.startswith("text_encoder.")


def _dotted(path: tuple) -> str:
    return ".".join(map(str, path))
