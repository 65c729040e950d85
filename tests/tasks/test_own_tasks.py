"""Own tasks: a few config lines make a codec, and a wrong line is named."""

import numpy as np
import pytest

from generalist.configs import own_data
from generalist.tasks import (
    Instance,
    Restoration,
    Scalar,
    ScalarPrediction,
    Semantic,
    get_tasks,
)


def test_the_example_config_makes_a_task_of_each_kind():
    tasks = get_tasks(own_data.get_config().tasks.set)
    assert {name: type(task) for name, task in tasks.items()} == {
        "crop": Semantic,
        "height": Scalar,
        "plants": Instance,
        "dehaze": Restoration,
    }
    assert (
        tasks["crop"].classes == ("soil", "wheat", "weed")
        and tasks["crop"].prompt == "Performance crop segmentation"
    )
    assert (tasks["height"].low, tasks["height"].high, tasks["height"].unit) == (0.0, 2.0, "m")
    assert tasks["plants"].prompt == "Performance plants"
    assert all(task.name == name for name, task in tasks.items())


def test_classes_with_colors_are_shown_in_them():
    definition = {
        "kind": "classes",
        "classes": [["a", [1, 2, 3]], ["b", [4, 5, 6]]],
    }  # lists, as JSON gives them back
    task = get_tasks({"mine": definition}, ["mine"])["mine"]
    np.testing.assert_array_equal(
        task.render(np.array([[1, 0, -1]])), [[[4, 5, 6], [1, 2, 3], [0, 0, 0]]]
    )


IDS, COLORS = (("a", 0), ("b", 1)), (("a", (0, 0, 0)), ("b", (4, 5, 6)))


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        ("classes", "Task 'mine': its definition is 'classes'. Allowed: a dict"),
        (
            {"kind": "clases"},
            "unknown kind of task 'mine': 'clases'. Did you mean 'classes'. "
            "Allowed: classes, scalar, instances, image",
        ),
        ({}, "unknown kind of task 'mine': None"),
        ({"kind": "classes"}, "kind 'classes' needs the field 'classes'"),
        ({"kind": "scalar"}, "needs the field 'range'"),
        ({"kind": "scalar", "range": (1, 0)}, "low < high"),
        ({"kind": "scalar", "range": 2.0}, "Task 'mine': range is 2.0. Allowed: two numbers"),
        ({"kind": "scalar", "range": (0, "2")}, "Task 'mine': range is"),
        ({"kind": "scalar", "range": (0, float("inf"))}, "Task 'mine': range is"),
        (
            {"kind": "scalar", "range": (0, 1), "scale": 0},
            "scale is 0. Allowed: a number other than 0",
        ),
        ({"kind": "scalar", "range": (0, 1), "scale": "mm"}, "scale is 'mm'"),
        ({"kind": "scalar", "range": (0, 1), "unit": 1}, "unit is 1. Allowed: a text"),
        (
            {"kind": "scalar", "range": (0, 1), "void": 0},
            r"Task 'mine': void is 0. Did you mean \(0,\)\? Allowed: a tuple of numbers as stored",
        ),
        ({"kind": "image", "folder": 3}, "folder is 3. Allowed: a text, the folder below"),
        ({"kind": "image", "prompt": ("a", "b")}, "prompt is"),
        ({"kind": "image", "fodler": "x"}, "unknown field 'fodler'. Did you mean 'folder'"),
        ({"kind": "classes", "classes": (("a", 1),)}, "at least two classes"),
        (
            {"kind": "classes", "classes": (("a", 1), ("b", (1, 2, 3)))},
            r"give \(\(name, id\), ...\)",
        ),
        (
            {"kind": "classes", "classes": (("a", (1, 2, 256)), ("b", (1, 2, 3)))},
            "levels in 0..255",
        ),
        (
            {"kind": "classes", "classes": (("a", 1), ("b", 1))},
            "two classes have the id or color 1",
        ),
        ({"kind": "classes", "classes": (("a", 1), ("a", 2))}, "two classes have the name 'a'"),
        (
            {"kind": "classes", "classes": [["a", [1, 2, 3]], ["b", [1, 2, 3]]]},
            r"two classes have the id or color \(1, 2, 3\)",
        ),
        ({"kind": "classes", "classes": 3}, "classes are 3; give"),
        ({"kind": "classes", "classes": (("a", None), ("b", 1.5))}, "classes are .*; give"),
        ({"kind": "classes", "classes": (("a", -1), ("b", 65_536))}, "ids in 0..65535"),
        (
            {"kind": "classes", "classes": IDS, "void": 255},
            r"Task 'mine': void is 255. Did you mean \(255,\)\? "
            "Allowed: a tuple of ids in 0..65535",
        ),
        (
            {"kind": "classes", "classes": IDS, "void": ((255, 255, 255),)},
            "Allowed: a tuple of ids",
        ),
        (
            {"kind": "classes", "classes": COLORS, "void": (255, 255, 255)},
            r"Task 'mine': void is \(255, 255, 255\). Did you mean \(\(255, 255, 255\),\)\? "
            "Allowed: a tuple of colors",
        ),
        (
            {"kind": "classes", "classes": COLORS, "void": (255,)},
            r"void is \(255,\). Allowed: a tuple of colors",
        ),
        (
            {"kind": "classes", "classes": IDS, "void": (255, 1)},
            "Task 'mine': void has 1, which is the class 'b'; take it out of `void`",
        ),
        (
            {"kind": "classes", "classes": COLORS, "void": [[4, 5, 6]]},
            r"void has \(4, 5, 6\), which is the class 'b'",
        ),
    ],
)
def test_a_wrong_definition_is_named(definition, said):
    with pytest.raises(ValueError, match=said):
        get_tasks({"mine": definition})


