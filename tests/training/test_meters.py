"""The numbers of the status line, with a clock that is set by hand."""

import numpy as np
import pytest

from generalist.training import meters
from generalist.training.meters import Meters, check_finite, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until `clock.now` is changed."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(meters.time, "monotonic", lambda: Clock.now)
    return Clock


def step_metrics(loss, task_loss, task_count):
    return {
        "loss": np.float32(loss),
        "grad_norm": np.float32(2 * loss),
        "update_ratio": np.float32(loss / 100),
        "task_loss": np.array(task_loss, np.float32),
        "task_count": np.array(task_count, np.float32),
    }


def test_report_by_hand(clock):
    """Two steps of 10 images in 4 seconds; depth 1 + 2 over 4 samples, light 3 over 2, derain never
    in the batch; 12 seconds before.
    """
    m = Meters(
        ["depth", "derain", "light"],
        batch_size=10,
        total_steps=106,
        first_step=100,
        flops_per_image=2e12,
        started=988.0,
    )
    m.add(101, step_metrics(1.0, [1, 0, 3], [3, 0, 2]))
    m.add(102, step_metrics(3.0, [2, 0, 0], [1, 0, 0]))
    clock.now += 4
    scalars, line = m.report(102, 0.25)
    expected = {
        "loss": 2.0,
        "grad_norm": 4.0,
        "update_ratio": 0.02,
        "learning_rate": 0.25,
        "images_per_second": 5.0,
        "tflops": 10.0,
        "goodput": 0.25,
        "loss/depth": 0.75,
        "loss/light": 1.5,
    }
    assert scalars.keys() == expected.keys()
    assert scalars == pytest.approx(expected)
    assert line == (
        "step 102/106 | loss 2.0000 | depth 0.750 light 1.500 | 5.0 img/s 10.000 TFLOP/s | "
        "goodput 25% | ETA 00:08"
    )


def test_the_next_report_starts_afresh_but_the_pace_is_of_the_whole_run(clock):
    m = Meters(
        ["depth"], batch_size=10, total_steps=12, first_step=0, flops_per_image=0.0, started=1000.0
    )
    m.add(1, step_metrics(1.0, [1], [1]))
    clock.now += 9
    m.report(1, 0.0)
    m.add(2, step_metrics(5.0, [8], [2]))
    clock.now += 1
    scalars, line = m.report(2, 0.0)
    assert (scalars["loss"], scalars["loss/depth"], scalars["images_per_second"]) == (
        5.0,
        4.0,
        10.0,
    )
    assert line.endswith("ETA 00:50")  # ten steps at 5 seconds


def test_checkpoints_and_evaluations_are_no_training(clock):
    """5 seconds to start, 10 of training, 5 of a checkpoint, 20 of training: 30 of 40."""
    m = Meters(
        ["depth"], batch_size=1, total_steps=2, first_step=0, flops_per_image=0.0, started=995.0
    )
    clock.now += 10
    with m.overhead():
        clock.now += 5
    clock.now += 20
    m.add(1, step_metrics(1.0, [1], [1]))
    assert m.report(1, 0.0)[0]["goodput"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "00:00"),
        (59.9, "00:59"),
        (61, "01:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90061, "25:01:01"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def metrics(
    loss=1.0, grad_norm=1.0, update_ratio=0.1, task_loss=(1.0, 1.0, 0.0), task_count=(1.0, 2.0, 0.0)
):
    return {
        "loss": np.float32(loss),
        "grad_norm": np.float32(grad_norm),
        "update_ratio": np.float32(update_ratio),
        "task_loss": np.array(task_loss),
        "task_count": np.array(task_count),
    }


def test_finite_metrics_pass():
    assert check_finite(metrics(), 1, ["depth", "light", "derain"]) is None


def test_nan_names_the_step_the_batch_and_the_task():
    with pytest.raises(FloatingPointError) as error:
        check_finite(
            metrics(loss=np.nan, task_loss=(1.0, np.nan, 0.0)), 17, ["depth", "light", "derain"]
        )
    assert "loss nan" in str(error.value) and "at step 17" in str(error.value)
    assert "tasks in the batch: depth, light; not finite: light." in str(error.value)


@pytest.mark.parametrize("changed", [{"grad_norm": np.inf}, {"update_ratio": np.nan}])
def test_a_gradient_or_an_update_that_is_not_finite_is_named_too(changed):
    with pytest.raises(
        FloatingPointError,
        match="(gradient norm inf|update nan) .*at step 2.*not finite: the gradient or the update",
    ):
        check_finite(metrics(**changed), 2, ["depth", "light", "derain"])
