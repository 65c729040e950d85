"""What training starts from: nothing, or a text-to-image model.

    python main.py --config=configs/ablations/initialization.py:scratch
    python main.py --config=configs/ablations/initialization.py:prior
    python benchmarks/ablations.py --studies initialization  # all three side by side

The variants are scratch; prior, a UNet that has learned to paint the scenes from their captions;
and shuffled, one that has learned the same pictures with each other's captions: what it knows, it
knows without words. The benchmark trains both priors first; by itself a run wants the folders of
one, `--config.model.init_from=unet=FOLDER,text_encoder=FOLDER` (docs/text_to_image.md). On the
paper's data the prior is Stable Diffusion: `:prior,paper --config.model.init_from=FOLDER`.

From a prior the UNet sees the image through the prior's own kernels, and is told the time of an
image without noise: there it knows the most of images. Not measured yet.
"""

from ml_collections import ConfigDict

from generalist.configs import common

VARIANTS = ("scratch", "prior", "shuffled")


def get_config(arg: str = "scratch") -> ConfigDict:
    """Returns the scenes, ready for a UNet that is given by `model.init_from`.

    Behind a comma it takes whatever multitask.py takes.
    """
    name, rest = common.choose(arg, VARIANTS)
    c = common.get_config(rest or "scenes,scratch")
    if name != "scratch":
        c.model.adapt.image = "copied"
        c.diffusion.unet_time = "clean"
    return c
