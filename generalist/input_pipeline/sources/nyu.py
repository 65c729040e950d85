"""NYU Depth V2: indoor images with metric depth."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from generalist.input_pipeline.sources.base import Source
from generalist.input_pipeline.sources.files import (
    NO_FILE,
    DataError,
    File,
    LayoutError,
    png,
    read_map,
)
from generalist.input_pipeline.sources.matlab import open_hdf5, scipy_io

EXTRACTED, LABELED, SPLITS_MAT = "official_splits/test", "nyu_depth_v2_labeled.mat", "splits.mat"
TRAIN_LIST = "nyudepthv2_train_files_with_gt.txt"
INDICES = {"test": "testNdxs", "labeled": "trainNdxs"}  # split -> its variable in splits.mat
FRAME = (
    slice(7, 474),
    slice(7, 632),
)  # rows and columns inside the black frame of the extracted images


class NYUV2(Source):
    """Depth of NYUv2. Label: float32 (h, w) metres in whole millimetres, 0 where the sensor gave none.

    train is the "sync" archive (raw sequences, as BTS and Painter use them): the pairs of TRAIN_LIST where that list
    lies beside, else every pair. test is the 654 official images with raw, not in-painted depth, extracted to files
    or straight from the official .mat: both have the same keys, order, depth and black frame, only the extracted
    images went through JPEG. labeled is the other 795 images of the .mat. Depth files are 16-bit PNGs in millimetres;
    8-bit repackagings (39 mm steps) are refused.
    """

    NAME = "nyu"
    TASKS = ("depth",)
    SPLITS = {"train": "sync", "test": EXTRACTED, "labeled": LABELED}
    EVAL_SPLIT = "test"
    FOLDERS = ("nyu_depth_v2", "nyu")
    WHERE = (
        "cs.nyu.edu, NYU Depth Dataset V2: nyu_depth_v2_labeled.mat with the official splits.mat; train is the 'sync' "
        "archive of the BTS project on github.com"
    )
    LICENCE = "none found, neither of NYU nor of the sync archive: taken as research use"
    LAYOUT = """\
  nyu_depth_v2/sync/<room>/rgb_<n>.jpg                         colour
  nyu_depth_v2/sync/<room>/sync_depth_<n>.png                  16-bit, millimetres
  nyu_depth_v2/nyudepthv2_train_files_with_gt.txt              optional: the pairs of sync to train on, one a line
  nyu_depth_v2/nyu_depth_v2_labeled.mat, splits.mat            as downloaded, or extracted:
  nyu_depth_v2/official_splits/test/<scene>/rgb_<n>.jpg
  nyu_depth_v2/official_splits/test/<scene>/sync_depth_<n>.png"""
    NEEDED = (("sync",), (EXTRACTED, LABELED))
    LABEL, CATALOGUE = "depth", "nyu_depth_v2"
    USUAL = {
        "train": 24_231,
        "test": 654,
        "labeled": 795,
    }  # IEBins and NeWCRFs count 36,253 in the archive of train

    def index(self) -> list[tuple]:
        if self.split == "train":
            return self._sync()
        if self.split == "test" and (epath.Path(self.root) / EXTRACTED).exists():
            return self.pair(*self._folder(EXTRACTED))
        return self._labeled()

    def locate(self, index: int) -> tuple:
        if isinstance(self.items[index][1], str):
            return super().locate(index)
        key, row = self.items[index]
        return key, *self._read_row(row)

    def record(self, index: int) -> dict[str, Any]:
        if isinstance(self.items[index][1], str):
            return super().record(index)
        key, row = self.items[index]
        image, depth = self._read_row(row)
        return {"key": key, "image": png(image), self.LABEL: png(depth)}

    def paths(self) -> Iterable[str]:
        return [self._mat] if self.items and isinstance(self.items[0][1], int) else super().paths()

    def decode_label(self, label: File | np.ndarray) -> np.ndarray:
        return (
            label
            if isinstance(label, np.ndarray)
            else read_map(label, np.uint16, "NYU depth (millimetres)")
        )

    def to_label(self, stored: np.ndarray, path: File) -> np.ndarray:
        metres = stored.astype(np.float32)
        return (
            metres if stored.dtype == np.float16 else metres / 1000
        )  # the TFDS catalogue has float16 metres, the others millimetres

    def _folder(self, folder: str) -> tuple[dict[str, str], dict[str, str]]:
        return self.files(folder, "*/rgb_*", strip="rgb_"), self.files(
            folder, "*/sync_depth_*", strip="sync_depth_"
        )

    def _sync(self) -> list[tuple[str, str, str]]:
        images, depths = self._folder("sync")
        path = epath.Path(self.root) / TRAIN_LIST
        if not path.exists():
            pairs, which = self.pair(images, depths), f"every pair, there is no {TRAIN_LIST}"
        else:
            keys = listed_keys(path)
            for key in sorted(set(keys) - (images.keys() & depths.keys())):
                self._skip(
                    DataError(
                        f"{self.root}/sync/{key}",
                        f"not a whole pair, although {path} names it",
                        "Image and depth must exist.",
                    )
                )
            pairs = [
                (key, images[key], depths[key])
                for key in sorted(keys)
                if key in images and key in depths
            ]
            which = f"the pairs of {TRAIN_LIST}"
        self.log(f"nyu/train: {len(pairs)} examples, {which}")
        return pairs

    def _labeled(self) -> list[tuple[str, int]]:
        """(key, row) of the split's images in the .mat; the keys are those of the extracted files, counted from 0."""
        self._mat = f"{self.root}/{LABELED}"
        if not epath.Path(self._mat).exists():
            raise LayoutError(self._mat, NO_FILE, self.expected_layout())
        file = open_hdf5(self._mat)
        lacking = {"images", "rawDepths", "sceneTypes"} - set(file)
        if lacking:
            raise LayoutError(
                self._mat, f"lacks {', '.join(sorted(lacking))}", "It must be NYU's labeled .mat."
            )
        rows = np.sort(
            read_indices(f"{self.root}/{SPLITS_MAT}", INDICES[self.split], len(file["images"]))
        )
        scenes = file["sceneTypes"][0]
        names = ("".join(map(chr, file[scenes[row]][:].ravel())) for row in rows)
        return sorted((f"{name}/{row:05d}", int(row)) for name, row in zip(names, rows))

    def _read_row(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (h, w, 3), framed, and raw depth uint16 (h, w) millimetres; HDF5 has MATLAB's axes in the opposite order."""
        file, where = open_hdf5(self._mat), f"{self._mat} (image {row + 1})"
        try:
            image, depth = file["images"][row].transpose(2, 1, 0), file["rawDepths"][row].T
        except OSError as error:
            raise DataError(
                where, f"cannot be read ({error})", "The file is damaged: get it again."
            ) from error
        if not (depth.min() >= 0 and depth.max() < 65.536):
            raise DataError(
                where, f"depth {depth.min()}..{depth.max()} m", "Allowed are 0 (none) to 65.535 m."
            )
        framed = np.zeros_like(image)
        framed[FRAME] = image[FRAME]
        return framed, (depth * 1000).astype(
            np.uint16
        )  # cut to whole millimetres, as the extracted files are


def listed_keys(path: epath.Path) -> list[str]:
    """The keys "<room>/<n>" of a list with lines "/<room>/rgb_<n>.jpg /<room>/sync_depth_<n>.png <focal length>"."""
    keys = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        key = words[0].lstrip("/").rsplit(".", 1)[0].replace("rgb_", "")
        if (
            len(words) < 2
            or words[1].lstrip("/").rsplit(".", 1)[0].replace("sync_depth_", "") != key
        ):
            raise LayoutError(
                path,
                f"line {number} is {line!r}",
                "It must name rgb_<n>.jpg and sync_depth_<n>.png of one room.",
            )
        keys.append(key)
    return keys


def read_indices(path: str, variable: str, count: int) -> np.ndarray:
    """Row numbers (n,), counted from 0, of `variable` (n, 1) in splits.mat; LayoutError unless all lie in 1..count."""
    io = scipy_io()
    try:
        with epath.Path(path).open("rb") as file:
            indices = io.loadmat(file)[variable].ravel().astype(int)
    except FileNotFoundError as error:
        raise LayoutError(path, NO_FILE, NYUV2.expected_layout()) from error
    except Exception as error:  # scipy raises many kinds
        allowed = f"It must be a version 5 .mat file with {variable}."
        raise LayoutError(
            path, f"cannot be read ({type(error).__name__}: {error})", allowed
        ) from error
    if not len(indices) or indices.min() < 1 or indices.max() > count:
        raise LayoutError(
            path,
            f"{variable} names image {indices.max(initial=0)}",
            f"{LABELED} has the images 1..{count}.",
        )
    return indices - 1
