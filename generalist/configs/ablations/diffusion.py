"""Diffusion, or the same network as a regressor.

    python main.py --config=configs/ablations/diffusion.py:all_levels
    python benchmarks/ablations.py --studies diffusion  # both side by side

The variants are twin, which learns to answer from pure noise alone (from zeros, in one step), and
all_levels, which learns every noise level and is sampled from gaussian noise; the words of
multitask.py. The benchmark measures each with SAMPLER_STEPS denoising steps, too. Not measured yet.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = ("twin", "all_levels")
SAMPLER_STEPS = (1, 2, 4, 8)  # that the benchmark measures at the end of a training


def get_config(arg: str = "twin") -> ConfigDict:
    """Returns the scenes from scratch with these noise levels.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    return common.get_config(f"{rest or 'scenes,scratch'},{name}")
