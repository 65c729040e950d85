"""SIDD: photographs of smartphones with real noise, and their noise-free twins."""

import functools
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
from etils import epath

from generalist.input_pipeline.sources.base import Source
from generalist.input_pipeline.sources.files import (
    NO_FILE,
    DataError,
    LayoutError,
    png,
    read_image,
    require_same_size,
)
from generalist.input_pipeline.sources.matlab import scipy_io

PRE_CUT, FRAMES = "train/input", "SIDD_Medium_Srgb/Data"
NOISY_BLOCKS, CLEAN_BLOCKS = "ValidationNoisyBlocksSrgb", "ValidationGtBlocksSrgb"
CROP_SIDE = 256  # of a training crop, pixels: Painter's, and that of the blocks it is evaluated on
_loading = threading.Lock()
_decoding = tuple(
    threading.Lock() for _ in range(64)
)  # a pair is decoded once for all threads that want it, others beside it


def block_shape(path: str, variable: str) -> tuple[int, ...]:
    """Shape (scenes, blocks, h, w, 3) of the uint8 array `variable`, from the header of a v5 .mat file."""
    io, allowed = (
        scipy_io(),
        f"It must be a version 5 .mat file with {variable}, uint8 (40, 32, 256, 256, 3).",
    )
    try:
        with epath.Path(path).open("rb") as file:
            variables = {name: (shape, dtype) for name, shape, dtype in io.whosmat(file)}
    except Exception as error:  # scipy raises many kinds: NotImplementedError for v7.3, ValueError, zlib.error, ...
        raise LayoutError(path, f"cannot be read ({error})", allowed) from error
    shape, dtype = variables.get(variable, ((), "absent"))
    if len(shape) != 5 or shape[-1] != 3 or dtype != "uint8":
        raise LayoutError(path, f"{variable} is {dtype} {shape}", allowed)
    return shape


@functools.lru_cache(maxsize=2)
def _load_blocks(path: str, variable: str) -> np.ndarray:
    io = scipy_io()
    try:
        with epath.Path(path).open("rb") as file:
            return io.loadmat(file, variable_names=[variable])[variable]
    except Exception as error:
        raise LayoutError(
            path, f"cannot be read ({error})", "The file is damaged: get it again."
        ) from error


def load_blocks(path: str, variable: str) -> np.ndarray:
    """All blocks of one file, kept in memory (252 MB each); the lock lets many threads load it once."""
    with _loading:
        return _load_blocks(path, variable)


# Reading in order needs the pair it is at, and in other threads the one before or after. A pair of 5328x3000 pixels has 96 MB, so that a
# process holds at most 192 MB beside what its threads are cutting from.
@functools.lru_cache(maxsize=2)
def _decode_frames(noisy: str, clean: str) -> tuple[np.ndarray, np.ndarray] | DataError:
    try:
        frames = read_image(noisy), read_image(clean)
        require_same_size(frames[0].shape[:2], noisy, frames[1].shape[:2], clean)
        return frames
    except (
        DataError
    ) as error:  # kept as well: each of its crops fails, and none decodes the pair again
        return DataError(*error.args)  # without the traceback, which holds what was read


def load_frames(noisy: str, clean: str) -> tuple[np.ndarray, np.ndarray]:
    """Both full frames, uint8 (h, w, 3); those read last are kept. DataError names a damaged one, every time."""
    with _decoding[hash(noisy) % len(_decoding)]:
        frames = _decode_frames(noisy, clean)
    if isinstance(frames, DataError):
        raise DataError(*frames.args)
    return frames


