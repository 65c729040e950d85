"""Promise: a run that is killed anywhere and started again ends in the same bits."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 24  # more than three kills leave behind them, however fast a step is
COMMAND = [
    sys.executable,
    ROOT / "main.py",
    f"--config={ROOT / 'tests/integration/tinier.py'}",
    f"--config.total_steps={STEPS}",
    "--config.checkpoint.every_steps=2",
    # A few kernels have Muon's state, the others AdamW's.
    r"--config.optimizer.muon=('mid_block\.resnets\.0\..*kernel$',)",
]


@pytest.fixture(scope="module")
def run():
    """Starts the run in a workdir; the compilation cache of conftest.py saves most of a restart."""
    environment = {
        name: value for name, value in os.environ.items() if name != "GENERALIST_DATA_DIR"
    }

    def start(workdir):
        return subprocess.Popen(
            [*COMMAND, f"--workdir={workdir}"],
            env=environment,
            cwd=workdir.parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    return start


def finish(process) -> str:
    """Returns the last line of a run that must end well."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output.strip().splitlines()[-1]


def kill_after(process, lines: int, delay: float, signum: int) -> str:
    """Sends a signal `delay` seconds after so many status lines; returns what was printed."""
    output = []
    seen = 0
    for line in process.stdout:
        output.append(line)
        seen += line.startswith("step ") and "|" in line
        if seen == lines:
            break
    time.sleep(delay)
    process.send_signal(signum)
    rest, _ = process.communicate(timeout=600)
    return "".join(output) + rest


@pytest.fixture(scope="module")
def undisturbed(run, tmp_path_factory):
    return finish(run(tmp_path_factory.mktemp("undisturbed") / "run"))


def test_three_kills_at_random_moments_change_nothing(run, undisturbed, tmp_path):
    moments = random.Random(0)
    for _ in range(3):
        process = run(tmp_path / "run")
        kill_after(process, moments.randint(1, 4), moments.uniform(0.0, 0.3), signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    last = finish(run(tmp_path / "run"))
    assert last.startswith("sha256 of parameters, EMA and step: ")
    assert last == undisturbed


def test_sigterm_saves_and_a_damaged_checkpoint_is_named_and_passed_over(
    run, undisturbed, tmp_path
):
    process = run(tmp_path / "run")
    output = kill_after(process, 5, 0.0, signal.SIGTERM)
    assert process.returncode == 143
    (saved,) = re.findall(r"SIGTERM: saved step (\d+) in", output)
    folders = {
        int(path.name): path
        for path in (tmp_path / "run/checkpoints").iterdir()
        if path.name.isdigit()
    }
    newest, before = sorted(folders, reverse=True)[:2]
    assert newest == int(saved)

    # One bit of its largest file.
    data = max(
        (path for path in folders[newest].rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    output, _ = run(tmp_path / "run").communicate(timeout=600)
    assert f"WARNING: checkpoint {folders[newest]}" in output
    assert f"resuming {tmp_path / 'run'} at step {before} of {STEPS}" in output
    assert output.strip().splitlines()[-1] == undisturbed
