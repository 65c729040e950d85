"""Promise: one command trains, evaluates and reports, and leaves a model that predicts."""

import json

import pytest

import generalist
from generalist.evaluation import data
from generalist.input_pipeline import open_sources
from generalist.input_pipeline.scenes import ScenesSource
from generalist.training import launch

CONFIG = "configs/multitask.py:scenes,tiny"
FIGURES = (
    "depth/rmse",
    "depth/abs_rel",
    "depth/delta1",
    "semantic/miou",
    "panoptic/pq",
    "panoptic/sq",
    "panoptic/rq",
    "denoise/psnr",
    "denoise/ssim",
    "derain/psnr",
    "derain/ssim",
    "light/psnr",
    "light/ssim",
)


OPENED = []  # the splits that evaluations of the run opened, in order


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    path = tmp_path_factory.mktemp("end_to_end") / "run"

    def open_and_note(config, tasks, split, length=None):
        OPENED.append(split)
        return open_sources(config, tasks, split, length)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "open_sources", open_and_note)
        train(path)
    return path


def train(path):
    assert (
        launch.main(
            [
                "main.py",
                f"--config={CONFIG}",
                f"--workdir={path}",
                "--config.total_steps=2",
                "--config.eval.every_steps=1",
                "--config.eval.examples=2",
                "--config.eval.final_examples=2",
                "--config.eval.batch_size=2",
                "--config.checkpoint.every_steps=10",
            ]
        )
        == 0
    )


def test_every_figure_stands_beside_trivial_and_ceiling(workdir):
    metrics = json.loads((workdir / "eval/2/metrics.json").read_text())
    for figure in FIGURES:
        assert {figure, f"trivial/{figure}", f"ceiling/{figure}"} <= metrics.keys()
    assert metrics["ceiling/semantic/miou"] == 1.0  # labels and targets have the same size here
    assert metrics["ceiling/depth/rmse"] < 1e-5
    assert metrics["denoise/examples"] == 2


def test_the_run_leaves_what_the_readme_lists(workdir):
    names = {path.name for path in workdir.iterdir()}
    assert {
        "config.json",
        "run.json",
        "checkpoints",
        "metrics.jsonl",
        "model.safetensors",
        "eval",
        "report.html",
    } <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in (workdir / "eval/2").iterdir()} == {
        "metrics.json",
        "card.json",
        "card.md",
        "per_image.csv",
        "panels",
    }
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 1, 2, 2]  # two steps, each evaluated
    assert lines[0]["loss"] > 0 and "eval/depth/rmse" in lines[1] and "final/depth/rmse" in lines[3]


def test_an_evaluation_between_two_checkpoints_measures_the_weights_of_its_own_step(workdir):
    cards = {step: json.loads((workdir / f"eval/{step}/card.json").read_text()) for step in (1, 2)}
    assert [card["step"] for card in cards.values()] == [1, 2]
    # Only the last one has seen the official split, and each says what it has seen.
    assert [card["split"] for card in cards.values()] == ["held_out", "val"]
    assert [card["tasks"]["depth"]["split"] for card in cards.values()] == ["held_out", "val"]
    between = OPENED.index("val")
    assert set(OPENED[:between]) == {"held_out", "train"}
    assert set(OPENED[between:]) == {"val", "train"}
    assert {path.name for path in (workdir / "checkpoints").iterdir()} >= {"1", "2"}


def test_the_workdir_is_a_model_that_predicts_every_task(workdir):
    image = ScenesSource("depth", "test", 1, 48)[0]["image"]
    results = generalist.load(workdir).predict(
        image, ["depth", "semantic", "instance", "panoptic", "denoise", "derain", "light"]
    )
    assert {name: result.render().shape for name, result in results.items()} == dict.fromkeys(
        results, (48, 48, 3)
    )
    assert len(results) == 7


def test_another_config_in_the_same_workdir_is_refused_with_the_difference(workdir, capsys):
    assert (
        launch.main(
            [
                "main.py",
                f"--config={CONFIG}",
                f"--workdir={workdir}",
                "--config.total_steps=3",
            ]
        )
        == 2
    )
    assert "total_steps: 2 in the workdir, 3 now" in capsys.readouterr().err


def test_evaluation_alone_repeats_the_figures(workdir):
    before = json.loads((workdir / "eval/2/metrics.json").read_text())
    arguments = [
        "main.py",
        f"--config={CONFIG}",
        f"--workdir={workdir}",
        "--config.total_steps=2",
        "--config.eval.final_examples=2",
        "--config.eval.batch_size=2",
        "--mode=eval",
    ]
    assert launch.main(arguments) == 0
    after = json.loads((workdir / "eval/2/metrics.json").read_text())
    assert {name: value for name, value in after.items() if "seconds" not in name} == {
        name: value for name, value in before.items() if "seconds" not in name
    }


def test_the_figures_before_the_first_step_stand_beside_those_at_the_end(tmp_path, capsys):
    words = [f"--config={CONFIG},denoise", f"--workdir={tmp_path}", "--config.total_steps=1"]
    words += [
        "--config.eval.before=true",
        "--config.eval.final_examples=2",
        "--config.eval.panels=0",
    ]
    assert launch.main(["main.py", *words]) == 0

    first, last = (json.loads((tmp_path / f"eval/{n}/metrics.json").read_text()) for n in (0, 1))
    assert last["before/denoise/psnr"] == first["denoise/psnr"] != last["denoise/psnr"]
    assert not any(name.startswith("before/") for name in first)
    assert first["trivial/denoise/psnr"] == last["trivial/denoise/psnr"]

    # In the terminal, on the card and in the report.
    shown = f"{first['denoise/psnr']:.2f}"
    table = capsys.readouterr().out.rpartition("task ")[2]
    assert table.split()[:3] == ["metric", "before", "prediction"] and shown in table
    for name in ("eval/1/card.md", "report.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "before" in text and shown in text
    # It is not a point of the course of training.
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 1]
