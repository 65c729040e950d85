"""Flax NNX modules: the UNet, the encoders, and the generalist made of them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from generalist.models.generalist import Condition, GeneralistModel
from generalist.models.layers import HostRngs
from generalist.names import one_of

__all__ = ["Condition", "GeneralistModel", "build"]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(settings: Mapping[str, Any], seed: int | None = None) -> GeneralistModel:
    """Builds the model of a config's group `model`.

    Args:
        settings: the arguments of `GeneralistModel`, `dtype` by its name.
        seed: of the initial values; without one they are all zeros, for the shapes alone.

    Raises:
        ValueError: for an unknown dtype.
        TypeError: for an argument that a part does not have.
    """
    settings = dict(settings)
    dtype = settings.pop("dtype")
    return GeneralistModel(
        **settings, dtype=DTYPES[one_of(dtype, DTYPES, "model.dtype")], rngs=HostRngs(seed)
    )
