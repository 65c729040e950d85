"""LOL: pairs of low-light and normally lit photographs."""

from typing import ClassVar

from generalist.input_pipeline.sources.base import Dataset
from generalist.input_pipeline.sources.examples import OriginalFiles


class LOL(Dataset):
    """Low-light enhancement. Image: dark; label: normally lit, both uint8 (h, w, 3)."""

    NAME = "lol"
    TASKS = ("light",)
    SPLITS: ClassVar = {"train": "our485", "test": "eval15"}
    EVAL_SPLIT = "test"
    FOLDERS = ("light_enhance", "LOLdataset", "lol")
    WHERE = "daooshee.github.io, LOL dataset of Deep Retinex Decomposition (BMVC 2018)"
    LICENSE = "none stated on its page, and the authors' code is under MIT: taken as research use"
    LAYOUT = """\
  light_enhance/our485/{low,high}/<n>.png           light_enhance may be called LOLdataset
  light_enhance/eval15/{low,high}/<n>.png"""
    NEEDED = (("our485/low",), ("our485/high",), ("eval15/low",), ("eval15/high",))
    USUAL: ClassVar = {"train": 485, "test": 15}

    def index(self) -> OriginalFiles:
        """Pairs the dark and the bright photographs of the split."""
        folder = self.SPLITS[self.official_split]
        return self.pair_files(f"{folder}/low", f"{folder}/high")
