"""Compiling the training step before the loop, with what it costs."""

import functools
import logging
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from ml_collections import FrozenConfigDict

from generalist.devices.memory import GIB, advice
from generalist.devices.mesh import replicated, shardings_of
from generalist.models import flops
from generalist.recipe import Recipe
from generalist.training.state import State

logger = logging.getLogger("generalist")


class CompiledStep:
    """The compiled step: call it as `step(state, batch)`; it may reuse the memory of `state`.

    Attributes:
      flops_per_image: floating-point operations of one training step, an image.
    """

    def __init__(self, compiled: jax.stages.Compiled, flops_per_image: int):
        self._compiled = compiled
        self.flops_per_image = flops_per_image

    def __call__(self, state: State, batch: Mapping[str, jax.Array]) -> tuple[State, dict]:
        """Returns the next state and the metrics, as `make_step` documents them."""
        return self._compiled(state, batch)


def batch_shapes(
    recipe: Recipe, sharding: jax.sharding.NamedSharding
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes, dtypes and sharding of a batch."""
    config = recipe.config
    b = config.batch_size
    image = config.data.image_size
    target = config.model.target_size
    shaped = functools.partial(jax.ShapeDtypeStruct, sharding=sharding)
    shapes = {
        "image": shaped((b, image, image, 3), jnp.uint8),
        "picture": shaped((b, target, target, 3), jnp.uint8),
        "target": shaped((b, target, target, 3), jnp.float32),
        "mask": shaped((b, target, target, 1), jnp.float32),
        "task": shaped((b,), jnp.int32),
    }

    # Fixed prompts are no part of a batch.
    if recipe.own_prompts:
        shapes["prompt_ids"] = shaped((b, recipe.prompt_ids().shape[1]), jnp.int32)
    return shapes


def trace_step(
    step: Callable,
    state: State,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    mesh: jax.sharding.Mesh,
) -> jax.stages.Traced:
    """Traces the training step.

    Args:
      step: from `make_step`.
      state: arrays, or their shapes and shardings; the step keeps them where they are.
      batch: likewise.
      mesh: the devices.
    """
    jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings_of(state), replicated(mesh)))
    with jax.set_mesh(mesh):  # attention asks how many devices share the batch
        return jitted.trace(state, batch)


def compile_step(
    step: Callable,
    state: State,
    batch: Mapping[str, jax.ShapeDtypeStruct],
    config: FrozenConfigDict,
    mesh: jax.sharding.Mesh,
) -> CompiledStep:
    """Compiles the training step, and logs what it costs and whether it fits."""
    began = time.monotonic()
    traced = trace_step(step, state, batch, mesh)
    with jax.set_mesh(mesh):
        compiled = traced.lower().compile()
    seconds = time.monotonic() - began

    # Of the model alone: loss and optimizer do not count.
    cost = flops.count_flops(traced.jaxpr, within="model").total() // config.batch_size
    line = f"step compiled in {seconds:.0f} s: {cost / 1e9:,.2f} GFLOP an image"

    memory = compiled.memory_analysis()
    if memory is None:
        # Some platforms do not know it, of a program from the cache for example.
        logger.info(line)
        return CompiledStep(compiled, cost)

    held = memory.argument_size_in_bytes
    temporary = memory.temp_size_in_bytes
    logger.info(
        f"{line}, {held / GIB:.2f} GiB state and batch + {temporary / GIB:.2f} GiB temporaries "
        "a device"
    )
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit and held + temporary > limit:
        tips = advice(config, mesh.size, held, temporary, limit)
        logger.warning(f"WARNING: more than the {limit / GIB:.2f} GiB a device has. {tips}")
    return CompiledStep(compiled, cost)
