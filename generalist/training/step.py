"""The training step: a pure function (state, batch) -> (state, metrics)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from generalist.diffusion.objective import Batch, Objective
from generalist.models import parameters as parameters_lib
from generalist.training.state import State

Metrics = dict[str, jax.Array]
Weights = dict[str, jax.Array]


def _unchanged(tree):
    """On one device nothing has to be gathered or sharded."""
    return tree


def make_step(
    graphdef: nnx.GraphDef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float,
    accum_steps: int = 1,
    gather_parameters: Callable[[Weights], Weights] = _unchanged,
    shard_microbatches: Callable[[Batch], Batch] = _unchanged,
    unused: Mapping[str, jax.ShapeDtypeStruct] = MappingProxyType({}),
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Builds `step(state, batch) -> (state, metrics)`.

    All randomness is a function of (seed, step), so that a resumed run repeats it exactly.

    Args:
      graphdef: of the model, from `parameters.split` or `parameters.abstract`.
      objective: what the batch looks like, and what is learned from it.
      optimizer: of the trained parameters.
      seed: of the noise.
      ema_decay: of the averaged parameters.
      accum_steps: microbatches that a batch is processed in, one after the other, to save memory.
        As the noise is drawn for the whole batch first, the gradient is the same.
      gather_parameters: makes {path: array} whole before the model uses them, where devices share
        them.
      unused: {path: shape} of parameters that the state may lack: the text encoder's.
      shard_microbatches: splits microbatches (accum_steps, b / accum_steps, ...) over the devices.

    Returns:
      A function to be jitted. Its metrics are loss (), grad_norm (), update_ratio (), and the sums
      task_loss (tasks,) and task_count (tasks,).
    """
    num_tasks = len(objective.task_weight)

    def make_model(parameters: Weights, frozen: Weights) -> nnx.Module:
        used = gather_parameters({**frozen, **parameters})
        return parameters_lib.merge(graphdef, {**unused, **used})

    def loss_fn(parameters: Weights, frozen: Weights, batch: Batch):
        return objective.loss(make_model(parameters, frozen), batch)

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    if accum_steps > 1:
        value_and_grad = accumulate(value_and_grad, accum_steps, shard_microbatches)

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)

        # Targets as the model diffuses them: pixels, or an autoencoder's latents.
        if objective.latent:
            batch = objective.encode_target(make_model(state.parameters, state.frozen), batch)
        batch = objective.add_noise(batch, key)

        # Loss, gradient and update.
        (loss, losses), grads = value_and_grad(state.parameters, state.frozen, batch)
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)

        # The average is young at first: (1 + n) / (10 + n) keeps the initial weights out of it.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, parameters)

        is_task = jax.nn.one_hot(batch["task"], num_tasks)
        metrics = {
            "loss": loss,
            "grad_norm": optax.global_norm(grads),
            "update_ratio": optax.global_norm(updates) / optax.global_norm(parameters),
            "task_loss": losses @ is_task,
            "task_count": is_task.sum(0),
        }
        return State(state.step + 1, parameters, ema, state.frozen, optimizer_state), metrics

    return step


def accumulate(value_and_grad: Callable, accum_steps: int, shard_microbatches: Callable):
    """Returns a function like `value_and_grad` that works on one microbatch after the other."""

    def accumulated(parameters: Weights, frozen: Weights, batch: Batch):
        # Rows 0, accum_steps, 2 accum_steps, ... are the first microbatch: so every device holds
        # equally many rows of each.
        def split(x):
            return x.reshape(-1, accum_steps, *x.shape[1:]).swapaxes(0, 1)

        microbatches = shard_microbatches(jax.tree.map(split, batch))

        def add(total, microbatch):
            (loss, losses), grads = value_and_grad(parameters, frozen, microbatch)
            total = jax.tree.map(lambda a, b: a + b / accum_steps, total, (loss, grads))
            return total, losses

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters))
        (loss, grads), losses = jax.lax.scan(add, zero, microbatches)
        return (loss, losses.T.reshape(-1)), grads

    return accumulated
