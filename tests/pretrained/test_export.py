"""Our components as folders of diffusers and transformers: they load and compute the same."""

import json
import logging
import re

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel

from generalist.models import layers, parameters
from generalist.models.autoencoder import Autoencoder
from generalist.models.t5_encoder import T5Encoder
from generalist.models.text_encoder import TextEncoder
from generalist.models.unet import UNet
from generalist.models.vision_transformer import VisionTransformer
from generalist.pretrained import WeightsError, save_weights
from generalist.pretrained.export import export_component, export_model, plan_component
from generalist.pretrained.huggingface import (
    read_autoencoder,
    read_image_encoder,
    read_text_encoder,
    read_unet,
)

HALF = (0.5, 0.5, 0.5)

UNETS = {
    "sd1": {
        "in_channels": 4,
        "out_channels": 4,
        "channels": (16, 32),
        "layers_per_block": 1,
        "attention_levels": (True, False),
        "context_dim": 24,
        "heads": 4,
        "groups": 8,
    },
    "sd2": {
        "in_channels": 4,
        "out_channels": 4,
        "channels": (16, 32),
        "layers_per_block": 1,
        "attention_levels": (True, False),
        "context_dim": 24,
        "heads": None,
        "head_dim": 8,
        "groups": 8,
    },
    "pixels": {
        "in_channels": 6,
        "channels": (16, 16, 32),
        "layers_per_block": 2,
        "attention_levels": (False, True, True),
        "context_dim": 24,
        "heads": 2,
        "groups": 4,
    },
}
VIT = {"image_size": 24, "patch": 6, "dim": 24, "depth": 2, "heads": 3}
CLIP = {
    "class_token": True,
    "patch_bias": False,
    "pre_norm": True,
    "final_norm": False,
    "epsilon": 1e-5,
}
DINO = {"class_token": True, "layer_scale": True}
VITS = {
    "ours": {},
    "siglip": {"inner": 40, "activation": "gelu_tanh"},
    "clip": {**CLIP, "activation": "quick_gelu"},
    "dinov2": {**DINO, "inner": 48},
    "dinov2_giant": {**DINO, "gated": True, "inner": 64},
    "dinov2_registers": {**DINO, "registers": 3, "interpolation": "bicubic_antialias"},
}
TEXTS = {
    "clip": (
        TextEncoder,
        {
            "dim": 24,
            "depth": 2,
            "heads": 3,
            "inner": 40,
            "vocabulary": 99,
            "length": 11,
            "activation": "quick_gelu",
            "epsilon": 1e-5,
            "causal": True,
        },
    ),
    "t5": (
        T5Encoder,
        {
            "vocabulary": 99,
            "dim": 24,
            "depth": 2,
            "heads": 3,
            "head_dim": 6,
            "inner": 40,
            "gated": True,
        },
    ),
    "t5_relu": (
        T5Encoder,
        {
            "vocabulary": 99,
            "dim": 24,
            "depth": 2,
            "heads": 3,
            "head_dim": 6,
            "inner": 40,
            "gated": False,
        },
    ),
}
AUTOENCODER = {"channels": (8, 16), "layers_per_block": 1, "groups": 4, "scaling_factor": 0.3}
READERS = {
    "unet": read_unet,
    "image_encoder": read_image_encoder,
    "text_encoder": read_text_encoder,
    "autoencoder": read_autoencoder,
}


def make(module, settings):
    """A module with no parameter at the zero or one it starts at, and its values."""
    graphdef, values = parameters.split(module(**settings, rngs=layers.HostRngs(0)))
    rng = np.random.default_rng(0)
    values = {
        path: np.asarray(x) + np.float32(0.1) * rng.standard_normal(x.shape, np.float32)
        for path, x in values.items()
    }
    return parameters.merge(
        graphdef, {path: jax.numpy.asarray(x) for path, x in values.items()}
    ), values


def load(peer, folder, **kw):
    """The library's class, filled from the folder: nothing missing, nothing left over."""
    model, info = peer.from_pretrained(folder, output_loading_info=True, **kw)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), (
        info
    )
    return model.eval()


