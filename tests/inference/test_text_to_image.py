"""Pictures from captions alone, on a tiny model with random weights."""

import json

import numpy as np
import pytest
import tokenizers

from generalist import cli, models
from generalist.configs import common
from generalist.evaluation.text_to_image import denoising_by_level
from generalist.inference import Generalist, load
from generalist.inference.denoising import denoising_errors
from generalist.models import layers, parameters
from generalist.models.text_encoder import TextEncoder
from generalist.pretrained import WeightsError, save_weights
from generalist.pretrained.export import export_component, export_model
from generalist.pretrained.parts import fill, read_parts
from generalist.pretrained.tokenizer import copy_tokenizer
from generalist.recipe import Recipe

SIDE = 16


def _random(shapes):
    """Values of an ordinary size, {path: array}: layers at zero would paint every prompt alike."""
    rng = np.random.default_rng(0)
    values = {}
    for path, shape in shapes.items():
        fan_in = 1 if path.endswith("embedding") else max(np.prod(shape.shape[:-1]), 1)
        values[path] = rng.standard_normal(shape.shape, np.float32) / np.float32(fan_in) ** 0.5
    return values


@pytest.fixture(scope="module")
def model():
    """It knows a task that sees an image, too; its guidance hides the prompt."""
    c = common.tiny(common.text_to_image())
    c.tasks.weights.denoise = 1.0
    c.tasks.loss_weights.denoise = 1.0
    c.tasks.timesteps.denoise = common.timesteps(mean=0.0, p_pure_noise=0.5)
    c.diffusion.steps = 2
    c.diffusion.drop_image = 0.1
    c.model.target_size = SIDE
    c.model.concatenate_image = True
    c.model.unet.update({"channels": (8,), "context_dim": 16, "groups": 4, "refine": 0})
    recipe = Recipe.from_config(c)
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    return Generalist(recipe.config.to_dict(), _random(shapes))


def test_a_caption_is_painted_without_an_image(model):
    several = model.predict(task="text_to_image", prompt=["a red ball", "a blue wall"], seed=3)
    assert [one.image.shape for one in several] == [(SIDE, SIDE, 3)] * 2
    again = model.predict(None, "text_to_image", prompt=["a red ball", "a red ball"], seed=3)
    np.testing.assert_array_equal(again[0].levels, several[0].levels)
    assert np.abs(again[1].levels - several[1].levels).max() > 0.1  # the words
    assert np.abs(again[1].levels - again[0].levels).max() > 0.1  # the noise


def test_what_is_not_combined_is_sampled_once_whatever_the_config_says(model, monkeypatch):
    several = model.with_sampling(samples=3)
    monkeypatch.setattr(several, "_sample", model._sample)  # the same program
    picture = several.predict(None, "text_to_image", prompt="a red ball", seed=3)
    alone = model.predict(None, "text_to_image", prompt="a red ball", seed=3)
    np.testing.assert_array_equal(picture.levels, alone.levels)
    assert picture.uncertainty is None


def test_an_image_changes_nothing_but_the_size_of_the_picture(model):
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 30, 3), np.uint8)
    light, dark = model.predict([*images], "text_to_image", prompt="a red ball", seed=1)
    unseen = model.predict(None, "text_to_image", prompt=["a red ball"] * 2, seed=1)
    assert light.image.shape == (20, 30, 3)
    alone = model.predict_rgb(images, "text_to_image", seed=1, prompts=["a red ball"] * 2)
    blank = model.predict_rgb(0 * images, "text_to_image", seed=1, prompts=["a red ball"] * 2)
    np.testing.assert_array_equal(alone, blank)
    for row, prediction in zip(blank, unseen, strict=True):
        np.testing.assert_array_equal(
            model.tasks["text_to_image"].decode(row).levels, prediction.levels
        )
    assert not np.array_equal(light.levels, dark.levels)

    # Beside it in a batch, a task that sees the image does.
    names = ["text_to_image", "denoise"]
    mixed = model.predict_rgb(images, names, seed=1)
    other = model.predict_rgb(255 - images, names, seed=1)
    np.testing.assert_array_equal(mixed[0], other[0])
    assert np.abs(mixed[1] - other[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"task": "denoise", "prompt": "a"}, "task 'denoise' works on an image, and none is given"),
        ({"task": "text_to_image"}, "task 'text_to_image' paints what a prompt says, and none is"),
        ({"task": "text_to_image", "prompt": " "}, "prompt ' ' says nothing"),
        (
            {"task": "text_to_image", "prompt": "a", "samples": 2},
            "which those of text_to_image do not",
        ),
        ({"task": "depth", "prompt": "a", "image": np.zeros((4, 4, 3), np.uint8)}, "not trained"),
        ({"task": [], "prompt": "a"}, "no task given"),
    ],
)
def test_what_is_missing_is_said(model, arguments, said):
    with pytest.raises(ValueError, match=said):
        model.predict(**arguments)


