"""The fast instance decoders return, bit for bit, what the slow definitions return."""

import numpy as np
import pytest

from generalist.tasks import TASKS, Instance, instance_decoders, matrix_nms

SMALL = Instance(blocks=2, cells=4, block_step=60, cell_step=60)


def palette(task):
    return np.array(
        [(r, g, b) for r in task.axes[0] for g in task.axes[1] for b in task.axes[2]], np.float64
    )


def double_loop_nms(masks, scores, sigma=2.0):
    """Matrix NMS by its definition, a loop over pairs; masks bool (n, p), scores descending."""
    n = len(scores)
    iou = np.zeros((n, n), np.float32)
    for i in range(n):
        for j in range(i + 1, n):
            shared = np.float32((masks[i] & masks[j]).sum())
            iou[i, j] = shared / (np.float32(masks[i].sum()) + np.float32(masks[j].sum()) - shared)
    exponent = np.array(
        [
            max([np.square(iou[i, j]) - np.square(iou[:, i].max()) for i in range(j)], default=0.0)
            for j in range(n)
        ]
    )
    return scores * np.exp(-sigma * exponent.astype(np.float64))


def brute_force_threshold(levels, colours, threshold, keep, top):
    """Distance of every pixel to every color, sorted, NMS: the definition, in 1/256 of a level."""
    pixels = np.round(levels.astype(np.float32) * 256).astype(np.int64).reshape(-1, 3)
    distance = np.abs(pixels[None] - 256 * colours[:, None].astype(np.int64)).sum(-1)
    masks = distance < 3 * 256 * threshold
    present = [k for k in range(len(colours)) if masks[k].any()]
    cost = {k: float(distance[k][masks[k]].sum()) / (768 * int(masks[k].sum())) for k in present}
    order = sorted(present, key=lambda k: (cost[k], k))[:keep]
    largest = max([cost[k] for k in order], default=0.0)
    scores = np.array([1.0 - cost[k] / max(largest, 1.0) for k in order])
    masks = masks[np.array(order, int)]
    scores = double_loop_nms(masks, scores)
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:top]
    return masks[np.array(best, int)].reshape(-1, *levels.shape[:2]), scores[np.array(best, int)]


def brute_force_nearest(levels, colours):
    with_black = np.concatenate([colours, np.zeros((1, 3))])
    distance = np.abs(levels.reshape(-1, 1, 3).astype(np.float64) - with_black).sum(-1)
    nearest, distance = distance.argmin(-1), distance.min(-1)
    present = sorted(set(nearest.tolist()))
    cost = np.array([distance[nearest == k].mean() for k in present])
    scores = 1.0 - cost / max(cost.max(), 1.0)
    best = [
        i
        for i in sorted(range(len(present)), key=lambda i: (-scores[i], i))
        if present[i] != len(colours)
    ]
    masks = [nearest == present[i] for i in best]
    return np.array(masks, bool).reshape(-1, *levels.shape[:2]), scores[np.array(best, int)]


def discs(size, count, seed):
    rng = np.random.default_rng(seed)
    label, (y, x) = np.zeros((size, size), np.int32), np.mgrid[:size, :size]
    for number in range(1, count + 1):
        (cx, cy), radius = rng.uniform(0, size, 2), size * rng.uniform(0.05, 0.2)
        label[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = number
    return label


def painted(task, size, count, sigma, seed):
    rng = np.random.default_rng(seed)
    rgb = task.encode(discs(size, count, seed), size).rgb + sigma * rng.standard_normal(
        (size, size, 3)
    )
    return np.clip((rgb + 1) * 127.5, 0, 255).astype(np.float32)


PICTURES = {
    "random": np.random.default_rng(0).uniform(0, 255, (9, 11, 3)).astype(np.float32),
    "whole levels": np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.float32),
    "discs": painted(SMALL, 16, 5, 0.0, 2),
    "noisy discs": painted(SMALL, 16, 5, 0.05, 3),
    "black": np.zeros((4, 5, 3), np.float32),
    "one colour": np.full((4, 4, 3), 255.0, np.float32),
}


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize(
    "threshold,keep,top", [(19.0, 2000, 100), (45.0, 2000, 100), (45.0, 12, 5)]
)
def test_threshold_decoder_equals_brute_force_bit_for_bit(picture, threshold, keep, top):
    levels = PICTURES[picture]
    masks, scores = instance_decoders.by_threshold(levels, SMALL.axes, threshold, keep, top)
    expected_masks, expected_scores = brute_force_threshold(
        levels, palette(SMALL), threshold, keep, top
    )
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(masks, expected_masks)


