"""`generalist data prepare`: examples come back bit for bit, an interruption costs one shard."""

import json
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys

import cv2
import h5py
import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from generalist import cli
from generalist.input_pipeline import prepare as prepares
from generalist.input_pipeline.check import check
from generalist.input_pipeline.prepare import open_original, prepare
from generalist.input_pipeline.sources import (
    SOURCES,
    DataError,
    LayoutError,
    find_prepared,
    missing,
    open_source,
)
from generalist.tasks import COCO_CATEGORIES

RNG = np.random.default_rng(0)


def photo(h=6, w=8):
    return RNG.integers(0, 256, (h, w, 3)).astype(np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels)).save(path, **options)


def save_nyu(root):
    """JPEG and 16-bit PNG to train on, the official .mat to test on."""
    for number in range(5):
        save(root / f"nyu_depth_v2/sync/room/rgb_{number:05d}.jpg", photo())
        save(
            root / f"nyu_depth_v2/sync/room/sync_depth_{number:05d}.png",
            RNG.integers(0, 10_000, (6, 8)).astype(np.uint16),
        )
    with h5py.File(root / "nyu_depth_v2/nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = RNG.integers(0, 256, (3, 3, 8, 6)).astype(np.uint8)
        file["rawDepths"] = RNG.random((3, 8, 6), np.float32) * 10
        file["name"] = np.array([[ord("a")]], np.uint16)
        file.create_dataset("sceneTypes", data=np.array([[file["name"].ref] * 3], h5py.ref_dtype))
    scipy.io.savemat(root / "nyu_depth_v2/splits.mat", {"testNdxs": np.array([[1], [3]])})


def save_ade(root):
    for split, name, count in (("training", "train", 5), ("validation", "val", 2)):
        for number in range(count):
            save(root / f"ade20k/images/{split}/ADE_{name}_{number}.jpg", photo())
            save(
                root / f"ade20k/annotations/{split}/ADE_{name}_{number}.png",
                RNG.integers(0, 151, (6, 8)).astype(np.uint8),
            )


def coco_segments(number):
    """Stuff, a thing and a crowd; every other image has no countable thing, and one nothing."""
    if number == 2:
        return np.zeros((2, 4), int), []
    thing = number % 2
    ids = np.array([[0, 5, 5, 70_000], [9, 9, 9, 9]])
    kinds = {5: (200, 0, 2), 70_000: (1 if thing else 199, 0, 1), 9: (1, 1, 4)}
    return ids, [
        {"id": n, "category_id": c, "iscrowd": crowd, "area": area}
        for n, (c, crowd, area) in kinds.items()
    ]


def save_coco(root):
    for split, count in (("train2017", 5), ("val2017", 2)):
        annotations = []
        for number in range(count):
            ids, segments = coco_segments(number)
            save(root / f"coco/{split}/{number:012d}.jpg", photo(*ids.shape))
            rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            save(root / f"coco/annotations/panoptic_{split}/{number:012d}.png", rgb)
            annotations.append(
                {"image_id": number, "file_name": f"{number:012d}.png", "segments_info": segments}
            )
        images = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in range(count)]
        (root / f"coco/annotations/panoptic_{split}.json").write_text(
            json.dumps(
                {"images": images, "annotations": annotations, "categories": COCO_CATEGORIES}
            )
        )


def save_sidd(root):
    """Full frames, of which crops are cut, and the blocks of the validation."""
    for kind in ("GT", "NOISY"):
        save(root / f"sidd/SIDD_Medium_Srgb/Data/0001_S6/0001_{kind}_SRGB_010.PNG", photo(30, 40))
        name = f"Validation{'Gt' if kind == 'GT' else 'Noisy'}BlocksSrgb"
        scipy.io.savemat(
            root / f"sidd/{name}.mat",
            {name: RNG.integers(0, 256, (1, 3, 4, 4, 3)).astype(np.uint8)},
        )


def save_rain(root):
    for folder in (
        "train",
        *(f"test/{name}" for name in ("Test100", "Rain100H", "Rain100L", "Test2800", "Test1200")),
    ):
        for half in ("input", "target"):
            save(root / f"derain/{folder}/{half}/1.bmp", photo())  # neither PNG nor JPEG
            save(root / f"derain/{folder}/{half}/2.jpg", photo())


