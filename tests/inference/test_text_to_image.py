"""Pictures from captions alone, on a tiny model with random weights."""

import numpy as np
import pytest

from generalist import cli, models
from generalist.configs import common
from generalist.evaluation.text_to_image import denoising_by_level
from generalist.inference import Generalist
from generalist.inference.denoising import denoising_errors
from generalist.models import parameters
from generalist.recipe import Recipe

SIDE = 16


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
    # Of an ordinary size: layers at zero would paint every prompt alike.
    rng = np.random.default_rng(0)
    values = {}
    for path, shape in shapes.items():
        fan_in = 1 if path.endswith("embedding") else max(np.prod(shape.shape[:-1]), 1)
        values[path] = rng.standard_normal(shape.shape, np.float32) / np.float32(fan_in) ** 0.5
    return Generalist(recipe.config.to_dict(), values)


def test_a_caption_is_painted_without_an_image(model):
    several = model.predict(task="text_to_image", prompt=["a red ball", "a blue wall"], seed=3)
    assert [one.image.shape for one in several] == [(SIDE, SIDE, 3)] * 2
    again = model.predict(None, "text_to_image", prompt=["a red ball", "a red ball"], seed=3)
    np.testing.assert_array_equal(again[0].levels, several[0].levels)
    assert np.abs(again[1].levels - several[1].levels).max() > 0.1  # the words
    assert np.abs(again[1].levels - again[0].levels).max() > 0.1  # the noise


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
