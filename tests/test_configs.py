"""The configs: every ablation changes what it says, of the recipe it starts from."""

import importlib

import numpy as np
import pytest

from generalist import models
from generalist.configs import common
from generalist.models import parameters
from generalist.pretrained.export import plan_component
from generalist.recipe import Recipe
from generalist.training.optimizer import trainable
from generalist.training.workdir import flatten

ALL_LEVELS = {
    "diffusion.x_init": "gaussian",
    "diffusion.sampler": "ddim",
    "diffusion.steps": 4,
}


def levels(p_pure_noise: float) -> dict[str, float]:
    """The fields that say how often a task is trained at pure noise."""
    return {f"tasks.timesteps.{task}.p_pure_noise": p_pure_noise for task in common.SCENES}


STUDIES = {
    "conditioning": {
        "cross_attention": {"model.concatenate_image": False, "model.aligned_features": False},
        "concatenate": {"model.aligned_features": False},
        "aligned": {"model.concatenate_image": False},
        "both": {},
    },
    "initialization": {
        "scratch": {},
        "prior": {"diffusion.unet_time": "clean", "model.adapt.image": "copied"},
        "shuffled": {"diffusion.unet_time": "clean", "model.adapt.image": "copied"},
    },
    "diffusion": {"twin": levels(1.0), "all_levels": levels(0.3) | ALL_LEVELS},
    "image_encoder": {
        "tuned": {},
        "frozen": {"optimizer.frozen": (r"^text_encoder\.", r"^image_encoder\.")},
    },
    # Labels of one size; the grids of the UNet and of the encoder stay.
    "resolution": {
        "64": {"data.scenes_size": 128},
        "128": {
            "data.scenes_size": 128,
            "data.image_size": 128,
            "model.target_size": 128,
            "model.unet.patch": 8,
            "model.unet.refine": 32,
            "model.image_encoder.image_size": 128,
            "model.image_encoder.patch": 16,
        },
    },
    "objective": {
        f"{prediction}_{weight}": levels(0.3)
        | ALL_LEVELS
        | {"diffusion.prediction_type": prediction, "diffusion.loss_weight": weight}
        for prediction in ("x0", "v")
        for weight in ("x0", "v")
    },
    "latent_vs_pixel": {
        "pixel": {"diffusion.prototype_weight": 0.0, "model.unet.refine": 0},
        "latent": {
            "diffusion.prototype_weight": 0.0,
            "model.unet.refine": 0,
            "model.unet.patch": 1,
            "model.init_from": "autoencoder=scenes_autoencoder",
        },
    },
}


@pytest.mark.parametrize(
    ("study", "variant"), [(s, v) for s, variants in STUDIES.items() for v in variants]
)
def test_an_ablation_changes_what_it_says_and_nothing_else(study, variant):
    module = importlib.import_module(f"generalist.configs.ablations.{study}")
    assert list(module.VARIANTS) == list(STUDIES[study])
    recipe, config = (
        flatten(common.scenes(scratch=True).to_dict()),
        flatten(module.get_config(variant).to_dict()),
    )
    changed = {field for field in recipe if recipe[field] != config[field]}
    expected = {field for field, value in STUDIES[study][variant].items() if value != recipe[field]}
    assert changed == expected
    assert {field: config[field] for field in STUDIES[study][variant]} == STUDIES[study][variant]


@pytest.mark.parametrize("study", STUDIES)
def test_an_ablation_of_the_full_size_model_and_a_wrong_name(study, monkeypatch):
    monkeypatch.delenv("GENERALIST_DATA_DIR", raising=False)
    module = importlib.import_module(f"generalist.configs.ablations.{study}")
    first = next(iter(STUDIES[study]))
    assert module.get_config(f"{first},paper").data.source == "paper"
    with pytest.raises(ValueError, match=f"unknown variant 'other': choose one of {first}, "):
        module.get_config("other")


@pytest.mark.parametrize(
    ("words", "weights", "evaluated"),
    [
        ("scenes,depth", ["depth"], ("depth",)),
        ("light,scenes,scratch,depth", ["depth", "light"], ("depth", "light")),
        ("scenes,panoptic", ["semantic", "instance"], ("semantic", "instance", "panoptic")),
        (
            "paper,small,panoptic,semantic",
            ["semantic", "coco_semantic", "instance"],
            ("semantic", "coco_semantic", "instance", "panoptic"),
        ),
    ],
)
def test_tasks_named_behind_the_config_are_all_that_is_trained_and_evaluated(
    words, weights, evaluated
):
    c = common.get_config(words)
    for group in ("weights", "loss_weights", "timesteps"):
        assert set(c.tasks[group]) == set(weights)
    assert c.eval.tasks == evaluated