def assert_same(actual, expected):
    """Largest difference relative to the largest value."""
    expected = np.asarray(expected)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(
        actual.detach().numpy(), expected, atol=1e-5 * np.abs(expected).max(), rtol=0
    )


def nchw(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", UNETS)
def test_unet(tmp_path, name):
    """Stable Diffusion's two forms, and one on pixels, without attention at the first level."""
    settings = UNETS[name]
    ours, values = make(UNet, settings)
    export_component("unet", settings, values, tmp_path)
    rng = np.random.default_rng(0)
    x, tokens = (
        rng.standard_normal((2, 8, 16, settings["in_channels"]), np.float32),
        rng.standard_normal((2, 5, 24), np.float32),
    )
    timestep = np.array([3.0, 961.0], np.float32)
    peer = load(UNet2DConditionModel, tmp_path)
    with torch.no_grad():
        actual = peer(nchw(x), torch.tensor(timestep), torch.tensor(tokens)).sample.permute(
            0, 2, 3, 1
        )
    assert_same(actual, jax.jit(ours)(x, timestep, tokens))


def test_a_unet_on_blocks_of_pixels_is_one_of_more_channels(tmp_path):
    """A block's channels are (row, column, color), in diffusers' UNet as in `layers.patchify`."""
    settings = {**UNETS["sd1"], "in_channels": 3, "out_channels": 3, "patch": 2}
    ours, values = make(UNet, settings)
    export_component("unet", settings, values, tmp_path)
    peer = load(UNet2DConditionModel, tmp_path)
    assert (peer.config.in_channels, peer.config.out_channels) == (12, 12)

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 16, 3), np.float32)
    tokens = rng.standard_normal((1, 5, 24), np.float32)
    timestep = np.array([3.0], np.float32)
    blocks = np.asarray(layers.patchify(x, 2))
    with torch.no_grad():
        out = peer(nchw(blocks), torch.tensor(timestep), torch.tensor(tokens)).sample
    actual = torch.from_numpy(np.asarray(layers.unpatchify(out.permute(0, 2, 3, 1).numpy(), 2)))
    assert_same(actual, jax.jit(ours)(x, timestep, tokens))

    # Read back, it is the same parameters.
    read = read_unet(tmp_path)
    assert read.settings["in_channels"] == 12
    for path, value in values.items():
        np.testing.assert_array_equal(read.values[path], value)


@pytest.mark.parametrize("name", VITS)
def test_image_encoder(tmp_path, name):
    """At the size it is made for and at another; "ours" is what the configs train from scratch."""
    settings = {**VIT, **VITS[name]}
    ours, values = make(VisionTransformer, settings)
    export_component("image_encoder", settings, values, tmp_path)
    peer = load(transformers.AutoModel, tmp_path)
    interpolate = {} if name.startswith("dino") else {"interpolate_pos_encoding": True}
    for size in ((24, 24), (36, 18)):
        image = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
        with torch.no_grad():
            assert_same(
                peer(pixel_values=nchw(image), **interpolate).last_hidden_state, ours(image)
            )


def test_siglip2(tmp_path):
    settings = {**VIT, "interpolation": "bilinear_antialias"}
    ours, values = make(VisionTransformer, settings)
    export_component("image_encoder", settings, values, tmp_path)
    image = np.random.default_rng(0).standard_normal((1, 18, 36, 3), np.float32)
    patches = torch.tensor(np.asarray(layers.patchify(image, 6)).reshape(1, 18, 108))
    with torch.no_grad():
        actual = load(transformers.Siglip2VisionModel, tmp_path)(
            pixel_values=patches,
            pixel_attention_mask=torch.ones(1, 18, dtype=torch.long),
            spatial_shapes=torch.tensor([[3, 6]]),
        )
    assert_same(actual.last_hidden_state, ours(image))