def test_threshold_decoder_equals_brute_force_on_painters_6400_colours():
    task = TASKS["instance"]
    levels = painted(task, 20, 3, 0.03, 4)
    masks, scores = instance_decoders.by_threshold(levels, task.axes, 19.0, keep=150)
    expected_masks, expected_scores = brute_force_threshold(levels, palette(task), 19.0, 150, 100)
    assert len(scores) == 100
    np.testing.assert_array_equal(scores, expected_scores)
    np.testing.assert_array_equal(masks, expected_masks)


@pytest.mark.parametrize("picture", PICTURES)
def test_nearest_decoder_equals_brute_force(picture):
    masks, scores = instance_decoders.by_nearest(PICTURES[picture], SMALL.axes)
    expected_masks, expected_scores = brute_force_nearest(PICTURES[picture], palette(SMALL))
    np.testing.assert_array_equal(masks, expected_masks)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_intersections_count_shared_pixels_over_many_blocks():
    rng = np.random.default_rng(5)
    dense = rng.random((13, 1000)) < 0.3
    dense[:, rng.random(1000) < 0.2] = False
    pixel, mask = np.nonzero(dense.T)
    expected = dense.astype(int) @ dense.T.astype(int)
    np.testing.assert_array_equal(matrix_nms.intersections(mask, pixel, 13), expected)


def test_matrix_nms_equals_its_definition():
    rng = np.random.default_rng(6)
    masks, scores = rng.random((20, 40)) < 0.4, np.sort(rng.random(20))[::-1]
    masks[:, 0] = True
    area = masks.sum(1)
    shared = masks.astype(int) @ masks.T.astype(int)
    iou = np.triu(shared / (area[:, None] + area - shared), k=1)
    compensation = iou.max(axis=0)
    decays = [
        min(np.exp(-2 * iou[i, j] ** 2) / np.exp(-2 * compensation[i] ** 2) for i in range(j))
        if j
        else 1.0
        for j in range(20)
    ]
    result = matrix_nms.matrix_nms(scores, shared.astype(np.float32), sigma=2.0)
    np.testing.assert_allclose(result, scores * decays, rtol=1e-6)


def test_matrix_nms_by_hand():
    # Two masks of 2 and 3 pixels share 1: IoU 1/4, decay exp(-2/16).
    result = matrix_nms.matrix_nms(np.array([0.9, 0.8]), np.array([[2, 1], [1, 3]], np.float32))
    np.testing.assert_allclose(result, [0.9, 0.8 * np.exp(-0.125)], rtol=1e-7)


def test_no_candidate_leaves_no_mask():
    black = np.zeros((3, 4, 3), np.float32)
    for masks, scores in (
        instance_decoders.by_threshold(black, SMALL.axes, 19.0),
        instance_decoders.by_nearest(black, SMALL.axes),
        instance_decoders.by_votes(black, Instance(blocks=1).axes, 1),
    ):
        assert masks.shape == (0, 3, 4) and scores.shape == (0,)


def test_votes_read_the_code_through_a_blend_with_the_background():
    task = Instance(blocks=1, cells=16, block_step=0, cell_step=15, mode="vote")
    levels = np.zeros((8, 8, 3), np.float32)
    levels[1:4, 1:7] = (255, 255 - 15 * 3, 255 - 15 * 5)
    levels[5:8, 1:7] = 0.6 * np.array((255, 255 - 15 * 12, 255 - 15 * 10))
    masks, scores = instance_decoders.by_votes(levels, task.axes, min_pixels=6)
    assert sorted(tuple(np.argwhere(mask)[0]) for mask in masks) == [(1, 1), (5, 1)]
    assert [mask.sum() for mask in masks] == [18, 18]
    np.testing.assert_allclose(scores, 1.0, atol=1e-5)


def test_votes_drop_segments_below_min_pixels():
    task = Instance(blocks=1, cells=16, block_step=0, cell_step=15, mode="vote")
    levels = np.zeros((9, 9, 3), np.float32)
    levels[1:5, 1:5] = 255
    levels[7, 7] = (255, 45, 45)
    assert len(instance_decoders.by_votes(levels, task.axes, min_pixels=1)[1]) == 2
    masks, _ = instance_decoders.by_votes(levels, task.axes, min_pixels=2)
    assert len(masks) == 1 and masks[0, 1:5, 1:5].all() and masks.sum() == 16
