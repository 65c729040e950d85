"""Promise: images with captions beside them train, resume, evaluate and predict by their words."""

import shutil

import cv2
import jax
import numpy as np
import pytest

import generalist
from generalist.configs import common
from generalist.devices.mesh import batch_sharding, make_mesh
from generalist.inference.generalist import Generalist
from generalist.input_pipeline.check import check_own, format_report
from generalist.recipe import Recipe
from generalist.training import loop
from generalist.training.ahead_of_time import batch_shapes
from generalist.training.loop import train_and_evaluate
from generalist.training.topology import lower_programs

COLORS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
TASKS = {
    "paint": {"kind": "image", "folder": "paint", "captions": True, "tiles": False},
    "dots": {"kind": "instances"},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A gray image whose label has the color that its caption names; another task without."""
    root = tmp_path_factory.mktemp("captions")
    for split in ("train", "val"):
        for name, color in COLORS.items():
            gray = np.full((32, 32, 3), 128, np.uint8)
            label = gray * np.uint8(0) + np.uint8(color)
            for task, half, pixels in (
                ("paint", "images", gray),
                ("paint", "labels", label[..., ::-1]),
                (".", "images", gray),
                (".", "labels", gray[..., 0] // 64),
            ):
                path = root / task / split / half / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), pixels)
            (root / "paint" / split / "images" / f"{name}.txt").write_text(f"a {name} wall\n")
    c = common.tiny(common.small(common.own(TASKS), scratch=True))
    c.data_dir = str(root)
    c.batch_size = 4
    c.total_steps = 3
    c.model.aligned_features = False
    c.model.unet.update({"channels": (8,), "context_dim": 16, "groups": 4, "refine": 0})
    c.model.image_encoder.dim = 8
    c.model.text_encoder.dim = 8
    c.optimizer.warmup_steps = 1
    c.eval.tasks = ("paint",)
    c.checkpoint.every_steps = 1
    c.data.augment.tasks = ()
    return c


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """Trains; returns the workdir, and the prompts that the evaluation asked the model for."""
    workdir = tmp_path_factory.mktemp("run") / "run"
    asked = {}
    predict_seen = Generalist.predict_seen

    def predict(self, seen, task, steps, seed, prompts):
        asked.setdefault(task, []).extend(prompts or [])
        return predict_seen(self, seen, task, steps, seed, prompts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Generalist, "predict_seen", predict)
        train_and_evaluate(config, workdir)
    return workdir, asked


def test_an_evaluation_asks_for_the_captions_of_its_examples(run):
    _, asked = run
    assert asked == {"paint": ["a blue wall", "a green wall", "a red wall"]}


def test_a_resumed_run_ends_in_the_same_bits(run, config, tmp_path, monkeypatch):
    workdir, _ = run
    shutil.copytree(workdir, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/3")
    (tmp_path / "run/model.safetensors").unlink()
    # What is measured at its end has no part in it.
    monkeypatch.setattr(loop, "evaluate_workdir", lambda *_, **__: {})
    monkeypatch.setattr(loop, "write_report", lambda *_: None)
    train_and_evaluate(config, tmp_path / "run")
    resumed, whole = (generalist.load(path).parameters for path in (tmp_path / "run", workdir))
    for path, value in whole.items():
        np.testing.assert_array_equal(resumed[path], value)


def test_the_workdir_alone_predicts_by_the_words_of_a_prompt(run):
    workdir, _ = run
    model = generalist.load(workdir)
    red, blue, long = model.prompt_tokens(["a red wall", "a blue wall", "a red wall " * 9])
    assert red.shape == (32, 8) and np.abs(red - blue).max() > 1e-3 < np.abs(red - long).max()
    image = np.full((32, 32, 3), 128, np.uint8)
    assert model.predict(image, "paint", prompt="a red wall " * 9).image.shape == (32, 32, 3)
    with pytest.raises(ValueError, match="has 33 words, at most 32 are allowed"):
        model.predict(image, "paint", prompt="a red wall " * 11)


def test_the_step_with_captions_compiles_ahead_of_time(config):
    """Its batch has ids, its state the text encoder; that of fixed prompts has neither."""
    fixed = config.copy_and_resolve_references()
    fixed.tasks.weights.paint = 0.0
    fixed.eval.tasks = ("dots",)
    mesh = make_mesh(1, jax.local_devices()[:1])
    names = [
        set(batch_shapes(Recipe.from_config(c), batch_sharding(mesh))) for c in (config, fixed)
    ]
    assert names[0] - names[1] == {"prompt_ids"} and names[1] < names[0]
    lowered = lower_programs(Recipe.from_config(config), mesh).training
    (state, batch), _ = lowered.in_avals
    assert batch["prompt_ids"].shape == (4, 32)
    assert any(path.startswith("text_encoder.") for path in state.frozen)


def test_data_check_says_how_long_captions_are_and_names_wrong_ones(config, tmp_path):
    shutil.copytree(config.data_dir, tmp_path / "data")
    (tmp_path / "data/paint/val/images/red.txt").write_text(" ")
    report = check_own(tmp_path / "data", config.tasks.set.to_dict(), ["paint"])
    text = format_report(report)
    assert ", captions of 3..3 words" in text
    (line,) = [line for line in report.problems if "red.txt" in line]
    assert "holds no word. A caption is text in UTF-8" in line
