"""Several processes as one run: how they find each other, and what they agree on.

A launcher that says what it started is believed (Cloud TPU, SLURM, Open MPI, Kubernetes); elsewhere the command line says it. A lone
host starts nothing.
"""

import importlib.util
import os
import pathlib
import sys
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from generalist.files import write_atomically

HEARTBEAT_SECONDS = 100  # after which a silent process counts as dead, and all others stop
START_SECONDS = 300  # in which all processes must appear
TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


class Launch(NamedTuple):
    """How this process is one of several. count and index None: JAX asks the cluster. coordinator None: likewise."""

    why: str
    count: int | None
    index: int | None
    coordinator: str | None

    @property
    def alone(self) -> bool:
        """Whether there is nothing to start."""
        return self.count == 1


def find(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    index: int | None = None,
    count: int | None = None,
) -> Launch:
    """What flags (first) and environment variables say of this process; nothing is started.

    Raises ValueError where they are incomplete or contradict each other.
    """
    if count == 1:
        return Launch("--process_count=1", 1, 0, None)
    launch = _of_environment(environment)
    if coordinator is None and index is None and count is None:
        return launch
    known = launch if not launch.alone else Launch("", None, None, None)
    count, index = (
        (known.count if count is None else count),
        (known.index if index is None else index),
    )
    if None in (coordinator, index, count):
        raise ValueError(
            "several processes need --coordinator=HOST:PORT of process 0, --process_id and --process_count (the last two come "
            f"from SLURM and Open MPI by themselves); got coordinator {coordinator}, process {index} of {count}"
        )
    if not 0 <= index < count:
        raise ValueError(
            f"--process_id={index} --process_count={count}: the ids are 0 to {count - 1}"
        )
    return Launch(f"coordinator {coordinator}", count, index, coordinator)


def _of_environment(environment: Mapping[str, str]) -> Launch:
    number = lambda name: int(environment.get(name, 0))
    if (
        importlib.util.find_spec("libtpu")
        and any(map(os.path.exists, TPU_DEVICES))
        and "TPU_SKIP_MDS_QUERY" not in environment
    ):
        return Launch("Cloud TPU", None, None, None)
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return Launch("Cloud TPU: TPU_WORKER_HOSTNAMES", None, None, None)
    if number("SLURM_STEP_NUM_TASKS") > 1:
        return Launch(
            "SLURM: SLURM_STEP_NUM_TASKS",
            number("SLURM_STEP_NUM_TASKS"),
            number("SLURM_PROCID"),
            None,
        )
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return Launch(
            "Open MPI: OMPI_COMM_WORLD_SIZE",
            number("OMPI_COMM_WORLD_SIZE"),
            number("OMPI_COMM_WORLD_RANK"),
            None,
        )
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes"):
            return Launch("Kubernetes: JOB_COMPLETION_INDEX", None, None, None)
        return Launch(
            "Kubernetes without its Python package: for several processes pip install 'jax[k8s]' or give --coordinator",
            1,
            0,
            None,
        )
    return Launch("no launcher found", 1, 0, None)


def start(launch: Launch) -> None:
    """Connects the processes; nothing for one alone. Before anything asks JAX for a device.

    Raises ValueError, saying what the launcher was, if they cannot connect. If the others do not appear within START_SECONDS, it says
    so and ends the process with code 2: JAX would abort it with a stack trace.
    """
    if launch.alone:
        return
    if "OMPI_COMM_WORLD_SIZE" in launch.why and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        raise ValueError(
            "this Open MPI (5 or newer) does not tell where process 0 is: add --coordinator=HOST:PORT of the first host"
        )
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM for itself
    # On CPUs programs of several processes may wait for each other in another order: one at a time.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    patience = threading.Timer(START_SECONDS, _give_up, [launch])
    patience.start()
    try:
        jax.distributed.initialize(
            launch.coordinator,
            launch.count if launch.coordinator else None,
            launch.index if launch.coordinator else None,
            local_device_ids=_only_device(os.environ),
            initialization_timeout=2 * START_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise ValueError(_not_found(launch, str(error).splitlines()[0])) from error
    finally:
        patience.cancel()


def _only_device(environment: Mapping[str, str]) -> list[int] | None:
    """[0] where the launcher shows this process one GPU alone; JAX would take the process's number on the host for that of its GPU."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return [0] if visible and "," not in visible else None


def _not_found(launch: Launch, why: str) -> str:
    return (
        f"the processes did not find each other ({launch.why}): {why}. Were all started, and is the coordinator's host and port "
        "reachable from each? --process_count=1 starts alone"
    )


def _give_up(launch: Launch) -> None:
    count, index = ("?" if value is None else value for value in (launch.count, launch.index))
    print(
        f"error: {_not_found(launch, f'not all {count} appeared to this one, {index}, within {START_SECONDS} s')}",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def describe(launch: Launch) -> str:
    """One line: how many processes, and why."""
    return f"processes: {jax.process_count()}, this is {jax.process_index()} ({launch.why})"


def is_first() -> bool:
    """Whether this process writes what is written once: logs, config, figures, exported weights."""
    return jax.process_index() == 0


def on_first(log: Callable[[str], None]) -> Callable[[str], None]:
    """`log` on process 0, silence on the others."""
    return log if is_first() else lambda line: None


def agree(value: bool) -> bool:
    """What process 0 says, on all processes; waits for them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def share(path: pathlib.Path, copy: pathlib.Path) -> None:
    """Copies a file that process 0 has, if it has one, to `copy` on every other process; waits for them."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    content = path.read_bytes() if is_first() and path.exists() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.int32)))
    if not size:
        return
    content = multihost_utils.broadcast_one_to_all(np.frombuffer(content or bytes(size), np.uint8))
    if not is_first():
        write_atomically(copy, np.asarray(content).tobytes())


def gather(values: np.ndarray) -> np.ndarray:
    """An array of the same shape on every process -> (processes, ...), on all."""
    if jax.process_count() == 1:
        return values[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def wait(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def leave(code: int, message: str = "") -> None:
    """Ends this process at once when it is one of several: the others notice and stop, where an orderly end would wait for them."""
    if jax.distributed.is_initialized():
        print(message, end="", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
