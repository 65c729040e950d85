"""The training step on the whole (tiny) model: everything that is to learn does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from generalist import diffusion, models
from generalist.models import parameters as parameters_lib
from generalist.training.optimizer import make_optimizer, trainable
from generalist.training.step import Objective, State, make_step

SETTINGS = {
    "dtype": "float32", "target_size": 8, "concatenate_image": True, "aligned_features": True, "pooled_text": True,
    "unet": {"channels": (4, 8), "layers_per_block": 1, "attention_levels": (False, False), "context_dim": 8, "heads": 2,
             "groups": 2, "patch": 2, "refine": 4, "position": True},
    "image_encoder": {"image_size": 8, "patch": 4, "dim": 8, "depth": 1, "heads": 2},
    "text_encoder": {"dim": 4, "depth": 1, "heads": 2}}
OPTIMIZER = {"lr": 1e-3, "schedule": "constant", "warmup_steps": 0, "decay_fraction": 0.0, "b1": 0.9, "b2": 0.99, "clip": 1.0,
             "weight_decay": 0.01, "weight_decay_on": (r"kernel$",), "lr_multipliers": ((r"^image_encoder\.", 0.1),)}


@pytest.fixture(scope="module")
def before_and_after():
    """The state at the start, with random weights, and after two steps; and the metrics of both."""
    graphdef, shapes = parameters_lib.abstract(lambda: models.build(SETTINGS))
    rng = np.random.default_rng(0)
    values = {path: np.float32(0.2) * rng.standard_normal(x.shape, np.float32) for path, x in shapes.items()}
    trained = trainable((r"^text_encoder\.",), values)
    optimizer, _ = make_optimizer(OPTIMIZER, trained, 10)
    objective = Objective(
        schedule=diffusion.CosineSchedule(), kind="x0", weight="x0", weight_settings={}, mean=jnp.zeros(1), std=jnp.ones(1),
        pure=jnp.array([0.25]), start="zeros", task_weight=jnp.ones(1), prompts=jnp.asarray(rng.standard_normal((1, 3, 4)), jnp.float32),
        drop_image=0.0, drop_text=0.0, palettes={}, prototype_weight=0.0, prototype_temperature=1.0)
    parameters = {path: values.pop(path) for path in trained}
    state = State(jnp.int32(0), parameters, parameters, values, optimizer.init(parameters))
    batch = {"image": rng.integers(0, 256, (4, 8, 8, 3), np.uint8), "target": rng.uniform(-1, 1, (4, 8, 8, 3)).astype(np.float32),
             "mask": np.ones((4, 8, 8, 1), np.float32), "task": np.zeros(4, np.int32)}
    step = jax.jit(make_step(graphdef, objective, optimizer, seed=0, ema_decay=0.99),
                   compiler_options={"xla_backend_optimization_level": 0})
    after, first = step(state, batch)
    after, second = step(after, batch)
    return state, after, first, second


def test_every_trained_parameter_moves(before_and_after):
    before, after, *_ = before_and_after
    assert [path for path, x in after.parameters.items() if np.array_equal(x, before.parameters[path])] == []
    assert [path for path, x in after.ema.items() if np.array_equal(x, before.ema[path])] == []


def test_the_text_encoder_is_frozen(before_and_after):
    before, after, *_ = before_and_after
    assert after.frozen and all(path.startswith("text_encoder.") for path in after.frozen)
    jax.tree.map(np.testing.assert_array_equal, after.frozen, before.frozen)


def test_the_image_encoder_moves_at_a_tenth_of_the_speed(before_and_after):
    """Two steps of Adam move a parameter by at most about two learning rates, and most of them by nearly that."""
    before, after, *_ = before_and_after
    moved = {path: float(np.abs(np.asarray(x) - before.parameters[path]).max()) for path, x in after.parameters.items()}
    encoder = max(size for path, size in moved.items() if path.startswith("image_encoder."))
    rest = max(size for path, size in moved.items() if not path.startswith("image_encoder."))
    assert encoder == pytest.approx(2e-4, rel=0.1) and rest == pytest.approx(2e-3, rel=0.1)


def test_metrics_are_finite_and_the_step_counts(before_and_after):
    _, after, first, second = before_and_after
    assert int(after.step) == 2
    assert all(np.isfinite(value).all() for metrics in (first, second) for value in metrics.values())
