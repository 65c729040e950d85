"""Checks the shape types of a function, such as Float[Array, "b h w c"], whenever it is called."""

import inspect
import typing

import beartype
import jaxtyping


def check_shapes(function, **kwargs):
    """Wraps a function in beartype, for those annotations only that have a shape.

    The others are left to the static checker: tests pass values of a wrong type on purpose, to read
    the message of the error.
    """
    hints = dict(inspect.get_annotations(function))
    function.__annotations__ = {name: hint for name, hint in hints.items() if has_shape(hint)}
    checked = beartype.beartype(function, **kwargs)
    function.__annotations__ = hints
    return checked


def has_shape(hint) -> bool:
    """Whether a hint is one of jaxtyping's, or has one inside, as Float[Array, "b"] | None has.

    The hints of a module that postpones its annotations are texts, of which this is never true.
    """
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(has_shape(inner) for inner in typing.get_args(hint))
