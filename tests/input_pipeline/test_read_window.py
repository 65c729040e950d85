"""A window of a JPEG, decoded at a fraction of its size, shows exactly what the label's shows."""

import functools
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from generalist.input_pipeline import transforms
from generalist.input_pipeline.loader import FINER
from generalist.input_pipeline.source import ReadWindow
from generalist.input_pipeline.sources import open_source
from generalist.input_pipeline.sources.examples import OriginalFiles, PreparedRecords
from generalist.input_pipeline.sources.files import Stored, jpeg_size, read_image, read_window
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks.arrays import resize_image

HEIGHT, WIDTH = 603, 1001  # neither a multiple of 8


def jpeg(pixels, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", **{"quality": 95} | options)
    return file.getvalue()


def places():
    """An image whose pixels say where they are, and their rows and columns.

    Red grows with the row and green with the column, as far as 8 bits tell.
    """
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = np.stack([rows * 255 / HEIGHT, columns * 255 / WIDTH, np.full(rows.shape, 128.0)], -1)
    return np.rint(image).astype(np.uint8), (rows, columns)


def photo(height=480, width=640, seed=0):
    """Smooth random colors with edges and fine detail."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(
        rng.integers(0, 256, (12, 16, 3)).astype(np.uint8),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    blocks = cv2.resize(
        rng.integers(-40, 40, (30, 40, 3)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_NEAREST,
    )
    return np.clip(smooth + blocks + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"progressive": True},
        {"exif": Image.Exif()},
        {"comment": b"\xff\xc0" * 20},
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_size_in_a_jpegs_header_is_that_of_its_pixels(options, mode):
    file = io.BytesIO()
    Image.fromarray(photo(61, 83)).convert(mode).save(file, "jpeg", **options)
    data = file.getvalue()
    assert jpeg_size(data) == (61, 83)
    # Bytes that may fill the space before a marker.
    assert jpeg_size(data[:2] + b"\xff\xff\xff" + data[2:]) == (
        61,
        83,
    )
    assert read_image(Stored("x", data)).shape == (61, 83, 3)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"\x89PNG....", b"\xff\xd8\xff\xe0\x00\x04ab", b"\xff\xd8" + b"\xff" * 40],
)
def test_what_has_no_header_has_no_size(data):
    assert jpeg_size(data) is None


@pytest.mark.parametrize(
    ("enough", "shrink"), [(500, 1), (151, 1), (150, 2), (76, 2), (75, 4), (38, 4), (37, 8), (5, 8)]
)
@pytest.mark.parametrize("corner", [(0, 0), (13, 7), (300, 501), (HEIGHT - 301, WIDTH - 403)])
def test_the_window_lies_where_the_labels_window_lies(enough, shrink, corner):
    top, left = corner
    wanted = (slice(top, top + 301), slice(left, left + 403))
    for places, length in zip(np.mgrid[:HEIGHT, :WIDTH], (HEIGHT, WIDTH), strict=True):
        rising = np.rint(places * 255 / length).astype(np.uint8)
        shifts = []
        for gray in (rising, 255 - rising):  # both, since JPEG rounds a little up
            pixels, window, size = read_window(
                Stored("x", jpeg(gray, quality=100)), ReadWindow(lambda size: wanted, enough)
            )
            assert size == (HEIGHT, WIDTH) and pixels.shape == (301 // shrink, 403 // shrink, 3)
            exact = cv2.resize(
                gray[window].astype(np.float32), pixels.shape[1::-1], interpolation=cv2.INTER_AREA
            )
            # Levels: every pixel is the mean of its square.
            assert np.abs(pixels[..., 0] - exact).max() <= 2.5
            shifts.append((pixels[..., 0] - exact).mean() * length / 255)
        assert abs(shifts[0] - shifts[1]) / 2 < 0.2  # stored pixels
        # Whole squares.
        assert all(
            axis.stop - axis.start == n * shrink
            for axis, n in zip(window, pixels.shape[:2], strict=True)
        )
        for given, used in zip(wanted, window, strict=True):
            assert (
                0 <= given.start - used.start < shrink and 0 <= given.stop - used.stop < 2 * shrink
            )


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_colors_and_the_stored_grid_are_those_of_the_whole_image(mode):
    exif = Image.Exif()
    exif[0x112] = 6  # "turn it": ignored, since labels lie on the stored grid
    file = io.BytesIO()
    Image.fromarray(photo()).convert(mode).save(file, "jpeg", quality=95, exif=exif)
    stored = Stored("x", file.getvalue())
    whole = read_image(stored)
    pixels, window, _ = read_window(
        stored, ReadWindow(lambda size: (slice(8, 408), slice(16, 616)), 100)
    )
    assert whole.shape == (480, 640, 3) and pixels.shape == (100, 150, 3)
    exact = cv2.resize(whole[window].astype(np.float32), (150, 100), interpolation=cv2.INTER_AREA)
    # A whole image gets its colors at half the resolution, smoothly enlarged.
    assert np.abs(pixels - exact).mean() < 2.0


def test_a_fraction_is_nearer_to_the_area_mean_than_a_full_decode_that_pillow_shrinks():
    """Mean difference of the network's image from the exact mean of the area, over windows."""
    ours = []
    pillow = []
    rng = np.random.default_rng(0)
    for seed in range(4):
        stored = Stored("x", jpeg(photo(seed=seed)))
        whole = read_image(stored)
        for _ in range(8):
            window = transforms.random_window((480, 640), (0.3, 1.0), (3 / 4, 4 / 3), rng)
            pixels, shown, _ = read_window(
                stored, ReadWindow(lambda size, window=window: window, int(FINER * 128))
            )
            exact = cv2.resize(
                whole[shown].astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA
            )
            ours.append(np.abs(resize_image(pixels, (128, 128)) - exact).mean())
            usual = Image.fromarray(whole[shown]).resize((128, 128), Image.Resampling.BICUBIC)
            pillow.append(np.abs(np.asarray(usual) - exact).mean())
    assert np.mean(ours) < 0.85 * np.mean(pillow)


@pytest.fixture
def rooms(tmp_path):
    """NYU's layout: a JPEG and its depth, whose millimeters say column and row."""
    image, (rows, columns) = places()
    room = tmp_path / "original/nyu_depth_v2/sync/room"
    room.mkdir(parents=True)
    (room / "rgb_1.jpg").write_bytes(jpeg(image, subsampling=0))
    Image.fromarray((rows * 64 + columns // 16).astype(np.uint16)).save(room / "sync_depth_1.png")
    return tmp_path


def windowed(source, seed, enough):
    augment = transforms.CropAndFlip(
        {"scale": (0.3, 0.9), "ratio": (0.8, 1.25), "native": 0.0, "flip": 0.5},
        enough=enough,
        native_side=None,
    )
    return augment(functools.partial(source.read, 0), np.random.default_rng(seed))


@pytest.mark.parametrize("enough", [64, 1000])
def test_image_and_label_of_an_example_move_together(rooms, enough):
    source = open_source("nyu", "depth", "train", rooms / "original")
    for seed in range(6):
        example = windowed(source, seed, enough)
        rows, columns = np.divmod(np.rint(example["label"] * 1000).astype(int), 64)
        image = resize_image(example["image"], (32, 32)).astype(np.float32)
        for channel, place, length in ((0, rows, HEIGHT), (1, 16 * columns + 7.5, WIDTH)):
            expected = cv2.resize(place.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
            # 2 levels of 256, and a pixel.
            np.testing.assert_allclose(image[..., channel] * length / 255, expected, atol=8)
    # As a whole, an example is decoded as it is.
    assert source[0]["image"].shape == (
        HEIGHT,
        WIDTH,
        3,
    )


def test_windows_of_prepared_examples_are_those_of_the_original_files(rooms):
    from generalist.input_pipeline.prepare import open_original, prepare

    prepare(open_original("nyu", "train", rooms / "original"), rooms / "prepared")
    original, prepared = (
        open_source("nyu", "depth", "train", rooms / name) for name in ("original", "prepared")
    )
    assert isinstance(original.examples, OriginalFiles)
    assert isinstance(prepared.examples, PreparedRecords)
    for seed in range(3):
        one, other = (windowed(source, seed, 64) for source in (original, prepared))
        assert max(one["image"].shape) < 0.6 * max(one["label"].shape)  # a fraction of the size
        for name in ("image", "label", "key"):
            np.testing.assert_array_equal(one[name], other[name])


def test_a_png_is_cut_where_the_window_says_and_a_damaged_neighbour_is_replaced(tmp_path):
    for split in ("images", "labels"):
        (tmp_path / f"train/{split}").mkdir(parents=True)
    for name in ("a", "b"):
        Image.fromarray(photo(90, 100)).save(tmp_path / f"train/images/{name}.png")
        Image.fromarray(np.arange(9000, dtype=np.uint16).reshape(90, 100)).save(
            tmp_path / f"train/labels/{name}.png"
        )
    (tmp_path / "train/images/a.png").write_bytes(b"\x89PNG broken")
    source = Folder(tmp_path, "train", "ids", {"kind": "instances"}, on_error="skip")
    example = source.read(0, ReadWindow(lambda size: (slice(3, 50), slice(5, 94)), 2))
    assert example["key"] == "b" and len(source.damaged) == 1
    np.testing.assert_array_equal(example["image"], photo(90, 100)[3:50, 5:94])
    np.testing.assert_array_equal(example["label"][0], np.arange(305, 394))
