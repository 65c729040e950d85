import csv
import hashlib
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from generalist.configs import common
from generalist.console import Progress
from generalist.evaluation import EvaluationSettings, evaluate
from generalist.evaluation.ceiling import ceiling
from generalist.evaluation.evaluate import _earlier_figures
from generalist.evaluation.workdir import earlier_evaluations
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources import DataError, open_source
from generalist.metrics import PROTOCOLS, ImageQuality
from generalist.pretrained import SHIPPED
from generalist.tasks import SCENES_TASKS, TASKS

SIZE, COUNT = 32, 3  # as in conftest.py

PROMISED = [
    "depth/rmse",
    "depth/abs_rel",
    "depth/delta1",
    "semantic/miou",
    "instance/pq",
    "panoptic/pq",
    "panoptic/sq",
    "panoptic/rq",
    "denoise/psnr",
    "denoise/ssim",
    "derain/psnr",
    "derain/ssim",
    "light/psnr",
    "light/ssim",
    "text_to_image/frechet",
    *(f"semantic/iou/{name}" for name in SCENES_TASKS["semantic"].classes),
]


def of(name):
    return {name: SCENES_TASKS[name]}


def test_an_oracle_reaches_the_ceiling_exactly(make_oracle, sources, tmp_path):
    metrics = evaluate(
        make_oracle(sources),
        SCENES_TASKS,
        sources,
        EvaluationSettings(target_size=SIZE, panels=0),
        out_dir=tmp_path / "0",
    )
    ceiling = {
        name.removeprefix("ceiling/"): value
        for name, value in metrics.items()
        if name.startswith("ceiling/")
    }
    assert ceiling == {name: metrics[name] for name in ceiling} and set(PROMISED) <= set(ceiling)
    assert metrics["depth/rmse"] < 1e-5 and metrics["semantic/miou"] == 1.0
    assert metrics["denoise/psnr"] is None and metrics["denoise/ssim"] == pytest.approx(1.0)


def test_every_promised_key_is_there_three_times(finished):
    for prefix in ("", "trivial/", "ceiling/"):
        assert [key for key in PROMISED if prefix + key not in finished.metrics] == []
    assert all(finished.metrics[f"{name}/examples"] == COUNT for name in SCENES_TASKS)
    assert all(0 < finished.metrics[f"{name}/seconds_per_image"] < 60 for name in SCENES_TASKS)


def test_a_noisy_oracle_lies_between_trivial_and_ceiling(finished):
    m = finished.metrics
    assert m["ceiling/depth/rmse"] < m["depth/rmse"] < m["trivial/depth/rmse"]
    assert m["trivial/semantic/miou"] < m["semantic/miou"] <= m["ceiling/semantic/miou"]
    # Gaussian noise of 0.1 in [-1, 1] is 12.75 levels: 26.0 dB, a little more where it is clipped.
    assert all(26.0 < m[f"{name}/psnr"] < 28.0 for name in ("denoise", "derain", "light"))


def test_metrics_json_is_what_is_returned_and_strict_json(finished):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert (
        json.loads((finished.folder / "metrics.json").read_text(), parse_constant=refuse)
        == finished.metrics
    )


