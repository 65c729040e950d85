"""Diffusion, or the same network as a regressor.

    python main.py --config=configs/ablations/diffusion.py:all_levels
    python benchmarks/ablations.py --studies diffusion  # both side by side

The variants are twin, which learns to answer from pure noise alone (from zeros, in one step), and
all_levels, which learns every noise level and is sampled from gaussian noise; the words of
multitask.py. The benchmark samples each in all ways of SAMPLINGS, too. Not measured yet.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from generalist.configs import common


class Sampling(NamedTuple):
    """A way to sample a trained model: the two fields of the `diffusion` group."""

    steps: int
    samples: int  # more than one of all_levels alone: those of a regressor are all the same


VARIANTS = ("twin", "all_levels")
# What the benchmark measures at the end of a training. Eight evaluations of the network are eight
# steps, or one step of eight samples.
SAMPLINGS = (
    Sampling(steps=1, samples=1),
    Sampling(steps=2, samples=1),
    Sampling(steps=4, samples=1),
    Sampling(steps=8, samples=1),
    Sampling(steps=1, samples=8),
    Sampling(steps=4, samples=8),
)
# Beside those of every study: what the uncertainty is worth.
FURTHER_FIGURES = ("depth/ause", "semantic/ause")


def get_config(arg: str = "twin") -> ConfigDict:
    """Returns the scenes from scratch with these noise levels.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    return common.get_config(f"{rest or 'scenes,scratch'},{name}")
