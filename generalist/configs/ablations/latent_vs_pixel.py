"""Diffusion in pixels or in an autoencoder's latents.

    python main.py --config=configs/ablations/latent_vs_pixel.py:pixel
    python benchmarks/ablations.py --studies latent_vs_pixel  # both side by side

The variants are pixel and latent. On the scenes the autoencoder is the one shipped with the
package, trained on the scenes' images; its 16x16 latents have the grid of the pixel model's 4x4
stem, so that the two UNets differ in their first and last convolution only. On the paper's data
give Stable Diffusion's:
`:latent,paper --config.model.init_from=unet=FOLDER,text_encoder=FOLDER,autoencoder=FOLDER`.

A run by itself takes 10 to 12 minutes on two CPU cores. In 100 steps, one seed (results/README.md),
mIoU was 4.3 % and 0.6 %, denoising 19.2 and 21.5 dB, in that order.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = ("pixel", "latent")


def get_config(arg: str = "pixel") -> ConfigDict:
    """Returns the scenes from scratch, without what only pixels can have.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    c.diffusion.prototype_weight = 0.0
    c.model.unet.refine = 0
    if name == "latent":
        c.model.unet.patch = 1
        if c.data.source == "scenes":
            c.model.init_from = "autoencoder=scenes_autoencoder"
    return c