def test_values_per_image_average_to_the_metrics(finished):
    with open(finished.folder / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == COUNT * len(SCENES_TASKS)
    for name in ("depth/rmse", "depth/delta1", "denoise/psnr", "derain/ssim", "light/psnr"):
        task, key = name.split("/")
        values = [float(row[key]) for row in rows if row["task"] == task]
        assert math.fsum(values) / COUNT == finished.metrics[name]
    assert [row["key"] for row in rows if row["task"] == "depth"] == [
        f"scenes/0/val/{i:08d}" for i in range(COUNT)
    ]
    assert all(row["psnr"] == "" for row in rows if row["task"] == "depth")


def test_the_card_says_how_the_numbers_came_about(finished):
    card = json.loads((finished.folder / "card.json").read_text())
    keys = "\n".join(f"scenes/0/val/{i:08d}" for i in range(COUNT))
    assert card["tasks"]["depth"] == {
        "protocol": "native",
        "counts": "metric depth on every labelled pixel from 1 mm to 10 m, no crop",
        "also": {"ause": f"ause-rmse: {PROTOCOLS['ause-rmse']}"},
        "ways": {},
        "codec_version": 1,
        "examples": COUNT,
        "left_out": [],
        "source": "ScenesSource",
        "split": "val",
        "data_seed": 0,
        "keys_sha256": hashlib.sha256(keys.encode()).hexdigest(),
    }
    assert list(card["tasks"]["semantic"]["also"]) == ["boundary_f", "ece", "ause"]
    assert list(card["tasks"]["semantic"]["ways"]) == ["_painter"]
    # One key has two meanings; restoration has no uncertainty, so not the key.
    assert list(card["tasks"]["denoise"]["also"]) == []
    meanings = [f"{name}: {PROTOCOLS[name]}" for name in ("ause-rmse", "ause-wrong")]
    assert f"- `ause`: {'; '.join(meanings)}\n" in (finished.folder / "card.md").read_text()
    assert card["peak_memory"]["bytes"] > 1e7
    assert (card["steps"], card["weights"], card["target_size"]) == (1, "an <oracle>", SIZE)
    assert card["versions"]["numpy"] == np.__version__


def test_panoptic_shares_what_its_components_painted(finished):
    # 3 examples in batches of 2 are two calls a painted task; panoptic adds none.
    assert {name: finished.oracle.calls.count(name) for name in SCENES_TASKS} == {
        name: 0 if name == "panoptic" else 2 for name in SCENES_TASKS
    }


def test_panoptic_alone_paints_its_components(make_oracle, sources, finished, tmp_path):
    oracle = make_oracle(sources, noise=0.1)
    metrics = evaluate(
        oracle,
        of("panoptic"),
        sources,
        EvaluationSettings(target_size=SIZE, panels=0),
        out_dir=tmp_path / "0",
    )
    assert oracle.calls == ["semantic", "instance"]
    assert metrics["panoptic/pq"] == finished.metrics["panoptic/pq"]


def keys_measured(folder):
    with open(folder / "per_image.csv", newline="") as file:
        return [row["key"] for row in csv.DictReader(file)]


def test_a_limit_takes_examples_evenly_spread(make_oracle, sources, tmp_path):
    oracle = make_oracle(sources, noise=0.1)
    metrics = evaluate(
        oracle,
        of("derain"),
        sources,
        EvaluationSettings(target_size=SIZE, limit=2, panels=0),
        out_dir=tmp_path / "0",
    )
    assert metrics["derain/examples"] == 2
    assert keys_measured(tmp_path / "0") == ["scenes/0/val/00000000", "scenes/0/val/00000002"]


@pytest.fixture
def lol(tmp_path):
    """Three pairs of LOL's evaluation set."""
    rng = np.random.default_rng(0)
    for half in ("low", "high"):
        (tmp_path / f"data/lol/eval15/{half}").mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)).save(
                tmp_path / f"data/lol/eval15/{half}/{number}.png"
            )
    return tmp_path / "data/lol/eval15"


def evaluate_lol(lol, out, on_error="raise", batch_size=2, limit=0):
    source = {
        "light": open_source("lol", "light", "test", lol.parents[1], on_error=on_error, quiet=True)
    }

    def gray(images, task):
        return np.zeros((len(images), SIZE, SIZE, 3), np.float32)

    return evaluate(
        gray,
        {"light": TASKS["light"]},
        source,
        EvaluationSettings(target_size=SIZE, panels=0, batch_size=batch_size, limit=limit),
        out_dir=out,
    )


def lol_config(lol):
    config = common.only(common.full_size(), ["light"])
    config.data_dir, config.data.on_error = str(lol.parents[1]), "skip"
    return config