@pytest.mark.parametrize("words", ["paper", "paper,small"])
def test_the_paper_is_trained_on_painters_mixture_and_augmented_as_painter_does(words):
    """train_painter_vit_large.sh, without its pose task, whose share was 0.20."""
    c = common.get_config(words)
    assert c.tasks.weights.to_dict() == {
        "depth": 0.10,
        "semantic": 0.20,
        "coco_semantic": 0.25,
        "instance": 0.15,
        "denoise": 0.15,
        "derain": 0.05,
        "light": 0.05,
    }
    assert c.data.augment.to_dict() == {
        "tasks": ("depth", "semantic", "coco_semantic", "instance", "denoise", "derain", "light"),
        "scale": (0.3, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "native": 0.5,
        "flip": 0.5,
        "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
        "jitter_probability": 0.8,
    }


def test_the_small_model_on_the_papers_data_has_the_papers_tasks_and_the_scenes_model(monkeypatch):
    monkeypatch.setenv("GENERALIST_DATA_DIR", "/data")
    small, scenes, paper = (common.get_config(words) for words in ("small", "scenes", "paper"))
    assert (small.data.source, small.data_dir, small.tasks.set, small.total_steps) == (
        "paper",
        "/data",
        "paper",
        480,
    )
    assert small.model.to_dict() == scenes.model.to_dict() and small.model.init_from == "scenes"
    assert (
        small.tasks.weights.to_dict() == paper.tasks.weights.to_dict()
        and small.eval.tasks == paper.eval.tasks
    )
    assert (
        small.data.augment.to_dict() == paper.data.augment.to_dict()
        and scenes.data.augment.tasks == ()
    )
    assert common.get_config("paper,small,scratch").model.init_from == ""


@pytest.mark.parametrize("data", ["scenes", "paper"])
def test_tiny_is_the_small_recipe_from_scratch_with_every_part_of_its_model(data):
    tiny = common.get_config(f"{data},tiny")
    small = common.get_config(f"{data},small,scratch")
    assert tiny.tasks.to_dict() == small.tasks.to_dict()
    assert tiny.diffusion.to_dict() == small.diffusion.to_dict()
    assert tiny.data.source == data and tiny.model.init_from == ""
    for part in ("aligned_features", "concatenate_image", "pooled_text"):
        assert tiny.model[part] == small.model[part]
    assert tiny.total_steps * tiny.batch_size < 100


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("multitask", "scenes"),
        ("multitask", "scenes,scratch,128,depth"),
        ("multitask", "tiny"),
        ("multitask", "paper"),
        ("paper", "frozen"),
        ("own_data", ""),
        ("own_data", "full"),
    ],
)
@pytest.mark.parametrize(
    ("levels", "p_pure_noise", "sampling"),
    [
        ("twin", 1.0, {"x_init": "zeros", "sampler": "one_step", "steps": 1}),
        ("all_levels", 0.3, {"x_init": "gaussian", "sampler": "ddim", "steps": 4}),
    ],
)
def test_a_recipe_learns_pure_noise_alone_or_all_levels_and_stays_what_it_is_otherwise(
    file, words, levels, p_pure_noise, sampling
):
    get_config = importlib.import_module(f"generalist.configs.{file}").get_config
    recipe = flatten(get_config(words).to_dict())
    config = get_config(",".join([words, levels]).lstrip(","))
    changed = flatten(config.to_dict())
    expected = {f"diffusion.{field}": value for field, value in sampling.items()}
    expected |= {
        f"tasks.timesteps.{task}.p_pure_noise": p_pure_noise for task in config.tasks.weights
    }
    assert changed == {**recipe, **expected}
    read = Recipe.from_config(config)
    assert read.sampling.stochastic is (levels == "all_levels")
    assert {distribution.p_pure_noise for distribution in read.timesteps.values()} == {p_pure_noise}


def test_a_twin_learns_not_all_levels():
    for file in ("multitask", "own_data"):
        get_config = importlib.import_module(f"generalist.configs.{file}").get_config
        with pytest.raises(ValueError, match="'all_levels'"):
            get_config("twin,all_levels")


@pytest.mark.parametrize("data", ["scenes", "paper,small"])
def test_the_small_model_at_128_has_the_grids_of_that_at_64(data):
    """What is counted in pixels doubles; the last residual gets narrower to save time."""
    small = flatten(common.get_config(f"{data},scratch").to_dict())
    assert small == flatten(common.get_config(f"{data},64,scratch").to_dict())
    large = flatten(common.get_config(f"{data},scratch,128").to_dict())
    assert {field: large[field] for field in large if large[field] != small[field]} == {
        "data.image_size": 128,
        "data.scenes_size": 128,
        "model.target_size": 128,
        "model.unet.patch": 8,
        "model.unet.refine": 32,
        "model.image_encoder.image_size": 128,
        "model.image_encoder.patch": 16,
    }
    Recipe.from_config(common.get_config(f"{data},scratch,128"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("scenes,128", "the shipped weights paint 64x64: add 'scratch'"),
        ("scenes,scratch,64,128", "give one of them"),
        ("scenes,tiny,128", "not 'tiny'"),
        ("paper,128", "'128' is the size of the small model, which is 'scenes' or 'paper,small'"),
    ],
)
def test_a_size_that_cannot_be_meant_is_an_error(words, said):
    with pytest.raises(ValueError, match=said):
        common.get_config(words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("scenes,paper", "choose 'scenes' or 'paper'"),
        ("paper,smal", "'small'"),
        ("scenes,coco_semantic", "Did you mean 'semantic'"),
        ("paper,derian", "Did you mean 'derain'"),
    ],
)
def test_a_wrong_word_behind_the_config_is_an_error(words, said):
    with pytest.raises(ValueError, match=said):
        common.get_config(words)


