"""The readers of the official data sets, on tiny files in exactly their formats."""

import concurrent.futures
import gc
import itertools
import json
import logging
import multiprocessing
import os
import pathlib
import pickle
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from generalist import cli
from generalist.input_pipeline import sources
from generalist.input_pipeline.reading import in_threads
from generalist.input_pipeline.sources import DataError, LayoutError, matlab, nyu, open_source, sidd
from generalist.tasks import TASKS

RNG = np.random.default_rng(0)
BLUE_SKY = (30, 90, 200)


def photo(h, w):
    return RNG.integers(0, 256, (h, w, 3)).astype(np.uint8)


def save(path, pixels, **options):
    """Writes by Pillow, so that the reader's OpenCV has an independent peer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def save_pairs(root, image_folder, label_folder, names, h=3, w=4):
    """Random PNG pairs; returns {name: (image, label)}."""
    pairs = {name: (photo(h, w), photo(h, w)) for name in names}
    for name, (image, label) in pairs.items():
        save(root / image_folder / f"{name}.png", image)
        save(root / label_folder / f"{name}.png", label)
    return pairs


def check_pairs(source, expected):
    assert [example["key"] for example in source] == sorted(expected)
    for example in source:
        image, label = expected[example["key"]]
        assert example["image"].dtype == example["label"].dtype == np.uint8
        np.testing.assert_array_equal(example["image"], image)
        np.testing.assert_array_equal(example["label"], label)


# NYUv2


def save_nyu(root, scene, number, depth, folder="official_splits/test", size=(2, 3)):
    save(
        root / f"nyu_depth_v2/{folder}/{scene}/rgb_{number}.jpg",
        np.full((*size, 3), BLUE_SKY, np.uint8),
        quality=100,
    )
    save(root / f"nyu_depth_v2/{folder}/{scene}/sync_depth_{number}.png", depth)


DEPTH = np.array([[0, 1, 713], [1000, 9999, 65535]], np.uint16)


def test_nyu_reads_millimeters_as_meters_and_keeps_holes_at_zero(tmp_path):
    save_nyu(tmp_path, "office", "00012", DEPTH)
    save_nyu(tmp_path, "bath", "00007", DEPTH[::-1])
    source = open_source("nyu", "depth", "test", tmp_path)
    assert (source.task, len(source)) == ("depth", 2)
    assert [example["key"] for example in source] == ["bath/00007", "office/00012"]
    label = source[1]["label"]
    assert label.dtype == np.float32
    np.testing.assert_allclose(label, [[0, 0.001, 0.713], [1, 9.999, 65.535]], rtol=1e-6)
    assert source[1]["image"].shape == (2, 3, 3) and source[1]["image"].dtype == np.uint8
    # RGB, not BGR.
    np.testing.assert_allclose(source[1]["image"].reshape(-1, 3), [BLUE_SKY] * 6, atol=2)


def test_nyu_train_is_the_sync_folder(tmp_path):
    save_nyu(tmp_path, "kitchen_0028b", "00045", DEPTH, folder="sync")
    assert open_source("nyu", "depth", "train", str(tmp_path))[0]["key"] == "kitchen_0028b/00045"


def test_nyu_trains_on_the_pairs_of_the_list_where_it_lies_beside(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="generalist")
    for scene, number in (("b_1", "00003"), ("a_2", "00001"), ("a_2", "00002")):
        save_nyu(tmp_path, scene, number, DEPTH, folder="sync")
    assert len(open_source("nyu", "depth", "train", tmp_path)) == 3
    assert (
        "nyu/train: 3 examples, every pair, there is no nyudepthv2_train_files_with_gt.txt"
        in caplog.text
    )
    lines = [
        f"/{scene}/rgb_{n}.jpg /{scene}/sync_depth_{n}.png 518.8579\n"
        for scene, n in (("b_1", "00003"), ("a_2", "00002"))
    ]
    path = tmp_path / "nyu_depth_v2/nyudepthv2_train_files_with_gt.txt"
    path.write_text("".join(lines))
    assert [e["key"] for e in open_source("nyu", "depth", "train", tmp_path)] == [
        "a_2/00002",
        "b_1/00003",
    ]
    assert "nyu/train: 2 examples, the pairs of nyudepthv2_train_files_with_gt.txt" in caplog.text
    path.write_text(lines[0] + "/c/rgb_1.jpg /c/sync_depth_1.png 518.8579\n")
    with pytest.raises(
        DataError, match=r"sync/c/1: not a whole pair, although .*train_files_with_gt\.txt names it"
    ):
        open_source("nyu", "depth", "train", tmp_path)
    assert len(open_source("nyu", "depth", "train", tmp_path, on_error="skip")) == 1
    path.write_text(lines[0] + "/c/rgb_1.jpg /c/sync_depth_2.png 518.8579\n")
    with pytest.raises(LayoutError, match="line 2 is '/c/rgb_1.jpg"):
        open_source("nyu", "depth", "train", tmp_path)


def save_labeled(root, scenes, train, test, size=(480, 640)):
    """nyu_depth_v2_labeled.mat and splits.mat, of the official structure.

    Returns images (n, h, w, 3) and depths (n, h, w).
    """
    folder = root / "nyu_depth_v2"
    folder.mkdir(parents=True)
    images, depths = (
        RNG.integers(1, 256, (len(scenes), *size, 3)).astype(np.uint8),
        RNG.random((len(scenes), *size), np.float32) * 10,
    )
    with h5py.File(folder / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)  # MATLAB's (h, w, 3, n)
        file["rawDepths"] = depths.transpose(0, 2, 1)
        # In-painted: never to be read.
        file["depths"] = np.full((len(scenes), *size[::-1]), 99, np.float32)
        names = [
            file.create_dataset(f"#refs#/{i}", data=np.array([[ord(c)] for c in name], np.uint16))
            for i, name in enumerate(scenes)
        ]
        file.create_dataset(
            "sceneTypes", data=np.array([[name.ref for name in names]], h5py.ref_dtype)
        )
    scipy.io.savemat(
        folder / "splits.mat",
        {"trainNdxs": np.array([train], float).T, "testNdxs": np.array([test], float).T},
    )
    return images, depths


def test_nyu_reads_the_official_mat_as_its_extracted_files(tmp_path):
    images, depths = save_labeled(
        tmp_path, ["office", "bedroom", "office", "bath"], train=[2], test=[1, 3, 4]
    )
    depths[0, 100, 200:203] = 0, 1.2345, 9.9999
    with h5py.File(tmp_path / "nyu_depth_v2/nyu_depth_v2_labeled.mat", "r+") as file:
        file["rawDepths"][0, 200:203, 100] = depths[0, 100, 200:203]
    source = pickle.loads(pickle.dumps(open_source("nyu", "depth", "test", tmp_path)))
    assert [example["key"] for example in source] == ["bath/00003", "office/00000", "office/00002"]
    image = source[1]["image"]
    label = source[1]["label"]
    assert (image.shape, image.dtype, label.shape, label.dtype) == (
        (480, 640, 3),
        np.uint8,
        (480, 640),
        np.float32,
    )
    # Whole millimeters, cut.
    np.testing.assert_allclose(label[100, 200:203], [0, 1.234, 9.999], atol=1e-6)
    np.testing.assert_allclose(label, depths[0], atol=0.00101)
    inside = np.zeros((480, 640), bool)
    inside[7:474, 7:632] = True
    np.testing.assert_array_equal(image[inside], images[0][inside])
    assert not image[~inside].any()
    assert [e["key"] for e in open_source("nyu", "depth", "labeled", tmp_path)] == ["bedroom/00001"]


def test_nyu_prefers_extracted_files_to_the_mat(tmp_path):
    save_labeled(tmp_path, ["office"], [1], [1], size=(8, 9))
    save_nyu(tmp_path, "bath", "00007", DEPTH)
    assert [e["key"] for e in open_source("nyu", "depth", "test", tmp_path)] == ["bath/00007"]


def _labels_of(source, indices):
    return [source[i]["label"].sum() for i in indices]


@pytest.mark.parametrize("start", ["fork", "spawn", "threads"])
def test_nyu_mat_reads_from_threads_and_from_other_processes(tmp_path, start):
    _, depths = save_labeled(tmp_path, ["a"] * 6, [1], list(range(1, 7)), size=(480, 640))
    source = open_source("nyu", "depth", "test", tmp_path)
    expected = _labels_of(source, range(6))  # the file is open here before the others start
    if start == "threads":
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            assert (
                list(pool.map(lambda i: source[i]["label"].sum(), list(range(6)) * 3))
                == expected * 3
            )
    elif start == "fork":
        with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            parts = pool.map(_labels_of, [source] * 3, [[0, 1], [2, 3], [4, 5]])
            assert list(itertools.chain.from_iterable(parts)) == expected
    else:  # grain's workers are spawned: a fresh process has the pickled source alone
        code = (
            "import pickle, sys; s = pickle.load(sys.stdin.buffer); "
            "print([float(s[i]['label'].sum()) for i in range(6)])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=pickle.dumps(source),
            capture_output=True,
            check=True,
        )
        assert json.loads(done.stdout) == pytest.approx([float(x) for x in expected], rel=0)
    np.testing.assert_allclose(expected, depths.sum((1, 2)), rtol=1e-3)


def test_nyu_names_what_is_wrong_with_the_mat(tmp_path, monkeypatch):
    save_labeled(tmp_path, ["a", "b"], [1], [2], size=(480, 640))
    mat, splits = (
        tmp_path / "nyu_depth_v2" / name for name in ("nyu_depth_v2_labeled.mat", "splits.mat")
    )

    def refused(message, error=LayoutError):
        with pytest.raises(error, match=message):
            open_source("nyu", "depth", "test", tmp_path)

    scipy.io.savemat(splits, {"testNdxs": np.array([[1], [3]])})
    refused(r"splits\.mat: testNdxs names image 3\. .*has the images 1\.\.2")
    splits.write_bytes(b"MATLAB 5.0")
    refused(r"splits\.mat: cannot be read \(it has no header.*version 5 \.mat file")
    splits.unlink()
    refused(r"splits\.mat: no such file(.|\n)*cs\.nyu\.edu")
    content = mat.read_bytes()
    mat.unlink()  # a new file: the old one is still open
    mat.write_bytes(content[: len(content) // 2])
    # As a fresh process, which has not opened it.
    monkeypatch.setattr(matlab.os, "getpid", lambda: -1)
    refused(r"nyu_depth_v2_labeled\.mat: cannot be read \(.*truncated file.*get it again")
    mat.unlink()
    with h5py.File(mat, "w") as file:
        file["images"] = np.zeros((1, 3, 4, 5), np.uint8)
    refused(r"lacks rawDepths, sceneTypes")
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.setattr(matlab.os, "getpid", lambda: -2)
    refused("pip install h5py", ImportError)


def test_a_damaged_nyu_mat_is_one_error_whatever_h5py_raises(tmp_path):
    save_labeled(tmp_path, ["a"], [1], [1], size=(480, 640))
    mat = tmp_path / "nyu_depth_v2/nyu_depth_v2_labeled.mat"
    whole = mat.read_bytes()

    def opened(content):
        # Each as a fresh process, from a new file.
        mat.unlink()
        mat.write_bytes(content)
        matlab._open_hdf5.cache_clear()
        return open_source("nyu", "depth", "test", tmp_path)

    with pytest.raises(
        LayoutError, match=r"labeled\.mat: cannot be read \(RuntimeError: .*get it again"
    ):
        opened(whole.replace(b"HEAP", b"HEAQ"))
    assert len(opened(whole)) == 1

    # What is there, but is no image with a depth a pixel.
    mat.unlink()
    with h5py.File(mat, "w") as file:
        file["images"] = np.zeros((1, 3, 8, 6), np.uint8)
        file["rawDepths"] = np.zeros((1, 8, 7), np.float32)
        name = file.create_dataset("#refs#/0", data=np.array([[97]], np.uint16))
        file.create_dataset("sceneTypes", data=np.array([[name.ref]], h5py.ref_dtype))
    matlab._open_hdf5.cache_clear()
    source = open_source("nyu", "depth", "test", tmp_path)
    said = r"images uint8 \(1, 3, 8, 6\), depths float32 \(1, 8, 7\). Allowed are 8-bit RGB"
    with pytest.raises(DataError, match=said):
        source[0]

    # Terabytes that the file claims and does not hold.
    mat.unlink()
    with h5py.File(mat, "w") as file:
        file.create_dataset("images", (1, 3, 10**6, 10**6), np.uint8)
        file.create_dataset("rawDepths", (1, 10**6, 10**6), np.float32)
        name = file.create_dataset("#refs#/0", data=np.array([[97]], np.uint16))
        file.create_dataset("sceneTypes", data=np.array([[name.ref]], h5py.ref_dtype))
    matlab._open_hdf5.cache_clear()
    with pytest.raises(
        DataError, match=r"\(1000000, 1000000\) pixels. Allowed are 1 to 500,000,000"
    ):
        open_source("nyu", "depth", "test", tmp_path)[0]


def real_samples():
    folder = os.environ.get("GENERALIST_REAL_SAMPLES")
    if not folder:
        pytest.skip("GENERALIST_REAL_SAMPLES is not set: the folder of real samples")
    return pathlib.Path(folder)


def test_official_splits_of_nyu_name_the_files_of_the_published_lists():
    folder = real_samples() / "meta/nyu"
    rows = nyu.read_indices(str(folder / "splits.mat"), "testNdxs", 1449)
    assert len(rows) == nyu.NYUV2.USUAL["test"] == 654
    numbers = [
        int(key.rpartition("/")[2])
        for key in nyu.listed_keys(folder / "nyudepthv2_test_files_with_gt.txt")
    ]
    assert sorted(numbers) == sorted(rows)  # the files are numbered from 0
    assert (
        len(nyu.read_indices(str(folder / "splits.mat"), "trainNdxs", 1449))
        == nyu.NYUV2.USUAL["labeled"]
        == 795
    )
    keys = nyu.listed_keys(folder / "nyudepthv2_train_files_with_gt.txt")
    assert (
        len(set(keys)) == len(keys) == nyu.NYUV2.USUAL["train"] and keys[0] == "kitchen_0028b/00045"
    )


def test_nyu_refuses_8_bit_depth(tmp_path):
    save_nyu(tmp_path, "bath", "1", (DEPTH // 256).astype(np.uint8))
    with pytest.raises(
        DataError, match=r"bath/sync_depth_1\.png: 8-bit image with 1 channel.*must be a 16-bit PNG"
    ):
        open_source("nyu", "depth", "test", tmp_path)[0]


# ADE20K


def save_ade(root, name, label, split="validation", folder="ade20k"):
    image = photo(*np.shape(label)[:2])
    save(root / folder / f"images/{split}/{name}.png", image)
    save(root / folder / f"annotations/{split}/{name}.png", np.asarray(label, np.uint8))
    return image


@pytest.mark.parametrize("folder", ["ade20k", "ADEChallengeData2016"])
def test_ade20k_moves_labels_down_by_one_and_makes_other_void(tmp_path, folder):
    image = save_ade(tmp_path, "ADE_val_00000001", [[0, 1, 2], [75, 149, 150]], folder=folder)
    example = open_source("ade20k", "semantic", "val", tmp_path)[0]
    assert example["key"] == "ADE_val_00000001" and example["label"].dtype == np.int32
    np.testing.assert_array_equal(example["label"], [[-1, 0, 1], [74, 148, 149]])
    np.testing.assert_array_equal(example["image"], image)


def test_ade20k_names_a_label_out_of_range(tmp_path):
    save_ade(tmp_path, "a", [[3, 151]])
    message = r"annotations/validation/a\.png: label id 151\. Allowed are 0 \(other\) and 1\.\.150"
    with pytest.raises(DataError, match=message):
        open_source("ade20k", "semantic", "test", tmp_path)[0]


# COCO

WALL, PERSON_A, PERSON_B, CROWD, BALL = 5, 256 + 7, 65536 * 3 + 2, 9, 70_000
ID_MAP = np.array([[0, WALL, WALL, PERSON_A], [PERSON_B, CROWD, CROWD, BALL]])


def coco_categories():
    """133 categories with COCO's gaps: 80 things 1..., 53 stuff up to 200; written in no order."""
    ids = [*range(1, 81), *range(148, 201)]
    return [{"id": k, "name": f"c{k}", "isthing": int(k <= 80)} for k in reversed(ids)]


