"""Configurations that change one thing of the recipe, and the size at which they are compared."""

from ml_collections import ConfigDict


def thin(c: ConfigDict) -> ConfigDict:
    """Halves the widths of the small model `c`, so that a study's many trainings end.

    The tokens stay as wide as the text encoder of the scenes' text-to-image model is: without a
    projection between them, a UNet takes what it knows of words along.
    """
    unet = c.model.unet
    unet.channels = tuple(width // 2 for width in unet.channels)
    unet.groups //= 2
    unet.refine //= 2
    c.model.image_encoder.dim //= 2
    return c
