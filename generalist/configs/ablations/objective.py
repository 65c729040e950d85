"""What the UNet predicts, and what an error of it counts.

    python main.py --config=configs/ablations/objective.py:v_x0
    python benchmarks/ablations.py --studies objective  # all four side by side

The variants are named (prediction type)_(loss weight): x0 or v, each weighed as an error of x0 or
of v. All learn every noise level, where the choices differ: at pure noise they are one. `simple` is
the one of these weights that has the prediction's name; eps, min_snr and sigmoid have no answer at
pure noise (docs/configuration.md). Not measured yet.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from generalist.configs import common


class Objective(NamedTuple):
    """The two fields of the `diffusion` group that this study changes."""

    prediction_type: str
    loss_weight: str


VARIANTS = {
    "x0_x0": Objective(prediction_type="x0", loss_weight="x0"),
    "x0_v": Objective(prediction_type="x0", loss_weight="v"),
    "v_x0": Objective(prediction_type="v", loss_weight="x0"),
    "v_v": Objective(prediction_type="v", loss_weight="v"),
}


def get_config(arg: str = "x0_x0") -> ConfigDict:
    """Returns the scenes from scratch at all noise levels with one objective.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(f"{rest or 'scenes,scratch'},all_levels")
    c.diffusion.update(VARIANTS[name]._asdict())
    return c
