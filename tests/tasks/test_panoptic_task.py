"""Panoptic: the merge rules on cases worked out by hand, and exact round trips."""

import dataclasses

import numpy as np
import pytest

from generalist.tasks import COCO_CATEGORIES, SCENES_CATEGORIES, SCENES_TASKS, TASKS
from generalist.tasks.instance_decoders import Candidates

CATEGORY = {category["name"]: category["id"] for category in SCENES_CATEGORIES}
CLASS = {category["name"]: index for index, category in enumerate(SCENES_CATEGORIES)}
# Painter's code and decoder on the scenes' classes: gate 0.55, overlap 0.5; stuff from 20 of 400
# pixels.
TASK = dataclasses.replace(
    SCENES_TASKS["panoptic"], instance=TASKS["instance"], stuff_area=20 / 400
)


def segment(number, category, area, iscrowd=0):
    return {"id": number, "category_id": category, "iscrowd": iscrowd, "area": area}


def scene(categories):
    """Two things and one crowd on two stuffs and void, as (id map, segments_info)."""
    things = [c["id"] for c in categories if c["isthing"]]
    stuff = [c["id"] for c in categories if not c["isthing"]]
    id_map = np.full((32, 32), 11, np.int64)
    id_map[20:] = 12
    id_map[:4, 24:] = 0
    id_map[2:12, 2:14], id_map[14:28, 16:30], id_map[24:30, 2:10] = 101, 205, 300
    category = {11: stuff[0], 12: stuff[1], 101: things[3], 205: things[5], 300: things[1]}
    ids, areas = np.unique(id_map[id_map > 0], return_counts=True)
    return id_map, [
        segment(i, category[i], n, int(i == 300))
        for i, n in zip(ids.tolist(), areas.tolist(), strict=True)
    ]


def masks_of(id_map, segments):
    return {(s["category_id"], (id_map == s["id"]).tobytes()) for s in segments}


@pytest.mark.parametrize(
    "tasks,categories",
    [(TASKS, COCO_CATEGORIES), (SCENES_TASKS, SCENES_CATEGORIES)],
    ids=["paper", "scenes"],
)
@pytest.mark.parametrize("size", [32, 64])
def test_round_trip(tasks, categories, size):
    task, label = dataclasses.replace(tasks["panoptic"], stuff_area=10), scene(categories)
    targets = task.encode_components(label, size)
    assert tuple(targets) == task.components
    prediction = task.decode_components(
        {name: target.rgb for name, target in targets.items()}, (32, 32)
    )
    assert prediction.id_map.dtype == np.int32 and prediction.confidence.dtype == np.float32
    # Void is not predicted by the semantic output: only the other pixels must agree, and the crowd
    # is no instance.
    id_map = np.where((label[0] == 0) | (label[0] == 300), 0, prediction.id_map)
    expected = [s for s in label[1] if s["id"] != 300]
    found = [s for s in prediction.segments_info if (id_map == s["id"]).any()]
    assert masks_of(id_map, found) == masks_of(label[0], expected)
    metric = task.metric()
    metric.update(task.label_of(prediction), label)
    assert metric.compute()["pq"] == 1.0 and metric.protocol == task.protocol


def test_component_labels():
    labels = TASK.component_labels(scene(SCENES_CATEGORIES))
    classes, instances = labels["semantic"], labels["instance"]
    assert classes.dtype == instances.dtype == np.int32
    assert (
        classes[0, 0] == CLASS["wall"]
        and classes[31, 31] == CLASS["floor"]
        and classes[0, 31] == -1
    )
    assert classes[25, 4] == CLASS["crate"] and instances[25, 4] == -1  # a crowd keeps its class
    assert instances[5, 5] == 1 and instances[20, 20] == 2 and instances[0, 0] == 0
    assert instances[0, 31] == -1