@pytest.mark.parametrize("name", TEXTS)
def test_text_encoder(tmp_path, name):
    module, settings = TEXTS[name]
    ours, values = make(module, settings)
    export_component("text_encoder", settings, values, tmp_path)
    peer = load(
        transformers.CLIPTextModel if name == "clip" else transformers.T5EncoderModel, tmp_path
    )
    ids = np.random.default_rng(0).integers(0, 99, (2, 11))
    with torch.no_grad():
        assert_same(peer(torch.tensor(ids)).last_hidden_state, ours(ids))


def test_autoencoder(tmp_path):
    ours, values = make(Autoencoder, AUTOENCODER)
    export_component("autoencoder", AUTOENCODER, values, tmp_path)
    peer = load(AutoencoderKL, tmp_path)
    rng = np.random.default_rng(0)
    image, latent = (
        rng.uniform(-1, 1, (2, 12, 16, 3)).astype(np.float32),
        rng.standard_normal((2, 6, 8, 4), np.float32),
    )
    with torch.no_grad():
        assert_same(
            peer.encode(nchw(image)).latent_dist.mean.permute(0, 2, 3, 1),
            jax.jit(ours.encode)(image)[0],
        )
        assert_same(
            peer.decode(nchw(latent)).sample.permute(0, 2, 3, 1),
            jax.jit(ours.decode)(latent),
        )
    assert peer.config.scaling_factor == 0.3


CASES = (
    [("unet", UNet, s) for s in UNETS.values()]
    + [("image_encoder", VisionTransformer, {**VIT, **s}) for s in VITS.values()]
    + [("text_encoder", *case) for case in TEXTS.values()]
    + [("autoencoder", Autoencoder, AUTOENCODER)]
)


@pytest.mark.parametrize(("kind", "module", "settings"), CASES)
def test_round_trip_is_bit_identical(tmp_path, kind, module, settings):
    """Folder -> ours -> folder: every tensor, and what is read says the same settings."""
    _, values = make(module, settings)
    export_component(kind, settings, values, tmp_path / "a")
    published = READERS[kind](tmp_path / "a")
    assert {name: published.settings[name] for name in settings} == settings
    export_component(kind, published.settings, published.values, tmp_path / "b")
    (first,), (second,) = (
        [safetensors.numpy.load_file(f) for f in (tmp_path / x).glob("*.safetensors")] for x in "ab"
    )
    assert first.keys() == second.keys()
    assert all(
        np.array_equal(first[name], second[name]) and first[name].shape == second[name].shape
        for name in first
    )
    assert (tmp_path / "a" / "config.json").read_bytes() == (
        tmp_path / "b" / "config.json"
    ).read_bytes()


@pytest.mark.parametrize(
    "peer",
    [
        UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=8,
            cross_attention_dim=24,
            attention_head_dim=4,
        ),
        transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=99,
                hidden_size=24,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=3,
                max_position_embeddings=11,
            )
        ),
        transformers.Dinov2Model(
            transformers.Dinov2Config(
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=3,
                image_size=24,
                patch_size=6,
                use_swiglu_ffn=True,
            )
        ),
    ],
    ids=["unet", "text_encoder", "image_encoder"],
)
def test_round_trip_from_the_library_is_bit_identical(request, tmp_path, peer):
    """But for a class token and its position, one parameter here: their sum is the same."""
    kind = request.node.callspec.id
    peer.save_pretrained(tmp_path / "a")
    published = READERS[kind](tmp_path / "a")
    export_component(kind, published.settings, published.values, tmp_path / "b")
    (first,), (second,) = (
        [safetensors.numpy.load_file(f) for f in (tmp_path / x).glob("*.safetensors")] for x in "ab"
    )

    def plain(tensors):
        return {
            name.removeprefix("text_model."): x
            for name, x in tensors.items()
            if "mask_token" not in name
        }

    first, second = plain(first), plain(second)
    assert first.keys() == second.keys()
    if kind == "image_encoder":
        for tensors in (first, second):
            tensors["sum"] = (
                tensors.pop("embeddings.cls_token")
                + tensors["embeddings.position_embeddings"][:, :1]
            )
            tensors["embeddings.position_embeddings"] = tensors["embeddings.position_embeddings"][
                :, 1:
            ]
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_float16_halves_the_folder_and_is_declared(tmp_path):
    _, settings = TEXTS["clip"]
    _, values = make(TextEncoder, settings)
    export_component("text_encoder", settings, values, tmp_path, dtype="float16")
    peer = load(transformers.CLIPTextModel, tmp_path, dtype="auto")
    assert (
        peer.dtype == torch.float16
        and json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    )
    values["token_embedding"][5, 3] = 1e5
    with pytest.raises(
        WeightsError,
        match=r"text_model.embeddings.token_embedding.weight: has values that float16 cannot hold, "
        r"up to 1e\+05",
    ):
        export_component("text_encoder", settings, values, tmp_path, dtype="float16")
    with pytest.raises(WeightsError, match="dtype 'int8': choose one of float32, float16"):
        export_component("text_encoder", settings, values, tmp_path, dtype="int8")


