"""Promise: a run that is killed anywhere and started again ends in the same parameters, bit for bit."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, ROOT / "main.py", f"--config={ROOT / 'tests/integration/tiny.py'}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Starts the tiny run in a workdir; the compilation cache saves most of each further start."""
    environment = dict(os.environ, JAX_COMPILATION_CACHE_DIR=str(tmp_path_factory.mktemp("cache")),
                       JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0")
    environment.pop("GENERALIST_DATA_DIR", None)

    def start(workdir):
        return subprocess.Popen([*COMMAND, f"--workdir={workdir}"], env=environment, cwd=workdir.parent, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return start


def finish(process) -> str:
    """The last line of a run that must end well."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output.strip().splitlines()[-1]


def kill_after(process, lines: int, delay: float, signum: int) -> str:
    """Sends a signal `delay` seconds after the status line number `lines`; returns what was printed."""
    output, seen = [], 0
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


def test_sigterm_saves_the_step_it_is_at_and_exits_with_143(run, undisturbed, tmp_path):
    process = run(tmp_path / "run")
    output = kill_after(process, 3, 0.0, signal.SIGTERM)
    assert process.returncode == 143
    assert "SIGTERM: saved step" in output
    assert finish(run(tmp_path / "run")) == undisturbed


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(run, undisturbed, tmp_path):
    process = run(tmp_path / "run")
    kill_after(process, 6, 0.0, signal.SIGTERM)
    steps = sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir() if p.name.isdigit())
    newest = tmp_path / "run/checkpoints" / str(steps[-1])
    data = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    process = run(tmp_path / "run")
    output, _ = process.communicate(timeout=600)
    assert f"WARNING: checkpoint {newest}" in output
    assert f"resuming {tmp_path / 'run'} at step {steps[-2]}" in output
    assert output.strip().splitlines()[-1] == undisturbed
