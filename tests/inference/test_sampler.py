"""The sampler tells the UNet the time that training told it."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from generalist.configs import common
from generalist.inference import sampler
from generalist.recipe import Recipe


@pytest.mark.parametrize(("unet_time", "told"), [("equal_logsnr", 562), ("linear", 499.5)])
def test_the_time_of_the_second_step_of_two(unet_time, told, monkeypatch):
    """A model that paints the time it is told shows the last one, that of t = 0.5."""
    model = types.SimpleNamespace(
        encode=lambda *_, **__: None,
        denoise=lambda x_t, t, _: jnp.broadcast_to(t[0], x_t.shape),
        to_rgb=lambda x0: x0,
        diffused_shape=(1, 1, 3),
        autoencoder=None,
    )
    monkeypatch.setattr(sampler.parameters_lib, "merge", lambda *_: model)
    config = common.get_config("paper,depth")
    config.diffusion.unet_time = unet_time

    pixels = jnp.zeros((1, 1, 1, 3), jnp.uint8)
    prompts = np.zeros((1, 1, 1), np.float32)
    sample = sampler.make_sampler(Recipe.from_config(config), None)
    painted = sample({}, pixels, pixels, prompts, np.uint32(0), steps=2, sampler="ddim")
    np.testing.assert_allclose(999 * painted, told, atol=1)
