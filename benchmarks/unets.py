"""One UNet twice, with the same weights: ours, and the `UNet2DConditionModel` of diffusers."""

import json
import pathlib
from typing import NamedTuple

import numpy as np


class Size(NamedTuple):
    """A size at which the variants are compared."""

    side: int  # of the image, pixels
    tokens: int  # of the condition
    unet: dict  # arguments of `UNet`


SIZES = {
    "small": Size(
        64,
        72,
        {
            "channels": (64, 128, 128),
            "layers_per_block": 1,
            "attention_levels": (True, True, False),
            "context_dim": 128,
            "heads": 4,
            "groups": 16,
        },
    ),
    "full": Size(
        128,
        333,
        {
            "channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "attention_levels": (True, True, True, False),
            "context_dim": 768,
            "heads": 8,
            "groups": 32,
        },
    ),
}

# What each variant changes (docs/configuration.md).
VARIANTS = {
    "A": {},  # Stable Diffusion's UNet on pixels
    "C": {},  # no transformer at the first level, see `settings`
    "W": {"window": 16},  # self-attention in windows
    "E": {"patch": 2},  # works on 2x2 blocks of pixels
    "S": {"channels": (64, 128), "attention_levels": (False, True), "patch": 4},  # the scenes model
}


def settings(size: str, variant: str) -> dict:
    """Returns the arguments of `UNet`."""
    base = SIZES[size].unet
    first = {}
    if variant == "C":
        first["attention_levels"] = (False, *base["attention_levels"][1:])
    return {**base, **first, **VARIANTS[variant]}


def inputs(size: str, batch: int) -> dict[str, np.ndarray]:
    """Returns the same inputs for every arm, float32.

    x and target are (b, s, s, 3), timesteps (b,), tokens (b, n, context_dim).
    """
    side, tokens, unet = SIZES[size]
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal((batch, *shape), np.float32)

    return {
        "x": normal(side, side, 3),
        "target": normal(side, side, 3),
        "timesteps": np.linspace(20, 980, batch, dtype=np.float32),
        "tokens": normal(tokens, unet["context_dim"]),
    }


def prepare(size: str, variant: str, folder: pathlib.Path) -> None:
    """Writes random weights: folder/ours.safetensors, and folder/peer as diffusers reads it.

    There is no folder/peer for W, which diffusers cannot compute.
    """
    import safetensors.numpy

    from generalist.models import parameters
    from generalist.models.layers import HostRngs
    from generalist.models.unet import UNet
    from generalist.pretrained.export import export_component

    chosen = settings(size, variant)
    _, values = parameters.split(UNet(**chosen, rngs=HostRngs(0)))
    values = {path: np.asarray(value) for path, value in values.items()}
    safetensors.numpy.save_file(values, folder / "ours.safetensors")

    if not chosen.get("window"):
        # `peer` puts the stem of E and S around the model, which is none of diffusers'.
        export_component("unet", {**chosen, "patch": 1}, values, folder / "peer")
    print(json.dumps({"parameters": sum(value.size for value in values.values())}))


def ours(size: str, variant: str, folder: pathlib.Path, dtype: str, remat: str = "none"):
    """Returns (graph definition, {path: array}) of our UNet."""
    import jax.numpy as jnp
    import safetensors.numpy

    from generalist.models import parameters
    from generalist.models.layers import HostRngs
    from generalist.models.unet import UNet

    def make():
        chosen = settings(size, variant)
        return UNet(**chosen, dtype=jnp.dtype(dtype), remat=remat, rngs=HostRngs(None))

    graphdef, _ = parameters.abstract(make)
    values = safetensors.numpy.load_file(folder / "ours.safetensors")
    return graphdef, {path: jnp.asarray(value) for path, value in values.items()}


def peer(size: str, variant: str, folder: pathlib.Path):
    """Returns diffusers' UNet as a torch module of (x (b, 3, s, s), timesteps, tokens)."""
    import torch
    from diffusers import UNet2DConditionModel

    class Peer(torch.nn.Module):
        """The library's UNet, with the stem of E and S around it."""

        def __init__(self):
            super().__init__()
            self.unet = UNet2DConditionModel.from_pretrained(folder / "peer", local_files_only=True)
            self.patch = settings(size, variant).get("patch", 1)

        def forward(self, x, timesteps, tokens):
            p = self.patch
            b, c, h, w = x.shape
            if p > 1:
                blocks = x.reshape(b, c, h // p, p, w // p, p).permute(0, 3, 5, 1, 2, 4)
                x = blocks.reshape(b, p * p * c, h // p, w // p)

            y = self.unet(x, timesteps, tokens, return_dict=False)[0]
            if p == 1:
                return y
            blocks = y.reshape(b, p, p, c, h // p, w // p).permute(0, 3, 4, 1, 5, 2)
            return blocks.reshape(b, c, h, w)

    return Peer()


def tuned(model, tensors: dict, mode: str = "default"):
    """Returns the torch module and its inputs as one tunes them.

    channels_last, TF32 where float32 remains, compiled; SDPA is diffusers' own default.
    """
    import torch

    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    tuned_tensors = dict(tensors)
    for name, tensor in tensors.items():
        if tensor.ndim == 4:
            tuned_tensors[name] = tensor.contiguous(memory_format=torch.channels_last)

    compiled = torch.compile(model.to(memory_format=torch.channels_last), mode=mode)
    return compiled, tuned_tensors
