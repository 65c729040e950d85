"""Promise: a model takes pictures of another size, and begins as what it was."""

import jax
import numpy as np
import pytest

from generalist import models
from generalist.configs import common
from generalist.models import parameters
from generalist.pretrained import WeightsError, save_weights
from generalist.recipe import Recipe
from generalist.training.initialization import initial_weights

SIDE = 16


def _config(factor, refine=4):
    """A tiny model whose pictures and patches have `factor` times the side; its grid is one."""
    c = common.tiny(common.scenes(scratch=True, size="64"))
    c.data.image_size = c.data.scenes_size = c.model.target_size = SIDE * factor
    c.model.unet.update({"channels": (8,), "context_dim": 16, "groups": 4})
    c.model.unet.update({"patch": 2 * factor, "refine": refine})
    c.model.image_encoder.update({"image_size": SIDE * factor, "patch": 4 * factor})
    return c


def _shapes(recipe):
    return parameters.abstract(lambda: models.build(recipe.model))


def _paint(recipe, values, image, x_t):
    graphdef, _ = _shapes(recipe)
    model = parameters.merge(graphdef, values)
    ids = recipe.prompt_ids(["depth"])

    @jax.jit
    def paint(image, x_t):
        condition = model.encode(image, model.encode_text(ids), picture=image)
        return model.denoise(x_t, np.full(1, 0.7, np.float32), condition)

    return np.asarray(paint(image, x_t))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(recipe, values, folder) of a model with random weights, its residual on pixels at zero."""
    recipe = Recipe.from_config(_config(1))
    rng = np.random.default_rng(0)
    values = {}
    for path, shape in _shapes(recipe)[1].items():
        fan_in = max(np.prod(shape.shape[:-1]), 1)
        values[path] = rng.standard_normal(shape.shape, np.float32) / np.float32(fan_in) ** 0.5
        if path.startswith("unet.refine.conv_out"):
            values[path] *= 0
    folder = tmp_path_factory.mktemp("small")
    save_weights(folder, values, {})
    (folder / "config.json").write_text(recipe.to_json())
    return recipe, values, folder


def _started(config, folder):
    config.model.init_from = str(folder)
    recipe = Recipe.from_config(config)
    return recipe, initial_weights(recipe, {}, _shapes(recipe)[1])


def _blocks(x):
    return x.repeat(2, 1).repeat(2, 2)


def test_a_picture_of_twice_the_side_is_painted_as_it_was(small, tmp_path):
    recipe, values, folder = small
    image, x_t = np.random.default_rng(1).uniform(-1, 1, (2, 1, SIDE, SIDE, 3)).astype(np.float32)
    wanted = _paint(recipe, values, image, x_t)
    assert np.abs(wanted).max() > 0.1

    larger, enlarged = _started(_config(2), folder)
    painted = _paint(larger, enlarged, _blocks(image), _blocks(x_t))
    np.testing.assert_allclose(painted, _blocks(wanted), atol=1e-5)

    # What differs within a block is seen as its mean.
    noise = np.random.default_rng(2).standard_normal(_blocks(image).shape).astype(np.float32)
    noise -= _blocks(noise.reshape(1, SIDE, 2, SIDE, 2, 3).mean((2, 4)))
    noisy = _paint(larger, enlarged, _blocks(image) + noise, _blocks(x_t))
    np.testing.assert_allclose(noisy, _blocks(wanted), atol=1e-5)

    # And back again.
    save_weights(tmp_path, enlarged, {})
    (tmp_path / "config.json").write_text(larger.to_json())
    _, reduced = _started(_config(1), tmp_path)
    for path, value in values.items():
        np.testing.assert_allclose(reduced[path], value, atol=1e-6)


def test_a_residual_of_other_channels_is_new_where_that_is_allowed(small):
    _, values, folder = small
    _, started = _started(_config(2, refine=6), folder)
    assert started["unet.refine.convs.0.kernel"].shape == (3, 3, 6, 6)
    assert not started["unet.refine.conv_out.kernel"].any()
    kept = "unet.mid_block.resnets.0.conv1.kernel"
    np.testing.assert_array_equal(started[kept], values[kept])

    config = _config(2, refine=6)
    config.model.adapt.new = ()
    with pytest.raises(WeightsError, match=r"shape of unet\.refine\.convs\.0\.kernel"):
        _started(config, folder)


def test_patches_that_are_no_multiple_are_named(small):
    config = _config(1)
    config.model.unet.patch = 3
    config.model.target_size = config.data.scenes_size = config.data.image_size = 24
    config.model.image_encoder.image_size = 24
    with pytest.raises(WeightsError, match=r"shape of unet\.conv_in\.kernel: \(3, 3, 24, 8\)"):
        _started(config, small[2])
