"""What a run begins with fits what the weights were trained for."""

import re

import pytest

from generalist import models
from generalist.models import parameters
from generalist.pretrained.weights import load_weights
from generalist.recipe import Recipe
from generalist.training.initialization import initial_weights


def test_weights_whose_unet_was_told_another_time_are_refused(tiny_workdir):
    config, values = load_weights(tiny_workdir)
    config["model"]["init_from"] = str(tiny_workdir)
    _, shapes = parameters.abstract(lambda: models.build(Recipe.from_config(config).model))
    assert initial_weights(Recipe.from_config(config), {}, shapes).keys() == values.keys()

    config["diffusion"]["unet_time"] = "equal_logsnr"
    said = re.escape("give --config.diffusion.unet_time=linear")
    with pytest.raises(ValueError, match=said):
        initial_weights(Recipe.from_config(config), {}, shapes)
