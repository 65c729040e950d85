"""Promise: every command and every line of Python in the README and the guides works."""

import pathlib
import re
import shlex

import cv2
import numpy as np
import pytest
from diffusers import UNet2DConditionModel

from generalist import cli
from generalist.training import flags

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "results/README.md"])
}


def shell(text: str) -> str:
    """The shell blocks of a page, continued lines joined, and its inline commands."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).replace("\\\n", " ")
    inline = re.findall(r"`([^`\n]*python main\.py [^`\n]*|python benchmarks/[^`\n]*)`", text)
    return "\n".join([blocks, *inline])


def lines(program: str, *pages: str) -> list[str]:
    """Commands of the pages (default: all) that run `program`, without comments and variables."""
    commands = []
    for page in pages or PAGES:
        for line in shell(PAGES[page]).splitlines():
            command = re.sub(r"^(\w+=\S+ )+", "", line.split("  #")[0].strip())
            if command.startswith(program):
                commands.append(command)
    return sorted(set(commands))


def python(page: str) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", PAGES[page], re.S)


def test_the_readme_has_commands_of_each_kind():
    assert "python main.py --config=configs/multitask.py" in lines("python main.py ", "README.md")
    assert len(lines("generalist ", "README.md")) >= 4
    assert lines("make ", "README.md") == ["make demo", "make test"]


def test_the_guides_have_commands_of_each_kind():
    assert len(lines("python main.py ")) >= 15
    assert len(lines("generalist ")) >= 15
    assert len(lines("python benchmarks/")) >= 5


@pytest.mark.parametrize("command", lines("python main.py "))
def test_main_understands_its_lines(command, monkeypatch):
    monkeypatch.setenv("GENERALIST_DATA_DIR", "")
    # The reader's own config file is a copy of this one.
    command = command.replace("--config=my_config.py", "--config=configs/own_data.py")
    # A number that each process has for itself.
    command = re.sub(r"--process_id=\S+", "--process_id=0", command)
    values = flags.parse(shlex.split(command)[1:])
    assert values.config.total_steps > 0


@pytest.mark.parametrize("command", lines("generalist "))
def test_the_command_line_understands_its_lines(command):
    arguments = cli.make_parser().parse_args(shlex.split(command)[1:])
    assert callable(arguments.run)


@pytest.mark.parametrize("command", lines("make "))
def test_make_has_its_targets(command):
    assert re.search(rf"^{command.split()[1]}:", (ROOT / "Makefile").read_text(), re.M)


@pytest.mark.parametrize("command", lines("python benchmarks/"))
def test_benchmarks_have_the_flags_they_are_shown_with(command):
    _, script, *arguments = shlex.split(command)
    source = (ROOT / script).read_text()
    flags = [argument for argument in arguments if argument.startswith("--")]
    assert [flag for flag in flags if f'"{flag}"' not in source] == []


def test_the_python_of_the_readme_runs_on_an_image_of_any_size(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    scope: dict = {}
    exec(python("README.md")[0], scope)
    assert scope["result"]["depth"].depth.shape == (48, 80)
    assert (tmp_path / "panoptic.png").is_file() and (tmp_path / "panoptic.json").is_file()


def test_the_python_of_getting_started_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8))
    (program,) = python("docs/getting_started.md")
    scope: dict = {}
    exec(program.replace('"runs/multitask"', '"scenes"'), scope)
    assert scope["depth"].shape == scope["classes"].shape == (48, 80)
    assert scope["classes"].max() < len(scope["result"]["semantic"].names)
    assert scope["picture"].dtype == np.uint8 and scope["picture"].shape == (48, 80, 3)


def test_published_weights_load_as_the_guide_says(tmp_path, monkeypatch):
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
    (program,) = python("docs/weights.md")
    exec(program, scope)
    assert scope["eps"].shape == (1, 8, 8, 4)