def segment(id, category_id, area, iscrowd=0):
    return {
        "id": id,
        "category_id": category_id,
        "iscrowd": iscrowd,
        "area": area,
        "bbox": [0, 0, 1, 1],
    }


SEGMENTS = [
    segment(WALL, 200, 2),
    segment(PERSON_B, 1, 1),
    segment(CROWD, 1, 2, iscrowd=1),
    segment(BALL, 37, 1),
    segment(PERSON_A, 1, 1),
]


def save_coco(root, records, split="val2017"):
    """records: {number: (id map, segments_info)}; returns {number: image}."""
    annotations = root / "coco/annotations"
    photos = {number: photo(*np.shape(ids)) for number, (ids, _) in records.items()}
    for number, (ids, _) in records.items():
        rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
        save(annotations / f"panoptic_{split}/{number:012d}.png", rgb)
        # A JPEG by name, a PNG by content: the exact pixels can be checked.
        save(root / f"coco/{split}/{number:012d}.jpg", photos[number], format="PNG")
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in reversed(records)],
        "annotations": [
            {"image_id": n, "file_name": f"{n:012d}.png", "segments_info": segments}
            for n, (_, segments) in records.items()
        ],
        "categories": coco_categories(),
    }
    (annotations / f"panoptic_{split}.json").write_text(json.dumps(content))
    return photos


