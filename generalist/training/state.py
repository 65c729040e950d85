"""The state of a run: everything that a training step changes, and the weights that it must not."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from generalist.devices.mesh import place_on_devices, shardings_of, to_host, tree_shardings
from generalist.models import parameters as parameters_lib

logger = logging.getLogger("generalist")


class State(NamedTuple):
    """Everything that a step changes, and what it must not.

    Its field names are part of the paths that `sharding.rules` match and that checkpoints hold.

    Attributes:
      step: () int32, the number of steps done.
      parameters: {path: float32 array}, trained.
      ema: {path: float32 array}, their exponential moving average: what is evaluated and shipped.
      frozen: {path: float32 array}, not trained. Before `place_frozen` in host memory and all of
        them; then on the devices and without the text encoder, where no step uses it.
      optimizer: the optax state.
    """

    step: jax.Array
    parameters: dict[str, jax.Array]
    ema: dict[str, jax.Array]
    frozen: dict[str, jax.Array]
    optimizer: Any

    @property
    def weights(self) -> dict[str, jax.Array]:
        """All parameters as they are trained, {path: array}."""
        return {**self.frozen, **self.parameters}

    @property
    def averaged_weights(self) -> dict[str, jax.Array]:
        """All parameters as they are evaluated and shipped, {path: array}."""
        return {**self.frozen, **self.ema}


def create_state(
    weights: Mapping[str, jax.Array],
    trained: Sequence[str],
    optimizer: optax.GradientTransformation,
) -> State:
    """Returns the state of step 0.

    Args:
      weights: {path: array}, all parameters of the model.
      trained: the paths that learn.
      optimizer: of the trained parameters.
    """
    parameters = {path: weights[path] for path in trained}
    frozen = {path: value for path, value in weights.items() if path not in parameters}
    return State(
        step=jnp.zeros((), jnp.int32),
        parameters=parameters,
        ema=jax.tree.map(jnp.copy, parameters),  # buffers of its own: the step donates both
        frozen=frozen,
        optimizer=optimizer.init(parameters),
    )


def abstract_state(
    shapes: Mapping[str, jax.ShapeDtypeStruct],
    trained: Sequence[str],
    optimizer: optax.GradientTransformation,
    mesh: jax.sharding.Mesh,
    sharding: Mapping,
) -> State:
    """Returns a state of shapes, dtypes and shardings in place of arrays.

    Args:
      shapes: {path: shape}, of all parameters of the model.
      trained: the paths that learn.
      optimizer: of the trained parameters.
      mesh: the devices that the state will live on.
      sharding: the `sharding` group of a config, see `tree_shardings`.
    """
    state = jax.eval_shape(lambda weights: create_state(weights, trained, optimizer), shapes)
    shardings = tree_shardings(mesh, state, sharding)

    def placed(x, sharding):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    return jax.tree.map(placed, state, shardings)


def place_frozen(state: State, target: State, own_prompts: bool) -> State:
    """Returns the state of a step: what it uses of the frozen parameters, where it uses them.

    Args:
      state: with frozen parameters in host memory.
      target: shapes and shardings of all, see `abstract_state`.
      own_prompts: see `in_step`.
    """
    target = in_step(target, own_prompts)
    used = {path: state.frozen[path] for path in target.frozen}
    return state._replace(frozen=place_on_devices(used, shardings_of(target.frozen)))


def in_step(state: State, own_prompts: bool) -> State:
    """Returns what a step takes of a state, or of its shapes.

    Prompts that do not change are encoded once, so that no step uses the text encoder.

    Args:
      state: with all parameters.
      own_prompts: whether examples have prompts of their own, which every step encodes.
    """
    if own_prompts:
        return state
    used = {
        path: x for path, x in state.frozen.items() if not parameters_lib.is_of_text_encoder(path)
    }
    return state._replace(frozen=used)


def text_encoder(state: State) -> dict[str, Any]:
    """Returns the text encoder's parameters, {path: array or shape}."""
    return {path: x for path, x in state.frozen.items() if parameters_lib.is_of_text_encoder(path)}


def digest(state: State) -> str:
    """Returns the SHA-256 of step, parameters and EMA, in the order of their paths."""
    sha = hashlib.sha256(str(int(state.step)).encode())
    for group in (state.parameters, state.ema):
        for path in sorted(group):
            sha.update(path.encode())
            sha.update(np.ascontiguousarray(to_host(group[path])).data)
    return sha.hexdigest()


def log_parameter_counts(state: State) -> None:
    """Logs how many parameters each part of the model has, and how many of them are trained."""
    total: dict[str, int] = {}
    trained: dict[str, int] = {}
    for group, is_trained in ((state.parameters, True), (state.frozen, False)):
        for path, value in group.items():
            # The UNet is large: its parts have lines of their own.
            depth = 2 if path.startswith("unet") else 1
            part = ".".join(path.split(".")[:depth])
            total[part] = total.get(part, 0) + value.size
            trained[part] = trained.get(part, 0) + (value.size if is_trained else 0)

    logger.info(f"{'part':28} {'parameters':>12} {'trained':>12}")
    for part in total:
        logger.info(f"{part:28} {total[part]:12,} {trained[part]:12,}")
    logger.info(f"{'all':28} {sum(total.values()):12,} {sum(trained.values()):12,}")
