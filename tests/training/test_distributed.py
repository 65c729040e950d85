"""Which launcher is believed, and what several processes need; what they do together is in tests/integration/test_multi_process.py."""

import pytest

from generalist.training import distributed
from generalist.training.distributed import Launch, find

SLURM = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "3"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.fixture(autouse=True)
def installed(monkeypatch):
    """The packages that are installed, as `find` sees them, and the device files there are."""
    packages, files = set(), set()
    monkeypatch.setattr(distributed.importlib.util, "find_spec", lambda name: name in packages or None)
    monkeypatch.setattr(distributed.os.path, "exists", lambda path: path in files)
    return packages, files


@pytest.mark.parametrize("environment", [{}, {"SLURM_STEP_NUM_TASKS": "1"}, {"OMPI_COMM_WORLD_SIZE": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}])
def test_a_lone_host_starts_nothing(environment):
    assert find(environment).alone


@pytest.mark.parametrize(("environment", "expected"), [
    (SLURM, Launch("SLURM: SLURM_STEP_NUM_TASKS", 4, 3, None)),
    (OPEN_MPI, Launch("Open MPI: OMPI_COMM_WORLD_SIZE", 2, 1, None)),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, Launch("Cloud TPU: TPU_WORKER_HOSTNAMES", None, None, None))])
def test_launchers_are_believed(environment, expected):
    assert find(environment) == expected
    assert not find(environment).alone


def test_a_tpu_is_a_device_with_its_library(installed):
    packages, files = installed
    files.add("/dev/vfio/0")
    assert find({}).alone  # a GPU passed through has this file too
    packages.add("libtpu")
    assert find({}).why == "Cloud TPU" and not find({}).alone
    assert find({"TPU_SKIP_MDS_QUERY": "1"}).alone


def test_kubernetes_needs_its_package(installed):
    alone = find(KUBERNETES)
    assert alone.alone and "pip install 'jax[k8s]'" in alone.why
    installed[0].add("kubernetes")
    assert not find(KUBERNETES).alone


def test_flags_go_before_the_environment():
    assert find({}, "h:1", 1, 2) == find(SLURM, "h:1", 1, 2) == Launch("coordinator h:1", 2, 1, "h:1")
    assert find(OPEN_MPI, "h:1") == Launch("coordinator h:1", 2, 1, "h:1")  # number and count are Open MPI's
    assert find(SLURM, count=1) == Launch("--process_count=1", 1, 0, None)


@pytest.mark.parametrize("flags", [("h:1",), ("h:1", 0), (None, 0, 2), ("h:1", None, 2)])
def test_half_of_the_flags_is_an_error(flags):
    with pytest.raises(ValueError, match="several processes need --coordinator=HOST:PORT of process 0, --process_id and --process_count"):
        find({}, *flags)


def test_a_number_beyond_the_count_is_an_error():
    with pytest.raises(ValueError, match="--process_id=2 --process_count=2: the ids are 0 to 1"):
        find({}, "h:1", 2, 2)


def test_an_open_mpi_that_does_not_tell_the_first_host_asks_for_it(monkeypatch):
    monkeypatch.delenv("OMPI_MCA_orte_hnp_uri", raising=False)
    with pytest.raises(ValueError, match="add --coordinator=HOST:PORT"):
        distributed.start(find(OPEN_MPI))


def test_one_process_agrees_with_itself():
    assert (distributed.agree(True), distributed.agree(False), distributed.is_first()) == (True, False, True)
    assert distributed.leave(1) is None  # the process goes on: only one of several ends here
