"""What the fields of a config may hold, checked before anything is built of them.

A config comes from a file, a command line, or the config.json of somebody else's model folder: each
field is there, is of its kind, and is of a size that can be meant. What goes together in the other
rooms (names of samplers, patterns that match nothing) is checked there.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from generalist.models.autoencoder import Autoencoder
from generalist.models.t5_encoder import T5Encoder
from generalist.models.text_encoder import TextEncoder
from generalist.models.unet import UNet
from generalist.models.vision_transformer import ACTIVATIONS, VisionTransformer
from generalist.names import did_you_mean, one_of

# Far beyond what anyone trains, and far below what takes all memory before the first message.
MOST_STEPS = 2**31 - 1  # the step is an int32
MOST_EXAMPLES = 2**20  # in a batch
MOST_PIXELS = 2**14  # on a side
MOST_THREADS = 2**10
MOST_WIDTH = 2**20  # of a layer
MOST_LAYERS = 2**10


class Rule(NamedTuple):
    """What a field may hold.

    Attributes:
      is_valid: value of JSON's types -> whether it is allowed.
      allowed: what is, for people.
    """

    is_valid: Callable[[Any], bool]
    allowed: str


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _whole(least: int, most: int) -> Rule:
    def is_valid(value: Any) -> bool:
        return _is_whole(value) and least <= value <= most

    return Rule(is_valid, f"a whole number of at least {least} and at most {most}")


def _number(least: float, most: float) -> Rule:
    def is_valid(value: Any) -> bool:
        return _is_number(value) and least <= value <= most

    return Rule(is_valid, f"a number of at least {least:g} and at most {most:g}")


def _below(least: float, limit: float) -> Rule:
    def is_valid(value: Any) -> bool:
        return _is_number(value) and least <= value < limit

    return Rule(is_valid, f"a number of at least {least:g} and below {limit:g}")


def _above(limit: float, most: float) -> Rule:
    def is_valid(value: Any) -> bool:
        return _is_number(value) and limit < value <= most

    return Rule(is_valid, f"a number above {limit:g} and at most {most:g}")


def _choice(*names: str) -> Rule:
    return Rule(lambda value: value in names, f"one of {', '.join(names)}")


def _several(rule: Rule, least: int, most: int, example: str) -> Rule:
    """A list whose elements follow a rule."""

    def is_valid(value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and least <= len(value) <= most
            and all(map(rule.is_valid, value))
        )

    count = ""
    if most < math.inf:
        count = f"{least} " if least == most else f"{least} to {most} "
    return Rule(is_valid, f"{count}values in brackets, each {rule.allowed}, such as {example}")


def _rows(rule: Rule, example: str) -> Rule:
    """A list of pairs: a pattern, and a value that follows a rule."""

    def is_valid(value: Any) -> bool:
        return isinstance(value, list | tuple) and all(
            isinstance(row, list | tuple)
            and len(row) == 2
            and _is_pattern(row[0])
            and rule.is_valid(row[1])
            for row in value
        )

    return Rule(is_valid, f"rows (pattern, {rule.allowed}), such as {example}")


def _is_pattern(value: Any) -> bool:
    """Says whether Python reads a value as a regular expression."""
    try:
        re.compile(value)
    except (TypeError, re.error, OverflowError, RecursionError):
        return False
    return isinstance(value, str)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    """Says whether a value can be part of a file's name: results are named after tasks."""
    return (
        _is_text(value) and re.fullmatch(r"[^./\\\x00-\x1f:][^/\\\x00-\x1f:]*", value) is not None
    )


_FLAG = Rule(lambda value: isinstance(value, bool), "True or False")
_TEXT = Rule(_is_text, "a text")
_GROUP = Rule(lambda value: isinstance(value, Mapping), "a group of fields")
_NAME = Rule(_is_name, "a name without / or \\")
_NAMES = _several(_NAME, 0, math.inf, "('depth',)")
_PATTERN = Rule(_is_pattern, "a pattern that Python's re reads")
_PATTERNS = _several(_PATTERN, 0, math.inf, "('^unet',)")
_PROBABILITY = _number(0, 1)
_EVERY_STEPS = _whole(0, MOST_STEPS)  # 0 is never
_AXIS = Rule(lambda value: value is None or _is_whole(value), "axis or None")
_COLOR = _several(_number(-1e3, 1e3), 3, 3, "(0.5, 0.5, 0.5)")
_SPREAD = _several(_above(0, 1e3), 3, 3, "(0.5, 0.5, 0.5)")

