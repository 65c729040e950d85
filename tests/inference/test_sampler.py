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


def test_guidance_hides_the_image_or_where_there_is_none_the_prompt(monkeypatch):
    """The model paints image + 10 text; the first row sees both, the second the text alone."""

    def encode(image, text, *, picture, keep_image=None, keep_text=None):
        ones = np.ones(len(image))
        keep_image = ones if keep_image is None else keep_image
        keep_text = ones if keep_text is None else keep_text
        return keep_image * image[:, 0, 0, 0] + 10 * keep_text * text[:, 0, 0]

    model = types.SimpleNamespace(
        encode=encode,
        denoise=lambda x_t, t, condition: jnp.broadcast_to(
            condition[:, None, None, None], x_t.shape
        ),
        to_rgb=lambda x0: x0,
        diffused_shape=(1, 1, 3),
        autoencoder=True,  # latents are not clipped
    )
    monkeypatch.setattr(sampler.parameters_lib, "merge", lambda *_: model)
    config = common.get_config("paper,depth")
    config.diffusion.guidance = 3.0
    config.diffusion.drop_image = 0.1
    pixels = jnp.full((2, 1, 1, 3), 255, jnp.uint8)  # 1 as the model takes it
    prompts = np.full((2, 1, 1), 0.5, np.float32)
    sees_image = np.array([1.0, 0.0], np.float32)
    sample = sampler.make_sampler(Recipe.from_config(config), None)
    painted = sample(
        {}, pixels, pixels, prompts, np.uint32(0), sees_image, steps=1, sampler="one_step"
    )
    # Unguided 5 and 0, guided by 3: 5 + 3 (6 - 5) and 0 + 3 (5 - 0).
    np.testing.assert_allclose(painted[:, 0, 0, 0], [8.0, 15.0], rtol=1e-6)
