"""Configs of earlier releases: the one place that knows how fields were called before.

A `config.json` that an earlier release wrote (that of the shipped weights is one) is read through
`rename_fields`; everything after it knows only today's names.
"""

from collections.abc import Mapping
from typing import Any

# {group: {old field: today's}}
RENAMED = {
    ("diffusion",): {"prediction": "prediction_type", "start": "x_init"},
    ("optimizer",): {"accumulate": "accum_steps"},
    ("data", "augment"): {"jitter_share": "jitter_probability"},
}
# What the numbers of a list meant, before they had names.
TIMESTEPS = ("mean", "std", "p_pure_noise")
JITTER = ("brightness", "contrast", "saturation", "hue")


def rename_fields(config: Any) -> Any:
    """Returns a copy of a config, as nested plain dicts, with today's names of all fields.

    What is no config stays what it is, for `Recipe.from_config` to refuse.
    """
    config = _copy(config)

    for path, names in RENAMED.items():
        group = _group(config, *path)
        for old, new in names.items():
            if old in group:
                group[new] = group.pop(old)

    diffusion = _group(config, "diffusion")
    if diffusion.get("x_init") == "noise":
        diffusion["x_init"] = "gaussian"
    if diffusion:
        diffusion.setdefault("unet_time", "linear")
        diffusion.setdefault("samples", 1)

    _fill_in_model(config)
    timesteps = _group(config, "tasks", "timesteps")
    for task, numbers in timesteps.items():
        timesteps[task] = _named(TIMESTEPS, numbers)

    # One split was measured, during training and at its end.
    evaluation = _group(config, "eval")
    if "split" in evaluation:
        evaluation.setdefault("final_split", evaluation["split"])
        evaluation.setdefault("before", False)

    # Checkpoints came by steps alone.
    checkpoint = _group(config, "checkpoint")
    if checkpoint:
        checkpoint.setdefault("every_minutes", 0.0)

    _fill_in_data(config)
    return config


def _fill_in_data(config: Any) -> None:
    """Gives the data what they were before there was a choice."""
    # The scenes were of the run's seed, and their captions true.
    data = _group(config, "data")
    if data:
        data.setdefault("scenes_seed", -1)
        data.setdefault("scenes_captions", "own")

    # Restoration saw no windows in stored pixels.
    augment = _group(config, "data", "augment")
    if "jitter" in augment:
        augment["jitter"] = _named(JITTER, augment["jitter"])
        augment.setdefault("native", 0.0)


def _fill_in_model(config: Any) -> None:
    """Gives the model what it had before there was a choice."""
    # A concatenated image began without influence.
    adapt = _group(config, "model", "adapt")
    if adapt:
        adapt.setdefault("image", "zero")

    # Hashed words had one number of positions.
    text_encoder = _group(config, "model", "text_encoder")
    if text_encoder and text_encoder.get("kind") != "t5":
        text_encoder.setdefault("length", 8)


def _group(config: Any, *path: str) -> dict[str, Any]:
    """Returns a group of fields; an empty one where the config, which is not checked, has none."""
    group = config
    for name in path:
        group = group.get(name) if isinstance(group, dict) else None
    return group if isinstance(group, dict) else {}


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    return value


def _named(names: tuple[str, ...], numbers: Any) -> Any:
    """Gives the numbers of a list their names; anything else stays."""
    if not isinstance(numbers, list | tuple) or len(numbers) != len(names):
        return numbers
    return dict(zip(names, numbers, strict=True))
