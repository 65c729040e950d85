"""SIDD: photographs of smartphones with real noise, and their noise-free twins."""

import functools
import threading
from collections.abc import Iterable
from typing import ClassVar, NamedTuple

import numpy as np
from etils import epath

from generalist.input_pipeline.source import Crop
from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.examples import Examples, Location, OriginalFiles
from generalist.input_pipeline.sources.files import (
    NO_FILE,
    DataError,
    LayoutError,
    read_image,
    require_same_size,
)
from generalist.input_pipeline.sources.matlab import read_variable, variables

PRE_CUT = "train/input"
FRAMES = "SIDD_Medium_Srgb/Data"
NOISY_BLOCKS = "ValidationNoisyBlocksSrgb"
CLEAN_BLOCKS = "ValidationGtBlocksSrgb"
CROP_SIDE = 256  # of a training crop, pixels: Painter's, and that of the evaluation's blocks

_loading = threading.Lock()

# A pair is decoded once for all threads that want it; other pairs are decoded beside it.
_decoding = tuple(threading.Lock() for _ in range(64))


class SIDD(Dataset):
    """Denoising. Image: noisy; label: clean, both uint8 (h, w, 3) sRGB.

    train reads pre-cut patches (train/{input,groundtruth}) where they exist. Otherwise it cuts
    `crops_per_frame` crops of 256x256 from each full frame, one frame after the other; their places
    depend on the index alone. A PNG cannot be decoded in part: in this order a frame is decoded
    about once, but a shuffled crop decodes two frames of about 5000x3000 pixels, which is slow:
    prepare or cut patches beforehand for real training. val is the 1,280 official blocks of
    256x256, keys "<scene>_<block>" counted from 0.
    """

    NAME = "sidd"
    TASKS = ("denoise",)
    SPLITS: ClassVar = {"train": "train", "val": "val"}
    EVAL_SPLIT = "val"
    FOLDERS = ("sidd", "denoise", "SIDD")
    WHERE = (
        "www.eecs.yorku.ca, Smartphone Image Denoising Dataset: SIDD-Medium sRGB, "
        "and the sRGB validation blocks"
    )
    LICENSE = "MIT, data and code (abdokamel.github.io/sidd)"
    LAYOUT = """\
  sidd/train/{input,groundtruth}/<name>.png                     pre-cut patches, or
  sidd/SIDD_Medium_Srgb/Data/<scene>/<n>_NOISY_SRGB_<m>.PNG     the full frames,
  sidd/SIDD_Medium_Srgb/Data/<scene>/<n>_GT_SRGB_<m>.PNG        each with its clean twin
  sidd/ValidationNoisyBlocksSrgb.mat                            also below sidd/val/
  sidd/ValidationGtBlocksSrgb.mat                               sidd may be called denoise"""
    NEEDED = (
        (PRE_CUT, FRAMES),
        (f"{NOISY_BLOCKS}.mat", f"val/{NOISY_BLOCKS}.mat"),
        (f"{CLEAN_BLOCKS}.mat", f"val/{CLEAN_BLOCKS}.mat"),
    )
    USUAL: ClassVar = {"train": 96_000, "val": 1_280}  # 320 pairs of frames with 300 patches each

    def __init__(self, *args, crops_per_frame: int = 300, **kwargs):
        self._crops_per_frame = crops_per_frame
        super().__init__(*args, **kwargs)

    def index(self) -> Examples:
        """Finds the blocks of val; the patches of train, or else the frames to cut them from."""
        if self.official_split == "val":
            return self._blocks()
        if (epath.Path(self.root) / PRE_CUT).exists():
            return self.pair_files(PRE_CUT, "train/groundtruth")

        noisy = self.files(FRAMES, "*/*NOISY_SRGB_*", strip="NOISY_")
        clean = self.files(FRAMES, "*/*GT_SRGB_*", strip="GT_")
        return Crops(self.pair(noisy, clean), self._crops_per_frame)

    def scene_of(self, key: str) -> str:
        """Returns the scene instance, of which there are several photographs with their crops.

        Keys are "<scene>/<photograph>_<crop>" of full frames, and "<photograph>_<patch>" of pre-cut
        patches. There the photographs are numbered from 1 on, two of each scene instance.
        """
        scene, slash, _ = key.partition("/")
        if slash:
            return scene
        photograph = key.partition("_")[0]
        return str((int(photograph) - 1) // 2) if photograph.isdecimal() else photograph

    def _blocks(self) -> "Blocks":
        noisy = BlocksFile(self._mat_path(NOISY_BLOCKS), NOISY_BLOCKS)
        clean = BlocksFile(self._mat_path(CLEAN_BLOCKS), CLEAN_BLOCKS)

        noisy_shape = block_shape(*noisy)
        clean_shape = block_shape(*clean)
        if noisy_shape != clean_shape:
            problem = f"has the shape {clean_shape}, the noisy blocks {noisy_shape}"
            raise LayoutError(clean.path, problem, "Both must be equal.")
        return Blocks(noisy, clean, scenes=noisy_shape[0], blocks=noisy_shape[1])

    def _mat_path(self, name: str) -> str:
        candidates = [epath.Path(self.root) / folder / f"{name}.mat" for folder in ("", "val")]
        for path in candidates:
            if path.exists():
                return str(path)
        raise LayoutError(candidates[0], NO_FILE, self.expected_layout())


class BlocksFile(NamedTuple):
    """A .mat file and its variable, uint8 (scenes, blocks, h, w, 3)."""

    path: str
    variable: str


class Blocks(Examples):
    """The blocks of the validation, scene by scene."""

    def __init__(self, noisy: BlocksFile, clean: BlocksFile, scenes: int, blocks: int):
        self._noisy = noisy
        self._clean = clean
        self._scenes = scenes
        self._blocks = blocks

    def __len__(self) -> int:
        return self._scenes * self._blocks

    def locate(self, index: int) -> Location:
        """Returns both blocks, each in an array of its own."""
        scene, block = divmod(index, self._blocks)
        noisy = load_blocks(*self._noisy)[scene, block]
        clean = load_blocks(*self._clean)[scene, block]
        key = f"{scene:04d}_{block:02d}"
        return Location(key, np.ascontiguousarray(noisy), np.ascontiguousarray(clean))

    def paths(self) -> Iterable[str]:
        """Returns the paths of both .mat files."""
        return [self._noisy.path, self._clean.path]


class Crops(Examples):
    """Crops of full frames, all of one frame one after the other, so that it is decoded once.

    Args:
      frames: pairs of a noisy and a clean frame.
      per_frame: number of crops of each.
    """

    def __init__(self, frames: list[Location], per_frame: int):
        self._frames = OriginalFiles(frames)
        self._per_frame = per_frame

    def __len__(self) -> int:
        return len(self._frames) * self._per_frame

    def names(self) -> list[str]:
        """Returns the key of every crop."""
        crops = range(self._per_frame)
        return [f"{frame}_{crop}" for frame in self._frames.names() for crop in crops]

    def locate(self, index: int) -> Location:
        """Cuts one crop out of both frames; copies, so that the full frames can be freed."""
        frame, crop = divmod(index, self._per_frame)
        location = self._frames.locate(frame)
        noisy, clean = load_frames(location.image, location.label)
        window = crop_window(noisy.shape[:2], index)
        return Location(f"{location.key}_{crop}", noisy[window].copy(), clean[window].copy())

    def paths(self) -> Iterable[str]:
        """Returns the paths of all frames."""
        return self._frames.paths()


def crop_window(size: tuple[int, int], index: int) -> Crop:
    """Returns a random square inside (h, w), a pure function of the index.

    Its side is CROP_SIDE, or the largest that fits.
    """
    rng = np.random.default_rng(index)
    side = min(CROP_SIDE, *size)
    top, left = (int(rng.integers(length - side + 1)) for length in size)
    return slice(top, top + side), slice(left, left + side)


def block_shape(path: str, variable: str) -> tuple[int, ...]:
    """Returns the shape (scenes, blocks, h, w, 3) of a variable, from a .mat file's header.

    Raises:
      LayoutError: the file is no version 5 .mat file with such a uint8 array.
    """
    shape, dtype = variables(path).get(variable, ((), "absent"))
    if len(shape) != 5 or shape[-1] != 3 or dtype != "uint8":
        allowed = f"It must be a version 5 .mat file with {variable}, uint8 (40, 32, 256, 256, 3)."
        raise LayoutError(path, f"{variable} is {dtype} {shape}", allowed)
    return shape


def load_blocks(path: str, variable: str) -> np.ndarray:
    """Returns all blocks of one file, which stay in memory (252 MB each).

    The lock makes many threads load them once.
    """
    with _loading:
        return _load_blocks(path, variable)


_load_blocks = functools.lru_cache(maxsize=2)(read_variable)


def load_frames(noisy: str, clean: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns both full frames, uint8 (h, w, 3); the last ones stay in memory.

    Raises:
      DataError: one of them is damaged; the same each time.
    """
    with _decoding[hash(noisy) % len(_decoding)]:
        frames = _decode_frames(noisy, clean)
    if isinstance(frames, DataError):
        raise DataError(*frames.args)
    return frames


# Reading in order needs the current pair, and in other threads the one before or after. A pair of
# 5328x3000 pixels has 96 MB, so that a process holds at most 192 MB beside what its threads cut.
@functools.lru_cache(maxsize=2)
def _decode_frames(noisy: str, clean: str) -> tuple[np.ndarray, np.ndarray] | DataError:
    try:
        noisy_pixels = read_image(noisy)
        clean_pixels = read_image(clean)
        require_same_size(noisy_pixels.shape[:2], noisy, clean_pixels.shape[:2], clean)
        return noisy_pixels, clean_pixels
    except DataError as error:
        # Errors are kept as well: each crop fails, but none decodes the pair again. The new one is
        # without the traceback, which would hold the pixels.
        return DataError(*error.args)
