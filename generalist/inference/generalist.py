"""A trained model for use: images in, what each task predicts out."""

import contextlib
import copy
import functools
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from generalist import diffusion, models
from generalist.devices.mesh import batch_sharding, place_on_devices, replicated
from generalist.inference.images import read_image
from generalist.inference.sampler import jit_sampler
from generalist.inference.tiling import paint_tiles
from generalist.models import parameters as parameters_lib
from generalist.pretrained import parts, weights
from generalist.pretrained.folders import local_folder
from generalist.recipe import Recipe
from generalist.tasks import Prediction, Task, check_samples
from generalist.tasks.arrays import resize_image

logger = logging.getLogger("generalist")

# Batches are padded to one of these sizes, so that few programs are compiled.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
# Prompts whose tokens are kept.
MOST_PROMPTS = 256


class Seen(NamedTuple):
    """What the model sees of b images, resized from the stored pixels as training showed them.

    Attributes:
      images: the encoder's, uint8 (b, S, S, 3).
      pictures: at the size of the target, uint8 (b, s, s, 3).
    """

    images: np.ndarray
    pictures: np.ndarray


class Generalist:
    """Parameters, tasks and a compiled sampler.

    Args:
      config: a training config, such as the content of a workdir's `config.json`.
      parameters: {dotted path: array}, all of the model's.
      mesh: the devices that sample, each a part of every batch; all processes must then predict
        alike. None takes the first device.
      folder: of the model, where its tokenizer lies if it has a published one.

    Attributes:
      recipe: what the config says.
      tasks: {name: task}, all tasks of its set.
      image_size: side of the image that the encoder sees, in pixels.
      target_size: side of what the model samples, in pixels.
      parameters: {dotted path: float32 array}; the text encoder's are in host memory.
      graphdef: of the model, for `models.parameters.merge`.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        parameters: Mapping[str, np.ndarray],
        mesh: Mesh | None = None,
        folder: str | os.PathLike = "",
    ):
        self.recipe = Recipe.from_config(config)
        self.tasks = self.recipe.known_tasks
        self.image_size = self.recipe.config.data.image_size
        self.target_size = self.recipe.config.model.target_size

        self.graphdef, shapes = parameters_lib.abstract(lambda: models.build(self.recipe.model))
        weights.check_fit(parameters, shapes, "the weights")
        self._mesh = mesh
        self._whole = None if mesh is None else replicated(mesh)
        self.parameters = {path: self._placed(path, parameters[path]) for path in shapes}

        self._folder = pathlib.Path(folder)
        self._name = str(folder) or "this model"
        self._prompts: dict[str, np.ndarray] = {}  # tokens (1, n, d) by text
        self._warned_of_steps = False
        self._sample = jit_sampler(self.recipe.config, self.graphdef, self._whole)

    def _placed(self, path: str, value: np.ndarray) -> np.ndarray | jax.Array:
        """A parameter where it is used: on each device once, never twice on the first."""
        if parameters_lib.is_of_text_encoder(path):
            # It encodes few prompts: no place for it on a device that also trains.
            return np.asarray(value, np.float32)
        if self._whole is None:
            return jnp.asarray(value, jnp.float32)
        return place_on_devices(np.asarray(value, np.float32), self._whole)

    def with_sampling(self, **fields: Any) -> "Generalist":
        """Returns this model with other fields of `Sampling`; they share their parameters.

        Raises:
          ValueError: a field out of range, or fields that do not fit together.
        """
        config = self.recipe.config.to_dict()
        config["diffusion"] |= fields
        other = copy.copy(self)
        other.recipe = Recipe.from_config(config)
        other._sample = jit_sampler(other.recipe.config, self.graphdef, self._whole)
        return other

    def predict(
        self,
        image: Any = None,
        task: str | Iterable[str] = "depth",
        steps: int | None = None,
        samples: int | None = None,
        seed: int = 0,
        tile: bool | int | None = None,
        prompt: str | Sequence[str] | None = None,
    ) -> Prediction | dict[str, Prediction] | list[Prediction] | list[dict[str, Prediction]]:
        """Predicts one task or several, of one image or several; they share batches.

        Args:
          image: a file, a PIL image, or an array (h, w, 3) of any size; gray, RGBA and floats are
            converted (see `read_image`). Several: a list or tuple of those, or an array
            (b, h, w, 3). None where every task paints from its prompt alone; the pictures then have
            the model's own size, one for each prompt of a list.
          task: a name, or several.
          steps: denoising steps; None takes the config's. A model that answers in one step is asked
            by DDIM for more; one that was trained at hardly any noise but pure noise says so.
          samples: how many to draw. Depth and restoration become their mean, classes what most of
            them say, instances and segments those of the sample that the others agree with most.
            `uncertainty` is their standard deviation, or the share that says otherwise. They differ
            only where the sampler is random (it starts from noise, or eta > 0); else one is drawn
            and the uncertainty is 0. None takes the config's, or 1 if a task combines none.
          seed: of that randomness, 0 to 2^32 - 1.
          tile: for denoising, deraining and whatever else prefers tiles (`Task.prefers_tiles`),
            whether to work at native resolution in overlapping tiles of the model's target size; an
            integer is the overlap in pixels (True: a quarter of the side). None tiles images larger
            than the target. The other tasks, low light too, always see the whole image.
          prompt: what takes the place of the tasks' prompts; for several images one text, or one
            for each. None leaves the tasks theirs. What text to image paints.

        Returns:
          For a name its prediction, for several {name: prediction}; all at the image's own height
          and width. For several images a list of those, in their order.

        Raises:
          ValueError: no readable image, an unknown task or one that the model was not trained on,
            no image or no prompt for a task that needs one, or an argument out of range.
        """
        names = [task] if isinstance(task, str) else list(task)
        tasks = self.recipe.select(names)
        if samples is None:
            combined = all(one.combines_samples for one in tasks.values())
            samples = self.recipe.sampling.samples if combined else 1
        check_samples(tasks.values(), samples)
        _check_known(tasks.values(), image, prompt)

        several = _is_several(image if image is not None else prompt)
        if image is None:
            # It is not seen, and says only of which size the picture is.
            blank = np.zeros((self.target_size, self.target_size, 3), np.uint8)
            images = [blank] * (len(prompt or ()) if several else 1)
        else:
            images = [read_image(one) for one in image] if several else [read_image(image)]
        prompts = self._check_prompts(prompt, len(images))

        # Without randomness all samples are equal: one is enough.
        draws = samples if self.stochastic else 1
        components = self.components(names)
        rgbs = self._sample_components(images, components, prompts, steps, draws, seed, tile)

        results = []
        for own_rgbs, own_image in zip(rgbs, images, strict=True):
            predictions = {
                name: one.decode_samples(own_rgbs, own_image.shape[:2], samples)
                for name, one in tasks.items()
            }
            results.append(predictions[task] if isinstance(task, str) else predictions)
        return results if several else results[0]

    def predict_rgb(
        self,
        images: np.ndarray | Sequence[np.ndarray],
        task: str | Sequence[str],
        steps: int | None = None,
        seed: int = 0,
        prompts: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Samples the RGB images of tasks, which `Task.decode` reads.

        Args:
          images: uint8 (h, w, 3) each, any size; resized to the size the model was trained with.
          task: name of a task, or one for each image; with one image, any number of them, for which
            it is encoded once.
          steps: denoising steps; None takes the config's.
          seed: of the noise, where the sampler starts from or adds any.
          prompts: one for each image, or for each task of one image; what is too long for the
            model is cut. None takes the tasks'.

        Returns:
          float32 (b, s, s, 3) in about [-1, 1], s being the model's target size.

        Raises:
          ValueError: an argument out of range, or weights that give nan.
        """
        return self.predict_seen(self.see(images), task, steps, seed, prompts)

    def see(self, images: np.ndarray | Sequence[np.ndarray]) -> Seen:
        """Returns what the model sees of images, uint8 (h, w, 3) each; there may be none."""
        return Seen(self._resized(images, self.image_size), self._resized(images, self.target_size))

    def predict_seen(
        self,
        seen: Seen,
        task: str | Sequence[str],
        steps: int | None = None,
        seed: int = 0,
        prompts: Sequence[str] | None = None,
    ) -> np.ndarray:
        """Does what `predict_rgb` does, for the images of which `seen` is what the model sees."""
        self.check_sampling(steps, seed)
        steps, sampler = self._steps_and_sampler(steps)
        names = [task] * len(seen.images) if isinstance(task, str) else list(task)
        tasks = self.recipe.select(names)
        if prompts is None:
            prompts = [tasks[name].prompt for name in names]
        sees_image = np.array([tasks[name].sees_image for name in names], np.float32)

        # One padded size for all batches: the next of BATCH_SIZES that the devices divide.
        padded = next((n for n in BATCH_SIZES if n >= len(names)), BATCH_SIZES[-1])
        padded += -padded % (self._mesh.size if self._mesh is not None else 1)

        rgb = []
        for start in range(0, len(names), padded):
            batch = slice(start, start + padded)
            rows = slice(None) if len(seen.images) == 1 else batch
            rgb.append(
                self._sample_batch(
                    seen.images[rows],
                    seen.pictures[rows],
                    prompts[batch],
                    sees_image[batch],
                    padded,
                    steps,
                    sampler,
                    (seed + start // padded) % 2**32,
                )
            )
        painted = np.concatenate(rgb)
        # A nan would be an ordinary value in every file that is made of it.
        if not np.isfinite(painted).all():
            raise ValueError(
                f"the model painted nan or inf for {', '.join(dict.fromkeys(names))}: the weights "
                "are broken, take an older checkpoint"
            )
        return painted

    def check_sampling(self, steps: int | None, seed: int) -> None:
        """Raises ValueError for steps or a seed out of range, as `predict` does."""
        self._steps_and_sampler(steps)
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed!r} must be a whole number of 0 to 2^32 - 1")

    @property
    def stochastic(self) -> bool:
        """Whether the seed matters."""
        return self.recipe.sampling.stochastic

    def components(self, tasks: Iterable[str]) -> list[str]:
        """Returns what the model must sample for these tasks, each once.

        A merged task needs those it is merged from, any other itself.

        Raises:
          ValueError: no task, an unknown one, or one that the model was not trained on.
        """
        selected = self.recipe.select(tasks)
        if not selected:
            raise ValueError(f"no task given: choose from {', '.join(self.tasks)}")

        components: dict[str, None] = {}
        for task in selected.values():
            components |= dict.fromkeys(component.name for component in task.component_tasks)

        trained = self.recipe.tasks
        missing = [name for name in components if name not in trained]
        if missing:
            raise ValueError(
                f"the model was not trained on {', '.join(missing)}, only on {', '.join(trained)}"
            )
        return list(components)

    def prompt_tokens(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns the tokens of prompts, float32 (b, n, d). Those that were encoded are kept.

        A prompt that is too long for the model is cut.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompts]
        if new:
            text = {
                path: jnp.asarray(value)
                for path, value in self.parameters.items()
                if parameters_lib.is_of_text_encoder(path)
            }
            model = parameters_lib.merge(self.graphdef, {**self.parameters, **text})
            for prompt in new:
                ids = jnp.asarray(self._prompt_ids(prompt, cut=True))
                self._prompts[prompt] = np.asarray(model.encode_text(ids))

        # The oldest make room only when this batch has what it needs.
        tokens = np.concatenate([self._prompts[prompt] for prompt in prompts])
        for prompt in list(self._prompts)[:-MOST_PROMPTS]:
            del self._prompts[prompt]
        return tokens

    def _prompt_ids(self, prompt: str, cut: bool) -> np.ndarray:
        """Returns the ids (1, n) of a prompt; a published tokenizer is asked for new ones only."""
        for name in self.recipe.config.model.prompt_ids:
            if name in self.tasks and self.tasks[name].prompt == prompt:
                return self.recipe.prompt_ids([name])
        return self._tokenizer([prompt], cut=cut)

    @functools.cached_property
    def _tokenizer(self) -> Callable[..., np.ndarray]:
        return self.recipe.tokenizer(self._folder)

    def _check_prompts(self, prompt: str | Sequence[str] | None, count: int) -> list[str] | None:
        """Returns the prompt of each of `count` images, if they have their own.

        Raises:
          ValueError: another number of prompts, one that is no text or empty, or too long a one.
        """
        if prompt is None:
            return None
        prompts = [prompt] * count if isinstance(prompt, str) else list(prompt)
        if len(prompts) != count:
            raise ValueError(
                f"{len(prompts)} prompts for {count} images: give one, or one for each"
            )

        for text in dict.fromkeys(prompts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"prompt {text!r} says nothing: give a text of at least a word")
            self._prompt_ids(text, cut=False)
        return prompts

    @staticmethod
    def _resized(images: Iterable[np.ndarray], side: int) -> np.ndarray:
        """The images as training showed them, uint8 (b, side, side, 3)."""
        images = list(images)
        # An image that several tasks are asked of is resized once.
        resized = {id(image): image for image in images}
        for key, image in resized.items():
            resized[key] = resize_image(image, (side, side))
        stacked = np.array([resized[id(image)] for image in images], np.uint8)
        return stacked.reshape(len(images), side, side, 3)

    def _sample_components(
        self,
        images: Sequence[np.ndarray],
        names: Sequence[str],
        prompts: Sequence[str] | None,
        steps: int | None,
        draws: int,
        seed: int,
        tile: bool | int | None,
    ) -> list[dict[str, np.ndarray]]:
        """For each uint8 (h, w, 3), {name: float32 (draws, s, s, 3)}; (draws, h, w, 3) in tiles."""
        rgbs: list[dict[str, np.ndarray]] = [{} for _ in images]
        seen_whole: dict[tuple[str, ...], list[int]] = {}  # tasks -> images that they see whole
        for index, image in enumerate(images):
            prompt = None if prompts is None else prompts[index]
            whole = []
            for name in names:
                if self._tiles(name, image, tile):
                    rgbs[index][name] = self._sample_tiled(
                        image, name, prompt, steps, draws, seed, tile
                    )
                else:
                    whole.append(name)
            if whole:
                seen_whole.setdefault(tuple(whole), []).append(index)

        # One batch of all images, each with every task `draws` times. One image is encoded once.
        for tasks, indices in seen_whole.items():
            repeated = [name for name in tasks for _ in range(draws)]
            shown = [images[index] for index in indices]
            if len(indices) > 1:
                shown = [image for image in shown for _ in repeated]
            texts = None
            if prompts is not None:
                texts = [prompts[index] for index in indices for _ in repeated]
            sampled = self.predict_rgb(shown, repeated * len(indices), steps, seed, texts)
            for index, own in zip(indices, np.split(sampled, len(indices)), strict=True):
                rgbs[index] |= zip(tasks, np.split(own, len(tasks)), strict=True)
        return rgbs

    def _tiles(self, name: str, image: np.ndarray, tile: bool | int | None) -> bool:
        """Whether the task sees this image in tiles."""
        if not self.tasks[name].prefers_tiles:
            return False
        return max(image.shape[:2]) > self.target_size if tile is None else tile is not False

    def _steps_and_sampler(self, steps: int | None) -> tuple[int, str]:
        """What the config says, or for more steps than its sampler takes, DDIM."""
        sampling = self.recipe.sampling
        steps = sampling.steps if steps is None else steps
        sampler = sampling.sampler
        if sampler == "one_step" and steps != 1:
            sampler = "ddim"
        diffusion.check_sampler(sampler, steps, sampling.eta)

        if steps > 1 and self.recipe.mostly_pure_noise and not self._warned_of_steps:
            logger.warning(
                "%s: %s, and it is asked for %s, by %s: every figure of such models that was "
                "measured became worse",
                self._name,
                self.recipe.learned(),
                steps,
                sampler,
            )
            self._warned_of_steps = True
        return steps, sampler

    def _sample_tiled(
        self,
        image: np.ndarray,
        name: str,
        prompt: str | None,
        steps: int | None,
        draws: int,
        seed: int,
        tile: bool | int | None,
    ) -> np.ndarray:
        overlap = self.target_size // 4 if tile is None or tile is True else tile
        next_seed = seed

        def sample(tiles: np.ndarray) -> np.ndarray:
            nonlocal next_seed
            prompts = None if prompt is None else [prompt] * len(tiles)
            rgb = self.predict_rgb(tiles, name, steps, next_seed, prompts)
            next_seed += 1
            return rgb

        sampled = [paint_tiles(sample, image, self.target_size, overlap) for _ in range(draws)]
        return np.stack(sampled)

    def _sample_batch(
        self,
        images: np.ndarray,
        pictures: np.ndarray,
        prompts: Sequence[str],
        sees_image: np.ndarray,
        padded: int,
        steps: int,
        sampler: str,
        seed: int,
    ) -> np.ndarray:
        # The last image and the last prompt fill the batch. One image for all prompts stays one,
        # unless devices have to share it, or some prompts are not to see it.
        sees = None if sees_image.all() else _padded(sees_image, padded)
        if len(images) > 1 or self._mesh is not None or sees is not None:
            images = _padded(images, padded)
            pictures = _padded(pictures, padded)
        padding = [prompts[-1]] * (padded - len(prompts))
        tokens = self.prompt_tokens([*prompts, *padding])

        on_mesh = contextlib.nullcontext()
        if self._mesh is not None:
            on_mesh = jax.set_mesh(self._mesh)
            split = batch_sharding(self._mesh)
            images = place_on_devices(images, split)
            pictures = place_on_devices(pictures, split)
            tokens = place_on_devices(tokens, split)
            sees = None if sees is None else place_on_devices(sees, split)
        with on_mesh:
            rgb = self._sample(
                self.parameters,
                images,
                pictures,
                tokens,
                np.uint32(seed),
                sees,
                steps=steps,
                sampler=sampler,
            )
        return np.asarray(rgb)[: len(prompts)]


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    """The array (b, ...) with its last entry repeated up to `length` of them."""
    return np.concatenate([array, np.repeat(array[-1:], length - len(array), 0)])


