"""Whatever users call an image becomes uint8 (h, w, 3), or an error that says what is wrong."""

import cv2
import numpy as np
import pytest
from PIL import Image

from generalist.inference.images import ImageError, read_image
from generalist.input_pipeline.sources import files
from generalist.input_pipeline.sources.files import DataError

RGB = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp"])
def test_file_pil_and_array_agree(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(RGB).save(path, **options)

    for image in (RGB, Image.fromarray(RGB), path, str(path)):
        np.testing.assert_array_equal(read_image(image), RGB)


def test_gray_becomes_three_equal_channels():
    gray = np.array([[0, 7, 255]], np.uint8)
    for image in (gray, gray[..., None], Image.fromarray(gray)):
        np.testing.assert_array_equal(read_image(image), [[[0] * 3, [7] * 3, [255] * 3]])


def test_what_is_transparent_lies_on_white():
    alpha = np.array([[0, 51, 255], [0, 51, 255]], np.uint8)
    rgba = np.concatenate([RGB, alpha[..., None]], -1)
    white = Image.new("RGBA", (3, 2), "white")
    expected = np.int32(Image.alpha_composite(white, Image.fromarray(rgba)).convert("RGB"))
    for image in (rgba, Image.fromarray(rgba)):
        actual = read_image(image)
        assert np.abs(actual - expected).max() <= 1  # Pillow's composition is of whole numbers
        np.testing.assert_array_equal(actual[:, 0], 255)
        np.testing.assert_array_equal(actual[:, 2], RGB[:, 2])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_are_8_bits_rounded(dtype):
    assert RGB.max() > 1
    np.testing.assert_array_equal(read_image((RGB / 255).astype(dtype)), RGB)
    np.testing.assert_array_equal(read_image(np.full((1, 1), 0.5, dtype)), [[[128] * 3]])


def test_palette_and_black_and_white_files(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bw.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bw.png"), [[[255] * 3, [0] * 3]])

    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), [[[10, 20, 30]]])


def test_photographs_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned to the left: rotate by 90 degrees clockwise
    Image.fromarray(RGB).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(RGB, -1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 3), np.float32), "floats that are all 0 or 1, .*convert them to uint8"),
        (np.full((2, 3, 3), 200.0), "got floats from 200 to 200"),
        (np.full((2, 3, 3), np.nan), "got floats from nan"),
        (np.zeros((2, 3, 3), np.uint16), "uint16"),
        (np.zeros((2, 3, 2), np.uint8), r"shape \(2, 3, 2\)"),
        (np.zeros((1, 2, 3, 3), np.uint8), r"shape \(1, 2, 3, 3\)"),
        (np.zeros((0, 3, 3), np.uint8), r"shape \(0, 3, 3\)"),
        (None, "object"),
    ],
)
def test_wrong_arrays_are_named(array, message):
    with pytest.raises(ImageError, match=message) as error:
        read_image(array)
    assert "or an array of shape (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)" in str(error.value)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_refused_as_in_training(tmp_path, suffix, channels):
    """Pillow would keep the high byte of three channels, and clip a single one."""
    path = tmp_path / f"deep{suffix}"
    cv2.imwrite(str(path), np.full((4, 5, channels), 40_000, np.uint16))
    with pytest.raises(
        ImageError, match=r"deep\.\w+: no readable image \(16 bits a channel; convert"
    ):
        read_image(path)
    with pytest.raises(DataError, match="16-bit image. An image must have 8 bits a channel"):
        files.read_image(str(path))


def test_wrong_files_are_named(tmp_path):
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((2, 2), np.uint16)).save(tmp_path / "deep.png")

    for name, message in (
        ("cut.png", "no readable image"),
        ("text.jpg", "no readable image"),
        ("empty.png", "no readable image"),
        ("deep.png", "8 bits a channel"),
        ("absent.png", "no such file"),
        (".", "a folder"),
    ):
        with pytest.raises(ImageError, match=message) as error:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
