"""Promise: the user's line works in all spellings, and a mistake's message says what to do."""

import pathlib

import pytest

from generalist.training import flags, launch

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "generalist/configs/multitask.py"


@pytest.fixture(autouse=True)
def no_data_directory(monkeypatch):
    monkeypatch.setenv(
        "GENERALIST_DATA_DIR", ""
    )  # restored afterwards, whatever the command line set


@pytest.mark.parametrize(
    "spelling",
    ["configs/multitask.py", "generalist/configs/multitask.py", str(CONFIG), "configs/multitask"],
)
@pytest.mark.parametrize("folder", [ROOT, pathlib.Path("/")])
def test_the_config_is_found_from_anywhere(spelling, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    config = flags.parse(["main.py", f"--config={spelling}"]).config
    assert config.data.source == "scenes" and config.model.init_from == "scenes"
    assert (
        capsys.readouterr().out
        == f"config {CONFIG} (no data directory is given): the built-in scenes\n"
    )


@pytest.mark.parametrize(
    ("arguments", "source", "init_from"),
    [
        (["--config=configs/multitask.py:scenes"], "scenes", "scenes"),
        (["--config=configs/multitask.py:scenes,scratch"], "scenes", ""),
        (["--config=configs/multitask.py:paper"], "paper", ""),
        (["--config", "configs/multitask.py", "--config.data_dir=/data"], "paper", ""),
        (["--config=configs/multitask.py:scenes", "--config.data_dir=/data"], "scenes", "scenes"),
    ],
)
def test_one_rule_decides_the_data(arguments, source, init_from):
    config = flags.parse(["main.py", *arguments]).config
    assert (config.data.source, config.model.init_from) == (source, init_from)


def test_the_environment_variable_is_a_data_directory(monkeypatch):
    monkeypatch.setenv("GENERALIST_DATA_DIR", "gs://bucket/data")
    config = flags.parse(["main.py", "--config=configs/multitask.py"]).config
    assert (config.data.source, config.data_dir) == ("paper", "gs://bucket/data")


def test_any_field_can_be_overridden():
    values = flags.parse(
        [
            "main.py",
            "--config=configs/multitask.py",
            "--config.optimizer.lr=1e-4",
            "--workdir=w",
            "--config.model.unet.channels=(32, 64)",
        ]
    )
    assert values.config.optimizer.lr == 1e-4
    assert values.config.model.unet.channels == (32, 64)
    assert values.workdir == "w"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "python main.py --config=configs/multitask.py"),
        (["--confg=configs/multitask.py"], "Did you mean 'config'?"),
        (["--config=configs/multitsk.py"], "configs/multitask.py"),
        (["--config=configs/multitask.py:secnes"], "choose 'scenes' or 'paper'"),
        (
            ["--config=configs/multitask.py", "--config.optimiser.lr=1"],
            "Did you mean 'optimizer.lr'?",
        ),
        (["--config=configs/multitask.py", "--config.batch_size=many"], "--config.batch_size=many"),
        (["--config=configs/multitask.py", "--wrkdir=w"], "Did you mean 'workdir'?"),
        (["--config=configs/multitask.py:dept,scenes"], "Did you mean 'depth'?"),
        (
            ["--config=configs/multitask.py", "--config.eval.tasks=('dpth',)"],
            "Did you mean 'depth'?",
        ),
        (
            ["--config=configs/multitask.py", "--config.model.init_from=/nowhere"],
            "no config.json in /nowhere",
        ),
        (
            ["--config=configs/multitask.py", "--config.optimizer.frozen=('txt_encoder',)"],
            "matches no parameter",
        ),
        (["--config=configs/multitask.py", "--config.model.dtype=float8"], "bfloat16"),
        (
            [
                "--config=configs/multitask.py:scenes,scratch",
                "--config.diffusion.prediction_type=eps",
            ],
            "choose prediction_type 'x0' or 'v'",
        ),
        (
            ["--config=configs/multitask.py:scenes,scratch", "--config.diffusion.sampler=ddmi"],
            "ddim",
        ),
    ],
)
def test_a_mistake_gets_a_message_and_exit_code_2(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert launch.main(["main.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config=configs/multitask.py:paper"],
        ["--config=configs/multitask.py", "--config.data_dir=/nowhere"],
    ],
)
def test_the_paper_without_data_lists_every_data_set_its_origin_and_layout(
    arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert launch.main(["main.py", *arguments]) == 2
    error = capsys.readouterr().err
    assert "6 data set(s) missing" in error
    for said in (
        "nyu_depth_v2",
        "ADEChallengeData2016",
        "annotations/panoptic_",
        "SIDD_Medium_Srgb",
        "Rain100H",
        "our485",
    ):
        assert said in error
    assert list(tmp_path.iterdir()) == []
