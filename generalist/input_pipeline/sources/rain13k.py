"""Rain13K: the deraining mixture of MPRNet, with its five test sets."""

from etils import epath

from generalist.input_pipeline.sources.base import Source
from generalist.input_pipeline.sources.files import LayoutError

TEST_SETS = {"Test100": 100, "Rain100H": 100, "Rain100L": 100, "Test2800": 2_800, "Test1200": 1_200}


class Rain13K(Source):
    """Deraining. Image: rainy; label: clean, both uint8 (h, w, 3), paired by name.

    Split "test" is those of the five test sets that are there, one after another, keys "Rain100H/1" and so on (the official
    result is the unweighted mean of the five set means); the others are named. "test/Rain100H" is one of them alone.
    """

    NAME = "rain13k"
    TASKS = ("derain",)
    SPLITS = {"train": "train", "test": "test"} | {
        f"test/{name}": f"test/{name}" for name in TEST_SETS
    }
    EVAL_SPLIT = "test"
    FOLDERS = ("derain", "Rain13K")
    WHERE = "the MPRNet project on github.com, Deraining/Datasets: a mixture of five synthetic rain sets"
    LICENCE = (
        "none stated, neither for the mixture nor by the authors of its sets: taken as research use"
    )
    LAYOUT = """\
  derain/train/{input,target}/<name>.jpg            rainy, clean; derain may be called Rain13K
  derain/test/<set>/{input,target}/<name>.png       <set>: Test100 Rain100H Rain100L Test2800 Test1200, or some of them"""
    NEEDED = (
        ("train/input",),
        ("train/target",),
        tuple(f"test/{name}" for name in TEST_SETS),
    )  # one test set is enough
    groups = tuple(TEST_SETS)
    USUAL = {"train": 13_712, "test": sum(TEST_SETS.values())} | {
        f"test/{k}": n for k, n in TEST_SETS.items()
    }

    def index(self) -> list[tuple[str, str, str]]:
        if self.split != "test":
            return self._pairs(self.split)
        items = []
        for name in self._test_sets():
            pairs = self._pairs(f"test/{name}")
            self._report_count(f"test/{name}", len(pairs))
            items += [(f"{name}/{key}", image, label) for key, image, label in pairs]
        return items

    def _test_sets(self) -> list[str]:
        folder = epath.Path(self.root) / "test"
        there = [name for name in TEST_SETS if (folder / name).exists()]
        if not there:
            raise LayoutError(
                folder,
                f"holds none of the test sets {', '.join(TEST_SETS)}",
                self.expected_layout(),
            )
        if absent := [name for name in TEST_SETS if name not in there]:
            self.log(
                f"rain13k/test: {folder} lacks {', '.join(absent)}: figures are means over {', '.join(there)}, not the official ones"
            )
        return there

    def _pairs(self, folder: str) -> list[tuple[str, str, str]]:
        return self.pair(self.files(f"{folder}/input"), self.files(f"{folder}/target"))
