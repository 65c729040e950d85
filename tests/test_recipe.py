"""What a config says is checked once, before anything is built."""

import dataclasses
import json

import numpy as np
import pytest

from generalist import models
from generalist.configs import common
from generalist.models import parameters
from generalist.pretrained import parts
from generalist.recipe import Recipe, Sampling, TimestepDistribution
from generalist.training.optimizer import match, trainable


@pytest.fixture
def config():
    return common.scenes(scratch=True)


def test_a_recipe_says_what_its_config_says(config):
    config.tasks.weights.light = 0.0
    config.diffusion.sampler = "ddim"
    config.diffusion.steps = 4
    recipe = Recipe.from_config(config)

    assert list(recipe.tasks) == ["denoise", "depth", "derain", "instance", "semantic"]
    assert list(recipe.evaluated) == [
        "depth",
        "semantic",
        "instance",
        "denoise",
        "derain",
        "panoptic",
    ]
    assert set(recipe.known_tasks) == {*recipe.tasks, "light", "panoptic", "text_to_image"}
    assert recipe.sampling == Sampling("ddim", 4, "zeros", 0.0, 1.0, samples=1)
    assert not recipe.sampling.stochastic
    assert recipe.timesteps["depth"] == TimestepDistribution(0.0, 1.0, 0.9)
    assert recipe.prediction_type == "x0"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "scenes,twin",
            "trained at pure noise only, a regressor: one step is what it learned; one_step takes "
            "1 step from zeros",
        ),
        (
            "scenes",
            "trained at pure noise in 90 % of the samples, nearly a regressor: one step is what it "
            "learned; one_step takes 1 step from zeros",
        ),
        (
            "scenes,all_levels",
            "trained at all noise levels, 30 % of the samples at t = 1: one step or more; ddim "
            "takes 4 steps from gaussian",
        ),
    ],
)
def test_a_recipe_says_what_a_model_is_trained_for(words, said):
    assert Recipe.from_config(common.get_config(words)).trained_for() == said


def test_samples_at_pure_noise_are_counted_by_the_weights_of_their_tasks():
    """Of 4 samples 3 are of depth: 3/4 + 0.4/4 is 85 %, 3/4 + 0.39/4 is less."""
    c = common.get_config("scenes,depth,light")
    c.tasks.weights.update({"depth": 3.0, "light": 1.0})
    c.tasks.timesteps.depth.p_pure_noise = 1.0
    for share, mostly in ((0.4, True), (0.39, False)):
        c.tasks.timesteps.light.p_pure_noise = share
        assert Recipe.from_config(c).mostly_pure_noise is mostly


def test_a_recipe_read_from_its_own_json_is_the_same(config):
    recipe = Recipe.from_config(config)
    again = Recipe.from_config(json.loads(recipe.to_json()))
    assert again.config == recipe.config
    assert again.to_json() == recipe.to_json()
    assert list(again.tasks) == list(recipe.tasks)
    assert again.model == recipe.model


def test_a_recipe_does_not_change_and_leaves_its_config_alone(config):
    config.tasks.weights.instance = 0.0
    recipe = Recipe.from_config(config)
    assert config.tasks.weights.instance == 0.0 and "panoptic" in config.eval.tasks
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.prediction_type = "v"
    with pytest.raises(AttributeError):
        recipe.config.seed = 1


def test_the_model_is_built_from_its_arguments_alone(config):
    recipe = Recipe.from_config(config)
    assert not {"init_from", "adapt", "prompt_ids"} & recipe.model.keys()
    assert recipe.model["unet"]["window"] is None  # 0 in the config
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    assert shapes["unet.conv_in.kernel"].shape == (3, 3, 6 * 16, 64)


def test_prompts_are_in_the_order_of_the_tasks(config):
    recipe = Recipe.from_config(config)
    ids = recipe.prompt_ids()
    assert ids.dtype == np.int32 and len(ids) == len(recipe.tasks)
    for row, name in zip(ids, recipe.tasks, strict=True):
        np.testing.assert_array_equal(row, recipe.prompt_ids([name])[0])
    assert len({tuple(row) for row in ids}) == len(ids)


def test_the_objective_has_the_numbers_of_every_task(config):
    config.tasks.loss_weights.depth = 7.0
    config.tasks.timesteps.depth.p_pure_noise = 0.25
    config.diffusion.drop_text = 0.125
    recipe = Recipe.from_config(config)
    prompts = np.zeros((6, 8, 64), np.float32)
    objective = recipe.objective(prompts)

    depth = list(recipe.tasks).index("depth")
    assert objective.task_weight[depth] == 7.0
    np.testing.assert_allclose(objective.p_pure_noise[depth], 0.25)
    assert objective.drop_text == 0.125 and objective.x_init == "zeros"
    semantic = list(recipe.tasks).index("semantic")
    palette = recipe.tasks["semantic"].palette
    np.testing.assert_allclose(objective.palettes[semantic], palette / 127.5 - 1, atol=1e-6)
    assert list(objective.palettes) == [semantic]