def test_coco_semantic_paints_crowds_and_indexes_categories_by_position(tmp_path):
    photos = save_coco(tmp_path, {42: (ID_MAP, SEGMENTS)})
    example = open_source("coco", "coco_semantic", "val", tmp_path)[0]
    assert example["key"] == "000000000042" and example["label"].dtype == np.int32
    np.testing.assert_array_equal(example["label"], [[-1, 132, 132, 0], [0, 0, 0, 36]])
    np.testing.assert_array_equal(example["image"], photos[42])


def test_coco_instances_are_things_in_the_order_of_the_json_and_void_and_crowds_apart(tmp_path):
    save_coco(tmp_path, {42: (ID_MAP, SEGMENTS)})
    label = open_source("coco", "instance", "val", tmp_path)[0]["label"]
    assert label.dtype == np.int32
    np.testing.assert_array_equal(label, [[-1, 0, 0, 3], [1, -1, -1, 2]])


def test_coco_panoptic_is_the_official_pair(tmp_path):
    save_coco(tmp_path, {42: (ID_MAP, SEGMENTS)})
    id_map, segments = open_source("coco", "panoptic", "val", tmp_path)[0]["label"]
    assert id_map.dtype == np.int32
    np.testing.assert_array_equal(id_map, ID_MAP)
    assert segments == [
        {key: s[key] for key in ("id", "category_id", "iscrowd", "area")} for s in SEGMENTS
    ]
    assert type(segments[0]["id"]) is int


