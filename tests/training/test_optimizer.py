"""AdamW with tables of path regexes: one step by hand, optax as a peer, and what the tables say."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax.contrib._muon import orthogonalize_via_newton_schulz as newton_schulz
from rounded_products import to_bfloat16, to_tf32, with_rounded_products

from generalist.training.optimizer import (
    learning_rate,
    make_optimizer,
    match,
    orthogonalize,
    trainable,
)

SETTINGS = {
    "lr": 0.1,
    "schedule": "constant",
    "warmup_steps": 0,
    "decay_fraction": 0.0,
    "b1": 0.9,
    "b2": 0.99,
    "clip": 1e9,
    "muon": (),
    "mu_dtype": "float32",
    "weight_decay": 0.0,
    "weight_decay_on": (r"kernel$",),
    "lr_multipliers": (),
}
PARAMETERS = {
    "image_encoder.kernel": jnp.array([1.0, -2.0]),
    "unet.bias": jnp.array([0.5]),
    "unet.kernel": jnp.array([4.0, 3.0]),
}
GRADIENTS = {
    "image_encoder.kernel": jnp.array([0.3, 0.1]),
    "unet.bias": jnp.array([-0.2]),
    "unet.kernel": jnp.array([1.0, -5.0]),
}


def after(steps=1, **changes):
    """The parameters after some steps with the same gradients."""
    optimizer, _ = make_optimizer(SETTINGS | changes, list(PARAMETERS), 100)
    parameters, state = PARAMETERS, optimizer.init(PARAMETERS)
    for _ in range(steps):
        updates, state = optimizer.update(GRADIENTS, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    return parameters


def test_first_step_by_hand():
    """Adam's first update is the sign of the gradient; kernels also decay by lr * weight_decay *
    value.
    """
    parameters = after(weight_decay=0.5)
    np.testing.assert_allclose(parameters["unet.bias"], [0.5 + 0.1], rtol=1e-6)
    np.testing.assert_allclose(
        parameters["unet.kernel"], [4 - 0.1 - 0.1 * 0.5 * 4, 3 + 0.1 - 0.1 * 0.5 * 3], rtol=1e-6
    )


def test_equals_optax_adamw_with_clipping():
    """With everything decaying at one speed, what is left is optax.adamw behind
    clip_by_global_norm.
    """
    peer = optax.chain(
        optax.clip_by_global_norm(0.7), optax.adamw(0.1, b1=0.9, b2=0.99, weight_decay=0.02)
    )
    parameters, state = PARAMETERS, peer.init(PARAMETERS)
    for _ in range(3):
        updates, state = peer.update(GRADIENTS, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
    ours = after(3, clip=0.7, weight_decay=0.02, weight_decay_on=(".",))
    for path, value in parameters.items():
        np.testing.assert_allclose(ours[path], value, rtol=1e-6)


def test_multipliers_scale_the_whole_update_and_the_first_match_wins():
    plain = after(weight_decay=0.5)
    slow = after(weight_decay=0.5, lr_multipliers=((r"^image_encoder\.", 0.1), (r"kernel", 0.5)))
    for path, factor in {"image_encoder.kernel": 0.1, "unet.kernel": 0.5, "unet.bias": 1.0}.items():
        np.testing.assert_allclose(
            slow[path] - PARAMETERS[path], factor * (plain[path] - PARAMETERS[path]), atol=1e-6
        )


def test_a_bfloat16_first_moment_halves_it_and_hardly_changes_the_update():
    """bfloat16 has 8 bits of mantissa: updates differ by less than 1 %, and only mu is stored in
    it.
    """
    optimizer, _ = make_optimizer(SETTINGS | {"mu_dtype": "bfloat16"}, list(PARAMETERS), 100)
    dtypes = [str(x.dtype) for x in jax.tree.leaves(optimizer.init(PARAMETERS)) if x.ndim]
    assert dtypes.count("bfloat16") == len(PARAMETERS)
    for path, value in after(3).items():
        np.testing.assert_allclose(
            after(3, mu_dtype="bfloat16")[path] - PARAMETERS[path],
            value - PARAMETERS[path],
            rtol=0.01,
        )


def test_frozen_paths_are_not_trainable():
    paths = ["text_encoder.kernel", "unet.kernel", "unet.text_encoder_like"]
    assert trainable((r"^text_encoder\.",), paths) == paths[1:]
    assert trainable((), paths) == paths


def test_muon_makes_the_update_orthogonal_at_the_size_of_adams():
    """A gradient u s v^T gives u v^T whatever s: of a tall (18, 4) kernel, the 4 columns of length
    lr * 0.2 * sqrt(18).
    """
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.standard_normal((18, 4)), full_matrices=False)
    gradient = {
        "unet.kernel": jnp.asarray((u * [9.0, 3.0, 1.0, 0.3]) @ v, jnp.float32).reshape(3, 3, 2, 4),
        "unet.bias": jnp.ones(4),
    }
    start = {path: jnp.zeros_like(x) for path, x in gradient.items()}
    optimizer, _ = make_optimizer(SETTINGS | {"muon": (r"kernel$",)}, list(start), 100)
    updates, _ = optimizer.update(gradient, optimizer.init(start), start)
    np.testing.assert_allclose(
        updates["unet.bias"], -0.1 * np.ones(4), rtol=1e-5
    )  # Adam's, beside it
    update = np.asarray(updates["unet.kernel"]).reshape(18, 4) / (-0.1 * 0.2 * np.sqrt(18))
    assert np.linalg.svd(u.T @ update @ v.T)[1] == pytest.approx(
        [1, 1, 1, 1], abs=0.35
    )  # five Newton-Schulz steps: 0.7 to 1.2
    assert (
        np.linalg.norm(update - u @ (u.T @ update)) < 1e-5
    )  # nothing outside of the gradient's own directions


def ill_conditioned(shape, smallest):
    """Matrices whose singular values go from 1 down to `smallest`, float64."""
    u, _, v = np.linalg.svd(np.random.default_rng(0).standard_normal(shape), full_matrices=False)
    return (u * np.geomspace(1, smallest, min(shape[1:]))) @ v


@pytest.mark.parametrize("shape", [(3, 72, 8), (2, 16, 16), (2, 6, 20)])
def test_orthogonalize_equals_optax(shape):
    """Whose iteration multiplies the whole matrix every time.

    In float64, where the two agree to what each adds to the norm in its own place. In float32 the
    Gram matrix holds a singular value of 1e-3 as 1e-6, with one digit left: there the two differ by
    1e-4 to 3e-4, depending on how the CPU orders its sums, and either may be the nearer one.
    """
    x = ill_conditioned(shape, smallest=1e-3)
    with jax.enable_x64(True):
        actual = orthogonalize(jnp.asarray(x))
        expected = [newton_schulz(one, jnp.array([3.4445, -4.7750, 2.0315])) for one in x]
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(3, 72, 8), (2, 16, 16), (2, 6, 20)])
def test_orthogonalize_in_float32_equals_optax(shape):
    """Entries of about 0.1 to 0.4; singular values from 1 to 1e-2 leave float32 three digits."""
    x = jnp.float32(ill_conditioned(shape, smallest=1e-2))
    expected = [newton_schulz(one, jnp.array([3.4445, -4.7750, 2.0315])) for one in x]
    np.testing.assert_allclose(orthogonalize(x), expected, atol=2e-4)


@pytest.mark.parametrize("round_to", [to_bfloat16, to_tf32])
@pytest.mark.parametrize("shape", [(3, 72, 8), (2, 128, 128), (1, 32, 96)])
def test_orthogonalize_does_not_depend_on_the_default_precision_of_products(shape, round_to):
    """A kernel's momentum has singular values over many orders of magnitude."""
    x = jnp.float32(ill_conditioned(shape, smallest=1e-6))
    update = with_rounded_products(orthogonalize, round_to)(x)
    np.testing.assert_array_equal(update, with_rounded_products(orthogonalize, lambda x: x)(x))
    assert np.linalg.svd(update)[1].max() < 1.3