# By field; * stands for every name of a group.
RULES: Mapping[str, Rule] = {
    "seed": _whole(0, 2**31 - 1),  # from 2^32 on JAX would take it for another
    "total_steps": _whole(1, MOST_STEPS),
    "batch_size": _whole(1, MOST_EXAMPLES),
    "data_dir": _TEXT,
    "tasks.weights.*": _number(0, 1e6),
    "tasks.loss_weights.*": _number(0, 1e6),
    "tasks.timesteps.*.mean": _number(-1e3, 1e3),
    "tasks.timesteps.*.std": _above(0, 1e3),
    "tasks.timesteps.*.p_pure_noise": _PROBABILITY,
    "data.source": _choice("paper", "folder", "scenes"),
    "data.image_size": _whole(1, MOST_PIXELS),
    "data.threads": _whole(1, MOST_THREADS),
    "data.workers": _whole(0, MOST_THREADS),
    "data.prefetch": _whole(1, MOST_THREADS),
    "data.on_error": _choice("raise", "skip"),
    "data.scenes_train": _whole(0, MOST_STEPS),
    "data.scenes_size": _whole(1, MOST_PIXELS),
    "data.scenes_seed": _whole(-1, 2**31 - 1),  # -1 is the run's
    "data.scenes_captions": _choice("own", "others"),
    "data.augment.tasks": _NAMES,
    "data.augment.scale": _several(_above(0, 1), 2, 2, "(0.3, 1.0)"),
    "data.augment.ratio": _several(_above(0, 1e3), 2, 2, "(0.75, 1.33)"),
    "data.augment.flip": _PROBABILITY,
    "data.augment.native": _PROBABILITY,
    "data.augment.jitter.*": _number(0, 1),
    "data.augment.jitter_probability": _PROBABILITY,
    "model.init_from": _TEXT,
    "model.adapt.conv": _TEXT,
    "model.adapt.image": _TEXT,
    "model.adapt.new": _PATTERNS,
    "model.dtype": _TEXT,
    "model.remat": _TEXT,
    "model.target_size": _whole(1, MOST_PIXELS),
    "model.concatenate_image": _FLAG,
    "model.aligned_features": _FLAG,
    "model.pooled_text": _FLAG,
    "model.image_mean": _COLOR,
    "model.image_std": _SPREAD,
    "model.prompt_ids": _GROUP,
    "model.autoencoder": _GROUP,
    "diffusion.schedule": _TEXT,
    "diffusion.prediction_type": _TEXT,
    "diffusion.loss_weight": _TEXT,
    "diffusion.x_init": _TEXT,
    "diffusion.drop_image": _below(0, 1),
    "diffusion.drop_text": _below(0, 1),
    "diffusion.prototype_weight": _number(0, 1e6),
    "diffusion.prototype_temperature": _number(0, 1e6),
    "diffusion.unet_time": _TEXT,
    "diffusion.sampler": _TEXT,
    "diffusion.steps": _whole(1, 10_000),
    "diffusion.eta": _number(0, 1),
    "diffusion.guidance": _number(0, 1e6),
    "diffusion.samples": _whole(1, 10_000),
    "optimizer.lr": _number(0, 1e18),  # one that diverges is named by its step
    "optimizer.schedule": _TEXT,
    "optimizer.warmup_steps": _whole(0, MOST_STEPS),
    "optimizer.decay_fraction": _number(0, 1),
    "optimizer.b1": _below(0, 1),
    "optimizer.b2": _below(0, 1),
    "optimizer.mu_dtype": _choice("float32", "bfloat16"),
    "optimizer.muon": _PATTERNS,
    "optimizer.clip": _above(0, 1e9),
    "optimizer.weight_decay": _number(0, 1e3),
    "optimizer.weight_decay_on": _PATTERNS,
    "optimizer.lr_multipliers": _rows(_number(0, 1e6), "(('^unet', 0.1),)"),
    "optimizer.frozen": _PATTERNS,
    "optimizer.ema": _below(0, 1),
    "optimizer.accum_steps": _whole(1, MOST_EXAMPLES),
    "sharding.fsdp": _whole(1, MOST_EXAMPLES),
    "sharding.min_size": _whole(0, 2**60),
    "sharding.rules": _rows(_AXIS, "(('^parameters/unet', 0),)"),
    "sharding.cpu_devices": _whole(0, MOST_THREADS),
    "checkpoint.every_minutes": _number(0, 1e6),  # 0 is never
    "checkpoint.every_steps": _EVERY_STEPS,
    "checkpoint.keep": _whole(1, MOST_STEPS),
    "eval.every_steps": _EVERY_STEPS,
    "eval.batch_size": _whole(1, MOST_EXAMPLES),
    "eval.examples": _whole(0, MOST_STEPS),
    "eval.before": _FLAG,
    "eval.final_examples": _whole(0, MOST_STEPS),
    "eval.panels": _whole(0, MOST_EXAMPLES),
    "eval.split": _TEXT,
    "eval.final_split": _TEXT,
    "eval.tasks": _NAMES,
    "log.every_steps": _EVERY_STEPS,
}

