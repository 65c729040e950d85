"""Using a trained model."""

from generalist.inference.generalist import Generalist, load
from generalist.inference.images import ImageError, read_image
from generalist.tasks import Prediction

__all__ = ["Generalist", "ImageError", "Prediction", "load", "read_image"]
