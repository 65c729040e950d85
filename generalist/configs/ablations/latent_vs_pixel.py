"""Diffusion in pixels or in an autoencoder's latents: `--config=configs/ablations/latent_vs_pixel.py:pixel` or `:latent`.

On the scenes the autoencoder is the one shipped with the package, trained on the scenes' images; its 16x16 latents have the grid of
the pixel model's 4x4 stem, so that the two UNets differ in their first and last convolution only. On the paper's data give
Stable Diffusion's: `:latent,paper --config.model.init_from=unet=FOLDER,text_encoder=FOLDER,autoencoder=FOLDER`.
"""

from generalist.configs import common

VARIANTS = ("pixel", "latent")


def get_config(arg: str = "pixel"):
    """The scenes (or, behind a comma, whatever multitask.py takes) from scratch, without what only pixels can have."""
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    c.diffusion.prototype_weight, c.model.unet.refine = 0.0, 0
    if name == "latent":
        c.model.unet.patch = 1
        if c.data.source == "scenes":
            c.model.init_from = "autoencoder=scenes_autoencoder"
    return c
