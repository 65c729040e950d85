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


SCENES = "--config=configs/multitask.py:scenes,scratch"


@pytest.mark.parametrize(
    ("words", "field", "value"),
    [
        (["--config.data_dir", "/some data"], "data_dir", "/some data"),
        (["--config.optimizer.lr", "-1"], "optimizer.lr", -1.0),
        (["-config.seed", "3", "--config.seed=4"], "seed", 4),
        (["--config.model.pooled_text"], "model.pooled_text", True),
        (["--config.model.pooled_text", "False"], "model.pooled_text", False),
        (["--config.eval.tasks=depth"], "eval.tasks", ("depth",)),
        (["--config.eval.tasks='a','b'"], "eval.tasks", ("a", "b")),
        (["--config.eval.tasks=a", "--config.eval.tasks=b"], "eval.tasks", ("b",)),
        (["--config.eval.tasks=()"], "eval.tasks", ()),
        (["--config.model.init_from", "a=b,c d"], "model.init_from", "a=b,c d"),
    ],
)
def test_every_word_is_used(words, field, value):
    """`--flag value` is `--flag=value`, and of a flag given twice the last one counts."""
    config = flags.parse(["main.py", *words, SCENES]).config
    for name in field.split("."):
        config = config[name]
    assert config == value and type(config) is type(value)


def test_a_data_directory_after_a_space_decides_the_data_too():
    words = ["--config", "configs/multitask.py:paper", "--config=configs/multitask.py"]
    values = flags.parse(["main.py", *words, "--config.data_dir", "/some/data"])
    assert (values.config.data.source, values.config.data_dir) == ("paper", "/some/data")
    assert values.workdir == "runs/multitask"
    assert flags.parse(["main.py", *words]).config.data.source == "paper"  # as the environment says


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stray"], "the word 'stray' belongs to no flag"),
        (["--config.seed=1", "2"], "the word '2' belongs to no flag"),
        (["--", "--config.seed=1"], "the word '--' belongs to no flag"),
        (["--flagfile=flags.txt"], "unknown flag --flagfile"),
        (["--undefok=wrkdir", "--wrkdir=a"], "unknown flag --undefok"),
        (["--noconfig.model.pooled_text"], "unknown flag --noconfig.model.pooled_text"),
        (["--workdir="], "--workdir needs a value"),
        (["--workdir", "--mode=eval"], "--workdir needs a value"),
        (["--mode=evl"], "unknown --mode 'evl'. Did you mean 'eval'?"),
        (["--process_id=one"], "--process_id=one: allowed is a whole number"),
        (["--config.seed"], "--config.seed needs a value: a whole number, such as 0"),
        (["--config.seed=1e3"], "--config.seed=1e3: allowed is a whole number"),
        (["--config.model.pooled_text=maybe"], "allowed is true or false"),
        (["--config.model.unet.channels=(1,2"], "(1,2: allowed is values in brackets with commas"),
        (["--config.eval.tasks=depth,light"], "allowed is values in brackets with commas"),
        (["--config.model.unet.channels[0]=5"], "Did you mean 'model.unet.channels'?"),
        (["--config.optimizer=5"], "unknown field --config.optimizer"),
    ],
)
def test_every_other_word_is_refused(words, said, capsys):
    assert launch.main(["main.py", SCENES, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def get_config(:", "SyntaxError"),
        ("x = 1", "has no attribute 'get_config'"),
        ("def get_config(arg=''): return 3", "returned int, not a ConfigDict"),
        ("def get_config(): return unknown", "NameError"),
        ("import nowhere", "No module named 'nowhere'"),
    ],
)
def test_a_config_file_with_a_fault_is_named(text, said, tmp_path, capsys):
    """In a folder whose name could be taken for a config and its words."""
    file = tmp_path / "a.py:b [1]" / "mine.py"
    file.parent.mkdir()
    file.write_text(text, encoding="utf-8")
    assert launch.main(["main.py", f"--config={file}"]) == 2
    error = capsys.readouterr().err
    assert said in error and str(file) in error and "Traceback" not in error


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