def test_a_task_of_weight_0_is_neither_trained_nor_evaluated():
    c = common.get_config("scenes")
    c.tasks.weights.instance = 0.0
    left = Recipe.from_config(c).config
    assert set(left.tasks.weights) == {"depth", "semantic", "denoise", "derain", "light"}
    assert left.eval.tasks == (
        "depth",
        "semantic",
        "denoise",
        "derain",
        "light",
    )  # nor what would be merged from it
    assert (
        c.tasks.weights.instance == 0.0 and "panoptic" in c.eval.tasks
    )  # the config given is left alone


def test_nothing_to_evaluate_is_an_error_before_anything_is_trained():
    c = common.get_config("scenes,depth")
    c.eval.tasks = ("semantic",)
    with pytest.raises(
        ValueError, match="nothing to evaluate: eval.tasks are semantic, trained are depth"
    ):
        Recipe.from_config(c)


def test_the_papers_model_is_stable_diffusions_unet_with_cross_attention_alone():
    """859.52 million parameters of the UNet, 14.3 TFLOP an image and step: Stable Diffusion's."""
    config = importlib.import_module("generalist.configs.paper").get_config()
    recipe = Recipe.from_config(config)
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    unet = sum(int(np.prod(x.shape)) for path, x in shapes.items() if path.startswith("unet."))
    assert unet == 859_520_964 - (9 * 320 + 9 * 320 + 1)  # three channels in place of four latents
    assert shapes["unet.conv_in.kernel"].shape == (3, 3, 3, 320)
    assert config.model.target_size == 128 and config.data.source == "paper"
    trained = {path.split(".")[0] for path in trainable(recipe.frozen, shapes)}
    assert trained == {"unet", "image_encoder", "image_projection"}


def test_the_papers_encoder_can_be_frozen_and_its_tasks_chosen():
    get_config = importlib.import_module("generalist.configs.paper").get_config
    tuned, frozen = get_config("depth"), get_config("frozen,depth")
    assert list(tuned.tasks.weights) == list(frozen.tasks.weights) == ["depth"]
    assert set(frozen.optimizer.frozen) - set(tuned.optimizer.frozen) == {r"^image_encoder\."}
    with pytest.raises(ValueError, match="Did you mean 'depth'"):
        get_config("frozen,dept")


@pytest.mark.parametrize("data_dir", ["", "/data"])
def test_the_prior_learns_pictures_from_captions_alone(monkeypatch, data_dir):
    monkeypatch.setenv("GENERALIST_DATA_DIR", data_dir)
    get_config = importlib.import_module("generalist.configs.text_to_image").get_config
    recipe = Recipe.from_config(get_config("128"))
    (task,) = recipe.tasks.values()
    assert task.own_prompts and not task.sees_image and recipe.prompt_ids().shape == (1, 32)
    assert recipe.config.data.source == ("folder" if data_dir else "scenes")
    assert recipe.config.model.target_size == 128
    assert recipe.config.eval.split == ("val" if data_dir else "held_out")

    # Whatever a picture would reach does not learn, and is not appended.
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    assert {path.split(".")[0] for path in trainable(recipe.frozen, shapes)} == {
        "unet",
        "text_projection",
    }
    assert not any("aligned" in path for path in shapes)

    # Its UNet is one that diffusers has, so that it is read as Stable Diffusion's is.
    unet = {
        path.removeprefix("unet."): np.zeros(shape.shape, np.float32)
        for path, shape in shapes.items()
        if path.startswith("unet.")
    }
    export = plan_component("unet", recipe.model["unet"], unet)
    assert export.config["in_channels"] == export.config["out_channels"] == 192
    assert recipe.unet_time == "equal_logsnr"
    assert shapes["unet.conv_in.kernel"].shape[2] == 3 * recipe.model["unet"]["patch"] ** 2
    for words, said in (("64,128", "give one of 64, 128, tiny"), ("tny", "Did you mean 'tiny'")):
        with pytest.raises(ValueError, match=said):
            get_config(words)
