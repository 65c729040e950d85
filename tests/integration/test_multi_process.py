"""Promise: two processes of four devices are one run, whose figures do not depend on them.

An evaluation is even bit for bit that of one process with eight devices.

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
from evaluation import make_coco
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).parents[2]
COMMAND = [sys.executable, ROOT / "main.py", f"--config={ROOT / 'tests/integration/tinier.py'}"]
EVALUATING = [sys.executable, ROOT / "tests/helpers/evaluate_together.py", *COMMAND[2:]]


def start(workdir, count: int, devices: int, *flags, command=COMMAND) -> list[subprocess.Popen]:
    """The processes of a run; stdout and stderr together."""
    environment = {
        name: value for name, value in os.environ.items() if name != "GENERALIST_DATA_DIR"
    }
    environment["PYTHONPATH"] = str(ROOT)
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

    The last two starts evaluate a tiny COCO first, see `evaluate_together`.

    Returns both workdirs, and what the last start printed.
    """
    folder = tmp_path_factory.mktemp("runs")
    make_coco(folder / "data", 5, (40, 28), 6)
    # The one that process 1 of two reads of the first batch.
    damaged = folder / "data/coco/annotations/panoptic_val2017/000000000001.png"
    damaged.write_bytes(damaged.read_bytes()[:100])
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
    (alone,) = start(workdir, 1, 8, command=EVALUATING)
    after_line(alone, r"^step 13/")
    alone.kill()
    alone.communicate()
    together = start(workdir, 2, 4, "--config.sharding.fsdp=2", command=EVALUATING)
    return folder / "1", workdir, finish(together)


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


def figures(path) -> dict[str, float | None]:
    metrics = json.loads(path.read_text())
    return {name: value for name, value in metrics.items() if "seconds" not in name}


def results(folder) -> dict[str, bytes]:
    """The files of an evaluation that say nothing of machines and times."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if path.name not in ("card.json", "card.md", "metrics.json")
    }


def test_an_evaluation_by_two_processes_has_the_bits_of_one(runs):
    """Noise, tiles, a damaged file, pictures and submissions included."""
    alone, together, resumed = (runs[0].parent / name for name in ("1p", "2p", "stopped"))
    expected = figures(alone / "eval/0/metrics.json")
    assert expected["panoptic/examples"] == 4 and expected["denoise/examples"] == 3
    assert {"coco_semantic/miou", "panoptic/pq", "denoise/psnr_whole"} <= expected.keys()
    # One process began this one, two have finished it.
    for other in (together, resumed):
        assert figures(other / "eval/0/metrics.json") == expected
        assert results(other / "eval/0") == results(alone / "eval/0")
    # PNGs of five ways of COCO's tasks and of two to denoise, two indices, five pictures, a table.
    assert len(results(alone / "eval/0")) == 5 * 4 + 2 * 3 + 2 + 5 + 1
    cards = [
        json.loads((folder / "eval/0/card.json").read_text())["tasks"]
        for folder in (alone, together, resumed)
    ]
    assert cards[1] == cards[2] == cards[0] and len(cards[0]["panoptic"]["left_out"]) == 1
    for index in range(2):
        assert figures(together / f"returned-{index}.json") == expected


def test_samples_do_not_depend_on_who_draws_them(runs):
    """Two of each image, in tiles and whole: their mean, or what they vote for."""
    alone, together = (runs[0].parent / name / "samples/eval/0" for name in ("1p", "2p"))
    expected = figures(alone / "metrics.json")
    assert figures(together / "metrics.json") == expected
    assert results(together) == results(alone)

    # The mean of two is another image, and their spread is measured.
    single = figures(runs[0].parent / "1p/eval/0/metrics.json")
    assert expected["denoise/psnr"] > single["denoise/psnr"]
    assert {"denoise/ause", "denoise/ause_whole"} <= expected.keys() - single.keys()
    assert expected["coco_semantic/ause"] != single["coco_semantic/ause"]


def test_every_row_is_read_by_one_process(runs):
    folder = runs[0].parent
    (alone,) = (json.loads(path.read_text()) for path in (folder / "1p").glob("read-*.json"))
    both = [json.loads((folder / f"2p/read-{index}.json").read_text()) for index in range(2)]
    rows = [("denoise", row) for row in range(3)]
    rows += [(name, row) for name in ("coco_semantic", "instance", "panoptic") for row in range(5)]
    assert sorted(map(tuple, both[0] + both[1])) == sorted(map(tuple, alone)) == sorted(rows)
    # Batches of 2, 2 and 1 rows.
    assert sorted(row for name, row in both[0] if name == "panoptic") == [0, 2, 4]


def test_what_one_process_cannot_read_ends_all(runs):
    folder = runs[0].parent / "2p"
    assert (folder / "error-0.txt").read_text() == (
        "process 1 could not read its examples; its own message says why"
    )
    assert (folder / "error-1.txt").read_text().startswith("row: 3 is not there.")


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
