"""What a run begins with: the first weights, the state made of them, and the prompts' tokens."""

import functools
import logging
from collections.abc import Mapping

import jax
import numpy as np
import optax
from flax import nnx

from generalist import models
from generalist.devices.mesh import place_on_devices, replicated, shardings_of
from generalist.models import parameters as parameters_lib
from generalist.pretrained import parts, weights
from generalist.pretrained.patches import resize_patches
from generalist.recipe import Recipe
from generalist.training.state import State, create_state, text_encoder

logger = logging.getLogger("generalist")

PATCHED = ("unet", "image_encoder")  # parts that cut pictures into patches


def initial_state(
    recipe: Recipe,
    published: Mapping[str, parts.PublishedModel],
    target: State,
    optimizer: optax.GradientTransformation,
) -> State:
    """Returns the state of step 0, created where it will live, but what is frozen in host memory.

    Args:
      recipe: says what to start from.
      published: the published models that it names, from `parts.read_parts`.
      target: shapes and shardings, from `abstract_state`.
      optimizer: of the trained parameters.

    Raises:
      WeightsError: the weights to start from do not fit the model.
    """
    values = initial_weights(recipe, published, target.weights)
    trained = {path: values[path] for path in target.parameters}
    # From the host to the parts: no device ever holds the whole.
    placed = place_on_devices(trained, shardings_of(target.parameters))
    create = functools.partial(create_state, trained=list(trained), optimizer=optimizer)
    learned = target._replace(frozen={})
    state = jax.jit(create, out_shardings=shardings_of(learned))(placed)
    return state._replace(frozen={path: values[path] for path in target.frozen})


def initial_weights(
    recipe: Recipe,
    published: Mapping[str, parts.PublishedModel],
    shapes: Mapping[str, jax.ShapeDtypeStruct],
) -> dict[str, np.ndarray]:
    """Returns the weights that training starts from, {path: array} in host memory.

    `model.init_from` names a model of this package, or published models, or nothing.
    """
    model = recipe.config.model
    if model.init_from and not published:
        config, values = weights.load_weights(model.init_from)
        theirs = Recipe.from_config(config)
        their_model = theirs.config.model
        if any(their_model[part].patch != model[part].patch for part in PATCHED):
            _, initial = parameters_lib.split(models.build(recipe.model, recipe.config.seed))
            values = resize_patches(values, their_model, initial, model)
        weights.check_fit(values, shapes, f"model.init_from={model.init_from}")
        _check_unet_time(theirs.unet_time, recipe)
        logger.info(f"weights: from {weights.folder_of(model.init_from)}")
        return values

    _, values = parameters_lib.split(models.build(recipe.model, recipe.config.seed))
    if not published:
        logger.info("weights: from scratch")
        if recipe.config.data.source == "paper":
            logger.warning(
                "nothing is pre-trained, while the method finetunes a text-to-image model: start "
                "from published weights by "
                "--config.model.init_from=unet=SD,text_encoder=SD,image_encoder=ENCODER "
                "(docs/weights.md)"
            )
        return values
    logger.info("weights: from scratch, but for")
    return parts.fill(published, values, model)


def _check_unet_time(theirs: str, recipe: Recipe) -> None:
    """Raises ValueError if the weights' UNet was told another time than this run tells it."""
    if theirs != recipe.unet_time:
        raise ValueError(
            f"model.init_from={recipe.config.model.init_from} was trained with "
            f"diffusion.unet_time {theirs!r}, this run has {recipe.unet_time!r}: give "
            f"--config.diffusion.unet_time={theirs}"
        )


def encode_prompts(
    recipe: Recipe, graphdef: nnx.GraphDef, state: State, target: State, mesh: jax.sharding.Mesh
) -> np.ndarray:
    """Returns the tokens of every trained task's prompt, float32 (tasks, n, d).

    The text encoder is frozen, so they are encoded once; the devices hold it only here.

    Args:
      recipe: names the prompts.
      graphdef: of the model.
      state: with frozen parameters in host memory.
      target: shapes and shardings of the state.
      mesh: the devices.
    """

    def encode(values, prompt_ids):
        model = parameters_lib.merge(graphdef, {**target.weights, **values})
        return model.encode_text(prompt_ids)

    values = place_on_devices(text_encoder(state), shardings_of(text_encoder(target)))
    encode = jax.jit(encode, out_shardings=replicated(mesh))
    return np.asarray(encode(values, recipe.prompt_ids()))
