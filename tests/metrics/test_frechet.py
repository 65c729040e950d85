"""The Fréchet distance of two sets of pictures: by hand, and as SciPy has it."""

import numpy as np
import pytest
import scipy.linalg

from generalist.metrics import FrechetDistance


def distance_of(painted, true):
    metric = FrechetDistance()
    for pair in zip(painted, true, strict=True):
        metric.update(*pair)
    return metric.compute()["frechet"]


def test_gray_levels_by_hand():
    """Two sets of gray pictures: 48 equal numbers each, so the distance is 48 times that of levels.

    Levels 0.2 and 0.6 have mean 0.4 and deviation 0.2; 0 and 1 have 0.5 and 0.5. The squared
    distance of the two Gaussians is 0.1^2 + 0.3^2.
    """
    painted = [np.full((8, 8, 3), level) for level in (0.2, 0.6)]
    true = [np.full((8, 8, 3), level, np.uint8) for level in (255, 0)]
    assert distance_of(painted, true) == pytest.approx(48 * (0.1**2 + 0.3**2), rel=1e-6)
    assert distance_of([picture / 255 for picture in true[::-1]], true) == pytest.approx(
        0, abs=1e-9
    )


def test_it_is_the_formula_with_a_matrix_square_root():
    rng = np.random.default_rng(0)
    painted = rng.random((200, 4, 4, 3)) * rng.random((4, 4, 3))
    true = rng.integers(0, 256, (200, 4, 4, 3), np.uint8)
    features = [painted.reshape(200, 48), true.reshape(200, 48) / 255]
    (mean, covariance), (other_mean, other) = (
        (x.mean(0), np.cov(x, rowvar=False, bias=True)) for x in features
    )
    root = scipy.linalg.sqrtm(covariance @ other).real
    expected = np.square(mean - other_mean).sum() + np.trace(covariance + other - 2 * root)
    assert distance_of(painted, true) == pytest.approx(expected, rel=1e-6)


def test_what_always_paints_the_mean_has_the_whole_variance():
    true = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), np.uint8)
    mean = np.repeat(true.mean(0, keepdims=True) / 255, 50, 0)
    assert distance_of(mean, true) == pytest.approx((true / 255).var(0).sum(), rel=1e-6)


def test_thumbnails_are_means_of_areas_of_pictures_of_any_size():
    picture = np.kron(np.arange(16.0).reshape(4, 4, 1) / 16, np.ones((5, 3, 3)))
    values = FrechetDistance().update(picture, np.zeros((20, 12, 3), np.uint8))
    assert values["frechet"] == pytest.approx(3 * np.square(np.arange(16) / 16).sum())
    with pytest.raises(ValueError, match=r"both must be \(h, w, 3\)"):
        FrechetDistance().update(picture, np.zeros((20, 13, 3), np.uint8))
