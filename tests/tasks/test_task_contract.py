"""A task answers for itself: its metrics, its trivial guess, its pictures and its files."""

import dataclasses

import numpy as np
import pytest

from generalist.tasks import SCENES_TASKS, TASKS, Depth, Scalar, Semantic
from generalist.tasks.drawing import RIGHT, WRONG, error_heat, heat, unmatched
from generalist.tasks.semantic import majority_map

SIZE = (16, 20)
ALL = [
    *TASKS.values(),
    *SCENES_TASKS.values(),
    Scalar(name="height", prompt="height", low=0.0, high=2.0, unit="m"),
]
IDS = [f"{'paper' if task in TASKS.values() else 'other'}-{task.name}" for task in ALL]


def a_label(task):
    """A label of SIZE with two regions."""
    left = np.zeros(SIZE, np.int32)
    left[:, :8] = 1
    if task.name == "panoptic":
        stuff = next(c["id"] for c in task.categories if not c["isthing"])
        thing = next(c["id"] for c in task.categories if c["isthing"])
        segments = [{"id": 1, "category_id": thing}, {"id": 2, "category_id": stuff}]
        return np.where(left, 1, 2), [
            {**segment, "iscrowd": 0, "area": area}
            for segment, area in zip(segments, (128, 192), strict=True)
        ]
    if task.name in ("denoise", "derain", "light", "text_to_image"):
        return np.repeat(np.uint8(100 + 50 * left)[..., None], 3, -1)
    return (left + 0.5).astype(np.float32) if task.name in ("depth", "height") else left


@pytest.mark.parametrize("task", ALL, ids=IDS)
def test_components_travel_through_encode_and_decode(task):
    label = a_label(task)
    names = [part.name for part in task.component_tasks]
    assert names == list(task.components or (task.name,))
    targets = task.encode_components(label, SIZE)
    assert list(targets) == names == list(task.component_labels(label))
    for part in task.component_tasks:
        alone = part.encode(task.component_labels(label)[part.name], SIZE)
        np.testing.assert_array_equal(targets[part.name].rgb, alone.rgb)
    prediction = task.decode_components({name: t.rgb for name, t in targets.items()}, SIZE)
    assert prediction.confidence.shape == SIZE
    if task.protocol != "nyu-eigen-metric":  # which takes images of 480 x 640 only
        metric = task.metric()
        metric.update(task.label_of(prediction), task.metric_label(label))
        assert any(np.isfinite(value) for value in metric.compute().values())


@pytest.mark.parametrize("task", ALL, ids=IDS)
def test_pictures_and_files_have_the_size_of_the_prediction(task):
    label = a_label(task)
    targets = task.encode_components(label, SIZE)
    prediction = task.decode_components({name: t.rgb for name, t in targets.items()}, SIZE)
    error = task.error_map(prediction, label)
    assert error.dtype == np.uint8 and error.shape == (*SIZE, 3)
    pixels = task.submission_pixels(prediction)
    assert pixels.dtype in (np.uint8, np.uint16) and pixels.shape[:2] == SIZE
    for legend in (task.legend(), task.legend([label]), task.error_legend()):
        for bar in legend.bars:
            assert bar.colors.shape == (256, 3) and bar.colors.dtype == np.uint8
        for name, color in legend.classes:
            assert isinstance(name, str) and len(color) == 3


@pytest.mark.parametrize("task", ALL, ids=IDS)
def test_the_trivial_guess_is_a_target(task):
    label = a_label(task)
    rgbs = {}
    for part in task.component_tasks:
        labels = [task.component_labels(label)[part.name]] if part.trivial_learns else []
        if part.trivial_learns or part.jitters_color:  # restoration returns its image
            rgbs[part.name] = part.trivial_rgb(labels, SIZE)
            assert rgbs[part.name].shape == (*SIZE, 3) and rgbs[part.name].dtype == np.float32
    image = np.full((*SIZE, 3), 7, np.uint8)
    assert task.trivial_prediction(image, rgbs, SIZE).confidence.shape == SIZE


def test_which_tasks_do_what():
    def names(attribute):
        return {task.name for task in ALL if getattr(task, attribute)}

    restoration = {"denoise", "derain", "light"}
    assert names("averages_samples") == {"depth", "height"} | restoration
    assert names("votes_on_samples") == {task.name for task in ALL if not task.averages_samples} - {
        "text_to_image"
    }
    # Exposure is a property of the whole image.
    assert names("prefers_tiles") == restoration - {"light"}
    pictures = restoration | {"text_to_image"}
    assert names("jitters_color") == {task.name for task in ALL} - pictures
    assert names("own_prompts") == {"text_to_image"}
    assert names("sees_image") == {task.name for task in ALL} - {"text_to_image"}
    assert names("trivial_learns") == {task.name for task in ALL} - restoration - {"instance"}
    assert {task.name for task in ALL if task.palette is not None} == {"semantic", "coco_semantic"}


