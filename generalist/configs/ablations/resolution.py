"""The side of the target.

    python main.py --config=configs/ablations/resolution.py:64
    python benchmarks/ablations.py --studies resolution  # all three side by side

The variants are 64, 128 and 256 pixels. On the scenes the labels have 256 pixels a side for all
three, and the stem's patch grows with the target, so that a step costs nearly the same. On the
paper's data (`:64,paper`) only the target changes.

What to expect on two CPU cores after 100 steps, one seed (results/README.md): mIoU 12.2 %, 12.7 %
and 11.4 %, denoising 21.2, 21.8 and 21.9 dB, in that order.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = ("64", "128", "256")
GRID = 16  # side of the UNet's upper level on the scenes


def get_config(arg: str = "128") -> ConfigDict:
    """Returns the scenes from scratch at one resolution.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    size = int(name)
    c = common.get_config(rest or "scenes,scratch")
    c.model.target_size = size
    if c.data.source == "scenes":
        c.data.scenes_size = 256
        c.data.image_size = size
        c.model.unet.patch = size // GRID
    return c
