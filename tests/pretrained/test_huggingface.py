"""Folders written by transformers and diffusers, read here: nothing lost, the same function."""

import inspect
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel

from generalist.models import layers, parameters
from generalist.models.vision_transformer import VisionTransformer
from generalist.pretrained import (
    WeightsError,
    families,
    load_autoencoder,
    load_image_encoder,
    load_text_encoder,
    load_unet,
)
from generalist.pretrained.folders import Config, read_normalization, read_tensors
from generalist.pretrained.huggingface import read_image_encoder, read_text_encoder, read_unet


def randomise(model, seed=0):
    """Biases, norms and embeddings away from the zeros and ones they start at."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.ndim == 1 else 0.05))
    return model.eval()


def save(model, folder, **kw):
    model.save_pretrained(folder, **kw)
    return folder


def assert_same(actual, expected):
    """Largest difference relative to the largest value."""
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max(), rtol=0)


def nchw(x):
    return torch.tensor(x.transpose(0, 3, 1, 2))


VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 24,
    "patch_size": 6,
}
DINO = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 24,
    "patch_size": 6,
    "layerscale_value": 0.7,
}


@pytest.fixture(scope="module")
def image_encoders(tmp_path_factory):
    """{name: (peer, folder)}."""
    t = transformers
    peers = {
        "clip": t.CLIPVisionModel(t.CLIPVisionConfig(**VISION)),
        "openclip": t.CLIPVisionModel(t.CLIPVisionConfig(**VISION, hidden_act="gelu")),
        "siglip": t.SiglipVisionModel(t.SiglipVisionConfig(**VISION)),
        "dinov2": t.Dinov2Model(t.Dinov2Config(**DINO)),
        "dinov2_registers": t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**DINO, num_register_tokens=3)
        ),
    }
    return {
        name: (randomise(peer), save(peer, tmp_path_factory.mktemp(name)))
        for name, peer in peers.items()
    }


@pytest.mark.parametrize("name", ["clip", "openclip", "siglip", "dinov2", "dinov2_registers"])
@pytest.mark.parametrize("size", [(24, 24), (36, 18)])
def test_image_encoders_give_their_last_hidden_state(image_encoders, name, size):
    """At the size they were made for, and at another, to which the positions are interpolated."""
    peer, folder = image_encoders[name]
    image = np.random.default_rng(0).standard_normal((2, *size, 3), np.float32)
    interpolate = {} if name.startswith("dino") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        expected = peer(pixel_values=nchw(image), **interpolate).last_hidden_state
    assert_same(jax.jit(load_image_encoder(folder))(image), expected)


def test_siglip2_with_its_patches_in_row_order(tmp_path):
    config = {k: v for k, v in VISION.items() if k != "image_size"}
    peer = randomise(
        transformers.Siglip2VisionModel(transformers.Siglip2VisionConfig(**config, num_patches=16))
    )
    image = np.random.default_rng(0).standard_normal((1, 18, 36, 3), np.float32)
    patches = np.asarray(layers.patchify(image, 6)).reshape(1, 18, 108)
    with torch.no_grad():
        expected = peer(
            pixel_values=torch.tensor(patches),
            pixel_attention_mask=torch.ones(1, 18, dtype=torch.long),
            spatial_shapes=torch.tensor([[3, 6]]),
        ).last_hidden_state
    assert_same(load_image_encoder(save(peer, tmp_path))(image), expected)


def test_tokens_of_several_layers_are_normed_and_concatenated(image_encoders):
    peer, folder = image_encoders["dinov2"]
    image = np.random.default_rng(0).standard_normal((1, 24, 24, 3), np.float32)
    with torch.no_grad():
        states = peer(pixel_values=nchw(image), output_hidden_states=True).hidden_states[1:]
        expected = torch.cat([peer.layernorm(h) for h in states], -1)
    assert_same(load_image_encoder(folder)(image, take=(0, 1)), expected)


TEXT = {
    "vocab_size": 99,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "bos_token_id": 0,
    "eos_token_id": 98,
}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_text_encoder_gives_its_last_hidden_state(tmp_path, activation):
    peer = randomise(
        transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT, hidden_act=activation))
    )
    ids = np.random.default_rng(0).integers(0, 99, (2, 11))
    with torch.no_grad():
        expected = peer(torch.tensor(ids)).last_hidden_state
    encoder = load_text_encoder(save(peer, tmp_path))
    assert_same(encoder(ids), expected)
    changed = ids.copy()
    changed[:, 7] += 1 - 2 * (changed[:, 7] == 98)

    # Causal: what comes later is not seen.
    assert np.array_equal(encoder(changed)[:, :7], encoder(ids)[:, :7])


@pytest.mark.parametrize("form", ["relu", "gated-gelu"])
def test_t5_encoder_gives_its_last_hidden_state(tmp_path, form):
    """40 tokens reach the logarithmic buckets; the heads together are not as wide as the model."""
    peer = randomise(
        transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=99,
                d_model=24,
                d_kv=6,
                d_ff=40,
                num_layers=2,
                num_heads=3,
                feed_forward_proj=form,
            )
        )
    )
    ids = np.random.default_rng(0).integers(0, 99, (2, 40))
    with torch.no_grad():
        expected = peer(torch.tensor(ids)).last_hidden_state
    assert_same(load_text_encoder(save(peer, tmp_path))(ids), expected)


def tiny_unet(heads, linear):
    return randomise(
        UNet2DConditionModel(
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=8,
            cross_attention_dim=24,
            attention_head_dim=heads,
            use_linear_projection=linear,
        )
    )


@pytest.mark.parametrize(("heads", "linear"), [(4, False), ([2, 4], True)])
def test_unet_of_stable_diffusion_1_and_2(tmp_path, heads, linear):
    """1.x has 1x1 convolutions and one number of heads; 2.x dense layers, heads of one width."""
    peer = tiny_unet(heads, linear)
    rng = np.random.default_rng(0)
    x, tokens = (
        rng.standard_normal((2, 8, 16, 4), np.float32),
        rng.standard_normal((2, 5, 24), np.float32),
    )
    timestep = np.array([3.0, 961.0], np.float32)
    with torch.no_grad():
        expected = peer(nchw(x), torch.tensor(timestep), torch.tensor(tokens)).sample.permute(
            0, 2, 3, 1
        )
    assert_same(
        jax.jit(load_unet(save(peer, tmp_path)))(x, timestep, tokens),
        expected,
    )
    reshaped = read_unet(tmp_path).report.reshaped
    assert len(reshaped) == (0 if linear else 8)  # proj_in and proj_out of four transformers


def test_autoencoder_encodes_and_decodes(tmp_path):
    peer = randomise(
        AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
        )
    )
    ours = load_autoencoder(save(peer, tmp_path))
    rng = np.random.default_rng(0)
    image, latent = (
        rng.uniform(-1, 1, (2, 12, 16, 3)).astype(np.float32),
        rng.standard_normal((2, 6, 8, 4), np.float32),
    )
    with torch.no_grad():
        moments = peer.encode(nchw(image)).latent_dist
        decoded = peer.decode(nchw(latent)).sample
    mean, logvar = jax.jit(ours.encode)(image)
    assert_same(mean, moments.mean.permute(0, 2, 3, 1))
    assert_same(logvar, moments.logvar.permute(0, 2, 3, 1))
    assert_same(jax.jit(ours.decode)(latent), decoded.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match="13x16 pixels: sides must be multiples of 2"):
        ours.encode(np.zeros((1, 13, 16, 3), np.float32))


def test_autoencoder_with_the_names_it_was_published_with(tmp_path):
    peer = AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4)
    save(peer, tmp_path)
    expected = load_autoencoder(tmp_path).encoder.mid_block.attentions[0].to_out[0].kernel[...]
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    renamed = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in renamed.items():
        tensors = {
            name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): x
            for name, x in tensors.items()
        }
    assert sum("proj_attn" in name for name in tensors) == 4
    safetensors.numpy.save_file(tensors, file)
    np.testing.assert_array_equal(
        load_autoencoder(tmp_path).encoder.mid_block.attentions[0].to_out[0].kernel[...], expected
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_shards_are_read_exactly(tmp_path, dtype):
    peer = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)).to(dtype)
    save(peer, tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    kernel = load_text_encoder(tmp_path).layers[1].mlp.fc1.kernel[...]
    assert kernel.dtype == np.float32
    expected = (
        dict(peer.named_parameters())["encoder.layers.1.mlp.fc1.weight"].detach().float().numpy().T
    )
    np.testing.assert_array_equal(kernel, expected)


def test_one_tower_of_a_whole_clip_is_found(tmp_path):
    """Published CLIP folders hold both encoders; what is of the other is reported, not an error."""
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION)
    peer = randomise(transformers.CLIPModel(config))
    save(peer, tmp_path)
    image = np.random.default_rng(0).standard_normal((1, 24, 24, 3), np.float32)
    with torch.no_grad():
        expected = peer.vision_model(nchw(image)).last_hidden_state
    published = read_image_encoder(tmp_path)
    assert_same(published.module()(image), expected)
    assert "logit_scale" in published.report.ignored and "not needed: logit_scale" in str(
        published.report
    )
    assert published.report.reshaped["class_token"].startswith("plus its position")


def test_a_tensor_that_is_missing_or_left_over_is_named(tmp_path):
    save(transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT)), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    name = next(name for name in tensors if name.endswith("layers.1.mlp.fc2.bias"))
    tensors["adapter.weight"] = tensors.pop(name)
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(WeightsError, match="left over: adapter.weight") as error:
        read_text_encoder(tmp_path)
    assert (
        "missing: text_model.encoder.layers.1.mlp.fc2.bias for layers.1.mlp.fc2.bias (24,)"
        in str(error.value)
    )


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda d: None, "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "damaged"),
        (
            lambda d: (d / "config.json").write_text('{"model_type": "bert"}'),
            "model_type 'bert' is no text encoder",
        ),
        (
            lambda d: (d / "config.json").write_text('{"model_type": "clip_text_model"}'),
            "no model.safetensors",
        ),
    ],
)
def test_a_folder_that_is_not_one_is_an_error(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(WeightsError, match=message):
        load_text_encoder(tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="only pytorch_model.bin, which can run code"):
        read_tensors(tmp_path)


def test_an_unet_that_ours_is_not_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "_class_name": "UNet2DConditionModel",
                "addition_embed_type": "text_time",
                "transformer_layers_per_block": [1, 2, 10],
            }
        )
    )
    with pytest.raises(
        WeightsError,
        match=r"addition_embed_type='text_time' \(supported: None\), transformer_layers_per_block",
    ):
        load_unet(tmp_path)


def test_a_published_model_says_how_it_is_built_and_what_it_was_called(image_encoders):
    """Its settings, with a seed, build the module the values fill."""
    _, folder = image_encoders["clip"]
    published = read_image_encoder(folder)
    assert (
        published.family is families.CLIP_VISION
        and published.settings["dim"] == 24
        and "dtype" not in published.settings
    )
    _, shapes = parameters.abstract(
        lambda: VisionTransformer(**published.settings, rngs=layers.HostRngs(None))
    )
    assert {path: x.shape for path, x in shapes.items()} == {
        path: x.shape for path, x in published.values.items()
    }


@pytest.mark.parametrize(
    ("name", "processor"),
    [("clip", transformers.CLIPImageProcessor), ("siglip", transformers.SiglipImageProcessor)],
)
def test_normalisation_without_a_file_is_the_processors_own(image_encoders, name, processor):
    assert read_image_encoder(image_encoders[name][1]).normalization == (
        tuple(processor().image_mean),
        tuple(processor().image_std),
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]},
            ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
        ),
        (
            {"do_normalize": False, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]},
            ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ),
        ({"size": 224}, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    ],
)
def test_normalisation_by_the_preprocessors_file(image_encoders, tmp_path, content, expected):
    shutil.copytree(image_encoders["dinov2"][1], tmp_path, dirs_exist_ok=True)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    assert read_image_encoder(tmp_path).normalization == expected


@pytest.mark.parametrize(
    "content",
    [
        "{",
        '{"image_mean": [0.5], "image_std": [1, 1, 1]}',
        '{"image_mean": [0, 0, 0], "image_std": [1, 1, 0]}',
    ],
)
def test_a_damaged_preprocessors_file_is_named(tmp_path, content):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(WeightsError, match="preprocessor_config.json: .*Fetch the file again"):
        read_normalization(tmp_path)


# Family -> the configuration class of its library.
PEERS = {
    "CLIP_TEXT": transformers.CLIPTextConfig,
    "CLIP_VISION": transformers.CLIPVisionConfig,
    "SIGLIP_VISION": transformers.SiglipVisionConfig,
    "SIGLIP2_VISION": transformers.Siglip2VisionConfig,
    "DINOV2": transformers.Dinov2Config,
    "DINOV2_WITH_REGISTERS": transformers.Dinov2WithRegistersConfig,
    "T5": transformers.T5Config,
}


@pytest.mark.parametrize(
    "family", [name for name, value in vars(families).items() if isinstance(value, families.Family)]
)
def test_defaults_are_those_of_the_library(family):
    defaults = getattr(families, family).defaults
    assert defaults
    if family in PEERS:
        config = PEERS[family]()
        assert {key: getattr(config, key) for key in defaults} == defaults
    else:
        signature = inspect.signature(
            {"UNET": UNet2DConditionModel, "AUTOENCODER": AutoencoderKL}[family].__init__
        )
        assert {key: signature.parameters[key].default for key in defaults} == defaults


def drop_defaults(c, defaults):
    return {key: value for key, value in c.items() if key not in defaults or defaults[key] != value}


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "dinov2_registers"])
def test_what_a_config_leaves_out_is_the_default(image_encoders, tmp_path, name):
    folder = shutil.copytree(image_encoders[name][1], tmp_path, dirs_exist_ok=True)
    whole = read_image_encoder(folder)
    config = json.loads((folder / "config.json").read_text())
    sparse = drop_defaults(config, whole.family.defaults)
    assert "layer_norm_eps" not in sparse and "hidden_act" not in sparse
    (folder / "config.json").write_text(json.dumps(sparse))
    assert read_image_encoder(folder).settings == whole.settings


@pytest.mark.parametrize("old", [False, True])
def test_towers_of_a_sparse_siglip(tmp_path, old):
    """A model of both encoders that states only what is not the default, as SigLIP is published.

    Old files repeat it in _dict.
    """
    peer = transformers.SiglipModel(
        transformers.SiglipConfig(vision_config=VISION, text_config={**TEXT, "projection_size": 24})
    )
    save(peer, tmp_path)
    given = (
        {"vision_config": {}, "vision_config_dict": VISION} if old else {"vision_config": VISION}
    )
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "siglip", "text_config": TEXT, **given})
    )
    image = np.random.default_rng(0).standard_normal((1, 24, 24, 3), np.float32)
    with torch.no_grad():
        expected = peer.vision_model(nchw(image)).last_hidden_state
    assert_same(load_image_encoder(tmp_path)(image), expected)


def test_pixels_beyond_the_last_whole_patch_are_left_out(tmp_path):
    """SigLIP so400m was published for 384 pixels in patches of 14."""
    peer = randomise(
        transformers.SiglipVisionModel(
            transformers.SiglipVisionConfig(**{**VISION, "image_size": 27})
        )
    )
    image = np.random.default_rng(0).standard_normal((1, 27, 27, 3), np.float32)
    with torch.no_grad():
        expected = peer(pixel_values=nchw(image)).last_hidden_state
    assert_same(load_image_encoder(save(peer, tmp_path))(image[:, :24, :24]), expected)


@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters"])
def test_dinov2_with_swiglu(tmp_path, kind):
    """The giant's feed-forward: 24 channels give a width of 64."""
    peer = randomise(
        getattr(transformers, f"{kind}Model")(
            getattr(transformers, f"{kind}Config")(**DINO, use_swiglu_ffn=True)
        )
    )
    image = np.random.default_rng(0).standard_normal((2, 24, 24, 3), np.float32)
    with torch.no_grad():
        expected = peer(pixel_values=nchw(image)).last_hidden_state
    encoder = load_image_encoder(save(peer, tmp_path))
    assert encoder.layers[0].mlp.weights_in.kernel.shape == (24, 128)
    assert_same(encoder(image), expected)