# Parts of the model, by the group that has their arguments.
PARTS = {"unet": UNet, "image_encoder": VisionTransformer, "autoencoder": Autoencoder}
TEXT_ENCODERS = {"transformer": TextEncoder, "t5": T5Encoder}
FILLED_IN = ("rngs", "dtype", "remat", "in_channels", "out_channels", "aligned", "pooled_text")
# Arguments whose 0 stands for none.
MAY_BE_ZERO = ("heads", "head_dim", "window", "refine", "registers")
LAYERS = ("depth", "layers_per_block")


def check_fields(settings: Any) -> None:
    """Checks every field of a config by itself.

    Args:
      settings: nested dicts of JSON's types.

    Raises:
      ValueError: names a field that is missing, or one with its value and what is allowed.
    """
    for path, rule in RULES.items():
        for field, value in _find(settings, path.split(".")):
            check(field, value, rule)

    # A task without its numbers would be a KeyError in the middle of things.
    tasks = settings["tasks"]
    for name, weight in tasks["weights"].items():
        for group in ("loss_weights", "timesteps"):
            if weight and name not in tasks[group]:
                raise ValueError(
                    f"the config has no field tasks.{group}.{name}, which trains by its weight "
                    f"{weight}: give it one, or the weight 0"
                )

    # Own tasks are named by whoever wrote the config.
    task_set = tasks.get("set")
    if isinstance(task_set, Mapping):
        for name in task_set:
            check(f"tasks.set has the task {name!r}, tasks", name, _NAME)
    else:
        check("tasks.set", task_set, Rule(_is_text, "a text, or definitions of own tasks by name"))


def _find(settings: Any, path: Sequence[str], field: str = "") -> list[tuple[str, Any]]:
    """Returns (field, value) of all fields of a path; ValueError if one is missing."""
    if not path:
        return [(field, settings)]
    if not isinstance(settings, Mapping):
        raise ValueError(
            f"the config's {field or 'content'} is {_short(settings)}: allowed is a group of fields"
        )

    name, *rest = path
    if name != "*" and name not in settings:
        raise ValueError(
            f"the config has no field {f'{field}.{name}'.lstrip('.')}: it is no config of this "
            "program, or one that lost a part"
        )
    found = []
    for one in settings if name == "*" else [name]:
        found += _find(settings[one], rest, f"{field}.{one}".lstrip("."))
    return found


def check(field: str, value: Any, rule: Rule) -> None:
    """Checks a value; raises ValueError with the field, the value and what is allowed."""
    if not rule.is_valid(value):
        raise ValueError(f"{field}={_short(value)}: allowed is {rule.allowed}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def check_model(model: Mapping[str, Any]) -> None:
    """Checks the `model` group of a config: its parts, and that they fit the target's size.

    Args:
      model: the group as plain dicts, with the sizes of published parts settled.

    Raises:
      ValueError: names the field, its value and what is allowed.
    """
    for group, module in PARTS.items():
        # Without an autoencoder the model paints pixels.
        if model.get(group) != {}:
            _check_arguments(f"model.{group}", model.get(group), module)

    text_encoder = model.get("text_encoder")
    kind = "transformer"
    if isinstance(text_encoder, Mapping):
        text_encoder = dict(text_encoder)
        kind = text_encoder.pop("kind", kind)
    one_of(kind, TEXT_ENCODERS, "model.text_encoder.kind")
    _check_arguments("model.text_encoder", text_encoder, TEXT_ENCODERS[kind])

    _check_unet(model["unet"])
    for group in ("image_encoder", "text_encoder"):
        if group == "image_encoder" or kind != "t5":
            _check_divides(f"model.{group}", model[group]["heads"], model[group]["dim"])
    _check_target_size(model)
    _check_prompt_ids(model)


def _check_arguments(group: str, settings: Any, module: type) -> None:
    """Checks the arguments of a part by the defaults of its class."""
    check(group, settings, _GROUP)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(module.__init__).parameters.items()
        if parameter.default is not parameter.empty and name not in FILLED_IN
    }

    for name, value in settings.items():
        if name not in defaults:
            raise ValueError(
                f"{module.__name__} has no field {group}.{name}.{did_you_mean(name, defaults)} "
                f"Allowed: {', '.join(defaults)}"
            )
        check(f"{group}.{name}", value, _rule_like(name, defaults[name]))

    # Those that other parts of the model are sized by.
    needed = {"unet": ("context_dim",), "autoencoder": ("latent_channels", "channels")}
    for name in needed.get(group.removeprefix("model."), ("dim", "heads")):
        if name not in settings:
            raise ValueError(f"the config has no field {group}.{name}: give it a value")