@pytest.mark.parametrize("damaged", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_damaged_example_that_is_skipped_is_not_replaced_by_another(
    lol, tmp_path, damaged, batch_size
):
    (lol / f"high/{damaged}.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be decoded"):
        evaluate_lol(lol, tmp_path / "eval/0")
    metrics = evaluate_lol(lol, tmp_path / "eval/1", "skip", batch_size)
    assert metrics["light/examples"] == 2
    assert keys_measured(tmp_path / "eval/1") == [
        str(number) for number in range(3) if number != damaged
    ]
    assert (
        "Left out: the figures are not those of the whole set"
        in (tmp_path / "eval/1/card.md").read_text()
    )
    ceilings = ceiling(lol_config(lol), tmp_path / "ceiling", names=["light"], sizes=[SIZE])
    assert ceilings["tasks"]["light"]["examples"] == 2
    (lol / "high/0.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="every example of light is damaged: nothing was measured"):
        evaluate_lol(lol, tmp_path / "eval/2", "skip", limit=1)


def test_trivial_and_ceiling_figures_follow_a_file_that_was_changed(lol, tmp_path):
    """The one in the middle: first and last are as they were."""
    before = evaluate_lol(lol, tmp_path / "eval/0")
    Image.fromarray(np.full((SIZE, SIZE, 3), 255, np.uint8)).save(lol / "high/1.png")
    after = evaluate_lol(lol, tmp_path / "eval/1")
    assert after["trivial/light/psnr"] != before["trivial/light/psnr"]
    assert after == {
        **evaluate_lol(lol, tmp_path / "fresh/0"),
        "light/seconds_per_image": after["light/seconds_per_image"],
    }


def test_lol_is_measured_as_papers_do_too(lol, tmp_path):
    metrics = evaluate_lol(lol, tmp_path / "eval/0")
    expected = {
        suffix: ImageQuality(protocol)
        for suffix, protocol in (("_gaussian", "rgb-matlab"), ("_gt_mean", "lol-rgb-gt-mean"))
    }
    for number in range(3):
        label = np.asarray(Image.open(lol / f"high/{number}.png"))
        for metric in expected.values():
            metric.update(np.full((SIZE, SIZE, 3), 0.5), label)
    for suffix, metric in expected.items():
        for key, value in metric.compute().items():
            assert metrics[f"light/{key}{suffix}"] == pytest.approx(value, abs=1e-6)
    assert "`_gt_mean`: lol-rgb-gt-mean" in (tmp_path / "eval/0/card.md").read_text()


def test_labels_larger_than_the_model_are_measured_at_their_own_size(make_oracle, tmp_path):
    large = {"denoise": ScenesSource("denoise", "val", 2, (48, 64))}
    metrics = evaluate(
        make_oracle(large),
        of("denoise"),
        large,
        EvaluationSettings(target_size=SIZE, panels=0),
        out_dir=tmp_path / "0",
    )
    assert metrics["denoise/psnr"] == metrics["ceiling/denoise/psnr"] < 40


def test_images_of_several_sizes_come_as_a_list(tmp_path):
    class Mixed:
        task = "depth"
        groups = ()
        damaged = ()
        split = "val"
        seed = None

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return ScenesSource("depth", "val", 3, ((16, 24), (16, 24), (20, 16))[index])[index]

        def intact(self, index, decoded=None):
            return self[index]

        def stamp(self):
            return ""

    seen = []

    def predict(images, name):
        seen.append([image.shape for image in images])
        assert isinstance(images, list)
        return np.zeros((3, 8, 8, 3), np.float32)  # 5 m everywhere

    metrics = evaluate(
        predict,
        of("depth"),
        {"depth": Mixed()},
        EvaluationSettings(target_size=8, panels=3),
        out_dir=tmp_path / "0",
    )
    assert seen == [[(16, 24, 3), (16, 24, 3), (20, 16, 3)]]
    errors = [
        np.sqrt(np.mean((5 - label[label > 0]) ** 2))
        for label in (Mixed()[i]["label"] for i in range(3))
    ]
    assert metrics["depth/rmse"] == pytest.approx(np.mean(errors), rel=1e-6)


def test_the_log_says_how_far_it_is_and_how_long_it_takes(
    make_oracle, sources, tmp_path, monkeypatch, log
):
    monkeypatch.setattr(Progress, "EVERY_SECONDS", 0.0)
    evaluate(
        make_oracle(sources),
        of("light"),
        sources,
        EvaluationSettings(target_size=SIZE, batch_size=2, panels=0),
        out_dir=tmp_path / "0",
    )
    lines = log()
    assert re.fullmatch(r"eval 2/3 examples \(light\) \| [\d.]+/s \| ETA \d+ s", lines[0])
    assert lines[1].startswith("eval 3/3") and lines[1].endswith("ETA 0 s") and len(lines) == 3


def test_the_log_ends_with_the_table(finished):
    lines = finished.log[-1].splitlines()
    assert lines[0].split() == [
        "task",
        "metric",
        "prediction",
        "trivial",
        "ceiling",
        "vs",
        "trivial",
        "unit",
    ]
    assert next(line for line in lines if line.startswith("denoise")).split()[4] == "exact"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.pop("depth"), "no source for task depth; there are sources for"),
        (
            lambda s: s.update(depth=ScenesSource("depth", "val", 0, SIZE)),
            "the source of task depth is empty: ScenesSource",
        ),
    ],
)
def test_missing_and_empty_sources_are_named(make_oracle, sources, tmp_path, change, message):
    sources = dict(sources)
    change(sources)
    with pytest.raises(ValueError, match=message):
        evaluate(
            make_oracle({}),
            of("depth"),
            sources,
            EvaluationSettings(target_size=SIZE),
            out_dir=tmp_path / "0",
        )


def test_an_empty_training_source_is_named(make_oracle, sources, tmp_path):
    with pytest.raises(ValueError, match="the training source of task depth is empty"):
        evaluate(
            make_oracle({}),
            of("depth"),
            sources,
            EvaluationSettings(target_size=SIZE),
            train_sources={"depth": ScenesSource("depth", "train", 0, SIZE)},
            out_dir=tmp_path / "0",
        )


