"""SIGTERM: at once where nothing can be lost, a flag where something can."""

import os
import signal
import subprocess
import sys

import pytest

from generalist.devices.signals import Interruption


def test_held_it_is_a_flag_and_the_old_handler_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as stop:
        stop.hold()
        assert not stop.received
        os.kill(os.getpid(), signal.SIGTERM)
        stop._received.wait(10)
        assert stop.received
    assert signal.getsignal(signal.SIGTERM) is before


PROGRAM = """
import os, signal, sys, time
from generalist.devices.signals import Interruption
with Interruption() as stop:
    {before}
    os.kill(os.getpid(), signal.SIGTERM)
    {after}
print("not reached")
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("pass", "time.sleep(100)", "SIGTERM: nothing to save yet; the same command resumes"),
        (
            "stop.release('step 5 is saved')",
            "time.sleep(100)",
            "SIGTERM: step 5 is saved; the same command resumes",
        ),
        (
            "stop.hold()",
            "stop._received.wait(10); stop.release('all is saved')",
            "SIGTERM: all is saved; the same command resumes",
        ),
    ],
)
def test_free_it_ends_the_process_at_once_while_the_program_is_elsewhere(before, after, said):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before, after=after)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout.strip()) == (143, said)
