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
# Values that were called otherwise.
X_INIT = {"noise": "gaussian"}
# What the numbers of a list meant, before they had names.
TIMESTEPS = ("mean", "std", "p_pure_noise")
JITTER = ("brightness", "contrast", "saturation", "hue")


def rename_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a config, as nested plain dicts, with today's names of all fields."""
    config = _copy(config)

    for path, names in RENAMED.items():
        group = config
        for name in path:
            group = group.get(name, {})
        for old, new in names.items():
            if old in group:
                group[new] = group.pop(old)

    diffusion = config.get("diffusion", {})
    if "x_init" in diffusion:
        diffusion["x_init"] = X_INIT.get(diffusion["x_init"], diffusion["x_init"])

    timesteps = config.get("tasks", {}).get("timesteps", {})
    for task, numbers in timesteps.items():
        timesteps[task] = _named(TIMESTEPS, numbers)

    # One split was measured, during training and at its end.
    evaluation = config.get("eval", {})
    if "split" in evaluation:
        evaluation.setdefault("final_split", evaluation["split"])

    augment = config.get("data", {}).get("augment", {})
    if "jitter" in augment:
        augment["jitter"] = _named(JITTER, augment["jitter"])
    return config


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    return value


def _named(names: tuple[str, ...], numbers: Any) -> Any:
    """Gives the numbers of a list their names; what has names already stays."""
    if isinstance(numbers, Mapping):
        return numbers
    return dict(zip(names, numbers, strict=True))
