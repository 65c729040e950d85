"""A generalist that starts from published models, named by `model.init_from`."""

import json
import logging
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel

import generalist
from generalist import models
from generalist.configs import common
from generalist.input_pipeline import open_sources
from generalist.input_pipeline.loader import training_batches
from generalist.models import parameters
from generalist.models.generalist import TIMESTEP_SCALE
from generalist.pretrained import WeightsError
from generalist.pretrained.parts import _adapt_unet, adapt_channels, fill, parse, read_parts, settle
from generalist.pretrained.tokenizer import copy_tokenizer, read_tokenizer
from generalist.recipe import Recipe, model_arguments
from generalist.tasks import get_tasks
from generalist.training.initialization import initial_weights
from generalist.training.optimizer import make_optimizer, trainable
from generalist.training.state import create_state
from generalist.training.step import make_step
from generalist.training.workdir import WorkdirError, check_workdir, save_model, write_facts

WORDS = (
    "performance the a depth map of image semantic segmentation instance restoration denoising "
    "deraining light enhancement"
).split()


def randomise(model):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * (0.2 if p.ndim == 1 else 0.05))
    return model.eval()


def write_clip_tokenizer(folder):
    """Writes vocab.json and merges.txt like CLIP's; returns the size of the vocabulary.

    The order is: bytes, bytes at a word's end, merges, start and end of text.
    """
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789"]
    merges = ["d e", "p t", "de pt", "dept h</w>", "m a", "ma p</w>"]
    vocabulary = [
        *letters,
        *(f"{c}</w>" for c in letters),
        *(m.replace(" ", "") for m in merges),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<|endoftext|>"}))
    return len(vocabulary)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A small Stable Diffusion folder (unet, text_encoder, tokenizer) and the peer of its UNet."""
    folder = tmp_path_factory.mktemp("sd")
    size = write_clip_tokenizer(folder / "tokenizer")
    text = transformers.CLIPTextConfig(
        vocab_size=size,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=77,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
    )
    randomise(transformers.CLIPTextModel(text)).save_pretrained(folder / "text_encoder")
    unet = randomise(UNet2DConditionModel(**UNET))
    unet.save_pretrained(folder / "unet")
    return folder, unet


UNET = dict(
    block_out_channels=(16, 32),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    norm_num_groups=8,
    cross_attention_dim=24,
    attention_head_dim=4,
)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dinov2")
    randomise(
        transformers.Dinov2Model(
            transformers.Dinov2Config(
                hidden_size=24,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=28,
                patch_size=14,
            )
        )
    ).save_pretrained(folder)
    return folder


def prepared(config, init_from, **unet):
    """(recipe, {path: initial value})."""
    config.model.init_from = init_from
    config.model.unet.update(unet)
    published = read_parts(init_from)
    recipe = Recipe.from_config(config, published)
    _, shapes = parameters.abstract(lambda: models.build(recipe.model))
    return recipe, initial_weights(recipe, published, shapes)


@pytest.mark.parametrize(
    ("patch", "concatenate", "extras"),
    [(1, False, {}), (1, True, {"position": True}), (2, True, {"position": True, "refine": 4})],
)
def test_training_starts_from_the_function_of_the_checkpoint(
    tiny_config, pipeline, patch, concatenate, extras
):
    """The pixel UNet at step 0 gives what the peer gives with the same conv_in and conv_out.

    Whatever is new beside it has no effect.
    """
    folder, peer = pipeline
    tiny_config.model.concatenate_image = concatenate
    recipe, values = prepared(
        tiny_config,
        str(folder),
        **{"patch": patch, "position": False, "refine": 0, "attention_levels": (True, False)}
        | extras,
    )
    kernel = np.asarray(values["unet.conv_in.kernel"])
    channels = 3 * patch**2
    of_x_t = kernel.reshape(3, 3, patch**2, 1 + concatenate, 3, 16)[:, :, :, 0].reshape(
        3, 3, channels, 16
    )
    adapted = UNet2DConditionModel(**UNET | {"in_channels": channels, "out_channels": channels})
    state = peer.state_dict() | {
        "conv_in.weight": torch.tensor(of_x_t.transpose(3, 2, 0, 1)),
        "conv_out.bias": torch.tensor(np.asarray(values["unet.conv_out.bias"])),
        "conv_out.weight": torch.tensor(
            np.asarray(values["unet.conv_out.kernel"]).transpose(3, 2, 0, 1)
        ),
    }
    adapted.load_state_dict(state)
    rng = np.random.default_rng(0)
    x, image = rng.standard_normal((2, 1, 16, 16, 3), np.float32)
    tokens, t = rng.standard_normal((1, 5, 24), np.float32), np.array([0.5], np.float32)
    blocks = (
        x.reshape(1, 16 // patch, patch, 16 // patch, patch, 3)
        .transpose(0, 2, 4, 5, 1, 3)
        .reshape(1, channels, 16 // patch, -1)
    )
    with torch.no_grad():
        expected = adapted.eval()(
            torch.tensor(blocks), torch.tensor(t * TIMESTEP_SCALE), torch.tensor(tokens)
        ).sample.numpy()
    expected = (
        expected.reshape(1, patch, patch, 3, 16 // patch, -1)
        .transpose(0, 4, 1, 5, 2, 3)
        .reshape(1, 16, 16, 3)
    )
    graphdef, _ = parameters.abstract(lambda: models.build(recipe.model))
    unet = parameters.merge(graphdef, values).unet
    given = np.concatenate([x, image], -1) if concatenate else x
    features, pooled = jnp.ones((1, 4, 4, 16)), jnp.ones((1, 24))
    actual = jax.jit(lambda *a: unet(*a, features=features, pooled=pooled))(
        given, t * TIMESTEP_SCALE, tokens
    )
    np.testing.assert_allclose(actual, expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(of_x_t).min() > 0  # and the adapted channels carry something
    assert not np.asarray(values["image_projection.kernel"]).any()  # no image token counts yet


def test_cycle_keeps_the_variance_of_noise_and_mean_keeps_flat_gray():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 4, 5), np.float32)
    cycled, _ = adapt_channels(kernel, None, 12, "cycle")
    np.testing.assert_allclose(np.square(cycled).sum(2), np.square(kernel).sum(2), rtol=1e-5)
    averaged, _ = adapt_channels(kernel, None, 3, "mean")
    np.testing.assert_allclose(averaged.sum(2), kernel.sum(2), atol=1e-5)
    same, _ = adapt_channels(kernel, None, 4, "mean")
    assert same is kernel


@pytest.mark.parametrize("strategy", ["cycle", "mean"])
@pytest.mark.parametrize(
    ("image", "of_x_t", "of_image"), [("zero", 1, 0), ("copied", 1, 1), ("halved", 0.5, 0.5)]
)
def test_a_unet_on_blocks_of_pixels_keeps_its_kernels_beside_a_concatenated_image(
    strategy, image, of_x_t, of_image
):
    """Each pixel of x_t keeps its kernel bit for bit; those of the image are zero or the same."""
    rng = np.random.default_rng(0)
    stem = rng.standard_normal((3, 3, 12, 5), np.float32)
    head = rng.standard_normal((3, 3, 5, 12), np.float32)
    theirs = {"conv_in.kernel": stem, "conv_out.kernel": head, "conv_out.bias": np.arange(12.0)}
    initial = {
        "unet.conv_in.kernel": np.ones((3, 3, 24, 5), np.float32),
        "unet.conv_out.kernel": np.ones((3, 3, 5, 12), np.float32),
    }
    model = {"adapt": {"conv": strategy, "image": image}, "unet": {"patch": 2}}
    notes = _adapt_unet(theirs, initial, model)
    assert notes[0].endswith(f"conv_out 12 -> 12 ({strategy}), the image's kernels {image}")

    # (position in the block; x_t, then the image; color)
    adapted = theirs["conv_in.kernel"].reshape(3, 3, 4, 2, 3, 5)
    kernels = stem.reshape(3, 3, 4, 3, 5)
    np.testing.assert_array_equal(adapted[:, :, :, 0], np.float32(of_x_t) * kernels)
    np.testing.assert_array_equal(adapted[:, :, :, 1], np.float32(of_image) * kernels)
    np.testing.assert_array_equal(theirs["conv_out.kernel"], head)
    np.testing.assert_array_equal(theirs["conv_out.bias"], np.arange(12.0))


def test_output_channels_are_taken_over_with_their_bias():
    kernel, bias = np.arange(8, dtype=np.float32).reshape(1, 1, 4, 2), np.float32([10, 20, 30, 60])
    cycled, cycled_bias = adapt_channels(kernel, bias, 6, "cycle")
    assert cycled[0, 0, :, 0].tolist() == [0, 2, 4, 6, 0, 2] and cycled_bias.tolist() == [
        10,
        20,
        30,
        60,
        10,
        20,
    ]
    averaged, averaged_bias = adapt_channels(kernel, bias, 3, "mean")
    assert averaged[0, 0, :, 1].tolist() == [4, 4, 4] and averaged_bias.tolist() == [30, 30, 30]


def test_fresh_convolutions_are_those_of_a_run_from_scratch(tiny_config, pipeline):
    tiny_config.model.adapt.conv = "fresh"
    recipe, values = prepared(tiny_config, str(pipeline[0]), attention_levels=(True, False))
    scratch = parameters.split(models.build(recipe.model, recipe.config.seed))[1]
    for path in ("unet.conv_in.kernel", "unet.conv_out.kernel", "unet.conv_out.bias"):
        np.testing.assert_array_equal(values[path], scratch[path])
    assert not np.array_equal(
        values["unet.mid_block.resnets.0.conv1.kernel"],
        scratch["unet.mid_block.resnets.0.conv1.kernel"],
    )


def test_the_log_says_what_was_adapted_and_what_is_new(tiny_config, pipeline, caplog):
    """Variant C, without transformers in the upper level, loads all that the checkpoint shares."""
    with caplog.at_level(logging.INFO, logger="generalist"):
        prepared(tiny_config, str(pipeline[0]), attention_levels=(False, False), patch=4)
    unet = next(line for line in caplog.messages if line.startswith("unet: "))
    assert "conv_in 4 -> 96 channels, conv_out 4 -> 48 (cycle)" in unet
    assert (
        "new: aligned, pooled_text, position, refine" in unet
        and f"{3 * 26} not in this variant" in unet
    )


def test_what_is_missing_or_left_over_is_listed(tiny_config, pipeline):
    parts = read_parts(f"unet={pipeline[0]}")
    tiny_config.model.unet.attention_levels = (True, False)
    model = settle(
        tiny_config.model.to_dict() | {"adapt": {"conv": "cycle", "image": "zero", "new": []}},
        parts,
        {},
    )
    settings = model_arguments(model)
    initial = parameters.split(models.build(settings, 0))[1]
    parts["unet"].values["extra.kernel"] = np.zeros(3)
    with pytest.raises(
        WeightsError,
        match=r"(?s)left over: unet\.extra\.kernel\n  missing: unet\.aligned\.0\.bias \(16,\)",
    ):
        fill(parts, initial, model)


@pytest.mark.parametrize(
    ("init_from", "message"),
    [
        (
            "unnet=/a",
            r"unknown component 'unnet'\. Did you mean 'unet'\? "
            r"Components: unet, image_encoder, text_encoder, autoencoder",
        ),
        (
            "scenes,image_encoder=/a",
            "give one model folder, one Stable Diffusion folder, or components as unet=FOLDER,",
        ),
        ("unet=/nowhere", "/nowhere: no such folder"),
    ],
)
def test_a_wrong_init_from_says_what_is_allowed(init_from, message):
    with pytest.raises(WeightsError, match=message):
        read_parts(init_from)


def test_init_from_names_a_model_a_pipeline_or_parts(pipeline):
    folder = str(pipeline[0])
    assert parse("") == parse("scenes") == parse("runs/multitask") == {}
    assert parse(folder) == {"unet": folder, "text_encoder": folder}
    assert parse(f"{folder},image_encoder=a/b") == {
        "unet": folder,
        "text_encoder": folder,
        "image_encoder": "a/b",
    }
    assert parse("unet=x,autoencoder=y") == {"unet": "x", "autoencoder": "y"}


def test_an_image_encoder_brings_its_sizes_its_normalization_and_positions_for_the_input(
    tiny_config, dinov2, caplog
):
    """Patches of 14 pixels: the input of 60 in the config becomes 56."""
    tiny_config.model.image_encoder.image_size = 60
    with caplog.at_level(logging.INFO, logger="generalist"):
        recipe, values = prepared(tiny_config, f"image_encoder={dinov2}")
    encoder = recipe.config.model.image_encoder
    assert (encoder.image_size, encoder.patch, encoder.dim) == (56, 14, 24)
    assert recipe.config.model.image_mean == (0.485, 0.456, 0.406)
    assert values["image_encoder.position_embedding"].shape == (4, 4, 24)
    assert "positions 2x2 -> 4x4 (bicubic)" in next(
        line for line in caplog.messages if line.startswith("image_encoder: ")
    )
    image = np.random.default_rng(0).uniform(-1, 1, (1, 56, 56, 3)).astype(np.float32)
    peer = transformers.Dinov2Model.from_pretrained(dinov2).eval()
    normalised = (image / 2 + 0.5 - np.float32([0.485, 0.456, 0.406])) / np.float32(
        [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        expected = peer(torch.tensor(normalised.transpose(0, 3, 1, 2))).last_hidden_state.numpy()
    graphdef, _ = parameters.abstract(lambda: models.build(recipe.model))
    model = parameters.merge(graphdef, values)
    np.testing.assert_allclose(
        model.image_encoder(model._normalize(image)), expected, atol=1e-4 * np.abs(expected).max()
    )


def test_prompts_go_through_the_tokenizer_of_the_folder(tiny_config, pipeline):
    folder = pipeline[0]
    tiny_config.model.init_from = str(folder)
    recipe = Recipe.from_config(tiny_config, read_parts(str(folder)))
    tasks = get_tasks("scenes", ["depth", "semantic"])
    files = folder / "tokenizer"
    peer = transformers.CLIPTokenizer(
        str(files / "vocab.json"), str(files / "merges.txt"), pad_token="<|endoftext|>"
    )
    expected = peer([task.prompt for task in tasks.values()], padding="max_length", max_length=77)[
        "input_ids"
    ]
    np.testing.assert_array_equal(recipe.prompt_ids(tasks), expected)
    assert len(set(expected[0])) > 10  # the prompt is in it, not only padding
    with pytest.raises(ValueError, match="the model has no prompt for other"):
        recipe.prompt_ids(["other"])


def test_the_padding_token_is_the_one_of_the_files(tmp_path):
    write_clip_tokenizer(tmp_path)
    assert (
        read_tokenizer(tmp_path, 9)(["map"])[0, -1]
        == json.loads((tmp_path / "vocab.json").read_text())["<|endoftext|>"]
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "a"}}))
    assert read_tokenizer(tmp_path, 9)(["Depth  map"]).tolist() == [[78, 75, 77, 79, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: (f / "vocab.json").unlink(),
            r"no tokenizer\.json, and no vocab\.json with merges\.txt, in",
        ),
        (lambda f: (f / "vocab.json").write_text("{"), r"damaged tokenizer files"),
    ],
)
def test_missing_or_damaged_tokenizer_files_are_named(tmp_path, spoil, message):
    write_clip_tokenizer(tmp_path)
    spoil(tmp_path)
    with pytest.raises(WeightsError, match=message):
        read_tokenizer(tmp_path, 77)


def test_a_prompt_that_is_too_long_is_named(tmp_path):
    write_clip_tokenizer(tmp_path)
    with pytest.raises(
        WeightsError,
        match=r"prompt 'a a a' has 5 tokens, the text encoder in .* takes 4: shorten it",
    ):
        read_tokenizer(tmp_path, 4)(["a a a"])


def test_padding_changes_nothing_for_t5(tiny_config, tmp_path):
    """A prompt beside a longer one gives the tokens it gives alone."""
    import tokenizers

    peer = randomise(
        transformers.T5EncoderModel(
            transformers.T5Config(
                vocab_size=30,
                d_model=24,
                d_kv=6,
                d_ff=40,
                num_layers=1,
                num_heads=3,
                feed_forward_proj="gated-gelu",
            )
        )
    )
    peer.save_pretrained(tmp_path)
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {"<pad>": 0, "<unk>": 1, **{w: i + 2 for i, w in enumerate(WORDS)}}, "<unk>"
        )
    )
    words.pre_tokenizer, words.normalizer = (
        tokenizers.pre_tokenizers.Whitespace(),
        tokenizers.normalizers.Lowercase(),
    )
    words.save(str(tmp_path / "tokenizer.json"))
    recipe, values = prepared(tiny_config, f"text_encoder={tmp_path}")
    assert recipe.config.model.text_encoder.kind == "t5"
    captions = common.own({"x": {"kind": "instances", "captions": True}})
    captioned = Recipe.from_config(captions, read_parts(f"text_encoder={tmp_path}"))
    assert captioned.prompt_ids().shape == (1, 77)
    graphdef, _ = parameters.abstract(lambda: models.build(recipe.model))
    tasks = get_tasks("scenes", ["depth", "light"])
    ids = recipe.prompt_ids(tasks)
    tokens = np.asarray(parameters.merge(graphdef, values).encode_text(jnp.asarray(ids)))
    lengths = (ids != 0).sum(1)
    assert lengths[0] != lengths[1]
    for row, length, given in zip(ids, lengths, tokens, strict=True):
        with torch.no_grad():
            alone = (
                peer(torch.tensor(row[None, :length].astype(np.int64))).last_hidden_state[0].numpy()
            )
        np.testing.assert_allclose(given[:length], alone, atol=1e-5 * np.abs(alone).max())
        assert not given[length:].any()


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    """An AutoencoderKL in small that halves the image: (folder, peer)."""
    peer = randomise(
        AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            norm_num_groups=4,
            scaling_factor=0.5,
        )
    )
    folder = tmp_path_factory.mktemp("vae")
    peer.save_pretrained(folder)
    return folder, peer


def test_with_an_autoencoder_the_model_diffuses_its_scaled_latents(tiny_config, autoencoder):
    folder, peer = autoencoder
    tiny_config.model.unet.patch, tiny_config.diffusion.prototype_weight = 2, 0.0
    recipe, values = prepared(tiny_config, f"autoencoder={folder}")
    graphdef, _ = parameters.abstract(lambda: models.build(recipe.model))
    model = parameters.merge(graphdef, values)
    assert model.diffused_shape == (16, 16, 4)
    assert (
        values["unet.conv_in.kernel"].shape[2] == 8 * 4
        and values["unet.conv_out.kernel"].shape[3] == 4 * 4
    )
    target = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    mask = np.zeros((1, 32, 32, 1), np.float32)
    mask[:, 0, 0] = 1.0
    latent, valid = jax.jit(model.encode_target)(target, mask)
    assert valid[0, 0, 0, 0] == 0.25 and valid.sum() == 0.25
    with torch.no_grad():
        mean = peer.encode(torch.tensor(target.transpose(0, 3, 1, 2))).latent_dist.mean
        restored = peer.decode(mean).sample.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(latent, 0.5 * mean.permute(0, 2, 3, 1).numpy(), atol=1e-5)
    np.testing.assert_allclose(
        jax.jit(model.to_rgb)(latent),
        restored,
        atol=1e-4 * np.abs(restored).max(),
    )


def test_a_model_of_published_parts_trains_and_its_folder_is_complete(
    tiny_config, pipeline, autoencoder, tmp_path
):
    """A step changes the UNet and not the autoencoder.

    What is written predicts without the folders it came from.
    """
    c = tiny_config
    c.model.aligned_features, c.model.pooled_text, c.diffusion.prototype_weight = False, False, 0.0
    c.model.unet.update(
        {"attention_levels": (False, False), "patch": 1, "refine": 0, "position": False}
    )
    recipe, values = prepared(c, f"{pipeline[0]},autoencoder={autoencoder[0]}")
    graphdef, _ = parameters.abstract(lambda: models.build(recipe.model))
    trained = trainable(recipe.frozen, values)
    optimizer, _ = make_optimizer(recipe.config.optimizer, trained, 2, known=list(values))
    state = create_state({path: jnp.asarray(x) for path, x in values.items()}, trained, optimizer)
    before = {path: np.asarray(value) for path, value in state.parameters.items()}

    prompts = parameters.merge(graphdef, state.weights).encode_text(recipe.prompt_ids())
    step = make_step(
        graphdef, recipe.objective(np.asarray(prompts)), optimizer, seed=0, ema_decay=0.0
    )
    batches = training_batches(
        open_sources(recipe.config, recipe.tasks, "train"),
        recipe.tasks,
        recipe.config.tasks.weights.to_dict(),
        seed=0,
        batch_size=recipe.config.batch_size,
        image_size=recipe.config.data.image_size,
        target_size=recipe.config.model.target_size,
    )
    state, metrics = jax.jit(step)(state, next(batches))
    assert np.isfinite(metrics["loss"]) and metrics["loss"] > 0
    assert not np.array_equal(
        state.parameters["unet.conv_out.kernel"], before["unet.conv_out.kernel"]
    )
    write_facts(tmp_path, recipe)
    save_model(tmp_path, recipe, state)
    model = generalist.load(tmp_path)
    for path, value in read_parts(f"autoencoder={autoencoder[0]}")["autoencoder"].values.items():
        np.testing.assert_array_equal(model.parameters[f"autoencoder.{path}"], value)
    rgb = model.predict_rgb(np.zeros((1, 32, 32, 3), np.uint8), "depth")
    assert rgb.shape == (1, 32, 32, 3) and np.isfinite(rgb).all()

    # Its own prompts are in its config; for any other the tokenizer's files are needed.
    with pytest.raises(WeightsError, match=r"tokenizer: no tokenizer\.json"):
        model.prompt_tokens(["a depth map"])
    copy_tokenizer(pipeline[0] / "text_encoder", tmp_path)
    own, other = model.prompt_tokens([model.tasks["depth"].prompt, "a depth map"])
    assert own.shape == other.shape == (77, 24) and np.abs(own - other).max() > 1e-3


def test_a_workdir_is_compared_by_the_sizes_of_the_parts(tiny_config, pipeline, tmp_path):
    """The same command finds its run again; with other parts it is another run."""
    tiny_config.model.init_from = str(pipeline[0])

    def recipe():
        return Recipe.from_config(tiny_config, read_parts(tiny_config.model.init_from))

    write_facts(tmp_path, recipe())
    assert check_workdir(tmp_path, recipe()) == tmp_path
    tiny_config.model.init_from = f"unet={pipeline[0]}"
    with pytest.raises(
        WorkdirError, match=r"model\.text_encoder\.causal: True in the workdir, None now"
    ):
        check_workdir(tmp_path, recipe())


def test_latents_have_no_palette(tiny_config):
    tiny_config.model.autoencoder = {"latent_channels": 4, "channels": (8, 8)}
    with pytest.raises(
        ValueError,
        match="diffusion.prototype_weight 0.2 compares colors, which latents do not have: set it "
        "to 0",
    ):
        Recipe.from_config(tiny_config)


def test_a_caption_that_is_cut_keeps_its_end_token(tmp_path):
    write_clip_tokenizer(tmp_path)
    start, a, b, end = read_tokenizer(tmp_path, 4)(["a b"])[0]
    tokenizer = pickle.loads(pickle.dumps(read_tokenizer(tmp_path, 3)))
    ids = tokenizer(["a b", "b"], cut=True)
    np.testing.assert_array_equal(ids, [[start, a, end], [start, b, end]])


@pytest.mark.parametrize("captions", [True, False])
def test_a_run_keeps_the_tokenizer_that_its_captions_need(
    tiny_config, pipeline, tmp_path, captions
):
    """And no other run does: fixed prompts are in the config."""
    c = common.tiny(
        common.small(common.own({"x": {"kind": "instances", "captions": captions}}), scratch=True)
    )
    init_from = f"text_encoder={pipeline[0]}"
    recipe = Recipe.from_config(c, read_parts(init_from))
    write_facts(tmp_path, recipe, read_parts(init_from))
    assert (tmp_path / "tokenizer").exists() == captions

    if captions:
        ids = recipe.tokenizer(tmp_path)(["a depth map", *"ab"])
        expected = read_tokenizer(pipeline[0] / "tokenizer", 77)(["a depth map", *"ab"])
        np.testing.assert_array_equal(ids, expected)
        assert ids.shape == (3, 77) and ids.shape[1] == recipe.prompt_ids().shape[1]

        vocabulary = json.loads((tmp_path / "tokenizer/vocab.json").read_text())
        foreign = vocabulary | {"zz</w>": len(vocabulary)}
        (tmp_path / "tokenizer/vocab.json").write_text(json.dumps(foreign))
        with pytest.raises(WeightsError, match="has ids up to 80, the text encoder takes those be"):
            recipe.tokenizer(tmp_path)
    else:
        with pytest.raises(WeightsError, match=rf"{tmp_path}/tokenizer: no tokenizer\.json"):
            recipe.tokenizer(tmp_path)
