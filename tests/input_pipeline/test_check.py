"""`generalist data check`: each kind of mistake is named, counted, and never ends the check."""

import json
import logging
import os
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from generalist import cli
from generalist.console import Progress
from generalist.input_pipeline import check as checks
from generalist.input_pipeline.check import check, format_report
from generalist.input_pipeline.reading import evenly_spaced
from generalist.input_pipeline.sources import matlab

RNG = np.random.default_rng(0)


def picture(h=20, w=24):
    return RNG.integers(0, 256, (h // 4, w // 4, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


@pytest.fixture
def lol(tmp_path, monkeypatch):
    """A whole LOL of 6 and 3 pairs, which are the usual counts here."""
    from generalist.input_pipeline.sources import SOURCES

    monkeypatch.setattr(SOURCES["lol"], "USUAL", {"train": 6, "test": 3})
    for split, count in (("our485", 6), ("eval15", 3)):
        for number in range(count):
            high = picture()
            save(tmp_path / f"lol/{split}/high/{number}.png", high)
            save(tmp_path / f"lol/{split}/low/{number}.png", high // 4)
    return tmp_path


def test_a_whole_data_set_is_well(lol, capsys):
    assert (
        cli.main(["data", "check", "lol", "--data-dir", str(lol), "--out", str(lol / "out")]) == 0
    )
    printed = capsys.readouterr().out
    assert (
        f"lol: read from {lol}/lol\n" in printed
        and "no problems" in printed
        and "not found" not in printed
    )
    assert "lol       train         6        6     6      0  24x20  input 6." in printed
    # Image and label side by side.
    assert np.asarray(Image.open(lol / "out/lol.png")).shape[1] > 2 * 240


def test_all_six_are_named_where_none_was_asked_for(lol, capsys):
    assert cli.main(["data", "check", "--data-dir", str(lol)]) == 0
    printed = capsys.readouterr().out
    assert all(
        f"\n{name}: {lol}/" in printed for name in ("nyu", "ade20k", "coco", "sidd", "rain13k")
    )
    assert printed.count("license: ") == 5 and "sceneparsing.csail.mit.edu" in printed


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["lol", "--data-dir", "/nowhere"], "no data set in /nowhere"),
        ([], "GENERALIST_DATA_DIR, which is not set"),
        (["lo"], "Did you mean 'lol'"),
        (["--limit", "-1"], "--limit -1"),
    ],
)
def test_what_cannot_start_is_one_line_and_code_2(arguments, said, monkeypatch, capsys):
    monkeypatch.delenv("GENERALIST_DATA_DIR", raising=False)
    assert cli.main(["data", "check", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_what_is_well_but_not_all_there_is_told_from_damage_by_text_and_code(lol, capsys):
    for half in ("low", "high"):
        (lol / f"lol/our485/{half}/5.png").unlink()
    assert cli.main(["data", "check", "lol", "--data-dir", str(lol)]) == 3
    printed = capsys.readouterr().out
    assert "train         5        6     5      0" in printed
    assert printed.endswith(
        "\nincomplete: lol/train: 5 examples, usually 6\nno problems, but incomplete\n"
    )
    (lol / "lol/our485").rename(lol / "lol/elsewhere")
    assert cli.main(["data", "check", "lol", "--data-dir", str(lol)]) == 3
    assert f"incomplete: lol/train: {lol}/lol/our485/low: no such folder" in capsys.readouterr().out
    (lol / "lol/elsewhere").rename(lol / "lol/our485")
    (lol / "lol/our485/low/0.png").write_bytes(b"broken")
    assert cli.main(["data", "check", "lol", "--data-dir", str(lol)]) == 1
    assert "1 problem(s), but incomplete" in capsys.readouterr().out


def test_a_named_data_set_that_is_not_there_is_code_3(lol):
    assert cli.main(["data", "check", "lol", "nyu", "--data-dir", str(lol)]) == 3


@pytest.mark.parametrize("content", ["{", "[]", '{"splits": [{"name": "train"}]}', '{"splits": 3}'])
def test_damaged_metadata_of_a_prepared_form_are_a_finding(lol, capsys, content):
    (lol / "nyu/1.0.0").mkdir(parents=True)
    (lol / "nyu/1.0.0/dataset_info.json").write_text(content)
    assert cli.main(["data", "check", "nyu", "lol", "--data-dir", str(lol)]) == 1
    printed = capsys.readouterr().out
    assert (
        f"nyu/-: {lol}/nyu/1.0.0/dataset_info.json: cannot be read" in printed
        and "delete it and run that again" in printed
    )
    assert (
        "lol       train         6        6     6      0" in printed and "1 problem(s)" in printed
    )


def test_damage_is_named_and_counted_and_the_rest_is_read(lol, capsys):
    folder = lol / "lol/our485"
    (folder / "low/0.png").write_bytes((folder / "low/0.png").read_bytes()[:-30])
    (folder / "high/1.png").unlink()
    save(folder / "low/2.png", picture(8, 8))
    (folder / "low/3.png").write_bytes((folder / "high/3.png").read_bytes())
    assert cli.main(["data", "check", "lol", "--data-dir", str(lol)]) == 1
    printed = capsys.readouterr().out
    assert "lol       train         5        6     3      4" in printed
    for said in (
        f"lol/train: {folder}/low/0.png: cannot be decoded",
        f"{folder}/low/1.png: has no label",
        f"{folder}/high/2.png: is 24x20 (width x height), but its image",
        "3: the degraded and the clean image are the same",
        "incomplete: lol/train: 5 examples, usually 6",
        "4 problem(s), but incomplete",
    ):
        assert said in printed


def test_images_in_both_splits_are_found_whatever_the_compression(lol):
    pixels = np.asarray(Image.fromarray(picture()).resize((192, 160), Image.Resampling.BICUBIC))
    for half, image in (("high", pixels), ("low", pixels // 4)):
        save(lol / f"lol/our485/{half}/4.png", image)
        (lol / f"lol/eval15/{half}/1.png").unlink()
        save(lol / f"lol/eval15/{half}/1.jpg", image, quality=80)
    report = check(lol, ["lol"])
    assert report.leaks == ["lol: train '4' and test '1' show the same image"] == report.problems


def test_flat_images_are_never_the_same(lol):
    for split, number in (("our485", 0), ("eval15", 0)):
        for half, level in (("high", 200), ("low", 20)):
            save(lol / f"lol/{split}/{half}/{number}.png", np.full((20, 24, 3), level, np.uint8))
    assert check(lol, ["lol"]).problems == []


def test_an_empty_folder_and_one_of_another_data_set(lol):
    (lol / "ade20k").mkdir()
    (lol / "lol").rename(lol / "sidd")
    text = format_report(check(lol, ["ade20k", "sidd"]))
    assert (
        f"ade20k: {lol}/ade20k lacks images/training, images/validation, annotations/training"
        in text
    )
    assert f"ade20k/train: {lol}/ade20k/images/training: no such folder" in text
    assert f"sidd: {lol}/sidd lacks" in text and "; it holds what lol needs" in text


def test_values_of_depth(tmp_path):
    depths = {"a": [[0, 500], [9000, 1000]], "b": [[0, 0], [0, 0]], "c": [[25_000, 1], [1, 1]]}
    black = np.zeros((480, 640, 3), np.uint8)
    for name, depth in depths.items():
        save(tmp_path / f"nyu/official_splits/test/{name}/rgb_1.jpg", black)
        save(
            tmp_path / f"nyu/official_splits/test/{name}/sync_depth_1.png",
            np.kron(depth, np.ones((240, 320))).astype(np.uint16),
        )
    save(tmp_path / "nyu/official_splits/test/d/rgb_1.jpg", black)
    save(tmp_path / "nyu/official_splits/test/d/sync_depth_1.png", black[..., 0])
    train, test = check(tmp_path, ["nyu"]).splits
    assert (train.examples, test.examples, test.read, test.sizes) == (0, 4, 3, "640x480")
    assert test.values == "0.001..25 m, 41.7% missing"  # (1/4 + 1 + 0) / 3
    assert test.incomplete == ["4 examples, usually 654"] and train.problems == []
    assert train.incomplete == [f"{tmp_path}/nyu/sync: no such folder"]
    assert test.problems[:2] == [
        "b/1: no pixel has a value",
        "c/1: depth up to 25.0 m: is it in millimeters?",
    ]
    assert (
        "d/sync_depth_1.png: 8-bit image with 1 channel(s). "
        "NYU depth (millimeters) must be a 16-bit PNG" in test.problems[2]
    )


def test_a_missing_library_is_a_line_and_not_the_end(tmp_path, monkeypatch):
    (tmp_path / "nyu").mkdir()
    (tmp_path / "nyu/nyu_depth_v2_labeled.mat").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    matlab._open_hdf5.cache_clear()
    assert check(tmp_path, ["nyu"]).splits[1].problems == [
        "version 7.3 .mat files are read by h5py: pip install h5py"
    ]


def test_label_ids_of_ade20k(tmp_path):
    for name, label in (("a", [[0, 1], [2, 150]]), ("b", [[1, 151], [1, 1]])):
        save(tmp_path / f"ade20k/images/validation/{name}.jpg", np.zeros((2, 2, 3), np.uint8))
        save(tmp_path / f"ade20k/annotations/validation/{name}.png", np.array(label, np.uint8))
    split = check(tmp_path, ["ade20k"]).splits[1]
    assert (split.read, split.values) == (1, "3 classes, 25.0% void")
    assert (
        "annotations/validation/b.png: label id 151. Allowed are 0 (other) and 1..150."
        in split.problems[0]
    )


def test_areas_of_coco(tmp_path):
    from generalist.tasks import COCO_CATEGORIES

    ids = np.array([[0, 5, 5, 7]])
    save(
        tmp_path / "coco/annotations/panoptic_val2017/1.png",
        np.stack([ids, 0 * ids, 0 * ids], -1).astype(np.uint8),
    )
    save(tmp_path / "coco/val2017/1.jpg", np.zeros((1, 4, 3), np.uint8))
    segments = [
        {"id": n, "category_id": 1, "iscrowd": 0, "area": area} for n, area in ((5, 2), (7, 3))
    ]
    (tmp_path / "coco/annotations/panoptic_val2017.json").write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "1.jpg"}],
                "categories": COCO_CATEGORIES,
                "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
            }
        )
    )
    split = check(tmp_path, ["coco"]).splits[1]
    assert split.problems == ["1: segment 7 has 1 pixels, its area in the JSON is 3"]
    assert split.values == "1 classes, 25.0% void"


