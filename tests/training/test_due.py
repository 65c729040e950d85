"""When something is due: by steps, or by the clock of process 0."""

import pytest

from generalist.devices import processes
from generalist.training import due
from generalist.training.due import Clock, is_due


@pytest.fixture
def now(monkeypatch):
    """The time in seconds, in a list to change."""
    time = [100.0]
    monkeypatch.setattr(due.time, "monotonic", lambda: time[0])
    return time


def test_every_so_many_steps_and_zero_is_never():
    assert [step for step in range(1, 10) if is_due(step, 3)] == [3, 6, 9]
    assert not any(is_due(step, 0) for step in range(1, 10))


def test_the_clock_rings_once_when_its_minutes_are_over_and_again_after_as_many(now):
    clock = Clock(minutes=0.5)
    rung = []
    for second in range(100, 200, 10):
        now[0] = float(second)
        if clock.rings():
            rung.append(second)
    assert rung == [130, 160, 190]


def test_a_restart_begins_its_time_anew(now):
    clock = Clock(minutes=1)
    now[0] = 150.0
    clock.restart()
    now[0] = 200.0
    assert not clock.rings()
    now[0] = 210.0
    assert clock.rings()


def test_no_minutes_are_never(now):
    clock = Clock(minutes=0)
    now[0] = 1e9
    assert not clock.rings()


def test_only_the_clock_of_process_0_counts(now, monkeypatch):
    monkeypatch.setattr(processes, "is_first", lambda: False)
    clock = Clock(minutes=1)
    now[0] = 1e9
    assert not clock.rings()
