"""A trained model for use: images in, what each task predicts out."""

import contextlib
import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from generalist import diffusion, models
from generalist.inference.images import read_image
from generalist.inference.tiling import paint_tiles
from generalist.models import parameters as parameters_lib
from generalist.models.text_encoder import tokenize
from generalist.pretrained import weights
from generalist.tasks import Prediction, Restoration, Task, check_samples, get_tasks
from generalist.tasks.arrays import resize_image

BATCHES = (
    1,
    2,
    4,
    8,
    16,
    32,
    64,
)  # batches are padded to one of these, so that few programs are compiled

SETTINGS = ("steps", "sampler", "x_init")  # of a sampler, compiled into it


class Generalist:
    """Parameters, codecs and a compiled sampler.

    Args:
      config: a training config as plain nested dicts (`config.json` of a workdir).
      parameters: {dotted path: array}, all of the model's.
    """

    def __init__(self, config: Mapping, parameters: Mapping[str, np.ndarray]):
        self.config = config
        self.tasks = get_tasks(config["tasks"]["set"])
        self.image_size = config["data"]["image_size"]
        self.target_size = config["model"]["target_size"]
        self._diffusion = config["diffusion"]
        self._graphdef, expected = parameters_lib.abstract(
            lambda: models.build(model_settings(config))
        )
        weights.check_fit(parameters, expected, "the weights")
        self.parameters = {path: jnp.asarray(parameters[path], jnp.float32) for path in expected}
        self._prompts = {}
        self._sample = _jit_sampler(json.dumps(config), self._graphdef)
        self._put, self._devices, self._mesh = lambda x: x, 1, contextlib.nullcontext

    def predict(
        self,
        image,
        task: str | Iterable[str] = "depth",
        steps: int | None = None,
        samples: int = 1,
        seed: int = 0,
        tile: bool | int | None = None,
    ) -> Prediction | dict[str, Prediction]:
        """Predicts one task or several of one image; several share a batch.

        Args:
          image: a file, a PIL image, or uint8 (h, w, 3) of any size; grey and RGBA are converted (see `read_image`).
          task: a name, or several.
          steps: denoising steps; None takes the config's.
          samples: for depth and restoration, how many to draw and average, with their spread as `uncertainty`. They
            differ only where the sampler is random (it starts from noise, or eta > 0); else they are one and the spread 0.
          seed: of that randomness.
          tile: for restoration, whether to work at native resolution in overlapping tiles of the model's target size;
            an integer is the overlap in pixels (True: a quarter of the side). None tiles images larger than the target.
            The other tasks always see the whole image.

        Returns:
          For a name its prediction, for several {name: prediction}; all at the image's own height and width.

        Raises:
          ValueError: no readable image, an unknown task or one the model was not trained on, or an argument out of range.
        """
        image = read_image(image)
        names = [task] if isinstance(task, str) else list(task)
        codecs = get_tasks(self.config["tasks"]["set"], names)
        check_samples(codecs.values(), samples)
        painted = self._paint(
            image, self.components(names), steps, samples if self.stochastic else 1, seed, tile
        )
        results = {
            name: codec.decode_samples(painted, image.shape[:2], samples)
            for name, codec in codecs.items()
        }
        return results[task] if isinstance(task, str) else results

    def spread(self, mesh: Mesh) -> None:
        """Samples on all devices of `mesh` from now on, each a part of every batch; all processes must then predict alike."""
        whole, split = (
            NamedSharding(mesh, PartitionSpec()),
            NamedSharding(mesh, PartitionSpec(mesh.axis_names)),
        )
        put = lambda x, sharding: jax.make_array_from_callback(
            x.shape, sharding, lambda index: x[index]
        )
        self.parameters = {path: put(np.asarray(x), whole) for path, x in self.parameters.items()}
        self._put, self._devices, self._mesh = (
            lambda x: put(x, split),
            mesh.size,
            lambda: jax.set_mesh(mesh),
        )
        self._sample = _jit_sampler(json.dumps(self.config), self._graphdef, whole)

    @property
    def stochastic(self) -> bool:
        """Whether the seed matters."""
        return self._diffusion["x_init"] == "gaussian" or self._diffusion["eta"] > 0

    def components(self, tasks: Iterable[str]) -> list[str]:
        """What the model must paint for these tasks, each once: a merged task needs its parts, any other itself.

        Raises ValueError for an unknown task, with the closest match, and for one the model was not trained on.
        """
        codecs = get_tasks(self.config["tasks"]["set"], tasks)
        if not codecs:
            raise ValueError(f"no task given: choose from {', '.join(self.tasks)}")
        components = dict.fromkeys(
            part for name, codec in codecs.items() for part in codec.components or (name,)
        )
        trained = [name for name, weight in self.config["tasks"]["weights"].items() if weight > 0]
        if missing := [name for name in components if name not in trained]:
            raise ValueError(
                f"the model was not trained on {', '.join(missing)}, only on {', '.join(trained)}"
            )
        return list(components)

    def _paint(self, image, names, steps, draws, seed, tile):
        """uint8 (h, w, 3) -> {name: float32 (draws, s, s, 3), or (draws, h, w, 3) where tiled}."""
        in_tiles = max(image.shape[:2]) > self.target_size if tile is None else tile is not False
        tiled = [name for name in names if in_tiles and isinstance(self.tasks[name], Restoration)]
        whole = [name for name in names if name not in tiled]
        painted = {name: self._paint_tiled(image, name, steps, draws, seed, tile) for name in tiled}
        if whole:
            rgb = self.predict_rgb(
                self._fit(image)[None], np.repeat(whole, draws).tolist(), steps, seed
            )
            painted.update(zip(whole, np.split(rgb, len(whole))))
        return painted

    def _paint_tiled(self, image, name, steps, draws, seed, tile):
        overlap = self.target_size // 4 if tile is None or tile is True else tile
        seeds = itertools.count(seed)
        paint = lambda tiles: self.predict_rgb(tiles, name, steps, next(seeds))
        return np.stack(
            [paint_tiles(paint, image, self.target_size, overlap) for _ in range(draws)]
        )

    def predict_rgb(
        self, images: np.ndarray, task: str | Sequence[str], steps: int | None = None, seed: int = 0
    ) -> np.ndarray:
        """What the model paints.

        Args:
          images: uint8 (b, h, w, 3), any size; resized to the size the model was trained with.
          task: name of a task, or one for each image; with one image, any number of them, for which it is encoded once.
          steps: denoising steps; None takes the config's.
          seed: of the noise, where the sampler starts from or adds any.

        Returns:
          float32 (b, s, s, 3) in about [-1, 1], s the model's target size.
        """
        images = np.stack([self._fit(image) for image in images])
        names = [task] * len(images) if isinstance(task, str) else task
        padded = next((n for n in BATCHES if n >= len(names)), BATCHES[-1])
        padded += -padded % self._devices
        parts = [slice(i, i + padded) for i in range(0, len(names), padded)]
        return np.concatenate(
            [
                self._predict_part(
                    images if len(images) == 1 else images[part],
                    names[part],
                    padded,
                    steps,
                    seed + i,
                )
                for i, part in enumerate(parts)
            ]
        )

    def _predict_part(self, images, names, padded, steps, seed):
        steps = self._diffusion["steps"] if steps is None else steps
        sampler = self._diffusion["sampler"]
        if sampler == "one_step" and steps > 1:
            sampler = "ddim"
        if len(images) > 1 or self._devices > 1:
            images = np.concatenate([images, np.repeat(images[-1:], padded - len(images), 0)])
        prompts = np.concatenate(
            [self.prompt(name) for name in [*names, *names[-1:] * (padded - len(names))]]
        )
        arguments = self.parameters, self._put(images), self._put(prompts), np.uint32(seed)
        with self._mesh():
            rgb = self._sample(
                *arguments, steps=steps, sampler=sampler, x_init=self._diffusion["x_init"]
            )
        return np.asarray(rgb)[: len(names)]

    def _fit(self, image):
        return resize_image(
            image, (self.image_size, self.image_size)
        )  # as the images of training were

    def prompt(self, task: str) -> np.ndarray:
        """Prompt tokens (1, n, d) of a task, computed once. Unknown names raise ValueError with the closest match."""
        if task not in self._prompts:
            (codec,) = get_tasks(self.config["tasks"]["set"], [task]).values()
            model = parameters_lib.merge(self._graphdef, self.parameters)
            self._prompts[task] = np.asarray(
                model.encode_text(jnp.asarray(prompt_ids(self.config, {task: codec})))
            )
        return self._prompts[task]


