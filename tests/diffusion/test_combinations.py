"""Promise: every combination of choices is refused with what to choose, or it learns."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from generalist import diffusion
from generalist.diffusion.combinations import check_combination
from generalist.diffusion.objective import Objective

SCHEDULES = {name: diffusion.get_schedule(name) for name in diffusion.SCHEDULES}
OBJECTIVES = list(
    itertools.product(
        SCHEDULES, diffusion.PREDICTION_TYPES, diffusion.LOSS_WEIGHTS, diffusion.X_INITS
    )
)
CHOICES = {
    "schedule": "cosine",
    "prediction_type": "x0",
    "loss_weight": "x0",
    "x_init": "zeros",
    "sampler": "one_step",
    "steps": 1,
    "eta": 0.0,
    "guidance": 1.0,
    "samples": 1,
    "drop_image": 0.0,
    "drop_text": 0.0,
    "prototype_weight": 0.0,
    "prototype_temperature": 1.0,
}


def refusal(p_pure_noise=(0.5,), sees_image=(True,), **changes) -> str:
    """What the check says; empty if it lets the choices pass."""
    choices = CHOICES | changes
    try:
        schedule = SCHEDULES[choices["schedule"]]
        check_combination(choices, schedule, p_pure_noise, sees_image)
    except ValueError as error:
        return str(error)
    return ""


def objective_refusal(schedule, prediction_type, loss_weight, x_init) -> str:
    return refusal(
        schedule=schedule, prediction_type=prediction_type, loss_weight=loss_weight, x_init=x_init
    )


# Training: a target that is a linear function of the image, pixel by pixel ------------------------

MIXTURE = np.float32(np.random.default_rng(0).uniform(-0.3, 0.3, (3, 3)))


def make_batch(key) -> dict:
    image = jax.random.randint(key, (64, 4, 4, 3), 0, 256).astype(jnp.uint8)
    return {
        "image": image,
        "picture": image,
        "target": (image / 127.5 - 1.0) @ MIXTURE,
        "mask": jnp.ones((64, 4, 4, 1)),
        "task": jnp.zeros(64, jnp.int32),
    }


def make_model(weights):
    """Two layers on (x_t, image, functions of t) of each pixel."""

    def encode(image, prompts, **keep):
        return image

    def denoise(x_t, t, image):
        t = diffusion.expand(t, x_t) * jnp.ones_like(x_t[..., :1])
        features = [x_t, image, t, t**4, t * x_t, jnp.ones_like(t)]
        hidden = jax.nn.gelu(jnp.concatenate(features, -1) @ weights["into"])
        return hidden @ weights["out"]

    return types.SimpleNamespace(encode=encode, denoise=denoise)


def errors_at_the_start(schedule, prediction_type, loss_weight, x_init) -> tuple[float, float]:
    """Mean squared error of x0 in one step from where the sampler begins, untrained and trained."""
    objective = Objective(
        schedule=SCHEDULES[schedule],
        prediction_type=prediction_type,
        loss_weight=loss_weight,
        x_init=x_init,
        mean=jnp.zeros(1),
        std=jnp.ones(1),
        p_pure_noise=jnp.array([0.5]),
        task_weight=jnp.ones(1),
        prompts=jnp.zeros((1, 1, 1)),
        drop_image=0.0,
        drop_text=0.0,
        palettes={},
        prototype_weight=0.0,
        prototype_temperature=1.0,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))

    def error(weights):
        batch = make_batch(jax.random.key(1))
        start = diffusion.initial_noise(jax.random.key(2), batch["target"].shape, x_init)
        image = batch["image"] / 127.5 - 1.0
        model = make_model(weights)
        x0 = diffusion.sample(
            lambda x_t, t: model.denoise(x_t, t, image),
            start,
            objective.schedule,
            prediction_type,
            "one_step",
            1,
        )
        return jnp.square(x0 - batch["target"]).mean()

    def update(carry, key):
        weights, state = carry
        batch_key, noise_key = jax.random.split(key)
        batch = objective.add_noise(make_batch(batch_key), noise_key)

        def loss(weights):
            return objective.loss(make_model(weights), batch)[0]

        updates, state = optimizer.update(jax.grad(loss)(weights), state)
        return (optax.apply_updates(weights, updates), state), None

    @jax.jit
    def train(weights):
        keys = jax.random.split(jax.random.key(0), 150)
        (trained, _), _ = jax.lax.scan(update, (weights, optimizer.init(weights)), keys)
        return error(weights), error(trained)

    rng = np.random.default_rng(0)
    weights = {
        "into": np.float32(0.3 * rng.standard_normal((12, 16))),
        "out": np.float32(0.3 * rng.standard_normal((16, 3))),
    }
    untrained, trained = train(weights)
    return float(untrained), float(trained)


ACCEPTED = [choice for choice in OBJECTIVES if not objective_refusal(*choice)]


def test_how_many_objectives_are_accepted():
    """Of 90: 2 x 2 x 3 x 2 without signal at t = 1, and 3 x 5 from noise where some is left."""
    assert (len(OBJECTIVES), len(ACCEPTED)) == (90, 39)


@pytest.mark.parametrize("choice", ACCEPTED, ids="-".join)
def test_what_is_accepted_learns_the_answer_at_the_start_of_sampling(choice):
    untrained, trained = errors_at_the_start(*choice)
    assert trained < 0.5 * untrained


@pytest.mark.parametrize(
    "choice",
    [
        ("cosine", "x0", "min_snr", "gaussian"),
        ("cosine", "v", "sigmoid", "gaussian"),
        ("cosine", "eps", "simple", "gaussian"),
    ],
    ids="-".join,
)
def test_what_is_refused_for_its_answer_at_the_start_does_not_learn_it(choice):
    """At best as well as black, whose error is the variance of the target."""
    variance = float(jnp.square(make_batch(jax.random.key(1))["target"]).mean())
    _, trained = errors_at_the_start(*choice)
    assert objective_refusal(*choice)
    assert trained > 0.5 * variance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prediction_type": "eps"}, "choose prediction_type 'x0' or 'v', or schedule"),
        ({"loss_weight": "min_snr"}, "choose loss_weight 'x0', 'v' or 'simple', or schedule"),
        ({"loss_weight": "sigmoid"}, "is 0 at t = 1 with diffusion.schedule 'cosine'"),
        ({"schedule": "stable_diffusion"}, "choose x_init 'gaussian', or schedule 'cosine'"),
        ({"p_pure_noise": (0.5, 0.0)}, "p_pure_noise above 0, or x_init 'gaussian'"),
        ({"guidance": 3.0}, "choose drop_image 0.1, or guidance 1"),
        ({"guidance": -1.0}, "diffusion.guidance is -1.0; allowed is 0 or more"),
        ({"drop_image": 1.5}, "diffusion.drop_image is 1.5; allowed is a probability"),
        ({"drop_text": 1.0}, "diffusion.drop_text is 1.0; allowed is a probability"),
        ({"prototype_weight": -1.0}, "diffusion.prototype_weight is -1.0"),
        (
            {"prototype_weight": 1.0, "prototype_temperature": 0.0},
            "diffusion.prototype_temperature is 0.0; allowed is more than 0",
        ),
        ({"steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"sampler": "ddim", "steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"steps": 4}, "for more steps use 'ddim' or 'dpmpp_2m'"),
        ({"eta": 0.5}, "eta must be 0, or in [0, 1] with 'ddim'"),
        ({"samples": 8}, "would all be equal: diffusion.x_init 'zeros' with diffusion.eta 0"),
        ({"loss_weight": "xo"}, "Did you mean 'x0'"),
    ],
)
def test_what_is_refused_is_told_what_to_choose(changes, message):
    assert message in refusal(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"x_init": "gaussian", "p_pure_noise": (0.0,)},
        {"guidance": 3.0, "drop_image": 0.1},
        {"sampler": "ddim", "steps": 10, "eta": 1.0},
        {"sampler": "dpmpp_2m", "steps": 4},
        {"samples": 8, "x_init": "gaussian"},
        {"samples": 8, "sampler": "ddim", "steps": 2, "eta": 0.5},
        {"prototype_weight": 1.0},
    ],
)
def test_what_fits_together_passes(changes):
    assert refusal(**changes) == ""


SAMPLERS = list(itertools.product(diffusion.SAMPLERS, (1, 4), (0.0, 1.0), diffusion.X_INITS))


@pytest.mark.parametrize(("sampler", "steps", "eta", "x_init"), SAMPLERS)
def test_every_sampler_is_refused_or_ends_where_a_perfect_network_says(sampler, steps, eta, x_init):
    x0 = np.float32(np.random.default_rng(0).uniform(-1, 1, (2, 4, 4, 3)))
    start = diffusion.initial_noise(jax.random.key(0), x0.shape, x_init)

    def answer():
        return diffusion.sample(
            lambda x_t, t: jnp.asarray(x0),
            start,
            SCHEDULES["cosine"],
            "x0",
            sampler,
            steps,
            eta=eta,
            key=jax.random.key(1),
        )

    if refusal(sampler=sampler, steps=steps, eta=eta, x_init=x_init):
        with pytest.raises(ValueError, match="sampler"):
            answer()
    else:
        np.testing.assert_allclose(answer(), x0, atol=1e-6)


@pytest.mark.parametrize(
    ("sees_image", "trained", "said"),
    [
        ([False], {"drop_text": 0.1}, ""),
        ([False], {"drop_image": 0.1}, "without a prompt, which diffusion.drop_text 0 never"),
        ([True, False], {"drop_image": 0.1}, "choose drop_text 0.1, or guidance 1"),
        ([True, False], {"drop_text": 0.1}, "choose drop_image 0.1, or guidance 1"),
        ([True, False], {"drop_text": 0.1, "drop_image": 0.1}, ""),
    ],
)
def test_guidance_hides_what_a_task_knows(sees_image, trained, said):
    found = refusal(sees_image=sees_image, guidance=3.0, **trained)
    assert said in found and bool(said) == bool(found)