def test_text_encoder_without_its_last_layer(tmp_path):
    """As Stable Diffusion 2.x uses OpenCLIP: the last layer but one, then the final norm."""
    whole = randomise(
        transformers.CLIPTextModel(
            transformers.CLIPTextConfig(**{**TEXT, "num_hidden_layers": 3}, hidden_act="gelu")
        )
    )
    reduced = transformers.CLIPTextModel(transformers.CLIPTextConfig(**TEXT, hidden_act="gelu"))
    reduced.load_state_dict(whole.state_dict(), strict=False)
    ids = np.random.default_rng(0).integers(0, 99, (2, 11))
    with torch.no_grad():
        expected = reduced.eval()(torch.tensor(ids)).last_hidden_state
    assert_same(load_text_encoder(save(whole, tmp_path), skip=1)(ids), expected)
    ignored = read_text_encoder(tmp_path, skip=1).report.ignored
    assert len(ignored) == 16 and all("encoder.layers.2." in name for name in ignored)
    with pytest.raises(WeightsError, match="skip=3 of 3 layers; choose 0 to 2"):
        load_text_encoder(tmp_path, skip=3)


def test_t5_has_no_layers_to_skip(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(WeightsError, match="skip=1 is for CLIP's text encoders"):
        load_text_encoder(tmp_path, skip=1)


def test_a_final_norm_that_ours_is_not_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "clip_text_model", "layer_norm_eps": 1e-6}'
    )
    with pytest.raises(WeightsError, match=r"layer_norm_eps=1e-06 \(supported: 1e-05\)"):
        load_text_encoder(tmp_path)


def test_missing_tensors_of_the_autoencoder_have_todays_names(tmp_path):
    save(AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4), tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    del tensors["encoder.mid_block.attentions.0.to_q.weight"]
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(WeightsError, match="missing: encoder.mid_block.attentions.0.to_q.weight"):
        load_autoencoder(tmp_path)


def test_a_key_without_a_default_is_named():
    with pytest.raises(
        WeightsError, match="config.json has no 'vocab_size', which has no default: add the key"
    ):
        Config({"hidden_size": 8})["vocab_size"]
