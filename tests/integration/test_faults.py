"""Promise: what breaks in the middle of a run is named, and the checkpoints are good."""

import multiprocessing
import os
import pathlib
import re
import resource
import signal
import textwrap
import threading
import time

import cv2
import numpy as np
import pytest

from generalist.training import launch

CONFIG = """
from generalist.configs import common


def get_config(arg=""):
    tasks = {"dehaze": {"kind": "image", "folder": "dehaze"}}
    c = common.tiny(common.small(common.own(tasks), scratch=True))
    c.total_steps = 100_000
    c.model.unet.update({"channels": (8,), "attention_levels": (False,), "groups": 4})
    c.model.unet.update({"context_dim": 16, "refine": 0, "position": False})
    c.model.image_encoder.dim = c.model.text_encoder.dim = 8
    c.model.aligned_features = c.model.pooled_text = False
    c.checkpoint.every_steps = 5
    c.eval.panels = 0
    return c
"""


@pytest.fixture
def data(tmp_path):
    """Eight pairs of noise, and a config that would train on them for days."""
    (tmp_path / "endless.py").write_text(textwrap.dedent(CONFIG))
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for half in ("images", "labels"):
            folder = tmp_path / "data/dehaze" / split / half
            folder.mkdir(parents=True)
            for index in range(8):
                cv2.imwrite(
                    str(folder / f"{index}.png"), rng.integers(0, 256, (32, 32, 3), np.uint8)
                )
    return tmp_path / "data"


def break_after(workdir: pathlib.Path, steps: int, fault) -> threading.Thread:
    """Calls `fault` when the run has logged so many steps."""

    def watch():
        lines = workdir / "metrics.jsonl"
        while not (lines.exists() and len(lines.read_text().splitlines()) >= steps):
            time.sleep(0.01)
        fault()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def train(data, capsys):
    """Runs main.py with flags, breaks something after `steps` steps; (exit code, what it says)."""

    def run(*flags, steps=1, fault=lambda: None):
        root = data.parent
        broken = break_after(root / "run", steps, fault)
        code = launch.main(
            [
                "main.py",
                f"--config={root}/endless.py",
                f"--workdir={root}/run",
                f"--config.data_dir={data}",
                *flags,
            ]
        )
        broken.join(60)
        assert not broken.is_alive(), "the run stopped before that many steps"
        return code, capsys.readouterr().err

    return run


def checkpoints(workdir) -> list[int]:
    return sorted(
        int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()
    )


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_data_directory_that_vanishes_stops_the_run(data, train, caplog, on_error):
    code, error = train(
        f"--config.data.on_error={on_error}", fault=lambda: data.rename(data.with_name("unmounted"))
    )
    assert code == 2
    assert f"error: {data / 'dehaze'}: the folder is no longer there" in error
    assert "skipped" not in error + caplog.text  # not one file after the other


def test_an_example_damaged_in_mid_run_is_named(data, train):
    damaged = data / "dehaze/train/labels/3.png"
    code, error = train(fault=lambda: os.truncate(damaged, 60))
    assert code == 2
    assert (
        f"{damaged}: cannot be decoded (60 bytes" in error
        and "--config.data.on_error=skip" in error
    )


def test_a_reading_process_that_is_killed_stops_the_run(train):
    def kill():
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    code, error = train("--config.data.workers=1", fault=kill)
    assert code == 1
    assert (
        "a process that reads data died (exit code -9" in error and "--config.data.workers" in error
    )


def test_a_loss_that_is_not_finite_stops_the_run_and_the_checkpoints_before_it_stay(data, train):
    code, error = train(
        "--config.optimizer.lr=1e15",  # one step, and then powers of it
        "--config.checkpoint.every_steps=1",
    )
    assert code == 1
    assert "at step" in error and "tasks in the batch: dehaze" in error
    step = int(error.split("at step ")[1].split(";")[0])
    assert (
        checkpoints(data.parent / "run")[-1] == step - 1
    )  # the save that was under way is finished


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (
            2**16,
            "(model.safetensors|checkpoint of step 5 in .* failed)",
        ),  # whichever is written first
        (2**17, r"checkpoint of step \d+ in .* failed: .*The checkpoints before it are untouched"),
    ],
)
def test_a_full_disk_stops_the_run_and_says_so(data, train, limit, said):
    """Files have at most `limit` bytes, as at a quota: nothing fits, or all but a checkpoint."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        code, error = train(
            fault=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    (message,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert (
        re.search(said, message)
        and re.search("[Ff]ile too large", message)
        and "make room" in message.lower()
    )
