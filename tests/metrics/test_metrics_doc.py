"""Promise: docs/metrics.md names every protocol, and its Python runs as it stands there."""

import pathlib
import re

import pytest

from generalist.metrics import PROTOCOLS

TEXT = (pathlib.Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def test_the_table_has_every_protocol_and_no_other():
    assert sorted(re.findall(r"^\| `([^`]+)` \|", TEXT, re.M)) == sorted(PROTOCOLS)


def test_the_example_runs_and_says_what_it_returns(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    names = {}
    exec(compile(example, "docs/metrics.md", "exec"), names)
    assert (names["values"]["abs_rel"], names["values"]["delta1"]) == (pytest.approx(0.1), 1.0)
    assert float(capsys.readouterr().out) == pytest.approx(
        (names["values"]["rmse"] + 0.5) / 2, rel=0.01
    )  # 9.5 is nearly 10 m, where it is clamped