def test_coco_instance_training_leaves_out_images_without_a_countable_thing(tmp_path):
    stuff, crowd = np.full((2, 2), WALL), np.full((2, 2), CROWD)
    records = {
        1: (stuff, [segment(WALL, 200, 4)]),
        2: (ID_MAP, SEGMENTS),
        3: (np.zeros((2, 2), int), []),
        4: (crowd, [segment(CROWD, 1, 4, iscrowd=1)]),
    }
    for split in ("train2017", "val2017"):
        save_coco(tmp_path, records, split)
    assert [e["key"][-1] for e in open_source("coco", "instance", "train", tmp_path)] == ["2"]
    assert [e["key"][-1] for e in open_source("coco", "instance", "val", tmp_path)] == [
        "1",
        "2",
        "3",
        "4",
    ]
    void = open_source("coco", "coco_semantic", "train", tmp_path)[2]["label"]
    np.testing.assert_array_equal(void, -np.ones((2, 2)))


@pytest.mark.parametrize(
    "segments, message",
    [
        (SEGMENTS[:-1], f"segment id {PERSON_A} is not in the JSON"),
        ([*SEGMENTS, segment(77, 1, 5)], "no pixel has the segment id 77"),
        ([*SEGMENTS[:-1], segment(PERSON_A, 99, 1)], f"segment {PERSON_A} has the category id 99"),
    ],
)
def test_coco_refuses_a_json_that_does_not_fit_its_png(tmp_path, segments, message):
    save_coco(tmp_path, {42: (ID_MAP, segments)})
    with pytest.raises(DataError, match=rf"panoptic_val2017/000000000042\.png: {message}"):
        open_source("coco", "panoptic", "val", tmp_path)[0]


def test_coco_refuses_a_gray_panoptic_png(tmp_path):
    save_coco(tmp_path, {42: (ID_MAP, SEGMENTS)})
    save(
        tmp_path / "coco/annotations/panoptic_val2017/000000000042.png", np.zeros((2, 4), np.uint8)
    )
    with pytest.raises(DataError, match=r"uint8 image of shape \(2, 4\).*must be 8-bit RGB"):
        open_source("coco", "panoptic", "val", tmp_path)[0]


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"images": [', "cannot be read .JSONDecodeError"),
        ('{"images": [], "annotations": []}', "cannot be read .KeyError: 'categories'"),
        (
            '{"images": [], "annotations": [], "categories": [{"id": 1, "isthing": 1}]}',
            "has 1 categories",
        ),
    ],
)
def test_coco_names_a_damaged_annotation_file(tmp_path, content, message):
    (tmp_path / "coco/annotations").mkdir(parents=True)
    (tmp_path / "coco/annotations/panoptic_val2017.json").write_text(content)
    with pytest.raises(LayoutError, match=rf"panoptic_val2017\.json: {message}.*133 categories"):
        open_source("coco", "panoptic", "val", tmp_path)


def test_coco_parses_its_json_once_for_all_tasks(tmp_path):
    save_coco(tmp_path, {42: (ID_MAP, SEGMENTS)})
    one, other = (open_source("coco", task, "val", tmp_path) for task in ("instance", "panoptic"))
    assert one.examples.annotations is other.examples.annotations


# SIDD


def save_blocks(root, folder="", noisy=None, clean=None):
    for name, blocks in (("Noisy", noisy), ("Gt", clean)):
        path = root / "sidd" / folder / f"Validation{name}BlocksSrgb.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, {f"Validation{name}BlocksSrgb": blocks}, do_compression=True)