def save_lol(root, count=5):
    for half in ("low", "high"):
        for number in range(count):
            save(root / f"lol/our485/{half}/{number}.png", photo())
        save(root / f"lol/eval15/{half}/1.png", photo())


@pytest.fixture
def small_shards(monkeypatch):
    """Two examples a shard, each compared."""
    monkeypatch.setattr(prepares, "SHARD", 2)
    monkeypatch.setattr(prepares, "EVERY", 1)


@pytest.mark.parametrize(
    "name, make, tasks, splits",
    [
        ("nyu", save_nyu, ["depth"], ["train", "test"]),
        ("ade20k", save_ade, ["semantic"], ["train", "val"]),
        ("coco", save_coco, ["coco_semantic", "instance", "panoptic"], ["train", "val"]),
        ("sidd", save_sidd, ["denoise"], ["val"]),
        ("rain13k", save_rain, ["derain"], ["train", "test"]),
        ("lol", save_lol, ["light"], ["train", "test"]),
    ],
)
def test_examples_come_back_bit_for_bit_for_every_task(
    tmp_path, small_shards, name, make, tasks, splits
):
    make(tmp_path / "data")
    for split in splits:
        prepare(open_original(name, split, tmp_path / "data"), tmp_path / "out")
    for task in tasks:
        for split in splits:
            original = open_source(name, task, split, tmp_path / "data")
            copy = pickle.loads(pickle.dumps(open_source(name, task, split, tmp_path / "out")))
            assert original.root.startswith(str(tmp_path / "data"))
            assert copy.root.startswith(str(tmp_path / "out"))
            assert len(copy) == len(original) > 0
            assert all(
                prepares.same(dict(copy[index]), dict(original[index]))
                for index in range(len(original))
            )
    absent = missing(tmp_path / "out", [name])
    assert [dataset.absent for dataset in absent] == ([("split train",)] if name == "sidd" else [])


@pytest.mark.parametrize(
    "name, make, split, files",
    [
        ("nyu", save_nyu, "train", 10),
        ("nyu", save_nyu, "test", 1),
        ("ade20k", save_ade, "val", 4),
        ("coco", save_coco, "val", 5),
        ("sidd", save_sidd, "val", 2),
        ("sidd", save_sidd, "train", 2),
        ("rain13k", save_rain, "test", 20),
        ("lol", save_lol, "test", 2),
    ],
)
def test_the_stamp_is_that_of_a_copy_and_changes_with_every_file(
    tmp_path, name, make, split, files
):
    """Figures of the truth and of trivial predictors are kept by it."""
    make(tmp_path / "data")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    source, copy = (SOURCES[name](tmp_path / root, split) for root in ("data", "copy"))
    paths = sorted({path for path in source.examples.paths() if os.path.isfile(path)})
    assert len(paths) == files and source.stamp() == copy.stamp()
    stamps = {source.stamp()}
    for path in paths:
        with open(path, "ab") as file:
            file.write(b"x")
        stamps.add(source.stamp())
    assert len(stamps) == 1 + files


def test_crops_of_full_frames_are_prepared_as_they_are_cut(tmp_path, small_shards):
    save_sidd(tmp_path)
    source = SOURCES["sidd"](tmp_path, "train", crops_per_frame=3)
    prepare(source, tmp_path / "out")
    copy = open_source("sidd", "denoise", "train", tmp_path / "out")
    assert [e["key"] for e in copy] == [e["key"] for e in source] and len(copy) == 3
    assert all(prepares.same(copy[index], source[index]) for index in range(3))


def test_files_are_stored_as_they_are(tmp_path):
    save_ade(tmp_path)
    prepare(open_original("ade20k", "val", tmp_path), tmp_path / "out")
    record = open_source("ade20k", None, "val", tmp_path / "out").examples.shards[1]
    assert record["image"] == (tmp_path / "ade20k/images/validation/ADE_val_1.jpg").read_bytes()
    assert (
        record["annotation"]
        == (tmp_path / "ade20k/annotations/validation/ADE_val_1.png").read_bytes()
    )


