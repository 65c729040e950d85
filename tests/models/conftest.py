"""What the tests of models share: random weights."""

import numpy as np
import pytest

from generalist.models import parameters


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
