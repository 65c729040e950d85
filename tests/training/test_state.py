"""The state of a run: its digest, and how many parameters it has."""

import jax.numpy as jnp
import numpy as np
import pytest

from generalist.training.state import State, digest, in_step

STATE = State(
    jnp.int32(3),
    {"b": jnp.arange(4.0), "a": jnp.zeros(2)},
    {"b": jnp.ones(4), "a": jnp.zeros(2)},
    {"f": jnp.ones(2)},
    (),
)


def test_digest_is_of_values_not_of_the_order_of_paths():
    turned = STATE._replace(parameters=dict(reversed(STATE.parameters.items())))
    assert digest(turned) == digest(STATE)
    assert len(digest(STATE)) == 64


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
    assert digest(changed) != digest(STATE)


def test_the_text_encoder_is_in_a_step_only_where_examples_have_prompts():
    state = STATE._replace(frozen={"text_encoder.a": np.ones(2), "unet.b": np.ones(3)})
    assert list(in_step(state, own_prompts=False).frozen) == ["unet.b"]
    assert list(in_step(state, own_prompts=True).frozen) == ["text_encoder.a", "unet.b"]
