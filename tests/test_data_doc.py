"""Promise: docs/data.md states what the readers do, and its commands are understood."""

import pathlib
import re
import shlex

import pytest

from generalist import cli
from generalist.input_pipeline.sources import SOURCES

TEXT = (pathlib.Path(__file__).parents[1] / "docs/data.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.S)).replace("\\\n", " ")
LINES = [line.split("#")[0].strip() for line in SHELL.splitlines()]
COMMANDS = [line for line in LINES if line]


@pytest.mark.parametrize("command", COMMANDS)
def test_its_commands_are_understood(command):
    assert command.startswith("generalist data ")
    assert callable(cli.make_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.parametrize("name", SOURCES)
def test_it_says_where_a_data_set_comes_from_its_license_and_its_counts(name):
    source = SOURCES[name]
    part = TEXT.split(f"## {name}: ")[1].split("\n## ")[0].replace("`", "").replace('"', "'")
    assert f"| from | {source.WHERE} |" in part and f"| license | {source.LICENSE} |" in part
    for split in source.SPLITS:
        assert f"{split.removeprefix('test/')} {source.USUAL[split]:,}" in part
    for folder in source.FOLDERS[:1]:
        assert f"\n{folder}/" in part
