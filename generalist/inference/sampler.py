"""The sampler of a recipe: images and prompts in, RGB out, one compiled program."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import NamedSharding
from ml_collections import FrozenConfigDict

from generalist import diffusion
from generalist.diffusion.objective import from_levels
from generalist.diffusion.unet_time import unet_time
from generalist.models import parameters as parameters_lib
from generalist.recipe import Recipe

STATIC_ARGUMENTS = ("steps", "sampler")  # compiled into the program


def make_sampler(recipe: Recipe, graphdef: nnx.GraphDef) -> Callable[..., jax.Array]:
    """Builds `sample(weights, images, pictures, prompts, seed, sees_image, ...)`, to be jitted.

    Args:
      recipe: schedule, prediction type, guidance and start of the sampler.
      graphdef: of its model.

    Returns:
      A function of
        weights: {path: array}, all parameters.
        images: uint8 (b, S, S, 3), what the encoder sees, or (1, S, S, 3) for all prompts.
        pictures: uint8 (b or 1, s, s, 3), the same at the target's size.
        prompts: float32 (b, n, d), prompt tokens.
        seed: () uint32.
        sees_image: float32 (b,), 0 for prompts whose task never sees an image; there is one image
          for each prompt then. None: all see it.
        steps, sampler: see `diffusion.sample`.
      that returns RGB, float32 (b, s, s, 3) in about [-1, 1], s being the model's target size.
    """
    guidance = recipe.sampling.guidance

    def sample(weights, images, pictures, prompts, seed, sees_image=None, *, steps, sampler):
        model = parameters_lib.merge(graphdef, weights)

        # Keys and values of the condition are computed once, for all steps.
        encode = functools.partial(
            model.encode, from_levels(images), prompts, picture=from_levels(pictures)
        )
        condition = encode(keep_image=sees_image)
        if guidance != 1.0:
            # Hidden is what a task knows: the image, or where it sees none the prompt.
            without = encode(keep_image=jnp.zeros(len(images)), keep_text=sees_image)

        def denoise(x_t, t):
            time = unet_time(recipe.unet_time, recipe.schedule, t)
            prediction = model.denoise(x_t, time, condition)
            if guidance == 1.0:
                return prediction
            # Classifier-free guidance (Ho and Salimans, arXiv 2207.12598).
            unguided = model.denoise(x_t, time, without)
            return unguided + guidance * (prediction - unguided)

        init_key, noise_key = jax.random.split(jax.random.key(seed))
        shape = (len(prompts), *model.diffused_shape)
        x0 = diffusion.sample(
            denoise,
            diffusion.initial_noise(init_key, shape, recipe.sampling.x_init),
            recipe.schedule,
            recipe.prediction_type,
            sampler,
            steps,
            eta=recipe.sampling.eta,
            key=noise_key,
            clip=None if model.autoencoder else 1.0,
        )
        return model.to_rgb(x0)

    return sample


@functools.lru_cache(maxsize=8)
def jit_sampler(
    config: FrozenConfigDict, graphdef: nnx.GraphDef, sharding: NamedSharding | None = None
) -> Callable[..., jax.Array]:
    """Returns the jitted sampler of a config; `sharding` places its result, if given.

    The models of one run, which are evaluated one after the other, share one compiled program.
    """
    recipe = Recipe.from_config(config)
    sample = make_sampler(recipe, graphdef)
    if sharding is None:
        return jax.jit(sample, static_argnames=STATIC_ARGUMENTS)
    return jax.jit(sample, static_argnames=STATIC_ARGUMENTS, out_shardings=sharding)
