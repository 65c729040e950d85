"""What training starts from.

    python main.py --config=configs/ablations/initialization.py:scratch
    python benchmarks/ablations.py --studies initialization  # both side by side

The variants are scratch and pretrained. On the scenes, pretrained means the weights shipped with
the package, which know these very tasks. On the paper's data give a Stable Diffusion folder:
`:pretrained,paper --config.model.init_from=FOLDER`.

What to expect on two CPU cores after 100 steps, one seed (results/README.md): mIoU 12.7 % and
65.8 %, in that order. A full run takes 10 to 12 minutes.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = ("scratch", "pretrained")


def get_config(arg: str = "scratch") -> ConfigDict:
    """Returns the scenes with one learning rate for both.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    if name == "pretrained" and c.data.source == "scenes":
        c.model.init_from = "scenes"
    return c
