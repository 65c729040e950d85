"""Batches are a pure function of (seed, step), whoever reads them."""

import dataclasses
import functools
import itertools
import threading

import numpy as np
import pytest

from generalist.input_pipeline.loader import Encode, training_batches
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.source import cut
from generalist.models.text_encoder import tokenize
from generalist.tasks import SCENES_TASKS, get_tasks
from generalist.tasks.arrays import resize_image

TASKS = get_tasks("scenes", ["denoise", "derain", "light"])
WEIGHTS = {"denoise": 3.0, "derain": 2.0, "light": 1.0}
LENGTHS = {"denoise": 40, "derain": 7, "light": 30}


class Numbered:
    """Images of one gray level, the index: a picture says which example it is."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.read(i)

    def read(self, i, window=None):
        image = np.full((4, 4, 3), i, np.uint8)
        return cut({"image": image, "label": image, "key": str(i)}, window)


SOURCES = {name: Numbered(length) for name, length in LENGTHS.items()}


def batches(count, **changes):
    settings = {
        "seed": 0,
        "batch_size": 6,
        "image_size": 4,
        "target_size": 2,
        "threads": 2,
        "prefetch": 2,
    } | changes
    return list(
        itertools.islice(
            training_batches(SOURCES, TASKS, settings.pop("weights", WEIGHTS), **settings), count
        )
    )


def order(found):
    """(task, example) of every sample, in order."""
    return [
        (int(t), int(i))
        for batch in found
        for t, i in zip(batch["task"], batch["image"][:, 0, 0, 0], strict=True)
    ]


@pytest.fixture(scope="module")
def ten():
    return batches(10)


def test_batches_have_the_contracts_shapes_and_types(ten):
    shapes = {name: (value.shape, value.dtype) for name, value in ten[0].items()}
    assert shapes == {
        "image": ((6, 4, 4, 3), np.uint8),
        "picture": ((6, 2, 2, 3), np.uint8),
        "target": ((6, 2, 2, 3), np.float32),
        "mask": ((6, 2, 2, 1), np.float32),
        "task": ((6,), np.int32),
    }


def test_starting_later_equals_skipping(ten):
    for ours, expected in zip(batches(3, first_step=3), ten[3:6], strict=True):
        for name, value in expected.items():
            np.testing.assert_array_equal(ours[name], value)


def test_threads_and_prefetch_do_not_matter(ten):
    assert order(batches(10, threads=0, prefetch=1)) == order(ten)


class Together(Numbered):
    """Its first reads wait for each other, until as many threads as are expected read at once."""

    def __init__(self, length, threads):
        super().__init__(length)
        self.met = threading.Event()
        self.lock = threading.Lock()
        self.threads = threads
        self.now = 0

    def read(self, i, window=None):
        with self.lock:
            self.now += 1
            if self.now == self.threads:
                self.met.set()
        self.met.wait(5)
        with self.lock:
            self.now -= 1
        return super().read(i, window)


def test_all_threads_read_the_examples_of_one_batch():
    source = Together(64, threads=8)
    settings = {"batch_size": 16, "image_size": 4, "target_size": 2, "seed": 0}
    tasks = {"light": TASKS["light"]}
    next(
        training_batches(
            {"light": source}, tasks, {"light": 1.0}, **settings, threads=8, prefetch=1
        )
    )
    assert source.met.is_set()


def test_worker_processes_make_the_batches_of_threads_from_any_step_on():
    tasks = get_tasks("scenes", ["depth", "denoise"])
    sources = {name: ScenesSource(name, "train", 8, 16) for name in tasks}
    augment = {
        "tasks": tuple(tasks),
        "scale": (0.5, 1),
        "ratio": (1, 1),
        "native": 0.5,
        "flip": 0.5,
        "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
        "jitter_probability": 0.8,
    }
    settings = {
        "seed": 0,
        "batch_size": 2,
        "image_size": 16,
        "target_size": 16,
        "augment": augment,
        "prefetch": 1,
    }
    settings |= {"sources": sources, "tasks": tasks, "weights": {"depth": 1, "denoise": 2}}
    in_threads = training_batches(**settings, first_step=1)
    in_workers = training_batches(**settings, first_step=1, workers=2, threads=1)
    for other, ours in itertools.islice(zip(in_threads, in_workers, strict=True), 4):
        for name, value in other.items():
            np.testing.assert_array_equal(ours[name], value)


def test_seeds_give_other_orders_of_the_same_tasks(ten):
    other = batches(10, seed=1)
    assert [t for t, _ in order(other)] == [t for t, _ in order(ten)]
    assert order(other) != order(ten)


def test_the_rows_of_two_processes_make_the_batch_of_one(ten):
    rows = [[0, 1, 4], [2, 3, 5]]  # as a mesh of a pod deals them out: not one behind the other
    parts = [batches(10, rows=r) for r in rows]
    for whole, *halves in zip(ten, *parts, strict=True):
        for name, values in whole.items():
            for part, r in zip(halves, rows, strict=True):
                np.testing.assert_array_equal(part[name], values[r])


def test_shares_are_exact(ten):
    """Sixty samples in the ratio 3 : 2 : 1."""
    np.testing.assert_array_equal(np.bincount([t for t, _ in order(ten)]), [30, 20, 10])


def test_an_epoch_has_every_example_once_and_the_next_another_order(ten):
    derain = [i for t, i in order(ten) if t == 1][:14]  # two epochs of seven
    assert sorted(derain[:7]) == sorted(derain[7:]) == list(range(7))
    assert derain[:7] != derain[7:]


def test_a_task_without_weight_keeps_its_place_in_the_index():
    found = batches(3, weights={"denoise": 0.0, "light": 1.0})
    assert {t for t, _ in order(found)} == {2}


def test_targets_are_the_tasks_encoding():
    rng = np.random.default_rng(0)
    task = get_tasks("scenes", ["depth"])["depth"]
    depth = np.where(rng.random((8, 8)) < 0.3, 0, rng.uniform(1, 9, (8, 8))).astype(np.float32)
    image = rng.integers(0, 256, (8, 8, 3), np.uint8)
    sample = Encode(task, 4, image_size=8, target_size=4)(
        {"image": image, "label": depth, "key": "0"}
    )
    target = task.encode(depth, 4)
    np.testing.assert_array_equal(sample["target"], target.rgb)
    np.testing.assert_array_equal(sample["mask"], target.mask)
    assert sample["image"] is image
    np.testing.assert_array_equal(sample["picture"], resize_image(image, (4, 4)))
    assert sample["task"] == 4 and sample["task"].dtype == np.int32


def test_a_picture_of_the_targets_size_reaches_the_network_as_it_is_stored():
    """Enlarged for the encoder and reduced again, it would lose its finest octave."""
    stored = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    encode = Encode(SCENES_TASKS["denoise"], 0, image_size=16, target_size=8)
    sample = encode({"image": stored, "label": stored, "key": "0"})
    assert sample["image"].shape == (16, 16, 3)
    np.testing.assert_array_equal(sample["picture"], stored)


def test_shrinking_averages_areas_and_rounds():
    image = np.zeros((4, 2, 3), np.uint8)
    image[:2] = [[[0, 10, 255]] * 2, [[1, 11, 255]] * 2]  # means 0.5, 10.5 and 255; halves go up
    square = resize_image(image, (2, 2))
    np.testing.assert_array_equal(square, resize_image(image.copy(), (2, 2)))
    np.testing.assert_array_equal(resize_image(image[:2], (1, 1)), [[[1, 11, 255]]])
    assert square.shape == (2, 2, 3) and square.dtype == np.uint8


def test_enlarging_does_not_wrap_around_where_bicubic_overshoots():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = 255
    larger = resize_image(image, (9, 9))
    assert larger[0, 0, 0] == 0 and larger[0, -1, 0] == 255
    assert (np.diff(larger[4, :, 0].astype(int)) >= 0).all()


class Captioned(Numbered):
    """Every third image has no caption; those of the others are one word, or four."""

    def read(self, i, window=None):
        words = {0: {}, 1: {"prompt": "one"}, 2: {"prompt": "one two three four"}}[i % 3]
        return super().read(i, window) | words


def test_examples_bring_their_prompts_and_the_others_carry_their_tasks(caplog):
    tasks = {
        "derain": dataclasses.replace(TASKS["derain"], own_prompts=True, prompt="rain"),
        "light": dataclasses.replace(TASKS["light"], prompt="lamp"),
    }
    sources = {"derain": Captioned(6), "light": Captioned(6)}
    settings = {"seed": 0, "batch_size": 4, "image_size": 4, "target_size": 2}
    tokenizer = functools.partial(tokenize, length=3)
    given = training_batches(
        sources, tasks, {"derain": 1.0, "light": 1.0}, **settings, tokenizer=tokenizer
    )
    found = set()
    for batch in itertools.islice(given, 6):
        assert batch["prompt_ids"].shape == (4, 3) and batch["prompt_ids"].dtype == np.int32
        for (task, i), ids in zip(order([batch]), batch["prompt_ids"].tolist(), strict=True):
            found.add((task, i % 3 if task == 0 else "any", tuple(ids)))
    texts = {(0, 0): "rain", (0, 1): "one", (0, 2): "one two three", (1, "any"): "lamp"}
    assert found == {(*key, *map(tuple, tokenizer([text]))) for key, text in texts.items()}
    assert caplog.messages == [
        "prompt 'one two three four' has 4 words, at most 3 are allowed. Its end is cut off, as "
        "are those of all longer ones"
    ]
