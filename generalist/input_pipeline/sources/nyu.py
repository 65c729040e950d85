"""NYU Depth V2: indoor images with metric depth."""

import logging
import math
import string
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
from etils import epath

from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.examples import Examples, Location, OriginalFiles
from generalist.input_pipeline.sources.files import (
    NO_FILE,
    DataError,
    File,
    LayoutError,
    naming,
    read_map,
)
from generalist.input_pipeline.sources.matlab import open_hdf5, read_variable
from generalist.names import first_line
from generalist.pictures import MOST_PIXELS

EXTRACTED = "official_splits/test"
LABELED = "nyu_depth_v2_labeled.mat"
SPLITS_MAT = "splits.mat"
TRAIN_LIST = "nyudepthv2_train_files_with_gt.txt"
INDICES = {"test": "testNdxs", "labeled": "trainNdxs"}  # split -> its variable in splits.mat

MOST_LETTERS = 1000  # of a scene's name

# Rows and columns inside the black frame of the extracted images.
FRAME = (slice(7, 474), slice(7, 632))


class NYUV2(Dataset):
    """Depth of NYUv2. Label: float32 (h, w) meters in whole millimeters, 0 where there is none.

    train is the "sync" archive (raw sequences, as BTS and Painter use them): the pairs of
    TRAIN_LIST if that list is in the folder, else every pair. test is the 654 official images with
    raw, not in-painted depth, extracted to files or straight from the official .mat: both have the
    same keys, order, depth and black frame, only the extracted images went through JPEG. labeled is
    the other 795 images of the .mat. Depth files are 16-bit PNGs in millimeters; 8-bit repackagings
    (39 mm steps) are refused.
    """

    NAME = "nyu"
    TASKS = ("depth",)
    SPLITS: ClassVar = {"train": "sync", "test": EXTRACTED, "labeled": LABELED}
    EVAL_SPLIT = "test"
    FOLDERS = ("nyu_depth_v2", "nyu")
    WHERE = (
        "cs.nyu.edu, NYU Depth Dataset V2: nyu_depth_v2_labeled.mat with the official splits.mat; "
        "train is the 'sync' archive of the BTS project on github.com"
    )
    LICENSE = "none found, neither of NYU nor of the sync archive: taken as research use"
    LAYOUT = """\
  nyu_depth_v2/sync/<room>/rgb_<n>.jpg                  color
  nyu_depth_v2/sync/<room>/sync_depth_<n>.png           16-bit, millimeters
  nyu_depth_v2/nyudepthv2_train_files_with_gt.txt       optional: the pairs to train on, one a line
  nyu_depth_v2/nyu_depth_v2_labeled.mat, splits.mat     as downloaded, or extracted:
  nyu_depth_v2/official_splits/test/<scene>/rgb_<n>.jpg
  nyu_depth_v2/official_splits/test/<scene>/sync_depth_<n>.png"""
    NEEDED = (("sync",), (EXTRACTED, LABELED))
    LABEL = "depth"
    CATALOG = "nyu_depth_v2"
    # IEBins and NeWCRFs count 36,253 in the archive of train.
    USUAL: ClassVar = {"train": 24_231, "test": 654, "labeled": 795}

    def index(self) -> Examples:
        """Finds the pairs of files of the split, or its images in the .mat."""
        if self.official_split == "train":
            return OriginalFiles(self._sync())
        if self.official_split == "test" and (epath.Path(self.root) / EXTRACTED).exists():
            return OriginalFiles(self.pair(*self._images_and_depths(EXTRACTED)))
        return self._labeled()

    def scene_of(self, key: str) -> str:
        """Returns the room of a key "<room><part>/<n>": a video of it has parts a, b, ..."""
        return key.split("/")[0].rstrip(string.ascii_lowercase)

    def decode_label(self, label: File | np.ndarray) -> np.ndarray:
        """Reads depth as it is stored: uint16 millimeters, or the catalog's float16 meters."""
        if isinstance(label, np.ndarray):
            return label
        return read_map(label, np.uint16, "NYU depth (millimeters)")

    def to_label(self, stored: np.ndarray, location: Location, whole: bool) -> np.ndarray:
        """Converts depth to float32 meters."""
        depth = stored.astype(np.float32)
        return depth if stored.dtype == np.float16 else depth / 1000

    def _images_and_depths(self, folder: str) -> tuple[dict[str, str], dict[str, str]]:
        images = self.files(folder, "*/rgb_*", strip="rgb_")
        depths = self.files(folder, "*/sync_depth_*", strip="sync_depth_")
        return images, depths

    def _sync(self) -> list[Location]:
        images, depths = self._images_and_depths("sync")
        path = epath.Path(self.root) / TRAIN_LIST
        if path.exists():
            pairs = self._listed_pairs(path, images, depths)
            which = f"the pairs of {TRAIN_LIST}"
        else:
            pairs = self.pair(images, depths)
            which = f"every pair, there is no {TRAIN_LIST}"

        self.log(logging.INFO, f"nyu/train: {len(pairs)} examples, {which}")
        return pairs

    def _listed_pairs(
        self, path: epath.Path, images: dict[str, str], depths: dict[str, str]
    ) -> list[Location]:
        # The list has fewer pairs than the folder; one that it names must be there.
        pairs = []
        for key in sorted(listed_keys(path)):
            if key in images and key in depths:
                pairs.append(Location(key, images[key], depths[key]))
                continue

            self.skip_or_raise(
                DataError(
                    f"{self.root}/sync/{key}",
                    f"not a whole pair, although {path} names it",
                    "Image and depth must exist.",
                )
            )
        return pairs

    def _labeled(self) -> "LabeledImages":
        path = f"{self.root}/{LABELED}"
        if not epath.Path(path).exists():
            raise LayoutError(path, NO_FILE, self.expected_layout())
        try:
            return LabeledImages(path, sorted(self._keys_and_rows(path)))
        except (DataError, ImportError):
            raise
        except Exception as error:  # h5py raises many kinds
            problem = f"cannot be read ({type(error).__name__}: {first_line(error)})"
            raise LayoutError(path, problem, "The file is damaged: get it again.") from error

    def _keys_and_rows(self, path: str) -> list[tuple[str, int]]:
        """The key and the row of every image of the split."""
        file = open_hdf5(path)
        absent = {"images", "rawDepths", "sceneTypes"} - set(file)
        if absent:
            problem = f"lacks {', '.join(sorted(absent))}"
            raise LayoutError(path, problem, "It must be NYU's labeled .mat.")

        splits_path = f"{self.root}/{SPLITS_MAT}"
        try:
            rows = read_indices(splits_path, INDICES[self.official_split], len(file["images"]))
        except FileNotFoundError as error:
            raise LayoutError(splits_path, NO_FILE, self.expected_layout()) from error

        # The keys are those of the extracted files: the scene's name and the row from 0.
        scenes = file["sceneTypes"][0]
        keys_and_rows = []
        for row in np.sort(rows).tolist():
            letters = file[scenes[row]]
            if letters.size > MOST_LETTERS:
                problem = f"the scene of image {row + 1} has {letters.size} letters"
                raise LayoutError(path, problem, "It must be NYU's labeled .mat.")
            letters = letters[:].ravel()
            keys_and_rows.append((f"{''.join(map(chr, letters))}/{row:05d}", row))
        return keys_and_rows


