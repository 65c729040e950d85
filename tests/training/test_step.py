"""The training step on a model of one dense layer, whose losses can be worked out by hand."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from generalist import diffusion
from generalist.diffusion.objective import Objective, masked_mean
from generalist.models import parameters as parameters_lib
from generalist.training.state import State
from generalist.training.step import make_step


class Pointwise(nnx.Module):
    """Every output pixel is a dense function of x_t, the image and the prompt at that pixel."""

    def __init__(self, rngs):
        self.head = nnx.Linear(9, 3, rngs=rngs)
        self.text_encoder = nnx.Linear(3, 3, rngs=rngs)

    def encode(self, image, text, *, picture, keep_image, keep_text):
        def hide(x, keep):
            return x * keep.reshape(-1, 1, 1, 1)

        text = self.text_encoder(text.mean(1))[:, None, None]
        return jnp.concatenate(
            [hide(image, keep_image), hide(jnp.broadcast_to(text, image.shape), keep_text)], -1
        )

    def denoise(self, x_t, t, condition):
        return self.head(jnp.concatenate([x_t, condition], -1))


OBJECTIVE = Objective(
    schedule=diffusion.CosineSchedule(),
    prediction_type="x0",
    loss_weight="x0",
    x_init="zeros",
    mean=jnp.zeros(2),
    std=jnp.ones(2),
    p_pure_noise=jnp.array([0.0, 0.5]),
    task_weight=jnp.array([1.0, 1.0]),
    prompts=jnp.arange(12.0).reshape(2, 2, 3) / 10,
    drop_image=0.25,
    drop_text=0.25,
    palettes={},
    prototype_weight=0.0,
    prototype_temperature=1.0,
)
OPTIMIZER = optax.adam(0.01)
TASKS = np.array([0, 1, 1, 0, 1, 1, 0, 1], np.int32)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.integers(0, 256, (8, 4, 4, 3), np.uint8),
        "picture": np.zeros((8, 4, 4, 3), np.uint8),
        "task": TASKS,
        "target": rng.uniform(-1, 1, (8, 4, 4, 3)).astype(np.float32),
        "mask": (rng.random((8, 4, 4, 1)) < 0.7).astype(np.float32),
    }


@pytest.fixture(scope="module")
def graphdef():
    return parameters_lib.abstract(lambda: Pointwise(nnx.Rngs(0)))[0]


@pytest.fixture(scope="module")
def state():
    _, shapes = parameters_lib.abstract(lambda: Pointwise(nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    values = {
        path: jnp.asarray(0.3 * rng.standard_normal(x.shape), jnp.float32)
        for path, x in shapes.items()
    }
    frozen = {path: values.pop(path) for path in list(values) if path.startswith("text_encoder")}
    return State(jnp.int32(0), values, values, frozen, OPTIMIZER.init(values))


def compile_step(graphdef, accum_steps=1, seed=0, objective=OBJECTIVE):
    step = make_step(
        graphdef, objective, OPTIMIZER, seed=seed, ema_decay=0.99, accum_steps=accum_steps
    )
    return jax.jit(step)


@pytest.fixture(scope="module")
def step(graphdef):
    return compile_step(graphdef)


@pytest.fixture(scope="module")
def constant_loss(graphdef):
    """(batch, objective, prediction) -> (loss, losses) of a model that predicts one colour."""

    def loss(batch, objective, prediction, **drawn):
        weights = {
            "head.kernel": jnp.zeros((9, 3)),
            "head.bias": jnp.asarray(prediction, jnp.float32),
            "text_encoder.kernel": jnp.zeros((3, 3)),
            "text_encoder.bias": jnp.zeros(3),
        }
        n = len(batch["task"])
        drawn = {
            "t": jnp.full(n, 0.5),
            "x_t": batch["target"],
            "eps": jnp.zeros_like(batch["target"]),
            "keep_image": jnp.ones(n),
            "keep_text": jnp.ones(n),
        } | drawn

        def call(weights, batch):
            return objective.loss(parameters_lib.merge(graphdef, weights), batch)

        return jax.jit(call)(weights, batch | drawn)

    return loss


def add_noise(objective, batch):
    return jax.jit(objective.add_noise)(batch, jax.random.key(0))


def one_pixel(*targets, task=(0, 1)):
    """A batch of images of one pixel each."""
    n = len(targets)
    return {
        "image": np.zeros((n, 1, 1, 3), np.uint8),
        "picture": np.zeros((n, 1, 1, 3), np.uint8),
        "mask": np.ones((n, 1, 1, 1), np.float32),
        "target": np.asarray(targets, np.float32).reshape(n, 1, 1, 3),
        "task": np.asarray(task, np.int32),
    }


def test_loss_by_hand(constant_loss):
    """Predicting 0: mean squares 1/3 and 1; task weights 3 and 1/2; the mean over the batch."""
    objective = dataclasses.replace(OBJECTIVE, task_weight=jnp.array([3.0, 0.5]))
    loss, losses = constant_loss(one_pixel([1, 0, 0], [1, -1, 1]), objective, [0, 0, 0])
    np.testing.assert_allclose(losses, [1 / 3, 1.0], rtol=1e-6)
    assert float(loss) == pytest.approx((3 / 3 + 1 / 2) / 2, rel=1e-6)


def test_v_loss_by_hand(constant_loss):
    """At t = 1/2 of the cosine schedule alpha = sigma = sqrt(1/2): v = (eps - x0) / sqrt(2); its
    MSE is halved for the x0-MSE.
    """
    objective = dataclasses.replace(OBJECTIVE, prediction_type="v")
    _, losses = constant_loss(
        one_pixel([1, 1, 1], task=(0,)), objective, [0, 0, 0], eps=jnp.full((1, 1, 1, 3), 3.0)
    )
    np.testing.assert_allclose(losses, [2.0 / 2], rtol=1e-5)


def test_prototype_loss_by_hand(constant_loss):
    """White and black palette, prediction 0.1: squared distances 2.43 and 3.63, one temperature of
    1.2 apart.
    """
    objective = dataclasses.replace(
        OBJECTIVE,
        palettes={1: jnp.array([[1.0, 1, 1], [-1, -1, -1]])},
        prototype_weight=0.5,
        prototype_temperature=1.2,
    )
    _, losses = constant_loss(one_pixel([1, 1, 1], [1, 1, 1]), objective, [0.1, 0.1, 0.1])
    np.testing.assert_allclose(losses, [0.81, 0.81 + 0.5 * math.log1p(math.exp(-1.0))], rtol=1e-5)
    _, losses = constant_loss(one_pixel([-1, -1, -1], [-1, -1, -1]), objective, [0.1, 0.1, 0.1])
    np.testing.assert_allclose(losses, [1.21, 1.21 + 0.5 * math.log1p(math.exp(1.0))], rtol=1e-5)


def test_masked_mean_counts_only_the_mask():
    x = jnp.array([[[1.0, 2.0], [3.0, 40.0]], [[5.0, 6.0], [7.0, 8.0]]])
    mask = jnp.array([[[1.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    np.testing.assert_allclose(masked_mean(x, mask), [2.0, 0.0])


def test_masked_pixels_influence_neither_loss_nor_gradient(step, state, batch):
    other = dict(
        batch, target=np.where(batch["mask"] == 1, batch["target"], 0.9).astype(np.float32)
    )
    assert (other["target"] != batch["target"]).any()
    (new, metrics), (new_other, metrics_other) = step(state, batch), step(state, other)
    np.testing.assert_array_equal(metrics["loss"], metrics_other["loss"])
    jax.tree.map(np.testing.assert_array_equal, new.parameters, new_other.parameters)


def test_accumulation_changes_nothing(step, graphdef, state, batch):
    """Four parts of two equal one of eight; only the order of float32 sums differs."""
    (one, metrics), (four, metrics_four) = (
        step(state, batch),
        compile_step(graphdef, accum_steps=4)(state, batch),
    )
    for name, value in metrics.items():
        np.testing.assert_allclose(metrics_four[name], value, rtol=1e-5)
    for path, value in one.parameters.items():
        np.testing.assert_allclose(four.parameters[path], value, atol=1e-6)


SHARED = """
import sys
import jax, jax.numpy as jnp, optax
jax.config.update("jax_num_cpu_devices", 4)
sys.path.insert(0, {folder!r})
from test_step import OBJECTIVE, OPTIMIZER, Pointwise
from flax import nnx
from generalist.models import parameters as parameters_lib
from generalist.devices import mesh as mesh_lib
from generalist.training.state import State
from generalist.training.step import make_step