@functools.lru_cache(maxsize=8)
def _jit_sampler(
    config: str, graphdef, whole: NamedSharding | None = None
) -> Callable[..., jax.Array]:
    """The compiled sampler of a config, as JSON: the same for the models of one run, which are evaluated one after the other."""
    placed = {"out_shardings": whole} if whole else {}
    return jax.jit(make_sampler(json.loads(config), graphdef), static_argnames=SETTINGS, **placed)


def make_sampler(config: Mapping, graphdef) -> Callable[..., jax.Array]:
    """Builds `sample(parameters, images, text, seed, *, steps, sampler, x_init)` for a config and the graph definition of its model.

    images uint8 (b, S, S, 3), or one for all, text (b, n, d) prompt tokens -> RGB float32 (b, s, s, 3), s the model's target size.
    """
    settings, schedule = config["diffusion"], make_schedule(config)

    def sample(parameters, images, text, seed, *, steps, sampler, x_init):
        model = parameters_lib.merge(graphdef, parameters)
        image = images.astype(jnp.float32) / 127.5 - 1.0
        condition = model.encode(image, text)
        denoise = lambda x_t, t: model.denoise(x_t, t, condition)
        guidance = settings["guidance"]
        if guidance != 1.0:
            hidden = model.encode(image, text, keep_image=jnp.zeros(len(image)))
            denoise = lambda x_t, t: _guide(
                model.denoise(x_t, t, hidden), model.denoise(x_t, t, condition), guidance
            )
        first, noise = jax.random.split(jax.random.key(seed))
        x0 = diffusion.sample(
            denoise,
            diffusion.initial_noise(first, (len(text), *model.diffused_shape), x_init),
            schedule,
            settings["prediction_type"],
            sampler,
            steps,
            eta=settings["eta"],
            key=noise,
            clip=None if model.autoencoder else 1.0,
        )
        return model.to_rgb(x0)

    return sample