SCALAR = Scalar(name="t", prompt="p", low=-20.0, high=60.0, unit="C")


def test_scalars_round_trip():
    values = np.random.default_rng(0).uniform(-20, 60, (9, 11)).astype(np.float32)
    target = SCALAR.encode(values, (9, 11))
    np.testing.assert_allclose(SCALAR.decode(target.rgb).values, values, atol=80e-6)
    assert (target.mask == 1).all() and target.rgb.dtype == np.float32


def test_the_ends_of_the_range_are_black_and_white_and_unknown_is_masked():
    target = SCALAR.encode(np.array([[-20.0, 60.0, 20.0, np.nan]]), (1, 4))
    np.testing.assert_allclose(target.rgb[0, :3, 0], [-1.0, 1.0, 0.0], atol=1e-7)
    np.testing.assert_array_equal(target.mask[0, :, 0], [1, 1, 1, 0])


def test_unknown_pixels_do_not_blend_into_the_mean():
    target = SCALAR.encode(np.array([[20.0, np.nan], [40.0, np.nan]]), (1, 1))
    assert SCALAR.decode(target.rgb).values[0, 0] == pytest.approx(30.0, abs=1e-4)


def test_a_value_out_of_range_is_an_error():
    with pytest.raises(ValueError, match="Task 't': label value 61.0 is outside -20.0..60.0"):
        SCALAR.encode(np.array([[61.0, np.nan]]), (1, 2))


def test_pictures_and_files_of_scalars():
    picture = SCALAR.render(np.array([[-20.0, 60.0, np.nan]], np.float32))
    np.testing.assert_array_equal(
        picture, [[[68, 1, 84], [253, 231, 37], [0, 0, 0]]]
    )  # the ends of viridis
    values = np.array([[-20.0, 20.0, 60.0, 99.0]], np.float32)
    prediction = ScalarPrediction(
        decoded_by=SCALAR, values=values, confidence=np.ones((1, 4), np.float32)
    )
    np.testing.assert_array_equal(prediction.pixels(), [[0, 32768, 65535, 65535]])
