"""What a config says, read and checked once, before any array exists.

Training, `--mode=compile`, evaluation and prediction begin with `Recipe.from_config`.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from generalist import diffusion
from generalist.config_checks import check_fields, check_model
from generalist.diffusion.combinations import check_combination
from generalist.diffusion.objective import Objective
from generalist.diffusion.schedules import Schedule
from generalist.diffusion.unet_time import UNET_TIMES
from generalist.models.text_encoder import LENGTH, VOCABULARY, tokenize
from generalist.names import one_of
from generalist.pretrained import parts, tokenizer
from generalist.tasks import Task, get_tasks

FULL_RATE = [r"^image_encoder\.", 1.0]  # row of `optimizer.lr_multipliers`

# From this share of samples at pure noise on, a model has hardly learned any other noise level.
MOSTLY_PURE_NOISE = 0.85

# Fields of the `model` group that say where weights come from, not what the model is.
NOT_OF_THE_MODEL = ("init_from", "adapt", "prompt_ids")


class TimestepDistribution(NamedTuple):
    """A task's distribution of t, see `diffusion.sample_timesteps`."""

    mean: float
    std: float
    p_pure_noise: float


class Sampling(NamedTuple):
    """How the model is sampled, see `diffusion.sample`."""

    sampler: str  # "one_step", "ddim", "dpmpp_2m"
    steps: int
    x_init: str  # "zeros", "gaussian"
    eta: float
    guidance: float  # 1 is off
    samples: int  # that are combined to one answer, see `Task.decode_samples`

    @property
    def stochastic(self) -> bool:
        """Whether the seed matters."""
        return self.x_init == "gaussian" or self.eta > 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a config says."""

    config: Any  # a FrozenConfigDict of every field, as `config.json` holds them
    known_tasks: Mapping[str, Task]  # all tasks of the set
    tasks: Mapping[str, Task]  # those that are trained; their order is that of a batch's `task`
    evaluated: Mapping[str, Task]
    model: Mapping[str, Any]  # the arguments of `models.build`, nothing else
    frozen: tuple[str, ...]  # path regexes of the parameters that do not learn
    schedule: Schedule
    prediction_type: str  # "x0", "v" or "eps"
    unet_time: str  # "linear", "equal_logsnr" or "clean"
    timesteps: Mapping[str, TimestepDistribution]  # by trained task
    sampling: Sampling

    @classmethod
    def from_config(
        cls,
        config: ConfigDict | Mapping[str, Any],
        published: Mapping[str, parts.PublishedModel] | None = None,
    ) -> "Recipe":
        """Reads a config and checks everything that would otherwise fail late.

        Args:
          config: with the fields of configs/common.py.
          published: what `model.init_from` names, from `parts.read_parts`; the sizes of the model,
            its prompts' ids and its image normalization then follow from them.

        Raises:
          ValueError: a field that is missing or of another kind, an unknown name, a combination
            that cannot work, or nothing to train or to evaluate; the message says what to choose.
        """
        settings = _plain(config)
        check_fields(settings)
        known_tasks = get_tasks(settings["tasks"]["set"])
        tasks = _trained_tasks(settings)
        evaluated = _evaluated_tasks(settings, tasks)

        # What is not trained is not part of the run: its config does not name it.
        weights = settings["tasks"]["weights"]
        settings["tasks"]["weights"] = {name: weights[name] for name in tasks}
        settings["eval"]["tasks"] = tuple(evaluated)
        settings["optimizer"]["lr_multipliers"] = _lr_multipliers(settings, published)
        if published:
            settings["model"] = _settle(settings["model"], published, tasks)
        check_model(settings["model"])

        get_tasks(settings["tasks"]["set"], settings["data"]["augment"]["tasks"])
        timesteps = {}
        for name in tasks:
            numbers = settings["tasks"]["timesteps"][name]
            floats = {field: float(numbers[field]) for field in TimestepDistribution._fields}
            timesteps[name] = TimestepDistribution(**floats)
        for distribution in timesteps.values():
            diffusion.check_timestep_distribution(*distribution)

        schedule = _schedule(settings)
        choices = settings["diffusion"]
        choices["unet_time"] = _unet_time(choices["unet_time"], published)
        p_pure_noise = [distribution.p_pure_noise for distribution in timesteps.values()]
        sees_image = [task.sees_image for task in tasks.values()]
        check_combination(choices, schedule, p_pure_noise, sees_image)
        if choices["prototype_weight"] and settings["model"]["autoencoder"]:
            raise ValueError(
                f"diffusion.prototype_weight {choices['prototype_weight']} compares colors, which "
                "latents do not have: set it to 0"
            )
        return cls(
            config=FrozenConfigDict(settings),
            known_tasks=known_tasks,
            tasks=tasks,
            evaluated=evaluated,
            model=model_arguments(settings["model"]),
            frozen=_frozen(settings),
            schedule=schedule,
            prediction_type=choices["prediction_type"],
            unet_time=choices["unet_time"],
            timesteps=timesteps,
            sampling=Sampling(**{field: choices[field] for field in Sampling._fields}),
        )

    def select(self, names: Iterable[str]) -> dict[str, Task]:
        """Returns tasks of the set by name.

        Raises ValueError for an unknown one, with the closest match.
        """
        task_set = self.config.tasks.set
        what = f"task of the set '{task_set}'" if isinstance(task_set, str) else "own task"
        return {name: self.known_tasks[one_of(name, self.known_tasks, what)] for name in names}

    def to_json(self) -> str:
        """Returns the content of `config.json`."""
        return json.dumps(self.config.to_dict(), indent=1)

    @property
    def mostly_pure_noise(self) -> bool:
        """Whether training shows hardly any noise level but t = 1: a regressor, or nearly one."""
        return self._pure_noise_share() >= MOSTLY_PURE_NOISE

    def learned(self) -> str:
        """Says in a few words which noise levels the model was trained at, and what that is for."""
        share = self._pure_noise_share()
        if share == 1.0:
            return "trained at pure noise only, a regressor: one step is what it learned"
        percent = f"{100 * share:.0f} %"
        if self.mostly_pure_noise:
            return (
                f"trained at pure noise in {percent} of the samples, nearly a regressor: one step "
                "is what it learned"
            )
        return f"trained at all noise levels, {percent} of the samples at t = 1: one step or more"

    def trained_for(self) -> str:
        """Returns a line for people: `learned`, and how the config samples."""
        sampling = self.sampling
        steps = "1 step" if sampling.steps == 1 else f"{sampling.steps} steps"
        return f"{self.learned()}; {sampling.sampler} takes {steps} from {sampling.x_init}"

    def _pure_noise_share(self) -> float:
        """The share of the training samples at t = 1."""
        weights = self.config.tasks.weights
        pure = sum(weights[name] * self.timesteps[name].p_pure_noise for name in self.tasks)
        return pure / sum(weights[name] for name in self.tasks)

    @property
    def own_prompts(self) -> bool:
        """Whether examples of a trained task have prompts of their own."""
        return any(task.own_prompts for task in self.tasks.values())

    def tokenizer(self, folder: str | pathlib.Path) -> Callable[..., np.ndarray]:
        """Returns what turns prompts into ids: (prompts, cut=False) -> int32 (k, n).

        A prompt that is too long is a ValueError, or with `cut` loses its end.

        Args:
          folder: of the run or model, which has the files of a published tokenizer.

        Raises:
          WeightsError: it has not, or they are damaged or another text encoder's.
        """
        model = self.config.model
        if not model.prompt_ids:
            return functools.partial(tokenize, length=model.text_encoder.get("length", LENGTH))

        # T5 takes any number of ids; all prompts of a model have the same.
        ids = next(iter(model.prompt_ids.values()))
        folder = pathlib.Path(folder) / tokenizer.FOLDER
        own = tokenizer.read_tokenizer(folder, model.text_encoder.get("length"))
        own.check_vocabulary(model.text_encoder.get("vocabulary", VOCABULARY))
        return dataclasses.replace(own, length=len(ids))

    def prompt_ids(self, tasks: Iterable[str] | None = None) -> np.ndarray:
        """Returns the token ids of the tasks' prompts, int32 (tasks, n).

        They are those that a published tokenizer gave at the start of training, else `tokenize`'s.

        Args:
          tasks: names; None takes the trained tasks, in their order.

        Raises:
          ValueError: the model has no prompt for a task.
        """
        names = list(self.tasks if tasks is None else tasks)
        published = self.config.model.prompt_ids
        if not published:
            length = self.config.model.text_encoder.get("length", LENGTH)
            return tokenize([self.known_tasks[name].prompt for name in names], length)

        missing = [name for name in names if name not in published]
        if missing:
            raise ValueError(
                f"the model has no prompt for {', '.join(missing)}, only for {', '.join(published)}"
            )
        return np.asarray([published[name] for name in names], np.int32)

    def objective(self, prompts: np.ndarray) -> Objective:
        """Returns what the model is trained to do.

        Args:
          prompts: float32 (tasks, n, d), tokens of the frozen text encoder for `prompt_ids()`.
        """
        choices = self.config.diffusion
        distributions = np.asarray(list(self.timesteps.values()), np.float32)
        loss_weights = [self.config.tasks.loss_weights[name] for name in self.tasks]
        sees_image = [task.sees_image for task in self.tasks.values()]
        palettes = {}
        if choices.prototype_weight:
            for index, task in enumerate(self.tasks.values()):
                if task.palette is not None:
                    palettes[index] = jnp.asarray(task.palette / 127.5 - 1.0)

        return Objective(
            schedule=self.schedule,
            prediction_type=self.prediction_type,
            loss_weight=choices.loss_weight,
            x_init=self.sampling.x_init,
            mean=jnp.asarray(distributions[:, 0]),
            std=jnp.asarray(distributions[:, 1]),
            p_pure_noise=jnp.asarray(distributions[:, 2]),
            task_weight=jnp.asarray(loss_weights, jnp.float32),
            prompts=jnp.asarray(prompts),
            drop_image=choices.drop_image,
            drop_text=choices.drop_text,
            palettes=palettes,
            prototype_weight=choices.prototype_weight,
            prototype_temperature=choices.prototype_temperature,
            latent=bool(self.config.model.autoencoder),
            unet_time=self.unet_time,
            sees_image=None if all(sees_image) else jnp.asarray(sees_image, jnp.float32),
        )


def _plain(config: Any) -> dict[str, Any]:
    """Nested plain dicts of JSON's types, a copy; references are resolved."""
    if isinstance(config, ConfigDict):
        config = config.copy_and_resolve_references().to_dict()
    try:
        return json.loads(json.dumps(config, sort_keys=True))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"the config holds what JSON cannot: {error}") from error


