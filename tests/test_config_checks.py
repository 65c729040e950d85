"""Promise: a config is used or refused with one message, before anything is built of it."""

import json
import math

import pytest

from generalist.config_checks import RULES, check_model
from generalist.configs import common
from generalist.recipe import Recipe
from generalist.training.due import is_due
from generalist.training.workdir import flatten

PARTS = ("model.unet.", "model.image_encoder.", "model.text_encoder.", "model.autoencoder.")
UNUSED = {"tasks.set"}  # checked apart

# What a slip on the command line, or a config.json from elsewhere, may hold.
ODD_VALUES = (
    None,
    True,
    0,
    -1,
    1,
    50,
    2**31,
    10**400,
    0.5,
    -1e-9,
    1e308,
    math.nan,
    math.inf,
    "",
    "(",
    "\ud800",
    [],
    ["("],
    [None],
    [0.5, 0.5],
    [["^unet", 0.1]],
    ["^unet", 0.1],
    [[[]]],
    {},
    {"a": 1},
)


@pytest.fixture
def settings():
    """A config as nested plain dicts, yours to change."""
    return json.loads(Recipe.from_config(common.get_config("scenes,tiny")).to_json())


def replace(settings, field, value):
    *groups, name = field.split(".")
    for group in groups:
        settings = settings[group]
    settings[name] = value


def test_every_field_has_a_rule():
    config = common.full_size().to_dict()
    config["tasks"] = {group: config["tasks"][group] for group in config["tasks"]}
    patterns = {tuple(path.split(".")) for path in RULES}

    def has_rule(field):
        names = field.split(".")
        return any(
            len(names) == len(pattern)
            and all(one in ("*", name) for one, name in zip(pattern, names, strict=True))
            for pattern in patterns
        )

    fields = {field for field in flatten(config) if not field.startswith(PARTS)}
    assert {field for field in fields if not has_rule(field)} == UNUSED
    assert len(fields) > 80


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("checkpoint.keep", 0, "checkpoint.keep=0: allowed is a whole number of at least 1"),
        ("checkpoint.every_steps", -1, "checkpoint.every_steps=-1: allowed is a whole number"),
        ("batch_size", 0, "batch_size=0: allowed is a whole number of at least 1 and at most"),
        ("batch_size", 10**12, "batch_size=1000000000000: allowed"),
        ("batch_size", True, "batch_size=True: allowed"),
        ("seed", 2**32, "seed=4294967296: allowed is a whole number of at least 0 and at most"),
        ("total_steps", 0, "total_steps=0: allowed"),
        ("optimizer.lr", math.nan, "optimizer.lr=nan: allowed is a number of at least 0"),
        ("optimizer.ema", 1.0, "optimizer.ema=1.0: allowed is a number of at least 0 and below 1"),
        ("optimizer.clip", 0.0, "optimizer.clip=0.0: allowed is a number above 0"),
        ("optimizer.frozen", [None], "optimizer.frozen=[None]: allowed is values in brackets"),
        (
            "optimizer.muon",
            ["("],
            "optimizer.muon=['(']: allowed is values in brackets, each a",
        ),
        (
            "optimizer.lr_multipliers",
            ["^unet", 0.1],
            "optimizer.lr_multipliers=['^unet', 0.1]: allowed is rows (pattern, a number of at "
            "least 0 and at most 1e+06), such as (('^unet', 0.1),)",
        ),
        ("sharding.rules", [["^unet", "0"]], "rows (pattern, axis or None)"),
        ("tasks.weights.depth", -1.0, "tasks.weights.depth=-1.0: allowed"),
        ("tasks.loss_weights", {}, "no field tasks.loss_weights.denoise, which trains"),
        ("tasks.timesteps.depth", [0, 1, 0.9], "config's tasks.timesteps.depth is [0, 1, 0.9]"),
        ("data.augment.scale", [0.1], "data.augment.scale=[0.1]: allowed is 2 values in brackets"),
        ("data.source", "scene", "data.source='scene': allowed is one of paper, folder, scenes"),
        ("eval.tasks", ["../depth"], "eval.tasks=['../depth']: allowed is values"),
        (
            "model.image_mean",
            [0.5, 0.5],
            "model.image_mean=[0.5, 0.5]: allowed is 3 values in brackets",
        ),
        ("model.image_std", [0.5, 0.5, 0.0], "each a number above 0"),
        ("model.target_size", 50, "model.target_size=50: the UNet's patches and its 1 levels need"),
        ("model.unet.channels", [16, 32], "model.unet.attention_levels=[False] is for other"),
        ("model.unet.channels", [15], "model.unet.groups=8 does not divide the width 15"),
        ("model.unet.heads", 3, "model.unet.heads=3 does not divide the width 16"),
        ("model.unet.heads", 0, "model.unet.head_dim=32 does not divide the width 16"),
        ("model.unet.layers_per_block", 10**9, "model.unet.layers_per_block=1000000000: allowed"),
        (
            "model.unet.chanels",
            [16],
            "UNet has no field model.unet.chanels. Did you mean 'channels'",
        ),
        ("model.unet", None, "model.unet=None: allowed is a group of fields"),
        ("model.image_encoder.dim", 0, "model.image_encoder.dim=0: allowed"),
        ("model.image_encoder.depth", 10**9, "model.image_encoder.depth=1000000000: allowed"),
        ("model.image_encoder.activation", "step", "allowed is one of gelu, gelu_tanh"),
        ("model.text_encoder.kind", "bert", "unknown model.text_encoder.kind 'bert'"),
        ("model.text_encoder", {"dim": 16}, "no field model.text_encoder.heads"),
        ("model.prompt_ids", {"depth": [1, 4096]}, "model.prompt_ids.depth=[1, 4096]: allowed"),
        ("model.prompt_ids", {"depth": [1], "light": [1, 2]}, "of several lengths"),
        ("diffusion", [], "the config's diffusion is []: allowed is a group of fields"),
        ("tasks.set", {"../x": {"kind": "image"}}, "a name without / or \\"),
        ("tasks.set", 5, "tasks.set=5: allowed is a text"),
    ],
)
def test_a_value_that_cannot_be_meant_is_named_with_what_is_allowed(settings, field, value, said):
    replace(settings, field, value)
    with pytest.raises(ValueError) as error:
        Recipe.from_config(settings)
    assert said in str(error.value)