def test_normalisation_is_written_for_the_processor_and_read_back(tmp_path):
    settings = {**VIT}
    _, values = make(VisionTransformer, settings)
    colors = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    export_component("image_encoder", settings, values, tmp_path, normalization=colors)
    assert read_image_encoder(tmp_path).normalization == colors
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    actual = np.asarray(processor(image, return_tensors="np")["pixel_values"])[0].transpose(1, 2, 0)
    np.testing.assert_allclose(actual, (image / 255 - colors[0]) / np.array(colors[1]), atol=1e-6)


EXTRAS = {"position": True, "pooled_text": 20, "aligned": 24, "refine": 8}


def test_extras_that_do_nothing_are_left_out(tmp_path):
    """As they are before training; of refine, the last convolution decides.

    The library's UNet is then the same function.
    """
    settings = {**UNETS["pixels"], **EXTRAS}
    graphdef, values = parameters.split(UNet(**settings, rngs=layers.HostRngs(0)))
    values = {path: np.asarray(x) for path, x in values.items()}
    export = export_component("unet", settings, values, tmp_path)
    assert {path.split(".")[0] for path in export.left_out} == set(EXTRAS)
    assert np.any(
        values["refine.conv_in.kernel"]
    ) and "left out, zero and without effect: refine.conv_in.kernel" in str(export)
    rng = np.random.default_rng(0)
    x, tokens = (
        rng.standard_normal((1, 8, 8, 6), np.float32),
        rng.standard_normal((1, 5, 24), np.float32),
    )
    with torch.no_grad():
        actual = load(UNet2DConditionModel, tmp_path)(
            nchw(x), torch.tensor([3.0]), torch.tensor(tokens)
        ).sample.permute(0, 2, 3, 1)
    ours = parameters.merge(graphdef, {path: jax.numpy.asarray(x) for path, x in values.items()})
    pooled, features = np.ones((1, 20), np.float32), np.ones((1, 2, 2, 24), np.float32)
    expected = jax.jit(
        lambda x: ours(x, np.array([3.0]), tokens, pooled=pooled, features=features),
    )(x)
    assert_same(actual, expected)


def test_a_unet_that_diffusers_has_not_is_refused_with_all_reasons():
    settings = {**UNETS["pixels"], **EXTRAS, "patch": 2, "window": 4}
    _, values = make(UNet, settings)
    with pytest.raises(WeightsError, match="unet: UNet2DConditionModel cannot express") as error:
        plan_component("unet", settings, values)
    for reason in (
        "window=4",
        "position.kernel is not zero",
        "pooled_text.bias is not zero",
        "aligned.2.kernel is not zero",
    ):
        assert reason in str(error.value)
    assert re.search(r"refine.conv_(in|out).kernel is not zero", str(error.value))


