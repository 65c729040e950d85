"""Promise: every command and every line of Python in the README works as it stands there."""

import pathlib
import re
import shlex

import cv2
import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from generalist import cli
from generalist.training import launch

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
SHELL = (
    "\n".join(re.findall(r"```sh\n(.*?)```", README, re.S))
    + "\n"
    + "\n".join(re.findall(r"`([^`\n]*python main\.py [^`\n]*)`", README))
)


def lines(program: str) -> list[str]:
    """The commands of the README that run `program`, without comments and environment variables."""
    commands = [line.split("#")[0].strip() for line in SHELL.splitlines()]
    commands = [re.sub(r"^(\w+=\S+ )+", "", command) for command in commands]
    return sorted({command for command in commands if command.startswith(program + " ")})


def test_the_readme_has_commands_of_each_kind():
    assert len(lines("python main.py")) >= 5
    assert len(lines("generalist")) >= 4
    assert lines("make") == ["make demo", "make test"]


@pytest.mark.parametrize("command", lines("python main.py"))
def test_main_understands_its_lines(command, monkeypatch):
    monkeypatch.setenv("GENERALIST_DATA_DIR", "")
    values = launch.parse(shlex.split(command)[1:])
    assert values.config.total_steps > 0


@pytest.mark.parametrize("command", lines("generalist"))
def test_the_command_line_understands_its_lines(command):
    arguments = cli.make_parser().parse_args(shlex.split(command)[1:])
    assert callable(arguments.run)


@pytest.mark.parametrize("command", lines("make"))
def test_make_has_its_targets(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)


def test_the_python_of_the_readme_runs_on_an_image_of_any_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    scope: dict = {}
    exec(PYTHON[0], scope)
    assert scope["result"]["depth"].depth.shape == (48, 80)
    assert (tmp_path / "panoptic.png").is_file() and (tmp_path / "panoptic.json").is_file()


def test_published_weights_load_as_the_readme_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
    ).save_pretrained("stable-diffusion-v1-5/unet")
    scope = {
        "x": np.ones((1, 8, 8, 4), np.float32),
        "timestep": np.ones(1),
        "tokens": np.ones((1, 3, 6), np.float32),
    }
    exec(PYTHON[1], scope)
    assert scope["eps"].shape == (1, 8, 8, 4)


def test_files_the_readme_names_exist():
    named = re.findall(r"\]\((?!http)([^)]+)\)", README) + re.findall(
        r"`((?:docs|notebooks|generalist)/[\w./]+)`", README
    )
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []
