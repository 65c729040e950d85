"""The image encoder: `--config=configs/ablations/image_encoder.py:tuned`, `:frozen`, `:coarse` or `:deep`.

tuned is the recipe. frozen keeps the encoder as it starts. coarse has patches twice as large, deep twice the layers. A published
encoder is chosen by `--config.model.init_from=image_encoder=FOLDER` (CLIP, SigLIP, DINOv2), tuned or frozen.
"""

from generalist.configs import common

VARIANTS = ("tuned", "frozen", "coarse", "deep")


def get_config(arg: str = "tuned"):
    """The scenes (or, behind a comma, whatever multitask.py takes) from scratch with one image encoder."""
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    encoder = c.model.image_encoder
    if name == "frozen":
        c.optimizer.frozen += (r"^image_encoder\.",)
    elif name == "coarse":
        encoder.patch *= 2
    elif name == "deep":
        encoder.depth *= 2
    return c
