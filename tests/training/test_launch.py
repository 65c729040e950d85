"""What the command line sets up before JAX starts."""

import subprocess
import sys

import pytest

REUSE = """
import resource
from generalist.training.launch import _keep_freed_memory
if {keep}: _keep_freed_memory()
use = lambda: b"x" * 2**26  # 64 MiB, as large as the temporaries of a small step
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8): use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt belongs to glibc")
def test_freed_memory_is_reused_without_page_faults():
    """8 x 64 MiB are 131,072 pages of 4 KiB, or 256 of 2 MiB, unless they are kept."""
    faults = lambda keep: int(subprocess.run([sys.executable, "-c", REUSE.format(keep=keep)], capture_output=True, check=True).stdout)
    assert faults(keep=False) >= 256
    assert faults(keep=True) < 64