def test_the_mean_target_of_depths_worked_out_by_hand():
    depth = SCENES_TASKS["depth"]
    labels = [np.array([[2.0, 0.0, 0.0]]), np.array([[4.0, 6.0, 0.0]])]
    # 2 and 4 average to 3, 6 stands alone; where nothing is known it is the mean of 2, 4 and 6.
    rgb = depth.trivial_rgb(labels, (1, 3))
    np.testing.assert_allclose(depth.decode(rgb).depth, [[3.0, 6.0, 4.0]], rtol=1e-6)


def test_the_majority_of_labels_worked_out_by_hand():
    labels = [np.array([[0, 1, -1, -1]]), np.array([[2, 1, -1, 2]]), np.array([[2, 0, -1, 2]])]
    # Class 2 has most pixels of all, so it fills the pixel that is void everywhere.
    np.testing.assert_array_equal(majority_map(labels, 3, (1, 4)), [[2, 1, 2, 2]])
    task = Semantic(classes=("a", "b", "c"))
    rgb = task.trivial_rgb(labels, (1, 4))
    np.testing.assert_array_equal(task.decode(rgb).classes, [[2, 1, 2, 2]])


def test_the_trivial_guess_of_instances_is_none_and_of_restoration_the_image():
    assert not TASKS["instance"].decode(TASKS["instance"].trivial_rgb([], SIZE)).instances.any()
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 3)).astype(np.uint8)
    prediction = TASKS["derain"].trivial_prediction(image, {}, (3, 5))
    np.testing.assert_array_equal(prediction.image, image)
    assert (prediction.confidence == 1).all()


def further(task):
    return [(other.suffix, other.metric.protocol, other.takes) for other in task.further_metrics()]


def test_metrics_beside_the_official_ones():
    assert further(TASKS["semantic"]) == [
        ("", "boundary-f-0.75", ""),
        ("", "ece-15", "confidence"),
        ("", "ause-wrong", "certainty"),
    ]
    assert [suffix for suffix, _, _ in further(TASKS["depth"])] == ["", "_affine"]
    assert further(TASKS["depth"])[1] == ("_affine", "nyu-affine-invariant", "")
    assert [suffix for suffix, _, _ in further(SCENES_TASKS["depth"])] == [""]
    assert further(TASKS["light"]) == [
        ("", "ause-rmse", "certainty"),
        ("_gaussian", "rgb-matlab", ""),
        ("_gt_mean", "lol-rgb-gt-mean", ""),
    ]
    for task in (TASKS["denoise"], TASKS["derain"], SCENES_TASKS["light"]):
        assert further(task) == [("", "ause-rmse", "certainty")]
        assert task.further_metrics()[0].of_samples  # one restored image has no uncertainty
    for name in ("instance", "panoptic"):
        assert further(TASKS[name]) == []
    assert further(SCENES_TASKS["text_to_image"]) == []


def test_a_semantic_task_has_the_other_way_to_decode():
    (painter,) = SCENES_TASKS["semantic"].variants().items()
    assert painter == ("_painter", dataclasses.replace(SCENES_TASKS["semantic"], upsample="rgb"))
    by_rgb = Semantic(classes=("a", "b"))
    (distance,) = by_rgb.variants().items()
    assert distance == ("_distance", dataclasses.replace(by_rgb, upsample="distance"))
    assert TASKS["depth"].variants() == SCENES_TASKS["panoptic"].variants() == {}


def test_figures_of_classes_have_their_names():
    task = Semantic(classes=("a", "b"))
    metric = task.metric()
    metric.update(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 1]]))
    assert task.class_figures(metric) == {"iou/a": 2 / 3, "iou/b": 1 / 2}
    panoptic = SCENES_TASKS["panoptic"]
    metric = panoptic.metric()
    metric.update(a_label(panoptic), a_label(panoptic))
    figures = panoptic.class_figures(metric)
    assert [name for name, value in figures.items() if value == 1.0] == ["pq/wall", "pq/ball"]
    assert len(figures) == len(panoptic.categories)
    assert TASKS["depth"].class_figures(TASKS["depth"].metric()) == {}


def test_the_protocol_of_another_data_set():
    assert SCENES_TASKS["depth"].official(TASKS["depth"]).protocol == "nyu-eigen-metric"
    same = dataclasses.replace(TASKS["semantic"], protocol="mine")
    assert same.official(TASKS["semantic"]) == TASKS["semantic"]
    for name in ("semantic", "panoptic"):
        with pytest.raises(
            ValueError, match=rf"Task '{name}': the model paints 16 classes \(wall, .*train it"
        ):
            SCENES_TASKS[name].official(TASKS[name])


def test_samples_spread_in_the_unit_of_the_task():
    draws = [np.full((*SIZE, 3), gray, np.float32) for gray in (-0.5, 0.5)]  # 2.5 m and 7.5 m
    depth = Depth()
    np.testing.assert_allclose(depth.sample_std([depth.decode(rgb) for rgb in draws]), 2.5)
    draws = [np.full((*SIZE, 3), level / 127.5 - 1, np.float32) for level in (100, 120)]
    denoise = TASKS["denoise"]
    std = denoise.sample_std([denoise.decode(rgb) for rgb in draws])
    assert std.shape == SIZE and std.dtype == np.float32
    np.testing.assert_allclose(std, 10.0)


