"""Side of the target: `--config=configs/ablations/resolution.py:64`, `:128` or `:256`.

On the scenes the labels have 256 pixels a side for all three, and the stem's patch grows with the target, so that a step costs
nearly the same. On the paper's data (`:64,paper`) only the target changes.
"""

from generalist.configs import common

VARIANTS = ("64", "128", "256")
GRID = 16  # side of the UNet's upper level on the scenes


def get_config(arg: str = "128"):
    """The scenes (or, behind a comma, whatever multitask.py takes) from scratch at one resolution."""
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    c.model.target_size = size = int(name)
    if c.data.source == "scenes":
        c.data.scenes_size, c.data.image_size, c.model.unet.patch = 256, size, size // GRID
    return c
