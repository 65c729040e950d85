"""Instances: Painter's location colours worked out by hand, exact round trips, painting rules."""

import dataclasses

import numpy as np
import pytest

from generalist.tasks import SCENES_TASKS, TASKS, Instance

PAINTER, SCENES = TASKS["instance"], SCENES_TASKS["instance"]


def levels(rgb):
    return np.round((rgb + 1) * 127.5).astype(int)


def one_pixel(x, y, size=1024):
    label = np.zeros((size, size), np.int32)
    label[y, x] = 7
    return label


@pytest.mark.parametrize(
    "x,y,colour",
    [
        # int(c / 1024 * 79): 0 -> 0, 520 -> 40 = block 2 cell 0, 800 -> 61 = block 3 cell 1,
        # 1023 -> 78 = block 3 cell 18.
        (0, 0, (255, 255, 255)),
        (520, 0, (255 - 15 * 2, 255, 255)),
        (0, 520, (255 - 15 * 8, 255, 255)),
        (800, 0, (255 - 15 * 3, 255, 255 - 13)),
        (1023, 1023, (255 - 15 * 15, 255 - 13 * 18, 255 - 13 * 18)),
    ],
)
def test_painters_colours_by_hand(x, y, colour):
    target = PAINTER.encode(one_pixel(x, y), 1024)
    assert tuple(levels(target.rgb[y, x])) == colour
    assert tuple(levels(target.rgb[(y + 5) % 1024, x])) == (0, 0, 0)


def test_painters_axes():
    red, green, blue = PAINTER.axes
    assert len(red) * len(green) * len(blue) == 6400
    assert (red[0], red[1], red[-1], len(red)) == (255, 240, 30, 16)
    assert (green[0], green[1], green[-1], len(green)) == (255, 242, 8, 20)
    np.testing.assert_array_equal(green, blue)


def test_scenes_code_is_a_flag_and_two_coordinates():
    red, green, _ = SCENES.axes
    assert red.tolist() == [255]
    assert green.tolist() == [255 - 15 * k for k in range(16)]
    # The center of the right half of 8 columns is (5.5 + 0.5) / 8 = 0.75 of the width, less half a
    # pixel of 1024: cell int(11.24) = 11. Rows: 0.5, cell int(7.49) = 7.
    label = np.zeros((8, 8), np.int32)
    label[:, 4:] = 1
    assert tuple(levels(SCENES.encode(label, 8).rgb[0, 7])) == (255, 255 - 15 * 7, 255 - 15 * 11)


def test_code_does_not_depend_on_the_size_of_the_label():
    label = np.zeros((20, 30), np.int32)
    label[3:9, 5:11], label[12:, 20:] = 1, 2
    large = np.repeat(np.repeat(label, 3, axis=0), 3, axis=1)
    np.testing.assert_array_equal(
        PAINTER.encode(label, (20, 30)).rgb, PAINTER.encode(large, (20, 30)).rgb
    )


@pytest.mark.parametrize(
    "task",
    [PAINTER, dataclasses.replace(PAINTER, mode="minmax", score_gate=0.0), SCENES],
    ids=["threshold", "minmax", "vote"],
)
@pytest.mark.parametrize("size", [32, (48, 64), 128])
def test_round_trip(task, size):
    label = np.zeros((32, 32), np.int32)
    label[2:12, 3:13], label[4:20, 20:30], label[24:31, 4:16] = 5, 2, 9
    target = task.encode(label, size)
    assert target.rgb.dtype == target.mask.dtype == np.float32
    assert target.mask.shape == (*target.rgb.shape[:2], 1) and target.mask.min() == 1
    prediction = task.decode(target.rgb, label.shape)
    assert prediction.instances.dtype == np.int32 and prediction.confidence.dtype == np.float32
    np.testing.assert_array_equal(prediction.instances > 0, label > 0)
    assert len(np.unique(prediction.instances)) == 4
    for number in (5, 2, 9):
        assert len(np.unique(prediction.instances[label == number])) == 1
    assert 0 <= prediction.confidence.min() and prediction.confidence.max() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_round_trip_of_random_rectangles_is_exact_where_cells_differ(seed):
    rng = np.random.default_rng(seed)
    label = np.zeros((64, 64), np.int32)
    for number, (row, column) in enumerate(np.ndindex(4, 4), start=1):
        height, width = rng.integers(4, 15, 2)
        label[16 * row : 16 * row + height, 16 * column : 16 * column + width] = number
    task = dataclasses.replace(PAINTER, mode="minmax", score_gate=0.0)
    instances = task.decode(task.encode(label, 64).rgb).instances
    pairs = np.unique(np.stack([label.ravel(), instances.ravel()]), axis=1)
    assert pairs.shape[1] == 17 == len(np.unique(instances))