mesh = mesh_lib.make_mesh()
graphdef, shapes = parameters_lib.abstract(lambda: Pointwise(nnx.Rngs(0)))
state = jax.eval_shape(
    lambda values: State(jnp.int32(0), values, values, {{}}, OPTIMIZER.init(values)), shapes
)

def shaped(dtype, *shape):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=mesh_lib.batch_sharding(mesh))

batch = {{
    "image": shaped(jnp.uint8, 64, 32, 32, 3),
    "picture": shaped(jnp.uint8, 64, 32, 32, 3),
    "target": shaped(jnp.float32, 64, 32, 32, 3),
    "mask": shaped(jnp.float32, 64, 32, 32, 1),
    "task": shaped(jnp.int32, 64),
}}
for accum_steps in (1, 4):
    step = make_step(
        graphdef, OBJECTIVE, OPTIMIZER, seed=0, ema_decay=0.9, accum_steps=accum_steps,
        shard_microbatches=lambda x: mesh_lib.shard_microbatches(x, mesh),
    )
    text = jax.jit(step).lower(state, batch).compile().as_text()
    products = [line for line in text.splitlines() if " dot(" in line]
    print(sorted({{int(line.split("f32[")[1].split(",")[0].split("]")[0]) for line in products}}))
"""


def test_every_device_works_on_its_share_of_every_part():
    """64 images of 32 x 32 pixels over 4 devices: the dense layer sees 16 x 1,024 pixels of each,
    of four parts 4 x 1,024 at a time.
    """
    program = SHARED.format(folder=str(pathlib.Path(__file__).parent))
    rows = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    whole, parts = map(json.loads, rows)
    assert max(whole) == 16 * 1024 and max(parts) == 4 * 1024


def test_metrics_count_and_sum_by_task(step, state, batch):
    _, metrics = step(state, batch)
    np.testing.assert_array_equal(metrics["task_count"], [3, 5])
    assert float(metrics["task_loss"].sum() / 8) == pytest.approx(float(metrics["loss"]), rel=1e-5)


def test_ema_by_hand(step, state, batch):
    """decay = min(0.99, (1 + n) / (10 + n)): 0.1 at step 0, 2/11 at step 1."""
    first, _ = step(state, batch)
    second, _ = step(first, batch)
    for path in state.parameters:
        p0, p1, p2 = (np.asarray(s.parameters[path]) for s in (state, first, second))
        ema1 = 0.1 * p0 + 0.9 * p1
        np.testing.assert_allclose(first.ema[path], ema1, atol=1e-6)
        np.testing.assert_allclose(second.ema[path], 2 / 11 * ema1 + 9 / 11 * p2, atol=1e-6)


def test_a_step_trains_everything_but_the_frozen(step, state, batch):
    new, _ = step(state, batch)
    assert int(new.step) == 1
    jax.tree.map(np.testing.assert_array_equal, new.frozen, state.frozen)
    assert all((new.parameters[path] != state.parameters[path]).all() for path in state.parameters)


def test_randomness_is_a_function_of_seed_and_step(step, graphdef, state, batch):
    (new, metrics), (again, metrics_again) = step(state, batch), step(state, batch)
    jax.tree.map(np.testing.assert_array_equal, (new, metrics), (again, metrics_again))
    _, later = step(state._replace(step=jnp.int32(1)), batch)
    _, other_seed = compile_step(graphdef, seed=1)(state, batch)
    assert len({float(m["loss"]) for m in (metrics, later, other_seed)}) == 3


@pytest.mark.parametrize("x_init", ["zeros", "gaussian"])
def test_pure_noise_is_where_the_sampler_starts(batch, x_init):
    """Task 1 is always pure, task 0 never; x_t is zero, or the noise itself without a trace of the
    target.
    """
    objective = dataclasses.replace(OBJECTIVE, x_init=x_init, p_pure_noise=jnp.array([0.0, 1.0]))
    drawn = add_noise(objective, batch)
    pure = TASKS == 1
    np.testing.assert_array_equal(drawn["t"] == 1.0, pure)
    x_t = np.asarray(drawn["x_t"])
    if x_init == "zeros":
        assert not x_t[pure].any()
    else:
        np.testing.assert_array_equal(x_t[pure], drawn["eps"][pure])
        assert x_t[pure].std() == pytest.approx(1.0, abs=0.15)
    alpha, sigma = (
        np.asarray(a)[~pure, None, None, None] for a in objective.schedule.alpha_sigma(drawn["t"])
    )
    np.testing.assert_allclose(
        x_t[~pure], alpha * batch["target"][~pure] + sigma * drawn["eps"][~pure], atol=1e-6
    )


@pytest.mark.parametrize(("drop", "kept"), [(0.0, 1.0), (1.0, 0.0)])
def test_conditions_are_dropped_as_often_as_asked(batch, drop, kept):
    drawn = add_noise(dataclasses.replace(OBJECTIVE, drop_image=drop, drop_text=1 - drop), batch)
    np.testing.assert_array_equal(drawn["keep_image"], np.full(8, kept))
    np.testing.assert_array_equal(drawn["keep_text"], np.full(8, 1 - kept))


class Captioned(Pointwise):
    """Its text encoder is a table of tokens: one word a prompt."""

    def encode_text(self, ids):
        return OBJECTIVE.prompts[ids[:, 0]]


@pytest.mark.parametrize("accum_steps", [1, 4])
def test_prompts_of_examples_are_encoded_in_the_step(step, state, batch, accum_steps):
    """The tasks' own, as ids of examples, give the step of fixed prompts; others another."""
    graphdef, _ = parameters_lib.abstract(lambda: Captioned(nnx.Rngs(0)))
    captioned = compile_step(graphdef, accum_steps)
    fixed, metrics = step(state, batch)
    same, metrics_same = captioned(state, batch | {"prompt_ids": TASKS[:, None]})
    np.testing.assert_allclose(metrics_same["loss"], metrics["loss"], rtol=1e-6)
    for path, value in fixed.parameters.items():
        np.testing.assert_allclose(same.parameters[path], value, atol=1e-6)
    _, metrics_other = captioned(state, batch | {"prompt_ids": 1 - TASKS[:, None]})
    assert abs(float(metrics_other["loss"] - metrics["loss"])) > 1e-3


def test_a_task_that_sees_no_image_is_never_shown_one(batch):
    objective = dataclasses.replace(
        OBJECTIVE, sees_image=jnp.array([1.0, 0.0]), drop_image=0.0, drop_text=0.0
    )
    drawn = add_noise(objective, batch)
    np.testing.assert_array_equal(drawn["keep_image"], 1.0 - TASKS)
    np.testing.assert_array_equal(drawn["keep_text"], np.ones(8))
