"""Promises of the built-in scenes (reproducible, exact, varied) and of their degradations."""

import colorsys
import math
import pickle

import numpy as np
import pytest

from generalist.input_pipeline.scenes import (
    SCENES_SOURCE_TASKS,
    ScenesSource,
    add_noise,
    add_rain,
    low_light,
    render,
)
from generalist.input_pipeline.scenes.geometry import Boxes, Camera, Frusta, Spheres, pairs
from generalist.input_pipeline.scenes.layout import sample_world
from generalist.input_pipeline.scenes.materials import CEILING, CONE, FLOOR, GRASS, SKY, hsv_to_rgb
from generalist.input_pipeline.scenes.source import panoptic_label
from generalist.tasks.palettes import SCENES_CATEGORIES

DEGRADATIONS = (add_noise, add_rain, low_light)


@pytest.fixture(scope="module")
def scenes():
    return [render(0, "train", index, 32) for index in range(200)]


def generator(*words):
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def psnr(image, reference):
    return 10 * np.log10(255**2 / np.mean((image.astype(float) - reference) ** 2))


def column(*values):
    return np.array(values, np.float32)[:, None]


# --- reproducible ---


def test_a_scene_is_a_function_of_its_arguments():
    for first, second in zip(render(3, "val", 17, 48), render(3, "val", 17, 48), strict=True):
        np.testing.assert_array_equal(first, second)


def test_seeds_splits_and_indices_share_nothing():
    keys = ((0, "train", 0), (0, "val", 0), (0, "test", 0), (1, "train", 0), (0, "train", 1))
    images = [render(*key, 24).image for key in keys]
    assert len({image.tobytes() for image in images}) == 5


def test_the_world_does_not_depend_on_the_size():
    # The middle pixel of every 3 x 3 block of the large view looks along the ray of the small
    # view's pixel.
    for index in range(6):
        small, large = render(0, "train", index, 32), render(0, "train", index, 96)
        np.testing.assert_array_equal(small.classes, large.classes[1::3, 1::3])
        same = (small.depth > 0) & (large.depth[1::3, 1::3] > 0)
        np.testing.assert_allclose(small.depth[same], large.depth[1::3, 1::3][same], rtol=1e-5)


@pytest.mark.parametrize("size", [(20, 45), (51, 16), 1])
def test_any_size_and_its_dtypes(size):
    shape = (size, size) if isinstance(size, int) else size
    scene = render(0, "test", 2, size)
    assert scene.image.shape == (*shape, 3) and scene.image.dtype == np.uint8
    assert [(part.shape, part.dtype) for part in scene[1:]] == [
        (shape, np.float32),
        (shape, np.int32),
        (shape, np.int32),
        (shape, np.uint8),
    ]


# --- exact ---


def test_floor_depth_is_the_closed_form_of_the_plane():
    checked = 0
    for index in range(12):
        world, scene = sample_world(generator(0, 0, index)), render(0, "train", index, 40)
        # A pixel (40 - 2 row - 1) / 80 of the focal plane's height above the center falls this much
        # per meter of z-depth.
        up = (39 - 2 * np.arange(40)) / 40 * math.tan(world.fov / 2)
        fall = -(math.sin(world.pitch) + math.cos(world.pitch) * up)
        plane = np.broadcast_to(
            (world.camera_height / np.where(fall > 0, fall, np.nan))[:, None], (40, 40)
        )
        seen = np.isin(scene.classes, (FLOOR, GRASS)) & (scene.depth > 0)
        np.testing.assert_allclose(scene.depth[seen], plane[seen], rtol=1e-4)
        checked += seen.sum()
    assert checked > 1000