class SIDD(Source):
    """Denoising. Image: noisy; label: clean, both uint8 (h, w, 3) sRGB.

    train reads pre-cut patches (train/{input,groundtruth}) where they exist. Otherwise it cuts
    `crops_per_frame` crops of 256x256 from each full frame, one frame after the other; their places depend on
    the index alone. A PNG cannot be decoded in part: in this order a frame is decoded about once, but a shuffled
    crop decodes two frames of about 5000x3000 pixels, which is slow: prepare or cut patches beforehand for real training.
    val is the 1,280 official blocks of 256x256, keys "<scene>_<block>" counted from 0.
    """

    NAME = "sidd"
    TASKS = ("denoise",)
    SPLITS = {"train": "train", "val": "val"}
    EVAL_SPLIT = "val"
    FOLDERS = ("sidd", "denoise", "SIDD")
    WHERE = "www.eecs.yorku.ca, Smartphone Image Denoising Dataset: SIDD-Medium sRGB, and the sRGB validation blocks"
    LICENCE = "MIT, data and code (abdokamel.github.io/sidd)"
    LAYOUT = """\
  sidd/train/{input,groundtruth}/<name>.png                     pre-cut patches (sidd may be called denoise), or
  sidd/SIDD_Medium_Srgb/Data/<scene>/<n>_NOISY_SRGB_<m>.PNG     the full frames,
  sidd/SIDD_Medium_Srgb/Data/<scene>/<n>_GT_SRGB_<m>.PNG        each with its clean twin
  sidd/ValidationNoisyBlocksSrgb.mat                            also below sidd/val/
  sidd/ValidationGtBlocksSrgb.mat"""
    NEEDED = (
        (PRE_CUT, FRAMES),
        *((f"{name}.mat", f"val/{name}.mat") for name in (NOISY_BLOCKS, CLEAN_BLOCKS)),
    )
    USUAL = {"train": 96_000, "val": 1_280}  # 320 pairs of frames with 300 patches each

    def __init__(
        self,
        data_dir,
        split: str = "train",
        task: str | None = None,
        on_error: str = "raise",
        *,
        crops_per_frame: int = 300,
        **kwargs,
    ):
        self._crops_per_frame = crops_per_frame
        self._crops: int | None = None  # examples cut from one item; None: items are read whole
        super().__init__(data_dir, split, task, on_error, **kwargs)

    def index(self) -> list[tuple]:
        if self.split == "val":
            return self._blocks()
        if (epath.Path(self.root) / PRE_CUT).exists():
            return self.pair(self.files(PRE_CUT), self.files("train/groundtruth"))
        self._crops = self._crops_per_frame
        return self.pair(
            self.files(FRAMES, "*/*NOISY_SRGB_*", strip="NOISY_"),
            self.files(FRAMES, "*/*GT_SRGB_*", strip="GT_"),
        )

    def paths(self) -> Iterable[str]:
        return [path for path, _ in self._mat] if self.split == "val" else super().paths()

    def __len__(self) -> int:
        return len(self.items) * (self._crops or 1)

    def record(self, index: int) -> dict[str, Any]:
        if self.split != "val" and self._crops is None:
            return super().record(index)
        key, image, label = self.locate(index)
        return {"key": key, "image": png(image), self.LABEL: png(label)}

    def locate(self, index: int) -> tuple:
        if self.split == "val":
            key, scene, block = self.items[index]
            return key, *(
                np.ascontiguousarray(load_blocks(*mat)[scene, block]) for mat in self._mat
            )
        if self._crops is None:
            return super().locate(index)
        item, crop = divmod(
            index, self._crops
        )  # neighbours share their frame, which is decoded once for them
        key, noisy, clean = super().locate(item)
        frames = load_frames(noisy, clean)
        window = crop_window(frames[0].shape[:2], index)
        return f"{key}_{crop}", *(
            frame[window].copy() for frame in frames
        )  # copies, so that the full frames are freed

    def _blocks(self) -> list[tuple[str, int, int]]:
        self._mat = tuple((self._mat_path(name), name) for name in (NOISY_BLOCKS, CLEAN_BLOCKS))
        noisy, clean = (block_shape(*mat) for mat in self._mat)
        if noisy != clean:
            problem = f"has the shape {clean}, the noisy blocks {noisy}"
            raise LayoutError(self._mat[1][0], problem, "Both must be equal.")
        return [
            (f"{scene:04d}_{block:02d}", scene, block)
            for scene in range(noisy[0])
            for block in range(noisy[1])
        ]

    def _mat_path(self, name: str) -> str:
        candidates = [epath.Path(self.root) / folder / f"{name}.mat" for folder in ("", "val")]
        for path in candidates:
            if path.exists():
                return str(path)
        raise LayoutError(candidates[0], NO_FILE, self.expected_layout())


def crop_window(size: tuple[int, int], index: int) -> tuple[slice, slice]:
    """A random square window inside (h, w), of side CROP_SIDE or the largest that fits: a pure function of the index."""
    rng, side = np.random.default_rng(index), min(CROP_SIDE, *size)
    top, left = (int(rng.integers(length - side + 1)) for length in size)
    return slice(top, top + side), slice(left, left + side)
