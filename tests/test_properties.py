"""Promises that hold for whatever hypothesis makes up: readers, codecs, metrics, command lines."""

import io
import math
import pathlib
import tempfile

import cv2
import numpy as np
import pytest
import scipy.io
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from generalist.inference.images import ImageError, read_image
from generalist.input_pipeline.scenes.source import panoptic_label
from generalist.input_pipeline.sources import matlab
from generalist.input_pipeline.sources.files import DataError, Stored, read_map, read_numbers
from generalist.input_pipeline.sources.folder import Folder
from generalist.metrics.segmentation import SegmentationMetric
from generalist.tasks import SCENES_TASKS, TASKS, Restoration, Semantic
from generalist.training.flags import parse

# The same examples in every run, however slow the machine.
settings.register_profile("tests", derandomize=True, deadline=None, max_examples=40, database=None)
settings.load_profile("tests")

SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))
IMAGES = arrays.arrays(np.uint8, st.tuples(st.integers(1, 24), st.integers(1, 24), st.just(3)))


def photo(seed: int, height: int = 20, width: int = 24) -> np.ndarray:
    """A picture whose pixels all differ, so that a lost part cannot look like the whole."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def file_of(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# Readers ------------------------------------------------------------------------------------------


@given(arrays.arrays(st.sampled_from([np.uint8, np.uint16]), SIZES))
def test_the_stored_number_is_the_label(ids):
    stored = Stored("a.png", cv2.imencode(".png", ids)[1].tobytes())
    np.testing.assert_array_equal(read_map(stored, ids.dtype.type, "A label"), ids)


@given(arrays.arrays(np.uint8, SIZES), st.integers(1, 8), st.binary(min_size=768, max_size=768))
def test_the_stored_number_is_the_label_whatever_the_palette_and_the_bits(ids, bits, palette):
    ids &= 2**bits - 1
    image = Image.fromarray(ids)
    image.putpalette(palette)
    stored = Stored("a.png", file_of(image, "PNG", bits=bits if bits in (1, 2, 4) else 8))
    np.testing.assert_array_equal(read_numbers(stored), ids)


@given(
    st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]),
    st.integers(0, 9),
    st.floats(0, 1, exclude_max=True),
)
def test_a_photograph_is_whole_or_refused(kind, seed, part):
    data = file_of(Image.fromarray(photo(seed)), kind)
    cut = data[: int(part * len(data))]
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "whole"
        whole.write_bytes(data)
        short = pathlib.Path(folder) / "short"
        short.write_bytes(cut)
        try:
            read = read_image(short)
        except ImageError as error:
            assert str(error).startswith(f"{short}: ")
        else:
            # What was lost lies behind the pixels.
            np.testing.assert_array_equal(read, read_image(whole))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_file_are_one_error(data):
    stored = Stored("a.png", data)
    with pytest.raises(DataError, match=r"^a\.png: "):
        read_numbers(stored)


@given(
    st.sampled_from(["u1", "i2", "u4", "i8", "f4", "f8"]).flatmap(
        lambda kind: arrays.arrays(kind, arrays.array_shapes(min_dims=2, max_dims=5, max_side=4))
    ),
    st.booleans(),
)
def test_an_array_of_matlab_is_what_was_saved(array, compressed):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.mat"
        scipy.io.savemat(path, {"before": np.ones(3), "a": array}, do_compression=compressed)
        read = matlab.read_variable(str(path), "a")
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@given(st.dictionaries(st.integers(0, 2**16 - 1), st.integers(0, 5), min_size=1, max_size=5))
def test_an_id_is_its_class_or_named(known):
    """The definition of own data: each id has a class; every other one is refused."""
    ids = list(known)
    kinds = {"kind": "classes", "classes": [(f"class {id_}", id_) for id_ in ids]}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        for name in ("images", "labels"):
            (root / "train" / name).mkdir(parents=True)
        label = np.array([ids], np.uint16)
        cv2.imwrite(str(root / "train/labels/a.png"), label)
        Image.fromarray(photo(0, 1, len(ids))).save(root / "train/images/a.png")
        read = Folder(root, "train", "own", kinds)[0]["label"]
        np.testing.assert_array_equal(read, [range(len(ids))])

        strange = next(number for number in range(2**16) if number not in known)
        cv2.imwrite(str(root / "train/labels/a.png"), np.full_like(label, strange))
        with pytest.raises(DataError, match=rf"a\.png: id {strange} is no class"):
            Folder(root, "train", "own", kinds)[0]


# Codecs -------------------------------------------------------------------------------------------

SEMANTIC = {
    f"{name}/{task.name}": task
    for name, tasks in {"paper": TASKS, "scenes": SCENES_TASKS}.items()
    for task in tasks.values()
    if isinstance(task, Semantic)
}


@pytest.mark.parametrize("task", SEMANTIC.values(), ids=SEMANTIC)
@given(seed=st.integers(0, 2**32 - 1), size=SIZES, void=st.floats(0, 1))
@settings(max_examples=15)
def test_classes_come_back(task, seed, size, void):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(task.classes), size).astype(np.int32)
    label[rng.random(size) < void] = -1
    target = task.encode(label, size)
    classes = task.decode(target.rgb).classes
    valid = label >= 0
    np.testing.assert_array_equal(target.mask[..., 0], valid)
    np.testing.assert_array_equal(classes[valid], label[valid])
    # Half a level of noise changes no class.
    noisy = target.rgb + rng.uniform(-0.5, 0.5, target.rgb.shape).astype(np.float32) / 127.5
    np.testing.assert_array_equal(task.decode(noisy).classes[valid], label[valid])


@pytest.mark.parametrize("task", [TASKS["depth"], SCENES_TASKS["depth"]], ids=["paper", "scenes"])
@given(depth=arrays.arrays(np.float32, SIZES, elements=st.floats(0, 10, width=32)))
def test_meters_come_back(task, depth):
    target = task.encode(depth, depth.shape)
    valid = target.mask[..., 0] > 0
    assert not valid[depth == 0].any()
    np.testing.assert_allclose(task.decode(target.rgb).depth[valid], depth[valid], atol=1e-5)


@given(IMAGES)
def test_pictures_come_back(image):
    for task in (*TASKS.values(), *SCENES_TASKS.values()):
        if isinstance(task, Restoration):
            target = task.encode(image, image.shape[:2])
            np.testing.assert_array_equal(task.decode(target.rgb).image, image)


@given(SIZES, st.integers(0, 2**32 - 1), st.lists(st.integers(1, 40), max_size=12))
@settings(max_examples=15)
def test_an_instance_lies_in_its_mask(size, seed, ids):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, *ids], size).astype(np.int32)
    for task in (TASKS["instance"], SCENES_TASKS["instance"]):
        found = task.decode(task.encode(label, size).rgb)
        assert found.instances.shape == size and found.instances.max() <= len(found.masks)
        for index, mask in enumerate(found.masks):
            assert mask[found.instances == index + 1].all()
        assert (np.diff(found.scores) <= 0).all()


# Metrics ------------------------------------------------------------------------------------------


def examples_of(name: str, seed: int, count: int) -> list[tuple]:
    """Pairs of a prediction and a label, as the official metric of a task of the scenes takes."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        classes = rng.integers(-1, 16, (2, 6, 7)).astype(np.int32)
        instances = rng.integers(0, 4, (2, 6, 7)).astype(np.int32)
        if name == "depth":
            pairs.append(tuple(rng.uniform(0.5, 9, (2, 6, 7)).astype(np.float32)))
        elif name == "semantic":
            pairs.append((np.maximum(classes[0], 0), classes[1]))
        elif name == "instance":
            pairs.append(tuple(instances))
        elif name == "panoptic":
            pairs.append(tuple(map(panoptic_label, np.maximum(classes, 0), 0 * instances)))
        else:
            pairs.append(tuple(rng.integers(0, 256, (2, 16, 16, 3), np.uint8)))
    return pairs