OWN = """
from generalist.configs import common

TASKS = {
    "crop": {
        "kind": "classes",
        "folder": "crop",
        "classes": (("soil", 0), ("wheat", 1), ("weed", 2)),
        "void": (255,),
    },
    "height": {
        "kind": "scalar",
        "folder": "height",
        "range": (-100.0, 200.0),
        "unit": "cm",
        "void": (0,),
    },
    "plants": {"kind": "instances", "folder": "plants"},
    "dehaze": {"kind": "image", "folder": "dehaze"},
}


def get_config(arg="crop,height,plants,dehaze"):
    c = common.own(TASKS)
    c.tasks.weights.update({name: float(name in arg) for name in TASKS})
    return c
"""


@pytest.fixture
def own(tmp_path):
    """Own data of four kinds, 3 and 2 examples; a quarter of each label has no value."""
    (tmp_path / "my_config.py").write_text(OWN)
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            image = picture()
            ids = np.repeat([[255, 1], [0, 1]], 10, 0).repeat(12, 1).astype(np.uint8)
            labels = {
                "crop": ids,
                "height": np.where(ids == 255, 0, ids * 99 + 50),
                "plants": (ids == 1) * 7 + (ids == 0) * 300,
                "dehaze": image,
            }
            for task, label in labels.items():
                save(
                    tmp_path / f"data/{task}/{split}/images/{number}.png",
                    image // 2 if task == "dehaze" else image,
                )
                save(
                    tmp_path / f"data/{task}/{split}/labels/{number}.png",
                    label.astype(np.uint16 if task == "plants" else np.uint8),
                )
    return tmp_path


