"""Figures of several ways to decode, of Rain13K's sets, and beside the official metrics."""

import dataclasses
import math
import os
import threading
from typing import ClassVar

import numpy as np
import pytest

from generalist.evaluation import EvaluationSettings, evaluate
from generalist.evaluation.scores import Scores
from generalist.input_pipeline.scenes import ScenesSource
from generalist.metrics import (
    BoundaryF,
    CalibrationError,
    ClassSparsificationError,
    ImageSparsificationError,
    Metric,
    SegmentationMetric,
    SparsificationError,
)
from generalist.tasks import SCENES_TASKS, TASKS

SIZE = 32  # as in conftest.py


def test_both_decodes_of_a_semantic_task_are_measured(make_oracle, tmp_path):
    """Labels are 1.5 times as large as what is painted, so that the ways to enlarge it differ."""
    source, task = ScenesSource("semantic", "val", 2, 48), SCENES_TASKS["semantic"]
    oracle = make_oracle({"semantic": source}, noise=0.1)
    metrics = evaluate(
        oracle,
        {"semantic": task},
        {"semantic": source},
        EvaluationSettings(target_size=SIZE, panels=0),
        out_dir=tmp_path / "0",
    )
    for upsample, key in (("distance", "semantic/miou"), ("rgb", "semantic/miou_painter")):
        codec, metric = (
            dataclasses.replace(task, upsample=upsample),
            SegmentationMetric(task.num_classes),
        )
        outlines, calibration, order = BoundaryF(), CalibrationError(), ClassSparsificationError()
        for example in (source[i] for i in range(2)):
            prediction = codec.decode(oracle(example["image"][None], "semantic")[0], 48)
            metric.update(prediction.classes, example["label"])
            outlines.update(prediction.classes, example["label"])
            sure = (prediction.classes, prediction.confidence)
            calibration.update(sure, example["label"])
            order.update(sure, example["label"])
        assert metrics[key] == metric.compute()["miou"]
        suffix = key.removeprefix("semantic/miou")
        assert metrics[f"semantic/boundary_f{suffix}"] == outlines.compute()["boundary_f"]
        assert metrics[f"semantic/ece{suffix}"] == calibration.compute()["ece"]
        assert metrics[f"semantic/ause{suffix}"] == order.compute()["ause"]
    assert metrics["semantic/miou_painter"] < metrics["semantic/miou"]
    assert metrics["ceiling/semantic/miou_painter"] < metrics["ceiling/semantic/miou"] < 1
    assert len(oracle.calls) == 1 + 4  # one batch, painted once for both, and four times here


def test_the_figure_of_rain13k_is_the_mean_over_its_sets():
    """Three images of one set and one of another: 20, 20, 20 and 30 dB make 25, not 22.5."""
    clean = np.zeros((12, 12, 3), np.uint8)
    scores = Scores(TASKS["derain"], groups=("Test100", "Rain100H", "Rain100L"))
    for key, level in (("Test100/1", 6), ("Test100/2", 6), ("Test100/3", 6), ("Rain100H/1", 2)):
        # Grey of level v has Y = 16 + v * 219 / 255: 21 and 18, which are 5 and 2 off.
        scores.update(
            [{"key": key, "label": clean}],
            {"": [TASKS["derain"].trivial_prediction(clean + np.uint8(level), {})]},
        )
    values = scores.compute()
    assert (values["images/Test100"], values["images/Rain100H"]) == (3, 1)
    assert values["psnr/Test100"] == pytest.approx(20 * math.log10(255 / 5)) and values[
        "psnr/Rain100H"
    ] == pytest.approx(20 * math.log10(255 / 2))
    assert values["psnr"] == (values["psnr/Test100"] + values["psnr/Rain100H"]) / 2
    assert values["ssim"] == (values["ssim/Test100"] + values["ssim/Rain100H"]) / 2


@dataclasses.dataclass(eq=False)
class Meeting(Metric):
    """A metric that can be updated in pairs only."""

    barrier: ClassVar = threading.Barrier(2, timeout=10)
    levels: list = dataclasses.field(default_factory=list, init=False)
    protocol = "meeting"

    def update(self, prediction, label):
        self.barrier.wait()
        self.levels.append(round(255 * float(prediction[0, 0, 0])))
        return {"level": self.levels[-1]}

    def compute(self):
        return {"levels": self.levels}

    def _absorb(self, other):
        self.levels += other.levels


def test_examples_are_measured_by_several_threads_and_merged_in_order(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(type(TASKS["derain"]), "metric", lambda task: Meeting())
    clean = np.zeros((12, 12, 3), np.uint8)
    scores = Scores(TASKS["derain"])
    scores.update(
        [{"key": str(level), "label": clean} for level in range(6)],
        {"": [TASKS["derain"].trivial_prediction(clean + np.uint8(n), {}) for n in range(6)]},
    )
    assert scores.compute() == {"levels": [0, 1, 2, 3, 4, 5]}
    assert scores.rows == [{"key": str(level), "level": level} for level in range(6)]


def test_other_deraining_data_have_no_sets():
    clean = np.zeros((12, 12, 3), np.uint8)
    scores = Scores(TASKS["derain"], groups=("Test100", "Rain100H"))
    scores.update(
        [{"key": key, "label": clean} for key in ("mine/1", "2")],
        {"": [TASKS["derain"].trivial_prediction(clean + np.uint8(6), {})] * 2},
    )
    assert scores.compute().keys() == {"psnr", "ssim"}


def test_depth_is_also_measured_by_its_confidence(make_oracle, sources, finished):
    oracle, task, metric = (
        make_oracle(sources, noise=0.1),
        SCENES_TASKS["depth"],
        SparsificationError(),
    )
    for example in (sources["depth"][i] for i in range(len(sources["depth"]))):
        prediction = task.decode(oracle(example["image"][None], "depth")[0])
        metric.update((prediction.depth, prediction.confidence), example["label"])
    assert finished.metrics["depth/ause"] == metric.compute()["ause"]
    assert (
        finished.metrics["ceiling/depth/ause"] is None
        and finished.metrics["depth/ause"] < finished.metrics["trivial/depth/ause"]
    )


@pytest.mark.parametrize("name", ["depth", "denoise", "semantic"])
def test_several_samples_are_measured_by_their_spread_or_votes(sources, name):
    """Pixels are dropped by the uncertainty of the samples, not by how clean their colors are."""
    task, source = SCENES_TASKS[name], sources[name]
    metric, values = {
        "depth": (SparsificationError(), lambda prediction: prediction.depth),
        "denoise": (ImageSparsificationError(), lambda prediction: prediction.levels / 255.0),
        "semantic": (ClassSparsificationError(), lambda prediction: prediction.classes),
    }[name]
    scores = Scores(task, samples=3)
    rng = np.random.default_rng(0)
    for index in range(2):
        example = source[index]
        rgb = task.encode(example["label"], SIZE).rgb
        draws = rgb + rng.normal(0, 0.3, (3, *rgb.shape)).astype(np.float32)
        prediction = task.decode_samples({name: draws}, samples=3)
        scores.update([example], {"": [prediction]})
        metric.update((values(prediction), -prediction.uncertainty), example["label"])
    assert scores.compute()["ause"] == pytest.approx(metric.compute()["ause"], rel=1e-6)

    # A single sample of restoration has no uncertainty to measure.
    assert ("ause" in Scores(task).compute()) is (name != "denoise")
