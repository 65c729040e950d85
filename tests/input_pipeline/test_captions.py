"""Promises of the scenes' captions: true, short, reproducible, and of many forms."""

import re

import numpy as np
import pytest

from generalist.input_pipeline.scenes import ScenesSource, caption, classes_named, render
from generalist.input_pipeline.scenes.captions import _COLOR_NAMES, MAX_WORDS, _name_colors
from generalist.input_pipeline.scenes.materials import (
    BALL,
    BUSH,
    CRATE,
    FRAMED,
    GRASS,
    PATTERNS,
    PLASTER,
    SKY,
    VOID,
)
from generalist.input_pipeline.scenes.renderer import Scene
from generalist.input_pipeline.source import ReadWindow
from generalist.tasks.palettes import SCENES_CATEGORIES

COUNT = 120
CLASSES = [category["name"] for category in SCENES_CATEGORIES]


def generator(seed):
    return np.random.Generator(np.random.Philox(seed))


@pytest.fixture(scope="module")
def captioned():
    """(scene, its caption) of a hundred scenes."""
    scenes = [render(0, "train", index, 48) for index in range(COUNT)]
    return [(scene, caption(scene, generator(index))) for index, scene in enumerate(scenes)]


@pytest.fixture
def meadow():
    """A blue sky over grass; every test puts things into it."""
    classes = np.full((32, 48), GRASS, np.int32)
    classes[:12] = SKY
    image = np.where((classes == SKY)[..., None], (80, 140, 220), (60, 130, 60)).astype(np.uint8)
    return Scene(
        image=image,
        depth=np.full((32, 48), 5, np.float32),
        classes=classes,
        instances=np.zeros((32, 48), np.int32),
        patterns=np.full((32, 48), PATTERNS.index(PLASTER), np.uint8),
    )


def put(scene, number, label, rows, columns, color, depth=5.0, pattern=PLASTER):
    """Puts a rectangular thing into a scene."""
    place = (slice(*rows), slice(*columns))
    scene.image[place] = color
    scene.depth[place] = depth
    scene.classes[place] = label
    scene.instances[place] = number if label != VOID else 0
    scene.patterns[place] = PATTERNS.index(pattern)


def captions(scene, count=60):
    return {caption(scene, generator(seed)) for seed in range(count)}


# --- true ---


def test_a_caption_names_what_covers_enough_of_the_picture_and_nothing_else(captioned):
    named = 0
    for scene, text in captioned:
        share = np.bincount(scene.classes.ravel() + 1, minlength=17)[1:] / scene.classes.size
        for name in classes_named(text):
            assert share[CLASSES.index(name)] > 1 / 256, (name, text)
        named += len(classes_named(text))
    assert named > 3.5 * COUNT


def test_rooms_and_open_grounds_are_called_so(captioned):
    for scene, text in captioned:
        outdoors = np.isin(scene.classes, (GRASS, SKY)).any()
        assert bool(re.search("open ground|outdoors", text)) == outdoors, text
        assert bool(re.search("room|indoors", text)) != outdoors, text


def test_number_color_material_and_place_are_those_of_the_things(meadow):
    put(meadow, 1, BALL, (20, 28), (2, 10), (200, 20, 20))
    put(meadow, 2, BALL, (20, 28), (38, 46), (210, 30, 30))
    put(meadow, 3, CRATE, (14, 22), (20, 28), (120, 75, 40), depth=2.0, pattern=FRAMED)
    texts = captions(meadow)

    # Two balls on two sides have no place in common; the crate is nearby, in the middle.
    clauses = {clause for text in texts for clause in re.split(", | and | with ", text)}
    about = {clause for clause in clauses if classes_named(clause) & {"ball", "crate"}}
    assert {re.sub(" (in|on) an open ground$", "", clause) for clause in about} == {
        "two red balls",
        *(
            f"a brown {material}crate{place}"
            for material in ("", "wooden ")
            for place in ("", " in the middle", " nearby")
        ),
    }
    assert any("a blue sky" in text for text in texts)
    assert any("green grass" in text for text in texts)


def test_things_of_several_colors_are_told_apart_or_counted_together(meadow):
    put(meadow, 1, BALL, (20, 28), (2, 10), (200, 20, 20))
    put(meadow, 2, BALL, (14, 22), (38, 46), (70, 110, 200), depth=8.0)
    texts = captions(meadow)
    assert any("two balls" in text for text in texts)
    assert any("a red ball on the left" in text for text in texts)
    assert any("a blue ball far away" in text for text in texts)
    assert not any("two red" in text or "two blue" in text for text in texts)

    # Two colors that share a thing are both said.
    put(meadow, 1, BALL, (20, 28), (2, 6), (240, 240, 240))
    put(meadow, 1, BALL, (20, 24), (6, 7), (240, 240, 240))
    assert any("white and red ball" in text for text in captions(meadow))


