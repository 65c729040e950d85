"""What is read for an evaluation: by threads, once for COCO's three tasks, each row by one process.

What several processes do together is in tests/integration/test_multi_process.py.
"""

import os
import threading

import jax
import numpy as np
import pytest
from evaluation import make_coco

from generalist.evaluation.batches import Rows, batches
from generalist.evaluation.data import read
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources import DataError, files, open_source

COCO_TASKS = ("coco_semantic", "instance", "panoptic")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    make_coco(root, 4, (24, 16), 5)
    return root


def coco_rows(root, rows):
    sources = [open_source("coco", name, "val", root, quiet=True) for name in COCO_TASKS]
    return [Rows(source, own, 0) for source, own in zip(sources, rows, strict=True)]


def test_coco_is_decoded_once_for_its_three_tasks(coco, monkeypatch):
    group = coco_rows(coco, [range(4)] * 3)
    expected = [[task.source[row] for row in range(4)] for task in group]
    decoded = []
    imdecode = files.cv2.imdecode
    monkeypatch.setattr(
        files.cv2, "imdecode", lambda *args: decoded.append(len(args[0])) or imdecode(*args)
    )
    found = [batch for step in batches(group, 2) for batch in step]
    assert len(decoded) == 2 * 4  # a JPEG and a PNG each, where every task alone makes 24

    for index, examples in enumerate(expected):
        own = [example for batch in found[index::3] for example in batch.examples]
        for example, other in zip(own, examples, strict=True):
            assert repr(example) == repr(other)
            np.testing.assert_array_equal(example["image"], other["image"])
    # Of the masks that the three tasks paint none is another's.
    maps = [found[0].examples[0]["label"], found[1].examples[0]["label"]]
    assert not np.shares_memory(*maps)


def test_tasks_of_other_rows_read_their_own(coco):
    """As instances of the training split, which leave images out."""
    group = coco_rows(coco, [range(4), (1, 3), range(4)])
    steps = list(batches(group, 2))
    keys = [
        [batch and [int(example["key"]) for example in batch.examples] for batch in step]
        for step in steps
    ]
    assert keys == [[[0, 1], [1, 3], [0, 1]], [[2, 3], None, [2, 3]]]
    assert [batch.places for batch in steps[1] if batch] == [[2, 3], [2, 3]]


@pytest.fixture
def two_threads(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


class Meeting(ScenesSource):
    """Examples that can be read in pairs only."""

    barrier = threading.Barrier(2, timeout=10)

    def intact(self, index, decoded=None):
        self.barrier.wait()
        return super().intact(index, decoded)


def test_examples_are_read_by_several_threads(two_threads):
    source = Meeting("depth", "val", 4, 16)
    (step,) = batches([Rows(source, range(4), 0)], 4)
    keys = [f"scenes/0/val/{index:08d}" for index in range(4)]
    assert [example["key"] for example in step[0].examples] == keys
    assert [example["key"] for example in read(source, range(4))] == keys


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_the_parts_of_processes_make_up_the_batch(count, monkeypatch):
    """None has two examples more than another, and the first has one if any has."""
    source = ScenesSource("depth", "val", 9, 8)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    monkeypatch.setattr(
        "generalist.devices.processes.gather_values", lambda values: np.stack([values] * count)
    )
    parts = []
    for index in range(count):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append([step[0] for step in batches([Rows(source, range(9), 2)], 4)])

    # Seven rows are left, in batches of four and three.
    for number, places in enumerate(([2, 3, 4, 5], [6, 7, 8])):
        batch = [part[number] for part in parts]
        assert [place for part in batch for place in part.places] == places
        sizes = [len(part.places) for part in batch]
        assert sizes == sorted(sizes, reverse=True) and sizes[0] - sizes[-1] <= 1
        assert {part.count for part in batch} == {len(places)}


def test_what_another_process_cannot_read_is_said(monkeypatch):
    class Broken(ScenesSource):
        def intact(self, index, decoded=None):
            raise DataError("a file", "is damaged", "")

    told = []
    monkeypatch.setattr(
        "generalist.devices.processes.gather_values",
        lambda values: told.append(values.tolist()) or np.array([values, [-1]]),
    )
    with pytest.raises(DataError, match="a file: is damaged"):
        next(batches([Rows(Broken("depth", "val", 2, 8), range(2), 0)], 2))
    assert told == [[-1]]
    with pytest.raises(ValueError, match="process 1 could not read its examples"):
        next(batches([Rows(ScenesSource("depth", "val", 2, 8), range(2), 0)], 2))