@pytest.mark.parametrize(
    ("kind", "module", "settings", "message"),
    [
        (
            "text_encoder",
            TextEncoder,
            {"dim": 24, "depth": 1, "heads": 3},
            "causal=False: .*;\n.*epsilon=1e-06",
        ),
        (
            "image_encoder",
            VisionTransformer,
            {**VIT, "class_token": True},
            "class_token=True, patch_bias=True, .* is the form of none of clip",
        ),
        (
            "image_encoder",
            VisionTransformer,
            {**VIT, "gated": True},
            "gated=True is the form of none",
        ),
        (
            "image_encoder",
            VisionTransformer,
            {**VIT, **DINO, "inner": 40},
            "inner=40 at dim=24 follows from no whole mlp_ratio",
        ),
        ("image_encoder", VisionTransformer, {**VIT, "depth": 1}, "left over: layers.1"),
        (
            "image_encoder",
            VisionTransformer,
            {**VIT, "width": 3},
            "VisionTransformer has no setting width",
        ),
        (
            "tokenizer",
            VisionTransformer,
            VIT,
            "component 'tokenizer': choose one of unet, image_encoder, text_encoder, autoencoder",
        ),
    ],
)
def test_what_cannot_be_exported_is_said(kind, module, settings, message):
    built = {name: value for name, value in settings.items() if name != "width"} | (
        {"depth": 2} if "left over" in message else {}
    )
    _, values = make(module, built)
    with pytest.raises(WeightsError, match=message):
        plan_component(kind, settings, values)


def test_a_folder_with_other_files_is_not_written_into(tmp_path):
    _, values = make(VisionTransformer, VIT)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(
        WeightsError, match="holds model.safetensors.index.json, .* choose an empty or a new folder"
    ):
        export_component("image_encoder", VIT, values, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def model_folder(folder, unet):
    """A folder of this project: U-Net, image encoder, non-causal text encoder, a projection."""
    text = {"dim": 24, "depth": 1, "heads": 3, "kind": "transformer"}
    values = {"image_projection.kernel": np.zeros((24, 24), np.float32)}
    sizes = {"in_channels": 6, "aligned": 24}
    built = {
        "unet": (UNet, unet | sizes | {"window": None}),
        "image_encoder": (VisionTransformer, VIT),
        "text_encoder": (
            TextEncoder,
            {name: value for name, value in text.items() if name != "kind"},
        ),
    }
    for component, (module, settings) in built.items():
        _, own = make(module, settings)
        values.update(
            {
                f"{component}.{path}": x if "aligned" not in path else 0 * x
                for path, x in own.items()
            }
        )
    save_weights(folder, values, {})
    model = {
        "unet": unet,
        "image_encoder": VIT,
        "text_encoder": text,
        "image_mean": HALF,
        "image_std": HALF,
    }
    (folder / "config.json").write_text(json.dumps({"model": model}))


def test_a_model_folder_component_by_component(tmp_path, caplog):
    """Either all that is asked for is written, or nothing and what could be is named."""
    unet = {name: value for name, value in UNETS["pixels"].items() if name != "in_channels"} | {
        "window": 0
    }
    model_folder(tmp_path, unet)
    with pytest.raises(WeightsError, match="causal=False") as error:
        export_model(tmp_path, tmp_path / "out")
    assert (
        "Nothing was written; --part unet image_encoder can be written." in str(error.value)
        and not (tmp_path / "out").exists()
    )
    with caplog.at_level(logging.INFO, logger="generalist"):
        export_model(tmp_path, tmp_path / "out", ["unet", "image_encoder"])
    lines = caplog.messages
    assert load(UNet2DConditionModel, tmp_path / "out" / "unet").config.in_channels == 6
    assert (
        load(transformers.SiglipVisionModel, tmp_path / "out" / "image_encoder").config.hidden_size
        == 24
    )
    assert (
        "aligned.2.bias" in lines[0]
        and lines[-1] == "not exported, of no component: image_projection"
    )
    with pytest.raises(
        WeightsError, match="has no autoencoder, only unet, image_encoder, text_encoder"
    ):
        export_model(tmp_path, tmp_path / "out", ["autoencoder"])
