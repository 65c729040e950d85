"""LOL: pairs of low-light and normally lit photographs."""

from generalist.input_pipeline.sources.base import Source


class LOL(Source):
    """Low-light enhancement. Image: dark; label: normally lit, both uint8 (h, w, 3)."""

    NAME = "lol"
    TASKS = ("light",)
    SPLITS = {"train": "our485", "test": "eval15"}
    EVAL_SPLIT = "test"
    FOLDERS = ("light_enhance", "LOLdataset", "lol")
    WHERE = "daooshee.github.io, LOL dataset of Deep Retinex Decomposition (BMVC 2018)"
    LICENCE = "none stated on its page, and the authors' code is under MIT: taken as research use"
    LAYOUT = """\
  light_enhance/our485/{low,high}/<n>.png           light_enhance may be called LOLdataset
  light_enhance/eval15/{low,high}/<n>.png"""
    NEEDED = tuple(
        (f"{split}/{half}",) for split in ("our485", "eval15") for half in ("low", "high")
    )
    USUAL = {"train": 485, "test": 15}

    def index(self) -> list[tuple[str, str, str]]:
        folder = self.SPLITS[self.split]
        return self.pair(self.files(f"{folder}/low"), self.files(f"{folder}/high"))
