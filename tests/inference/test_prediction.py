"""Results: typed fields, pictures, and files that read back to the same numbers."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from generalist.inference.prediction import check_samples, make_result
from generalist.tasks import SCENES_TASKS, TASKS

SIZE = (12, 20)


def painted(name, label):
    return {name: SCENES_TASKS[name].encode(label, SIZE).rgb[None]}


@pytest.fixture
def depth():
    metres = np.linspace(0.5, 9.5, 240, dtype=np.float32).reshape(SIZE)
    return make_result(SCENES_TASKS["depth"], painted("depth", metres), SIZE), metres


def test_depth_is_saved_in_millimetres_and_metres(depth, tmp_path):
    result, metres = depth
    assert (
        result.task == "depth" and repr(result) == "DepthResult(task='depth', height=12, width=20)"
    )
    np.testing.assert_allclose(result.depth, metres, atol=1e-5)
    assert result.save(tmp_path / "new" / "d.png") == [tmp_path / "new" / "d.png"]
    millimetres = np.asarray(Image.open(tmp_path / "new" / "d.png"))
    assert millimetres.dtype == np.uint16
    np.testing.assert_array_equal(millimetres, np.rint(result.depth * 1000))
    result.save(tmp_path / "d.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "d.npy"), result.depth)


def test_unknown_suffix_lists_the_formats(depth, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"d\.jpg: a result of task 'depth' is saved as \.png or \.npy, not '\.jpg'",
    ):
        depth[0].save(tmp_path / "d.jpg")
    assert list(tmp_path.iterdir()) == []


def test_depth_beyond_16_bits_is_not_wrapped(tmp_path):
    far = dataclasses.replace(SCENES_TASKS["depth"], max_depth=80.0)
    result = make_result(far, {"depth": np.ones((1, *SIZE, 3), np.float32)}, SIZE)
    with pytest.raises(ValueError, match="millimetres up to 80000 do not fit 16 bits"):
        result.save(tmp_path / "d.png")


def test_semantic_is_saved_as_class_ids(tmp_path):
    classes = np.arange(240, dtype=np.int32).reshape(SIZE) % 16
    result = make_result(SCENES_TASKS["semantic"], painted("semantic", classes), SIZE)
    np.testing.assert_array_equal(result.classes, classes)
    assert result.names[8] == "sky" and len(result.names) == 16
    result.save(tmp_path / "s.PNG")
    saved = np.asarray(Image.open(tmp_path / "s.PNG"))
    assert saved.dtype == np.uint8
    np.testing.assert_array_equal(saved, classes)


def test_instances_are_saved_as_16_bit_ids(tmp_path):
    ids = np.zeros(SIZE, np.int32)
    ids[1:5, 1:5], ids[6:11, 12:19] = 1, 2
    result = make_result(SCENES_TASKS["instance"], painted("instance", ids), SIZE)
    assert ((result.instances > 0) == (ids > 0)).all()
    assert (
        len(np.unique(result.instances)) == 3
        and result.masks.shape[1:] == SIZE
        and len(result.scores) == len(result.masks)
    )
    result.save(tmp_path / "i.png")
    saved = np.asarray(Image.open(tmp_path / "i.png"))
    assert saved.dtype == np.uint16
    np.testing.assert_array_equal(saved, result.instances)


def test_panoptic_is_saved_as_coco_does(tmp_path):
    classes, ids = (
        np.full(SIZE, 1, np.int32),
        np.zeros(SIZE, np.int32),
    )  # a floor, and a barrel on it
    classes[2:10, 4:14], ids[2:10, 4:14] = 11, 1
    result = make_result(
        SCENES_TASKS["panoptic"], painted("semantic", classes) | painted("instance", ids), SIZE
    )
    found = {segment["name"]: segment for segment in result.segments_info}
    assert {name: (s["area"], s["isthing"], s["category_id"]) for name, s in found.items()} == {
        "floor": (160, 0, 2),
        "barrel": (80, 1, 12),
    }
    files = result.save(tmp_path / "p.png")
    assert files == [tmp_path / "p.png", tmp_path / "p.json"]
    r, g, b = np.moveaxis(np.asarray(Image.open(files[0])).astype(int), -1, 0)
    np.testing.assert_array_equal(r + 256 * g + 65536 * b, result.id_map)
    content = json.loads(files[1].read_text())
    assert content["annotations"] == [
        {"image_id": "p", "file_name": "p.png", "segments_info": result.segments_info}
    ]
    assert content["categories"][0] == {"id": 1, "name": "wall", "isthing": 0}


def test_restored_image_is_saved_as_it_is(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    result = make_result(SCENES_TASKS["denoise"], painted("denoise", image), SIZE)
    result.save(tmp_path / "x.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)
    np.testing.assert_array_equal(result.render(), image)


def test_samples_are_averaged_and_their_spread_is_in_the_unit_of_the_result():
    draws = np.stack(
        [np.full((*SIZE, 3), grey, np.float32) for grey in (-0.5, 0.5)]
    )  # 2.5 m and 7.5 m
    result = make_result(SCENES_TASKS["depth"], {"depth": draws}, SIZE, samples=2)
    np.testing.assert_allclose(result.depth, 5.0, atol=1e-5)
    np.testing.assert_allclose(result.uncertainty, 2.5, atol=1e-5)
    draws = np.stack([np.full((*SIZE, 3), level / 127.5 - 1, np.float32) for level in (100, 120)])
    result = make_result(SCENES_TASKS["denoise"], {"denoise": draws}, SIZE, samples=2)
    assert (result.image == 110).all() and result.uncertainty.shape == SIZE
    np.testing.assert_allclose(result.uncertainty, 10.0)


def test_only_quantities_are_averaged():
    check_samples({name: TASKS[name] for name in ("depth", "denoise")}, 4)
    with pytest.raises(ValueError, match="samples=4 .* predict semantic, panoptic with samples=1"):
        check_samples({name: TASKS[name] for name in ("depth", "semantic", "panoptic")}, 4)
    with pytest.raises(ValueError, match="samples is 0"):
        check_samples({}, 0)
