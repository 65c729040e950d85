"""The image encoder.

    python main.py --config=configs/ablations/image_encoder.py:tuned
    python benchmarks/ablations.py --studies image_encoder  # all four side by side

The variants are tuned, the recipe; frozen, which keeps the encoder as it starts; coarse, with
patches twice as large; and deep, with twice the layers. A published encoder is chosen by
`--config.model.init_from=image_encoder=FOLDER` (CLIP, SigLIP, DINOv2), tuned or frozen.

What to expect on two CPU cores after 100 steps, one seed (results/README.md): mIoU 12.7 %, 10.1 %,
11.8 % and 11.1 %, in that order. A full run takes 10 to 12 minutes.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = ("tuned", "frozen", "coarse", "deep")


def get_config(arg: str = "tuned") -> ConfigDict:
    """Returns the scenes from scratch with one image encoder.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    if name == "frozen":
        c.optimizer.frozen += (r"^image_encoder\.",)
    elif name == "coarse":
        c.model.image_encoder.patch *= 2
    elif name == "deep":
        c.model.image_encoder.depth *= 2
    return c