def _trained_tasks(settings: Mapping) -> dict[str, Task]:
    """The tasks of a weight above 0. ValueError for an unknown task, whatever its weight."""
    weights = settings["tasks"]["weights"]
    tasks = get_tasks(settings["tasks"]["set"], weights)
    return {name: task for name, task in tasks.items() if weights[name] > 0}


def _evaluated_tasks(settings: Mapping, trained: Mapping[str, Task]) -> dict[str, Task]:
    """The tasks of `eval.tasks` whose components are all trained."""
    wanted = get_tasks(settings["tasks"]["set"], settings["eval"]["tasks"])
    evaluated = {}
    for name, task in wanted.items():
        if set(task.components or (name,)) <= trained.keys():
            evaluated[name] = task

    if not evaluated:
        raise ValueError(
            f"nothing to evaluate: eval.tasks are {', '.join(wanted)}, trained are "
            f"{', '.join(trained) or 'none'}. Give a task a weight above 0 in tasks.weights, "
            "or name a trained one in eval.tasks."
        )
    return evaluated


def _settle(model: Mapping, published: Mapping, tasks: Mapping[str, Task]) -> dict:
    """The `model` group with the sizes and the tokenizer of published parts."""
    prompts = {name: task.prompt for name, task in tasks.items()}
    own_prompts = any(task.own_prompts for task in tasks.values())
    return parts.settle(model, published, prompts, own_prompts)


