"""Promise: what users bring is read rightly and alike everywhere, or one error names the file."""

import io
import json
import os
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from generalist import pictures
from generalist.inference import ImageError, read_image
from generalist.input_pipeline.check import check, check_own
from generalist.input_pipeline.source import ReadWindow
from generalist.input_pipeline.sources import DataError, LayoutError, files, open_source
from generalist.input_pipeline.sources.files import Stored
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks import COCO_CATEGORIES

RNG = np.random.default_rng(0)
IMAGE = {"kind": "image"}
IDS = {"kind": "classes", "classes": tuple((f"class {n}", n) for n in range(16))}
WINDOW = ReadWindow(lambda size: (slice(0, size[0] // 2), slice(0, size[1] // 2)), enough=4)


def photo(h=48, w=64):
    small = RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


def encoded(pixels, form, **options):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, form, **options)
    return buffer.getvalue()


def save(root, half, name, content, split="train"):
    path = root / split / half / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def pair(root, image, label, suffix=".jpg", label_suffix=".png", name="a"):
    """Writes a pair of files; returns the path of the image."""
    save(root, "labels", name + label_suffix, label)
    return save(root, "images", name + suffix, image)


# Photographs


def with_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize("form, suffix", [("jpeg", ".jpg"), ("png", ".png"), ("webp", ".webp")])
@pytest.mark.parametrize("value", [1, 3, 5, 6, 8])
def test_photographs_are_upright_in_training_checking_and_prediction(tmp_path, form, suffix, value):
    pixels = photo()
    content = encoded(pixels, form, exif=with_orientation(value))
    expected = read_image(Image.open(io.BytesIO(content)))
    turned = value >= 5
    assert expected.shape == ((64, 48, 3) if turned else (48, 64, 3))

    path = pair(tmp_path, content, encoded(expected, "png"), suffix)
    source = Folder(tmp_path, "train", "clean", IMAGE)
    for example in (source[0], source.read(0, WINDOW._replace(enough=64))):
        h, w = example["label"].shape[:2]
        difference = example["image"].astype(int) - expected[:h, :w]
        # OpenCV and Pillow may round a JPEG differently.
        assert np.abs(difference).max() <= 3
    np.testing.assert_array_equal(read_image(path), expected)


def test_a_label_on_the_stored_grid_is_refused_with_a_word_of_exif(tmp_path):
    content = encoded(photo(), "jpeg", exif=with_orientation(6))
    pair(tmp_path, content, encoded(np.zeros((48, 64), np.uint8), "png"))
    with pytest.raises(
        DataError, match=r"a\.png: is 64x48.*a\.jpg is 48x64 when it is turned upright as its EXIF"
    ):
        Folder(tmp_path, "train", "ids", IDS)[0]

    # Without orientation two sizes are two sizes.
    pair(tmp_path, encoded(photo(), "jpeg"), encoded(np.zeros((64, 48), np.uint8), "png"))
    with pytest.raises(DataError, match=r"is 64x48\. Image and label must have the same size"):
        Folder(tmp_path, "train", "ids", IDS)[0]


def with_odd_field(tag, kind, value, extra=b""):
    """A JPEG of EXIF orientation 6, with a field that no library can write again."""
    jpeg = encoded(photo(), "jpeg")
    fields = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack("<HHI", tag, kind, 1) + value
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + fields + b"\0\0\0\0" + extra
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def chunk(name, content):
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def with_chunk(png, name, content):
    return png[:33] + chunk(name, content) + png[33:]


ODD = {
    "negative.jpg": with_odd_field(0x0102, 4, struct.pack("<I", 2**32 - 1)),
    "zero.jpg": with_odd_field(0x0103, 10, struct.pack("<I", 38), struct.pack("<II", 1, 0)),
    "profile.png": with_chunk(
        encoded(photo(), "png"), b"iCCP", b"name\0\0" + zlib.compress(os.urandom(2_000_000), 0)
    ),
    "text.png": with_chunk(
        encoded(photo(), "png"), b"zTXt", b"key\0\0" + zlib.compress(bytes(80_000_000))
    ),
    "behind.jpg": encoded(photo(), "jpeg") + b"video" * 999,
    "behind.png": encoded(photo(), "png") + b"video" * 999,
    "two.jpg": encoded(photo(), "jpeg") + encoded(photo(8, 8), "jpeg"),
    "gray.jpg": encoded(np.full((48, 64, 3), 128, np.uint8), "jpeg"),  # as where data are lost
}


@pytest.mark.parametrize("name", ODD)
def test_odd_metadata_and_bytes_behind_the_end_do_not_matter(tmp_path, name):
    turned = name in ("negative.jpg", "zero.jpg")
    size = (64, 48) if turned else (48, 64)
    label = encoded(np.zeros(size, np.uint8), "png")
    path = pair(tmp_path, ODD[name], label, os.path.splitext(name)[1])
    assert read_image(path).shape == (*size, 3)
    assert Folder(tmp_path, "train", "ids", IDS)[0]["image"].shape == (*size, 3)


def without_end(jpeg):
    """A third of its data, with an end marker."""
    scan = jpeg.index(b"\xff\xda")
    return jpeg[: scan + (len(jpeg) - scan) // 3] + b"\xff\xd9"


def without_an_interval(jpeg):
    first, second, *_ = pictures.JPEG_RESTART.finditer(jpeg, jpeg.index(b"\xff\xda"))
    return jpeg[: first.start()] + jpeg[second.start() :]


NOISE = RNG.integers(0, 256, (48, 64, 3)).astype(np.uint8)
LOST = {
    "no end": (encoded(NOISE, "jpeg")[:-600], "cut short"),
    "two thirds": (without_end(encoded(NOISE, "jpeg")), "the last part of its data is lost"),
    "two thirds, gray": (without_end(encoded(NOISE[..., 0], "jpeg")), "the last part of its data"),
    "an interval": (
        without_an_interval(encoded(NOISE, "jpeg", restart_marker_blocks=3)),
        "part of its data is lost: 2 of 3 restart markers in order",
    ),
}


@pytest.mark.parametrize("name", LOST)
def test_lost_data_of_a_jpeg_are_noticed(tmp_path, name):
    content, said = LOST[name]
    path = pair(tmp_path, content, encoded(np.zeros((48, 64), np.uint8), "png"))
    for window in (None, WINDOW):
        with pytest.raises(DataError, match=rf"a\.jpg: cannot be decoded .*({said})"):
            Folder(tmp_path, "train", "ids", IDS).read(0, window)
    with pytest.raises(
        ImageError, match=rf"a\.jpg: no readable image .({said}).*give a whole one: PNG, JPEG"
    ):
        read_image(path)


def in_the_middle(jpeg):
    """Another 40 bytes in its middle, of which a decoder makes other pixels than they were."""
    middle = (jpeg.index(b"\xff\xda") + len(jpeg)) // 2
    return jpeg[:middle] + bytes(40) + jpeg[middle + 40 :]


def with_more_data(jpeg):
    """What is left where a decoder loses count of its blocks."""
    return jpeg[:-2] + bytes(range(1, 99)) + jpeg[-2:]


@pytest.mark.parametrize("damage", [in_the_middle, with_more_data])
def test_the_check_finds_lost_data_in_the_middle_of_a_jpeg(tmp_path, capfd, damage):
    whole = encoded(NOISE, "jpeg")
    damaged = damage(whole)
    for name, content in (("a", whole), ("b", damaged)):
        pair(tmp_path, content, encoded(photo(), "png"), name=name)
    report = check_own(tmp_path, {"clean": IMAGE})
    (said,) = report.problems
    assert capfd.readouterr().err.count("Corrupt JPEG data") <= 4  # of the damaged one
    assert said.endswith(
        "images/b.jpg: data and pixels do not end together: part of the JPEG is lost"
    )


@pytest.mark.parametrize("flat", [0, 128, 255])
def test_whole_pictures_of_one_color_have_lost_nothing(flat):
    for form in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 2}):
        content = encoded(np.full((48, 64, 3), flat, np.uint8), "jpeg", **form)
        assert not pictures.has_lost_its_end(content)
        assert not pictures.has_lost_its_middle(content)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("shape", [(48, 64, 3), (41, 53, 3), (41, 53)])
def test_restart_markers_of_whole_files_are_in_order(shape, subsampling):
    pixels = RNG.integers(0, 256, shape).astype(np.uint8)
    whole = encoded(pixels, "jpeg", restart_marker_blocks=2, subsampling=subsampling)
    assert pictures.damage(whole) == ""


@pytest.mark.parametrize("suffix", pictures.SUFFIXES)
def test_every_format_is_read_alike_everywhere(tmp_path, suffix):
    pixels = photo()
    Image.fromarray(pixels).save(tmp_path / f"x{suffix}")
    content = (tmp_path / f"x{suffix}").read_bytes()
    path = pair(tmp_path, content, encoded(pixels, "png"), suffix)
    example = Folder(tmp_path, "train", "clean", IMAGE)[0]
    assert np.abs(example["image"].astype(int) - read_image(path)).max() <= 3


@pytest.mark.parametrize("form", ["png", "webp", "gif", "tiff"])
def test_of_an_animation_the_first_frame_is_the_image(tmp_path, form):
    frames = [Image.fromarray(np.full((12, 12, 3), level, np.uint8)) for level in (10, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    path = pair(tmp_path, buffer.getvalue(), encoded(photo(12, 12), "png"), f".{form}")
    image = Folder(tmp_path, "train", "clean", IMAGE)[0]["image"]
    assert abs(int(image[0, 0, 0]) - 10) <= 2 and abs(int(read_image(path)[0, 0, 0]) - 10) <= 2


def test_what_is_transparent_lies_on_white_in_training_too(tmp_path):
    rgba = np.dstack([photo(), np.full((48, 64), 0, np.uint8)])
    path = pair(tmp_path, encoded(rgba, "png"), encoded(photo(), "png"), ".png")
    assert (Folder(tmp_path, "train", "clean", IMAGE)[0]["image"] == 255).all()
    assert (read_image(path) == 255).all()


# Labels


def png(bits, color_type, rows, palette=b"", interlaced=False):
    """A PNG of numbers (h, w), written by hand."""
    h, w = rows.shape

    def packed(numbers):
        if bits == 16:
            return numbers.astype(">u2").tobytes()
        spread = np.unpackbits(numbers.astype(np.uint8)[:, None], axis=1)[:, 8 - bits :]
        return np.packbits(spread.reshape(-1)).tobytes()

    passes = [rows]
    if interlaced:
        adam7 = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2)]
        adam7 += [(0, 2, 1, 2), (1, 2, 0, 1)]
        passes = [rows[top::down, left::across] for top, down, left, across in adam7]
    lines = [b"\0" + packed(line) for part in passes if part.size for line in part]
    header = struct.pack(">IIBBBBB", w, h, bits, color_type, 0, 0, interlaced)
    chunks = [chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b""]
    chunks += [chunk(b"IDAT", zlib.compress(b"".join(lines))), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color_type", [0, 3])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_stored_number_is_the_label(tmp_path, bits, color_type, interlaced):
    if color_type == 3 and bits == 16:
        pytest.skip("a palette has at most 8 bits")
    numbers = np.arange(11 * 13).reshape(11, 13) % min(2**bits, 16)
    palette = RNG.integers(0, 256, 3 * 2 ** min(bits, 8)).astype(np.uint8).tobytes()
    content = png(bits, color_type, numbers, palette if color_type == 3 else b"", interlaced)
    pair(tmp_path, encoded(photo(11, 13), "png"), content, ".png")
    np.testing.assert_array_equal(Folder(tmp_path, "train", "ids", IDS)[0]["label"], numbers)


@pytest.mark.parametrize("form, suffix", [("jpeg", ".jpg"), ("webp", ".webp")])
@pytest.mark.parametrize("kind", ["ids", "colors", "instances"])
def test_a_lossy_format_is_no_label(tmp_path, form, suffix, kind):
    colors = {"kind": "classes", "classes": (("a", (0, 0, 0)), ("b", (255, 0, 0)))}
    definition = {"ids": IDS, "colors": colors, "instances": {"kind": "instances"}}[kind]
    label = encoded(np.zeros((48, 64, 3), np.uint8), form)
    pair(tmp_path, encoded(photo(), "png"), label, ".png", suffix)
    report = check_own(tmp_path, {"mine": definition | {"folder": "."}})
    (said,) = report.problems
    assert f"a{suffix}: its format is lossy" in said and "such as PNG" in said


def test_colors_without_loss_may_be_webp(tmp_path):
    colors = {"kind": "classes", "classes": (("a", (0, 0, 0)), ("b", (255, 0, 0)))}
    label = np.zeros((48, 64, 3), np.uint8)
    label[:5, :, 0] = 255
    content = encoded(label, "webp", lossless=True)
    pair(tmp_path, encoded(photo(), "png"), content, ".png", ".webp")
    assert Folder(tmp_path, "train", "c", colors)[0]["label"].sum() == 5 * 64


def coco(root, segments):
    """One image, the upper half of it the segment 77."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :, 0] = 77
    for folder, form in (("val2017", "jpg"), ("annotations/panoptic_val2017", "png")):
        (root / "coco" / folder).mkdir(parents=True)
        Image.fromarray(pixels).save(root / "coco" / folder / f"1.{form}")
    content = {
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "categories": COCO_CATEGORIES,
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
    }
    (root / "coco/annotations/panoptic_val2017.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "ids, said",
    [
        ((77, 77), "the JSON has the segment id 77 2 times"),
        ((77, 2**32 + 77), r"the JSON has the segment id 4294967373\. Allowed are 1\.\.16777215"),
        ((77, -3), "the JSON has the segment id -3"),
        ((77, 0), "the JSON has the segment id 0"),
    ],
)
def test_segment_ids_that_cannot_be_told_apart_are_named(tmp_path, ids, said):
    segment = {"iscrowd": 0, "area": 768}
    coco(tmp_path, [segment | {"id": n, "category_id": c} for n, c in zip(ids, (1, 190))])  # noqa: B905
    source = open_source("coco", "coco_semantic", "val", tmp_path)
    for window in (None, WINDOW):
        with pytest.raises(DataError, match=rf"panoptic_val2017/1\.png: {said}"):
            source.read(0, window)


def test_a_number_beyond_64_bits_is_a_wrong_json(tmp_path):
    coco(tmp_path, [{"id": 2**70, "category_id": 1, "iscrowd": 0, "area": 1}])
    with pytest.raises(LayoutError, match=r"panoptic_val2017\.json: cannot be read .OverflowError"):
        open_source("coco", "panoptic", "val", tmp_path)


# One damaged file is one DataError


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 589. TiB"),
        OverflowError("too large"),
        EOFError("end"),
        zlib.error("invalid"),
        struct.error("unpack"),
        cv2.error("assertion"),
        ValueError("high <= 0"),
        RuntimeError("strange"),
    ],
    ids=repr,
)
def test_whatever_a_file_raises_names_it_and_is_skipped_where_asked(tmp_path, monkeypatch, error):
    for name in "ab":
        pair(tmp_path, encoded(photo(), "png"), encoded(photo(), "png"), ".png", name=name)
    decode = files.decode

    def broken(file, flags):
        if "a.png" in str(file) and "images" in str(file):
            raise error
        return decode(file, flags)

    monkeypatch.setattr(files, "decode", broken)
    with pytest.raises(DataError, match=rf"images/a\.png: cannot be read \({type(error).__name__}"):
        Folder(tmp_path, "train", "clean", IMAGE)[0]

    source = Folder(tmp_path, "train", "clean", IMAGE, on_error="skip")
    assert source.read(0, WINDOW)["key"] == "b" and source.intact(0) is None
    assert list(source.damaged) == [str(tmp_path / "train/images/a.png")]
    report = check_own(tmp_path, {"clean": IMAGE})
    assert [type(error).__name__ in line for line in report.problems] == [True]


def npy_that_claims(shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


def test_a_header_that_claims_more_than_there_is_takes_no_memory(tmp_path):
    pair(tmp_path, encoded(photo(), "png"), npy_that_claims((9_000_000, 9_000_000)), ".png", ".npy")
    scalar = {"kind": "scalar", "range": (0.0, 1.0)}
    with pytest.raises(DataError, match=r"a\.npy: its header says \(9000000, 9000000\) numbers"):
        Folder(tmp_path, "train", "far", scalar)[0]

    # 500 megapixels, of which not one is there.
    small = encoded(photo(), "png")
    huge = small[:16] + struct.pack(">II", 30_000, 30_000) + small[24:]
    path = pair(tmp_path, huge, npy_that_claims((2, 2)), ".png", ".npy")
    said = r"30000x30000 pixels \(width x height\), allowed are 1 to 500,000,000"
    with pytest.raises(DataError, match=rf"a\.png: cannot be decoded .*{said}"):
        Folder(tmp_path, "train", "far", scalar)[0]
    with pytest.raises(ImageError, match=said):
        read_image(path)

    # A chunk of 1.5 GiB, of which not one byte is there: decoders would take the memory at once.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for kind in (b"IHDR", b"IDAT", b"IEND"):
        at = small.index(kind) - 4
        path.write_bytes(small[:at] + struct.pack(">I", 3 << 29) + small[at + 4 :])
        with pytest.raises(DataError, match=r"a\.png: cannot be decoded \(\d+ bytes, cut short\)"):
            Folder(tmp_path, "train", "far", scalar)[0]
        with pytest.raises(ImageError, match=r"no readable image \(cut short\)"):
            read_image(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19  # in KiB

    # A file of 3 GiB that takes no room on the disk.
    with open(path, "wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(DataError, match=r"a\.png: longer than 2048 MiB\. It must be a whole image"):
        Folder(tmp_path, "train", "far", scalar)[0]
    with pytest.raises(ImageError, match=r"a\.png: longer than 2048 MiB"):
        read_image(path)


def test_a_jpeg_without_height_is_named_in_a_window_too():
    jpeg = bytearray(encoded(photo(), "jpeg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 7] = b"\0\0"
    with pytest.raises(DataError, match="x.jpg: its header says 64x0 pixels"):
        files.read_window(Stored("x.jpg", bytes(jpeg)), WINDOW)


def test_images_that_no_metric_can_measure_are_named_by_the_check(tmp_path):
    for split in ("train", "val"):  # training takes images of any size
        for half in ("images", "labels"):
            save(tmp_path, half, "a.png", encoded(photo(10, 40), "png"), split)
    (said,) = check_own(tmp_path, {"clean": IMAGE}).problems
    assert said == "clean/val: a: 40x10 pixels (width x height) are too few: SSIM needs 11 a side"


def test_depth_of_another_size_than_the_official_metric_needs_is_named_by_the_check(tmp_path):
    folder = tmp_path / "nyu/official_splits/test/bath"
    folder.mkdir(parents=True)
    Image.fromarray(photo(24, 32)).save(folder / "rgb_1.jpg")
    Image.fromarray(np.full((24, 32), 2000, np.uint16)).save(folder / "sync_depth_1.png")
    _, test = check(tmp_path, ["nyu"]).splits
    assert test.problems == [
        "bath/1: 32x24 pixels (width x height), the official metric needs 640x480"
    ]


@pytest.mark.parametrize("length", [8, 24, 25, 26, 30])
def test_a_label_of_a_few_bytes_is_named(tmp_path, length):
    path = tmp_path / "label.png"
    path.write_bytes(encoded(np.zeros((4, 4), np.uint16), "PNG")[:length])
    with pytest.raises(DataError, match="label.png"):
        files.read_numbers(str(path))