def test_solids_are_hit_where_geometry_says():
    ahead = np.array([[0.0], [1.0], [0.0]], np.float32)
    sphere, box = column(0, 5, 1, 0.5), column(0, 5, 1, 0.3, 0.7, 1, 1, 0)

    # By 90 degrees: the other half extent faces the camera.
    turned = column(0, 5, 1, 0.3, 0.7, 1, 0, 1)
    cone = column(0, 5, 0, 2, 1, 0)  # radius 0.5 at the camera's height of 1 m
    assert Spheres.hit(sphere, 1.0, ahead) == pytest.approx(4.5)
    assert Boxes.hit(box, 1.0, ahead) == pytest.approx(4.3)
    assert Boxes.hit(turned, 1.0, ahead) == pytest.approx(4.7)
    assert Frusta.hit(cone, 1.0, ahead) == pytest.approx(4.5)
    misses = (
        Spheres.hit(sphere, 1.6, ahead),
        Boxes.hit(box, 2.1, ahead),
        Frusta.hit(cone, 2.1, ahead),
    )
    assert np.isinf(misses).all()
    down = column(0, 1, -0.2)  # from 2 m onto the top of a barrel 1 m high: 5 m ahead
    assert Frusta.hit(column(0, 5, 0, 1, 0.5, 0.5), 2.0, down) == pytest.approx(5.0)
    # outward normals: the cone of height 2 and radius 1 leans back by atan(1 / 2)
    normal = Frusta.surface_at(cone, column(0, 4.5, 1)).normal[:, 0]
    np.testing.assert_allclose(normal, [0, -2 / math.sqrt(5), 1 / math.sqrt(5)], atol=1e-5)
    normal = Boxes.surface_at(turned, column(0, 4.7, 1)).normal[:, 0]
    np.testing.assert_allclose(normal, [0, -1, 0], atol=1e-6)


def test_rectangles_hold_every_pixel_of_the_solids():
    camera = Camera(1.5, np.eye(3)[[0, 2, 1]], 40.0, (30, 50))
    spheres = Spheres(
        np.array([[0.3, -1, 9], [3, 2, 2], [1, 1.4, 1], [0.5, 0.8, 0.5]], np.float32), np.arange(3)
    )
    rectangles = camera.rectangles(*spheres.bounds())
    counts, pixels = pairs(rectangles, 50)
    assert counts[2] == 0  # far outside to the right
    directions = camera.directions()
    for solid in range(2):
        inside = pixels[counts[:solid].sum() : counts[: solid + 1].sum()]
        hit = np.flatnonzero(
            np.isfinite(Spheres.hit(spheres.shape[:, solid : solid + 1], 1.5, directions))
        )
        assert len(hit) and set(hit) <= set(inside) and len(set(inside)) == counts[solid]


def test_hsv_to_rgb_agrees_with_the_standard_library():
    hsv = generator(5).random((3, 50))
    expected = np.array([colorsys.hsv_to_rgb(*color) for color in hsv.T]).T
    np.testing.assert_allclose(hsv_to_rgb(*hsv), expected, atol=1e-5)


# --- consistent and varied ---


def test_labels_are_consistent(scenes):
    is_thing = np.array(
        [category["isthing"] for category in SCENES_CATEGORIES] + [0]
    )  # the last answers for void, -1
    for scene in scenes:
        assert scene.classes.min() >= -1 and scene.classes.max() < len(SCENES_CATEGORIES)
        np.testing.assert_array_equal(scene.instances > 0, is_thing[scene.classes] == 1)
        ids = np.unique(scene.instances[scene.instances > 0])
        np.testing.assert_array_equal(ids, np.arange(1, len(ids) + 1))
        assert all(len(np.unique(scene.classes[scene.instances == i])) == 1 for i in ids)
        valid = scene.depth[scene.depth != 0]
        assert valid.min() >= 0.5 and valid.max() <= 10
        assert (scene.depth[scene.classes == SKY] == 0).all()


def test_every_class_void_and_both_worlds_occur(scenes):
    pixels = sum(np.bincount(scene.classes.ravel() + 1, minlength=17) for scene in scenes) / (
        200 * 32 * 32
    )
    assert (pixels > 0.004).all(), pixels
    assert 0.01 < pixels[0] < 0.03
    rooms = np.mean(
        [(scene.classes == CEILING).any() or (scene.classes == FLOOR).any() for scene in scenes]
    )
    assert 0.4 < rooms < 0.6


def test_scenes_range_from_a_few_to_dozens_of_instances(scenes):
    counts = np.array([scene.instances.max() for scene in scenes])
    assert counts.max() > 24 and 6 < counts.mean() < 14 and (counts <= 3).any()


def test_most_of_the_near_world_has_depth_and_some_of_it_is_missing(scenes):
    indoors = np.concatenate(
        [scene.depth[(scene.classes >= 0)] for scene in scenes if (scene.classes == FLOOR).any()]
    )
    assert 0.002 < np.mean(indoors == 0) < 0.06


def test_materials_tell_the_classes_apart(scenes):
    def mean(label):
        return np.concatenate([scene.image[scene.classes == label] for scene in scenes]).mean(0)

    assert (
        mean(GRASS).argmax() == 1 and mean(SKY).argmax() == 2 and mean(CONE).argmax() == 0
    )  # green, blue, orange
    assert mean(CEILING).mean() > 1.2 * mean(FLOOR).mean()


