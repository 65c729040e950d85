"""Flax NNX modules: the UNet, the encoders, and the generalist made of them."""

from collections.abc import Mapping

import jax.numpy as jnp

from generalist.models.generalist import Condition, GeneralistModel
from generalist.models.layers import HostRngs

__all__ = ["Condition", "GeneralistModel", "build"]

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(settings: Mapping, seed: int | None = None) -> GeneralistModel:
    """The `model` group of a config, as a dict -> an initialised model; without a seed all zeros, for its shapes.

    Raises ValueError for an unknown dtype, TypeError for an argument that a part does not have.
    """
    settings = dict(settings)
    dtype = settings.pop("dtype")
    if dtype not in DTYPES:
        raise ValueError(f"model.dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    return GeneralistModel(**settings, dtype=DTYPES[dtype], rngs=HostRngs(seed))
