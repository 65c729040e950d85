"""PSNR and SSIM against scikit-image, a direct three-dimensional SSIM, and hand values."""

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from generalist.metrics import ImageQuality
from generalist.metrics.image_quality import luma

PROTOCOL_IDS = [
    "rgb-skimage",
    "rgb-matlab",
    "derain-y-matlab",
    "sidd-rgb-matlab",
    "lol-rgb-painter",
]
WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def pair(height=45, width=38, seed=0):
    """A smooth uint8 image and the same with noise: (prediction, label)."""
    rng = np.random.default_rng(seed)
    label = ndimage.gaussian_filter(rng.random((height, width, 3)), (3, 3, 0))
    label = (label - label.min()) / np.ptp(label)
    noisy = np.clip(label + rng.normal(0, 0.05, label.shape), 0, 1)
    return np.rint(noisy * 255).astype(np.uint8), np.rint(label * 255).astype(np.uint8)


def gaussian_window(dims):
    """An 11-tap window of sigma 1.5 in `dims` dimensions, made from the distances to its centre."""
    squared = sum(axis**2 for axis in np.meshgrid(*[np.arange(-5, 6)] * dims))
    window = np.exp(-squared / (2 * 1.5**2))
    return window / window.sum()


def direct_ssim_map(x, y, window, data_range):
    """The definition of SSIM with separate variances, edges replicated."""

    def mean(values):
        return ndimage.correlate(values, window, mode="nearest")

    mean_x, mean_y = mean(x), mean(y)
    variance_x, variance_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance * (2 * covariance + c2) / (variance_x + variance_y + c2)


def test_rgb_skimage_equals_scikit_image_on_levels():
    prediction, label = pair(70, 33)  # more rows than one strip, and a rest
    values = ImageQuality("rgb-skimage").update(prediction, label)
    assert values["psnr"] == pytest.approx(
        peak_signal_noise_ratio(label, prediction, data_range=255), rel=1e-12
    )
    expected = structural_similarity(label, prediction, data_range=255, channel_axis=-1, **WANG)
    assert values["ssim"] == pytest.approx(expected, rel=1e-12)


def test_rgb_matlab_equals_scikit_image_on_floats():
    prediction, label = (image / 255 + 0.001 * (image < 250) for image in pair())  # not on levels
    values = ImageQuality("rgb-matlab").update(prediction, label)
    assert values["psnr"] == pytest.approx(
        peak_signal_noise_ratio(label, prediction, data_range=1), rel=1e-12
    )
    expected = structural_similarity(label, prediction, data_range=1.0, channel_axis=-1, **WANG)
    assert values["ssim"] == pytest.approx(expected, rel=1e-12)


def test_lol_painter_equals_scikit_image_defaults_with_data_range_two():
    prediction, label = (image / 255 for image in pair())
    values = ImageQuality("lol-rgb-painter").update(prediction, label)
    assert values["psnr"] == pytest.approx(
        peak_signal_noise_ratio(label, prediction, data_range=1), rel=1e-12
    )
    expected = structural_similarity(label, prediction, data_range=2.0, channel_axis=-1)
    assert values["ssim"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [(45, 38), (6, 9), (1, 1)])
def test_sidd_equals_a_direct_volumetric_ssim(size):
    prediction, label = np.random.default_rng(0).random((2, *size, 3))
    values = ImageQuality("sidd-rgb-matlab").update(prediction, label)
    assert values["psnr"] == pytest.approx(
        -10 * math.log10(np.mean((prediction - label) ** 2)), rel=1e-12
    )
    expected = direct_ssim_map(prediction, label, gaussian_window(3), 1.0).mean()
    assert values["ssim"] == pytest.approx(expected, rel=1e-12)


def test_volumetric_ssim_is_not_the_mean_over_channels():
    prediction, label = pair()
    volumetric = ImageQuality("sidd-rgb-matlab").update(prediction, label)
    planar = ImageQuality("rgb-matlab").update(prediction, label)
    assert volumetric["psnr"] == planar["psnr"]
    assert abs(volumetric["ssim"] - planar["ssim"]) > 0.01


def test_derain_compares_rounded_y_where_the_window_fits():
    prediction, label = pair()
    weights = np.array([65.481, 128.553, 24.966]) / 255
    y_prediction, y_label = (np.floor(16 + image @ weights + 0.5) for image in (prediction, label))
    values = ImageQuality("derain-y-matlab").update(prediction, label)
    error = np.mean((y_prediction - y_label) ** 2)
    assert values["psnr"] == pytest.approx(20 * math.log10(255 / math.sqrt(error)), rel=1e-12)
    whole = direct_ssim_map(y_prediction, y_label, gaussian_window(2), 255)
    assert values["ssim"] == pytest.approx(whole[5:-5, 5:-5].mean(), rel=1e-12)


@pytest.mark.parametrize(
    "rgb, y",
    [
        ((255, 255, 255), 235),
        ((0, 0, 0), 16),
        ((255, 0, 0), 81),
        ((0, 255, 0), 145),
        ((0, 0, 255), 41),
        ((10, 200, 77), 127),
    ],
)
def test_luma_of_known_colors(rgb, y):
    # 16 + 65.481 = 81.48, 16 + 128.553 = 144.55, 16 + 24.966 = 40.97,
    # 16 + 2.57 + 100.83 + 7.54 = 126.93
    assert luma(np.array([[rgb]], np.uint8)).tolist() == [[y]]