def _guide(without, with_image, guidance):
    """Classifier-free guidance (Ho & Salimans 2022) with weight 1 = none."""
    return without + guidance * (with_image - without)


def model_settings(config: Mapping) -> dict:
    """The arguments of `models.build` in a config."""
    settings = {
        name: value
        for name, value in config["model"].items()
        if name not in ("init_from", "adapt", "prompt_ids")
    }
    settings["unet"] = dict(settings["unet"], window=settings["unet"]["window"] or None)
    return settings


def prompt_ids(config: Mapping, tasks: Mapping[str, Task]) -> np.ndarray:
    """Ids (tasks, n) int32 of the prompts: those a published tokenizer gave at the start of training, else `tokenize`'s.

    Raises ValueError for a task that the model has no prompt for.
    """
    ids = config["model"].get("prompt_ids")
    if not ids:
        return tokenize([task.prompt for task in tasks.values()])
    if missing := [name for name in tasks if name not in ids]:
        raise ValueError(
            f"the model has no prompt for {', '.join(missing)}, only for {', '.join(ids)}"
        )
    return np.asarray([ids[name] for name in tasks], np.int32)


def make_schedule(config: Mapping):
    """The noise schedule of a config; the cosine one is shifted to the target's resolution (arXiv 2301.11093)."""
    name = config["diffusion"]["schedule"]
    if name == "cosine":
        return diffusion.CosineSchedule.for_resolution(config["model"]["target_size"])
    return diffusion.get_schedule(name)


def load(name_or_path: str | os.PathLike) -> Generalist:
    """A training workdir, a model folder, or the name of shipped weights ("scenes") -> Generalist.

    Raises WeightsError for a folder that is missing, damaged or does not fit, ValueError for codecs of another version.
    """
    config, parameters = weights.load_weights(name_or_path)
    generalist = Generalist(config, parameters)
    for name, version in json.loads(
        weights.read_metadata(name_or_path).get("codecs", "{}")
    ).items():
        if name in generalist.tasks:
            generalist.tasks[name].check_version(version)
    return generalist
