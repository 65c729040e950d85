"""Weights on disk: our own safetensors files."""

from generalist.pretrained.weights import SHIPPED, WeightsError, load_weights, save_weights

__all__ = ["SHIPPED", "WeightsError", "load_weights", "save_weights"]
