"""A pre-trained UNet is told the step at which it was trained to remove as much noise."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from generalist import diffusion
from generalist.configs import common
from generalist.diffusion.schedules import StableDiffusionSchedule
from generalist.diffusion.unet_time import unet_time
from generalist.recipe import Recipe

AT_128 = diffusion.CosineSchedule.for_resolution(128)


def test_linear_is_t_itself():
    t = np.linspace(0, 1, 7, dtype=np.float32)
    np.testing.assert_array_equal(unet_time("linear", AT_128, t), t)


@pytest.mark.parametrize(("t", "step"), [(0.05, 26), (0.5, 562), (0.75, 787), (0.9, 974)])
def test_equal_logsnr_against_stable_diffusions_table(t, step):
    """The table is computed here in float64, as its scheduler does: betas, product, ratio."""
    alpha_bar = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    wanted = np.log(alpha_bar / (1 - alpha_bar))[step]

    # The cosine of t, shifted by 2 log(64 / 128).
    ours = -2 * np.log(np.tan(np.pi * t / 2)) + 2 * np.log(0.5)
    assert abs(ours - wanted) < 0.05
    assert 999 * unet_time("equal_logsnr", AT_128, t) == pytest.approx(step, abs=1)


def test_equal_logsnr_is_the_identity_on_its_own_schedule_and_ends_with_it():
    t = np.linspace(0, 1, 50, dtype=np.float32)
    same = unet_time("equal_logsnr", StableDiffusionSchedule(), t)
    np.testing.assert_allclose(same, t, atol=1e-4)
    ends = np.array([0.0, 0.99, 1.0], np.float32)
    np.testing.assert_array_equal(unet_time("equal_logsnr", AT_128, ends), [0, 1, 1])


def test_clean_is_the_time_of_an_image_without_noise():
    t = np.linspace(0, 1, 7, dtype=np.float32)
    np.testing.assert_array_equal(unet_time("clean", AT_128, t), np.zeros(7))


def test_training_tells_the_unet_this_time():
    told = []

    class Model:
        def encode(self, *_, **__):
            return None

        def denoise(self, x_t, t, condition):
            told.append(np.asarray(t))
            return x_t

    recipe = Recipe.from_config(common.get_config("paper,depth"))
    objective = recipe.objective(np.zeros((1, 1, 1), np.float32))
    pixels = jnp.zeros((1, 1, 1, 3))
    batch = {name: pixels for name in ("target", "x_t", "eps")} | {
        "image": pixels.astype(jnp.uint8),
        "picture": pixels.astype(jnp.uint8),
        "mask": pixels[..., :1],
        "task": jnp.zeros(1, jnp.int32),
        "t": jnp.array([0.5]),
        "keep_image": None,
        "keep_text": None,
    }
    for name in ("equal_logsnr", "linear", "clean"):
        dataclasses.replace(objective, unet_time=name).loss(Model(), batch)
    np.testing.assert_allclose(np.ravel(told) * 999, [562, 499.5, 0], atol=1)