def _rule_like(name: str, default: Any) -> Rule:
    """Returns the rule of an argument, by its default."""
    if name == "activation":
        return _choice(*ACTIVATIONS)
    if isinstance(default, bool):
        return _FLAG
    if isinstance(default, str):
        return _TEXT
    if isinstance(default, float):
        return _above(0, 1e6)
    if isinstance(default, tuple):
        return _several(_rule_like("", default[0]), 1, 16, str(default))

    most = MOST_LAYERS if name in LAYERS else MOST_WIDTH
    rule = _whole(0 if name in MAY_BE_ZERO else 1, most)
    if default is None:
        return Rule(lambda value: value is None or rule.is_valid(value), f"None, or {rule.allowed}")
    return rule


def _check_unet(unet: Mapping[str, Any]) -> None:
    """Checks that the widths of the UNet's levels can be split."""
    defaults = inspect.signature(UNet.__init__).parameters
    full = {name: unet.get(name, defaults[name].default) for name in defaults if name != "self"}
    channels = full["channels"]
    if len(full["attention_levels"]) != len(channels):
        raise ValueError(
            f"model.unet.attention_levels={full['attention_levels']} is for other levels than "
            f"model.unet.channels={channels}: give one True or False a level"
        )
    for width in channels:
        if width % full["groups"]:
            raise ValueError(
                f"model.unet.groups={full['groups']} does not divide the width {width} of "
                f"model.unet.channels={channels}"
            )

    # The middle block attends whatever the levels do.
    attending = [
        width for width, attends in zip(channels, full["attention_levels"], strict=True) if attends
    ]
    for width in (*attending, channels[-1]):
        if full["heads"]:
            _check_divides("model.unet", full["heads"], width)
        elif not full["head_dim"] or width % full["head_dim"]:
            raise ValueError(
                f"model.unet.head_dim={full['head_dim']} does not divide the width {width} of "
                f"model.unet.channels={channels}"
            )


def _check_divides(group: str, heads: int, width: int) -> None:
    if not heads or width % heads:
        raise ValueError(f"{group}.heads={heads} does not divide the width {width}")


def _check_target_size(model: Mapping[str, Any]) -> None:
    """Checks that the target can be cut into patches and halved, once a level but the last."""
    unet = model["unet"]
    levels = len(unet.get("channels", ()) or inspect.signature(UNet).parameters["channels"].default)
    divisor = unet.get("patch", 1) * 2 ** (levels - 1)
    # The last residual works on blocks of 2x2.
    divisor = math.lcm(divisor, 2 if unet.get("refine") else 1)
    if model.get("autoencoder"):
        divisor *= 2 ** (len(model["autoencoder"]["channels"]) - 1)

    size = model["target_size"]
    if size % divisor:
        lower = size // divisor * divisor
        nearest = f"{lower} or {lower + divisor}" if lower else str(divisor)
        raise ValueError(
            f"model.target_size={size}: the UNet's patches and its {levels} levels need a multiple "
            f"of {divisor}, such as {nearest}"
        )


def _check_prompt_ids(model: Mapping[str, Any]) -> None:
    """Checks the ids of a published tokenizer: one beyond the vocabulary would become nan."""
    prompts = model["prompt_ids"]
    module = TEXT_ENCODERS[model["text_encoder"].get("kind", "transformer")]
    default = inspect.signature(module.__init__).parameters["vocabulary"].default
    vocabulary = model["text_encoder"].get("vocabulary", default)
    ids = _several(_whole(0, vocabulary - 1), 1, MOST_LAYERS, "(49406, 1, 49407)")
    for field, value in _find(prompts, ["*"], "model.prompt_ids"):
        check(field, value, ids)
    if len({len(value) for value in prompts.values()}) > 1:
        raise ValueError("model.prompt_ids are of several lengths: all tasks have the same")
