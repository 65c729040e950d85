"""What a run sets up on its host before JAX starts: CPU devices, memory, compiled programs."""

import contextlib
import ctypes
import os
from typing import NamedTuple

import jax

from generalist.devices.memory import GPU_SHARE

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


def keep_compiled_programs(workdir: str) -> None:
    """Keeps compiled programs in the workdir for the next start.

    JAX_COMPILATION_CACHE_DIR names another folder. Not on CPUs: the next start may be on one that
    cannot run them.
    """
    if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(f"{workdir}/compiled"))
