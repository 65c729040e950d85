"""Palettes are Painter's formulas; class lists are the data sets' own."""

import numpy as np
import pytest

from generalist.tasks import ADE20K_CLASSES, COCO_CATEGORIES, SCENES_CATEGORIES, TASKS
from generalist.tasks.palettes import distinct_colors, make_palette


def min_l1(palette):
    distances = np.abs(palette[:, None] - palette).sum(-1)
    return distances[~np.eye(len(palette), dtype=bool)].min()


def test_ade20k_palette():
    palette = TASKS["semantic"].palette
    expected = [
        (255 - 42 * (k // 36), 255 - 42 * (k % 36 // 6), 255 - 42 * (k % 6)) for k in range(150)
    ]
    np.testing.assert_array_equal(palette, expected)
    assert palette.dtype == np.float32
    assert tuple(palette[0]) == (255, 255, 255) and tuple(palette[149]) == (87, 255, 45)
    assert min_l1(palette) == 42


def test_coco_palette():
    palette = TASKS["coco_semantic"].palette
    expected = [
        (255 - 36 * (k // 49), 255 - 36 * (k % 49 // 7), 255 - 36 * (k % 7)) for k in range(133)
    ]
    np.testing.assert_array_equal(palette, expected)
    assert set(palette[:, 0]) == {255, 219, 183} and palette[:, 1:].min() == 39
    assert min_l1(palette) == 36


@pytest.mark.parametrize(
    "num_classes,levels,step",
    [(2, 2, 128), (7, 2, 128), (8, 3, 85), (16, 3, 85), (26, 3, 85), (27, 4, 64), (150, 6, 42)],
)
def test_default_levels_are_the_fewest_with_room_to_spare(num_classes, levels, step):
    palette = make_palette(num_classes)
    np.testing.assert_array_equal(palette, make_palette(num_classes, levels))
    assert min_l1(palette) == step
    assert palette.min() > 0  # black stays free for void


def test_palette_errors():
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        make_palette(1)
    with pytest.raises(ValueError, match="28 classes do not fit in 3 levels"):
        make_palette(28, levels=3)


def test_class_lists():
    assert len(ADE20K_CLASSES) == len(set(ADE20K_CLASSES)) == 150
    assert (ADE20K_CLASSES[0], ADE20K_CLASSES[52], ADE20K_CLASSES[149]) == ("wall", "path", "flag")
    assert [c["isthing"] for c in COCO_CATEGORIES] == [1] * 80 + [0] * 53
    assert (COCO_CATEGORIES[0]["name"], COCO_CATEGORIES[79]["id"]) == ("person", 90)
    assert (COCO_CATEGORIES[80]["name"], COCO_CATEGORIES[132]["id"]) == ("banner", 200)
    assert all(len({c[key] for c in COCO_CATEGORIES}) == 133 for key in ("id", "name"))
    assert not any("\n" in c["name"] or "  " in c["name"] for c in COCO_CATEGORIES)


def test_scenes_categories():
    assert [c["id"] for c in SCENES_CATEGORIES] == list(range(1, 17))
    assert [c["name"] for c in SCENES_CATEGORIES if not c["isthing"]] == [
        "wall",
        "floor",
        "ceiling",
        "door",
        "window",
        "rug",
        "grass",
        "path",
        "sky",
    ]
    assert [c["name"] for c in SCENES_CATEGORIES if c["isthing"]] == [
        "ball",
        "crate",
        "barrel",
        "cone",
        "pillar",
        "bush",
        "table",
    ]
    assert len({tuple(c["color"]) for c in SCENES_CATEGORIES}) == 16


def test_distinct_colors_are_distinct_and_stable():
    colors = distinct_colors(133)
    assert colors.dtype == np.uint8 and len({tuple(c) for c in colors.tolist()}) == 133
    np.testing.assert_array_equal(colors[:20], distinct_colors(20))
    assert distinct_colors(0).shape == (0, 3)
