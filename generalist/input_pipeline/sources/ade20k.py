"""ADE20K scene parsing (SceneParsing / ADEChallengeData2016): 150 classes."""

import numpy as np

from generalist.input_pipeline.sources.base import Source
from generalist.input_pipeline.sources.files import DataError, File, read_map

NUM_CLASSES = 150


class ADE20K(Source):
    """Semantic segmentation of ADE20K. Label: int32 (h, w) class 0..149, -1 = void.

    The files hold 0 for "other" and 1..150 for the classes; both move down by one.
    """

    NAME = "ade20k"
    TASKS = ("semantic",)
    SPLITS = {"train": "training", "val": "validation"}
    EVAL_SPLIT = "val"
    FOLDERS = ("ade20k", "ADEChallengeData2016")
    WHERE = (
        "sceneparsing.csail.mit.edu, archive ADEChallengeData2016 of the scene parsing benchmark"
    )
    LICENCE = "images: non-commercial research and education; annotations: BSD 3-clause"
    LAYOUT = """\
  ade20k/images/training/ADE_train_<n>.jpg          ade20k may be called ADEChallengeData2016
  ade20k/images/validation/ADE_val_<n>.jpg
  ade20k/annotations/training/ADE_train_<n>.png     8-bit, 0 = other, 1..150 = classes
  ade20k/annotations/validation/ADE_val_<n>.png"""
    NEEDED = tuple(
        (f"{kind}/{split}",)
        for kind in ("images", "annotations")
        for split in ("training", "validation")
    )
    LABEL, CATALOGUE = "annotation", "scene_parse150"
    USUAL = {"train": 20_210, "val": 2_000}

    def index(self) -> list[tuple[str, str, str]]:
        split = self.SPLITS[self.split]
        return self.pair(self.files(f"images/{split}"), self.files(f"annotations/{split}"))

    def decode_label(self, label: File) -> np.ndarray:
        return read_map(label, np.uint8, "An ADE20K annotation")

    def to_label(self, stored: np.ndarray, path: File) -> np.ndarray:
        if stored.max() > NUM_CLASSES:
            raise DataError(
                path, f"label id {stored.max()}", f"Allowed are 0 (other) and 1..{NUM_CLASSES}."
            )
        return stored.astype(np.int32) - 1
