"""Promise: a new kind of task is a class of its own; every other room works with it as it is."""

import dataclasses
import json
from typing import ClassVar

import cv2
import numpy as np
import pytest

import generalist
from generalist.configs import common
from generalist.evaluation.ceiling import ceiling
from generalist.evaluation.report import write_report
from generalist.input_pipeline import sources
from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.files import read_image
from generalist.metrics import PROTOCOLS, Metric
from generalist.tasks import TASKS, Prediction, Target, Task, arrays, drawing
from generalist.training.loop import train_and_evaluate


@dataclasses.dataclass(eq=False)
class MeanError(Metric):
    """Mean absolute error over all pixels of a data set."""

    protocol = "mean-error"
    errors: list[float] = dataclasses.field(default_factory=list, init=False, repr=False)

    def update(self, prediction, label):
        self.errors.append(float(np.abs(prediction - label).mean()))
        return {"mae": self.errors[-1]}

    def compute(self):
        return {"mae": float(np.mean(self.errors))}

    def _absorb(self, other):
        self.errors.extend(other.errors)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ShadowPrediction(Prediction):
    """How much of its light each pixel has lost, float32 (h, w) in [0, 1]."""

    shadow: np.ndarray

    def pixels(self):
        return np.rint(255 * self.shadow).astype(np.uint8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shadow(Task):
    """Painted dark where there is shadow. Labels are float32 (h, w) in [0, 1]."""

    name: str = "shadow"
    prompt: str = "Performance shadow detection"
    protocol: str = "mean-error"
    averages_samples: ClassVar[bool] = True

    def encode(self, label, size):
        shadow = arrays.resize_area(label, arrays.to_size(size))
        rgb = np.repeat(1 - 2 * shadow[..., None], 3, axis=-1)
        return Target(rgb, np.ones((*shadow.shape, 1), np.float32))

    def decode(self, rgb, size=None):
        shadow = np.clip((1 - rgb.mean(-1)) / 2, 0, 1)
        size = arrays.to_size(rgb.shape[:2] if size is None else size)
        return ShadowPrediction(
            decoded_by=self,
            shadow=arrays.resize_bilinear(shadow, size),
            confidence=np.ones(size, np.float32),
        )

    def metric(self):
        return MeanError()

    def label_of(self, prediction):
        return prediction.shadow

    def render(self, prediction_or_label):
        return drawing.heat(getattr(prediction_or_label, "shadow", prediction_or_label))

    def error_map(self, prediction, label):
        return drawing.heat(np.abs(prediction.shadow - label))


class Photographs(Dataset):
    """Its examples: photographs and maps of their shadows."""

    NAME = "photographs"
    TASKS = ("shadow",)
    SPLITS: ClassVar = {"train": "train", "test": "test"}
    EVAL_SPLIT = "test"
    FOLDERS = ("photographs",)
    WHERE = "this test"
    LICENSE = "none"
    LAYOUT = "  photographs/{train,test}/{images,shadows}/<n>.png"
    NEEDED = (("train/images",), ("train/shadows",), ("test/images",), ("test/shadows",))
    USUAL: ClassVar = {"train": 4, "test": 2}

    def index(self):
        return self.pair_files(f"{self.split}/images", f"{self.split}/shadows")

    def decode_label(self, label):
        return read_image(label)[..., 0]

    def to_label(self, stored, location, whole):
        return stored.astype(np.float32) / 255


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in Photographs.USUAL.items():
        for kind in ("images", "shadows"):
            (root / "photographs" / split / kind).mkdir(parents=True)
        for number in range(count):
            shadow = np.zeros((40, 48), np.uint8)
            shadow[rng.integers(0, 20) :, rng.integers(0, 24) :] = 255
            image = np.repeat(200 - shadow[..., None] // 2, 3, axis=-1)
            folder = root / "photographs" / split
            cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
            cv2.imwrite(str(folder / "shadows" / f"{number}.png"), shadow)
    return root


@pytest.fixture(scope="module", autouse=True)
def one_line_each():
    """What a release would write in `__init__` of tasks, metrics and sources."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "shadow", Shadow())
        patch.setitem(PROTOCOLS, "mean-error", "mean absolute error over all pixels")
        patch.setitem(sources.SOURCES, "photographs", Photographs)
        patch.setitem(sources.DATASET_OF, "shadow", "photographs")
        yield


@pytest.fixture(scope="module")
def config(data):
    c = common.get_config("scenes,tiny")
    c.total_steps = 2
    c.data_dir = str(data)
    c.data.source = "paper"
    c.tasks.set = "paper"
    c.tasks.weights = {"shadow": 1.0}
    c.tasks.loss_weights = {"shadow": 1.0}
    c.tasks.timesteps = {"shadow": common.timesteps(mean=0.0, p_pure_noise=0.5)}
    c.data.augment.tasks = ("shadow",)
    c.eval.tasks = ("shadow",)
    c.diffusion.prototype_weight = 0.0
    return c


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    path = tmp_path_factory.mktemp("new_task") / "run"
    train_and_evaluate(config, path)
    return path


def test_it_is_measured_beside_trivial_and_ceiling(workdir):
    metrics = json.loads((workdir / "eval/2/metrics.json").read_text())
    assert metrics["shadow/examples"] == 2
    assert 0 <= metrics["ceiling/shadow/mae"] < 0.1 < metrics["trivial/shadow/mae"] < 1
    assert 0 < metrics["shadow/mae"] <= 1
    assert (workdir / "eval/2/panels/shadow.png").exists()


def test_it_is_in_the_card_and_the_report(workdir):
    assert "shadow" in json.loads((workdir / "eval/2/card.json").read_text())["tasks"]
    write_report(workdir, workdir / "report.html")
    report = (workdir / "report.html").read_text()
    assert "shadow" in report and "mean absolute error" in report


def test_its_ceiling_is_measured_alone(config, tmp_path):
    results = ceiling(config, tmp_path, sizes=[8, 32])
    coarse, fine = (results["tasks"]["shadow"]["sizes"][size]["pixel"] for size in ("8", "32"))
    assert fine["mae"] < coarse["mae"]
    assert (tmp_path / "ceiling_32.png").exists()


def test_the_workdir_predicts_and_saves_it(workdir, tmp_path):
    model = generalist.load(workdir)
    prediction = model.predict(np.full((50, 70, 3), 90, np.uint8), "shadow", samples=2)
    assert repr(prediction) == "ShadowPrediction(task='shadow', height=50, width=70)"
    assert prediction.uncertainty.shape == (50, 70)
    assert prediction.render().shape == (50, 70, 3)
    (file,) = prediction.save(tmp_path / "shadow.png")
    stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(stored, np.rint(255 * prediction.shadow))
