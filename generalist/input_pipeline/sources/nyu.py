"""NYU Depth V2: indoor images with metric depth."""

import numpy as np

from generalist.input_pipeline.sources.base import Source, read_map


class NYUV2(Source):
    """Depth of NYUv2. Label: float32 (h, w) metres, 0 where the sensor gave none.

    train is every pair of the "sync" archive (raw sequences, as BTS and Painter use them), test the 654
    official images with raw, not in-painted depth. Depth files are 16-bit PNGs in millimetres; 8-bit
    repackagings (39 mm steps) are refused.
    """

    NAME = "nyu"
    TASKS = ("depth",)
    SPLITS = {"train": "sync", "test": "official_splits/test"}
    EVAL_SPLIT = "test"
    FOLDERS = ("nyu_depth_v2", "nyu")
    WHERE = (
        "cs.nyu.edu (NYU Depth Dataset V2, research use): train is the 'sync' archive of the BTS project, "
        "test is cut out of nyu_depth_v2_labeled.mat by the official splits.mat.")
    LAYOUT = """\
  nyu_depth_v2/sync/<room>/rgb_<n>.jpg                         colour
  nyu_depth_v2/sync/<room>/sync_depth_<n>.png                  16-bit, millimetres
  nyu_depth_v2/official_splits/test/<scene>/rgb_<n>.jpg
  nyu_depth_v2/official_splits/test/<scene>/sync_depth_<n>.png"""
    NEEDED = (("sync",), ("official_splits/test",))
    USUAL = {"train": 24_231, "test": 654}  # IEBins and NeWCRFs count 36,253 in the same archive

    def index(self) -> list[tuple[str, str, str]]:
        folder = self.SPLITS[self.split]
        return self.pair(self.files(folder, "*/rgb_*", strip="rgb_"),
                         self.files(folder, "*/sync_depth_*", strip="sync_depth_"))

    def read_label(self, path: str) -> np.ndarray:
        return read_map(path, np.uint16, "NYU depth (millimetres)").astype(np.float32) / 1000
