"""The UNet is Stable Diffusion's: the same parameters by name, the same function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from generalist.models import parameters
from generalist.models.layers import HostRngs
from generalist.models.unet import UNet


def torch_unet(channels, layers_per_block, heads):
    """All levels but the last with transformers."""
    torch.manual_seed(0)
    attending = len(channels) - 1
    model = UNet2DConditionModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=channels,
        layers_per_block=layers_per_block,
        down_block_types=("CrossAttnDownBlock2D",) * attending + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * attending,
        norm_num_groups=8,
        cross_attention_dim=24,
        attention_head_dim=heads,
        use_linear_projection=True,
    )
    with torch.no_grad():  # biases and norms away from the zeros and ones they start at
        for _name, p in model.named_parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.ndim == 1 else 0.02))
    return model.eval()


def port(model) -> dict:
    """torch's names and layouts -> ours: conv OIHW -> HWIO, dense transposed, weight -> scale."""
    ported = {}
    for name, p in model.state_dict().items():
        stem, leaf = name.rsplit(".", 1)
        value = p.numpy()
        if leaf == "weight":
            leaf = "scale" if value.ndim == 1 else "kernel"
            value = value.transpose({1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}[value.ndim])
        ported[f"{stem}.{leaf}"] = value
    return ported


@pytest.mark.parametrize(
    ("channels", "layers_per_block", "ours", "theirs"),
    [
        ((16, 32, 32), 1, {"heads": 4}, 4),  # as SD 1.x: the same number of heads everywhere
        (
            (16, 32),
            2,
            {"heads": None, "head_dim": 8},
            (2, 4),
        ),  # as SD 2.x: heads of the same width everywhere
    ],
)
def test_same_weights_same_output(channels, layers_per_block, ours, theirs):
    peer = torch_unet(channels, layers_per_block, theirs)
    graphdef, shapes = parameters.abstract(
        lambda: UNet(
            channels=channels,
            layers_per_block=layers_per_block,
            attention_levels=(True,) * (len(channels) - 1) + (False,),
            context_dim=24,
            groups=8,
            rngs=HostRngs(0),
            **ours,
        )
    )
    ported = port(peer)
    assert {path: x.shape for path, x in ported.items()} == {
        path: x.shape for path, x in shapes.items()
    }

    rng = np.random.default_rng(0)
    x, tokens = (
        rng.standard_normal((2, 16, 24, 3), np.float32),
        rng.standard_normal((2, 7, 24), np.float32),
    )
    timesteps = np.array([3.0, 961.0], np.float32)
    with torch.no_grad():
        expected = peer(
            torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(timesteps), torch.tensor(tokens)
        ).sample
    expected = expected.numpy().transpose(0, 2, 3, 1)

    def forward(params, x, timesteps, tokens):
        model = parameters.merge(graphdef, params)
        return model(x, timesteps, model.context(tokens))

    actual = jax.jit(forward)(ported, x, timesteps, tokens)
    assert actual.dtype == jnp.float32
    assert np.abs(expected).max() > 0.3  # something to compare
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())


def test_full_size_has_the_parameters_of_stable_diffusion():
    """SD 1.5's 859,520,964, with its 4 latent channels; counted without allocating them."""
    _, shapes = parameters.abstract(
        lambda: UNet(in_channels=4, out_channels=4, rngs=HostRngs(None))
    )
    assert sum(int(np.prod(x.shape)) for x in shapes.values()) == 859_520_964
    with torch.device("meta"):
        peer = UNet2DConditionModel(
            cross_attention_dim=768, attention_head_dim=8, use_linear_projection=True
        )
    theirs = {
        name.rsplit(".", 1)[0]: p.numel()
        for name, p in peer.named_parameters()
        if not name.endswith("bias")
    }
    ours = {
        path.rsplit(".", 1)[0]: int(np.prod(x.shape))
        for path, x in shapes.items()
        if not path.endswith("bias")
    }
    assert ours == theirs