# --- degradations ---


@pytest.mark.parametrize(
    ("degrade", "low", "high"), [(add_noise, 15, 22), (add_rain, 17, 24), (low_light, 6, 11)]
)
def test_degradations_are_as_strong_as_they_say(degrade, low, high):
    images = [render(0, "val", index, 64).image for index in range(24)]
    values = [psnr(degrade(image, generator(index)), image) for index, image in enumerate(images)]
    assert low < np.mean(values) < high and min(values) > low - 2.5 and max(values) < high + 2.5
    mild, severe = (
        [psnr(degrade(image, generator(0), strength), image) for image in images]
        for strength in (0, 1)
    )
    assert np.mean(mild) > np.mean(severe) + 2


@pytest.mark.parametrize("degrade", DEGRADATIONS)
def test_degradations_follow_their_generator_and_leave_the_input(degrade):
    image = render(0, "val", 1, (24, 40)).image
    copy = image.copy()
    first, again, other = (degrade(image, generator(seed)) for seed in (1, 1, 2))
    assert first.shape == image.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(image, copy)
    assert (first != other).any()
    with pytest.raises(ValueError, match="strength is 1.5"):
        degrade(image, generator(0), 1.5)


def test_noise_grows_with_the_signal():
    flat = np.concatenate([np.full((64, 64, 3), 40, np.uint8), np.full((64, 64, 3), 140, np.uint8)])
    noisy = np.concatenate(
        [add_noise(flat, generator(seed), 0.0).astype(float) for seed in range(8)], 1
    )
    assert noisy[64:].std() > 1.15 * noisy[:64].std()


# --- the source ---


@pytest.mark.parametrize("task", SCENES_SOURCE_TASKS)
def test_source_gives_the_task_its_label(task):
    source = pickle.loads(pickle.dumps(ScenesSource(task, "val", 5, (24, 32), seed=2)))
    scene, example = render(2, "val", 4, (24, 32)), source[4]
    assert len(source) == 5 and source.task == task and example["key"] == "scenes/2/val/00000004"
    if task == "panoptic":
        expected = panoptic_label(scene.classes, scene.instances)
        np.testing.assert_array_equal(example["label"][0], expected[0])
        assert example["label"][1] == expected[1]
        return
    field = {"depth": "depth", "semantic": "classes", "instance": "instances"}.get(task, "image")
    np.testing.assert_array_equal(example["label"], getattr(scene, field))
    degraded = task in ("denoise", "derain", "light")
    assert (example["image"] != scene.image).any() == degraded
    assert ("prompt" in example) == (task == "text_to_image")
    np.testing.assert_array_equal(example["image"], source[4]["image"])


def test_degradations_of_splits_and_tasks_are_drawn_apart():
    # what is added to a scene depends on its picture, so compare on one flat picture
    flat = np.full((16, 16, 3), 128, np.uint8)
    sources = [
        ScenesSource(task, split, 9, 16)
        for task in ("denoise", "light")
        for split in ("train", "val", "test")
    ]
    drawn = {source._degraded(flat, index).tobytes() for source in sources for index in (0, 1)}
    assert len(drawn) == 12


def test_panoptic_label_by_hand():
    classes = np.array([[0, 0, -1], [9, 9, 1], [10, 9, 1]], np.int32)
    instances = np.array([[0, 0, 0], [1, 1, 0], [2, 3, 0]], np.int32)
    id_map, segments = panoptic_label(classes, instances)
    np.testing.assert_array_equal(id_map, [[4, 4, 0], [1, 1, 5], [2, 3, 5]])
    triples = [(segment["id"], segment["category_id"], segment["area"]) for segment in segments]
    assert triples == [(1, 10, 2), (2, 11, 1), (3, 10, 1), (4, 1, 2), (5, 2, 2)]
    assert all(segment["iscrowd"] == 0 for segment in segments)


def test_errors_name_the_value_and_the_way_out():
    with pytest.raises(ValueError, match="task .*'dept'.*Did you mean 'depth'.*depth, semantic"):
        ScenesSource("dept")
    with pytest.raises(ValueError, match="split .*'valid'.*Did you mean 'val'.*train, val, test"):
        ScenesSource("depth", "valid")
    with pytest.raises(ValueError, match="size is 0"):
        ScenesSource("depth", size=0)
    with pytest.raises(ValueError, match="length is -1"):
        ScenesSource("depth", length=-1)
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"scene {index} is out of range.*3 scenes, 0 to 2"):
            ScenesSource("depth", length=3, size=8)[index]
