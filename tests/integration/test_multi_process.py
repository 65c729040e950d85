"""Promise: two processes of four devices are one run, its figures do not depend on them, and whatever dies, the same command goes on."""

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
FAST = "--xla_backend_optimization_level=0"  # every program runs a few times only


def start(workdir, count: int, devices: int, *flags) -> list[subprocess.Popen]:
    """The processes of a run; stdout and stderr together."""
    environment = {name: value for name, value in os.environ.items() if name != "GENERALIST_DATA_DIR"} | {"XLA_FLAGS": FAST}
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [subprocess.Popen(
        [*COMMAND, f"--workdir={workdir}", f"--config.sharding.cpu_devices={devices}", f"--coordinator=localhost:{port}", f"--process_id={i}",
         f"--process_count={count}", *flags], env=environment, cwd=workdir.parent, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for i in range(count)]


def finish(processes) -> str:
    """What process 0 printed; all must end well."""
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n=====\n".join(outputs)
    return outputs[0]


def after_line(process, pattern: str) -> None:
    """Returns when the process has printed a line that matches."""
    assert any(re.search(pattern, line) for line in process.stdout), pattern


def losses(workdir) -> list[float]:
    return [line["loss"] for line in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()) if "loss" in line]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (workdir, what process 0 printed)} of the same run on one device, on eight, and on two processes of four, stopped half way."""
    folder = tmp_path_factory.mktemp("runs")
    done = {name: (folder / name, finish(start(folder / name, 1, devices))) for name, devices in (("1", 1), ("8", 8))}
    workdir = folder / "2x4"
    first, second = start(workdir, 2, 4, "--config.sharding.fsdp=2")
    after_line(first, r"^step 9/")
    second.send_signal(signal.SIGTERM)  # one of them, and both stop at the same step
    output = first.communicate(timeout=600)[0]
    second.communicate(timeout=600)
    assert (first.returncode, second.returncode) == (143, 143)
    assert re.search(r"SIGTERM: saved step \d+ in", output)
    return done | {"2x4": (workdir, finish(start(workdir, 2, 4, "--config.sharding.fsdp=2")))}


def test_losses_and_figures_do_not_depend_on_devices_and_processes(runs):
    """The same examples, noise and order; only the order of sums differs, by roundings of float32."""
    expected = losses(runs["1"][0])
    assert len(expected) == 20
    figures = json.loads((runs["1"][0] / "eval/20/metrics.json").read_text())
    for name in ("8", "2x4"):
        assert losses(runs[name][0]) == pytest.approx(expected, rel=1e-3)
        found = json.loads((runs[name][0] / "eval/20/metrics.json").read_text())
        assert found["denoise/psnr"] == pytest.approx(figures["denoise/psnr"], rel=1e-3)


def test_averaged_weights_agree(runs):
    expected = load_file(runs["1"][0] / "model.safetensors")
    for name in ("8", "2x4"):
        for path, value in load_file(runs[name][0] / "model.safetensors").items():
            assert value == pytest.approx(expected[path], abs=2e-3), path


def test_each_process_says_what_it_is_and_the_first_alone_goes_on_talking(runs):
    assert "processes: 2, this is 0 (coordinator localhost:" in runs["2x4"][1]
    assert "resuming" in runs["2x4"][1]


def test_a_dead_peer_stops_the_other_and_one_process_of_eight_devices_goes_on(runs, tmp_path):
    """Killed twice, then finished elsewhere: the same figures."""
    workdir = tmp_path / "run"
    for victim, step in ((1, 5), (0, 11)):
        processes = start(workdir, 2, 4)
        after_line(processes[0], rf"^step {step}/")
        processes[victim].kill()
        for process in processes:
            process.communicate(timeout=300)
        assert processes[1 - victim].returncode != 0
    output = finish(start(workdir, 1, 8))
    assert "resuming" in output
    assert losses(workdir) == pytest.approx(losses(runs["8"][0]), rel=1e-3)
