"""A config small enough for tests, and a model folder with random weights made from it."""

import json
import logging
import os

import jaxtyping
import numpy as np
import pytest
from ml_collections import ConfigDict

from generalist.configs import common

# Rooms whose shape types are checked whenever a test calls them. Installed here, and not in
# `pytest_configure`, as the conftest of a folder that is named on the command line is imported
# before that, and imports its room.
CHECKED_ROOMS = [f"generalist.{room}" for room in ("diffusion", "metrics", "models", "tasks")]
jaxtyping.install_import_hook(CHECKED_ROOMS, "shape_check.check_shapes")

# LLVM does not optimize, and fused loops are written by the emitter that takes half as long.
QUICK_COMPILER = ["--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"]


def pytest_configure(config):
    """Sets what has to be set before the first import of JAX.

    Programs are compiled once for all tests and the processes they start, and not optimized:
    compiling takes most of their time, and each runs a few times only.
    """
    os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_COMPILER))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(autouse=True)
def _fresh_log():
    """Undoes `show_log`, which every command calls: `caplog` needs lines that propagate."""
    yield
    logger = logging.getLogger("generalist")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def _tiny_config() -> ConfigDict:
    c = common.get_config("scenes,tiny")
    c.total_steps = 2
    c.model.unet.channels = (16, 32)  # with a level to shrink to
    c.model.unet.attention_levels = (False, False)
    c.optimizer.warmup_steps = 1
    c.checkpoint.every_steps = 1
    return c


@pytest.fixture
def tiny_config() -> ConfigDict:
    """The public `:tiny` config on the scenes, of two steps; yours to change."""
    return _tiny_config()


def _random_value(rng: np.random.Generator, path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draws values of an ordinary size; layers at zero would make every prediction the same."""
    noise = rng.standard_normal(shape, np.float32)
    if path.endswith("scale"):
        return 1.0 + 0.1 * noise
    return noise / np.sqrt(np.prod(shape[:-1]), dtype=np.float32)


@pytest.fixture(scope="session")
def tiny_workdir(tmp_path_factory):
    """A model folder of that config, with random weights; tests only read it."""
    from generalist import models
    from generalist.models import parameters
    from generalist.pretrained.weights import CONFIG, save_weights
    from generalist.recipe import Recipe

    folder = tmp_path_factory.mktemp("tiny_workdir")
    config = json.loads(_tiny_config().to_json_best_effort())
    _, shapes = parameters.abstract(lambda: models.build(Recipe.from_config(config).model))
    rng = np.random.default_rng(0)
    save_weights(
        folder, {path: _random_value(rng, path, x.shape) for path, x in shapes.items()}, {}
    )
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_workdir):
    """That model, loaded; shared, so that its programs are compiled once."""
    from generalist.inference import load

    return load(tiny_workdir)