def test_tfds_reads_what_was_prepared_without_tensorflow(tmp_path, small_shards):
    loaded = "tensorflow" in sys.modules
    save_nyu(tmp_path)
    for split in ("train", "test", "labeled"):
        if split == "labeled":
            scipy.io.savemat(tmp_path / "nyu_depth_v2/splits.mat", {"trainNdxs": np.array([[2]])})
        prepare(open_original("nyu", split, tmp_path), tmp_path / "out")
    builder = tfds.builder_from_directory(tmp_path / "out/nyu/1.0.0")
    assert {name: info.num_examples for name, info in builder.info.splits.items()} == {
        "train": 5,
        "test": 2,
        "labeled": 1,
    }
    assert builder.info.splits["train"].shard_lengths == [2, 2, 1]
    source = builder.as_data_source("train")
    for number in range(5):
        example = source[number]
        assert example["key"] == f"room/{number:05d}".encode()
        depth = np.asarray(
            Image.open(tmp_path / f"nyu_depth_v2/sync/room/sync_depth_{number:05d}.png")
        )
        assert example["depth"].dtype == np.uint16
        np.testing.assert_array_equal(example["depth"][..., 0], depth)
    assert len(builder.as_data_source("train[:40%]")) == 2
    assert ("tensorflow" in sys.modules) == loaded


def test_one_example_of_50_and_the_last_are_compared_with_the_original(tmp_path, monkeypatch):
    save_lol(tmp_path, count=103)
    source = open_original("lol", "train", tmp_path)
    prepare(source, tmp_path / "out")
    (shard,), form, compared = (
        prepares.shard_paths(source, tmp_path / "out"),
        prepares.RecordForm("lol"),
        [],
    )
    read = source.read
    monkeypatch.setattr(source, "read", lambda row: compared.append(row) or read(row))
    assert prepares.flaw(shard, range(103), source, form) == "" and compared == [0, 50, 100, 102]
    for row in (50, 102):
        key, image, *_ = source.examples.locate(row)
        before = cv2.imread(image)
        save(tmp_path / "lol/our485/low" / f"{key}.png", photo())
        assert prepares.flaw(shard, range(103), source, form) == f"record {row} differs from {key}"
        cv2.imwrite(image, before)


def test_the_command_goes_on_where_it_was_interrupted_and_machines_share_the_work(
    tmp_path, small_shards, capsys, monkeypatch
):
    save_lol(tmp_path)
    command = [
        "data",
        "prepare",
        "lol",
        "--data-dir",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main([*command, "--split", "train", "--shards", "1:2"]) == 0
    assert (
        "2 shard(s) are still to be written, the first is lol-train.array_record-00000-of-00003"
        in capsys.readouterr().out
    )
    folder = tmp_path / "out/lol/1.0.0"
    assert not (folder / "dataset_info.json").exists()  # nothing reads a half
    second = folder / "lol-train.array_record-00001-of-00003"
    written = second.stat().st_mtime_ns

    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "lol/train: 5 examples in 3 shard(s), 1 of them finished before" in printed
        and second.stat().st_mtime_ns == written
    )
    assert sorted(tfds.builder_from_directory(folder).info.splits) == ["test", "train"]
    assert cli.main(command) == 0
    assert (
        "lol/train: 5 examples in 3 shard(s), 3 of them finished before" in capsys.readouterr().out
    )

    second.write_bytes(second.read_bytes()[:1000])
    save(tmp_path / "lol/our485/low/0.png", photo())  # changed after it was prepared
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert (
        "00001-of-00003: " in printed
        and "00000-of-00003: record 0 differs from 0; it is written again" in printed
    )
    assert "lol/train: 5 examples in 3 shard(s), 1 of them finished before" in printed
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]
    assert prepares.same(
        open_source("lol", None, "train", tmp_path / "out")[0],
        open_original("lol", "train", tmp_path)[0],
    )


def test_shards_of_another_number_do_not_stay_beside_the_new_ones(tmp_path, small_shards, caplog):
    save_lol(tmp_path)
    folder = tmp_path / "out/lol/1.0.0"
    caplog.set_level(logging.INFO, logger="generalist")
    prepare(open_original("lol", "train", tmp_path), tmp_path / "out")
    foreign = folder / "lol-train.array_record-00007-of-00009"  # which no metadata ever named
    foreign.write_bytes(b"x")
    for half in ("low", "high"):
        for number in (2, 3, 4):
            (tmp_path / f"lol/our485/{half}/{number}.png").unlink()
    prepare(open_original("lol", "train", tmp_path), tmp_path / "out")
    assert sorted(path.name for path in folder.glob("*array_record*")) == [
        "lol-train.array_record-00000-of-00001",
        foreign.name,
    ]
    assert [line for line in caplog.messages if "removed" in line] == [
        f"{folder}/lol-train.array_record-0000{index}-of-00003: removed, it was replaced"
        for index in range(3)
    ]
    assert (
        f"{foreign}: no shard of this data set, and nothing reads it: delete it" in caplog.messages
    )
    assert [example["key"] for example in open_source("lol", None, "train", tmp_path / "out")] == [
        "0",
        "1",
    ]


