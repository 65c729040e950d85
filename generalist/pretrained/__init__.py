"""Weights on disk.

Our own safetensors files, and published models in the folders of transformers and diffusers.
"""

from generalist.pretrained.huggingface import (
    load_autoencoder,
    load_image_encoder,
    load_text_encoder,
    load_unet,
)
from generalist.pretrained.weights import SHIPPED, WeightsError, load_weights, save_weights

__all__ = [
    "SHIPPED",
    "WeightsError",
    "load_autoencoder",
    "load_image_encoder",
    "load_text_encoder",
    "load_unet",
    "load_weights",
    "save_weights",
]
