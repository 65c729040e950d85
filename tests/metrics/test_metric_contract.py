"""What holds for every metric: exact merging, empty values, protocol names, no JAX."""

import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from generalist.evaluation import plain
from generalist.metrics import (
    PROTOCOLS,
    BoundaryF,
    CalibrationError,
    ClassSparsificationError,
    DepthMetric,
    FrechetDistance,
    ImageQuality,
    ImageSparsificationError,
    InstanceQuality,
    Metric,
    PanopticQuality,
    SegmentationMetric,
    SparsificationError,
)

CATEGORIES = [{"id": 1, "name": "ball", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]


def depth_image(rng):
    return rng.uniform(0.5, 9, (6, 7)), rng.uniform(0.5, 9, (6, 7))


def segmentation_image(rng):
    return rng.integers(-1, 3, (6, 7)), rng.integers(-1, 3, (6, 7))


def confident_image(rng):
    classes, label = rng.integers(0, 3, (2, 6, 7))
    return (classes, rng.random((6, 7), np.float32)), label


def confident_depth_image(rng):
    return (rng.uniform(0.5, 9, (6, 7)), rng.random((6, 7), np.float32)), rng.uniform(
        0.5, 9, (6, 7)
    )


def panoptic_image(rng):
    def segmentation():
        ids = rng.integers(0, 4, (3, 3))
        present = np.unique(ids[ids > 0]).tolist()
        return ids, [
            {"id": i, "category_id": 1 + i % 2, "area": int((ids == i).sum())} for i in present
        ]

    return segmentation(), segmentation()


def instance_image(rng):
    return rng.integers(0, 4, (6, 7)), rng.integers(-1, 4, (6, 7))


def photo(rng):
    return rng.random((12, 13, 3)), rng.random((12, 13, 3))


def picture(rng):
    return rng.random((8, 9, 3)), rng.integers(0, 256, (8, 9, 3), np.uint8)


def confident_photo(rng):
    return (rng.random((6, 7, 3)), rng.random((6, 7), np.float32)), rng.random((6, 7, 3))


METRICS = {
    "depth": (DepthMetric, depth_image),
    "segmentation": (lambda: SegmentationMetric(3), segmentation_image),
    "boundary": (BoundaryF, segmentation_image),
    "calibration": (CalibrationError, confident_image),
    "sparsification": (SparsificationError, confident_depth_image),
    "image sparsification": (ImageSparsificationError, confident_photo),
    "class sparsification": (ClassSparsificationError, confident_image),
    "panoptic": (lambda: PanopticQuality(CATEGORIES), panoptic_image),
    "instance": (InstanceQuality, instance_image),
    "frechet": (FrechetDistance, picture),
    **{
        name: (lambda name=name: ImageQuality(name), photo)
        for name in (
            "rgb-skimage",
            "rgb-matlab",
            "derain-y-matlab",
            "sidd-rgb-matlab",
            "lol-rgb-painter",
        )
    },
}


@pytest.fixture(params=METRICS)
def case(request):
    return METRICS[request.param]


def test_merge_of_parts_has_the_bits_of_the_whole_in_any_order(case):
    make, draw = case
    images = [draw(np.random.default_rng(seed)) for seed in range(12)]
    whole, parts = make(), [make() for _ in range(4)]
    for index, image in enumerate(images):
        whole.update(*image)
        parts[index**2 % 3].update(*image)  # uneven, and the last part stays empty
    parts = [pickle.loads(pickle.dumps(part)) for part in parts]  # as they travel between hosts
    merged = parts[3].merge(parts[2]).merge(parts[0].merge(parts[1]))
    assert merged.compute() == whole.compute()
    assert not any(math.isnan(value) for value in whole.compute().values())


def test_a_state_goes_on_elsewhere_with_the_same_bits(case):
    make, draw = case
    metric, copy = make(), make()
    for seed in range(3):
        metric.update(*draw(np.random.default_rng(seed)))
    copy.restore(plain.unpack(plain.pack(metric.state())))
    for one in (metric, copy):
        one.update(*draw(np.random.default_rng(3)))
    assert repr(copy.state()) == repr(metric.state()) and copy.compute() == metric.compute()


def test_a_state_of_another_metric_is_refused(case):
    make, _ = case
    for state in ({}, {"images": 0}, {"confusion": np.zeros(3)}, {"ious": 1, "false_positives": 2}):
        with pytest.raises(ValueError, match=r"Metric|Quality|BoundaryF|Error|Frechet"):
            make().restore(state)


def test_merge_leaves_both_metrics_as_they_were(case):
    make, draw = case
    first, second = make(), make()
    first.update(*draw(np.random.default_rng(0)))
    second.update(*draw(np.random.default_rng(1)))
    before = first.compute(), second.compute()
    merged = first.merge(second)
    merged.update(*draw(np.random.default_rng(2)))
    assert (first.compute(), second.compute()) == before


def test_update_returns_the_values_of_that_image_alone(case):
    make, draw = case
    metric, alone = make(), make()
    metric.update(*draw(np.random.default_rng(0)))
    alone.update(*draw(np.random.default_rng(1)))
    assert metric.update(*draw(np.random.default_rng(1))) == alone.compute()


def test_empty_metric_computes_to_nan_under_the_same_keys(case):
    make, draw = case
    empty, metric = make(), make()
    metric.update(*draw(np.random.default_rng(0)))
    assert empty.compute().keys() == metric.compute().keys()
    assert all(math.isnan(value) or key.startswith("n") for key, value in empty.compute().items())


def test_metrics_name_a_described_protocol(case):
    metric = case[0]()
    assert isinstance(metric, Metric)
    assert PROTOCOLS[metric.protocol]


@pytest.mark.parametrize(
    "first, second",
    [
        (DepthMetric("native"), DepthMetric("nyu-eigen-metric")),
        (SegmentationMetric(2), SegmentationMetric(3)),
        (SegmentationMetric(2), SegmentationMetric(2, ignore=255)),
        (PanopticQuality(CATEGORIES), PanopticQuality(CATEGORIES[:1])),
        (ImageQuality(), DepthMetric()),
    ],
)
def test_metrics_of_other_settings_do_not_merge(first, second):
    with pytest.raises(ValueError, match="cannot merge"):
        first.merge(second)


@pytest.mark.parametrize(
    "metric, misspelt, closest",
    [
        (DepthMetric, "nyu-eigen-metrics", "nyu-eigen-metric"),
        (ImageQuality, "derain-y", "derain-y-matlab"),
    ],
)
def test_unknown_protocol_lists_the_valid_ones_and_the_closest(metric, misspelt, closest):
    with pytest.raises(
        ValueError, match=f"{misspelt}.*Did you mean '{closest}'.*Allowed: .*{closest}"
    ):
        metric(misspelt)


def test_every_protocol_is_one_line():
    assert len(PROTOCOLS) == 18
    assert all(line and "\n" not in line for line in PROTOCOLS.values())


def test_metrics_import_without_jax():
    program = (
        "import sys; sys.modules['jax'] = None; "
        "from generalist.metrics import *; print(DepthMetric().protocol)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True
    )
    assert result.stdout == "native\n"