def test_a_full_disk_names_the_shard_and_loses_no_finished_one(tmp_path, small_shards, caplog):
    caplog.set_level(logging.INFO, logger="generalist")
    for half in ("low", "high"):
        for number in range(4):
            save(
                tmp_path / f"lol/our485/{half}/{number}.png",
                photo(4, 4) if number < 2 else photo(200, 200),
            )
    source, limits = (
        open_original("lol", "train", tmp_path),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        with pytest.raises(
            OSError,
            match=r"lol-train\.array_record-00001-of-00002: cannot be written "
            r".*run the command again",
        ) as error:
            prepare(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "File too large" in str(error.value)
    assert [path.name for path in (tmp_path / "out/lol/1.0.0").iterdir()] == [
        "lol-train.array_record-00000-of-00002"
    ]
    caplog.clear()
    prepare(source, tmp_path / "out")
    assert caplog.messages[0].endswith("1 of them finished before")
    assert len(open_source("lol", None, "train", tmp_path / "out")) == 4


def test_a_damaged_example_stops_with_its_name_and_keeps_the_finished_shards(
    tmp_path, small_shards, capsys
):
    save_lol(tmp_path)
    bad = tmp_path / "lol/our485/high/3.png"
    bad.write_bytes(bad.read_bytes()[:-30])
    # The one evaluation set has both names.
    assert open_original("lol", "val", tmp_path).split == "test"
    command = [
        "data",
        "prepare",
        "lol",
        "--data-dir",
        str(tmp_path),
        "--split",
        "train",
        "--out",
        str(tmp_path / "out"),
    ]
    assert cli.main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"{bad}: cannot be decoded" in error
        and "run the command again: finished shards are kept" in error
    )
    assert (tmp_path / "out/lol/1.0.0/lol-train.array_record-00000-of-00003").is_file()
    bad.unlink()
    assert cli.main(command) == 2
    assert f"{tmp_path}/lol/our485/low/3.png: has no label" in capsys.readouterr().err


def test_damaged_examples_are_named_and_left_out_where_asked(tmp_path, small_shards, capsys):
    save_lol(tmp_path)
    whole = open_original("lol", "train", tmp_path)
    expected = [whole[row] for row in (0, 2)]
    for name in ("low/1.png", "high/3.png"):
        bad = tmp_path / "lol/our485" / name
        bad.write_bytes(bad.read_bytes()[:-30])
    # Half a pair is noticed when the folder is opened, before anything is read.
    (tmp_path / "lol/our485/high/4.png").unlink()

    command = ["data", "prepare", "lol", "--data-dir", str(tmp_path), "--split", "train"]
    command += ["--out", str(tmp_path / "out"), "--skip-damaged"]
    assert cli.main(command) == 0
    said = "".join(capsys.readouterr())
    assert "lol/train: 2 of 4 examples are damaged and left out:" in said
    assert "our485/low/4.png: has no label" in said
    assert "our485/low/1.png: cannot be decoded" in said
    assert "our485/high/3.png: cannot be decoded" in said

    stored = open_source("lol", None, "train", tmp_path / "out", hold_out=False)
    assert [example["key"] for example in stored] == ["0", "2"]
    for example, original in zip(stored, expected, strict=True):
        np.testing.assert_array_equal(example["image"], original["image"])
        np.testing.assert_array_equal(example["label"], original["label"])


def test_a_split_of_damaged_examples_alone_is_refused(tmp_path, capsys):
    save_lol(tmp_path, count=1)
    (tmp_path / "lol/our485/low/0.png").write_bytes(b"no picture")
    command = ["data", "prepare", "lol", "--data-dir", str(tmp_path), "--split", "train"]
    assert cli.main([*command, "--out", str(tmp_path / "out"), "--skip-damaged"]) == 2
    assert f"lol/train in {tmp_path}/lol has no example to prepare" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["lo"], "Did you mean 'lol'"),
        (["lol", "--split", "tran"], "Did you mean 'train'"),
        (["lol", "--shards", "0:1"], "give --split"),
        (["lol", "--split", "train", "--shards", "4:9"], "lol/train has the shards 0:3"),
        (["lol", "--workers", "0"], "--workers 0: at least 1"),
        (["ade20k"], "holds no folder ade20k"),
    ],
)
def test_mistakes_are_one_line(tmp_path, small_shards, capsys, arguments, said):
    save_lol(tmp_path)
    assert (
        cli.main(
            [
                "data",
                "prepare",
                *arguments,
                "--data-dir",
                str(tmp_path),
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 2
    )
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_every_process_opens_the_shards_for_itself(tmp_path, monkeypatch):
    save_lol(tmp_path)
    prepare(open_original("lol", "train", tmp_path), tmp_path / "out")
    source = open_source("lol", None, "train", tmp_path / "out")
    opened = []
    for process in (1, 1, 2):  # as after a fork, which copies what is open
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        source[0]
        opened.append(prepares.open_records.cache_info().misses)
    assert opened[0] == opened[1] == opened[2] - 1


def test_a_prepared_set_reads_in_spawned_processes_and_names_damage(tmp_path, small_shards):
    save_lol(tmp_path)
    prepare(open_original("lol", "train", tmp_path), tmp_path / "out")
    source = open_source("lol", None, "train", tmp_path / "out")
    code = (
        "import pickle, sys; s = pickle.load(sys.stdin.buffer); "
        "print([int(s[i]['label'].sum()) for i in range(5)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(source), capture_output=True, check=True
    )
    assert json.loads(done.stdout) == [int(source[index]["label"].sum()) for index in range(5)]
    shard = tmp_path / "out/lol/1.0.0/lol-train.array_record-00002-of-00003"
    shard.write_bytes(b"x" * 100)
    prepares.open_records.cache_clear()
    split = check(tmp_path / "out", ["lol"]).splits[0]
    assert split.read == 4 and "lol/1.0.0 (train, row 4): cannot be read" in split.problems[0]
    (tmp_path / "out/lol/1.0.0/dataset_info.json").write_text("{")
    with pytest.raises(LayoutError, match=r"dataset_info\.json: cannot be read \(JSONDecodeError"):
        open_source("lol", None, "train", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("dataset_info", None, r"cannot be read \(ValueError: longer than 64 MiB"),
        ("dataset_info", "[" * 100_000, r"cannot be read \(RecursionError"),
        ("features", None, r"cannot be read \(ValueError: longer than 64 MiB"),
        ("subsets-train", None, r"cannot be read \(ValueError: longer than 64 MiB"),
        ("subsets-train", "[1]", r"cannot be read \(AttributeError"),
        ("subsets-train", '{"held_out": [0, 5]}', r"names rows that are not in 0\.\.4"),
    ],
)
def test_what_lies_beside_the_shards_is_bounded_and_checked(tmp_path, name, content, said):
    save_lol(tmp_path)
    prepare(open_original("lol", "train", tmp_path), tmp_path / "out")
    path = tmp_path / f"out/lol/1.0.0/{name}.json"
    if content is None:
        with open(path, "wb") as file:
            file.truncate(2**26 + 1)
    else:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(LayoutError, match=said):
        open_source("lol", None, "train", tmp_path / "out")[0]


def test_shards_go_to_a_bucket_whole_and_are_kept_there(tmp_path, small_shards, bucket, caplog):
    caplog.set_level(logging.INFO, logger="generalist")
    save_lol(tmp_path)
    for _ in range(2):
        prepare(open_original("lol", "train", tmp_path), "gs://bucket/out")
    finished = [line for line in caplog.messages if "finished before" in line]
    assert finished[0].endswith("0 of them finished before")
    assert finished[1].endswith("3 of them finished before")
    local = tmp_path / "copy/lol/1.0.0"
    local.mkdir(parents=True)
    for path in bucket.ls("/bucket/out/lol/1.0.0", detail=False):
        (local / path.rpartition("/")[2]).write_bytes(bucket.cat(path))
    copy, original = (
        open_source("lol", None, "train", tmp_path / "copy"),
        open_source("lol", None, "train", tmp_path),
    )
    assert all(prepares.same(copy[index], original[index]) for index in range(5))


def test_prepared_shards_are_read_from_the_bucket(tmp_path, small_shards, served_bucket):
    save_nyu(tmp_path)
    prepare(open_original("nyu", "train", tmp_path), "gs://bucket/out")
    remote, original = (
        open_source("nyu", None, "train", "gs://bucket/out"),
        open_source("nyu", None, "train", tmp_path),
    )
    assert remote.root == "gs://bucket/out/nyu/1.0.0" and len(remote) == 5
    assert all(prepares.same(remote[index], original[index]) for index in (4, 0, 2))
    asked = {path for path in served_bucket.asked if "array_record" in path}
    assert asked == {
        f"/storage/v1/b/bucket/o/out/nyu/1.0.0/nyu-train.array_record-0000{index}-of-00003"
        for index in (0, 1, 2)
    }
    served_bucket.rm("/bucket/out/nyu/1.0.0/nyu-train.array_record-00001-of-00003")
    prepares.open_records.cache_clear()
    with pytest.raises(
        DataError, match=r"gs://bucket/out/nyu/1.0.0 \(train, row 3\): cannot be read"
    ):
        open_source("nyu", None, "train", "gs://bucket/out")[3]


def test_a_bucket_that_array_record_cannot_read_is_named(tmp_path, small_shards):
    with pytest.raises(
        LayoutError,
        match="s3://bucket/lol: is no folder that ArrayRecord reads. Give one of this machine or gs://",
    ):
        prepares.open_records("s3://bucket/lol", "train", 1)


# The TFDS catalog's own forms, by builders with exactly its features.


def png(pixels):
    return cv2.imencode(
        ".png", np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    )[1].tobytes()


def catalog(name, version, features, examples, root, config=None, file_format="array_record"):
    """Writes a TFDS data set {split: [example]} as its builder in the catalog would."""

    def info(self):
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features))

    members = {
        "VERSION": tfds.core.Version(version),
        "_info": info,
        "name": name,
        "__module__": __name__,
        "code_path": None,
        "_split_generators": lambda self, _: {
            split: self._generate_examples(split) for split in examples
        },
        "_generate_examples": lambda self, split: enumerate(examples[split]),
    }
    if config:
        members["BUILDER_CONFIGS"] = [
            tfds.core.BuilderConfig(name=config, version=tfds.core.Version(version))
        ]
    builder = type("Builder", (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)
    builder(data_dir=root, file_format=file_format).download_and_prepare()


def by_image(source):
    """{image bytes: example}: TFDS shuffles what it writes."""
    return {example["image"].tobytes(): example for example in source}


def test_nyu_of_the_tfds_catalog(tmp_path):
    image, depth = (
        tfds.features.Image(shape=(480, 640, 3)),
        tfds.features.Tensor(shape=(480, 640), dtype=np.float16),
    )
    pictures = [photo(480, 640) for _ in range(3)]
    depths = [(RNG.random((480, 640)) * 10).astype(np.float16) for _ in range(3)]
    examples = [
        {"image": png(picture), "depth": meters}
        for picture, meters in zip(pictures, depths, strict=True)
    ]
    catalog(
        "nyu_depth_v2",
        "0.0.1",
        {"image": image, "depth": depth},
        {"train": examples[:2], "validation": examples[2:]},
        tmp_path,
    )
    train, test = (open_source("nyu", "depth", split, tmp_path) for split in ("train", "test"))
    assert (len(train), len(test), test[0]["key"], test[0]["label"].dtype) == (
        2,
        1,
        "0",
        np.float32,
    )
    np.testing.assert_array_equal(test[0]["label"], depths[2].astype(np.float32))
    found = by_image(train)
    for picture, meters in zip(pictures[:2], depths[:2], strict=True):
        np.testing.assert_array_equal(found[picture.tobytes()]["label"], meters.astype(np.float32))
    assert missing(tmp_path, ["nyu"]) == []


def test_scene_parse150_of_the_tfds_catalog(tmp_path):
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "annotation": tfds.features.Image(encoding_format="png"),
    }
    save_ade(tmp_path / "files")
    folder = tmp_path / "files/ade20k"
    examples = {
        ours: [
            {"image": str(folder / f"images/{split}/{path.stem}.jpg"), "annotation": str(path)}
            for path in sorted((folder / f"annotations/{split}").iterdir())
        ]
        for ours, split in (("train", "training"), ("test", "validation"))
    }
    catalog("scene_parse150", "1.0.0", features, examples, tmp_path)
    for split in ("train", "val"):
        copy = by_image(open_source("ade20k", "semantic", split, tmp_path))
        original = by_image(open_source("ade20k", "semantic", split, tmp_path / "files"))
        assert copy.keys() == original.keys()
        for key, example in original.items():
            np.testing.assert_array_equal(copy[key]["label"], example["label"])


