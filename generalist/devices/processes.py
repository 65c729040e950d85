"""Several processes as one run: how they find each other, and what they agree on.

Processes started by a known launcher (Cloud TPU, SLURM, Open MPI, Kubernetes) are detected from its
environment variables. Elsewhere flags of the command line say how many there are. A process that is
alone connects to nothing.
"""

import importlib.util
import json
import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from generalist.names import first_line

logger = logging.getLogger("generalist")

HEARTBEAT_SECONDS = 100  # a process that is silent for so long counts as dead, and all others stop
START_SECONDS = 300  # in which all processes must appear
TPU_DEVICES = ("/dev/accel0", "/dev/vfio/0")


class Launch(NamedTuple):
    """How this process is one of several.

    Attributes:
      reason: what the rest follows from, for people.
      count: how many processes; None: JAX asks the cluster.
      index: which one this is; None: JAX asks the cluster.
      coordinator: HOST:PORT of process 0; None: JAX asks the cluster.
    """

    reason: str
    count: int | None = None
    index: int | None = None
    coordinator: str | None = None

    @property
    def alone(self) -> bool:
        """Whether there is nothing to connect to."""
        return self.count == 1


def find_launch(
    environment: Mapping[str, str],
    coordinator: str | None = None,
    index: int | None = None,
    count: int | None = None,
) -> Launch:
    """Finds out how this process was started; connects to nothing.

    Args:
      environment: the environment variables.
      coordinator: flag --coordinator; flags come first.
      index: flag --process_id.
      count: flag --process_count; 1 ignores any launcher.

    Raises:
      ValueError: the flags are incomplete, or contradict each other.
    """
    if count == 1:
        return Launch("--process_count=1", count=1, index=0)

    launch = _launch_of_environment(environment)
    if coordinator is None and index is None and count is None:
        return launch

    # Flags complete what the launcher says.
    if not launch.alone:
        count = launch.count if count is None else count
        index = launch.index if index is None else index
    if None in (coordinator, index, count):
        raise ValueError(
            "several processes need --coordinator=HOST:PORT of process 0, --process_id and "
            "--process_count (the last two come from SLURM and Open MPI by themselves); "
            f"got coordinator {coordinator}, process {index} of {count}"
        )
    if not 0 <= index < count:
        raise ValueError(
            f"--process_id={index} --process_count={count}: the ids are 0 to {count - 1}"
        )
    return Launch(f"coordinator {coordinator}", count, index, coordinator)


def _launch_of_environment(environment: Mapping[str, str]) -> Launch:
    def number(name: str) -> int:
        return int(environment.get(name, 0))

    on_tpu = importlib.util.find_spec("libtpu") and any(map(os.path.exists, TPU_DEVICES))
    if on_tpu and "TPU_SKIP_MDS_QUERY" not in environment:
        return Launch("Cloud TPU")
    if "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return Launch("Cloud TPU: TPU_WORKER_HOSTNAMES")

    if number("SLURM_STEP_NUM_TASKS") > 1:
        return Launch(
            "SLURM: SLURM_STEP_NUM_TASKS",
            count=number("SLURM_STEP_NUM_TASKS"),
            index=number("SLURM_PROCID"),
        )
    if number("OMPI_COMM_WORLD_SIZE") > 1:
        return Launch(
            "Open MPI: OMPI_COMM_WORLD_SIZE",
            count=number("OMPI_COMM_WORLD_SIZE"),
            index=number("OMPI_COMM_WORLD_RANK"),
        )

    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        if importlib.util.find_spec("kubernetes"):
            return Launch("Kubernetes: JOB_COMPLETION_INDEX")
        return Launch(
            "Kubernetes without its Python package: for several processes "
            "pip install 'jax[k8s]' or give --coordinator",
            count=1,
            index=0,
        )
    return Launch("no launcher found", count=1, index=0)


def connect(launch: Launch) -> None:
    """Connects the processes, before anything asks JAX for a device.

    From then on only the first one logs what is no warning: all would say the same. If the
    others do not appear within START_SECONDS, it says so and ends the process with code 2: JAX
    would abort it with a stack trace.

    Raises:
      ValueError: they cannot connect; names the launcher.
    """
    if launch.alone:
        return
    if "OMPI_COMM_WORLD_SIZE" in launch.reason and "OMPI_MCA_orte_hnp_uri" not in os.environ:
        raise ValueError(
            "this Open MPI (5 or newer) does not tell where process 0 is: add "
            "--coordinator=HOST:PORT of the first host"
        )

    # It would take SIGTERM for itself.
    jax.config.update("jax_enable_preemption_service", False)
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
        raise ValueError(_not_found(launch, first_line(error))) from error
    finally:
        patience.cancel()
    if not is_first():
        logger.setLevel(logging.WARNING)


def _only_device(environment: Mapping[str, str]) -> list[int] | None:
    """[0] where the launcher shows this process one GPU alone.

    JAX would take the number of the process on its host for that of its GPU.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    return [0] if visible and "," not in visible else None


def _not_found(launch: Launch, why: str) -> str:
    return (
        f"the processes did not find each other ({launch.reason}): {why}. Were all started, and is "
        "the coordinator's host and port reachable from each? --process_count=1 starts alone"
    )


def _give_up(launch: Launch) -> None:
    count = "?" if launch.count is None else launch.count
    index = "?" if launch.index is None else launch.index
    why = f"not all {count} appeared to this one, {index}, within {START_SECONDS} s"
    print(f"error: {_not_found(launch, why)}", file=sys.stderr, flush=True)
    os._exit(2)


def describe(launch: Launch) -> str:
    """Returns one line: how many processes, and why."""
    return f"processes: {jax.process_count()}, this is {jax.process_index()} ({launch.reason})"


def is_first() -> bool:
    """Whether this process writes what is written once: logs, config, figures, weights."""
    return jax.process_index() == 0


def agree(value: bool) -> bool:
    """Returns the value of process 0 on all processes; waits for them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def share(value: Any) -> Any:
    """Returns the value of process 0, any that JSON has, on all processes; waits for them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    content = json.dumps(value).encode() if is_first() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.asarray(len(content), np.int32)))
    content = np.frombuffer(content or bytes(size), np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(content)).tobytes())


def gather_values(values: np.ndarray) -> np.ndarray:
    """Stacks an array of the same shape on every process to (processes, ...), on all of them."""
    if jax.process_count() == 1:
        return values[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(values))


def gather_rows(values: np.ndarray) -> list[np.ndarray]:
    """Returns the arrays of all processes, on all of them.

    Args:
      values: uint8 (n, ...); n may be another on every process, also 0.
    """
    counts = gather_values(np.asarray(len(values), np.int32)).tolist()

    # Powers of two, since a program is compiled for each size.
    most = 1 << (max(counts) - 1).bit_length() if any(counts) else 0
    padded = np.zeros((most, *values.shape[1:]), values.dtype)
    padded[: len(values)] = values
    gathered = gather_values(padded)
    return [rows[:count] for rows, count in zip(gathered, counts, strict=True)]


def wait_for_all(name: str) -> None:
    """Waits until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def leave(code: int, message: str = "") -> None:
    """Ends this process at once if it is one of several.

    The others notice and stop, where an orderly end would wait for them.
    """
    if jax.distributed.is_initialized():
        print(message, end="", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
