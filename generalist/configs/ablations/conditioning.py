"""How the image reaches the UNet: `--config=configs/ablations/conditioning.py:cross_attention`, `:concatenate`, `:aligned` or `:both`.

cross_attention is the paper's: tokens only. concatenate appends the image to x_t. aligned adds the encoder's token grid at
every level. Cross-attention stays on in all of them. benchmarks/ablations.py runs the four side by side.
"""

from generalist.configs import common

VARIANTS = {  # concatenate_image, aligned_features
    "cross_attention": (False, False),
    "concatenate": (True, False),
    "aligned": (False, True),
    "both": (True, True),
}


def get_config(arg: str = "cross_attention"):
    """The scenes (or, behind a comma, whatever multitask.py takes) from scratch with one way of conditioning."""
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    c.model.concatenate_image, c.model.aligned_features = VARIANTS[name]
    return c