class FixedInstances(type(TASKS["instance"])):
    """Instances that do not come from colours: the masks and scores of `merge`'s worked example."""

    def candidates(self, rgb):
        masks = np.zeros((4, 20, 20), bool)
        masks[0, 0:8, 0:10] = True  # 80 pixels
        masks[1, 4:10, 0:10] = True  # 60 pixels, 40 of them taken: more than half, skipped
        masks[2, 6:12, 0:10] = True  # 60 pixels, 20 taken: the free 40 are painted
        masks[3, 15:20, 15:20] = True  # its score is below the gate
        return Candidates(masks, np.array([0.9, 0.8, 0.55, 0.549]))


def merged(overlap=0.5):
    semantic = np.full((20, 20), CLASS["wall"])
    semantic[0:4, 0:10], semantic[4:8, 0:5], semantic[8:12, 0:10] = (
        CLASS["ball"],
        CLASS["cone"],
        CLASS["table"],
    )
    semantic[0:3, 10:16] = CLASS["rug"]  # 18 pixels: less than 20
    semantic[0:4, 16:20], semantic[4, 16:20] = CLASS["sky"], CLASS["sky"]  # 20 pixels: enough
    semantic[18:20, 0:3] = CLASS["barrel"]  # a thing class outside of every instance: void
    task = dataclasses.replace(TASK, instance=FixedInstances(overlap=overlap))
    return task.merge(task.semantic.encode(semantic, 20).rgb, np.zeros((20, 20, 3), np.float32))


def test_merge_by_hand():
    prediction = merged()
    expected = np.full((20, 20), 3)
    expected[0:8, 0:10] = 1
    expected[8:12, 0:10] = 2
    expected[0:3, 10:16], expected[18:20, 0:3] = 0, 0
    expected[0:5, 16:20] = 4
    category = [0, CATEGORY["ball"], CATEGORY["table"], CATEGORY["wall"], CATEGORY["sky"]]
    ids = {s["category_id"]: s["id"] for s in prediction.segments_info}
    for number in range(1, 5):
        np.testing.assert_array_equal(
            prediction.id_map == ids[category[number]], expected == number
        )
    np.testing.assert_array_equal(prediction.id_map == 0, expected == 0)
    areas = {s["category_id"]: (s["area"], s["iscrowd"]) for s in prediction.segments_info}
    assert areas == {
        category[1]: (80, 0),
        category[2]: (40, 0),
        category[3]: (400 - 80 - 40 - 18 - 6 - 20, 0),
        category[4]: (20, 0),
    }


def test_merge_confidence():
    confidence = merged().confidence
    assert confidence[0, 0] == np.float32(0.9) and confidence[11, 0] == np.float32(0.55)
    assert confidence[15, 10] == pytest.approx(1.0, abs=1e-4) and confidence[0, 12] == 0.0


def test_overlap_gate_lets_more_instances_in():
    assert len(merged(overlap=0.7).segments_info) == 5


def test_class_is_the_closest_thing_even_where_stuff_was_painted():
    semantic_rgb = TASK.semantic.encode(np.full((20, 20), CLASS["wall"]), 20).rgb
    label = np.zeros((20, 20), np.int32)
    label[3:12, 3:12] = 1
    prediction = TASK.merge(semantic_rgb, TASK.instance.encode(label, 20).rgb)
    things = [c for c in SCENES_CATEGORIES if c["isthing"]]
    palette = TASK.semantic.palette
    closest = min(things, key=lambda c: np.abs(palette[c["id"] - 1] - palette[CLASS["wall"]]).sum())
    assert prediction.segments_info[0]["category_id"] == closest["id"]