def test_many_are_many_and_specks_and_void_are_nothing(meadow):
    for number in range(8):
        put(meadow, number + 1, BUSH, (20, 26), (6 * number, 6 * number + 4), (40, 120, 40))
    put(meadow, 9, BALL, (14, 16), (2, 5), (200, 20, 20))
    put(meadow, 0, VOID, (13, 19), (30, 40), (200, 20, 200))
    texts = captions(meadow)
    assert all("many green bushes" in text for text in texts)
    assert not any("ball" in text or "purple" in text for text in texts)


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((220, 20, 20), "red"),
        ((245, 130, 10), "orange"),
        ((250, 230, 30), "yellow"),
        ((70, 140, 60), "green"),
        ((60, 90, 200), "blue"),
        ((130, 60, 170), "purple"),
        ((240, 130, 170), "pink"),
        ((110, 70, 35), "brown"),
        ((225, 205, 170), "beige"),
        ((250, 250, 250), "white"),
        ((128, 128, 128), "gray"),
        ((10, 10, 10), "black"),
    ],
)
def test_colors_are_called_what_people_call_them(rgb, name):
    assert _COLOR_NAMES[_name_colors(np.array([[rgb]], np.uint8))[0, 0]] == name


# --- short, of a small vocabulary and of many forms ---


def test_captions_are_short_and_of_few_words(captioned):
    texts = [text for _, text in captioned]
    assert all(re.fullmatch("[a-z]+(,? [a-z]+)*", text) for text in texts)
    counts = [len(text.split()) for text in texts]
    assert max(counts) <= MAX_WORDS and np.mean(counts) > 14
    assert len({word for text in texts for word in text.replace(",", "").split()}) < 80


def test_most_captions_differ_and_one_scene_has_many(captioned, meadow):
    assert len({text for _, text in captioned}) > 0.9 * COUNT
    put(meadow, 1, BALL, (20, 28), (2, 10), (200, 20, 20))
    assert len(captions(meadow)) > 20


def test_classes_named_reads_singulars_plurals_and_commas():
    text = "two bushes, a red and white ball, brown wooden crates and green grass on an open ground"
    assert classes_named(text) == {"bush", "ball", "crate", "grass"}
    assert classes_named("Walls, outdoors") == {"wall"}
    assert classes_named("an open ground, a wallet") == set()
    plurals = ", ".join("bushes" if name == "bush" else f"{name}s" for name in CLASSES)
    assert classes_named(plurals) == set(CLASSES)


# --- the source ---


def test_captions_are_a_function_of_seed_split_and_index():
    keys = [(0, "train", 3), (1, "train", 3), (0, "val", 3), (0, "train", 4)]
    prompts = [
        ScenesSource("text_to_image", split, 5, 48, seed)[index]["prompt"]
        for seed, split, index in keys
    ]
    again = ScenesSource("text_to_image", "train", 9, 48, 0)[3]["prompt"]
    assert len(set(prompts)) == 4 and prompts[0] == again


def test_the_picture_is_that_of_the_other_tasks():
    example = ScenesSource("text_to_image", "val", 3, 32)[2]
    other = ScenesSource("depth", "val", 3, 32)[2]
    np.testing.assert_array_equal(example["image"], other["image"])
    np.testing.assert_array_equal(example["label"], other["image"])
    assert example["key"] == other["key"]


def test_captions_of_others_are_the_same_captions_and_none_is_the_pictures():
    own, others = (
        ScenesSource("text_to_image", "train", 5, 32, captions=captions)
        for captions in ("own", "others")
    )
    pairs = list(zip(own, others, strict=True))
    assert all((one["image"] == other["image"]).all() for one, other in pairs)
    told = [own[index]["prompt"] for index in range(5)]
    assert [other["prompt"] for _, other in pairs] == [*told[2:], *told[:2]]
    assert len(set(told)) == 5
    with pytest.raises(ValueError, match="Did you mean 'others'"):
        ScenesSource("text_to_image", captions="other")


def test_a_window_has_a_caption_of_its_own():
    source = ScenesSource("text_to_image", "train", 20, 48)
    corner = ReadWindow(lambda size: (slice(0, 10), slice(20, 40)), 10)
    for index in range(6):
        example = source.read(index, corner)
        assert example["image"].shape == example["label"].shape == (10, 20, 3)
        seen = render(0, "train", index, 48).classes[:10, 20:40]
        visible = {CLASSES[label] for label in np.unique(seen) if label >= 0}
        assert classes_named(example["prompt"]) <= visible
