"""The side of the target.

    python main.py --config=configs/ablations/resolution.py:64
    python benchmarks/ablations.py --studies resolution  # both side by side

The variants are 64 and 128 pixels, the small model's sizes: the grids of the UNet and of the
encoder are the same, so that a step costs nearly the same. The labels have 128 pixels a side for
both, and both are measured there. On the paper's data (`:64,paper`) only the target changes.

In 100 steps of the same with labels of 256 pixels, one seed (results/README.md), mIoU was 12.2 %
and 12.7 %, denoising 21.2 and 21.8 dB, in that order.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = tuple(common.SIZES)
LABELS = 128  # side of the scenes, pixels


def get_config(arg: str = "128") -> ConfigDict:
    """Returns the scenes from scratch at one resolution.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    if "paper" in rest.split(",") and "small" not in rest.split(","):
        c = common.get_config(rest)
        c.model.target_size = int(name)
        return c

    c = common.get_config(f"{rest or 'scenes,scratch'},{name}")
    if c.data.source == "scenes":
        c.data.scenes_size = LABELS
    return c
