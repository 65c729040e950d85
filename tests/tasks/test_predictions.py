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


def test_only_quantities_are_averaged():
    check_samples([TASKS[name] for name in ("depth", "denoise")], 4)
    with pytest.raises(ValueError, match="samples=4 .* predict semantic, panoptic with samples=1"):
        check_samples([TASKS[name] for name in ("depth", "semantic", "panoptic")], 4)
    with pytest.raises(ValueError, match="samples is 0"):
        check_samples([], 0)
