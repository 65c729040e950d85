"""Promise: what a run sets up on its host before JAX starts has the effect that it is there for."""

import os
import subprocess
import sys

import jax
import pytest

from generalist.training import host

FAULTS = """
import resource
def use():
    b"x" * 2**26  # 64 MiB, as large as the temporaries of a small step

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from generalist.training.host import keep_freed_memory; keep_freed_memory()"
IN_A_PROCESS_FROM_THERE = (
    f"import subprocess, sys; subprocess.run([sys.executable, '-c', {FAULTS!r}])"
)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt belongs to glibc")
def test_freed_memory_is_reused_without_page_faults_also_in_processes_that_read_data():
    """8 x 64 MiB are 131,072 pages of 4 KiB, or 256 of 2 MiB, unless they are kept."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}

    def faults(*program: str) -> int:
        command = [sys.executable, "-c", "\n".join(program)]
        return int(subprocess.run(command, capture_output=True, check=True, env=plain).stdout)

    assert faults(FAULTS) >= 256
    assert faults(KEEP, FAULTS) < 64
    assert faults(KEEP, IN_A_PROCESS_FROM_THERE) < 64


@pytest.mark.parametrize(
    ("backend", "given", "expected"),
    [("gpu", None, "cache/generalist/compiled"), ("tpu", "/own", "/own"), ("cpu", None, None)],
)
def test_compiled_programs_are_kept_in_the_users_cache_never_in_a_workdir(
    backend, given, expected, monkeypatch, tmp_path
):
    """What is kept is run: a workdir from somebody else must not bring any."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    jax.config.update("jax_compilation_cache_dir", given)
    try:
        host.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == (expected and str(tmp_path / expected))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError(), "(AssertionError)"),
        (
            RuntimeError("Unable to initialize backend 'tpu': no libtpu (set JAX_PLATFORMS='')"),
            "no libtpu)",
        ),
    ],
)
def test_a_device_that_is_not_there_is_a_message(error, said, monkeypatch):
    def devices():
        raise error

    assert host.missing_device() is None
    monkeypatch.setattr(jax, "devices", devices)
    message = host.missing_device()
    assert said in message and "unset JAX_PLATFORMS" in message