def test_the_sizes_of_published_parts_are_tuples(settings):
    model = settings["model"]
    model["unet"] |= {"channels": (16, 32), "attention_levels": (False, True)}
    model["image_mean"] = (0.5, 0.5, 0.5)
    check_model(model)


@pytest.mark.parametrize("field", ["checkpoint.every_steps", "log.every_steps", "eval.every_steps"])
def test_every_0_steps_is_never(settings, field):
    replace(settings, field, 0)
    assert flatten(Recipe.from_config(settings).config.to_dict())[field] == 0
    assert not is_due(7, every_steps=0)


@pytest.mark.parametrize("content", [[], None, "scenes", 5, {}, {"model_type": "dinov2"}])
def test_what_is_no_config_is_refused(content):
    with pytest.raises(ValueError, match="the config"):
        Recipe.from_config(content)


def test_a_config_without_one_of_its_fields_or_groups_is_refused(settings):
    refused = 0
    for field in [*settings, *flatten(settings)]:
        *groups, name = field.split(".")
        group = settings
        for one in groups:
            group = group[one]
        value = group.pop(name)
        try:
            Recipe.from_config(settings)
        except ValueError:
            refused += 1
        group[name] = value
    assert refused > 80


def test_no_value_of_any_field_ends_in_anything_but_a_config_or_a_message(settings):
    taken = 0
    for field, value in list(flatten(settings).items()):
        for odd in ODD_VALUES:
            replace(settings, field, odd)
            try:
                Recipe.from_config(settings)
                taken += 1
            except ValueError as error:
                assert str(error)
        replace(settings, field, value)
    assert taken > 100
