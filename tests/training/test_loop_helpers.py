"""The helpers of the loop: digest, the check for NaN."""

import jax.numpy as jnp
import numpy as np
import pytest

from generalist.training import loop
from generalist.training.step import State

STATE = State(
    jnp.int32(3),
    {"b": jnp.arange(4.0), "a": jnp.zeros(2)},
    {"b": jnp.ones(4), "a": jnp.zeros(2)},
    {"f": jnp.ones(2)},
    (),
)


def test_digest_is_of_values_not_of_the_order_of_paths():
    turned = STATE._replace(parameters=dict(reversed(STATE.parameters.items())))
    assert loop.digest(turned) == loop.digest(STATE)
    assert len(loop.digest(STATE)) == 64


@pytest.mark.parametrize(
    "changed",
    [
        STATE._replace(step=jnp.int32(4)),
        STATE._replace(parameters=STATE.parameters | {"b": jnp.arange(4.0).at[2].add(1e-6)}),
        STATE._replace(ema=STATE.ema | {"a": jnp.array([0.0, -0.0])}),
        STATE._replace(parameters={"b": STATE.parameters["b"], "c": STATE.parameters["a"]}),
    ],
)
def test_digest_changes_with_one_value(changed):
    assert loop.digest(changed) != loop.digest(STATE)


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
    assert loop._check_finite(metrics(), 1, ["depth", "light", "derain"]) is None


def test_nan_names_the_step_the_batch_and_the_task():
    with pytest.raises(FloatingPointError) as error:
        loop._check_finite(
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
        loop._check_finite(metrics(**changed), 2, ["depth", "light", "derain"])
