"""Promise: the studies go on where they were stopped, and their tables are what the seeds gave."""

import json
import pathlib

import ablations
import numpy as np
import pytest
import text_encoder

from generalist import models
from generalist.models import parameters
from generalist.pretrained.export import export_component
from generalist.pretrained.parts import read_parts
from generalist.recipe import Recipe
from generalist.training.initialization import initial_weights

OPTIONS = ["--steps", "6", "--seeds", "0", "1", "--work", "work", "--out", "out"]


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """Trainings without a model, in an empty folder: the configs that began, in their order.

    Depth is 1 m at seed 0 and 1.4 m at seed 1, less 0.1 m for each step; frozen encoders lose half.
    """
    monkeypatch.chdir(tmp_path)
    configs = []

    def evaluate(config, folder):
        depth = 1.0 + 0.4 * config.seed - 0.1 * int(folder.name.partition("_")[0])
        if r"^image_encoder\." in config.optimizer.frozen:
            depth /= 2
        figures = dict.fromkeys(ablations.FIGURES, 0.25) | {"depth/rmse": depth}
        trivial = {f"trivial/{name}": 2.0 for name in figures}
        asked = [config.diffusion[field] for field in ("sampler", "steps", "samples")]
        content = figures | trivial | {"semantic/iou/wall": 0.5, "asked": asked}
        if config.diffusion.samples > 1:
            content |= {"depth/ause": 0.125}
        ablations.write_json(folder / "metrics.json", content)

    def train(config, workdir):
        configs.append(config)
        workdir = pathlib.Path(workdir)
        ablations.write_json(workdir / "run.json", {"command": ["x"], "python": "3"})
        lines = [json.dumps({"step": 3, "images_per_second": rate}) for rate in (1, 7, 9)]
        (workdir / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 3}']))
        for step in ablations.lengths(config):
            evaluate(config, workdir / "eval" / str(step))

    def evaluate_again(config, workdir, examples, *, out_dir):
        assert (examples, config.eval.final_split) == (100, "val")
        evaluate(config, out_dir)

    monkeypatch.setattr(ablations, "prepare", lambda args: None)
    monkeypatch.setattr(ablations, "train_and_evaluate", train)
    monkeypatch.setattr(ablations, "evaluate_workdir", evaluate_again)
    return configs


def names(configs) -> list[str]:
    frozen = r"^image_encoder\."
    return [f"{'frozen' if frozen in c.optimizer.frozen else 'tuned'} {c.seed}" for c in configs]


def test_a_study_goes_on_where_it_was_killed_and_its_table_has_mean_and_range(begun, monkeypatch):
    train = ablations.train_and_evaluate

    def killed(config, workdir):
        if begun:
            raise SystemExit(143)
        train(config, workdir)

    monkeypatch.setattr(ablations, "train_and_evaluate", killed)
    with pytest.raises(SystemExit, match="143"):
        ablations.main(["--studies", "image_encoder", *OPTIONS])
    table = pathlib.Path("out/image_encoder/table.md")
    rest = " | 25.0 % | 25.0 % | 25.0 % | 25.0 % | 0.25 | 0.25 | 0.25 |"
    assert table.read_text().splitlines()[3:] == [
        f"| tuned | {steps} | 1 | {depth}{rest}"
        for steps, depth in ((2, "0.80"), (4, "0.60"), (6, "0.40"))
    ]

    # The first seed of all variants comes first, and what is there stays.
    monkeypatch.setattr(ablations, "train_and_evaluate", train)
    ablations.main(["--studies", "image_encoder", *OPTIONS])
    assert names(begun) == ["tuned 0", "frozen 0", "tuned 1", "frozen 1"]
    head, _, trivial, *lines = table.read_text().splitlines()
    assert head.startswith(
        "| variant | steps | seeds | depth/rmse | semantic/miou | semantic/bound"
    )
    assert trivial.startswith("| trivial | - | - | 2.00 | 200.0 % |")
    tails = [line.split(" | 25.0 % (25.0..25.0)", 1)[0] for line in lines]
    assert tails == [
        "| tuned | 2 | 2 | 1.00 (0.80..1.20)",
        "| tuned | 4 | 2 | 0.80 (0.60..1.00)",
        "| tuned | 6 | 2 | 0.60 (0.40..0.80)",
        "| frozen | 2 | 2 | 0.50 (0.40..0.60)",
        "| frozen | 4 | 2 | 0.40 (0.30..0.50)",
        "| frozen | 6 | 2 | 0.30 (0.20..0.40)",
    ]

    result = json.loads(pathlib.Path("out/image_encoder/frozen/1.json").read_text())
    frozen = ["^text_encoder\\.", "^image_encoder\\."]
    assert result["changed"] == {"seed": 1, "optimizer.frozen": frozen}
    assert result["run"] == {"python": "3"} and result["images_per_second"] == 7
    assert set(result["figures"]["6"]) == set(ablations.FIGURES)

    # The recipe itself, which other studies have too, is not trained once more.
    ablations.main(["--studies", "image_encoder", "conditioning", *OPTIONS])
    assert len(begun) == 4 + 2 * 3
    with pytest.raises(SystemExit, match="is of other steps"):
        ablations.main(["--studies", "image_encoder", *OPTIONS, "--examples", "7"])


