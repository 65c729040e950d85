"""Promise: what stops a run is one message and an exit code."""

import random
import subprocess
import sys

import pytest
from jax.errors import JaxRuntimeError

from generalist.training import host, launch
from generalist.training.checkpoint import CheckpointError


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(28, "No space left on device", "run.json"),
            1,
            "No space left on device: 'run.json'. Make room: the same command continues",
        ),
        (OSError(13, "Permission denied", "runs"), 1, "[Errno 13] Permission denied: 'runs'\n"),
        (CheckpointError("checkpoint of step 3 failed"), 1, "checkpoint of step 3 failed"),
        (FloatingPointError("loss nan at step 3"), 1, "loss nan at step 3"),
        (ValueError("batch_size 3"), 2, "batch_size 3"),
        (MemoryError(), 1, "this host's memory is too small"),
        (
            ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer"),
            1,
            "by peer. If another process of this run died",
        ),
        (
            JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nBFC Allocator"),
            1,
            "Try --config.model.remat=blocks",
        ),
        (
            JaxRuntimeError("UNKNOWN: Connection closed by peer\nmore"),
            1,
            "UNKNOWN: Connection closed by peer. If another process of this run died",
        ),
    ],
)
def test_what_stops_a_run_is_one_message_and_an_exit_code(error, code, said, monkeypatch, capsys):
    def prepare_host(values, config):
        raise error

    monkeypatch.setattr(launch, "prepare_host", prepare_host)
    monkeypatch.delenv("GENERALIST_TRACEBACK", raising=False)
    assert launch.main(["main.py", "--config=configs/multitask.py:scenes"]) == code
    message = capsys.readouterr().err
    assert message.startswith("error: ") and said in message
    assert "BFC" not in message and "Traceback (" not in message


def test_a_device_that_is_not_there_stops_a_run_with_a_message(monkeypatch, capsys):
    def devices():
        raise AssertionError

    monkeypatch.setattr(host.jax, "devices", devices)
    monkeypatch.setattr(launch, "prepare_host", lambda values, config: host.jax.devices())
    monkeypatch.setattr(launch.processes, "leave", lambda code, text="": None)
    assert launch.main(["main.py", "--config=configs/multitask.py:scenes"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: JAX has no device") and "Traceback (" not in message


def test_an_unforeseen_error_in_one_of_several_processes_ends_it_at_once_for_the_others_to_see():
    """An orderly end would wait for them, and they for it."""
    program = f"""
import atexit, sys
import jax
from generalist.training import host, launch
def prepare_host(values, config):
    jax.distributed.initialize("localhost:{random.randrange(20_000, 30_000)}", 1, 0)
    atexit.register(print, "an orderly end")
    raise KeyError("unforeseen")
launch.prepare_host = prepare_host
sys.exit(launch.main(["main.py", "--config=configs/multitask.py:scenes"]))
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 1 and "an orderly end" not in result.stdout
    assert (
        result.stderr.rstrip().endswith("KeyError: 'unforeseen'")
        and result.stderr.count("Traceback") == 1
    )