def model_arguments(model: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `models.build` in the `model` group of a config."""
    arguments = {name: value for name, value in model.items() if name not in NOT_OF_THE_MODEL}
    # A config cannot hold "a number or None" in one field: 0 stands for no window.
    arguments["unet"] = {**model["unet"], "window": model["unet"].get("window") or None}
    return arguments


def _frozen(settings: Mapping) -> tuple[str, ...]:
    """The config's own, and what is never trained whatever the config says.

    Prompts are encoded once, and a resumed run encodes them again: the text encoder must not have
    changed. An autoencoder's latents are the data.
    """
    always = [r"^text_encoder\."]
    if settings["model"]["autoencoder"]:
        always.append(r"^autoencoder\.")
    return (*settings["optimizer"]["frozen"], *always)


def _lr_multipliers(settings: Mapping, published: Mapping | None) -> list:
    """Those of the config, behind the full rate of an image encoder that starts from nothing.

    A run that is continued or used has no published models any more, and has kept what was decided.
    """
    rows = settings["optimizer"]["lr_multipliers"]
    starts_new = not settings["model"]["init_from"]
    if published:
        starts_new = "image_encoder" not in published
    # The first match wins, so that a row that also names other parts keeps its word on those.
    if not starts_new or not rows or rows[0] == FULL_RATE:
        return rows
    return [FULL_RATE, *rows]


def _unet_time(name: str, published: Mapping | None) -> str:
    """The config's choice; "auto" is that of equal logSNR for a published UNet.

    A run that is continued or used has no "auto" any more.
    """
    one_of(name, ("auto", *UNET_TIMES), "diffusion.unet_time")
    if name == "auto":
        return "equal_logsnr" if published and "unet" in published else "linear"
    return name


def _schedule(settings: Mapping) -> Schedule:
    """The cosine schedule is shifted to the target's resolution (arXiv 2301.11093)."""
    name = one_of(settings["diffusion"]["schedule"], diffusion.SCHEDULES, "diffusion.schedule")
    if name == "cosine":
        return diffusion.CosineSchedule.for_resolution(settings["model"]["target_size"])
    return diffusion.get_schedule(name)