def test_the_command_paints(model, tmp_path, monkeypatch, capsys):
    asked = []

    def predict_rgb(images, names, steps, seed, prompts):
        asked.append((len(images), names, prompts))
        return np.zeros((1, SIDE, SIDE, 3), np.float32)

    monkeypatch.setattr("generalist.load", lambda _: model, raising=False)
    monkeypatch.setattr(model, "predict_rgb", predict_rgb)
    line = ["predict", "--task", "text_to_image", "--from", "x", "--prompt", "a red ball", "--out"]
    assert cli.main([*line, str(tmp_path / "x.png")]) == 0
    assert cli.main([*line, str(tmp_path / "folder")]) == 0
    assert asked == [(1, ["text_to_image"], ["a red ball"])] * 2
    assert (tmp_path / "x.png").is_file()
    assert (tmp_path / "folder/prompt.text_to_image.png").is_file()
    capsys.readouterr()
    assert cli.main(["predict", "--task", "text_to_image", "--from", "x"]) == 2
    assert "paints what a prompt says" in capsys.readouterr().err


def test_the_error_of_denoising_by_hand(model):
    """At t = 1 nothing is left of a target: black, gray and white get one prediction p.

    mean (p + 1)^2 + mean (p - 1)^2 = 2 mean p^2 + 2.
    """
    task = model.tasks["text_to_image"]

    def errors(level):
        images = [np.full((SIDE, SIDE, 3), level, np.uint8)] * 2
        targets = [task.encode(image, SIDE) for image in images]
        return denoising_errors(model, task.name, images, targets, ["a", "b"], 1.0, seed=5)

    black, gray, white = map(errors, (0, 127, 255))
    assert black.shape == (2,) and black[0] != black[1]
    np.testing.assert_allclose(black + white, 2 * gray + 2, rtol=0.02)

    # The word of the other picture leaves another error.
    image = np.full((SIDE, SIDE, 3), 90, np.uint8)
    examples = [{"image": image, "label": image, "prompt": prompt} for prompt in "ab"]
    ((level, found),) = denoising_by_level(model, task, examples, (0.5,)).items()
    assert level == 0.5 and found.own > 0 and found.own != found.shuffled


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a text-to-image model in the published form, with random weights."""
    root = tmp_path_factory.mktemp("prior")
    settings = {"vocabulary": 6, "length": 8, "dim": 16, "depth": 1, "heads": 2}
    settings |= {"causal": True, "epsilon": 1e-5}
    _, values = parameters.split(TextEncoder(**settings, rngs=layers.HostRngs(0)))
    export_component("text_encoder", settings, values, root / "text_encoder")
    names = ("<unknown>", "a", "red", "blue", "ball", "<|endoftext|>")
    words = tokenizers.models.WordLevel({word: i for i, word in enumerate(names)}, "<unknown>")
    (root / "tokenizer").mkdir()
    tokenizers.Tokenizer(words).save(str(root / "tokenizer/tokenizer.json"))

    c = common.tiny(common.text_to_image())
    c.diffusion.steps = 2
    c.model.target_size = SIDE
    c.model.unet.update({"channels": (8,), "context_dim": 16, "groups": 4})
    c.model.init_from = f"text_encoder={root}"
    published = read_parts(c.model.init_from)
    recipe = Recipe.from_config(c, published)
    _, initial = parameters.split(models.build(recipe.model))
    values = fill(published, initial, recipe.config.model)
    unet = {path: value for path, value in values.items() if path.startswith("unet.")}
    save_weights(root / "run", values | _random(unet), {})
    (root / "run/config.json").write_text(recipe.to_json())
    copy_tokenizer(root / "text_encoder", root / "run")
    return root / "run"


def test_a_folder_of_published_parts_paints_what_its_run_paints(run, tmp_path):
    export_model(run, tmp_path / "parts", ["unet", "text_encoder"])
    captions = ["a red ball", "a blue ball"]
    wanted, painted = (
        load(folder).predict(task="text_to_image", prompt=captions, seed=5)
        for folder in (run, tmp_path / "parts")
    )
    for one, other in zip(wanted, painted, strict=True):
        np.testing.assert_array_equal(one.levels, other.levels)
    assert np.abs(wanted[0].levels - wanted[1].levels).max() > 1e-3

    # It names no place of the machine it was made on.
    config = json.loads((tmp_path / "parts/generalist.json").read_text())
    assert config["model"]["init_from"] == ""


def test_parts_of_a_model_that_sees_images_are_not_a_model(run, tmp_path):
    export_model(run, tmp_path / "parts", ["unet", "text_encoder"])
    config = json.loads((tmp_path / "parts/generalist.json").read_text())
    for group in ("weights", "loss_weights", "timesteps"):
        config["tasks"][group]["depth"] = config["tasks"][group]["text_to_image"]
    config["diffusion"]["guidance"] = 1.0
    (tmp_path / "parts/generalist.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"trained on depth, text_to_image: .*init_from="):
        load(tmp_path / "parts")


def test_a_config_beside_parts_that_is_damaged_or_wrong_is_named(run, tmp_path):
    export_model(run, tmp_path / "parts", ["unet", "text_encoder"])
    file = tmp_path / "parts/generalist.json"
    content = file.read_text()
    file.write_text(content[:-9])
    with pytest.raises(WeightsError, match=r"parts: damaged generalist\.json .*Restore"):
        load(tmp_path / "parts")
    file.write_text(content.replace('"ddim"', '"dddim"'))
    with pytest.raises(WeightsError, match=r"generalist\.json cannot be used: .*'dddim'"):
        load(tmp_path / "parts")
