"""Panoptic quality against hand values, a brute force over masks, and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality as TorchPanopticQuality

from generalist.metrics import InstanceQuality, PanopticQuality

CATEGORIES = [
    {"id": 1, "name": "ball", "isthing": 1},
    {"id": 2, "name": "crate", "isthing": 1},
    {"id": 5, "name": "sky", "isthing": 0},
    {"id": 9, "name": "grass", "isthing": 0},
]


def segmentation(ids, categories, crowd=()):
    """(id map, segments_info) of an integer array, each id with its category, in their order."""
    ids = np.asarray(ids, np.int32)
    infos = [
        {
            "id": i,
            "category_id": category,
            "iscrowd": int(i in crowd),
            "area": int((ids == i).sum()),
        }
        for i, category in categories.items()
        if (ids == i).any()
    ]
    return ids, infos


def brute_force(pairs):
    """Per category [sum of IoUs, tp, fp, fn], by comparing whole masks."""
    stats = {category["id"]: [0.0, 0, 0, 0] for category in CATEGORIES}
    for (predicted_map, predicted), (label_map, labelled) in pairs:
        void = label_map == 0
        for category, stat in stats.items():
            truths = [
                label_map == s["id"]
                for s in labelled
                if s["category_id"] == category and not s["iscrowd"]
            ]
            crowds = [
                label_map == s["id"]
                for s in labelled
                if s["category_id"] == category and s["iscrowd"]
            ]
            guesses = [predicted_map == s["id"] for s in predicted if s["category_id"] == category]
            excused = void | crowds[-1] if crowds else void
            found = set()
            for guess in guesses:
                hits = []
                for number, truth in enumerate(truths):
                    iou = (guess & truth).sum() / ((guess | truth) & ~void).sum()
                    if iou > 0.5:
                        hits.append((number, iou))
                if hits:
                    ((number, iou),) = hits
                    found.add(number)
                    stat[0] += iou
                    stat[1] += 1
                elif 2 * (guess & excused).sum() <= guess.sum():
                    stat[2] += 1
            stat[3] += len(truths) - len(found)
    return stats


def qualities(stats, ids):
    present = [stats[i] for i in ids if any(stats[i])]
    if not present:
        return [math.nan] * 3
    pq = np.mean([iou / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in present])
    sq = np.mean([iou / tp if tp else 0 for iou, tp, fp, fn in present])
    rq = np.mean([tp / (tp + fp / 2 + fn / 2) for iou, tp, fp, fn in present])
    return [pq, sq, rq]


def random_pair(rng):
    """A label of blobs with void, crowds and single pixels, and that label disturbed."""
    side = int(rng.integers(1, 9))
    count = int(rng.integers(0, 7))
    coarse = rng.integers(0, count + 1, (3, 3))
    label = np.kron(coarse, np.ones((3, 3), int))[:side, :side]
    if count:
        label[tuple(rng.integers(0, side, 2))] = rng.integers(
            1, count + 1
        )  # now and then a single pixel
    crowd = [i for i in range(1, count + 1) if rng.random() < 0.25]
    order = rng.permutation(np.arange(1, count + 1))
    categories = {int(i): int(rng.choice([1, 1, 2, 5, 9])) for i in order}
    prediction = np.where(
        rng.random(label.shape) < rng.choice([0, 0.1, 0.3]), rng.integers(0, 9, label.shape), label
    )
    prediction = np.roll(prediction, int(rng.integers(0, 2)), axis=1)
    guesses = {
        i: categories.get(i, 1) if rng.random() < 0.85 else int(rng.choice([1, 2, 5, 9]))
        for i in range(1, 9)
    }
    large = 1 + 2**24  # ids of prediction and label have nothing to do with each other
    guess_map = np.where(prediction > 0, large * prediction, 0)
    return segmentation(guess_map, {large * i: c for i, c in guesses.items()}), segmentation(
        label, categories, crowd
    )


def test_equals_brute_force_over_hundreds_of_images():
    rng = np.random.default_rng(0)
    pairs = [random_pair(rng) for _ in range(600)]
    metric = PanopticQuality(CATEGORIES)
    for prediction, label in pairs:
        values = metric.update(prediction, label)
        alone = qualities(brute_force([(prediction, label)]), (1, 2, 5, 9))
        assert [values[key] for key in ("pq", "sq", "rq")] == pytest.approx(
            alone, rel=1e-12, nan_ok=True
        )
    stats, values = brute_force(pairs), metric.compute()
    assert all(min(stat[1:]) > 20 for stat in stats.values())  # every branch was taken, often
    for suffix, ids in (("", (1, 2, 5, 9)), ("_things", (1, 2)), ("_stuff", (5, 9))):
        assert [values[key + suffix] for key in ("pq", "sq", "rq")] == pytest.approx(
            qualities(stats, ids), rel=1e-12
        )
        assert values["n" + suffix] == len(ids)
    for category, quality in metric.per_class().items():
        assert list(quality.values()) == pytest.approx(qualities(stats, [category]), rel=1e-12)


def test_equals_torchmetrics_without_crowds_and_without_predicted_void():
    # torchmetrics excuses void in the prediction too, which panopticapi does not, and merges a
    # category's stuff.
    def as_tensor(ids, infos):
        category = {0: 100} | {
            info["id"]: info["category_id"] for info in infos
        }  # 100 is unknown to it, so void
        pixels = [[category[i], i if category[i] in (1, 2) else 0] for i in ids.ravel().tolist()]
        return torch.tensor(pixels)[None]

    rng = np.random.default_rng(3)
    peer = TorchPanopticQuality(things={1, 2}, stuffs={5, 9}, return_sq_and_rq=True)
    metric = PanopticQuality(CATEGORIES)
    for _ in range(40):
        categories = {1: 1, 2: 1, 3: 2, 4: 5, 5: 9}
        label = np.kron(rng.integers(0, 6, (3, 4)), np.ones((3, 3), int))
        guess = np.where(
            (rng.random(label.shape) < 0.2) | (label == 0), rng.integers(1, 6, label.shape), label
        )
        prediction, truth = segmentation(guess, categories), segmentation(label, categories)
        metric.update(prediction, truth)
        peer.update(as_tensor(*prediction), as_tensor(*truth))
    values = metric.compute()
    assert [values["pq"], values["sq"], values["rq"]] == pytest.approx(
        peer.compute().tolist(), rel=1e-6
    )


def test_hand_worked_match_leaves_out_void():
    # Segment 1 has 4 pixels; the prediction covers 3 of them, 1 void and 1 grass:
    # IoU = 3 / (5 + 4 - 3 - 1).
    label = segmentation([[1, 1, 1, 1, 0, 2, 2, 2]], {1: 1, 2: 9})
    prediction = segmentation([[0, 7, 7, 7, 7, 7, 8, 8]], {7: 1, 8: 9})
    metric = PanopticQuality(CATEGORIES)
    values = metric.update(prediction, label)
    assert metric.per_class()[1] == pytest.approx({"pq": 3 / 5, "sq": 3 / 5, "rq": 1})
    assert metric.per_class()[9] == pytest.approx({"pq": 2 / 3, "sq": 2 / 3, "rq": 1})
    assert all(math.isnan(value) for value in metric.per_class()[2].values())
    assert (values["pq"], values["pq_things"], values["pq_stuff"]) == pytest.approx(
        ((3 / 5 + 2 / 3) / 2, 3 / 5, 2 / 3)
    )
    assert (values["n"], values["n_things"], values["n_stuff"]) == (2, 1, 1)


def test_iou_of_one_half_is_no_match():
    label = segmentation([[1, 1, 2, 2]], {1: 1, 2: 9})
    prediction = segmentation([[3, 4, 4, 4]], {3: 1, 4: 9})
    metric = PanopticQuality(CATEGORIES)
    metric.update(prediction, label)
    assert metric.per_class()[1] == {
        "pq": 0,
        "sq": 0,
        "rq": 0,
    }  # one false positive, one false negative
    assert metric.per_class()[9] == pytest.approx({"pq": 2 / 3, "sq": 2 / 3, "rq": 1})


@pytest.mark.parametrize(
    "on_void, rq",
    [(2, 2 / 3), (3, 1)],
    ids=["half on void is a false positive", "more than half is excused"],
)
def test_unmatched_prediction_on_void(on_void, rq):
    label = segmentation([[1, 1] + [0] * on_void + [2] * (4 - on_void)], {1: 1, 2: 9})
    prediction = segmentation([[3, 3] + [4] * 4], {3: 1, 4: 1})
    metric = PanopticQuality(CATEGORIES)
    metric.update(prediction, label)
    assert metric.per_class()[1] == pytest.approx({"pq": rq, "sq": 1, "rq": rq})


def test_crowd_is_neither_matched_nor_missed_and_excuses_its_own_category():
    label = segmentation([[1, 1, 1, 1, 0, 2, 2, 2]], {1: 1, 2: 9}, crowd=[1])
    same = PanopticQuality(CATEGORIES).update(
        segmentation([[3, 3, 3, 3, 0, 4, 4, 4]], {3: 1, 4: 9}), label
    )
    other = PanopticQuality(CATEGORIES).update(
        segmentation([[3, 3, 3, 3, 0, 4, 4, 4]], {3: 2, 4: 9}), label
    )
    assert (same["pq"], same["n"]) == (1, 1)  # category 1 did not occur at all
    assert (other["pq"], other["n"]) == (1 / 2, 2)  # category 2 has a false positive


@pytest.mark.parametrize("order, pq", [({1: 1, 2: 1}, 0), ({2: 1, 1: 1}, math.nan)])
def test_only_the_last_listed_crowd_of_a_category_excuses(order, pq):
    label = segmentation([[1, 1, 2, 2]], order, crowd=[1, 2])
    values = PanopticQuality(CATEGORIES).update(segmentation([[3, 3, 0, 0]], {3: 1}), label)
    assert values["pq"] == pytest.approx(pq, nan_ok=True)


def test_label_area_comes_from_segments_info():
    ids, infos = segmentation([[1, 1, 0, 0]], {1: 1})
    infos[0]["area"] = 3
    assert PanopticQuality(CATEGORIES).update((ids, infos), (ids, infos))["pq"] == pytest.approx(
        2 / 3
    )


def test_arguments_are_not_changed():
    prediction, label = segmentation([[1, 0]], {1: 1}), segmentation([[4, 4]], {4: 1})
    before = [dict(info) for info in prediction[1] + label[1]]
    PanopticQuality(CATEGORIES).update(prediction, label)
    assert prediction[1] + label[1] == before


BALL = {"id": 1, "category_id": 1, "area": 2, "iscrowd": 0}


@pytest.mark.parametrize(
    "ids, infos, message",
    [
        ([[1, 2]], [BALL], r"segment ids \[2\] are in the id map and not in segments_info"),
        (
            [[1, 1]],
            [BALL, BALL | {"id": 3}],
            r"\[\] are in the id map and not in segments_info, \[3\] the reverse",
        ),
        ([[1, 1]], [BALL, BALL], r"an id twice: \[1, 1\]"),
        ([[1, 0]], [BALL, BALL | {"id": 0}], r"lists id 0, which is void"),
        ([[1, 1]], [BALL | {"category_id": 3}], r"unknown category_id 3; valid: \[1, 2, 5, 9\]"),
        ([[1, -1]], [BALL], r"ids must be 0 .. 2\^31 - 1, the id map holds -1 .. 1"),
        ([[1, 1]], [{"id": 1}], "lacks category_id"),
    ],
)
@pytest.mark.parametrize("side", ["prediction", "label"])
def test_inconsistent_segmentations_are_errors_and_count_nothing(side, ids, infos, message):
    good, bad = segmentation([[1, 1]], {1: 1}), (np.array(ids), infos)
    metric = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match=f"{side}.*{message}"):
        metric.update(*((bad, good) if side == "prediction" else (good, bad)))
    assert metric.compute()["n"] == 0


def test_label_needs_areas_that_hold_its_pixels():
    good = segmentation([[1, 1]], {1: 1})
    with pytest.raises(ValueError, match="label: segment .* lacks area"):
        PanopticQuality(CATEGORIES).update(good, (good[0], [{"id": 1, "category_id": 1}]))
    with pytest.raises(
        ValueError, match="area 1 in segments_info, and at least 2 pixels in the id map; recount"
    ):
        PanopticQuality(CATEGORIES).update(good, (good[0], [BALL | {"area": 1}]))


def test_other_errors_name_what_is_wrong():
    good = segmentation([[1, 1]], {1: 1})
    with pytest.raises(ValueError, match="category id 1 is given twice"):
        PanopticQuality(CATEGORIES + CATEGORIES[:1])
    with pytest.raises(TypeError, match="id map of the prediction has dtype float64"):
        PanopticQuality(CATEGORIES).update((np.ones((1, 2)), good[1]), good)
    with pytest.raises(ValueError, match=r"prediction has shape \(1, 3\) and label \(1, 2\)"):
        PanopticQuality(CATEGORIES).update(segmentation([[1, 1, 1]], {1: 1}), good)


# Instances without a class


def square(top, left, side, number=1):
    """A map of 100 x 100 pixels with one instance."""
    ids = np.zeros((100, 100), np.int32)
    ids[top : top + side, left : left + side] = number
    return ids


@pytest.mark.parametrize(
    ("prediction", "pq"),
    [
        (square(40, 40, 20), 1.0),
        (np.ones((100, 100), np.int32), 0.0),  # one mask over the whole image
        (square(25, 25, 50), 0.0),  # 6.25 times too large
        (square(39, 39, 22), 400 / 484),
        # The object and six that are not there: one match, six false positives.
        (square(40, 40, 20) + sum(square(2, 15 * k, 10, 2 + k) for k in range(6)), 1 / (1 + 6 / 2)),
        (np.zeros((100, 100), np.int32), 0.0),
    ],
)
def test_what_is_painted_on_background_costs(prediction, pq):
    metric = InstanceQuality()
    metric.update(prediction, square(40, 40, 20))
    assert metric.compute()["pq"] == pytest.approx(pq)


def test_void_alone_is_excused():
    label = square(40, 40, 20)
    label[60:] = -1

    # Grown into void: those pixels are left out. An instance on void: neither right nor wrong.
    grown = square(40, 40, 20) + np.where(label == -1, 1, 0)
    apart = square(40, 40, 20) + square(70, 10, 20, 2)
    for prediction in (grown, apart):
        metric = InstanceQuality()
        metric.update(prediction.astype(np.int32), label)
        assert metric.compute() == {"pq": 1.0, "sq": 1.0, "rq": 1.0}

    # More than half of it is not on void: invented.
    invented = square(40, 40, 20) + square(49, 10, 20, 2)
    assert InstanceQuality().update(invented, label)["rq"] == 2 / 3


def test_instances_equal_the_things_of_torchmetrics_with_background_as_stuff():
    rng = np.random.default_rng(0)
    ours = InstanceQuality()
    theirs = TorchPanopticQuality(things={1}, stuffs={0}, return_per_class=True)
    for _ in range(50):
        label = np.kron(rng.integers(0, 4, (4, 4)), np.ones((4, 4), int))
        prediction = np.where(rng.random(label.shape) < 0.2, rng.integers(0, 4, label.shape), label)
        ours.update(prediction, label)
        theirs.update(
            *(torch.tensor(np.stack([(x > 0) * 1, x], -1))[None] for x in (prediction, label))
        )
    things, _ = theirs.compute()[0].tolist()  # a value for each class, things first
    assert ours.compute()["pq"] == pytest.approx(things, abs=1e-6)


def test_a_crowd_in_the_prediction_is_an_error():
    with pytest.raises(ValueError, match="prediction: instance ids must be 0 or more, .*-1"):
        InstanceQuality().update(np.full((2, 2), -1), np.zeros((2, 2), int))
    with pytest.raises(ValueError, match="label: instance ids must be -1 or more, .*-3"):
        InstanceQuality().update(np.zeros((2, 2), int), np.full((2, 2), -3))