def test_the_text_encoder_is_frozen_whatever_the_config_says(config):
    """A resumed run encodes the prompts again, and must get the same tokens."""
    config.optimizer.frozen = ()
    recipe = Recipe.from_config(config)
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    trained = trainable(recipe.frozen, shapes)
    frozen = shapes.keys() - set(trained)
    assert frozen == {path for path in shapes if path.startswith("text_encoder.")}
    assert len(frozen) > 10


def test_without_prototype_weight_there_are_no_palettes(config):
    config.diffusion.prototype_weight = 0.0
    objective = Recipe.from_config(config).objective(np.zeros((6, 8, 64), np.float32))
    assert objective.palettes == {}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "diffusion.schedule",
            "cosin",
            "unknown diffusion.schedule 'cosin'. Did you mean 'cosine'",
        ),
        ("diffusion.prediction_type", "x1", "Did you mean 'x0'"),
        ("diffusion.loss_weight", "min_snt", "Did you mean 'min_snr'"),
        ("diffusion.sampler", "ddmi", "Did you mean 'ddim'"),
        ("diffusion.x_init", "zero", "Did you mean 'zeros'"),
        ("diffusion.prediction_type", "eps", "choose prediction_type 'x0' or 'v', or schedule"),
        ("diffusion.eta", 0.5, "eta must be 0"),
        ("diffusion.steps", 0, "a whole number of at least 1"),
        ("diffusion.samples", 0, "diffusion.samples=0: allowed is a whole number of at least 1"),
        ("tasks.timesteps.depth.std", 0.0, "std"),
        ("tasks.timesteps.depth.p_pure_noise", 1.5, "p_pure_noise"),
        ("eval.tasks", ("dept",), "Did you mean 'depth'"),
        ("data.augment.tasks", ("ligt",), "Did you mean 'light'"),
        ("tasks.set", "scene", "Did you mean 'scenes'"),
    ],
)
def test_what_would_fail_late_fails_at_once(config, field, value, message):
    group = config
    *groups, name = field.split(".")
    for part in groups:
        group = group[part]
    group[name] = value
    with pytest.raises(ValueError, match=message):
        Recipe.from_config(config)


@pytest.mark.parametrize(
    ("init_from", "published", "slow"),
    [
        ("", (), False),
        ("unet=sd,text_encoder=sd", ("unet", "text_encoder"), False),
        ("unet=sd,image_encoder=clip", ("unet", "image_encoder"), True),
        ("runs/other", (), True),
    ],
)
def test_an_image_encoder_that_starts_from_nothing_learns_at_full_rate(
    init_from, published, slow, monkeypatch
):
    """Whatever else is published; and a recipe read from its own JSON keeps what was decided."""
    monkeypatch.setattr(parts, "settle", lambda model, *_: model)
    config = common.get_config("paper")
    config.model.init_from = init_from
    config.optimizer.lr_multipliers = ((r"^(image_encoder|unet)\.", 0.1),)
    recipe = Recipe.from_config(config, dict.fromkeys(published))
    again = Recipe.from_config(json.loads(recipe.to_json()))
    for one in (recipe, again):
        paths = ["image_encoder.kernel", "unet.kernel", "image_projection.kernel"]
        multiplier = match(one.config.optimizer.lr_multipliers, paths, 1.0)
        assert list(multiplier.values()) == [0.1 if slow else 1.0, 0.1, 1.0]


@pytest.mark.parametrize(("published", "told"), [((), "linear"), (("unet",), "equal_logsnr")])
def test_a_published_unet_is_told_the_time_of_equal_logsnr(published, told, monkeypatch):
    monkeypatch.setattr(parts, "settle", lambda model, *_: model)
    config = common.get_config("paper")
    recipe = Recipe.from_config(config, dict.fromkeys(published))
    again = Recipe.from_config(json.loads(recipe.to_json()))
    assert recipe.unet_time == again.unet_time == told

    config.diffusion.unet_time = "linear"
    assert Recipe.from_config(config, dict.fromkeys(published)).unet_time == "linear"
    config.diffusion.unet_time = "logsnr"
    with pytest.raises(
        ValueError, match=r"diffusion.unet_time 'logsnr'.*auto, linear, equal_logsnr, clean"
    ):
        Recipe.from_config(config)


def test_nothing_to_train(config):
    for name in config.tasks.weights:
        config.tasks.weights[name] = 0.0
    with pytest.raises(ValueError, match="trained are none"):
        Recipe.from_config(config)


def test_an_unknown_task_is_named_with_the_closest():
    recipe = Recipe.from_config(common.scenes())
    assert list(recipe.select(["light", "panoptic"])) == ["light", "panoptic"]
    with pytest.raises(ValueError, match="set 'scenes' 'dept'. Did you mean 'depth'"):
        recipe.select(["dept"])