@pytest.mark.parametrize(
    "painted, message",
    [
        (
            np.zeros((3, 16, 16, 3), np.float32),
            r"float32 of shape \(3, 16, 16, 3\), expected float32 of shape \(3, 32, 32, 3\)",
        ),
        (np.zeros((3, 32, 32, 3), np.uint8), "uint8"),
        (np.full((3, 32, 32, 3), np.nan, np.float32), "nan or inf"),
    ],
)
def test_what_cannot_be_a_painting_is_refused(sources, tmp_path, painted, message):
    with pytest.raises(ValueError, match=f"Task 'light': predict_rgb .*{message}"):
        evaluate(
            lambda images, name: painted,
            of("light"),
            sources,
            EvaluationSettings(target_size=SIZE),
            out_dir=tmp_path / "0",
        )


def test_an_example_that_is_no_image_is_named(make_oracle, tmp_path):
    class Broken(ScenesSource):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"image": np.zeros((4, 4), np.float32)}

    with pytest.raises(
        ValueError, match="Task 'depth', example 'scenes/0/val/00000000': the image must be uint8"
    ):
        broken = {"depth": Broken("depth", "val", 1, SIZE)}
        evaluate(
            make_oracle({}),
            of("depth"),
            broken,
            EvaluationSettings(target_size=SIZE),
            out_dir=tmp_path / "0",
        )


def _earlier(folder, steps, keys, figures):
    folder.mkdir(exist_ok=True)
    card = {"steps": steps, "target_size": 64, "tasks": {"depth": {"keys_sha256": keys}}}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "metrics.json").write_text(json.dumps(figures))
    return folder


def test_figures_of_an_earlier_evaluation_are_those_that_can_be_compared(tmp_path):
    card = {"steps": 1, "target_size": 64}
    card["tasks"] = {"depth": {"keys_sha256": "a"}, "light": {"keys_sha256": "b"}}
    figures = {"depth/rmse": 2.0, "depth/silog": None, "light/psnr": 9.0, "trivial/depth/rmse": 3.0}
    figures |= {"depth/examples": 4, "depth/seconds_per_image": 0.5, "depth/note": "<b>"}
    folder = tmp_path / "0"
    compared = _earlier_figures(_earlier(folder, 1, "a", figures), card)
    assert compared == {"depth/rmse": 2.0, "depth/silog": None}

    # Other examples, another number of steps, another size, the mean of several samples.
    assert _earlier_figures(_earlier(folder, 1, "c", figures), card) == {}
    assert _earlier_figures(_earlier(folder, 8, "a", figures), card) == {}
    assert _earlier_figures(folder, card | {"target_size": 128}) == {}
    _earlier(folder, 1, "a", figures)
    assert _earlier_figures(folder, card | {"samples": 8}) == {}
    assert _earlier_figures(folder, card | {"samples": 1}) == compared


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tasks": []}', '{"tasks": {"depth": 3}}'])
def test_what_else_lies_there_costs_no_evaluation(tmp_path, content):
    card = {"steps": 1, "target_size": 64, "tasks": {"depth": {"keys_sha256": "a"}}}
    folder = _earlier(tmp_path / "0", 1, "a", {"depth/rmse": 2.0})
    (folder / "card.json").write_text(content)
    assert _earlier_figures(folder, card) == {}
    (folder / "card.json").unlink()
    assert _earlier_figures(folder, card) == {}


def test_the_shipped_figures_are_of_the_shipped_weights_and_of_the_demos_examples(tmp_path):
    folder = SHIPPED["scenes"]
    card = json.loads((folder / "card.json").read_text())
    content = (folder / "model.safetensors").read_bytes()
    assert card["weights_sha256"] == hashlib.sha256(content).hexdigest()

    demo = common.get_config("scenes")
    folders = earlier_evaluations(demo, tmp_path, step=3)
    assert folders == {"before": tmp_path / "eval/0", "shipped": folder}
    assert earlier_evaluations(common.get_config("paper"), tmp_path, step=0) == {}

    keys = [f"scenes/{demo.seed}/val/{i:08}" for i in range(demo.eval.final_examples)]
    sha256 = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    now = {"steps": demo.diffusion.steps, "samples": 1, "target_size": demo.model.target_size}
    now["tasks"] = {"depth": {"keys_sha256": sha256}}
    figures = _earlier_figures(folder, now)
    assert figures["depth/rmse"] == json.loads((folder / "metrics.json").read_text())["depth/rmse"]
