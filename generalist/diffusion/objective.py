"""The objective: which noise a batch gets, what the network must predict, and the loss of that."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Key, UInt8

from generalist.diffusion.loss_weights import loss_weight
from generalist.diffusion.parameterization import expand, target, to_x0
from generalist.diffusion.schedules import Schedule
from generalist.diffusion.timesteps import sample_timesteps
from generalist.diffusion.unet_time import unet_time

Batch = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the model is trained to do.

    Everything of shape (tasks, ...) is indexed by the `task` of a sample.

    A batch holds
      image: uint8 (b, S, S, 3), what the image encoder sees.
      picture: uint8 (b, s, s, 3), the same at the target's size, which may be appended to x_t.
      target: float32 (b, h, w, c), x0: RGB in [-1, 1], or latents.
      mask: float32 (b, h, w, 1) in {0, 1}; the loss counts only where it is 1.
      task: int32 (b,).
      prompt_ids: int32 (b, n), only where examples have prompts of their own.
    """

    schedule: Schedule
    prediction_type: str  # what the network predicts: "x0", "v" or "eps"
    loss_weight: str  # see `diffusion.loss_weight`
    x_init: str  # x_t at t = 1: "zeros", the mean of the noise, or "gaussian", the noise itself

    # Each task's distribution of t, see `sample_timesteps`.
    mean: Float[Array, " tasks"]
    std: Float[Array, " tasks"]
    p_pure_noise: Float[Array, " tasks"]

    task_weight: Float[Array, " tasks"]  # multiplies the loss
    # Tokens of the frozen text encoder, where prompts do not change.
    prompts: Float[Array, "tasks n d"]

    # Probabilities of hiding a condition, for classifier-free guidance.
    drop_image: float
    drop_text: float

    # Cross-entropy of the soft color decode, p_k ~ exp(-|x0 - color_k|^2 / temperature), added to
    # the loss of the tasks that have a palette: {task index: float32 (classes, 3) in [-1, 1]}.
    palettes: Mapping[int, Float[Array, "classes 3"]]
    prototype_weight: float
    prototype_temperature: float

    # Whether the model diffuses latents, so that targets go through its autoencoder first.
    latent: bool = False

    unet_time: str = "linear"  # how the UNet is told t, see `diffusion.unet_time`

    # 0 for the tasks that never see the image; None where all see it.
    sees_image: Float[Array, " tasks"] | None = None

    def encode_target(self, model: Any, batch: Batch) -> Batch:
        """Returns the batch with target and mask as latents of the model's autoencoder."""
        latents, mask = model.encode_target(batch["target"], batch["mask"])
        return {**batch, "target": latents, "mask": mask}

    def add_noise(self, batch: Batch, key: Key[Array, ""]) -> Batch:
        """Adds to a batch what is random: t, eps, x_t, and which conditions each sample keeps."""
        t_key, eps_key, image_key, text_key = jax.random.split(key, 4)
        x0 = batch["target"]
        task = batch["task"]

        t = sample_timesteps(t_key, self.mean[task], self.std[task], self.p_pure_noise[task])
        eps = jax.random.normal(eps_key, x0.shape)
        if self.x_init == "zeros":
            # One-step prediction starts there, at the mean of the noise.
            eps = jnp.where(expand(t, x0) == 1.0, 0.0, eps)

        alpha, sigma = self._alpha_sigma(t, x0)
        noisy = {
            **batch,
            "t": t,
            "eps": eps,
            "x_t": alpha * x0 + sigma * eps,
            "keep_image": _keep(image_key, self.drop_image, t.shape),
            "keep_text": _keep(text_key, self.drop_text, t.shape),
        }
        if self.sees_image is not None:
            noisy["keep_image"] *= self.sees_image[task]
        return noisy

    def loss(self, model: Any, batch: Batch) -> tuple[Float[Array, ""], Float[Array, " b"]]:
        """Returns the mean loss of a noisy batch, and the loss of every sample without its weight.

        model: a `GeneralistModel`, or anything with its `encode` and `denoise`.
        """
        x0 = batch["target"]
        x_t = batch["x_t"]
        t = batch["t"]
        task = batch["task"]

        # What the network sees, and what it predicts.
        condition = model.encode(
            from_levels(batch["image"]),
            self._text(model, batch),
            picture=from_levels(batch["picture"]),
            keep_image=batch["keep_image"],
            keep_text=batch["keep_text"],
        )
        prediction = model.denoise(x_t, unet_time(self.unet_time, self.schedule, t), condition)

        # The weighted squared error, over the pixels that count.
        alpha, sigma = self._alpha_sigma(t, x0)
        wanted = target(self.prediction_type, x0, batch["eps"], alpha, sigma)
        weight = loss_weight(self.loss_weight, self.prediction_type, self.schedule.logsnr(t))
        error = jnp.square(prediction - wanted).mean(-1)
        losses = weight * masked_mean(error, batch["mask"][..., 0])

        if self.palettes:
            x0_hat = to_x0(self.prediction_type, prediction, x_t, alpha, sigma)
            losses += self.prototype_weight * self._prototype_loss(x0_hat, batch)
        return (losses * self.task_weight[task]).mean(), losses

    def _text(self, model: Any, batch: Batch) -> Float[Array, "b n d"]:
        """Returns the prompts' tokens; those of examples are encoded in the step."""
        if "prompt_ids" in batch:
            return jax.lax.stop_gradient(model.encode_text(batch["prompt_ids"]))
        return self.prompts[batch["task"]]

    def _alpha_sigma(self, t: Array, x0: Array) -> tuple[Array, Array]:
        alpha, sigma = self.schedule.alpha_sigma(t)
        return expand(alpha, x0), expand(sigma, x0)

    def _prototype_loss(self, x0_hat: Array, batch: Batch) -> Float[Array, " b"]:
        total = jnp.zeros(batch["task"].shape)
        for index, palette in self.palettes.items():
            label = _squared_distances(batch["target"], palette).argmin(-1)
            logits = -_squared_distances(x0_hat, palette) / self.prototype_temperature
            entropy = optax.softmax_cross_entropy_with_integer_labels(logits, label)
            is_this_task = batch["task"] == index
            total += is_this_task * masked_mean(entropy, batch["mask"][..., 0])
        return total


def from_levels(image: UInt8[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Returns an 8-bit image as the model takes it, in [-1, 1]."""
    return image.astype(jnp.float32) / 127.5 - 1.0


def masked_mean(x: Float[Array, "b h w"], mask: Float[Array, "b h w"]) -> Float[Array, " b"]:
    """Returns each image's mean of x where mask is 1; 0 for an image without such a pixel."""
    return (x * mask).sum((1, 2)) / jnp.maximum(mask.sum((1, 2)), 1.0)


def _keep(key: Array, p_drop: float, shape: tuple[int, ...]) -> Array:
    """1 where a condition stays, 0 where it is hidden."""
    return jax.random.bernoulli(key, 1.0 - p_drop, shape).astype(jnp.float32)


def _squared_distances(x: Array, palette: Array) -> Array:
    """Colors (b, h, w, 3), palette (k, 3) -> (b, h, w, k).

    |x|^2 - 2 x.p + |p|^2 is a matrix product, where the difference would be a tensor of k times the
    image. Distances are small differences of large terms, so the product is that of float32.
    """
    x_squared = jnp.square(x).sum(-1, keepdims=True)
    p_squared = jnp.square(palette).sum(-1)
    return x_squared - 2.0 * jnp.matmul(x, palette.T, precision="float32") + p_squared
