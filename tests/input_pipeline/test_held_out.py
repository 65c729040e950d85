"""Promise: a slice of each training split is never trained on, and no scene is on both sides."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from generalist.input_pipeline import open_sources
from generalist.input_pipeline.prepare import open_original, prepare
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources import SOURCES, LayoutError, open_source
from generalist.input_pipeline.sources.folder import Folder
from generalist.input_pipeline.sources.held_out import choose_held_out
from generalist.tasks import COCO_CATEGORIES


def touch(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def make_nyu(root):
    """Two parts of a video in each of 60 rooms, of two frames each."""
    for room in range(60):
        for part in "ab":
            for number in range(2):
                folder = f"nyu_depth_v2/sync/kitchen_{room:04d}{part}"
                touch(root, f"{folder}/rgb_{number}.jpg", f"{folder}/sync_depth_{number}.png")


def make_ade(root):
    for number in range(120):
        touch(root, f"ade20k/images/training/ADE_train_{number}.jpg")
        touch(root, f"ade20k/annotations/training/ADE_train_{number}.png")


def make_coco(root):
    """200 images, of which one in three has no person and nothing else that counts."""
    segment = {"id": 1, "iscrowd": 0, "area": 1}
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in range(200)],
        "annotations": [
            {
                "image_id": n,
                "file_name": f"{n:012d}.png",
                "segments_info": [segment | {"category_id": 1 if n % 3 else 200}],
            }
            for n in range(200)
        ],
        "categories": COCO_CATEGORIES,
    }
    touch(root, "coco/annotations/panoptic_train2017.json")
    (root / "coco/annotations/panoptic_train2017.json").write_text(json.dumps(content))


def make_patches(root):
    """Three patches of each of 240 photographs, two of which show one scene."""
    for photograph in range(1, 241):
        for patch in range(1, 4):
            for half in ("input", "groundtruth"):
                touch(root, f"sidd/train/{half}/{photograph}_{patch}.png")


def make_frames(root):
    for scene in range(60):
        for number in ("010", "011"):
            for kind in ("NOISY", "GT"):
                folder = f"sidd/SIDD_Medium_Srgb/Data/{scene:04d}_S6"
                touch(root, f"{folder}/{scene:04d}_{kind}_SRGB_{number}.PNG")


def make_rain(root):
    for number in range(120):
        touch(root, *(f"derain/train/{half}/{number}.jpg" for half in ("input", "target")))


def make_lol(root):
    for number in range(120):
        touch(root, *(f"lol/our485/{half}/{number}.png" for half in ("low", "high")))


def room(name):
    return name[: len("kitchen_0000")]


def photographed(name):
    return (int(name.split("_")[0]) - 1) // 2


@pytest.mark.parametrize(
    "dataset, task, make, scene, official, held_out",
    [
        ("nyu", "depth", make_nyu, room, 240, 4),  # a room has four frames
        ("ade20k", "semantic", make_ade, str, 120, 2),
        ("coco", "coco_semantic", make_coco, str, 200, 4),
        ("coco", "panoptic", make_coco, str, 200, 4),
        ("sidd", "denoise", make_patches, photographed, 720, 12),  # two scenes of six patches
        ("sidd", "denoise", make_frames, lambda name: name.split("/")[0], 36_000, 600),
        ("rain13k", "derain", make_rain, str, 120, 2),
        ("lol", "light", make_lol, str, 120, 2),
    ],
)
def test_no_scene_is_in_both_and_together_they_are_the_official_split(
    tmp_path, dataset, task, make, scene, official, held_out
):
    make(tmp_path)
    reader = SOURCES[dataset]
    whole = reader(tmp_path, "train", task, hold_out=False)
    parts = {split: reader(tmp_path, split, task) for split in ("train", "held_out")}
    assert {split: source.split for split, source in parts.items()} == {
        "train": "train",
        "held_out": "held_out",
    }
    # The counts are those of the archive, whichever part is read.
    assert {tuple(source.counts.items()) for source in (whole, *parts.values())} == {
        (("train", official),)
    }
    train, held = (parts[split].examples.names() for split in ("train", "held_out"))
    assert (len(train), len(held)) == (official - held_out, held_out)
    assert sorted(train + held) == sorted(whole.examples.names())
    assert not {scene(name) for name in train} & {scene(name) for name in held}


def test_an_image_is_held_out_of_all_tasks_and_measured_without_an_instance_too(tmp_path):
    make_coco(tmp_path)
    held = {
        task: open_source("coco", task, "held_out", tmp_path).examples.names()
        for task in ("coco_semantic", "instance", "panoptic")
    }
    assert held["coco_semantic"] == held["instance"] == held["panoptic"]
    trained = open_source("coco", "instance", "train", tmp_path).examples.names()
    with_person = [name for name in held["instance"] if int(name) % 3]
    assert 0 < len(with_person) < 4 and len(trained) == 133 - len(with_person)
    assert all(int(name) % 3 for name in trained)
    assert not set(trained) & set(held["instance"])


def test_the_choice_depends_on_names_alone_and_has_a_limit():
    scenes = [f"scene {n // 3}" for n in range(300)]
    chosen = [scenes[index] for index in choose_held_out(scenes)]
    assert len(chosen) == 6 and len(set(chosen)) == 2
    backwards = scenes[::-1]
    assert {backwards[index] for index in choose_held_out(backwards)} == set(chosen)
    assert len(choose_held_out([str(n) for n in range(118_287)])) == 200
    assert choose_held_out([str(n) for n in range(49)]) == []
    # Of this release; another choice would train on what was measured.
    assert choose_held_out([str(n) for n in range(100)]) == [51, 55]


def test_few_examples_are_all_trained_on_and_the_error_says_what_to_measure(tmp_path):
    for number in range(3):
        touch(tmp_path, *(f"lol/our485/{half}/{number}.png" for half in ("low", "high")))
    assert len(open_source("lol", "light", "train", tmp_path)) == 3
    with pytest.raises(LayoutError, match=r"none of the 3 .*One scene of 50.*eval\.split=val"):
        open_source("lol", "light", "held_out", tmp_path)


def test_a_prepared_set_holds_out_what_its_original_does(tmp_path):
    rng = np.random.default_rng(0)
    for path in [f"lol/our485/{half}/{n}.png" for half in ("low", "high") for n in range(60)]:
        touch(tmp_path, path)
        Image.fromarray(rng.integers(0, 256, (3, 4, 3)).astype(np.uint8)).save(tmp_path / path)
    folder = prepare(open_original("lol", "train", tmp_path), tmp_path / "out")

    for split, count in (("train", 59), ("held_out", 1)):
        original = open_source("lol", "light", split, tmp_path)
        copy = pickle.loads(pickle.dumps(open_source("lol", "light", split, tmp_path / "out")))
        assert copy.counts == {"train": 60} and copy.split == split
        keys = [example["key"] for example in copy]
        assert keys == [example["key"] for example in original] and len(keys) == count

    # A form without the list, such as the TFDS catalog's, is divided by the numbers of its records.
    (folder / "subsets-train.json").unlink()
    keys = {
        split: {e["key"] for e in open_source("lol", "light", split, tmp_path / "out")}
        for split in ("train", "held_out")
    }
    assert len(keys["train"]) == 59 and len(keys["train"] | keys["held_out"]) == 60


def test_own_data_are_all_trained_on_since_val_is_held_out(tmp_path):
    for number in range(60):
        touch(tmp_path, *(f"train/{half}/{number}.png" for half in ("images", "labels")))
    assert len(Folder(tmp_path, "train", "clean", {"kind": "image"})) == 60
    with pytest.raises(ValueError, match="Allowed: train, val, test"):
        Folder(tmp_path, "held_out", "clean", {"kind": "image"})


def test_held_out_scenes_are_rendered_from_seeds_of_their_own():
    data = {
        "source": "scenes",
        "scenes_train": 9,
        "scenes_size": 16,
        "scenes_seed": -1,
        "scenes_captions": "own",
    }
    config = {"seed": 5, "data": data}
    images = {}
    for split in ("train", "held_out", "val", "test"):
        source = open_sources(config, ["depth"], split, length=3)["depth"]
        images |= {source[index]["image"].tobytes(): split for index in range(3)}
        assert source[0]["key"] == f"scenes/5/{split}/00000000"
    assert len(images) == 12

    # Runs of several seeds may see the same scenes.
    config["data"]["scenes_seed"] = 3
    for split in ("train", "val"):
        source = open_sources(config, ["depth"], split, length=1)["depth"]
        assert source[0]["key"] == f"scenes/3/{split}/00000000"

    # The scenes that were trained on and measured so far stay, bit for bit.
    sums = [ScenesSource("depth", s, 1, 16, 5)[0]["image"].sum() for s in ("train", "val", "test")]
    assert sums == [69159, 107300, 83405]