def test_rounded_products_are_those_of_the_accelerator():
    """The independent check: the same products of operands that NumPy rounds."""
    x, y = np.float32(np.random.default_rng(0).standard_normal((2, 8, 8)))
    rounded = with_rounded_products(jnp.matmul, to_tf32)(x, y)
    # Ten bits of mantissa: a multiple of 2^-10 of the power of two below.
    mantissa, exponent = np.frexp(np.stack([x, y]))
    a, b = np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)
    np.testing.assert_allclose(rounded, a @ b, rtol=1e-5, atol=1e-6)
    assert np.abs(rounded - x @ y).max() > 1e-4


@pytest.mark.parametrize("field", ["weight_decay_on", "lr_multipliers", "muon"])
def test_a_pattern_that_matches_nothing_is_named(field):
    pattern = r"^imge_encoder\."
    with pytest.raises(ValueError, match="imge_encoder.*matches no parameter") as error:
        after(**{field: (pattern,) if field != "lr_multipliers" else ((pattern, 0.1),)})
    assert "image_encoder.kernel, unet.bias, unet.kernel" in str(error.value)


def test_match_gives_the_first_value_or_the_default():
    assert match([("a", 1.0), ("b", 2.0)], ["ab", "xb", "x"], 9.0) == {
        "ab": 1.0,
        "xb": 2.0,
        "x": 9.0,
    }


