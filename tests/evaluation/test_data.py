"""A model measured on official data: which tasks, by which protocol, and with which codec."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import generalist
from generalist.devices.lock import InUseError, hold
from generalist.evaluation.data import open_data
from generalist.evaluation.workdir import evaluate_workdir
from generalist.inference import load
from generalist.pretrained.weights import load_weights
from generalist.tasks import SCENES_TASKS, TASKS


@pytest.fixture(scope="module")
def rain_folder(tmp_path_factory):
    """A data directory that holds one set of Rain13K, 2 images of 24 x 40."""
    root = tmp_path_factory.mktemp("data")
    for half in ("input", "target"):
        folder = root / "derain" / "test" / "Rain100H" / half
        folder.mkdir(parents=True)
        for name in "12":
            Image.fromarray(
                np.random.default_rng([int(name), len(half)]).integers(
                    0, 256, (24, 40, 3), np.uint8
                )
            ).save(folder / f"{name}.png")
    return root


def config_of(workdir, folder):
    """The config of a model trained on scenes, to be measured on the rain images."""
    config = ConfigDict(load_weights(workdir)[0])
    config.data.source, config.data_dir = "paper", str(folder)
    config.eval.final_split = "test/Rain100H"
    return config


@pytest.fixture
def rain(tiny_workdir, rain_folder):
    return config_of(tiny_workdir, rain_folder)


@pytest.fixture(scope="module")
def measured(tiny_workdir, rain_folder, tmp_path_factory):
    """(metrics, folder) of that model on one device."""
    out = tmp_path_factory.mktemp("eval") / "1"
    return evaluate_workdir(
        config_of(tiny_workdir, rain_folder),
        tiny_workdir,
        0,
        names=["derain"],
        out_dir=out,
        native=True,
        submission=True,
    ), out


def test_the_models_codec_is_measured_by_the_official_protocol():
    for name, protocol in (
        ("derain", "derain-y-matlab"),
        ("depth", "nyu-eigen-metric"),
        ("instance", "panoptic-instances"),
    ):
        task = SCENES_TASKS[name].official(TASKS[name])
        assert task == dataclasses.replace(SCENES_TASKS[name], protocol=protocol)
    for name in ("semantic", "panoptic"):
        with pytest.raises(
            ValueError, match=f"Task '{name}': the model paints 16 classes .*train it on them first"
        ):
            SCENES_TASKS[name].official(TASKS[name])


def test_tasks_without_data_are_left_out_by_name(rain, log):
    data = open_data(rain)
    count, *lines = sorted(log(), key=lambda line: not line.startswith("rain13k/test"))
    assert count.endswith("(usually 100)")  # which the source says of itself
    assert list(data.tasks) == list(data.sources) == ["derain"] and data.train_sources == {}
    assert data.tasks["derain"].protocol == "derain-y-matlab" and len(data.sources["derain"]) == 2
    assert [line.split()[0] for line in lines] == [
        name for name in rain.eval.tasks if name != "derain"
    ]
    assert all("is left out: " in line and "\n" not in line for line in lines)


def test_a_task_that_was_asked_for_must_be_there(rain, tmp_path):
    with pytest.raises(ValueError, match="unknown split of lol|holds no folder light_enhance"):
        open_data(rain, ["derain", "light"])
    rain.data_dir = str(tmp_path)
    with pytest.raises(ValueError, match=f"nothing to measure in {tmp_path}"):
        open_data(rain)


def test_a_model_of_the_scenes_on_rain_images(measured):
    """From weights and a folder of images to figures of both resolutions and files, by one call."""
    metrics, out = measured
    assert (
        metrics["derain/examples"] == 2
        and np.isfinite([metrics["derain/psnr"], metrics["derain/psnr_whole"]]).all()
    )
    assert (
        metrics["trivial/derain/psnr"] < 13
        and metrics["derain/psnr_whole"] < metrics["ceiling/derain/psnr_whole"]
    )
    assert sorted(
        path.relative_to(out / "submission").as_posix() for path in out.rglob("submission/*/*")
    ) == [f"{name}/{key}.png" for name in ("derain", "derain_whole") for key in "12"]


def test_a_model_is_sampled_as_the_config_of_the_evaluation_says(rain, tiny_workdir, tmp_path):
    """And its figures lie beside its own, in a folder that names what was chosen."""
    workdir = tmp_path / "run"
    shutil.copytree(tiny_workdir, workdir)
    chosen = {"x_init": "gaussian", "sampler": "ddim", "steps": 2, "samples": 3}
    rain.diffusion.update(chosen)
    metrics = evaluate_workdir(rain, workdir, 0, names=["derain"], native=False)
    (out,) = (path for path in (workdir / "eval").iterdir() if path.is_dir())
    assert out.name == "0_2steps_ddim_gaussian_3samples"
    card = json.loads((out / "card.json").read_text())
    assert {field: card[field] for field in chosen} == chosen
    # Of the model: how it was evaluated is said beside.
    assert card["trained_for"].endswith("one_step takes 1 step from zeros")
    assert f"- trained_for: {card['trained_for']}\n" in (out / "card.md").read_text()

    # As `predict_rgb` draws them: one batch, three seeds.
    model = load(workdir).with_sampling(**chosen)
    data = open_data(rain, ["derain"])
    task, source = data.tasks["derain"], data.sources["derain"]
    examples = [source[index] for index in range(2)]
    draws = np.stack(
        [model.predict_rgb([one["image"] for one in examples], "derain", seed=k) for k in range(3)]
    )
    metric = task.metric()
    for index, example in enumerate(examples):
        prediction = task.decode_samples({"derain": draws[:, index]}, (24, 40), 3)
        metric.update(task.label_of(prediction), example["label"])
    assert metrics["derain/psnr"] == metric.compute()["psnr"]
    assert 0 < metrics["derain/ause"] < 1


def test_a_folder_that_another_evaluation_writes_into_is_refused(rain, tiny_workdir, tmp_path):
    with hold(tmp_path / "1"), pytest.raises(InUseError, match="/1 is in use by process .* since "):
        evaluate_workdir(rain, tiny_workdir, 0, names=["derain"], out_dir=tmp_path / "1")
    assert list(tmp_path.iterdir()) == []


SEVERAL_DEVICES = """
import json, pathlib, sys
import jax, ml_collections
from generalist.evaluation import workdir as evaluation
from generalist.inference import generalist