class LabeledImages(Examples):
    """Images and depths in nyu_depth_v2_labeled.mat, read one by one.

    Args:
      path: path of the .mat file.
      rows: (key, row) of each example.
    """

    def __init__(self, path: str, rows: list[tuple[str, int]]):
        self._path = path
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def locate(self, index: int) -> Location:
        """Returns the image with its black frame, and depth, uint16 (h, w) millimeters."""
        key, row = self._rows[index]
        image, depth = read_labeled(self._path, row)
        return Location(key, image, depth)

    def paths(self) -> Iterable[str]:
        """Returns the path of the .mat file."""
        return [self._path]


def read_labeled(path: str, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Reads one image of nyu_depth_v2_labeled.mat.

    Returns:
      uint8 (h, w, 3) with its black frame, and raw depth uint16 (h, w) in millimeters.

    Raises:
      DataError: the row is damaged, or a depth does not fit 16 bits.
    """
    file = open_hdf5(path)
    where = f"{path} (image {row + 1})"
    with naming(where):
        # HDF5 has MATLAB's axes in the opposite order. Shapes first: a file may claim any.
        images = file["images"]
        depths = file["rawDepths"]
        size = images.shape[2:]
        fits = images.shape[1:] == (3, *size) and depths.shape[1:] == size and len(size) == 2
        if not fits or images.dtype != np.uint8 or depths.dtype.kind != "f":
            problem = f"images {images.dtype} {images.shape}, depths {depths.dtype} {depths.shape}"
            raise DataError(where, problem, "Allowed are 8-bit RGB, and meters a pixel.")
        if not 0 < math.prod(size) <= MOST_PIXELS:
            raise DataError(where, f"{size} pixels", f"Allowed are 1 to {MOST_PIXELS:,}.")
        image = images[row].transpose(2, 1, 0)
        depth = depths[row].T
    if not (depth.min() >= 0 and depth.max() < 65.536):
        problem = f"depth {depth.min()}..{depth.max()} m"
        raise DataError(where, problem, "Allowed are 0 (none) to 65.535 m.")

    # Both as in the extracted files, which have a black frame and whole millimeters, cut.
    framed = np.zeros_like(image)
    framed[FRAME] = image[FRAME]
    return framed, (depth * 1000).astype(np.uint16)


def listed_keys(path: epath.Path) -> list[str]:
    """Returns the keys "<room>/<n>" of a list of pairs.

    Its lines are "/<room>/rgb_<n>.jpg /<room>/sync_depth_<n>.png <focal length>".
    """
    keys = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue

        key = _key_of(words[0], "rgb_")
        if len(words) < 2 or _key_of(words[1], "sync_depth_") != key:
            allowed = "It must name rgb_<n>.jpg and sync_depth_<n>.png of one room."
            raise LayoutError(path, f"line {number} is {line!r}", allowed)
        keys.append(key)
    return keys


def _key_of(path: str, prefix: str) -> str:
    return path.lstrip("/").rsplit(".", 1)[0].replace(prefix, "")


def read_indices(path: str, variable: str, count: int) -> np.ndarray:
    """Reads the rows of a split from splits.mat.

    Args:
      path: path of splits.mat.
      variable: the split's variable there, (n, 1), counted from 1.
      count: number of images there are.

    Returns:
      int (n,), counted from 0.

    Raises:
      FileNotFoundError: there is no such file.
      LayoutError: it has no such variable, or a row is not in 1..count.
    """
    indices = read_variable(path, variable).ravel().astype(int)
    if not len(indices) or indices.min() < 1 or indices.max() > count:
        problem = f"{variable} names image {indices.max(initial=0)}"
        raise LayoutError(path, problem, f"{LABELED} has the images 1..{count}.")
    return indices - 1
