"""Predictions: typed fields, pictures, and files that read back to the same numbers."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from generalist.tasks import SCENES_TASKS, TASKS, check_samples

SIZE = (12, 20)


def painted(name, label):
    return {name: SCENES_TASKS[name].encode(label, SIZE).rgb[None]}


@pytest.fixture
def depth():
    metres = np.linspace(0.5, 9.5, 240, dtype=np.float32).reshape(SIZE)
    return SCENES_TASKS["depth"].decode_samples(painted("depth", metres), SIZE), metres


def test_depth_is_saved_in_millimetres_and_metres(depth, tmp_path):
    prediction, metres = depth
    assert (
        prediction.task == "depth"
        and repr(prediction) == "DepthPrediction(task='depth', height=12, width=20)"
    )
    np.testing.assert_allclose(prediction.depth, metres, atol=1e-5)
    assert prediction.save(tmp_path / "new" / "d.png") == [tmp_path / "new" / "d.png"]
    millimetres = np.asarray(Image.open(tmp_path / "new" / "d.png"))
    assert millimetres.dtype == np.uint16
    np.testing.assert_array_equal(millimetres, np.rint(prediction.depth * 1000))
    prediction.save(tmp_path / "d.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), prediction.depth)


def test_unknown_suffix_lists_the_formats(depth, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"d\.jpg: a prediction of task 'depth' is saved as \.png or \.npy, not '\.jpg'",
    ):
        depth[0].save(tmp_path / "d.jpg")
    assert list(tmp_path.iterdir()) == []


def test_depth_beyond_16_bits_is_not_wrapped(tmp_path):
    far = dataclasses.replace(SCENES_TASKS["depth"], max_depth=80.0)
    prediction = far.decode_samples({"depth": np.ones((1, *SIZE, 3), np.float32)}, SIZE)
    with pytest.raises(
        ValueError, match=r"d\.png: depths in millimeters 80000..80000 do not fit 16 bits"
    ):
        prediction.save(tmp_path / "d.png")


def test_semantic_is_saved_as_class_ids(tmp_path):
    classes = np.arange(240, dtype=np.int32).reshape(SIZE) % 16
    prediction = SCENES_TASKS["semantic"].decode_samples(painted("semantic", classes), SIZE)
    np.testing.assert_array_equal(prediction.classes, classes)
    assert prediction.names[8] == "sky" and len(prediction.names) == 16
    prediction.save(tmp_path / "s.PNG")
    saved = np.asarray(Image.open(tmp_path / "s.PNG"))
    assert saved.dtype == np.uint8
    np.testing.assert_array_equal(saved, classes)


def test_instances_are_saved_as_16_bit_ids(tmp_path):
    ids = np.zeros(SIZE, np.int32)
    ids[1:5, 1:5], ids[6:11, 12:19] = 1, 2
    prediction = SCENES_TASKS["instance"].decode_samples(painted("instance", ids), SIZE)
    assert ((prediction.instances > 0) == (ids > 0)).all()
    assert (
        len(np.unique(prediction.instances)) == 3
        and prediction.masks.shape[1:] == SIZE
        and len(prediction.scores) == len(prediction.masks)
    )
    prediction.save(tmp_path / "i.png")
    saved = np.asarray(Image.open(tmp_path / "i.png"))
    assert saved.dtype == np.uint16
    np.testing.assert_array_equal(saved, prediction.instances)


def test_panoptic_is_saved_as_coco_does(tmp_path):
    classes, ids = (
        np.full(SIZE, 1, np.int32),
        np.zeros(SIZE, np.int32),
    )  # a floor, and a barrel on it
    classes[2:10, 4:14], ids[2:10, 4:14] = 11, 1
    prediction = SCENES_TASKS["panoptic"].decode_samples(
        painted("semantic", classes) | painted("instance", ids), SIZE
    )
    found = {segment["name"]: segment for segment in prediction.segments_info}
    assert {name: (s["area"], s["isthing"], s["category_id"]) for name, s in found.items()} == {
        "floor": (160, 0, 2),
        "barrel": (80, 1, 12),
    }
    files = prediction.save(tmp_path / "p.png")
    assert files == [tmp_path / "p.png", tmp_path / "p.json"]
    r, g, b = np.moveaxis(np.asarray(Image.open(files[0])).astype(int), -1, 0)
    np.testing.assert_array_equal(r + 256 * g + 65536 * b, prediction.id_map)
    content = json.loads(files[1].read_text())
    assert content["annotations"] == [
        {"image_id": "p", "file_name": "p.png", "segments_info": prediction.segments_info}
    ]
    assert content["categories"][0] == {"id": 1, "name": "wall", "isthing": 0}


def test_restored_image_is_saved_as_it_is(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    prediction = SCENES_TASKS["denoise"].decode_samples(painted("denoise", image), SIZE)
    prediction.save(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    np.testing.assert_array_equal(prediction.render(), image)


def test_samples_are_averaged_and_their_spread_is_in_the_unit_of_the_result():
    draws = np.stack(
        [np.full((*SIZE, 3), grey, np.float32) for grey in (-0.5, 0.5)]
    )  # 2.5 m and 7.5 m
    prediction = SCENES_TASKS["depth"].decode_samples({"depth": draws}, SIZE, samples=2)
    np.testing.assert_allclose(prediction.depth, 5.0, atol=1e-5)
    np.testing.assert_allclose(prediction.uncertainty, 2.5, atol=1e-5)
    draws = np.stack([np.full((*SIZE, 3), level / 127.5 - 1, np.float32) for level in (100, 120)])
    prediction = SCENES_TASKS["denoise"].decode_samples({"denoise": draws}, SIZE, samples=2)
    assert (prediction.image == 110).all() and prediction.uncertainty.shape == SIZE
    np.testing.assert_allclose(prediction.uncertainty, 10.0)


def test_most_samples_decide_a_class_and_their_share_is_the_confidence():
    task = SCENES_TASKS["semantic"]
    answers = [[0, 1, 2, 3], [0, 1, 3, 5], [0, 2, 3, 4]]
    draws = [task.encode(np.tile(np.int32(row), (2, 1)), (2, 4)).rgb for row in answers]
    prediction = task.decode_samples({"semantic": np.stack(draws)}, samples=3)
    # Of three answers to one pixel the lowest class wins.
    np.testing.assert_array_equal(prediction.classes, [[0, 1, 3, 3]] * 2)
    shares = np.float32([[1, 2 / 3, 2 / 3, 1 / 3]] * 2)
    np.testing.assert_allclose(prediction.confidence, shares, rtol=1e-6)
    np.testing.assert_allclose(prediction.uncertainty, 1 - shares, rtol=1e-6)


def boxes(*places, size=32):
    """Instances of 8 x 8 pixels at (row, column), numbered in that order."""
    label = np.zeros((size, size), np.int32)
    for number, (row, column) in enumerate(places, start=1):
        label[row : row + 8, column : column + 8] = number
    return label


def test_the_instances_are_those_of_the_sample_that_the_others_agree_with():
    task = SCENES_TASKS["instance"]
    here = (2, 2)
    there = (20, 20)
    # One misses an instance, one has another in a wrong place, whatever the order of their ids.
    answers = [boxes(here), boxes(there, here), boxes(here, there, (2, 20))]
    draws = np.stack([task.encode(label, label.shape).rgb for label in answers])
    prediction = task.decode_samples({"instance": draws}, samples=3)
    assert prediction.instances.max() == 2 and len(prediction.masks) == 2

    shares = np.ones((32, 32), np.float32)
    shares[20:28, 20:28] = 2 / 3  # the first has nothing there
    shares[2:10, 20:28] = 2 / 3  # the third has something there
    np.testing.assert_allclose(prediction.confidence, shares, rtol=1e-6)
    np.testing.assert_allclose(prediction.uncertainty, 1 - shares, rtol=1e-6, atol=1e-7)


def test_segments_agree_in_their_class_too():
    task = SCENES_TASKS["panoptic"]
    names = list(task.semantic.classes)
    ball, cone = names.index("ball"), names.index("cone")
    instances = boxes((2, 2), (20, 20))
    rgbs = {"semantic": [], "instance": []}
    for kind in (ball, ball, cone):
        classes = np.where(instances > 0, ball, names.index("floor")).astype(np.int32)
        classes[instances == 2] = kind
        rgbs["semantic"].append(task.semantic.encode(classes, classes.shape).rgb)
        rgbs["instance"].append(task.instance.encode(instances, classes.shape).rgb)
    stacked = {name: np.stack(draws) for name, draws in rgbs.items()}
    prediction = task.decode_samples(stacked, samples=3)

    assert sorted(segment["name"] for segment in prediction.segments_info) == [
        "ball",
        "ball",
        "floor",
    ]
    expected = np.where(instances == 2, np.float32(1 / 3), 0)
    np.testing.assert_allclose(prediction.uncertainty, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["semantic", "instance"])
def test_a_single_draw_for_many_samples_is_certain(name):
    """Where the sampler is not random, one is drawn."""
    task = SCENES_TASKS[name]
    draw = task.encode(boxes((2, 2)), (32, 32)).rgb
    alone = task.decode_samples({name: draw[None]}, samples=1)
    assert alone.uncertainty is None
    prediction = task.decode_samples({name: draw[None]}, samples=8)
    np.testing.assert_array_equal(task.label_of(prediction), task.label_of(alone))
    assert (prediction.uncertainty == 0).all() and (prediction.confidence == 1).all()


def test_what_cannot_become_one_answer_is_refused():
    check_samples([TASKS[name] for name in ("depth", "semantic", "panoptic")], 4)
    with pytest.raises(
        ValueError, match="which those of text_to_image do not: predict it with samples=1"
    ):
        check_samples([SCENES_TASKS["text_to_image"]], 4)
    with pytest.raises(ValueError, match="samples is 0"):
        check_samples([], 0)
