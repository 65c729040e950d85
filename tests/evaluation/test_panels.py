import numpy as np
import pytest
from PIL import Image

from generalist.evaluation import panels
from generalist.evaluation.panels import GAP, LINE, MARGIN, OVERVIEW_SIDE, SIDE
from generalist.tasks import SCENES_TASKS
from generalist.tasks.drawing import ColorBar, Legend, heat

SIZE = 32  # as in conftest.py


def read(finished, name):
    return np.asarray(Image.open(finished.folder / "panels" / f"{name}.png"))


def tile(picture, row, column):
    top, left = MARGIN + LINE + row * (LINE + SIDE + GAP) + LINE, MARGIN + column * (SIDE + GAP)
    return picture[top : top + SIDE, left : left + SIDE]


@pytest.mark.parametrize("name", [name for name in SCENES_TASKS if name != "text_to_image"])
def test_a_panel_has_four_columns_and_shows_input_and_truth_in_every_row(finished, sources, name):
    picture = read(finished, name)
    assert picture.shape[1] == 2 * MARGIN + 4 * SIDE + 3 * GAP
    assert picture.shape[0] >= 2 * MARGIN + LINE + 2 * (LINE + SIDE + GAP)
    for row in range(2):
        example = sources[name][row]
        for column, shown in (
            (0, example["image"]),
            (2, SCENES_TASKS[name].render(example["label"])),
        ):
            np.testing.assert_array_equal(
                tile(picture, row, column)[:: SIDE // SIZE, :: SIDE // SIZE], shown
            )


def test_a_panel_of_captions_shows_what_was_painted_beside_the_truth(finished, sources):
    picture = read(finished, "text_to_image")
    zoom = SIDE // SIZE
    captions = [sources["text_to_image"][row]["prompt"] for row in range(2)]
    longest = max(map(panels._text_width, captions))
    assert picture.shape[1] == 2 * MARGIN + max(2 * SIDE + GAP, longest)
    for row in range(2):
        truth = tile(picture, row, 1)[::zoom, ::zoom]
        np.testing.assert_array_equal(truth, sources["text_to_image"][row]["label"])
        # The oracle paints the truth and some noise; the row's caption is drawn above it.
        painted = tile(picture, row, 0)[::zoom, ::zoom]
        assert 0 < np.abs(painted.astype(int) - truth).mean() < 20
        above = MARGIN + LINE + row * (LINE + SIDE + GAP)
        line = picture[above : above + LINE]
        dark = np.flatnonzero((line < 200).any(axis=(0, 2)))
        assert abs(dark.max() - MARGIN - panels._text_width(captions[row])) < 4


def test_the_overview_has_a_column_for_every_task_and_every_own_input(finished, sources):
    picture = read(finished, "overview")
    # Input; depth, semantic, instance, panoptic; before and after of three restorations; text.
    columns = 1 + 4 + 2 * 3 + 1
    assert picture.shape == (
        2 * MARGIN + LINE + 2 * (OVERVIEW_SIDE + GAP),
        2 * MARGIN + columns * OVERVIEW_SIDE + 11 * GAP,
        3,
    )
    left, zoom = MARGIN + 5 * (OVERVIEW_SIDE + GAP), OVERVIEW_SIDE // SIZE
    noisy = picture[MARGIN + LINE :][:OVERVIEW_SIDE:zoom, left : left + OVERVIEW_SIDE : zoom]
    np.testing.assert_array_equal(noisy, sources["denoise"][0]["image"])


def test_small_pictures_grow_by_whole_multiples_and_large_ones_shrink():
    small = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    np.testing.assert_array_equal(
        panels.enlarge(small, 5)[[0, 1, 2, 3]][:, [0, 3]], small[[0, 0, 1, 1]]
    )
    assert panels.enlarge(small, 5).shape == (4, 4, 3)
    assert panels.enlarge(np.zeros((480, 640, 3), np.uint8), 256).shape == (192, 256, 3)


def test_the_error_of_depth_is_dark_where_right_bright_where_wrong_black_where_unknown():
    label = np.array([[2.0, 2.0, 0.0]], np.float32)
    depth = SCENES_TASKS["depth"]
    rgb = depth.encode(np.array([[2.0, 3.0, 5.0]], np.float32), (1, 3)).rgb
    example = {"image": np.zeros((1, 3, 3), np.uint8), "label": label, "key": "a"}
    sample = panels.describe(depth, example, depth.decode(rgb), {"rmse": 0.7})
    picture = np.asarray(panels.task_panel(depth, [sample]))
    left, zoom = MARGIN + 3 * (SIDE // 3 * 3 + GAP), SIDE // 3
    right, wrong, unknown = picture[
        MARGIN + 2 * LINE + 5, left + zoom // 2 : left + 3 * zoom : zoom
    ]
    np.testing.assert_array_equal(right, heat(np.zeros(1))[0])
    np.testing.assert_array_equal(wrong, heat(np.ones(1))[0])
    np.testing.assert_array_equal(unknown, (0, 0, 0))


def test_a_legend_breaks_into_lines_that_fit():
    placed = panels._flow([(f"class {i}", (i, i, i)) for i in range(30)], 400)
    assert [entry.name for entry in placed] == [f"class {i}" for i in range(30)]
    assert placed[-1].line >= 5 and max(entry.left for entry in placed) < 400


def test_a_picture_is_wide_enough_for_its_colour_bars():
    ramp = np.full((256, 3), (7, 8, 9), np.uint8)
    legend = Legend((ColorBar("depth", "0", "10 m", ramp),) * 2)
    picture = np.asarray(
        panels.compose(["input"], [[np.zeros((8, 8, 3), np.uint8)]], legend=legend)
    )
    assert ((picture == (7, 8, 9)).all(-1).sum(1) == 512).any()  # both bars, whole