@pytest.mark.parametrize(
    ("tasks", "size"), [(TASKS, (96, 128)), (SCENES_TASKS, (8, 12))], ids=["paper", "scenes"]
)
def test_an_image_without_instances_is_stuff(tasks, size):
    task, area = tasks["panoptic"], size[0] * size[1]
    stuff = next(c for c in reversed(task.categories) if not c["isthing"])
    label = (np.ones((16, 16), np.int32), [segment(1, stuff["id"], 256)])
    targets = task.encode_components(label, 16)
    prediction = task.decode_components(
        {name: target.rgb for name, target in targets.items()}, size
    )
    expected = segment(1, stuff["id"], area) | {"name": stuff["name"], "isthing": 0}
    assert prediction.segments_info == [expected]
    np.testing.assert_array_equal(prediction.id_map, np.ones(size))


def test_a_small_photograph_is_not_all_void():
    """Four quarters of stuff, each smaller than Painter's smallest segment."""
    task = TASKS["panoptic"]
    stuff = [c["id"] for c in task.categories if not c["isthing"]][:4]
    id_map = np.kron(np.array([[1, 2], [3, 4]], np.int32), np.ones((75, 100), np.int32))
    label = id_map, [segment(k + 1, category, 7500) for k, category in enumerate(stuff)]
    targets = task.encode_components(label, id_map.shape)
    rgbs = {name: target.rgb for name, target in targets.items()}
    prediction = task.decode_components(rgbs, id_map.shape)
    assert sorted(s["category_id"] for s in prediction.segments_info) == sorted(stuff)

    painter = task.variants()["_painter"].decode_components(rgbs, id_map.shape)
    assert painter.segments_info == []
    assert SCENES_TASKS["panoptic"].variants() == {}


def test_painters_parameters():
    task = TASKS["panoptic"]
    assert task.components == ("coco_semantic", "instance")
    assert (task.instance.score_gate, task.instance.overlap, task.instance.threshold) == (
        0.55,
        0.5,
        19.0,
    )
    assert SCENES_TASKS["panoptic"].stuff_area * 640 * 480 == 64 * 64


@pytest.mark.parametrize(
    ("size", "kept"), [((480, 640), True), ((427, 640), False), ((427, 640), True)]
)
def test_painters_smallest_stuff_is_8192_pixels_whatever_the_image(size, kept):
    """At 640 x 427 the share that 8192 pixels are of 640 x 480 would be 7,287."""
    task = TASKS["panoptic"].variants()["_painter"]
    assert task.semantic.upsample == "rgb" and task.stuff_area == 8192
    wall, sky = [c for c in task.categories if not c["isthing"]][:2]
    id_map = np.full(size, 1, np.int32)
    id_map.ravel()[-(8192 if kept else 8191) :] = 2
    label = (
        id_map,
        [
            segment(1, wall["id"], int((id_map == 1).sum())),
            segment(2, sky["id"], int((id_map == 2).sum())),
        ],
    )
    prediction = task.decode_components(
        {name: target.rgb for name, target in task.encode_components(label, size).items()}, size
    )
    assert (sky["id"] in [s["category_id"] for s in prediction.segments_info]) is kept


def test_render_shows_classes_and_borders():
    label = scene(SCENES_CATEGORIES)
    picture = TASK.render(label)
    legend = dict(TASK.legend().classes)
    assert picture.dtype == np.uint8 and picture.shape == (32, 32, 3)
    assert tuple(picture[15, 3]) == legend["wall"] and tuple(picture[1, 30]) == (0, 0, 0)
    assert picture[2, 5].sum() < picture[3, 5].sum()


def test_errors():
    id_map, segments = scene(SCENES_CATEGORIES)
    with pytest.raises(
        ValueError, match=r"id 205 .* not in segments_info, which has \[11, 12, 101, 300\]"
    ):
        TASK.encode_components((id_map, [s for s in segments if s["id"] != 205]), 32)
    with pytest.raises(ValueError, match="unknown category id 17; valid ids are"):
        TASK.encode_components((np.ones((4, 4), int), [segment(1, 17, 16)]), 4)
    with pytest.raises(ValueError, match="must be the classes of task 'semantic'"):
        dataclasses.replace(TASK, categories=COCO_CATEGORIES)
