"""Augmentation moves image and label together, and is a function of (seed, position) alone."""

import colorsys
import functools
import itertools

import numpy as np
import pytest

from generalist.input_pipeline import transforms
from generalist.input_pipeline.loader import training_batches
from generalist.input_pipeline.source import cut
from generalist.tasks import get_tasks

SETTINGS = {
    "tasks": ("depth", "denoise"),
    "scale": (0.3, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "native": 0.0,
    "flip": 0.5,
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    "jitter_probability": 0.8,
}


WINDOWS = functools.partial(transforms.CropAndFlip, enough=16, native_side=None)


def coordinates(height, width):
    """Pixels that hold their own place: channels (row, column, 0), label 1000 * row + column."""
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)
    return {"image": image, "label": (1000 * rows + columns).astype(np.int32), "key": "place"}


def changed(augment, example, seed):
    """`augment` of a whole example."""
    return augment(functools.partial(cut, example), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def windows():
    """Two thousand random windows of a 120 x 200 image."""
    rng = np.random.default_rng(0)
    return [
        transforms.random_window((120, 200), (0.3, 1.0), (3 / 4, 4 / 3), rng) for _ in range(2000)
    ]


def test_image_and_label_move_together_and_nothing_is_interpolated():
    augment, mirrored = WINDOWS(SETTINGS), 0
    for seed in range(50):
        moved = changed(augment, coordinates(60, 80), seed)
        rows = moved["image"][..., 0].astype(int)
        columns = moved["image"][..., 1].astype(int)
        np.testing.assert_array_equal(moved["label"], 1000 * rows + columns)
        assert (np.diff(rows, axis=0) == 1).all() and len(
            set(np.diff(columns, axis=1).ravel().tolist())
        ) == 1
        mirrored += columns[0, 0] > columns[0, -1]
        assert moved["key"] == "place" and moved["label"].dtype == np.int32
    assert 15 <= mirrored <= 35


def test_flip_0_and_1_are_never_and_always():
    for flip, first in ((0.0, 0), (1.0, 79)):
        augment = WINDOWS(SETTINGS | {"flip": flip, "scale": (1.0, 1.0), "ratio": (4 / 3, 4 / 3)})
        moved = changed(augment, coordinates(60, 80), 0)
        assert moved["label"].shape == (60, 80) and moved["label"][0, 0] == first


def test_windows_have_the_areas_and_ratios_asked_for_and_lie_everywhere(windows):
    height, width = (
        np.array([s.stop - s.start for s in axis]) for axis in zip(*windows, strict=True)
    )
    share, ratio = height * width / (120 * 200), width / height
    # 160 x 120, the largest window of an allowed ratio.
    assert 0.295 < share.min() < 0.32 and 0.78 < share.max() <= 0.8
    assert 0.74 < ratio.min() < 0.78 and 1.30 < ratio.max() < 1.36
    starts = np.array([(rows.start, columns.start) for rows, columns in windows])
    assert (
        starts.min() == 0
        and max(s.stop for s, _ in windows) == 120
        and max(s.stop for _, s in windows) == 200
    )


def test_the_share_of_the_area_is_uniform_where_every_window_fits():
    rng = np.random.default_rng(0)
    found = [transforms.random_window((400, 400), (0.1, 0.5), (0.9, 1.1), rng) for _ in range(4000)]
    share = [
        (rows.stop - rows.start) * (columns.stop - columns.start) / 160_000
        for rows, columns in found
    ]
    np.testing.assert_allclose(np.quantile(share, [0.25, 0.5, 0.75]), [0.2, 0.3, 0.4], atol=0.015)


@pytest.mark.parametrize(
    ("size", "window"), [((100, 1000), (100, 133)), ((1000, 100), (133, 100)), ((1, 1), (1, 1))]
)
def test_an_image_too_narrow_for_any_window_gives_the_largest_with_an_allowed_ratio(size, window):
    rows, columns = transforms.random_window(
        size, (0.9, 1.0), (3 / 4, 4 / 3), np.random.default_rng(0)
    )
    assert (rows.stop - rows.start, columns.stop - columns.start) == window


def test_an_instance_outside_of_the_window_is_gone_and_colors_are_those_of_the_new_place():
    ids = np.zeros((64, 64), np.int32)
    ids[:8, :8], ids[40:60, 40:60] = 1, 2
    augment = WINDOWS(SETTINGS | {"scale": (0.3, 0.3), "ratio": (1.0, 1.0), "flip": 0.0})
    task = get_tasks("scenes", ["instance"])["instance"]
    example = {"image": np.repeat(ids[..., None], 3, -1).astype(np.uint8), "label": ids}
    crops = [changed(augment, example, seed)["label"] for seed in range(40)]
    alone = [crop for crop in crops if set(np.unique(crop)) == {0, 2}]
    assert len(alone) > 5
    for crop in alone:
        rows, columns = np.nonzero(crop)
        painted = (task.encode(crop, 35).rgb[rows[0], columns[0]] + 1) * 127.5
        # The scenes' code: green = 255 - 15 * cell of the center's row, 16 cells, of which the last
        # index is reached at the border.
        green = 255 - 15 * int(((rows.mean() + 0.5) / 35 - 0.5 / 1024) * 15)
        assert painted[1] == pytest.approx(green, abs=1e-3)


PIXELS = np.array([[[50, 100, 150], [255, 120, 0]]], np.uint8)
LUMA = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in PIXELS[0].tolist()]  # 90.75 and 146.685


