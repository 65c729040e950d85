"""Semantic classes: exact round trips for every palette, void masked, two ways to a larger size."""

import numpy as np
import pytest

from generalist.tasks import SCENES_TASKS, TASKS, Semantic

SEMANTIC_TASKS = [
    TASKS["semantic"],
    TASKS["coco_semantic"],
    SCENES_TASKS["semantic"],
    Semantic(classes=("no", "yes"), name="binary"),
]
PAIR = Semantic(classes=("a", "b", "c"), upsample="rgb")


@pytest.mark.parametrize("task", SEMANTIC_TASKS, ids=lambda task: f"{task.name}-{task.num_classes}")
@pytest.mark.parametrize("size", [32, 64, (32, 96)])
def test_round_trip_is_exact(task, size):
    label = np.random.default_rng(0).integers(0, task.num_classes, (32, 32)).astype(np.int32)
    target = task.encode(label, size)
    assert target.rgb.dtype == target.mask.dtype == np.float32 and target.mask.min() == 1
    assert set(np.unique(np.round((target.rgb + 1) * 127.5, 3))) <= set(np.unique(task.palette))
    prediction = task.decode(target.rgb)
    assert prediction.classes.dtype == np.int32 and prediction.confidence.dtype == np.float32
    repeats = np.array(prediction.classes.shape) // 32
    np.testing.assert_array_equal(prediction.classes, np.kron(label, np.ones(repeats, np.int32)))
    assert prediction.confidence.min() == pytest.approx(1.0, abs=1e-4)


def test_every_class_survives():
    for task in SEMANTIC_TASKS:
        label = np.arange(task.num_classes)[None]
        np.testing.assert_array_equal(
            task.decode(task.encode(label, label.shape).rgb).classes, label
        )


def test_void_is_black_and_masked():
    target = PAIR.encode(np.array([[-1, 0], [2, -1]]), 2)
    assert target.mask[..., 0].tolist() == [[0, 1], [1, 0]]
    np.testing.assert_array_equal(target.rgb[0, 0], [-1, -1, -1])
    np.testing.assert_array_equal(target.rgb[0, 1], [1, 1, 1])


def test_labels_shrink_by_nearest_neighbour():
    label = np.kron(np.array([[0, 1], [2, 0]], np.int32), np.ones((3, 3), np.int32))
    np.testing.assert_array_equal(PAIR.decode(PAIR.encode(label, 2).rgb).classes, [[0, 1], [2, 0]])


def test_decoding_equals_brute_force():
    task = TASKS["semantic"]
    rgb = np.random.default_rng(1).uniform(-1.1, 1.1, (8, 9, 3)).astype(np.float32)
    levels = np.clip((rgb + 1) * np.float32(127.5), 0, 255)
    distances = np.sort(
        np.abs(levels[:, :, None].astype(np.float64) - task.palette).sum(-1), axis=-1
    )
    prediction = task.decode(rgb)
    chosen = np.abs(levels - task.palette[prediction.classes]).sum(-1)
    np.testing.assert_allclose(chosen, distances[..., 0], atol=1e-3)
    np.testing.assert_allclose(
        prediction.confidence,
        np.minimum((distances[..., 1] - distances[..., 0]) / 42, 1),
        atol=1e-4,
    )


def test_confidence_by_hand():
    # Three classes: blue 255, 127 and green 127 (steps of 128). A quarter of the way from class 0
    # to class 1 the distances are 32 and 96: margin 64 of 128.
    rgb = np.array([[[255, 255, 255 - 32], [255, 255, 255 - 64]]], np.float32) / 127.5 - 1
    prediction = PAIR.decode(rgb.astype(np.float32))
    assert prediction.classes[0, 0] == 0
    np.testing.assert_allclose(prediction.confidence, [[0.5, 0.0]], atol=1e-5)


def test_distances_do_not_invent_a_third_class_between_two():
    # Blue falls from 255 (class 0) over 170 (class 1) to 85 (class 2): between classes 0 and 2
    # lies class 1.
    names = tuple(str(k) for k in range(16))
    label = np.array([[0, 2]])
    by_rgb, by_distance = (Semantic(classes=names, upsample=mode) for mode in ("rgb", "distance"))
    rgb = by_rgb.encode(label, (1, 2)).rgb
    assert set(by_rgb.decode(rgb, (1, 16)).classes[0].tolist()) == {0, 1, 2}
    assert by_distance.decode(rgb, (1, 16)).classes[0].tolist() == [0] * 8 + [2] * 8


def test_distances_are_enlarged_and_painters_colors_stand_beside_them():
    for task in (TASKS["semantic"], TASKS["coco_semantic"], SCENES_TASKS["semantic"]):
        assert task.upsample == "distance"
        assert task.variants()["_painter"].upsample == "rgb"


def test_metric_takes_label_of():
    task = SCENES_TASKS["semantic"]
    label = np.random.default_rng(2).integers(-1, 16, (16, 16)).astype(np.int32)
    metric = task.metric()
    metric.update(task.label_of(task.decode(task.encode(label, 16).rgb)), label)
    assert metric.compute()["miou"] == 1.0 and metric.protocol == task.protocol


def test_render_and_legend_use_the_colors_for_people():
    task = SCENES_TASKS["semantic"]
    picture = task.render(np.array([[0, 8, -1]], np.int32))
    legend = dict(task.legend().classes)
    assert picture.dtype == np.uint8 and len(legend) == 17 and legend["void"] == (0, 0, 0)
    assert picture[0].tolist() == [list(legend["wall"]), list(legend["sky"]), [0, 0, 0]]


def test_errors():
    with pytest.raises(
        ValueError, match=r"label value 3 is outside -1..2 \(class indices, -1 = void\)"
    ):
        PAIR.encode(np.array([[0, 3]]), 2)
    with pytest.raises(ValueError, match="label value -2 is outside -1..2"):
        PAIR.encode(np.array([[0, -2]]), 2)
    with pytest.raises(ValueError, match="integer map of class indices of shape .* got float32"):
        PAIR.encode(np.zeros((2, 2), np.float32), 2)
    with pytest.raises(
        ValueError, match="upsample of task 'semantic': 'nearest'. Allowed: rgb, distance"
    ):
        Semantic(classes=("a", "b"), upsample="nearest")
    with pytest.raises(ValueError, match="1 colors for 2 classes"):
        Semantic(classes=("a", "b"), colors=((1, 2, 3),))
