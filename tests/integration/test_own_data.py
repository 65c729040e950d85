"""Promise: folders of pairs and a few config lines train, evaluate and predict.

The workdir alone knows the tasks.
"""

import json
import pathlib
import re
import shlex
import textwrap

import cv2
import numpy as np
import pytest

import generalist
from generalist import cli
from generalist.training import launch

CONFIG = """
from generalist.configs import common

TASKS = {
    "crop": {
        "kind": "classes",
        "folder": "crop",
        "classes": (("soil", 0), ("wheat", 1)),
        "void": (255,),
    },
    "height": {
        "kind": "scalar",
        "folder": "height",
        "range": (0.0, 2.0),
        "unit": "m",
        "scale": 0.01,
    },
    "plants": {"kind": "instances", "folder": "plants"},
    "dehaze": {"kind": "image", "folder": "dehaze"},
}


def get_config(arg=""):
    c = common.tiny(common.small(common.own(TASKS), scratch=True))
    c.total_steps = 2
    c.optimizer.warmup_steps = 1
    c.eval.batch_size = 1
    return c
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A square on a plain ground, 40 x 48: class 1, 1.5 m high, instance 1; dehazed is brighter."""
    root = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    for split, number in (("train", 3), ("val", 2)):
        for index in range(number):
            top, left = rng.integers(0, 20, 2)
            mask = np.zeros((40, 48), np.uint8)
            mask[top : top + 16, left : left + 16] = 1
            image = np.repeat(60 + 100 * mask[..., None], 3, -1)
            for task, label in (
                ("crop", mask),
                ("height", mask * 150),
                ("plants", mask),
                ("dehaze", image + 40),
            ):
                for half, array in (("images", image), ("labels", label)):
                    path = root / task / split / half / f"{index}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    cv2.imwrite(str(path), array)
    return root


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "fields.py").write_text(textwrap.dedent(CONFIG))
    assert (
        launch.main(
            [
                "main.py",
                f"--config={folder}/fields.py",
                f"--config.data_dir={data}",
                f"--workdir={folder}/run",
            ]
        )
        == 0
    )
    return folder / "run"


def test_every_kind_of_task_is_trained_and_measured_beside_trivial_and_ceiling(workdir):
    metrics = json.loads((workdir / "eval/2/metrics.json").read_text())
    for figure in ("crop/miou", "height/mae", "height/rms_error", "plants/pq", "dehaze/psnr"):
        assert {figure, f"ceiling/{figure}"} <= metrics.keys()
    assert metrics["trivial/height/mae"] > 0.1 and metrics["ceiling/height/mae"] < 0.2
    assert metrics["height/examples"] == 2
    assert {path.name for path in (workdir / "eval/2/panels").iterdir()} >= {
        "crop.png",
        "height.png",
        "plants.png",
        "dehaze.png",
    }


def test_the_workdir_alone_predicts_every_task(workdir, tmp_path):
    model = generalist.load(workdir)
    image = np.full((50, 70, 3), 90, np.uint8)
    results = model.predict(image, ["crop", "height", "plants", "dehaze"])
    assert {name: result.render().shape for name, result in results.items()} == dict.fromkeys(
        results, (50, 70, 3)
    )
    assert results["crop"].names == ("soil", "wheat")
    height = results["height"]
    assert (
        height.values.dtype == np.float32
        and 0.0 <= height.values.min() <= height.values.max() <= 2.0
    )
    height.save(tmp_path / "height.png")
    stored = cv2.imread(str(tmp_path / "height.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(stored / 65535 * 2.0, height.values, atol=2 / 65535)
    with pytest.raises(ValueError, match="unknown own task 'heigth'. Did you mean 'height'?"):
        model.predict(image, "heigth")


def test_a_missing_folder_is_said_before_anything_is_compiled(workdir, tmp_path, capsys):
    assert (
        launch.main(
            [
                "main.py",
                f"--config={workdir.parent}/fields.py",
                f"--config.data_dir={tmp_path}",
                "--workdir=never",
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "holds no folder crop" in error and "crop/{train,val}/images/<name>" in error


def test_a_missing_evaluation_split_is_said_before_anything_is_compiled(
    data, workdir, tmp_path, capsys
):
    for task in ("crop", "height", "plants", "dehaze"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "train").symlink_to(data / task / "train")
    command = [
        "main.py",
        f"--config={workdir.parent}/fields.py",
        f"--config.data_dir={tmp_path}",
        f"--workdir={tmp_path}/run",
    ]
    assert launch.main(command) == 2
    printed = capsys.readouterr()
    assert (
        f"{tmp_path}/crop/val/images: no such folder. "
        "Layout expected below data_dir for task 'crop':" in printed.err
    )
    assert "compiled" not in printed.out and not (tmp_path / "run").exists()


def test_the_config_of_the_docs_is_a_config():
    text = (pathlib.Path(generalist.__file__).parents[1] / "docs/own_data.md").read_text()
    scope: dict = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S).group(1), scope)
    config = scope["get_config"]()
    commands = [
        shlex.split(line, comments=True) for line in re.findall(r"^generalist data .*", text, re.M)
    ]
    assert [cli.make_parser().parse_args(command[1:]).config for command in commands] == [
        "my_config.py",
        "my_config.py",
    ]
    assert set(config.tasks.weights) == {"crop", "height"} and config.data.source == "folder"