def test_brightness_by_hand():
    np.testing.assert_array_equal(
        transforms.brightness(PIXELS, 1.4)[0], [[70, 140, 210], [255, 168, 0]]
    )


def test_contrast_by_hand():
    mean = sum(LUMA) / 2
    expected = [
        [np.clip(round(mean + 1.4 * (c - mean)), 0, 255) for c in pixel]
        for pixel in PIXELS[0].tolist()
    ]
    np.testing.assert_array_equal(transforms.contrast(PIXELS, 1.4)[0], expected)


def test_saturation_by_hand():
    expected = np.clip(
        [
            [gray + 0.8 * (c - gray) for c in pixel]
            for pixel, gray in zip(PIXELS[0].tolist(), LUMA, strict=True)
        ],
        0,
        255,
    )
    # The luma's rounding, times 0.2, and the result's.
    np.testing.assert_allclose(transforms.saturation(PIXELS, 0.8)[0], expected, atol=0.61)


@pytest.mark.parametrize("turn", [-0.1, 0.07, 0.5])
def test_hue_turns_as_the_standard_librarys_color_circle(turn):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    expected = []
    for r, g, b in image.reshape(-1, 3).tolist():
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        expected.append(colorsys.hsv_to_rgb((h + turn) % 1.0, s, v))
    np.testing.assert_allclose(transforms.hue(image, turn).reshape(-1, 3), expected, atol=0.51)


def test_the_neutral_amounts_change_nothing():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    for adjust, amount in zip(transforms.ADJUSTMENTS.values(), (1.0, 1.0, 1.0, 0.0), strict=True):
        np.testing.assert_array_equal(adjust(image, amount), image)


def test_brightness_factors_are_uniform_and_a_fifth_of_the_images_stay():
    jitter = transforms.Jitter(
        SETTINGS | {"jitter": dict.fromkeys(SETTINGS["jitter"], 0.0) | {"brightness": 0.4}}
    )
    pixels = np.full((2, 2, 3), 100, np.uint8)
    gray = {"image": pixels, "picture": pixels, "task": 3}
    seen = np.array(
        [jitter(gray, np.random.default_rng(seed))["image"][0, 0, 0] for seed in range(1500)]
    )
    assert 0.17 < (seen == 100).mean() < 0.23  # those and the few that a factor near 1 leaves
    np.testing.assert_allclose(
        np.quantile(seen[seen != 100], [0.0, 0.25, 0.5, 0.75, 1.0]), [60, 80, 100, 120, 140], atol=4
    )
    # The sample given is left alone.
    assert jitter(gray, np.random.default_rng(0))["task"] == 3 and gray["image"].max() == 100


def test_image_and_picture_get_the_same_colors():
    jitter = transforms.Jitter(SETTINGS | {"jitter_probability": 1.0})
    stripes = np.random.default_rng(0).integers(0, 256, (1, 8, 3), np.uint8)
    sample = {"image": np.repeat(stripes, 8, 0), "picture": np.repeat(stripes, 4, 0)}
    moved = jitter(sample, np.random.default_rng(1))
    np.testing.assert_array_equal(moved["picture"], moved["image"][:4])
    assert (moved["picture"] != sample["picture"]).any()


