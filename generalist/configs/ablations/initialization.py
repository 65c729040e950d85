"""What training starts from: `--config=configs/ablations/initialization.py:scratch` or `:pretrained`.

On the scenes, pretrained means the weights shipped with the package; on the paper's data, give a Stable Diffusion folder with
`:pretrained,paper --config.model.init_from=FOLDER`.
"""

from generalist.configs import common

VARIANTS = ("scratch", "pretrained")


def get_config(arg: str = "scratch"):
    """The scenes (or, behind a comma, whatever multitask.py takes) with one learning rate for both."""
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    if name == "pretrained" and c.data.source == "scenes":
        c.model.init_from = "scenes"
    return c
