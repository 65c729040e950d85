"""ADE20K scene parsing (SceneParsing / ADEChallengeData2016): 150 classes."""

from typing import ClassVar

import numpy as np

from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.examples import Location, OriginalFiles
from generalist.input_pipeline.sources.files import DataError, File, read_map

NUM_CLASSES = 150


class ADE20K(Dataset):
    """Semantic segmentation of ADE20K. Label: int32 (h, w) class 0..149, -1 = void.

    The files hold 0 for "other" and 1..150 for the classes; both move down by one.
    """

    NAME = "ade20k"
    TASKS = ("semantic",)
    SPLITS: ClassVar = {"train": "training", "val": "validation"}
    EVAL_SPLIT = "val"
    FOLDERS = ("ade20k", "ADEChallengeData2016")
    WHERE = (
        "sceneparsing.csail.mit.edu, archive ADEChallengeData2016 of the scene parsing benchmark"
    )
    LICENSE = "images: non-commercial research and education; annotations: BSD 3-clause"
    LAYOUT = """\
  ade20k/images/training/ADE_train_<n>.jpg          ade20k may be called ADEChallengeData2016
  ade20k/images/validation/ADE_val_<n>.jpg
  ade20k/annotations/training/ADE_train_<n>.png     8-bit, 0 = other, 1..150 = classes
  ade20k/annotations/validation/ADE_val_<n>.png"""
    NEEDED = (
        ("images/training",),
        ("images/validation",),
        ("annotations/training",),
        ("annotations/validation",),
    )
    LABEL = "annotation"
    CATALOG = "scene_parse150"
    USUAL: ClassVar = {"train": 20_210, "val": 2_000}

    def index(self) -> OriginalFiles:
        """Pairs the images and annotations of the split."""
        folder = self.SPLITS[self.official_split]
        return self.pair_files(f"images/{folder}", f"annotations/{folder}")

    def decode_label(self, label: File) -> np.ndarray:
        """Reads an annotation, uint8 (h, w)."""
        return read_map(label, np.uint8, "An ADE20K annotation")

    def to_label(self, stored: np.ndarray, location: Location, whole: bool) -> np.ndarray:
        """Moves the ids down by one."""
        if stored.max() > NUM_CLASSES:
            allowed = f"Allowed are 0 (other) and 1..{NUM_CLASSES}."
            raise DataError(location.label, f"label id {stored.max()}", allowed)
        return stored.astype(np.int32) - 1
