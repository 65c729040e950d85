"""Using a trained model."""

from generalist.inference.generalist import Generalist, load
from generalist.inference.images import ImageError, read_image
from generalist.inference.prediction import Result

__all__ = ["Generalist", "ImageError", "Result", "load", "read_image"]
