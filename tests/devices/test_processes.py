"""Which launcher is believed, and what several processes need; what they do together is in
tests/integration/test_multi_process.py.
"""

import os
import pathlib
import random
import subprocess
import sys

import pytest

from generalist.devices import processes
from generalist.devices.processes import Launch, find_launch

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The packages that are installed, as `find` sees them, and the device files there are."""
    packages, files = set(), set()
    monkeypatch.setattr(
        processes.importlib.util, "find_spec", lambda name: name in packages or None
    )
    monkeypatch.setattr(processes.os.path, "exists", lambda path: path in files)
    return packages, files


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_a_lone_host_starts_nothing(environment):
    assert find_launch(environment).alone


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (SLURM, Launch("SLURM: SLURM_STEP_NUM_TASKS", 4, 3, None)),
        (OPEN_MPI, Launch("Open MPI: OMPI_COMM_WORLD_SIZE", 2, 1, None)),
        (
            {"TPU_WORKER_HOSTNAMES": "a,b"},
            Launch("Cloud TPU: TPU_WORKER_HOSTNAMES", None, None, None),
        ),
    ],
)
def test_launchers_are_believed(environment, expected):
    assert find_launch(environment) == expected
    assert not find_launch(environment).alone


def test_a_tpu_is_a_device_with_its_library(installed):
    packages, files = installed
    files.add("/dev/vfio/0")
    assert find_launch({}).alone  # a GPU passed through has this file too
    packages.add("libtpu")
    assert find_launch({}).reason == "Cloud TPU" and not find_launch({}).alone
    assert find_launch({"TPU_SKIP_MDS_QUERY": "1"}).alone


def test_kubernetes_needs_its_package(installed):
    alone = find_launch(KUBERNETES)
    assert alone.alone and "pip install 'jax[k8s]'" in alone.reason
    installed[0].add("kubernetes")
    assert not find_launch(KUBERNETES).alone


def test_flags_go_before_the_environment():
    assert (
        find_launch({}, "h:1", 1, 2)
        == find_launch(SLURM, "h:1", 1, 2)
        == Launch("coordinator h:1", 2, 1, "h:1")
    )
    assert find_launch(OPEN_MPI, "h:1") == Launch(
        "coordinator h:1", 2, 1, "h:1"
    )  # number and count are Open MPI's
    assert find_launch(SLURM, count=1) == Launch("--process_count=1", 1, 0, None)


@pytest.mark.parametrize("flags", [("h:1",), ("h:1", 0), (None, 0, 2), ("h:1", None, 2)])
def test_half_of_the_flags_is_an_error(flags):
    with pytest.raises(
        ValueError,
        match="several processes need --coordinator=HOST:PORT of process 0, --process_id and "
        "--process_count",
    ):
        find_launch({}, *flags)


def test_a_number_beyond_the_count_is_an_error():
    with pytest.raises(ValueError, match="--process_id=2 --process_count=2: the ids are 0 to 1"):
        find_launch({}, "h:1", 2, 2)


def test_an_open_mpi_that_does_not_tell_the_first_host_asks_for_it(monkeypatch):
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri", raising=False)
    with pytest.raises(ValueError, match="add --coordinator=HOST:PORT"):
        processes.connect(find_launch(OPEN_MPI))


@pytest.mark.parametrize(
    ("visible", "ids"),
    [({}, None), ({"CUDA_VISIBLE_DEVICES": "0,1"}, None), ({"CUDA_VISIBLE_DEVICES": "3"}, [0])],
)
def test_the_only_gpu_that_a_launcher_shows_is_number_0(visible, ids):
    """srun --gpus-per-task=1: JAX would look for the one of the task's number on the host."""
    assert processes._only_device(visible) == ids


def test_one_process_agrees_with_itself():
    assert (processes.agree(True), processes.agree(False), processes.is_first()) == (
        True,
        False,
        True,
    )
    assert processes.leave(1) is None  # the process goes on: only one of several ends here


TOGETHER = """
import os
import numpy as np
from generalist.devices import processes
launch = processes.find_launch(os.environ)
processes.connect(launch)
print(processes.describe(launch), processes.agree(processes.is_first()), processes.agree(False))
mine = {"figure": 0.1, "none": None} if processes.is_first() else "another"
print("shared", processes.share(mine))
rows = np.arange(6, dtype=np.uint8).reshape(3, 2)[3 * launch.index :]
print("gathered", [part.tolist() for part in processes.gather_rows(rows)])
print("none", [part.shape for part in processes.gather_rows(rows[:0])])
"""


def slurm(number: int, index: int) -> dict[str, str]:
    """What srun sets, of it what is read."""
    return {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "SLURM_JOB_ID": str(number),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
    }


def open_mpi(number: int, index: int) -> dict[str, str]:
    """What mpirun 4 sets, of it what is read."""
    return {
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
        "OMPI_MCA_orte_hnp_uri": f"{number * 2**12}.0;tcp://127.0.0.1:34911",
    }


@pytest.mark.parametrize(
    ("launcher", "why"),
    [(slurm, "SLURM: SLURM_STEP_NUM_TASKS"), (open_mpi, "Open MPI: OMPI_COMM_WORLD_SIZE")],
)
def test_what_a_launcher_sets_is_all_that_two_processes_need(launcher, why):
    number = random.randrange(10**6)  # of the job: its port follows from it
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER],
            env=os.environ | launcher(number, i),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    for i, output in enumerate(outputs):
        assert f"processes: 2, this is {i} ({why}) True False" in output
        assert "shared {'figure': 0.1, 'none': None}" in output
        assert "gathered [[[0, 1], [2, 3], [4, 5]], []]" in output
        assert "none [(0, 2), (0, 2)]" in output


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_never_appears_ends_the_others_with_a_message(index):
    program = (
        "from generalist.devices import processes; processes.START_SECONDS = 1; "
        f"launch = processes.find_launch({{}}, 'localhost:{random.randrange(20_000, 30_000)}', "
        f"{index}, 2); processes.connect(launch)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2
    assert (
        f"not all 2 appeared to this one, {index}, within 1 s. Were all started, and is "
        "the coordinator's host" in result.stderr
    )
    assert "stack trace" not in result.stderr


EVALUATING = """
import sys, time
from generalist.training import launch
def evaluate_workdir(*args):
    print("evaluating", flush=True)
    time.sleep(100)
launch.evaluate_workdir = evaluate_workdir
sys.exit(launch.main(sys.argv))
"""


def test_sigterm_ends_an_evaluation_by_several_processes_too():
    """JAX's own service for preemptions would take the signal, and nothing would happen."""
    config = pathlib.Path(__file__).parents[1] / "integration/tinier.py"
    arguments = [
        f"--config={config}",
        "--mode=eval",
        f"--coordinator=localhost:{random.randrange(20_000, 30_000)}",
        "--process_count=2",
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", EVALUATING, *arguments, f"--process_id={i}"],
            text=True,
            stdout=subprocess.PIPE,
        )
        for i in range(2)
    ]
    for process in reversed(processes):
        assert any(line == "evaluating\n" for line in process.stdout)
        process.terminate()
        assert (
            "SIGTERM: an evaluation goes on where it was; the same command resumes"
            in process.communicate(timeout=60)[0]
        )
        assert process.returncode == 143
