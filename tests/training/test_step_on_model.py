"""The training step on the whole (tiny) model: a gradient reaches everything that is to learn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from generalist import diffusion, models
from generalist.diffusion.objective import Objective
from generalist.models import parameters as parameters_lib
from generalist.training.optimizer import trainable
from generalist.training.state import State
from generalist.training.step import make_step

SETTINGS = {
    "dtype": "float32",
    "target_size": 8,
    "concatenate_image": True,
    "aligned_features": True,
    "pooled_text": True,
    "unet": {
        "channels": (4, 8),
        "layers_per_block": 1,
        "attention_levels": (False, False),
        "context_dim": 8,
        "heads": 2,
        "groups": 2,
        "patch": 2,
        "refine": 4,
        "position": True,
    },
    "image_encoder": {"image_size": 8, "patch": 4, "dim": 8, "depth": 1, "heads": 2},
    "text_encoder": {"dim": 4, "depth": 1, "heads": 2},
}


@pytest.fixture(scope="module")
def one_step():
    """(state with random weights, state after one step of gradient descent, metrics)."""
    graphdef, shapes = parameters_lib.abstract(lambda: models.build(SETTINGS))
    rng = np.random.default_rng(0)
    values = {
        path: np.float32(0.2) * rng.standard_normal(x.shape, np.float32)
        for path, x in shapes.items()
    }
    parameters = {path: values.pop(path) for path in trainable((r"^text_encoder\.",), values)}
    optimizer = optax.sgd(100.0)
    objective = Objective(
        schedule=diffusion.CosineSchedule(),
        prediction_type="x0",
        loss_weight="x0",
        x_init="zeros",
        mean=jnp.zeros(1),
        std=jnp.ones(1),
        p_pure_noise=jnp.array([0.25]),
        task_weight=jnp.ones(1),
        prompts=jnp.asarray(rng.standard_normal((1, 3, 4), np.float32)),
        drop_image=0.0,
        drop_text=0.0,
        palettes={},
        prototype_weight=0.0,
        prototype_temperature=1.0,
    )
    state = State(np.int32(0), parameters, parameters, values, optimizer.init(parameters))
    batch = {
        "image": rng.integers(0, 256, (4, 8, 8, 3), np.uint8),
        "picture": rng.integers(0, 256, (4, 8, 8, 3), np.uint8),
        "target": rng.uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32),
        "mask": np.ones((4, 8, 8, 1), np.float32),
        "task": np.zeros(4, np.int32),
    }
    step = jax.jit(
        make_step(graphdef, objective, optimizer, seed=0, ema_decay=0.99),
    )
    return state, *step(state, batch)


def test_every_trained_parameter_moves(one_step):
    """But for the bias of the encoder's keys: it shifts all scores of a query alike, which softmax
    does not see.
    """
    before, after, _ = one_step
    still = {
        path for path, x in after.parameters.items() if np.array_equal(x, before.parameters[path])
    }
    assert still <= {path for path in before.parameters if path.endswith("k_proj.bias")}


def test_the_text_encoder_is_frozen(one_step):
    before, after, _ = one_step
    assert after.frozen and all(path.startswith("text_encoder.") for path in after.frozen)
    jax.tree.map(np.testing.assert_array_equal, after.frozen, before.frozen)


def test_metrics_are_finite_and_the_step_counts(one_step):
    _, after, metrics = one_step
    assert int(after.step) == 1
    assert all(np.isfinite(value).all() for value in metrics.values())