def check_own(root, *arguments, config=""):
    return cli.main(
        [
            "data",
            "check",
            *arguments,
            "--config",
            f"{root}/my_config.py{config}",
            "--data-dir",
            f"{root}/data",
        ]
    )


def test_own_data_that_are_well(own, capsys):
    assert check_own(own, "--out", f"{own}/out") == 0
    printed = capsys.readouterr().out
    for said in (
        "crop      train         3        -     3      0  24x20  2 of 3 classes, 25.0% void\n",
        "val           2        -     2      0",
        "height    train         3        -     3      0  24x20  50..149 cm, 25.0% missing\n",
        "plants    train         3        -     3      0  24x20  2..2 instances an image, "
        "25.0% background\n",
        "dehaze    train         3        -     3      0  24x20  input ",
        f"plants: read from {own}/data/plants\n",
    ):
        assert said in printed
    assert "no problems" in printed
    assert {path.name for path in (own / "out").iterdir()} == {
        "crop.png",
        "height.png",
        "plants.png",
        "dehaze.png",
    }
    crop, plants, dehaze = (
        np.asarray(Image.open(own / f"out/{task}.png")) for task in ("crop", "plants", "dehaze")
    )
    # A line that says what the colors mean; clean images need none.
    assert crop.shape[0] == plants.shape[0] == dehaze.shape[0] + 22


