"""The registry: names, prompts and protocols of the two task sets, and errors that help."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from generalist.tasks import SCENES_TASKS, TASK_SETS, TASKS, get_tasks

ALL = [(set_name, name) for set_name, tasks in TASK_SETS.items() for name in tasks]


def test_names():
    assert list(TASKS) == [
        "depth",
        "semantic",
        "coco_semantic",
        "instance",
        "denoise",
        "derain",
        "light",
        "panoptic",
    ]
    assert list(SCENES_TASKS) == [
        "depth",
        "semantic",
        "instance",
        "denoise",
        "derain",
        "light",
        "panoptic",
        "text_to_image",
    ]
    assert all(task.name == name for tasks in TASK_SETS.values() for name, task in tasks.items())


def test_prompts_are_the_papers():
    prompts = {
        "depth": "Performance depth estimation",
        "semantic": "Performance semantic segmentation",
        "instance": "Performance instance segmentation",
        "denoise": "Performance image restoration denoising",
        "derain": "Performance image restoration deraining",
        "light": "Performance image restoration light enhancement",
    }
    for tasks in TASK_SETS.values():
        assert {name: tasks[name].prompt for name in prompts} == prompts
    assert TASKS["coco_semantic"].prompt == "Performance panoptic semantic segmentation"


@pytest.mark.parametrize("set_name,name", ALL)
def test_metric_follows_the_protocol_of_the_task(set_name, name):
    task = TASK_SETS[set_name][name]
    assert task.metric().protocol == task.protocol


def test_protocols():
    assert {name: TASKS[name].protocol for name in ("depth", "denoise", "derain", "light")} == {
        "depth": "nyu-eigen-metric",
        "denoise": "sidd-rgb-matlab",
        "derain": "derain-y-matlab",
        "light": "lol-rgb-painter",
    }
    assert {
        name: SCENES_TASKS[name].protocol for name in ("depth", "denoise", "derain", "light")
    } == {
        "depth": "native",
        "denoise": "rgb-skimage",
        "derain": "rgb-skimage",
        "light": "rgb-skimage",
    }


@pytest.mark.parametrize("set_name,name", ALL)
def test_tasks_pickle(set_name, name):
    task = TASK_SETS[set_name][name]
    assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize("set_name,name", [pair for pair in ALL if pair[1] != "panoptic"])
def test_confidence_is_a_share_at_the_size_that_was_asked_for(set_name, name):
    prediction = TASK_SETS[set_name][name].decode(
        np.random.default_rng(0).uniform(-1, 1, (6, 8, 3)).astype(np.float32), (12, 16)
    )
    assert prediction.confidence.shape == (12, 16)
    assert 0 <= prediction.confidence.min() and prediction.confidence.max() <= 1


def test_get_tasks():
    assert get_tasks("paper") == TASKS
    assert list(get_tasks("scenes", ["light", "depth"])) == ["light", "depth"]


def test_unknown_names():
    with pytest.raises(
        ValueError, match="unknown task set 'scene'. Did you mean 'scenes'. Allowed: paper, scenes"
    ):
        get_tasks("scene")
    with pytest.raises(
        ValueError, match="task of the set 'paper' 'dept'. Did you mean 'depth'.*coco_semantic"
    ):
        get_tasks("paper", ["dept"])
    with pytest.raises(ValueError, match="'zzz'. Allowed: depth"):
        get_tasks("scenes", ["zzz"])


def test_codec_version():
    TASKS["depth"].check_version(1)
    with pytest.raises(
        ValueError,
        match="'depth': the checkpoint was trained with codec version 2, this is version 1",
    ):
        TASKS["depth"].check_version(2)


def test_importing_tasks_loads_neither_jax_nor_metrics():
    code = (
        "import sys, generalist.tasks; "
        "print([m for m in ('jax', 'flax', 'generalist.metrics') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