def test_psnr_worked_out_by_hand():
    label = np.zeros((11, 11, 3), np.uint8)
    prediction = label.copy()
    prediction[..., 0] = 51  # mean squared error 51^2 / 3; 255 / 51 = 5
    for protocol in ("rgb-skimage", "rgb-matlab", "sidd-rgb-matlab", "lol-rgb-painter"):
        values = ImageQuality(protocol).update(prediction, label)
        assert values["psnr"] == pytest.approx(20 * math.log10(5) + 10 * math.log10(3))
    # Y of (51, 0, 0) is 16 + 13.1, so 29 against 16.
    assert ImageQuality("derain-y-matlab").update(prediction, label)["psnr"] == pytest.approx(
        20 * math.log10(255 / 13)
    )


@pytest.mark.parametrize("protocol", PROTOCOL_IDS)
def test_equal_images_are_perfect_and_make_the_mean_infinite(protocol):
    prediction, label = pair()
    metric = ImageQuality(protocol)
    assert metric.update(label, label / 255) == {"psnr": math.inf, "ssim": 1.0}
    noisy = metric.update(prediction, label)
    assert metric.compute() == {"psnr": math.inf, "ssim": pytest.approx((1 + noisy["ssim"]) / 2)}


@pytest.mark.parametrize("protocol", PROTOCOL_IDS)
def test_uint8_and_float_images_on_the_same_levels_agree(protocol):
    prediction, label = pair()
    levels = ImageQuality(protocol).update(prediction, label)
    single = ImageQuality(protocol).update((prediction / 255).astype(np.float32), label)
    assert single == pytest.approx(levels, rel=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOL_IDS)
def test_compute_is_the_mean_over_images(protocol):
    metric = ImageQuality(protocol)
    images = [metric.update(*pair(seed=seed)) for seed in range(3)]
    for key, value in metric.compute().items():
        assert value == pytest.approx(sum(image[key] for image in images) / 3)


def test_protocols_on_levels_round_floats():
    label = np.zeros((11, 11, 3), np.uint8)
    assert (
        ImageQuality("rgb-skimage").update(np.full(label.shape, 0.49 / 255), label)["psnr"]
        == math.inf
    )
    assert ImageQuality("rgb-skimage").update(np.full(label.shape, 0.51 / 255), label)[
        "psnr"
    ] == pytest.approx(20 * math.log10(255))


@pytest.mark.parametrize(
    "protocol, side",
    [("rgb-skimage", 11), ("rgb-matlab", 11), ("derain-y-matlab", 11), ("lol-rgb-painter", 7)],
)
def test_the_window_must_fit(protocol, side):
    image = np.zeros((side, side, 3), np.uint8)
    assert ImageQuality(protocol).update(image, image)["ssim"] == 1.0
    with pytest.raises(ValueError, match=f"at least {side} pixels"):
        ImageQuality(protocol).update(image[1:], image[1:])


@pytest.mark.parametrize(
    "image, error, message",
    [
        (np.zeros((12, 12, 4), np.uint8), ValueError, r"must be \(h, w, 3\)"),
        (np.zeros((0, 12, 3), np.uint8), ValueError, r"must be \(h, w, 3\)"),
        (np.zeros((12, 12, 3), np.int64), TypeError, "dtype int64; it must be uint8, or float"),
        (
            np.full((12, 12, 3), 255.0),
            ValueError,
            r"spans 255.0 .. 255.0; floats must be in \[0, 1\]",
        ),
        (np.full((12, 12, 3), np.nan), ValueError, r"floats must be in \[0, 1\]"),
        (np.zeros((12, 12), np.uint8), ValueError, r"both must be \(h, w, 3\)"),
    ],
)
def test_images_of_another_form_are_errors(image, error, message):
    with pytest.raises(error, match=message):
        ImageQuality().update(image, image)


def test_shapes_must_agree():
    with pytest.raises(
        ValueError, match=r"prediction has shape \(12, 12, 3\) and label \(24, 24, 3\)"
    ):
        ImageQuality().update(np.zeros((12, 12, 3), np.uint8), np.zeros((24, 24, 3), np.uint8))


def test_gt_mean_takes_the_brightness_of_the_label_by_hand():
    # Red 0.5 and green 0.25 have the gray 0.29625, the label 0.5925 twice that: the prediction is
    # doubled, and is the label.
    prediction = np.zeros((12, 12, 3))
    prediction[..., :2] = 0.5, 0.25
    label = np.zeros((12, 12, 3))
    label[..., :2] = 1.0, 0.5
    found = ImageQuality("lol-rgb-gt-mean").update(prediction, label)
    assert found["psnr"] > 200 and found["ssim"] == pytest.approx(1.0)

    # Gray 0.66090: the factor is 2.2309, red is clipped, green 0.55772 against 0.5, blue 0 against
    # 0.6.
    label[..., 2] = 0.6
    squares = (0.0, (0.25 * 0.6609 / 0.29625 - 0.5) ** 2, 0.36)
    found = ImageQuality("lol-rgb-gt-mean").update(prediction, label)
    assert found["psnr"] == pytest.approx(-10 * math.log10(sum(squares) / 3))