def test_limit_names_and_weights_choose_what_is_read_of_own_data(own, capsys):
    assert check_own(own, "crop", "--limit", "2") == 0
    printed = capsys.readouterr().out
    assert "train         3        -     2" in printed and "height" not in printed
    assert check_own(own, config=":height") == 0
    printed = capsys.readouterr().out
    assert "height    val" in printed and "crop" not in printed


def test_all_that_is_wrong_with_own_data_is_named(own, capsys):
    crop, height, plants, dehaze = (
        own / f"data/{task}/train" for task in ("crop", "height", "plants", "dehaze")
    )
    save(crop / "labels/0.png", np.full((20, 24), 9, np.uint8))
    save(crop / "labels/1.png", np.full((4, 4), 1, np.uint8))
    (crop / "images/2.png").unlink()
    save(height / "labels/0.png", np.full((20, 24), 201, np.uint8))
    save(height / "labels/1.png", np.zeros((20, 24), np.uint8))
    (plants / "labels/0.png").write_bytes(b"broken")
    (dehaze / "images/0.png").write_bytes((dehaze / "labels/0.png").read_bytes())
    save(
        own / "data/plants/val/images/1.jpg",
        np.asarray(Image.open(plants / "images/2.png")).repeat(4, 0).repeat(4, 1),
        quality=90,
    )
    (own / "data/plants/val/images/1.png").unlink()
    save(own / "data/plants/val/labels/1.png", np.zeros((80, 96), np.uint8))
    assert check_own(own) == 1
    printed = capsys.readouterr().out
    for said in (
        f"crop/train: {crop}/labels/0.png: id 9 is no class",
        "Allowed are 0, 1, 2 and 255 for void",
        f"crop/train: {crop}/labels/1.png: is 4x4 (width x height), "
        f"but its image {crop}/images/1.png is 24x20",
        f"crop/train: {crop}/labels/2.png: has no image",
        f"height/train: {height}/labels/0.png: value 201 (stored as 201)",
        "height/train: 1: no pixel has a value",
        f"plants/train: {plants}/labels/0.png: cannot be decoded",
        "dehaze/train: 0: the degraded and the clean image are the same",
        "plants: train '2' and val '1' show the same image",
        "24x20..96x80  0..2 instances",
        "crop      train         2        -     0      3",
    ):
        assert said in printed, printed
    assert printed.endswith("\n8 problem(s)\n")


