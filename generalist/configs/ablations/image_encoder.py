"""The image encoder, trained along or not.

    python main.py --config=configs/ablations/image_encoder.py:tuned
    python benchmarks/ablations.py --studies image_encoder  # both side by side

The variants are tuned, the recipe, and frozen, which keeps the encoder as it starts. A published
encoder is chosen by `--config.model.init_from=image_encoder=FOLDER` (CLIP, SigLIP, DINOv2), tuned
or frozen; patches and layers by `--config.model.image_encoder.patch=16` and `.depth=4`.

A run by itself takes 10 to 12 minutes on two CPU cores. In 100 steps, one seed (results/README.md),
mIoU was 12.7 % and 10.1 %, in that order.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = ("tuned", "frozen")


def get_config(arg: str = "tuned") -> ConfigDict:
    """Returns the scenes from scratch with one image encoder.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    if name == "frozen":
        c.optimizer.frozen += (r"^image_encoder\.",)
    return c
