"""What the tests of models share: a fast compiler and random weights."""

import functools

import jax
import numpy as np
import pytest

from generalist.models import parameters


@pytest.fixture(scope="session")
def quick_jit():
    """`jax.jit` without optimization: these programs run once, so compiling is what costs."""
    return functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="session")
def random_weights():
    """make_model -> (graph definition, {path: array}): no weight at zero and no norm at one."""

    def fill(make_model, seed=0):
        graphdef, shapes = parameters.abstract(make_model)
        rng = np.random.default_rng(seed)
        return graphdef, {
            path: np.float32(path.endswith("scale"))
            + 0.2 * rng.standard_normal(x.shape, np.float32)
            for path, x in shapes.items()
        }

    return fill
