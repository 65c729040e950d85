"""One UNet twice, with the same weights: ours, and the `UNet2DConditionModel` of diffusers."""

import json
import pathlib

import numpy as np

# side of the image in pixels, condition tokens and arguments of `UNet`, for each size
SIZES = {
    "small": (
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
    "full": (
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
# What each variant changes: faithful, no transformer at the first level, windows, 2x2 blocks of pixels. S: the shape of the scenes model.
VARIANTS = {
    "A": {},
    "C": {},
    "W": {"window": 16},
    "E": {"patch": 2},
    "S": {"channels": (64, 128), "attention_levels": (False, True), "patch": 4},
}


def settings(size: str, variant: str) -> dict:
    """Arguments of `UNet`."""
    base = SIZES[size][2]
    first = {"attention_levels": (False, *base["attention_levels"][1:])} if variant == "C" else {}
    return {**base, **first, **VARIANTS[variant]}


def inputs(size: str, batch: int) -> dict[str, np.ndarray]:
    """The same for every arm: x and target (b, s, s, 3), timesteps (b,), tokens (b, n, context_dim)."""
    side, tokens, unet = SIZES[size]
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.standard_normal((batch, *shape), np.float32)
    return {
        "x": normal(side, side, 3),
        "target": normal(side, side, 3),
        "timesteps": np.linspace(20, 980, batch, dtype=np.float32),
        "tokens": normal(tokens, unet["context_dim"]),
    }


def prepare(size: str, variant: str, folder: pathlib.Path) -> None:
    """Writes random weights: folder/ours.safetensors, and folder/peer as diffusers reads it, but for W, which it cannot compute."""
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
        export_component(
            "unet", {**chosen, "patch": 1}, values, folder / "peer"
        )  # the stem of E and S is around it, see `peer`
    print(json.dumps({"parameters": sum(value.size for value in values.values())}))


def ours(size: str, variant: str, folder: pathlib.Path, dtype: str, remat: str = "none"):
    """(graph definition, {path: array}) of our UNet."""
    import jax.numpy as jnp
    import safetensors.numpy

    from generalist.models import parameters
    from generalist.models.layers import HostRngs
    from generalist.models.unet import UNet

    make = lambda: UNet(
        **settings(size, variant), dtype=jnp.dtype(dtype), remat=remat, rngs=HostRngs(None)
    )
    values = safetensors.numpy.load_file(folder / "ours.safetensors")
    return parameters.abstract(make)[0], {
        path: jnp.asarray(value) for path, value in values.items()
    }


def peer(size: str, variant: str, folder: pathlib.Path):
    """Diffusers' UNet as a torch module of (x (b, 3, s, s), timesteps, tokens), with the stem of E and S around it."""
    import torch
    from diffusers import UNet2DConditionModel

    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unet = UNet2DConditionModel.from_pretrained(folder / "peer", local_files_only=True)
            self.patch = settings(size, variant).get("patch", 1)

        def forward(self, x, timesteps, tokens):
            p, (b, c, h, w) = self.patch, x.shape
            if p > 1:
                x = (
                    x.reshape(b, c, h // p, p, w // p, p)
                    .permute(0, 3, 5, 1, 2, 4)
                    .reshape(b, p * p * c, h // p, w // p)
                )
            y = self.unet(x, timesteps, tokens, return_dict=False)[0]
            return (
                y
                if p == 1
                else y.reshape(b, p, p, c, h // p, w // p)
                .permute(0, 3, 4, 1, 5, 2)
                .reshape(b, c, h, w)
            )

    return Peer()


def tuned(model, tensors: dict, mode: str = "default"):
    """The torch module and its inputs as one tunes them: channels_last, TF32 where float32 remains, compiled; SDPA is diffusers' own default."""
    import torch

    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    images = {
        name: tensor.contiguous(memory_format=torch.channels_last)
        for name, tensor in tensors.items()
        if tensor.ndim == 4
    }
    return torch.compile(model.to(memory_format=torch.channels_last), mode=mode), {
        **tensors,
        **images,
    }
