"""Own data: pairs in folders are read as defined; errors name file, value and what is allowed."""

import pickle

import cv2
import numpy as np
import pytest

from generalist.input_pipeline import ReadWindow, open_sources
from generalist.input_pipeline.sources.files import DataError, LayoutError
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks import get_tasks

IDS = {"kind": "classes", "classes": (("soil", 3), ("wheat", 7), ("weed", 0)), "void": (255,)}
COLORS = {
    "kind": "classes",
    "classes": (("soil", (120, 80, 40)), ("wheat", (0, 255, 0))),
    "void": ((0, 0, 0),),
}
HEIGHT = {"kind": "scalar", "range": (-1.0, 2.0), "unit": "m", "scale": 0.001, "void": (0,)}


def write(path, array):
    """An image file (h, w) or (h, w, 3) RGB, or .npy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)


def folder(root, label, suffix=".png", name="a", split="train"):
    """A data directory with one pair; the image is as large as the label."""
    write(root / split / "images" / f"{name}.jpg", np.full((*label.shape[:2], 3), 90, np.uint8))
    write(root / split / "labels" / f"{name}{suffix}", label)
    return root


def label_of(root, definition, **kwargs):
    return Folder(root, "train", "mine", definition, **kwargs)[0]["label"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_ids_become_positions_in_the_list_of_classes(tmp_path, dtype):
    label = label_of(folder(tmp_path, np.array([[3, 7, 0], [255, 3, 7]], dtype)), IDS)
    np.testing.assert_array_equal(label, [[0, 1, 2], [-1, 0, 1]])
    assert label.dtype == np.int32


def test_colors_become_positions_in_the_list_of_classes(tmp_path):
    pixels = np.array([[(120, 80, 40), (0, 255, 0)], [(0, 0, 0), (0, 255, 0)]], np.uint8)
    np.testing.assert_array_equal(label_of(folder(tmp_path, pixels), COLORS), [[0, 1], [-1, 1]])


def test_scalars_are_scaled_and_void_is_unknown(tmp_path):
    label = label_of(folder(tmp_path, np.array([[0, 1, 2000]], np.uint16)), HEIGHT)
    np.testing.assert_allclose(label, [[np.nan, 0.001, 2.0]], rtol=1e-6)
    assert label.dtype == np.float32


def test_arrays_hold_values_below_zero_and_nan(tmp_path):
    definition = {"kind": "scalar", "range": (-1.0, 2.0)}
    label = label_of(folder(tmp_path, np.array([[-0.5, np.nan, 1.25]]), ".npy"), definition)
    np.testing.assert_array_equal(label, np.array([[-0.5, np.nan, 1.25]], np.float32))


def test_instances_and_images_are_read_as_they_are(tmp_path):
    ids = np.array([[0, 300], [7, 7]], np.uint16)
    np.testing.assert_array_equal(
        label_of(folder(tmp_path / "ids", ids), {"kind": "instances"}), ids
    )
    clean = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    np.testing.assert_array_equal(
        label_of(folder(tmp_path / "clean", clean), {"kind": "image"}), clean
    )


def test_an_example_has_the_contracts_form_and_the_source_survives_pickling(tmp_path):
    source = pickle.loads(
        pickle.dumps(Folder(folder(tmp_path, np.array([[3]], np.uint8)), "train", "mine", IDS))
    )
    example = source[0]
    assert (
        example["image"].shape == (1, 1, 3)
        and example["image"].dtype == np.uint8
        and example["key"] == "a"
    )
    assert source.task == "mine" and len(source) == 1


def test_val_and_test_open_val_and_a_folder_can_be_named(tmp_path):
    root = folder(tmp_path / "field", np.array([[3]], np.uint8), split="val").parent
    for split in ("val", "test"):
        assert Folder(root, split, "mine", IDS | {"folder": "field"})[0]["key"] == "a"


@pytest.mark.parametrize(
    ("definition", "label", "said"),
    [
        (
            IDS,
            np.array([[3, 4]], np.uint8),
            r"a.png: id 4 is no class \(50.0% of the pixels are none\). "
            r"Allowed are 3, 7, 0 and 255 for void",
        ),
        (
            COLORS,
            np.full((1, 1, 3), 9, np.uint8),
            r"color \(9, 9, 9\) is no class .* "
            r"Allowed are \(120, 80, 40\), \(0, 255, 0\) and \(0, 0, 0\)",
        ),
        (IDS | {"void": ()}, np.array([[3, 4]], np.uint8), r"Allowed are 3, 7, 0. Add it"),
        (
            IDS,
            np.zeros((2, 2, 3), np.uint8),
            r"a.png: 8-bit image with 3 channel\(s\). "
            r"It must be a PNG of up to 16 bits with 1 channel",
        ),
        (
            HEIGHT,
            np.array([[2500]], np.uint16),
            r"value 2.5 \(stored as 2500\). "
            r"Allowed are -1.0..2.0, the `range` of task 'mine', and nan and 0",
        ),
    ],
)
def test_a_wrong_label_names_file_value_and_what_is_allowed(tmp_path, definition, label, said):
    with pytest.raises(DataError, match=said):
        label_of(folder(tmp_path, label), definition)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 2, 1)), r"float64 array of shape \(2, 2, 1\). It must hold numbers of shape"),
        (np.array([["x"]]), "array of shape"),
        (np.full((2, 2), np.inf), "value inf"),
        (np.array([[None]]), "cannot be read"),
    ],
)
def test_a_wrong_array_is_named(tmp_path, array, said):
    write(tmp_path / "train/images/a.png", np.zeros((2, 2, 3), np.uint8))
    write(tmp_path / "train/labels/a.npy", array)
    with pytest.raises(DataError, match=said):
        label_of(tmp_path, HEIGHT)


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: b"PK\x03\x04" + whole,
        lambda whole: whole[:20] + b"{{" * 40 + whole[100:],
        lambda whole: whole[:-8],
    ],
)
def test_a_damaged_array_is_named(tmp_path, damage):
    folder(tmp_path, np.zeros((2, 2)), ".npy")
    path = tmp_path / "train/labels/a.npy"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        DataError, match="a.npy: cannot be read .* It must be a .npy file of numbers"
    ):
        label_of(tmp_path, HEIGHT)


def test_another_size_and_a_missing_half_are_named(tmp_path):
    folder(tmp_path, np.array([[3, 3]], np.uint8))
    write(tmp_path / "train/labels/a.png", np.array([[3], [3]], np.uint8))
    with pytest.raises(DataError, match="is 1x2 .width x height., but its image .*a.jpg is 2x1"):
        label_of(tmp_path, IDS)
    write(tmp_path / "train/images/b.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(DataError, match="b.png: has no label: none is named like 'b'"):
        Folder(tmp_path, "train", "mine", IDS)


def test_damaged_files_can_be_skipped_and_are_counted(tmp_path, caplog):
    folder(tmp_path, np.array([[4]], np.uint8), name="a")
    folder(tmp_path, np.array([[7]], np.uint8), name="b")
    source = Folder(tmp_path, "train", "mine", IDS, on_error="skip")
    assert source[0]["key"] == "b" and len(source.damaged) == 1
    assert caplog.messages == [
        f"mine: skipped {tmp_path}/train/labels/a.png: "
        "id 4 is no class (100.0% of the pixels are none)"
    ]


def test_a_missing_folder_shows_the_layout(tmp_path):
    with pytest.raises(
        LayoutError,
        match=r"no folder field. Layout expected below data_dir for task 'mine':\n"
        r"  field/\{train,val\}/images",
    ):
        Folder(tmp_path, "train", "mine", IDS | {"folder": "field"})


def test_the_kind_of_source_is_checked():
    with pytest.raises(ValueError, match="unknown data.source 'foldr'. Did you mean 'folder'"):
        open_sources({"data": {"source": "foldr"}}, ["mine"], "train")


CAPTIONED = {"kind": "instances", "captions": True}


def captioned(root, text, name="a"):
    """A data directory with one pair, and what lies beside its image."""
    folder(root, np.array([[1, 0]], np.uint8), name=name)
    if text is not None:
        (root / f"train/images/{name}.txt").write_bytes(text)
    return root


def test_a_caption_lies_beside_its_image(tmp_path):
    captioned(tmp_path, "\ufeff  two red \n b\u00e4lle\n".encode())
    source = pickle.loads(pickle.dumps(Folder(tmp_path, "train", "mine", CAPTIONED)))
    assert source[0]["prompt"] == "two red b\u00e4lle"
    assert "a.txt" in source.stamp()
    assert "prompt" not in Folder(tmp_path, "train", "mine", {"kind": "instances"})[0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", r"a.txt: the file is empty \(0 bytes\). A caption is text in UTF-8, of at most 4096"),
        (b" \n\t", r"a.txt: holds no word. A caption is text"),
        (b"caf\xe9", r"a.txt: is no UTF-8 .* A caption is text"),
        (b"a " * 2049, r"a.txt: has 4098 bytes. A caption is text"),
    ],
)
def test_a_wrong_caption_is_named(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        Folder(captioned(tmp_path, text), "train", "mine", CAPTIONED)[0]


def test_an_image_without_a_caption_is_named_or_skipped(tmp_path):
    captioned(tmp_path, b"a ball", name="b")
    captioned(tmp_path, None, name="a")
    with pytest.raises(
        DataError,
        match="a.jpg: has no caption: there is no a.txt beside it. Task 'mine' has captions",
    ):
        Folder(tmp_path, "train", "mine", CAPTIONED)
    source = Folder(tmp_path, "train", "mine", CAPTIONED, on_error="skip")
    assert [example["key"] for example in source] == ["b"]


def test_a_folder_without_captions_shows_the_layout(tmp_path):
    with pytest.raises(
        LayoutError, match=r"holds no file \*.*\n.*\n.*\n  train,val|images/<name>.txt"
    ):
        Folder(captioned(tmp_path, None), "train", "mine", CAPTIONED)


def test_pictures_with_captions_need_no_labels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    write(tmp_path / "train/images/a.png", pixels)
    definition = {"kind": "text_to_image"}
    with pytest.raises(LayoutError, match=r"holds no file \*.*\n.*<name>.jpg or .png\n.*captions"):
        Folder(tmp_path, "train", "mine", definition)
    (tmp_path / "train/images/a.txt").write_text("noise")
    source = Folder(tmp_path, "train", "mine", definition)
    assert source[0]["prompt"] == "noise"
    np.testing.assert_array_equal(source[0]["label"], pixels)

    # A window of it, from a JPEG at a fraction of its size, is its own label too.
    write(tmp_path / "train/images/a.png", pixels)
    (tmp_path / "train/images/a.png").rename(tmp_path / "b.png")
    write(tmp_path / "train/images/a.jpg", pixels)
    window = ReadWindow(lambda size: (slice(8, 40), slice(0, 32)), enough=16)
    example = Folder(tmp_path, "train", "mine", definition).read(0, window)
    assert example["image"].shape == (16, 16, 3)
    np.testing.assert_array_equal(example["label"], example["image"])
    assert get_tasks({"mine": definition})["mine"].own_prompts
