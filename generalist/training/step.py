"""The training step: a pure function (state, batch) -> (state, metrics)."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from generalist import diffusion
from generalist.models import parameters as parameters_lib


class State(NamedTuple):
    """Everything a step changes, and what it must not.

    step: () int32, the number of steps done.
    parameters: {path: float32 array}, trained.
    ema: {path: float32 array}, their exponential moving average; the weights to evaluate and ship.
    frozen: {path: float32 array}, not trained.
    optimizer: the optax state.
    """

    step: jax.Array
    parameters: dict[str, jax.Array]
    ema: dict[str, jax.Array]
    frozen: dict[str, jax.Array]
    optimizer: Any


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the model is trained to do; arrays are indexed by the task's position in the batch's `task`.

    schedule, kind: the noise schedule and what the network outputs ("eps", "v" or "x0").
    weight, weight_settings: name and arguments of the loss weight (see `diffusion.loss_weight`).
    mean, std, pure: (tasks,) logit-normal law of t and the share of samples at t = 1.
    start: x_t at t = 1: "zeros", or "noise".
    task_weight: (tasks,) multipliers of the loss.
    prompts: (tasks, n, d) prompt tokens.
    drop_image, drop_text: probability that a condition is hidden (classifier-free guidance).
    palettes: {task index: (classes, 3) colours} of the tasks with a prototype loss.
    prototype_weight, prototype_temperature: cross-entropy of the soft colour decode
        p_k ~ exp(-|x0 - colour_k|^2 / temperature), added to the loss of those tasks.
    latent: whether the model diffuses latents, so that targets go through its autoencoder first.
    """

    schedule: Any
    kind: str
    weight: str
    weight_settings: Mapping
    mean: jax.Array
    std: jax.Array
    pure: jax.Array
    start: str
    task_weight: jax.Array
    prompts: jax.Array
    drop_image: float
    drop_text: float
    palettes: Mapping[int, jax.Array]
    prototype_weight: float
    prototype_temperature: float
    latent: bool = False

    def encode(self, make_model: Callable[[], nnx.Module], batch: Mapping) -> Mapping:
        """The batch with its targets and masks as the model diffuses them: unchanged in pixel space."""
        if not self.latent:
            return batch
        target, mask = make_model().encode_target(batch["target"], batch["mask"])
        return dict(batch, target=target, mask=mask)

    def corrupt(self, batch: Mapping, key: jax.Array) -> dict:
        """Adds to a batch what the step draws: t, x_t, the regression target and the condition masks."""
        keys = jax.random.split(key, 4)
        x0, task = batch["target"], batch["task"]
        t = diffusion.sample_timesteps(keys[0], self.mean[task], self.std[task], self.pure[task])
        alpha, sigma = (diffusion.expand(a, x0) for a in self.schedule.alpha_sigma(t))
        eps = jax.random.normal(keys[1], x0.shape)
        if self.start == "zeros":  # one-step prediction starts there: the mean of the noise
            eps = jnp.where(diffusion.expand(t, x0) == 1.0, 0.0, eps)
        keep = lambda k, drop: jax.random.bernoulli(k, 1.0 - drop, t.shape).astype(jnp.float32)
        return dict(
            batch,
            t=t,
            x_t=alpha * x0 + sigma * eps,
            eps=eps,
            keep_image=keep(keys[2], self.drop_image),
            keep_text=keep(keys[3], self.drop_text),
        )

    def loss(self, model: nnx.Module, batch: Mapping) -> tuple[jax.Array, jax.Array]:
        """Corrupted batch -> (mean loss, loss of every sample (b,))."""
        x0, x_t, t, task = batch["target"], batch["x_t"], batch["t"], batch["task"]
        image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
        condition = model.encode(
            image, self.prompts[task], keep_image=batch["keep_image"], keep_text=batch["keep_text"]
        )
        prediction = model.denoise(x_t, t, condition)
        alpha, sigma = (diffusion.expand(a, x0) for a in self.schedule.alpha_sigma(t))
        target = diffusion.target(self.kind, x0, batch["eps"], alpha, sigma)
        weight = diffusion.loss_weight(
            self.weight, self.kind, self.schedule.logsnr(t), **self.weight_settings
        )
        losses = weight * masked_mean(
            jnp.square(prediction - target).mean(-1), batch["mask"][..., 0]
        )
        if self.palettes:
            losses += self._prototype_loss(
                diffusion.to_x0(self.kind, prediction, x_t, alpha, sigma), batch
            )
        return (losses * self.task_weight[task]).mean(), losses

    def _prototype_loss(self, x0_hat: jax.Array, batch: Mapping) -> jax.Array:
        total = jnp.zeros(batch["task"].shape)
        for index, palette in self.palettes.items():
            # |x|^2 - 2 x.p + |p|^2: a matrix product, where the difference would be a tensor K times the image.
            distance = lambda x: (
                jnp.square(x).sum(-1, keepdims=True)
                - 2.0 * x @ palette.T
                + jnp.square(palette).sum(-1)
            )
            label = distance(batch["target"]).argmin(-1)
            logits = -distance(x0_hat) / self.prototype_temperature
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            total += (batch["task"] == index) * masked_mean(entropy, batch["mask"][..., 0])
        return self.prototype_weight * total


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of x (b, h, w) where mask is 1, for each image (b,); 0 for an image without such a pixel."""
    return (x * mask).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1.0)


def make_step(
    graphdef,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float,
    accumulate: int = 1,
    gather: Callable = lambda parameters: parameters,
    spread: Callable = lambda parts: parts,
):
    """Builds `step(state, batch) -> (state, metrics)`.

    `batch`: image uint8 (b, S, S, 3), target float32 RGB (b, s, s, 3), mask (b, s, s, 1), task int32 (b,). With `accumulate` > 1
    the batch is processed in that many parts; as all randomness is drawn for the whole batch first, the gradient is the same.
    `metrics`: loss (), grad_norm (), update_ratio (), task_loss (tasks,) sums and task_count (tasks,).
    `gather` makes {path: array} whole before the model uses them, where devices share them. `spread` splits the parts (accumulate, b', ...) of
    a batch over the devices; what a device holds of a part is what it holds of the batch.
    Randomness is a function of (seed, step) alone, so a resumed run repeats it exactly.
    """
    tasks = len(objective.task_weight)

    def loss_fn(trained, frozen, batch):
        return objective.loss(parameters_lib.merge(graphdef, gather({**frozen, **trained})), batch)

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    gradients = (
        value_and_grad
        if accumulate == 1
        else functools.partial(_in_parts, value_and_grad, accumulate, spread)
    )

    def step(state: State, batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        batch = objective.encode(
            lambda: parameters_lib.merge(graphdef, gather({**state.frozen, **state.parameters})),
            batch,
        )
        (loss, losses), grads = gradients(
            state.parameters, state.frozen, objective.corrupt(batch, key)
        )
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        # The average is young at first: (1 + n) / (10 + n) keeps the initial weights out of it.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda e, p: e + (1.0 - decay) * (p - e), state.ema, parameters)
        one_hot = jax.nn.one_hot(batch["task"], tasks)
        metrics = {
            "loss": loss,
            "grad_norm": optax.global_norm(grads),
            "update_ratio": optax.global_norm(updates) / optax.global_norm(parameters),
            "task_loss": losses @ one_hot,
            "task_count": one_hot.sum(0),
        }
        return State(state.step + 1, parameters, ema, state.frozen, optimizer_state), metrics

    return step


def _in_parts(
    value_and_grad: Callable, accumulate: int, spread: Callable, parameters, frozen, batch
):
    """What `value_and_grad` returns of the whole batch, from one part after the other."""
    # Rows 0, accumulate, ... are the first part: every device has as many of each.
    parts = spread(
        jax.tree.map(lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch)
    )

    def add(total, part):
        (loss, losses), grads = value_and_grad(parameters, frozen, part)
        return jax.tree.map(lambda a, b: a + b / accumulate, total, (loss, grads)), losses

    (loss, grads), losses = jax.lax.scan(
        add, (jnp.zeros(()), jax.tree.map(jnp.zeros_like, parameters)), parts
    )
    return (loss, losses.T.reshape(-1)), grads
