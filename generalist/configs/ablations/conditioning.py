"""How the image reaches the UNet.

    python main.py --config=configs/ablations/conditioning.py:cross_attention
    python benchmarks/ablations.py --studies conditioning  # all four side by side

The variants are cross_attention, the paper's: tokens only; concatenate, which appends the image to
x_t; aligned, which adds the encoder's token grid at every level; and both. Cross-attention stays on
in all of them.

A run by itself takes 10 to 12 minutes on two CPU cores. In 100 steps, one seed (results/README.md),
mIoU was 11.6 %, 12.4 %, 15.6 % and 12.7 %, denoising 16.4, 20.8, 18.6 and 21.0 dB, in that order.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from generalist.configs import common


class Conditioning(NamedTuple):
    """The two fields of the `model` group that this study changes."""

    concatenate_image: bool
    aligned_features: bool


VARIANTS = {
    "cross_attention": Conditioning(concatenate_image=False, aligned_features=False),
    "concatenate": Conditioning(concatenate_image=True, aligned_features=False),
    "aligned": Conditioning(concatenate_image=False, aligned_features=True),
    "both": Conditioning(concatenate_image=True, aligned_features=True),
}


def get_config(arg: str = "cross_attention") -> ConfigDict:
    """Returns the scenes from scratch with one way of conditioning.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    c.model.update(VARIANTS[name]._asdict())
    return c
