"""Every source answers the same, and a reader of a data set is a few lines."""

import pickle

import numpy as np
import pytest
from PIL import Image

from generalist.input_pipeline import ReadWindow, Source
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.source import cut
from generalist.input_pipeline.sources import Dataset, open_source
from generalist.input_pipeline.sources.examples import Examples, Location
from generalist.input_pipeline.sources.folder import Folder

RNG = np.random.default_rng(0)
MEMBERS = [name for name in (*Source.__annotations__, *vars(Source)) if not name.startswith("_")]


def save_pairs(root, image_folder, label_folder):
    for folder in (image_folder, label_folder):
        (root / folder).mkdir(parents=True)
        for name in ("a", "b", "c"):
            pixels = RNG.integers(0, 256, (12, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")


def scenes(root):
    return ScenesSource("denoise", "val", 3, (12, 16))


def official(root):
    save_pairs(root / "lol/our485", "low", "high")
    return open_source("lol", "light", "train", root)


def own(root):
    save_pairs(root / "train", "images", "labels")
    return Folder(root, "train", "dehaze", {"kind": "image"})


class Squares(Dataset):
    """A reader of a data set whose images are computed: square i is all i, its label i * 10."""

    NAME = "squares"
    TASKS = ("tens",)
    SPLITS = {"train": "."}  # noqa: RUF012
    EVAL_SPLIT = "train"
    FOLDERS = (".",)
    USUAL = {}  # noqa: RUF012

    class Computed(Examples):
        def __len__(self):
            return 3

        def locate(self, index):
            return Location(str(index), np.full((12, 16, 3), index, np.uint8), np.eye(12, 16))

        def paths(self):
            return []

    def index(self):
        return self.Computed()

    def to_label(self, stored, location, whole):
        return stored * 10 * int(location.key)


@pytest.mark.parametrize("make", [scenes, official, own, Squares])
def test_every_source_answers_what_the_contract_says(make, tmp_path):
    source = pickle.loads(pickle.dumps(make(tmp_path)))
    assert "intact" in MEMBERS and all(hasattr(source, name) for name in MEMBERS)
    assert len(source) == 3 and source.damaged == {} and source.groups == ()
    assert isinstance(source.stamp(), str)

    example = source.read(1)
    assert example["image"].dtype == np.uint8 and example["image"].shape == (12, 16, 3)
    for same in (source[1], source.intact(1)):
        assert same["key"] == example["key"]
        np.testing.assert_array_equal(same["label"], example["label"])
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize("make", [scenes, official, own, Squares])
def test_a_window_is_that_part_of_the_whole_example(make, tmp_path):
    source = make(tmp_path)
    window = ReadWindow(lambda size: (slice(2, size[0] - 3), slice(1, 9)), enough=2)
    found = source.read(2, window)
    expected = cut(source.read(2), window)
    assert found["image"].shape == (7, 8, 3)
    for name in ("image", "label"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_reader_defines_where_examples_lie_and_what_a_label_means(tmp_path):
    source = Squares(tmp_path)
    assert (source.task, source.counts) == ("tens", {"train": 3})
    np.testing.assert_array_equal(source[2]["image"], np.full((12, 16, 3), 2))
    np.testing.assert_array_equal(source[2]["label"], np.eye(12, 16) * 20)