def _check_known(tasks: Iterable[Task], image: Any, prompt: Any) -> None:
    """Raises ValueError if a task is not given what it works from."""
    for task in tasks:
        parts = task.component_tasks
        if image is None and any(part.sees_image for part in parts):
            raise ValueError(f"task '{task.name}' works on an image, and none is given")
        if prompt is None and not any(part.sees_image for part in parts):
            raise ValueError(
                f"task '{task.name}' paints what a prompt says, and none is given: "
                'give prompt="..."'
            )


def _is_several(image: Any) -> bool:
    """Whether it is a list of images, or an array (b, h, w, 3) of them."""
    return isinstance(image, list | tuple) or getattr(image, "ndim", 0) == 4


def load(name_or_path: str | os.PathLike, mesh: Mesh | None = None) -> Generalist:
    """Loads a model.

    Args:
      name_or_path: a training workdir, a model folder, or the name of shipped weights ("scenes").
        Or a text-to-image model as the folder of its parts (`generalist weights export`).
      mesh: the devices that sample, see `Generalist`.

    Raises:
      WeightsError: the folder is missing, damaged or does not fit.
      ValueError: a task's codec is of another version.
    """
    folder = local_folder(name_or_path)
    if (folder / parts.WHOLE_CONFIG).is_file():
        return Generalist(*_text_to_image(folder), mesh, folder)

    folder = weights.folder_of(name_or_path)
    config, parameters = weights.load_weights(name_or_path)
    try:
        generalist = Generalist(config, parameters, mesh, folder)
    except ValueError as error:
        raise weights.WeightsError(f"{folder} cannot be used: {error}") from error

    for name, version in weights.read_codecs(name_or_path).items():
        if name in generalist.tasks:
            generalist.tasks[name].check_version(version)
    return generalist


def _text_to_image(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns config and parameters of a text-to-image model from the folder of its parts.

    Raises WeightsError for a model that sees images, which needs more than published parts hold.
    """
    published = parts.read_parts(str(folder))
    file = folder / parts.WHOLE_CONFIG
    try:
        recipe = Recipe.from_config(weights.read_config(file), published)
    except ValueError as error:
        raise weights.WeightsError(f"{file} cannot be used: {error}") from error
    if any(task.sees_image for task in recipe.tasks.values()):
        raise weights.WeightsError(
            f"{folder} holds parts of a model that was trained on {', '.join(recipe.tasks)}: a "
            "text-to-image model alone is loaded from its parts. Train from them by "
            f"--config.model.init_from={folder}"
        )

    # No image is ever seen: the encoder's values, which are not among the parts, count nothing.
    _, built = parameters_lib.split(models.build(recipe.model, recipe.config.seed))
    initial = {path: np.asarray(value) for path, value in built.items()}
    return recipe.config.to_dict(), parts.fill(published, initial, recipe.config.model)
