"""Promise: two processes of four devices are one run, whose figures do not depend on them.

After a death the same command continues.

benchmarks/kills.py does the same at more moments, and shows that equal runs are equal bit for bit.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, ROOT / "main.py", f"--config={ROOT / 'tests/integration/tinier.py'}"]


def start(workdir, count: int, devices: int, *flags, command=COMMAND) -> list[subprocess.Popen]:
    """The processes of a run; stdout and stderr together."""
    environment = {
        name: value for name, value in os.environ.items() if name != "GENERALIST_DATA_DIR"
    }
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        subprocess.Popen(
            [
                *command,
                f"--workdir={workdir}",
                f"--config.sharding.cpu_devices={devices}",
                f"--coordinator=localhost:{port}",
                f"--process_id={i}",
                f"--process_count={count}",
                *flags,
            ],
            env=environment,
            cwd=workdir.parent,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(count)
    ]


def finish(processes) -> str:
    """What process 0 printed; all must end well."""
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n=====\n".join(
        outputs
    )
    return outputs[0]


def after_line(process, pattern: str) -> None:
    """Returns when the process has printed a line that matches."""
    assert any(re.search(pattern, line) for line in process.stdout), pattern


def losses(workdir) -> list[dict[str, float]]:
    """Of each step: the loss, and that of each task in its batch."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        {name: value for name, value in line.items() if name.startswith("loss")}
        for line in lines
        if "loss" in line
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run twice: on one device, undisturbed; and stopped, moved, killed and moved back.

    Returns both workdirs, and what the last start printed.
    """
    folder = tmp_path_factory.mktemp("runs")
    finish(start(folder / "1", 1, 1))
    workdir = folder / "2x4"

    # Two processes of four devices: one gets a signal, and both stop at the same step.
    first, second = start(workdir, 2, 4, "--config.sharding.fsdp=2")
    after_line(first, r"^step 3/")
    second.send_signal(signal.SIGTERM)
    output = first.communicate(timeout=600)[0]
    second.communicate(timeout=600)
    assert (first.returncode, second.returncode) == (143, 143), output
    assert re.search(r"SIGTERM: saved step \d+ in", output)

    # One process of eight devices continues, until it is killed.
    (alone,) = start(workdir, 1, 8)
    after_line(alone, r"^step 13/")
    alone.kill()
    alone.communicate()
    return folder / "1", workdir, finish(start(workdir, 2, 4, "--config.sharding.fsdp=2"))


def test_losses_and_figures_do_not_depend_on_devices_processes_and_deaths(runs):
    """The same examples, noise and order; only float32 sums have another order."""
    undisturbed, moved, _ = runs
    assert len(losses(undisturbed)) == len(losses(moved)) == 20
    # Other examples, or another order, would differ in the first digit.
    for one, other in zip(losses(undisturbed), losses(moved), strict=True):
        assert other == pytest.approx(one, rel=5e-4)
    figures = [
        json.loads((workdir / "eval/20/metrics.json").read_text())["denoise/psnr"]
        for workdir in (undisturbed, moved)
    ]
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)


def test_averaged_weights_agree(runs):
    undisturbed, moved = (load_file(workdir / "model.safetensors") for workdir in runs[:2])
    for path, value in moved.items():
        assert value == pytest.approx(undisturbed[path], abs=2e-3), path


def test_a_process_says_which_it_is_and_where_it_goes_on(runs):
    assert "processes: 2, this is 0 (coordinator localhost:" in runs[2]
    # The last start: where the kill of the one before left it.
    (step,) = re.findall(r"resuming .* at step (\d+) of 20", runs[2])
    assert int(step) >= 8


WAITING = """
import sys, jax
from generalist.devices import mesh as mesh_lib, processes, votes
from generalist.training import launch
def prepare_host(values, config):
    processes.connect(processes.find_launch({}, values.coordinator, values.process_id,
    values.process_count))
    steps = votes.Votes(mesh_lib.make_mesh())
    while True:
        steps.any(False)
        print("step", flush=True)
launch.prepare_host = prepare_host
sys.exit(launch.main(sys.argv))
"""


def test_a_process_that_dies_stops_the_others_with_a_message(tmp_path):
    """Steps that do nothing but agree: what the others notice is the lost connection."""
    first, second = start(
        tmp_path / "run", 2, 1, command=[sys.executable, "-c", WAITING, *COMMAND[2:]]
    )
    after_line(first, "^step")
    second.kill()
    second.communicate()
    output = first.communicate(timeout=300)[0]
    assert first.returncode == 1, output
    assert (
        "If another process of this run died, its own message says why; "
        "the same command on all hosts resumes"
    ) in output
