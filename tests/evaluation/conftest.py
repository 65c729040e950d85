"""A tiny data set and predictors that know the truth of it."""

import contextlib
import logging
import types

import numpy as np
import pytest

from generalist.evaluation import EvaluationSettings, evaluate
from generalist.input_pipeline.scenes import ScenesSource
from generalist.tasks import SCENES_TASKS

SIZE, COUNT, TRAIN = 32, 3, 5  # the test files repeat the first two


class Oracle:
    """Paints the encoded truth of the images of `sources`, plus noise; counts its calls by task."""

    def __init__(self, sources, size=SIZE, noise=0.0):
        self.truth, self.calls = {}, []
        rng = np.random.default_rng(0)
        for name, source in sources.items():
            for example in (
                source[i] for i in range(len(source)) if not SCENES_TASKS[name].components
            ):
                rgb = SCENES_TASKS[name].encode(example["label"], size).rgb
                self.truth[name, example["image"].tobytes()] = rgb + rng.normal(
                    0, noise, rgb.shape
                ).astype(np.float32)

    def __call__(self, images, name, prompts=None):
        self.calls.append(name)
        return np.stack([self.truth[name, image.tobytes()] for image in images])


@contextlib.contextmanager
def logged():
    """Collects what the package logs; `caplog` cannot be used by a fixture of the session."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("generalist")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture
def log(caplog):
    """Returns a function: the lines that the package has logged so far in this test."""
    with caplog.at_level(logging.INFO, logger="generalist"):
        yield lambda: [
            record.getMessage() for record in caplog.records if record.name == "generalist"
        ]


@pytest.fixture(scope="session")
def make_oracle():
    """(sources, noise=0.0) -> predict_rgb that paints their truth."""
    return Oracle


@pytest.fixture(scope="session")
def sources():
    return {name: ScenesSource(name, "val", COUNT, SIZE) for name in SCENES_TASKS}


@pytest.fixture(scope="session")
def train_sources():
    return {name: ScenesSource(name, "train", TRAIN, SIZE) for name in SCENES_TASKS}


@pytest.fixture(scope="session")
def finished(sources, train_sources, tmp_path_factory):
    """A noisy oracle evaluated on all tasks: metrics, workdir, folder, log, oracle. Read only."""
    workdir = tmp_path_factory.mktemp("run")
    oracle = Oracle(sources, noise=0.1)
    with logged() as lines:
        metrics = evaluate(
            oracle,
            SCENES_TASKS,
            sources,
            EvaluationSettings(
                target_size=SIZE, batch_size=2, panels=2, steps=1, facts={"weights": "an <oracle>"}
            ),
            train_sources=train_sources,
            out_dir=workdir / "eval" / "20",
        )
    return types.SimpleNamespace(
        metrics=metrics, workdir=workdir, folder=workdir / "eval" / "20", log=lines, oracle=oracle
    )