def test_two_instances_with_one_centre_become_one():
    label = np.zeros((9, 9), np.int32)
    label[4, 1], label[4, 7], label[1, 4] = 1, 1, 2
    label[7, 4] = 2
    rgb = PAINTER.encode(label, 9).rgb
    np.testing.assert_array_equal(rgb[4, 1], rgb[1, 4])


def test_painting_stops_at_the_score_gate_and_skips_overlaps():
    task = Instance(score_gate=0.55, overlap=0.5)
    masks = np.zeros((4, 1, 12), bool)
    masks[0, 0, 0:4] = masks[1, 0, 2:6] = masks[2, 0, 3:6] = masks[3, 0, 8:12] = True
    # Mask 1 has 2 of 4 pixels painted (not more than half): its rest is painted; mask 2 has all;
    # mask 3 scores too low.
    instances = task.paint(masks, np.array([0.9, 0.8, 0.7, 0.54]))
    assert instances.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0, 0, 0, 0, 0]]
    assert task.paint(masks, np.array([0.9, 0.8, 0.7, 0.55]))[0, 8:].tolist() == [4] * 4


def test_confidence_is_the_score_on_instances_and_darkness_elsewhere():
    label = np.zeros((8, 8), np.int32)
    label[1:5, 1:5] = 1
    prediction = PAINTER.decode(PAINTER.encode(label, 8).rgb)
    assert prediction.scores[0] == 1.0 and prediction.confidence.min() == 1.0


def test_metric_takes_label_of_and_label_pairs():
    label = np.zeros((64, 64), np.int32)
    label[2:20, 3:25], label[40:60, 30:50] = 1, 2
    metric = SCENES.metric()
    prediction = SCENES.decode(SCENES.encode(label, 64).rgb)
    metric.update(SCENES.label_of(prediction), SCENES.metric_label(label))
    assert metric.compute()["pq"] == 1.0
    assert metric.protocol == SCENES.protocol


def test_void_is_black_and_does_not_count_in_the_loss():
    label = np.zeros((8, 8), np.int32)
    label[1:4, 1:4], label[5:, 5:] = 1, -1
    rgb, mask = SCENES.encode(label, 8)
    np.testing.assert_array_equal(mask[..., 0], label != -1)
    assert (rgb[label <= 0] == -1).all() and (rgb[label == 1] > -1).any()


def test_the_error_map_has_no_errors_on_void():
    label = np.zeros((8, 8), np.int32)
    label[1:4, 1:4], label[5:, 5:] = 1, -1
    predicted = np.where(label == -1, 7, label)
    decoded = SCENES.decode(SCENES.encode(label, 8).rgb)
    prediction = dataclasses.replace(decoded, instances=predicted.astype(np.int32))
    no_errors = SCENES.error_map(decoded, decoded.instances)
    np.testing.assert_array_equal(SCENES.error_map(prediction, label), no_errors)

    prediction.instances[0, 0] = 9
    wrong = (SCENES.error_map(prediction, label) != no_errors).any(-1)
    assert wrong[0, 0] and not wrong[label == -1].any()


def test_render_gives_each_instance_a_colour():
    label = np.array([[0, 3, 3], [0, 8, 0]], np.int32)
    picture = SCENES.render(label)
    assert picture.dtype == np.uint8 and picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 1].tolist() == picture[0, 2].tolist() != picture[1, 1].tolist()


@pytest.mark.parametrize(
    "fields,message",
    [
        (
            {"mode": "votes"},
            "task 'instance': 'votes'. Did you mean 'vote'. Allowed: threshold, minmax, vote",
        ),
        ({"mode": "vote"}, "'vote' needs 1 block of at least 2 cells, got 4 blocks of 20 cells"),
        ({"cells": 21}, "reach level -5; allowed are 0..255"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Instance(**fields)


def test_bad_labels():
    with pytest.raises(ValueError, match="label value -2 is outside -1..inf"):
        PAINTER.encode(np.full((2, 2), -2), 2)
    with pytest.raises(ValueError, match="integer map of instance ids.*got float64 of shape"):
        PAINTER.encode(np.zeros((2, 2)), 2)
    with pytest.raises(
        ValueError, match=r"a float32 array of shape \(height, width, 3\), got uint8"
    ):
        PAINTER.decode(np.zeros((2, 2, 3), np.uint8))