def test_a_missing_folder_of_own_data_is_code_3(own, capsys):
    (own / "data/crop").rename(own / "elsewhere")
    (own / "data/height/val").rename(own / "elsewhere too")
    assert check_own(own) == 3
    printed = capsys.readouterr().out
    assert printed.endswith(
        f"\nincomplete: crop/-: {own}/data/crop: no such folder\n"
        f"incomplete: height/val: {own}/data/height/val/images: no such folder\n"
        "no problems, but incomplete\n"
    )


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["crp"], "Did you mean 'crop'"),
        (
            ["--data-dir", "/nowhere"],
            "none of the folders crop, dehaze, height, plants in /nowhere",
        ),
        (["--data-dir", ""], "in GENERALIST_DATA_DIR, which is not set"),
        (["--config", "absent.py"], "no config file absent.py. There are: configs/"),
        (
            ["--config", "configs/multitask.py:scenes"],
            "trains on data.source 'scenes', not on folders of your own",
        ),
        (["--config", "configs/own_data.py:ful"], "config argument 'ful'"),
        (["--config", "wrong.py"], r"void is 255. Did you mean (255,)?"),
    ],
)
def test_own_data_that_cannot_be_checked_are_one_line_and_code_2(
    own, arguments, said, monkeypatch, capsys
):
    monkeypatch.delenv("GENERALIST_DATA_DIR", raising=False)
    monkeypatch.chdir(own)
    (own / "wrong.py").write_text(OWN.replace("(255,)", "255"))
    assert (
        cli.main(["data", "check", "--config", "my_config", "--data-dir", "data", *arguments]) == 2
    )
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_the_data_directory_of_the_config_is_taken_where_none_is_given(own, monkeypatch, capsys):
    monkeypatch.delenv("GENERALIST_DATA_DIR", raising=False)
    (own / "my_config.py").write_text(
        OWN.replace("    return c", f"    c.data_dir = '{own}/data'\n    return c")
    )
    assert cli.main(["data", "check", "--config", f"{own}/my_config.py"]) == 0


def test_twins_among_the_real_samples_are_found_and_nothing_else():
    """Rain100H has three known pairs of files with one background; no other two are alike."""
    if not (folder := os.environ.get("GENERALIST_REAL_SAMPLES")):
        pytest.skip("GENERALIST_REAL_SAMPLES is not set: the folder of real samples")
    split = checks.SplitReport("rain13k", "test")
    pictures = {
        path.stem: np.asarray(Image.open(path))
        for path in pathlib.Path(folder, "test/Rain100H/target").glob("*.png")
    }
    checks.summarize(
        split,
        [
            (key, checks.measure({"image": clean // 2, "label": clean, "key": key}))
            for key, clean in pictures.items()
        ],
    )
    twins = {frozenset(pair) for pair in checks.shared(split, split) if pair[0] != pair[1]}
    assert len(pictures) == 20 and twins == {
        frozenset(pair) for pair in (("3", "4"), ("5", "14"), ("6", "25"))
    }


def test_limit_reads_evenly_spread_examples_and_progress_has_an_eta(lol, monkeypatch, caplog):
    monkeypatch.setattr(Progress, "EVERY_SECONDS", 0.0)
    caplog.set_level(logging.INFO, logger="generalist")
    report = check(lol, ["lol"], limit=3, threads=2)
    assert [split.read for split in report.splits] == [3, 3]
    assert caplog.messages[1].startswith("lol/train 2/3 examples | ")
    assert "ETA" in caplog.messages[1]
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(3, 0) == evenly_spaced(3, 9) == [0, 1, 2]


def test_captioned_pictures_have_no_labels_to_measure(tmp_path):
    """And a picture is not said to be the same as its own label."""
    for split, words in (("train", "a red ball"), ("val", "grass")):
        folder = tmp_path / split / "images"
        folder.mkdir(parents=True)
        pixels = np.random.default_rng(len(words)).integers(0, 256, (20, 24, 3), np.uint8)
        save(folder / "a.png", pixels)
        (folder / "a.txt").write_text(words)
    report = checks.check_own(tmp_path, {"pictures": {"kind": "text_to_image"}})
    assert report.problems == [] and report.incomplete == []
    assert [split.values for split in report.splits] == [
        "no labels, captions of 3..3 words",
        "no labels, captions of 1..1 words",
    ]
    (tmp_path / "val/images/a.txt").unlink()
    (line,) = checks.check_own(tmp_path, {"pictures": {"kind": "text_to_image"}}).problems
    assert "holds no file *" in line