def test_native_windows_are_stored_pixels_of_the_targets_size():
    augment = WINDOWS(SETTINGS | {"native": 0.5}, native_side=24)
    crops = [changed(augment, coordinates(60, 80), seed) for seed in range(400)]
    native = [crop["label"] for crop in crops if crop["label"].shape == (24, 24)]
    assert 160 < len(native) < 240

    # Everywhere, each with equal probability: the top row is uniform in 0..36.
    top = np.array([label[0].min() // 1000 for label in native])
    assert top.min() < 3 and top.max() > 33 and 15 < top.mean() < 21
    # An image that is smaller is seen whole.
    whole = changed(WINDOWS(SETTINGS | {"native": 1.0}, native_side=24), coordinates(10, 80), 0)
    assert whole["label"].shape == (10, 24)


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        (WINDOWS, {"scale": (0.3, 1.2)}, "data.augment.scale is .0.3, 1.2."),
        (WINDOWS, {"ratio": (0, 1)}, "ratio"),
        (WINDOWS, {"native": 1.5}, "data.augment.native is 1.5: give a probability in 0..1"),
        (
            transforms.Jitter,
            {"jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2}},
            "data.augment.jitter is",
        ),
        (
            transforms.Jitter,
            {"jitter": dict.fromkeys(SETTINGS["jitter"], 0.0) | {"hue": 0.6}},
            "hue in 0..0.5",
        ),
    ],
)
def test_settings_out_of_range_are_an_error(kind, change, said):
    with pytest.raises(ValueError, match=said):
        kind(SETTINGS | change)


class Photographs:
    """Random 24 x 32 images: a `Source` as far as training reads one.

    denoise has the image itself as its label, depth the mean of its channels in meters / 30.
    """

    def __init__(self, task, length=6):
        self.task, self.length = task, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return self.read(i)

    def read(self, i, window=None):
        image = np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)
        meters = (image.mean(-1) / 30 + 0.1).astype(np.float32)
        label = image if self.task == "denoise" else meters
        return cut({"image": image, "label": label, "key": str(i)}, window)


TASKS = get_tasks("scenes", ["depth", "denoise"])


def batches(first, last, **changes):
    """The batches of steps first .. last - 1."""
    settings = {
        "seed": 3,
        "batch_size": 8,
        "image_size": 16,
        "target_size": 16,
        "augment": SETTINGS,
        "first_step": first,
    } | changes
    sources = {name: Photographs(name) for name in TASKS}
    return list(
        itertools.islice(
            training_batches(sources, TASKS, {"depth": 1, "denoise": 1}, **settings), last - first
        )
    )


def assert_same(ours, expected):
    for our, other in zip(ours, expected, strict=True):
        for name in other:
            np.testing.assert_array_equal(our[name], other[name])


@pytest.fixture(scope="module")
def whole():
    return batches(0, 6)


@pytest.mark.parametrize("count", [2, 4])
def test_any_number_of_processes_makes_the_same_augmented_batches(whole, count):
    for index in range(count):
        rows = range(index, 8, count)
        assert_same(
            batches(0, 6, rows=rows),
            [{name: values[rows] for name, values in batch.items()} for batch in whole],
        )


def test_a_restart_in_the_middle_and_other_threads_make_the_same_augmented_batches(whole):
    assert_same(batches(4, 6), whole[4:])
    assert_same(batches(0, 6, threads=0), whole)


def test_every_epoch_and_every_seed_sees_other_windows(whole):
    flat = [image.tobytes() for batch in whole for image in batch["image"]]
    assert len(set(flat)) == len(flat) == 48  # twelve photographs, each four times
    assert {
        image.tobytes() for batch in batches(0, 2, seed=30) for image in batch["image"]
    }.isdisjoint(flat)


def test_restoration_keeps_its_colors_and_labels_never_change_theirs(whole):
    for batch in whole:
        image = batch["image"] / 127.5 - 1.0
        # Input and target are one photograph here: still equal, but for rounding.
        for index in np.flatnonzero(batch["task"] == 1):
            # 8 bits, rounded up to three times.
            np.testing.assert_allclose(image[index], batch["target"][index], atol=1.6 / 127.5)
    gray = {
        step: np.abs(
            b["image"][b["task"] == 0].mean(-1) / 30
            + 0.1
            - (b["target"][b["task"] == 0].mean(-1) + 1) * 5
        ).max()
        for step, b in enumerate(whole)
    }
    # Depth's images do change theirs, so they no longer agree with the meters.
    assert max(gray.values()) > 0.5


def test_a_task_that_is_not_named_is_left_alone():
    plain, named = (
        batches(0, 2, augment=SETTINGS | {"tasks": tasks}) for tasks in ((), ("depth",))
    )
    assert_same(plain, batches(0, 2, augment=None))
    for ours, expected in zip(named, plain, strict=True):
        same = (ours["image"] == expected["image"]).all((1, 2, 3))
        np.testing.assert_array_equal(same, expected["task"] == 1)
