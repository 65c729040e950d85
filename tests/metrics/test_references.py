"""The metrics against values of other programs: panopticapi itself, and GNU Octave.

reference/ holds the programs and the values.
"""

import functools
import json
import math
import pathlib
import runpy

import numpy as np
import pytest

from generalist.metrics import ImageQuality, PanopticQuality
from generalist.metrics.image_quality import luma

REFERENCE = pathlib.Path(__file__).parent / "reference"
PANOPTIC = runpy.run_path(str(REFERENCE / "make_panoptic_values.py"))
PANOPTIC_VALUES = json.loads((REFERENCE / "panoptic_values.json").read_text())
OCTAVE = json.loads((REFERENCE / "image_quality_values.json").read_text())


def test_panoptic_counts_and_ious_are_panopticapis_bit_for_bit():
    whole = PanopticQuality(PANOPTIC["CATEGORIES"])
    parts = [PanopticQuality(PANOPTIC["CATEGORIES"]) for _ in PANOPTIC_VALUES["images"]]
    for seed, (expected, alone) in enumerate(zip(PANOPTIC_VALUES["images"], parts, strict=True)):
        case = PANOPTIC["make_case"](seed)
        whole.update(*case)
        alone.update(*case)
        assert PANOPTIC["count"](alone) == expected, f"seed {seed}"
    for metric in (whole, functools.reduce(lambda one, other: one.merge(other), parts)):
        assert PANOPTIC["count"](metric) == PANOPTIC_VALUES["counted"]
        assert metric.compute() == pytest.approx(
            PANOPTIC_VALUES["printed"], rel=1e-14
        )  # their sums over classes are rounded at every step


def test_the_panoptic_cases_hold_what_is_hard():
    cases = [PANOPTIC["make_case"](seed) for seed in range(len(PANOPTIC_VALUES["images"]))]
    labels, predictions = [label for _, label in cases], [prediction for prediction, _ in cases]
    crowds = [[s["category_id"] for s in segments if s["iscrowd"]] for _, segments in labels]
    assert sum(len(set(c)) < len(c) for c in crowds) >= 3  # several crowds of one category
    assert sum(not segments for _, segments in predictions) >= 3 and any(
        not segments for _, segments in labels
    )
    assert sum((ids == 0).any() and ids.any() for ids, _ in labels) >= 10
    assert sum(any(s["area"] == 1 for s in segments) for _, segments in labels) >= 10


@pytest.mark.parametrize("name", ["coco", "coco_annotation_only"])
def test_panoptic_of_real_annotations_is_panopticapis(name):
    folders = PANOPTIC["real_folders"]()
    if not folders:
        pytest.skip("GENERALIST_REAL_SAMPLES is not set: no folder of real samples")
    prediction, label, categories = PANOPTIC["real_case"](folders[name])
    counted, printed = PANOPTIC_VALUES["real"][name]
    metric = PanopticQuality(categories)
    assert metric.update(prediction, label) == pytest.approx(printed, rel=1e-14)
    assert PANOPTIC["count"](metric) == counted


def pattern(height, width, noisy):
    """The images of make_image_quality_values.m."""
    y, x, c = np.indices((height, width, 3))
    image = 128 + (3 * x + 5 * y + 40 * c) % 100 - (x * y // 4) % 50 + 20 * ((x // 8 + y // 8) % 2)
    return np.clip(
        image + ((37 * x + 91 * y + 53 * c + x * y) % 31 - 15 if noisy else 0), 0, 255
    ).astype(np.uint8)


@pytest.mark.parametrize(
    "case", OCTAVE["cases"], ids=lambda case: f"{case['height']}x{case['width']}"
)
@pytest.mark.parametrize(
    "protocol",
    ["rgb-skimage", "rgb-matlab", "derain-y-matlab", "sidd-rgb-matlab", "lol-rgb-painter"],
)
def test_psnr_and_ssim_are_octaves(protocol, case):
    prediction, label = (pattern(case["height"], case["width"], noisy) for noisy in (True, False))
    values = ImageQuality(protocol).update(prediction, label)
    assert [values["psnr"], values["ssim"]] == pytest.approx(case[protocol], rel=1e-12)


def test_luma_is_octaves_rgb2ycbcr():
    blue, green, red = np.meshgrid(*[np.arange(0, 256, 17)] * 3, indexing="ij")
    colours = np.stack([red, green, blue], -1).reshape(-1, 1, 3).astype(np.uint8)
    assert luma(colours).ravel().tolist() == OCTAVE["luma"]
    for case in OCTAVE["cases"]:
        column_by_column = luma(pattern(case["height"], case["width"], True)).ravel("F")
        assert (
            math.fsum(column_by_column * np.arange(1, column_by_column.size + 1))
            == case["luma_sum"]
        )