# Bytes on each device whenever the model has placed a parameter, and when it has sampled.
held = []

def measure():
    buffers = {str(device): {} for device in jax.devices()}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            pointer = shard.data.unsafe_buffer_pointer()
            buffers[str(shard.device)][pointer] = shard.data.nbytes
    held.append({device: sum(sizes.values()) for device, sizes in buffers.items()})

def measured(function):
    def call(*args):
        result = function(*args)
        measure()
        return result
    return call

folder, workdir = map(pathlib.Path, sys.argv[1:])
config = ml_collections.ConfigDict(json.loads((folder / "config.json").read_text()))
generalist.place_on_devices = measured(generalist.place_on_devices)
generalist.Generalist._sample_batch = measured(generalist.Generalist._sample_batch)
evaluation.evaluate_workdir(config, workdir, 0, names=["derain"], out_dir=folder / "eval" / "1")
(folder / "held.json").write_text(json.dumps(held))
"""


def test_several_devices_reach_the_figures_of_one(measured, rain, tiny_workdir, tmp_path):
    """4 devices, 2 images: the batch is filled up, and what fills it is not counted."""
    (tmp_path / "config.json").write_text(json.dumps(rain.to_dict()))
    (tmp_path / "evaluate.py").write_text(SEVERAL_DEVICES)
    command = [sys.executable, str(tmp_path / "evaluate.py"), str(tmp_path), str(tiny_workdir)]
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(generalist.__file__).parents[1]),
    }
    subprocess.run(command, env=environment, check=True, capture_output=True)
    metrics, card = (
        json.loads((tmp_path / "eval" / "1" / name).read_text())
        for name in ("metrics.json", "card.json")
    )
    assert card["devices"] == 4
    for key in (
        "derain/psnr",
        "derain/ssim",
        "derain/examples",
        "trivial/derain/psnr",
        "ceiling/derain/psnr_whole",
    ):
        assert metrics[key] == pytest.approx(measured[0][key], rel=1e-5)

    # Each device holds what samples once, at any time: not its text encoder, and no second copy.
    weights = load_weights(tiny_workdir)[1]
    once = sum(x.nbytes for path, x in weights.items() if not path.startswith("text_encoder."))
    held = json.loads((tmp_path / "held.json").read_text())
    assert len(held) > 50 and once > 1_000_000
    batch = 100_000  # images and prompts
    assert all(once <= size < once + batch for size in held[-1].values())
    assert max(max(found.values()) for found in held) < once + batch
