"""What a run sets up on its host before JAX starts: CPU devices, memory, compiled programs."""

import contextlib
import ctypes
import os
from typing import NamedTuple

import jax

from generalist.devices.memory import GPU_SHARE
from generalist.names import first_line

MOST_CPU_DEVICES = 8  # of one process


class MallocOption(NamedTuple):
    """A setting of glibc's malloc.

    Attributes:
      number: what `mallopt` calls it, from malloc.h.
      value: its value here.
    """

    number: int
    value: int


# By its name in the environment, without MALLOC_.
MALLOC_OPTIONS = {
    "TRIM_THRESHOLD_": MallocOption(-1, 2**31 - 1),  # free bytes to keep: as many as there are
    "MMAP_MAX_": MallocOption(-4, 0),  # arrays with a mapping of their own, gone when freed: none
    "ARENA_MAX": MallocOption(-8, 1),  # heaps: one, so that a thread reuses what another has freed
}


def use_all_cores(devices: int, batch_size: int, processes: int = 1) -> None:
    """Makes the CPU several devices; one program's operations do not keep all cores busy.

    Args:
      devices: at most so many, and at most MOST_CPU_DEVICES.
      batch_size: examples that all devices of all processes share evenly.
      processes: of the run.
    """
    keep_freed_memory()

    most = min(devices, MOST_CPU_DEVICES)
    count = max(n for n in range(1, most + 1) if n == 1 or batch_size % (n * processes) == 0)
    # In a notebook JAX may already be running, and keeps the devices it has.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)


def keep_freed_memory() -> None:
    """Lets glibc reuse freed arrays, in this process and in those it starts.

    Otherwise it returns them to the system, and each page of the next array is a page fault.
    """
    for name, option in MALLOC_OPTIONS.items():
        os.environ.setdefault(f"MALLOC_{name}", str(option.value))

    with contextlib.suppress(OSError, AttributeError, TypeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        for option in MALLOC_OPTIONS.values():
            mallopt(option.number, option.value)


def take_gpu_memory() -> None:
    """Lets JAX take GPU_SHARE of a GPU's memory, unless the environment says how much."""
    # Of the variable's two names JAX accepts one at a time.
    if "XLA_CLIENT_MEM_FRACTION" not in os.environ:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(GPU_SHARE))


def missing_device() -> str | None:
    """Says why JAX has no device to compute on, or returns None where it has one.

    JAX_PLATFORMS may name one that this host lacks, as where a job has moved.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # for "cuda" an AssertionError without a word
        reason = first_line(error).partition(" (set JAX_PLATFORMS")[0]
        return (
            f"JAX has no device to compute on, JAX_PLATFORMS={jax.config.jax_platforms} "
            f"({reason}): unset JAX_PLATFORMS to take what this host has, or name it in lower "
            "case: cpu, cuda, tpu"
        )
    return None


def keep_compiled_programs() -> None:
    """Keeps compiled programs in the user's cache folder for the next start.

    Not in the workdir: what is kept is run, and a workdir may come from somebody else.
    JAX_COMPILATION_CACHE_DIR names another folder, such as one that all hosts of a run share. Not
    on CPUs: the next start may be on one that cannot run them.
    """
    if jax.default_backend() == "cpu" or jax.config.jax_compilation_cache_dir:
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "generalist", "compiled"))