def test_diffusion_is_also_measured_by_the_ways_to_sample(begun):
    ablations.main(["--studies", "diffusion", *OPTIONS, "--seeds", "0"])
    head, *rows = pathlib.Path("out/diffusion/table.md").read_text().splitlines()
    assert head.endswith("| light/psnr | depth/ause | semantic/ause |")
    ways = {"1 x 1": "-", "2 x 1": "-", "4 x 1": "-", "8 x 1": "-"}
    several = {"1 x 8": "12.5 %", "4 x 8": "12.5 %"}
    expected = []
    for variant in (ways, ways | several):  # twin, all_levels
        expected += [(steps, "-") for steps in ("2", "4", "6")]
        expected += [(f"6, sampled in {way}", ause) for way, ause in variant.items()]
    cells = [row.strip("| ").split(" | ") for row in rows[2:]]
    assert [(row[1], row[-2]) for row in cells] == expected

    (folder,) = pathlib.Path("work").rglob("6_4steps_8samples")
    assert json.loads((folder / "metrics.json").read_text())["asked"] == ["ddim", 4, 8]
    assert "depth/ause" not in ablations.FIGURES


def test_all_that_is_trained_fits_together(tmp_path, monkeypatch):
    """Sixteen trainings a seed, whose weights fit the priors'; no two studies train one twice."""
    monkeypatch.chdir(tmp_path)
    args = ablations.parse(["--seeds", "4", "--work", "work"])
    text_encoder.write(args.work / "text", captions=10)

    # The prior as it starts, in the form in which it is exported.
    config = ablations.prior("others", args)
    assert config.data.scenes_captions == "others" and config.total_steps == 4000
    recipe = Recipe.from_config(config, read_parts(config.model.init_from))
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    unet = {}
    for path, shape in shapes.items():
        if path.startswith("unet."):
            unet[path.removeprefix("unet.")] = np.full(shape.shape, 0.5, np.float32)
    for name in ablations.PRIORS:
        export_component("unet", recipe.model["unet"], unet, args.work / name / "unet")
    assert not any("text_projection" in path for path in shapes)

    found = ablations.trainings(args)
    assert len({training.workdir(args.work) for training in found}) == 16
    read = {}
    recipes = {}
    for training in found:
        init_from = training.config.model.init_from
        if init_from not in read:
            read[init_from] = read_parts(init_from)
        recipe = Recipe.from_config(training.config, read[init_from])
        told = "clean" if training.variant in ablations.PRIORS else "linear"
        assert recipe.unet_time == told and recipe.config.seed == 4
        assert recipe.config.optimizer.schedule == "constant"
        assert recipe.config.model.unet.channels == (32, 64)
        recipes[training.study, training.variant] = recipe

    # Both kernels of the UNet's input are the prior's.
    recipe = recipes["initialization", "shuffled"]
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    weights = initial_weights(recipe, read[recipe.config.model.init_from], shapes)
    assert weights["unet.conv_in.kernel"].shape == (3, 3, 96, 32)
    assert np.unique(weights["unet.conv_in.kernel"]).size == 1
    assert weights["unet.mid_block.resnets.0.conv1.kernel"].max() == 0.5
    scratch = parameters.abstract(lambda: models.build(recipes["initialization", "scratch"].model))
    assert {path: shape.shape for path, shape in shapes.items()} == {
        path: shape.shape for path, shape in scratch[1].items()
    }
