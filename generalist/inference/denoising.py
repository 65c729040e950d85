"""How well a model denoises: its error at a noise level, without sampling."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from generalist.diffusion.objective import from_levels, masked_mean
from generalist.diffusion.parameterization import expand, to_x0
from generalist.diffusion.unet_time import unet_time
from generalist.inference.generalist import Generalist
from generalist.models import parameters as parameters_lib
from generalist.recipe import Recipe
from generalist.tasks import Target


def denoising_errors(
    generalist: Generalist,
    task: str,
    images: Sequence[np.ndarray],
    targets: Sequence[Target],
    prompts: Sequence[str],
    t: float,
    seed: int = 0,
) -> np.ndarray:
    """Returns the error of x0 that a model predicts from b noisy targets, float32 (b,).

    It is the mean square over the pixels that count, of what is diffused: RGB in [-1, 1], or
    latents.

    Args:
      generalist: the model.
      task: name of the task.
      images: uint8 (h, w, 3) each; a task that sees none is not shown them.
      targets: what the model should paint, at its own size.
      prompts: of the images.
      t: noise level, in (0, 1]; 1 is pure noise.
      seed: of the noise; the same seed gives the same noise at every level.
    """
    seen = generalist.see(images)
    sees_image = generalist.recipe.select([task])[task].sees_image

    measure = _jit_errors(generalist.recipe.config, generalist.graphdef)
    errors = measure(
        generalist.parameters,
        seen.images,
        seen.pictures,
        generalist.prompt_tokens(prompts),
        np.stack([target.rgb for target in targets]),
        np.stack([target.mask for target in targets]),
        np.float32(t),
        np.uint32(seed),
        np.full(len(images), sees_image, np.float32),
    )
    return np.asarray(errors)


@functools.lru_cache(maxsize=8)
def _jit_errors(config: FrozenConfigDict, graphdef: nnx.GraphDef) -> Callable[..., jax.Array]:
    """Returns the compiled part of `denoising_errors`."""
    recipe = Recipe.from_config(config)

    def errors(weights, images, pictures, tokens, rgb, mask, t, seed, sees_image):
        model = parameters_lib.merge(graphdef, weights)
        x0, mask = model.encode_target(rgb, mask)
        t = jnp.full(len(x0), t)

        # As in training, also where pure noise is its mean.
        eps = jax.random.normal(jax.random.key(seed), x0.shape)
        if recipe.sampling.x_init == "zeros":
            eps = jnp.where(expand(t, x0) == 1.0, 0.0, eps)
        alpha, sigma = (expand(scale, x0) for scale in recipe.schedule.alpha_sigma(t))
        x_t = alpha * x0 + sigma * eps

        condition = model.encode(
            from_levels(images), tokens, picture=from_levels(pictures), keep_image=sees_image
        )
        time = unet_time(recipe.unet_time, recipe.schedule, t)
        prediction = model.denoise(x_t, time, condition)
        x0_hat = to_x0(recipe.prediction_type, prediction, x_t, alpha, sigma)
        return masked_mean(jnp.square(x0_hat - x0).mean(-1), mask[..., 0])

    return jax.jit(errors)