def test_the_newest_version_of_the_tfds_catalog_is_that_of_the_largest_number(tmp_path):
    for name in ("9.0.0", "10.0.0", "2.11.0", "11.0.0.incompleteAB12"):
        folder = tmp_path / "scene_parse150" / name
        folder.mkdir(parents=True)
        if "incomplete" not in name:  # TFDS writes its metadata last
            (folder / "dataset_info.json").write_text(
                json.dumps({"splits": [{"name": "train", "shardLengths": ["3"]}]})
            )

    def find():
        return os.path.basename(find_prepared(SOURCES["ade20k"], tmp_path, "train").folder)

    assert find() == "10.0.0"
    (tmp_path / "scene_parse150/10.0.0/dataset_info.json").unlink()
    assert find() == "9.0.0"


def test_coco_panoptic_of_the_tfds_catalog(tmp_path):
    feature = tfds.features
    features = {
        "image": feature.Image(encoding_format="jpeg"),
        "image/filename": feature.Text(),
        "image/id": np.int64,
        "panoptic_image": feature.Image(encoding_format="png"),
        "panoptic_image/filename": feature.Text(),
        "panoptic_objects": feature.Sequence(
            {
                "id": np.int64,
                "area": np.int64,
                "bbox": feature.BBoxFeature(),
                "label": feature.ClassLabel(num_classes=133),
                "is_crowd": np.bool_,
            }
        ),
    }
    save_coco(tmp_path / "files")
    position = {category["id"]: index for index, category in enumerate(COCO_CATEGORIES)}

    def example(split, number):
        name = f"{number:012d}"
        _, segments = coco_segments(number)
        objects = [
            {
                "id": s["id"],
                "area": s["area"],
                "bbox": feature.BBox(0.0, 0.0, 1.0, 1.0),
                "label": position[s["category_id"]],
                "is_crowd": bool(s["iscrowd"]),
            }
            for s in segments
        ]
        return {
            "image": str(tmp_path / f"files/coco/{split}/{name}.jpg"),
            "image/filename": f"{name}.jpg",
            "image/id": number,
            "panoptic_image": str(tmp_path / f"files/coco/annotations/panoptic_{split}/{name}.png"),
            "panoptic_image/filename": f"{name}.png",
            "panoptic_objects": objects,
        }

    examples = {
        "train": [example("train2017", n) for n in range(5)],
        "validation": [example("val2017", n) for n in range(2)],
    }
    catalog("coco", "1.1.0", features, examples, tmp_path, config="2017_panoptic")
    for task in ("coco_semantic", "instance", "panoptic"):
        for split in ("train", "val"):
            copy = {e["key"]: e for e in open_source("coco", task, split, tmp_path)}
            original = list(open_source("coco", task, split, tmp_path / "files"))
            assert all(prepares.same(copy[e["key"]], e) for e in original)
            # The catalog does not say which images have no thing.
            assert len(copy) == {"train": 5, "val": 2}[split]


def test_a_tfds_folder_of_another_format_is_named(tmp_path):
    features = {"image": tfds.features.Image(), "annotation": tfds.features.Image()}
    examples = {
        split: [{"image": png(photo()), "annotation": png(photo())}] for split in ("train", "test")
    }
    catalog("scene_parse150", "1.0.0", features, examples, tmp_path)
    info = tmp_path / "scene_parse150/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(
        LayoutError, match=r"scene_parse150/1\.0\.0: cannot be read .*file_format='array_record'"
    ):
        open_source("ade20k", "semantic", "val", tmp_path)[0]


def test_a_tfds_folder_with_other_features_is_named(tmp_path):
    examples = {split: [{"image": png(photo()), "label": 3}] for split in ("train", "test")}
    catalog(
        "scene_parse150",
        "1.0.0",
        {"image": tfds.features.Image(), "label": np.int64},
        examples,
        tmp_path,
    )
    with pytest.raises(
        LayoutError,
        match=r"scene_parse150/1\.0\.0: its examples have no feature 'annotation'\. "
        r"They have image, label",
    ):
        open_source("ade20k", "semantic", "val", tmp_path)[0]
