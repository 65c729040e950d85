"""Promise: a user's path is data, never a pattern, whatever its letters or bytes."""

import os
import pathlib
import shutil

import numpy as np
import pytest

import generalist
from generalist import cli
from generalist.console import show_log
from generalist.inference.images import read_image
from generalist.pictures import encode_png
from generalist.pretrained import parts, weights
from generalist.training import flags

NAMES = [
    "run [1] {a,b} *?",
    "back\\slash",
    "unet=lr=1e-3,b",
    "wörk 工作 \N{ROCKET}",
    os.fsdecode(b"no \xff utf-8"),
    "%s $HOME ~ #1 'q' \"q\"",
    "-dash.py:words",
]


@pytest.fixture(params=NAMES, ids=range(len(NAMES)))
def folder(request, tmp_path):
    """A folder with such a name."""
    path = tmp_path / request.param
    path.mkdir()
    return path


def test_models_photographs_and_results_lie_anywhere(
    folder, tiny_workdir, tiny_model, monkeypatch, capsys
):
    model = folder / "model"
    shutil.copytree(tiny_workdir, model)
    photo = folder / f"{folder.name}.png"
    photo.write_bytes(encode_png(np.zeros((32, 32, 3), np.uint8)))

    # A link is what it leads to.
    link = folder / "link"
    link.symlink_to(model)
    assert weights.load_weights(link)[1].keys() == weights.load_weights(model)[1].keys()
    assert parts.parse(str(model)) == {}
    assert read_image(photo).shape == (32, 32, 3)

    monkeypatch.setattr(generalist, "load", lambda source: tiny_model, raising=False)
    out = folder / "out"
    command = ["predict", f"{photo}", f"--from={model}", f"--out={out}"]
    assert cli.main(command) == 0, capsys.readouterr().err
    assert (out / f"{folder.name}.depth.png").is_file()


def test_folders_of_parts_may_have_commas_and_equals_signs():
    assert parts.parse("unet=/a,b/c=d,image_encoder=/e f") == {
        "unet": "/a,b/c=d",
        "image_encoder": "/e f",
    }
    with pytest.raises(ValueError, match="Did you mean 'unet'"):
        parts.parse("unte=/a")


def test_a_config_and_a_workdir_lie_anywhere(folder, monkeypatch, capsys):
    monkeypatch.setenv("GENERALIST_DATA_DIR", "")
    file = folder / "my config.py"
    shutil.copy(pathlib.Path(flags.PACKAGE) / "configs/multitask.py", file)
    show_log()  # as main.py does, before anything is printed
    given = [
        "main.py",
        f"--config={file}:tiny",
        f"--workdir={folder}",
        "--config.data_dir",
        "a=b,c",
    ]
    values = flags.parse(given)
    assert (values.workdir, values.config.data_dir) == (str(folder), "a=b,c")
    assert values.config.total_steps == 20