def test_errors_of_quantities_are_heat_and_unknown_is_black():
    depth = Depth()
    label = np.array([[2.0, 2.0, 0.0]], np.float32)
    prediction = depth.decode(depth.encode(np.array([[2.0, 3.0, 5.0]], np.float32), (1, 3)).rgb)
    picture = depth.error_map(prediction, label)
    np.testing.assert_array_equal(picture[0, :2], heat(np.array([0.0, 1.0])))
    assert picture[0, 2].tolist() == [0, 0, 0]
    known = np.array([True, False])
    np.testing.assert_array_equal(
        error_heat(np.array([0.5, 9.0]), known, 1.0), [heat(np.array([0.5]))[0], (0, 0, 0)]
    )


def test_errors_of_classes_are_right_or_wrong():
    task = Semantic(classes=("a", "b"))
    prediction = task.decode(task.encode(np.array([[0, 1, 1]]), (1, 3)).rgb)
    picture = task.error_map(prediction, np.array([[0, 0, -1]]))
    assert picture[0].tolist() == [list(RIGHT), list(WRONG), list(RIGHT)]
    panoptic = SCENES_TASKS["panoptic"]
    label = a_label(panoptic)
    targets = panoptic.encode_components(label, SIZE)
    prediction = panoptic.decode_components({name: t.rgb for name, t in targets.items()}, SIZE)
    # The stuff is smaller than `stuff_area`? Then it is void in the prediction, and wrong.
    stuff = prediction.id_map == 0
    np.testing.assert_array_equal(
        panoptic.error_map(prediction, label), np.where(stuff[..., None], WRONG, RIGHT)
    )


def test_segments_match_whatever_their_ids():
    truth = np.array([[1, 1, 2, 2, 0, 0]])
    assert not unmatched(np.array([[9, 9, 4, 4, 0, 0]]), truth).any()
    # One segment lost to the background, one invented.
    truth = np.array([[1, 1, 2, 0, 0, 0]])
    np.testing.assert_array_equal(
        unmatched(np.array([[9, 9, 0, 0, 0, 5]]), truth), [[0, 0, 1, 0, 0, 1]]
    )
    # Two segments merged: the smaller one is wrong.
    truth = np.array([[1, 1, 1, 2, 0, 0]])
    np.testing.assert_array_equal(
        unmatched(np.array([[7, 7, 7, 7, 0, 0]]), truth), [[0, 0, 0, 1, 0, 0]]
    )


def test_a_legend_names_only_the_classes_that_are_shown():
    task = SCENES_TASKS["semantic"]
    assert len(task.legend().classes) == task.num_classes + 1
    names = [name for name, _ in task.legend([np.array([[8, -1]]), np.array([[0, 8]])]).classes]
    assert names == [task.classes[0], task.classes[8], "void"]
    panoptic = SCENES_TASKS["panoptic"]
    assert [name for name, _ in panoptic.legend([a_label(panoptic)]).classes] == [
        "wall",
        "ball",
        "void",
    ]


def test_color_bars_have_ends_with_units():
    (values,) = TASKS["depth"].legend().bars
    (errors,) = TASKS["depth"].error_legend().bars
    assert values[:3] == ("depth", "0", "10 m") and errors[:3] == ("depth error", "0", "1 m")
    assert values.colors[0].any()  # black would be an unknown depth
    (bar,) = TASKS["denoise"].error_legend().bars
    assert bar[:3] == ("error, mean of the channels", "0", "64 of 255")
    assert TASKS["denoise"].legend() == ((), ())


def test_submissions_hold_what_the_benchmarks_take():
    panoptic = SCENES_TASKS["panoptic"]
    label = a_label(panoptic)
    targets = panoptic.encode_components(label, SIZE)
    prediction = panoptic.decode_components({name: t.rgb for name, t in targets.items()}, SIZE)
    annotation = panoptic.submission_annotation("000000142238", prediction)
    assert annotation["image_id"] == 142238 and annotation["file_name"] == "000000142238.png"
    assert all(
        list(segment) == ["id", "category_id", "area", "iscrowd"]
        for segment in annotation["segments_info"]
    )
    assert panoptic.submission_annotation("a1", prediction)["image_id"] == "a1"
    index = panoptic.submission_index([annotation])
    assert index == {"annotations": [annotation], "categories": panoptic.categories}
    assert TASKS["depth"].submission_annotation("a", None) is None


def test_what_does_not_fit_a_submission_is_refused():
    far = dataclasses.replace(Depth(), max_depth=80.0)
    with pytest.raises(ValueError, match="depths in millimeters 80000..80000 do not fit 16 bits"):
        far.submission_pixels(far.decode(np.ones((2, 2, 3), np.float32)))
