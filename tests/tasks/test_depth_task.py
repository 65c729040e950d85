"""Depth: grey linear code in floating point, masks that never blend, Painter's decoding."""

import numpy as np
import pytest

from generalist.tasks import TASKS, Depth

DEPTH = TASKS["depth"]


@pytest.mark.parametrize("size", [1, 5, (7, 3), 64])
def test_round_trip_is_exact_to_a_hundredth_of_a_millimetre(size):
    shape = (size, size) if isinstance(size, int) else size
    depth = np.random.default_rng(0).uniform(0.001, 10, shape).astype(np.float32)
    target = DEPTH.encode(depth, size)
    assert target.rgb.shape == (*shape, 3) and target.rgb.dtype == target.mask.dtype == np.float32
    prediction = DEPTH.decode(target.rgb)
    assert np.abs(prediction.depth - depth).max() < 1e-5
    assert prediction.depth.dtype == np.float32
    np.testing.assert_array_equal(prediction.confidence, np.ones(shape))
    np.testing.assert_array_equal(DEPTH.label_of(prediction), prediction.depth)


@pytest.mark.parametrize(
    "metres,value", [(0.0, -1.0), (2.5, -0.5), (5.0, 0.0), (10.0, 1.0), (12.0, 1.0)]
)
def test_code_by_hand(metres, value):
    target = DEPTH.encode(np.full((2, 2), metres, np.float32), 2)
    np.testing.assert_array_equal(target.rgb, np.full((2, 2, 3), value))


def test_mask_is_zero_below_a_millimetre():
    target = DEPTH.encode(np.array([[0.0, 0.0009, 0.0011, 10.0]], np.float32), (1, 4))
    assert target.mask[0, :, 0].tolist() == [0, 0, 1, 1]


def test_unknown_pixels_never_blend_when_shrinking():
    depth = np.array([[2, 4, 0, 0], [0, 6, 0, 0], [1, 1, 8, 0], [1, 1, 0, 0]], np.float32)
    target = DEPTH.encode(depth, 2)
    np.testing.assert_allclose(DEPTH.decode(target.rgb).depth, [[4, 0], [1, 8]], atol=1e-5)
    assert target.mask[..., 0].tolist() == [[1, 0], [1, 1]]


def test_unknown_pixels_never_blend_when_growing():
    depth = np.array([[2, 0], [4, 8]], np.float32)
    target = DEPTH.encode(depth, (4, 6))
    np.testing.assert_allclose(
        DEPTH.decode(target.rgb).depth, np.kron(depth, np.ones((2, 3))), atol=1e-5
    )
    np.testing.assert_array_equal(target.mask[..., 0], np.kron(depth > 0, np.ones((2, 3))))


def test_decoding_takes_the_mean_of_the_clipped_channels_then_bilinear():
    rgb = np.array([[[-3.0, 0.0, 1.0], [1.0, 1.0, 2.0]]], np.float32)
    prediction = DEPTH.decode(rgb)
    np.testing.assert_allclose(prediction.depth, [[5.0, 10.0]], atol=1e-6)
    np.testing.assert_allclose(prediction.confidence, [[0.0, 1.0]], atol=1e-6)
    # Half-pixel centres: the four columns lie at -0.25, 0.25, 0.75, 1.25.
    np.testing.assert_allclose(
        DEPTH.decode(rgb, (1, 4)).depth, [[5.0, 6.25, 8.75, 10.0]], atol=1e-5
    )


def test_other_range():
    task = Depth(max_depth=80.0)
    depth = np.array([[0.02, 40.0, 79.0]], np.float32)
    assert np.abs(task.decode(task.encode(depth, (1, 3)).rgb).depth - depth).max() < 1e-4
    (bar,) = task.legend().bars
    assert (bar.low, bar.high) == ("0", "80 m")


def test_render_is_black_where_unknown_and_brightens_with_depth():
    picture = DEPTH.render(np.array([[0.0, 1.0, 5.0, 9.9]], np.float32))
    assert picture.shape == (1, 4, 3) and picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert np.all(np.diff(picture[0].astype(int).sum(-1)) > 0)
    near = DEPTH.render(np.array([[1.0, 2.0]], np.float32), vmin=1.0, vmax=2.0)
    np.testing.assert_array_equal(near[0, 1], DEPTH.render(np.array([[10.0]], np.float32))[0, 0])


def test_errors():
    with pytest.raises(ValueError, match=r"must be finite and >= 0 meters .* got values in -1.0"):
        DEPTH.encode(np.array([[-1.0, 2.0]], np.float32), 2)
    with pytest.raises(ValueError, match="must be finite"):
        DEPTH.encode(np.array([[np.nan]], np.float32), 2)
    with pytest.raises(
        ValueError, match=r"float map of meters of shape .* got uint16 of shape \(2, 2\)"
    ):
        DEPTH.encode(np.ones((2, 2), np.uint16), 2)
    with pytest.raises(ValueError, match=r"got float32 of shape \(2, 2, 1\)"):
        DEPTH.encode(np.ones((2, 2, 1), np.float32), 2)
    with pytest.raises(ValueError, match="positive integer or a pair"):
        DEPTH.encode(np.ones((2, 2), np.float32), (4, 0))
    with pytest.raises(
        ValueError, match=r"shape \(height, width, 3\), got float32 of shape \(2, 2\)"
    ):
        DEPTH.decode(np.ones((2, 2), np.float32))
    with pytest.raises(ValueError, match="vmin < vmax"):
        DEPTH.render(np.ones((2, 2), np.float32), vmin=3.0, vmax=3.0)