@pytest.mark.parametrize("name", SCENES_TASKS)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), count=st.integers(1, 6))
@settings(max_examples=10)
def test_figures_do_not_depend_on_who_saw_which_image(name, data, seed, count):
    pairs = examples_of(name, seed, count)
    owners = data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    whole = SCENES_TASKS[name].metric()
    parts = [SCENES_TASKS[name].metric() for _ in range(3)]
    for pair, owner in zip(pairs, owners, strict=True):
        whole.update(*pair)
        parts[owner].update(*pair)

    first, second, third = parts
    merged = third.merge(first).merge(second).compute()
    assert repr(merged) == repr(whole.compute())  # nan equals nan here


@given(st.integers(2, 9), st.integers(0, 2**32 - 1), SIZES)
def test_what_is_right_has_the_best_figure_and_void_counts_nothing(count, seed, size):
    rng = np.random.default_rng(seed)
    label = rng.integers(-1, count, size).astype(np.int32)
    assume((label >= 0).any())
    metric = SegmentationMetric(count)
    prediction = np.where(label < 0, rng.integers(0, count, size), label).astype(np.int32)
    metric.update(prediction, label)
    assert metric.compute()["miou"] == 1.0

    # One wrong pixel, and it is not.
    row, column = np.argwhere(label >= 0)[0]
    prediction[row, column] = (label[row, column] + 1) % count
    worse = SegmentationMetric(count)
    worse.update(prediction, label)
    assert 0 <= worse.compute()["miou"] < 1.0


@given(IMAGES, st.integers(1, 40))
def test_the_unit_of_psnr(image, shift):
    assume(image.shape[0] >= 11 and image.shape[1] >= 11)
    low = image // 2
    metric = SCENES_TASKS["denoise"].metric()
    metric.update(low + np.uint8(shift), low)
    expected = 20 * math.log10(255 / shift)
    assert math.isclose(metric.compute()["psnr"], expected, rel_tol=1e-6)


# Command lines ------------------------------------------------------------------------------------

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
FLAGS = st.sampled_from(
    ["--config", "--workdir", "--mode", "--config.seed", "--config.optimizer.lr", "--config.x"]
)


@given(st.lists(st.one_of(WORDS, FLAGS, st.tuples(FLAGS, WORDS).map("=".join)), max_size=5))
def test_every_word_is_used_or_refused(words):
    try:
        values = parse(["main.py", "--config=configs/multitask.py:tiny", *words])
    except ValueError as error:
        assert str(error)
    else:
        # Nothing that was given is forgotten: no word but a flag or its value is taken.
        assert len(words) <= 2 * len([word for word in words if word.startswith("-")])
        assert values.config.total_steps == 20


@given(st.integers(0, 2**31 - 1), st.floats(1e-9, 1e3))
@settings(max_examples=10)
def test_a_value_behind_a_space_is_that_behind_the_sign(seed, rate):
    base = ["main.py", "--config=configs/multitask.py:tiny"]
    words = {"--config.seed": str(seed), "--config.optimizer.lr": repr(rate)}
    by_sign = parse([*base, *(f"{flag}={value}" for flag, value in words.items())])
    by_space = parse([*base, *(word for pair in words.items() for word in pair)])
    assert by_sign == by_space
    assert (by_space.config.seed, by_space.config.optimizer.lr) == (seed, rate)
