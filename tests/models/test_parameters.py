"""A model as a flat dict of arrays: what is split comes back, shapes need no computation."""

import jax
import numpy as np
import pytest

from generalist import models
from generalist.models import parameters
from generalist.models.layers import HostRngs
from generalist.models.vision_transformer import VisionTransformer


def make_model():
    return VisionTransformer(image_size=8, patch=4, dim=8, depth=1, heads=2, rngs=HostRngs(0))


@pytest.fixture(scope="module")
def model(random_weights):
    return parameters.merge(*random_weights(make_model))


def test_paths_are_sorted_and_dotted(model):
    _, flat = parameters.split(model)
    assert list(flat) == sorted(flat)
    assert flat["layers.0.self_attn.q_proj.kernel"].shape == (8, 8)
    assert flat["position_embedding"].shape == (2, 2, 8)


def test_merge_is_the_inverse_of_split(model):
    graphdef, flat = parameters.split(model)
    changed = {path: x + 1 for path, x in flat.items()}
    _, again = parameters.split(parameters.merge(graphdef, changed))
    assert list(again) == list(flat)
    for path, x in again.items():
        np.testing.assert_array_equal(x, flat[path] + 1)


def test_a_merged_model_computes_what_the_model_computes(model):
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 3), np.float32)
    graphdef, flat = parameters.split(model)
    np.testing.assert_array_equal(
        parameters.merge(graphdef, flat).patch_embedding(image), model.patch_embedding(image)
    )


def test_abstract_has_the_same_paths_and_shapes_without_arrays(model):
    _, flat = parameters.split(model)
    graphdef, shapes = parameters.abstract(make_model)
    assert list(shapes) == list(flat)
    for path, shape in shapes.items():
        assert isinstance(shape, jax.ShapeDtypeStruct) and (shape.shape, shape.dtype) == (
            flat[path].shape,
            flat[path].dtype,
        )
    np.testing.assert_array_equal(  # and its graph definition fits
        parameters.merge(graphdef, flat).position_embedding[...], model.position_embedding[...]
    )


def test_initial_values_are_a_function_of_the_seed_and_zeros_without_one():
    settings = {"image_size": 8, "patch": 4, "dim": 8, "depth": 1, "heads": 2}

    def build(seed):
        return parameters.split(VisionTransformer(**settings, rngs=HostRngs(seed)))[1]

    first, again, other, none = build(0), build(0), build(1), build(None)
    kernels = [path for path in first if path.endswith("kernel")]
    for path in kernels:
        np.testing.assert_array_equal(first[path], again[path])
        assert np.abs(first[path] - other[path]).min() > 0 and not none[path].any()
    assert len({float(first[path].flat[0]) for path in kernels}) == len(
        kernels
    )  # no two draw the same numbers


def test_build_rejects_what_it_does_not_know():
    parts = {"unet": {}, "image_encoder": {}, "text_encoder": {}}
    with pytest.raises(
        ValueError, match="unknown model.dtype 'float16'.*Allowed: float32, bfloat16"
    ):
        models.build({"dtype": "float16", **parts})
    with pytest.raises(TypeError, match="colour"):
        models.build({"dtype": "float32", "colour": 1, **parts})
