"""Rain13K: the deraining mixture of MPRNet, with its five test sets."""

import logging
from typing import ClassVar

from etils import epath

from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.examples import Location, OriginalFiles
from generalist.input_pipeline.sources.files import LayoutError

# Name -> number of images in the published archives, whatever the names say.
TEST_SETS = {
    "Test100": 98,
    "Rain100H": 100,
    "Rain100L": 100,
    "Test2800": 2_800,
    "Test1200": 1_200,
}


class Rain13K(Dataset):
    """Deraining. Image: rainy; label: clean, both uint8 (h, w, 3), paired by name.

    Split "test" is those of the five test sets that are there, one after another, with keys
    "Rain100H/1" and so on; the log names the others. The official result is the unweighted mean of
    the five sets' means. Split "test/Rain100H" is one of them alone.
    """

    NAME = "rain13k"
    TASKS = ("derain",)
    SPLITS: ClassVar = {
        "train": "train",
        "test": "test",
        **{f"test/{name}": f"test/{name}" for name in TEST_SETS},
    }
    EVAL_SPLIT = "test"
    FOLDERS = ("derain", "Rain13K")
    WHERE = (
        "the MPRNet project on github.com, Deraining/Datasets: "
        "a mixture of five synthetic rain sets"
    )
    LICENSE = (
        "none stated, neither for the mixture nor by the authors of its sets: taken as research use"
    )
    LAYOUT = """\
  derain/train/{input,target}/<name>.jpg            rainy, clean; derain may be called Rain13K
  derain/test/<set>/{input,target}/<name>.png       <set>: Test100 Rain100H Rain100L Test2800
                                                    Test1200, or some of them"""
    NEEDED = (
        ("train/input",),
        ("train/target",),
        tuple(f"test/{name}" for name in TEST_SETS),  # one test set is enough
    )
    USUAL: ClassVar = {
        "train": 13_711,
        "test": sum(TEST_SETS.values()),
        **{f"test/{name}": count for name, count in TEST_SETS.items()},
    }
    groups = tuple(TEST_SETS)

    def index(self) -> OriginalFiles:
        """Pairs the images of the split, or of all its test sets."""
        if self.official_split != "test":
            return OriginalFiles(self._pairs(self.official_split))

        locations = []
        for name in self._test_sets():
            pairs = self._pairs(f"test/{name}")
            self.report_count(f"test/{name}", len(pairs))
            locations += [pair._replace(key=f"{name}/{pair.key}") for pair in pairs]
        return OriginalFiles(locations)

    def _test_sets(self) -> list[str]:
        folder = epath.Path(self.root) / "test"
        present = [name for name in TEST_SETS if (folder / name).exists()]
        if not present:
            problem = f"holds none of the test sets {', '.join(TEST_SETS)}"
            raise LayoutError(folder, problem, self.expected_layout())

        # Figures of some of the sets are no official ones, but useful.
        absent = [name for name in TEST_SETS if name not in present]
        if absent:
            self.log(
                logging.WARNING,
                f"rain13k/test: {folder} lacks {', '.join(absent)}: "
                f"figures are means over {', '.join(present)}, not the official ones",
            )
        return present

    def _pairs(self, folder: str) -> list[Location]:
        return self.pair(self.files(f"{folder}/input"), self.files(f"{folder}/target"))