def values(schedule, steps, **changes):
    settings = {
        "lr": 1.0,
        "warmup_steps": 4,
        "decay_fraction": 0.5,
        "total_steps": 20,
        "schedule": schedule,
    } | changes
    return [float(learning_rate(**settings)(step)) for step in steps]


def test_warm_up_is_linear_and_never_zero():
    """From lr / warm-up at the first step to lr at step 4: a quarter, then three more quarters in
    four steps.
    """
    np.testing.assert_allclose(
        values("linear", range(5)), [0.25, 0.4375, 0.625, 0.8125, 1.0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("schedule", "end"),
    [("constant", [1, 1, 1]), ("linear", [1, 0.5, 0.1]), ("cosine", [1, 0.5, 0.02447])],
)
def test_plateau_then_decay_over_the_last_half(schedule, end):
    np.testing.assert_allclose(values(schedule, [4, 7, 10]), [1, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(values(schedule, [10, 15, 19]), end, rtol=1e-3)


def test_decay_ends_at_zero():
    np.testing.assert_allclose([*values("linear", [20]), *values("cosine", [20])], 0.0, atol=1e-7)


def test_warm_up_and_decay_are_cut_to_fit_a_short_run():
    """At most half a run warms up, and the decay takes no more than the rest."""
    short = values("linear", range(5), warmup_steps=1000, decay_fraction=1.0, total_steps=4)
    np.testing.assert_allclose(short, [0.5, 0.75, 1.0, 0.5, 0.0], atol=1e-6)


def test_unknown_schedule_names_the_closest():
    with pytest.raises(
        ValueError,
        match="unknown optimizer.schedule 'cosin'. Did you mean 'cosine'. "
        "Allowed: constant, linear, cosine",
    ):
        values("cosin", [0])


def test_a_multiplier_of_parameters_that_are_frozen_now_is_no_mistake():
    settings = SETTINGS | {"lr_multipliers": ((r"^image_encoder\.", 0.1),)}
    trained = ["unet.bias", "unet.kernel"]
    optimizer, _ = make_optimizer(settings, trained, 100, known=list(PARAMETERS))
    state = optimizer.init({path: PARAMETERS[path] for path in trained})
    updates, _ = optimizer.update(
        {p: GRADIENTS[p] for p in trained}, state, {p: PARAMETERS[p] for p in trained}
    )
    np.testing.assert_allclose(updates["unet.bias"], [0.1], rtol=1e-6)
    with pytest.raises(ValueError, match="matches no parameter"):
        make_optimizer(settings, trained, 100)
