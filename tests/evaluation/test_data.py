"""A model measured on official data: which tasks, by which protocol, and with which codec."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from generalist.evaluation.data import open_data, with_official_protocol
from generalist.pretrained.weights import load_weights
from generalist.tasks import SCENES_TASKS
from generalist.training import setup


@pytest.fixture
def rain(tiny_config, tmp_path):
    """The config of a model trained on scenes, with a data directory that holds one set of Rain13K, 2 images of 24 x 40."""
    for half in ("input", "target"):
        folder = tmp_path / "data" / "derain" / "test" / "Rain100H" / half
        folder.mkdir(parents=True)
        for name in "12":
            Image.fromarray(np.random.default_rng(int(name)).integers(0, 256, (24, 40, 3), np.uint8)).save(folder / f"{name}.png")
    tiny_config.data.source, tiny_config.data_dir, tiny_config.eval.split = "paper", str(tmp_path / "data"), "test/Rain100H"
    return tiny_config


def test_the_models_codec_is_measured_by_the_official_protocol():
    for name, protocol in (("derain", "derain-y-matlab"), ("depth", "nyu-eigen-metric"), ("instance", "panoptic-coco")):
        task = with_official_protocol(SCENES_TASKS[name])
        assert task == dataclasses.replace(SCENES_TASKS[name], protocol=protocol)
    for name in ("semantic", "panoptic"):
        with pytest.raises(ValueError, match=f"Task '{name}': the model paints 16 classes .*train it on them first"):
            with_official_protocol(SCENES_TASKS[name])


def test_tasks_without_data_are_left_out_by_name(rain):
    lines = []
    data = open_data(rain, log=lines.append)
    assert list(data.tasks) == list(data.sources) == ["derain"] and data.train_sources == {}
    assert data.tasks["derain"].protocol == "derain-y-matlab" and len(data.sources["derain"]) == 2
    assert [line.split()[0] for line in lines] == [name for name in rain.eval.tasks if name != "derain"]
    assert all("is left out: " in line and "\n" not in line for line in lines)


def test_a_task_that_was_asked_for_must_be_there(rain, tmp_path):
    with pytest.raises(ValueError, match="unknown split of lol|holds no folder light_enhance"):
        open_data(rain, ["derain", "light"])
    rain.data_dir = str(tmp_path)
    with pytest.raises(ValueError, match=f"nothing to measure in {tmp_path}"):
        open_data(rain, log=len)


def test_a_model_of_the_scenes_on_rain_images(rain, tiny_workdir, tmp_path):
    """From weights and a folder of images to figures of both resolutions and files, by one call."""
    out = tmp_path / "out" / "1"
    metrics = setup.evaluate(rain, tiny_workdir, 0, len, names=["derain"], out_dir=out, native=True, submission=True)
    assert metrics["derain/examples"] == 2 and np.isfinite([metrics["derain/psnr"], metrics["derain/psnr_tiles"]]).all()
    assert metrics["trivial/derain/psnr"] is None  # input and target are the same images
    assert sorted(path.relative_to(out / "submission").as_posix() for path in out.rglob("submission/*/*")) == [
        f"{name}/{key}.png" for name in ("derain", "derain_tiles") for key in "12"]
    assert load_weights(tiny_workdir)[0]["tasks"]["set"] == "scenes"
