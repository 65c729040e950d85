"""Promise: the exit codes are those of the table in the guide."""

import pathlib
import re

import pytest
from jax.errors import JaxRuntimeError

from generalist import cli
from generalist.cli import doctor
from generalist.devices.signals import EXIT_PREEMPTED
from generalist.training import launch
from generalist.training.checkpoint import CheckpointError

GUIDE = pathlib.Path(__file__).parents[1] / "docs/getting_started.md"


@pytest.fixture(scope="module")
def table() -> dict[int, tuple[str, str]]:
    """{code: what it means for main.py and for generalist}."""
    text = GUIDE.read_text(encoding="utf-8").partition("## Exit codes")[2]
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|$", text, re.M)
    return {int(code): (main.strip(), command.strip()) for code, main, command in rows}


def test_the_table_has_every_code(table):
    assert list(table) == [0, 1, 2, 3, 130, 143]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OSError(28, "No space left"), "disk"),
        (MemoryError(), "memory"),
        (JaxRuntimeError("INTERNAL: the device is gone"), "device"),
        (ValueError("UNKNOWN: Gloo failed: Connection closed"), "another process"),
        (FloatingPointError("loss nan"), "nan"),
        (CheckpointError("not written"), "disk"),
        (ValueError("batch_size=0"), "config"),
        (OSError(36, "File name too long"), "config"),
        (NotADirectoryError(20, "Not a directory"), "config"),
        (ImportError("no scipy"), "data"),
    ],
)
def test_main_ends_with_the_code_of_its_row(table, error, word):
    assert word in table[launch.exit_code(error)][0]


def test_a_run_that_is_stopped_is_resumed(table):
    assert "SIGTERM" in table[EXIT_PREEMPTED][0]


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (ValueError("no such task"), "nothing was done"),
        (OSError("no such file"), "nothing was done"),
        (MemoryError(), "nothing was done"),
        (KeyboardInterrupt(), "Ctrl-C"),
    ],
)
def test_a_command_ends_with_the_code_of_its_row(table, error, word, monkeypatch, capsys):
    def run(args):
        raise error

    monkeypatch.setattr(doctor, "run", run)
    code = cli.main(["doctor"])
    assert word in table[code][1]
    printed = capsys.readouterr().err
    assert printed.startswith("generalist: ") and printed.count("\n") == 1


@pytest.mark.parametrize("line", ["doctor --all", "predict a.png --steps x", "data", ""])
def test_a_line_that_argparse_refuses_ends_with_2(table, line, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(line.split())
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err


def test_the_codes_of_single_commands_are_those_of_the_table(table):
    """`tests/test_cli.py` and `tests/input_pipeline/test_check.py` run them."""
    assert "`predict`: some images failed" in table[1][1]
    assert "`doctor`: a warning" in table[1][1]
    assert "`data check`: data are missing" in table[3][1]