@pytest.mark.parametrize("folder", ["", "val"])
def test_sidd_validation_reads_the_blocks_scene_by_scene(tmp_path, folder):
    noisy, clean = RNG.integers(0, 256, (2, 2, 3, 4, 5, 3)).astype(np.uint8)  # 2 scenes of 3 blocks
    save_blocks(tmp_path, folder, noisy, clean)
    source = pickle.loads(pickle.dumps(open_source("sidd", "denoise", "val", tmp_path)))
    assert [example["key"] for example in source] == [
        "0000_00",
        "0000_01",
        "0000_02",
        "0001_00",
        "0001_01",
        "0001_02",
    ]
    for index, example in enumerate(source):
        np.testing.assert_array_equal(example["image"], noisy[index // 3, index % 3])
        np.testing.assert_array_equal(example["label"], clean[index // 3, index % 3])


def test_sidd_validation_names_wrong_blocks(tmp_path):
    blocks = np.zeros((2, 3, 4, 5, 3), np.uint8)
    save_blocks(tmp_path, "", blocks, blocks.astype(np.float32))
    message = r"GtBlocksSrgb\.mat: .*is float32 \(2, 3, 4, 5, 3\).*uint8 \(40, 32, 256, 256, 3\)"
    with pytest.raises(LayoutError, match=message):
        open_source("sidd", "denoise", "val", tmp_path)
    save_blocks(tmp_path, "", blocks, blocks[:1])
    with pytest.raises(
        LayoutError, match=r"has the shape \(1, 3, 4, 5, 3\), the noisy blocks \(2, 3, 4, 5, 3\)"
    ):
        open_source("sidd", "denoise", "val", tmp_path)


def test_sidd_validation_names_a_damaged_or_absent_mat(tmp_path):
    blocks = RNG.integers(0, 256, (1, 2, 16, 16, 3)).astype(np.uint8)
    save_blocks(tmp_path, "", blocks, blocks)
    path = tmp_path / "sidd/ValidationGtBlocksSrgb.mat"
    path.write_bytes(path.read_bytes()[:600])  # the header is whole, the array is not
    with pytest.raises(LayoutError, match=r"GtBlocksSrgb\.mat: cannot be read"):
        open_source("sidd", "denoise", "val", tmp_path, on_error="skip")[0]
    path.write_bytes(b"no matrix")
    with pytest.raises(LayoutError, match=r"GtBlocksSrgb\.mat: cannot be read.*version 5"):
        open_source("sidd", "denoise", "val", tmp_path)
    path.unlink()
    with pytest.raises(
        LayoutError, match=r"GtBlocksSrgb\.mat: no such file(.|\n)*also below sidd/val/"
    ):
        open_source("sidd", "denoise", "val", tmp_path)


def test_sidd_training_prefers_patches_cut_beforehand(tmp_path):
    expected = save_pairs(tmp_path / "denoise/train", "input", "groundtruth", ["0001_1", "0001_2"])
    check_pairs(open_source("sidd", "denoise", "train", tmp_path), expected)


@pytest.fixture
def frames(tmp_path, monkeypatch):
    """(Folder of a scene with three pairs of frames of 300x400, the clean ones, paths decoded)."""
    scene = tmp_path / "sidd/SIDD_Medium_Srgb/Data/0001_S6"
    read = sidd.read_image
    decoded = []
    clean = RNG.integers(0, 100, (3, 300, 400, 3)).astype(np.uint8)
    for number, pixels in enumerate(clean):
        save(scene / f"0001_GT_SRGB_01{number}.PNG", pixels, compress_level=1)
        save(scene / f"0001_NOISY_SRGB_01{number}.PNG", pixels + 100, compress_level=1)
    monkeypatch.setattr(sidd, "read_image", lambda path: decoded.append(path) or read(path))
    return scene, clean, decoded


def test_sidd_training_cuts_the_same_window_out_of_both_frames(tmp_path, frames):
    _, clean, _ = frames
    source = open_source("sidd", "denoise", "train", tmp_path, crops_per_frame=2)
    assert [example["key"] for example in source] == [
        f"0001_S6/0001_SRGB_01{n}_{crop}" for n in range(3) for crop in range(2)
    ]
    for index, example in enumerate(source):
        np.testing.assert_array_equal(example["image"], example["label"] + 100)
        np.testing.assert_array_equal(
            example["label"], clean[index // 2][sidd.crop_window((300, 400), index)]
        )
        location = source.examples.locate(index)
        # A view would keep the whole frame in memory.
        assert location.image.base is None and location.label.base is None
    assert len({example["label"].tobytes() for example in source}) == 6
    assert len(open_source("sidd", "denoise", "train", tmp_path)) == 900


@pytest.mark.parametrize("threads", [1, 8])
def test_sidd_decodes_a_frame_once_where_its_crops_are_read_in_order(tmp_path, frames, threads):
    scene, _, decoded = frames
    source = open_source("sidd", "denoise", "train", tmp_path, crops_per_frame=40)
    list(in_threads(source.read, range(120), threads, ""))
    assert sorted(decoded) == sorted(map(str, scene.iterdir()))
    # Pairs: those of two threads, and what bounds the memory.
    assert sidd._decode_frames.cache_info().currsize == 2


def test_sidd_names_a_damaged_frame_every_time_and_decodes_it_once(tmp_path, frames):
    scene, _, decoded = frames
    bad = scene / "0001_GT_SRGB_011.PNG"
    bad.write_bytes(bad.read_bytes()[:-50])
    source = open_source("sidd", "denoise", "train", tmp_path, crops_per_frame=4)
    for index in (4, 5, 4):
        with pytest.raises(
            DataError, match=r"0001_GT_SRGB_011\.PNG: cannot be decoded \(.*on_error=skip"
        ):
            source[index]
    assert decoded.count(str(bad)) == 1
    skipping = open_source("sidd", "denoise", "train", tmp_path, on_error="skip", crops_per_frame=4)
    assert (skipping[5]["key"], len(skipping.damaged), decoded.count(str(bad))) == (
        "0001_S6/0001_SRGB_012_0",
        1,
        1,
    )
    save(scene / "0001_GT_SRGB_010.PNG", photo(300, 399))
    with pytest.raises(
        DataError, match=r"0001_GT_SRGB_010\.PNG: is 399x300 .*0001_NOISY_SRGB_010\.PNG is 400x300"
    ):
        source[0]


def test_crop_windows_are_of_256_pixels_inside_the_frame_and_all_over_it():
    windows = [sidd.crop_window((3000, 5328), index) for index in range(200)]
    for axis, length in enumerate((3000, 5328)):
        starts = [window[axis].start for window in windows]
        assert {window[axis].stop - window[axis].start for window in windows} == {256}
        assert 0 <= min(starts) < 100 and length - 256 - 100 < max(starts) <= length - 256
    assert sidd.crop_window((100, 5000), 3)[0] == slice(0, 100)
    assert windows[7] == sidd.crop_window((3000, 5328), 7) != windows[8]


# Rain13K and LOL


def test_rain13k_test_is_the_five_sets_one_after_another(tmp_path, caplog):
    names = ["Test100", "Rain100H", "Rain100L", "Test2800", "Test1200"]
    pairs = {
        name: save_pairs(tmp_path / "derain/test" / name, "input", "target", ["2", "10"])
        for name in names
    }
    source = open_source("rain13k", "derain", "test", tmp_path)
    assert [example["key"] for example in source] == [
        f"{name}/{n}" for name in names for n in ("10", "2")
    ]
    for example in source:
        name, number = example["key"].split("/")
        np.testing.assert_array_equal(example["image"], pairs[name][number][0])
        np.testing.assert_array_equal(example["label"], pairs[name][number][1])
    assert "rain13k/test/Test2800: 2 examples" in caplog.text
    assert "(usually 2800)" in caplog.text
    check_pairs(open_source("rain13k", "derain", "test/Rain100L", tmp_path), pairs["Rain100L"])
    assert {source[row]["key"].split("/")[0] for row in range(len(source))} == set(source.groups)


@pytest.fixture
def two_rain_sets(tmp_path):
    """A Rain13K to train on with one image of Rain100H and three of Rain100L."""
    save_pairs(tmp_path / "derain/train", "input", "target", ["1"])
    save_pairs(tmp_path / "derain/test/Rain100H", "input", "target", ["4"], 16, 16)
    save_pairs(tmp_path / "derain/test/Rain100L", "input", "target", ["1", "2", "3"], 16, 16)
    return tmp_path


def test_rain13k_evaluates_the_test_sets_that_are_there_and_names_the_others(two_rain_sets, caplog):
    from generalist.evaluation.scores import (
        Scores,  # JAX, which the processes that other tests spawn from this file shall not load
    )

    source = open_source("rain13k", "derain", "val", two_rain_sets)
    assert [example["key"] for example in source] == [
        "Rain100H/4",
        "Rain100L/1",
        "Rain100L/2",
        "Rain100L/3",
    ]
    assert (
        f"rain13k/test: {two_rain_sets}/derain/test lacks Test100, Test2800, Test1200: "
        "figures are means over Rain100H, Rain100L, not the official ones\n"
    ) in caplog.text
    scores = Scores(TASKS["derain"], source.groups)
    for example in source:
        prediction = TASKS["derain"].trivial_prediction(example["image"], {})
        scores.update([example], {"": [prediction]})
    values = scores.compute()
    assert (values["images/Rain100H"], values["images/Rain100L"], "images/Test100" in values) == (
        1,
        3,
        False,
    )
    assert (
        values["psnr"]
        == (values["psnr/Rain100H"] + values["psnr/Rain100L"]) / 2
        != np.mean([row["psnr"] for row in scores.rows])
    )


def test_rain13k_is_there_with_one_test_set_and_incomplete_without_the_others(
    two_rain_sets, capsys
):
    assert sources.missing(two_rain_sets, ["rain13k"]) == []  # what training asks before it starts
    command = ["data", "check", "rain13k", "--data-dir", str(two_rain_sets)]
    assert cli.main(command) == 3
    printed = capsys.readouterr().out
    assert printed.endswith("\nno problems, but incomplete\n")
    for name in ("Test100", "Test2800", "Test1200"):
        assert (
            f"incomplete: rain13k/test/{name}: "
            f"{two_rain_sets}/derain/test/{name}/input: no such folder" in printed
        )
    for name in ("Rain100H", "Rain100L"):
        (two_rain_sets / "derain/test" / name).rename(two_rain_sets / name)
    (absent,) = sources.missing(two_rain_sets, ["rain13k"])
    assert absent.absent == (
        "test/Test100 or test/Rain100H or test/Rain100L or test/Test2800 or test/Test1200",
    )
    assert cli.main(command) == 3
    with pytest.raises(
        LayoutError,
        match=r"derain/test: holds none of the test sets Test100, Rain100H(.|\n)*or some of them",
    ):
        open_source("rain13k", "derain", "test", two_rain_sets)


def test_rain13k_pairs_by_name_whatever_the_suffix(tmp_path):
    expected = save_pairs(tmp_path / "Rain13K/train", "input", "target", ["1", "2"])
    folder = tmp_path / "Rain13K/train/target"
    (folder / "2.png").rename(folder / "2.bmp")  # decoded by content
    check_pairs(open_source("rain13k", "derain", "train", tmp_path), expected)


def test_lol_reads_low_and_high(tmp_path):
    train = save_pairs(tmp_path / "LOLdataset/our485", "low", "high", ["2", "5"])
    test = save_pairs(tmp_path / "LOLdataset/eval15", "low", "high", ["1"])
    check_pairs(open_source("lol", "light", "train", tmp_path), train)
    check_pairs(open_source("lol", None, "val", tmp_path), test)


# What all share


@pytest.fixture
def lol(tmp_path):
    """Root of a LOL data set with the pairs 1..4."""
    save_pairs(tmp_path / "light_enhance/eval15", "low", "high", ["1", "2", "3", "4"])
    return tmp_path


def low(root, number):
    return root / f"light_enhance/eval15/low/{number}.png"


def test_jpegs_decode_as_by_an_independent_decoder_and_ignore_orientation(tmp_path):
    smooth = np.linspace(0, 255, 16 * 24 * 3).reshape(16, 24, 3).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6  # "rotate by 90 degrees"
    for half in ("low", "high"):
        save(tmp_path / f"lol/eval15/{half}/1.jpg", smooth, quality=90, exif=turned)
    image = open_source("lol", "light", "test", tmp_path)[0]["image"]
    peer = np.asarray(Image.open(tmp_path / "lol/eval15/low/1.jpg").convert("RGB"))
    assert image.shape == (16, 24, 3)
    assert np.abs(image.astype(int) - peer).max() <= 1


def test_a_bucket_reads_as_a_local_folder(lol, bucket):
    for path in lol.rglob("*.png"):
        bucket.pipe(f"/bucket/data/{path.relative_to(lol)}", path.read_bytes())
    bucket.pipe("/bucket/data/light_enhance/eval15/low/._1.png", b"a bucket lists hidden files too")
    remote, local = (
        open_source("lol", "light", "test", root) for root in ("gs://bucket/data", lol)
    )
    assert remote.root == "gs://bucket/data/light_enhance" and len(remote) == 4
    check_pairs(remote, {example["key"]: (example["image"], example["label"]) for example in local})
    assert sources.missing("gs://bucket/data", ["lol"])[0].absent == ("our485/low", "our485/high")


def test_16_bit_images_are_refused_and_a_gray_one_is_rgb(lol):
    cv2.imwrite(str(low(lol, 2)), np.full((3, 4, 3), 40_000, np.uint16))
    save(low(lol, 1), np.full((3, 4), 7, np.uint8))
    source = open_source("lol", "light", "test", lol)
    assert (source[0]["image"] == 7).all() and source[0]["image"].shape == (3, 4, 3)
    with pytest.raises(
        DataError, match=r"low/2\.png: 16-bit image\. An image must have 8 bits a channel"
    ):
        source[1]


def test_random_access_is_that_of_a_list_and_survives_pickling(lol):
    source = open_source("lol", "light", "test", lol)
    copy = pickle.loads(pickle.dumps(source))
    assert source[-1]["key"] == source[np.int64(3)]["key"] == copy[3]["key"] == "4"
    np.testing.assert_array_equal(source[2]["image"], copy[2]["image"])
    with pytest.raises(IndexError):
        source[4]


def test_hidden_and_foreign_files_are_no_examples(lol):
    for name in ("._1.png", "Thumbs.db", "notes.txt"):
        low(lol, 1).with_name(name).write_bytes(b"x")
    assert len(open_source("lol", "light", "test", lol)) == 4


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: path.write_bytes(b""), r"the file is empty \(0 bytes\)"),
        (lambda path: path.write_bytes(b"hello"), r"cannot be decoded \(5 bytes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20]), "cannot be decoded"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: save(path, photo(7, 9)), None),
    ],
)
def test_damaged_file_is_an_error_that_names_it_and_the_way_to_skip_it(lol, damage, message):
    source = open_source("lol", "light", "test", lol)
    damage(low(lol, 2))
    source[0]
    with pytest.raises(DataError) as error:
        source[1]
    text = str(error.value)
    assert str(low(lol, 2)) in text and "--config.data.on_error=skip" in text
    size = r"high/2\.png: is 4x3 \(width x height\), but its image .*low/2\.png is 9x7.*same size"
    assert error.match(message or size)
    # It must come back from a worker process.
    assert str(pickle.loads(pickle.dumps(error.value))) == text


def test_cut_jpeg_is_an_error_even_where_opencv_fills_it_with_gray(tmp_path, monkeypatch):
    for half in ("low", "high"):
        save(tmp_path / f"lol/eval15/{half}/1.jpg", photo(64, 64), quality=95)
    source = open_source("lol", "light", "test", tmp_path)
    path = tmp_path / "lol/eval15/low/1.jpg"
    assert source[0]["key"] == "1"
    path.write_bytes(path.read_bytes()[:-500])
    # As OpenCV 4 does.
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full((64, 64, 3), 128, np.uint8))
    with pytest.raises(DataError, match=r"low/1\.jpg: cannot be decoded .*cut short"):
        source[0]


def test_skip_takes_the_next_readable_example_counts_and_reports_once(lol, caplog):
    source = open_source("lol", "light", "test", lol, on_error="skip")
    for number in (3, 4):
        low(lol, number).write_bytes(b"broken")
    assert [source[i]["key"] for i in (0, 1, 2, 3, 2)] == ["1", "2", "1", "1", "1"]
    assert (len(source), len(source.damaged)) == (4, 2)
    assert caplog.text.count(f"lol: skipped {low(lol, 3)}: cannot be decoded") == 1
    assert caplog.text.count(str(low(lol, 4))) == 1


def _read_all(source):
    for index in range(len(source)):
        source[index]


@pytest.fixture
def to_stderr():
    """Shows warnings on standard error, as a spawned process does, which has no handler."""
    logger = logging.getLogger("generalist")
    logger.addHandler(logging.lastResort)
    yield
    logger.removeHandler(logging.lastResort)


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_files_that_workers_skip_are_counted_and_named_once_for_all(lol, capfd, to_stderr, start):
    for number in (1, 3):
        low(lol, number).write_bytes(b"broken")
    source = open_source("lol", "light", "test", lol, on_error="skip")
    assert source[0]["key"] == "2"
    workers = [
        multiprocessing.get_context(start).Process(target=_read_all, args=(source,))
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
        worker.join()  # one after the other: the second knows what the first said
    _read_all(source)
    assert list(source.damaged) == [str(low(lol, 1)), str(low(lol, 3))]
    assert "cannot be decoded (6 bytes" in source.damaged[str(low(lol, 3))]
    assert capfd.readouterr().err.count("skipped") == 2
    path = source._left_out._path
    assert os.path.exists(path)
    del source, workers, worker
    gc.collect()
    assert not os.path.exists(path)


def test_skip_ends_when_nothing_can_be_read(lol):
    source = open_source("lol", "light", "test", lol, on_error="skip")
    for number in range(1, 5):
        low(lol, number).unlink()
    with pytest.raises(LayoutError, match="none of the 4 examples of test can be read"):
        source[0]


def test_half_a_pair_is_an_error_or_left_out(lol, caplog):
    low(lol, 2).unlink()
    with pytest.raises(
        DataError, match=r"high/2\.png: has no image: none is named like '2'.*on_error=skip"
    ):
        open_source("lol", "light", "test", lol)
    source = open_source("lol", "light", "test", lol, on_error="skip")
    assert ([example["key"] for example in source], len(source.damaged)) == (["1", "3", "4"], 1)
    assert "high/2.png: has no image" in caplog.text


def test_two_files_of_one_name_are_an_error(lol):
    save(low(lol, 2).with_suffix(".jpg"), photo(3, 4))
    with pytest.raises(
        LayoutError, match=r"eval15/low/2\.(jpg|png): has the same name as .*Keep one"
    ):
        open_source("lol", "light", "test", lol)


def test_empty_absent_and_disjoint_folders_are_errors_with_the_layout(tmp_path):
    with pytest.raises(
        LayoutError, match=r"holds no folder light_enhance or LOLdataset(.|\n)*eval15/\{low,high\}"
    ):
        open_source("lol", "light", "test", tmp_path)
    (tmp_path / "light_enhance/eval15/low").mkdir(parents=True)
    with pytest.raises(
        LayoutError, match=r"eval15/low: holds no image \*\.(.|\n)*our485/\{low,high\}"
    ):
        open_source("lol", "light", "test", tmp_path)
    save(low(tmp_path, 1), photo(2, 2))
    with pytest.raises(LayoutError, match="eval15/high: no such folder"):
        open_source("lol", "light", "test", tmp_path)
    save(tmp_path / "light_enhance/eval15/high/2.png", photo(2, 2))
    with pytest.raises(LayoutError, match="no complete example of test"):
        open_source("lol", "light", "test", tmp_path, on_error="skip")


def test_unusual_count_is_printed_and_a_usual_one_is_not(tmp_path, caplog):
    save_pairs(tmp_path / "lol/eval15", "low", "high", [str(n) for n in range(14)], h=1, w=1)
    open_source("lol", "light", "test", tmp_path)
    assert "lol/test: 14 examples in" in caplog.text
    caplog.clear()
    save_pairs(tmp_path / "lol/eval15", "low", "high", ["14"], h=1, w=1)
    open_source("lol", "light", "test", tmp_path)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "dataset, task, split, on_error, message",
    [
        ("ade20", "semantic", "val", "raise", "unknown data set 'ade20'. Did you mean 'ade20k'?"),
        ("lol", "lights", "test", "raise", "unknown task of lol 'lights'. Did you mean 'light'?"),
        (
            "lol",
            "light",
            "tests",
            "raise",
            "split of lol 'tests'. Did you mean 'test'? Allowed: train, test, val, held_out.",
        ),
        (
            "lol",
            "light",
            "test",
            "skp",
            "unknown on_error 'skp'. Did you mean 'skip'? Allowed: raise, skip.",
        ),
    ],
)
def test_unknown_names_are_errors_with_the_closest_match(
    lol, dataset, task, split, on_error, message
):
    with pytest.raises(ValueError) as error:
        open_source(dataset, task, split, lol, on_error=on_error)
    assert message in str(error.value)


def test_every_task_of_the_paper_has_its_data_set():
    assert sources.DATASET_OF == {
        "depth": "nyu",
        "semantic": "ade20k",
        "coco_semantic": "coco",
        "instance": "coco",
        "panoptic": "coco",
        "denoise": "sidd",
        "derain": "rain13k",
        "light": "lol",
    }


def test_missing_lists_what_is_absent_where_it_comes_from_and_the_layout(tmp_path):
    for part in ("sync", "official_splits/test"):
        (tmp_path / "nyu_depth_v2" / part).mkdir(parents=True)
    (tmp_path / "light_enhance/our485/low").mkdir(parents=True)
    found = sources.missing(tmp_path, ["nyu", "lol", "sidd"])
    assert [dataset.name for dataset in found] == ["lol", "sidd"]
    assert found[0].absent == ("our485/high", "eval15/low", "eval15/high")
    assert found[1].folder == str(tmp_path / "sidd") and found[1].absent == ()
    text = sources.describe_missing(found, tmp_path)
    for part in (
        f"the data directory {tmp_path} is not complete. 2 data set(s)",
        "lacks our485/high, eval15/low, eval15/high",
        "light_enhance/eval15/{low,high}/<n>.png",
        "sidd not found",
        "daooshee.github.io",
        "www.eecs.yorku.ca",
    ):
        assert part in text
    assert "nyu" not in text.replace(str(tmp_path), "")


def test_describe_missing_says_when_there_is_no_data_directory_at_all(tmp_path):
    assert "GENERALIST_DATA_DIR" in sources.describe_missing(sources.missing(None), None)
    nowhere = tmp_path / "nowhere"
    text = sources.describe_missing(sources.missing(nowhere), nowhere)
    assert f"{nowhere} does not exist. 6 data set(s)" in text
    assert all(f"\n{name}: " in text for name in sources.SOURCES)
    assert sources.describe_missing([], tmp_path) == ""


def test_every_alternative_of_sidd_counts_as_present(tmp_path):
    (tmp_path / "denoise/SIDD_Medium_Srgb/Data").mkdir(parents=True)
    (tmp_path / "denoise/val").mkdir()
    for name in ("Noisy", "Gt"):
        (tmp_path / f"denoise/val/Validation{name}BlocksSrgb.mat").touch()
    assert sources.missing(tmp_path, ["sidd"]) == []
