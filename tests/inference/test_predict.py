"""`Generalist.predict`: any image, one task or several, at the image's own size."""

import json

import numpy as np
import pytest
from PIL import Image

from generalist.inference import Generalist, ImageError, load
from generalist.inference import generalist as generalist_module
from generalist.pretrained.weights import load_weights
from generalist.tasks.arrays import resize_image

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (20, 30, 3), np.uint8)  # smaller than the model's 32 pixels
LARGE = RNG.integers(0, 256, (40, 56, 3), np.uint8)


def test_a_name_gives_a_result_and_a_list_a_dict(tiny_model):
    one = tiny_model.predict(SMALL, "depth")
    assert one.task == "depth" and one.depth.shape == (20, 30) and one.depth.dtype == np.float32
    names = ["denoise", "depth", "panoptic"]
    several = tiny_model.predict(SMALL, names)
    assert list(several) == names and [result.task for result in several.values()] == names
    assert all(result.render().shape == (20, 30, 3) for result in several.values())
    assert all(result.confidence.shape == (20, 30) for result in several.values())
    np.testing.assert_allclose(
        several["depth"].depth, one.depth, atol=1e-3
    )  # another batch size, the same model


def test_panoptic_merges_what_its_components_paint(tiny_model):
    results = tiny_model.predict(SMALL, ["semantic", "instance", "panoptic", "depth", "denoise"])
    rgb = tiny_model.predict_rgb(np.stack([SMALL] * 4), ["semantic", "instance"] * 2)
    expected = tiny_model.tasks["panoptic"].merge(rgb[0], rgb[1], (20, 30))
    assert (
        np.mean(results["panoptic"].id_map == expected.id_map) > 0.99
    )  # ties may fall otherwise in another batch
    assert tiny_model.components(["panoptic", "semantic", "depth"]) == [
        "semantic",
        "instance",
        "depth",
    ]


def test_each_image_of_a_batch_follows_its_own_task(tiny_model):
    mixed = tiny_model.predict_rgb(np.stack([SMALL] * 4), ["depth", "light", "semantic", "derain"])
    for rgb, name in zip(mixed[:2], ("depth", "light"), strict=True):
        np.testing.assert_allclose(rgb, tiny_model.predict_rgb(SMALL[None], name)[0], atol=1e-3)
    assert np.abs(mixed[0] - mixed[1]).max() > 1e-2


def test_several_tasks_of_one_image_encode_it_once(tiny_model, monkeypatch):
    names = ["depth", "light", "semantic"]
    expected = tiny_model.predict_rgb(np.stack([SMALL] * 3), names)
    seen, sample = [], tiny_model._sample
    monkeypatch.setattr(
        tiny_model,
        "_sample",
        lambda values, images, pictures, text, *rest, **kw: (
            seen.append((len(images), len(pictures), len(text))),
            sample(values, images, pictures, text, *rest, **kw),
        )[1],
    )
    np.testing.assert_allclose(tiny_model.predict_rgb(SMALL[None], names), expected, atol=1e-3)
    tiny_model.predict(SMALL, names)
    assert seen == [(1, 1, 4), (1, 1, 4)]  # prompts are padded, so that few programs are compiled


def test_file_pil_and_array_give_the_same(tiny_model, tmp_path):
    Image.fromarray(SMALL).save(tmp_path / "x.png")
    expected = tiny_model.predict(SMALL, "depth").depth
    for image in (tmp_path / "x.png", Image.fromarray(SMALL)):
        np.testing.assert_array_equal(tiny_model.predict(image, "depth").depth, expected)


def test_the_model_sees_images_shrunk_as_those_of_training(tiny_model, monkeypatch):
    seen = []
    monkeypatch.setattr(
        tiny_model,
        "_sample",
        lambda parameters, images, *_, **__: (
            seen.append(np.asarray(images)) or np.zeros((1, 32, 32, 3))
        ),
    )
    tiny_model.predict_rgb(LARGE[None], "depth")
    np.testing.assert_array_equal(seen[0][0], resize_image(LARGE, (32, 32)))


def test_a_tile_reaches_the_network_as_it_is_stored(tiny_workdir, monkeypatch):
    """Beside it the encoder, which is larger than the target here, sees it enlarged."""
    config, parameters = load_weights(tiny_workdir)
    model = Generalist(config, parameters)
    model.image_size = 64
    seen = []

    def sample(weights, images, pictures, *_, **__):
        seen.append((images.shape, pictures))
        return np.zeros((len(images), 32, 32, 3), np.float32)

    monkeypatch.setattr(model, "_sample", sample)
    model.predict(LARGE, "denoise")
    (shape, pictures), *_ = seen
    assert shape[1:] == (64, 64, 3)
    np.testing.assert_array_equal(pictures[0], LARGE[:32, :32])
    np.testing.assert_array_equal(pictures[3], LARGE[-32:, -32:])


def test_low_light_is_seen_whole(tiny_model, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        tiny_model,
        "predict_rgb",
        lambda images, *_: sizes.append(images[0].shape) or np.zeros((len(images), 32, 32, 3)),
    )
    tiny_model.predict(LARGE, ["denoise", "light"])
    assert sizes == [(32, 32, 3), LARGE.shape]


def test_restoration_tiles_what_is_larger_than_the_model(tiny_model, monkeypatch):
    def predict_rgb(images, task, *_):
        return np.stack([resize_image(image, (32, 32)) for image in images]) / np.float32(127.5) - 1

    monkeypatch.setattr(tiny_model, "predict_rgb", predict_rgb)
    assert (
        tiny_model.predict(LARGE, "denoise").image == LARGE
    ).all()  # a painter that changes nothing
    assert (tiny_model.predict(LARGE, "denoise", tile=3).image == LARGE).all()
    whole = tiny_model.predict(LARGE, "denoise", tile=False).image
    assert (
        whole.shape == LARGE.shape and (whole != LARGE).any()
    )  # shrunk to 32 x 32 and enlarged again
    assert (tiny_model.predict(SMALL, "denoise", tile=True).image == SMALL).all()
    assert tiny_model.predict(LARGE, "depth", tile=True).depth.shape == (40, 56)


def test_tiles_through_the_model(tiny_model):
    tiled, whole = (tiny_model.predict(LARGE, "denoise", tile=tile).image for tile in (True, False))
    assert tiled.shape == whole.shape == LARGE.shape and (tiled != whole).any()


def test_a_deterministic_sampler_has_equal_samples(tiny_model):
    assert not tiny_model.stochastic
    one, four = (tiny_model.predict(SMALL, "depth", samples=n) for n in (1, 4))
    np.testing.assert_array_equal(four.depth, one.depth)
    assert one.uncertainty is None and (four.uncertainty == 0).all()


def test_samples_from_noise_differ_and_follow_the_seed(tiny_workdir):
    config, parameters = load_weights(tiny_workdir)
    config["diffusion"]["x_init"] = "gaussian"
    model = Generalist(config, parameters)
    first, same, other = (model.predict(SMALL, "depth", samples=4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.depth, same.depth)
    assert (first.depth != other.depth).any()
    assert first.uncertainty.shape == (20, 30) and first.uncertainty.mean() > 0

    # Classes and segments are voted on.
    voted = model.predict(SMALL, ["semantic", "instance", "panoptic"], samples=4)
    for prediction in voted.values():
        assert prediction.uncertainty.shape == (20, 30)
        np.testing.assert_allclose(prediction.confidence + prediction.uncertainty, 1, atol=1e-6)
    shares = np.unique(voted["semantic"].confidence)
    assert set(shares.tolist()) <= {0.25, 0.5, 0.75, 1.0} and shares[0] < 1


def test_samples_are_as_many_as_the_config_says_where_none_are_given(tiny_model):
    model = tiny_model.with_sampling(x_init="gaussian", samples=4)
    given, said = model.predict(SMALL, "depth"), model.predict(SMALL, "depth", samples=4)
    np.testing.assert_array_equal(given.depth, said.depth)
    np.testing.assert_array_equal(given.uncertainty, said.uncertainty)
    assert given.uncertainty.mean() > 0
    # The other model is left as it was.
    assert tiny_model.recipe.sampling.samples == 1 and not tiny_model.stochastic


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampler": "ddmi"}, "Did you mean 'ddim'"),
        ({"steps": 2}, "sampler 'one_step' takes steps=1, not 2"),
        ({"samples": 2}, "diffusion.samples 2 would all be equal"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(tiny_model, fields, said):
    with pytest.raises(ValueError, match=said):
        tiny_model.with_sampling(**fields)


def test_several_images_share_batches_and_equal_the_images_alone(tiny_model, monkeypatch):
    images = [SMALL, LARGE, SMALL[:, ::-1]]
    names = ["depth", "semantic"]
    alone = [tiny_model.predict(image, names) for image in images]
    sizes, sample = [], tiny_model._sample

    def counted(values, images, *rest, **settings):
        sizes.append(len(images))
        return sample(values, images, *rest, **settings)

    monkeypatch.setattr(tiny_model, "_sample", counted)
    together = tiny_model.predict(images, names)
    assert sizes == [8]  # six, filled up
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one["depth"].depth, other["depth"].depth, atol=1e-3)
        # Random weights paint between the palette's colors, where the last bit decides.
        assert np.mean(one["semantic"].classes == other["semantic"].classes) > 0.9

    stacked = tiny_model.predict(np.stack([SMALL, SMALL[:, ::-1]]), "depth")
    assert [prediction.depth.shape for prediction in stacked] == [(20, 30)] * 2
    np.testing.assert_allclose(stacked[1].depth, alone[2]["depth"].depth, atol=1e-3)
    assert tiny_model.predict([], "depth") == []


def test_images_in_a_list_are_tiled_or_not_each_by_its_size(tiny_model):
    together = tiny_model.predict([SMALL, LARGE], ["denoise", "depth"])
    for prediction, image in zip(together, (SMALL, LARGE), strict=True):
        alone = tiny_model.predict(image, "denoise")
        assert np.abs(np.int32(prediction["denoise"].image) - alone.image).max() <= 1


def test_a_model_of_one_step_says_so_once_when_it_is_asked_for_more(tiny_workdir, caplog):
    model = load(tiny_workdir)
    model.predict(SMALL, "depth", steps=1)
    assert "one step" not in caplog.text
    for _ in range(2):
        model.predict(SMALL, "depth", steps=3)
    said = (
        f"{tiny_workdir}: trained at pure noise in 90 % of the samples, nearly a regressor: one "
        "step is what it learned, and it is asked for 3, by ddim: every figure"
    )
    assert caplog.text.count(said) == 1


def test_a_model_of_all_noise_levels_is_asked_for_more_without_a_word(tiny_workdir, caplog):
    config, parameters = load_weights(tiny_workdir)
    for numbers in config["tasks"]["timesteps"].values():
        numbers["p_pure_noise"] = 0.8
    Generalist(config, parameters).check_sampling(3, 0)
    assert caplog.text == ""


def test_more_steps_change_the_prediction(tiny_model):
    assert (
        tiny_model.predict(SMALL, "depth", steps=3).depth
        != tiny_model.predict(SMALL, "depth").depth
    ).any()


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"task": "dept"}, "Did you mean 'depth'.*Allowed: depth, semantic"),
        ({"task": []}, "no task given: choose from depth"),
        ({"task": "depth", "steps": 0}, "steps=0 must be a whole number of at least 1"),
        ({"task": "depth", "steps": 2.5}, "steps=2.5 must be a whole number"),
        ({"task": "depth", "seed": -1}, "seed=-1 must be a whole number of 0 to 2"),
        ({"task": "depth", "seed": 2**40}, "seed=1099511627776 must be a whole number"),
        ({"task": "depth", "samples": 0}, "samples is 0"),
        ({"task": "denoise", "tile": 32}, r"tile overlap 32 is outside 0\.\.31"),
    ],
)
def test_mistakes_are_named(tiny_model, arguments, said):
    with pytest.raises(ValueError, match=said):
        tiny_model.predict(SMALL, **arguments)


def test_an_image_that_is_none(tiny_model, tmp_path):
    (tmp_path / "x.jpg").write_text("nothing")
    with pytest.raises(ImageError, match="x.jpg: no readable image"):
        tiny_model.predict(tmp_path / "x.jpg")


def test_a_task_the_model_was_not_trained_on(tiny_workdir):
    config, parameters = load_weights(tiny_workdir)
    config = json.loads(json.dumps(config))
    config["tasks"]["weights"] = {"depth": 1.0, "instance": 0.0}
    with pytest.raises(ValueError, match="not trained on semantic, instance, only on depth"):
        Generalist(config, parameters).predict(SMALL, "panoptic")


def test_a_model_that_is_loaded_again_is_not_compiled_again(tiny_workdir, tiny_model):
    """As before every evaluation of a run."""
    assert load(tiny_workdir)._sample is tiny_model._sample


def test_a_prompt_takes_the_place_of_the_tasks(tiny_model):
    light = tiny_model.tasks["light"].prompt
    own = tiny_model.predict_rgb(SMALL[None], "light")
    np.testing.assert_array_equal(
        tiny_model.predict_rgb(SMALL[None], "depth", prompts=[light]), own
    )
    assert np.abs(tiny_model.predict_rgb(SMALL[None], "depth") - own).max() > 1e-2

    # One for all images, or one for each; tiles have that of their image.
    expected = [tiny_model.predict(image, "light").image for image in (SMALL, LARGE)]
    several = tiny_model.predict([SMALL, LARGE], "denoise", tile=False, prompt=light)
    each = tiny_model.predict([SMALL, LARGE], "denoise", tile=False, prompt=["a dog", light])
    tiled = tiny_model.predict(LARGE, "denoise", prompt="a dog")
    for given, wanted in zip([*several, each[1]], [*expected, expected[1]], strict=True):
        np.testing.assert_allclose(given.image, wanted, atol=1)
    assert np.abs(each[0].levels - several[0].levels).max() > 1
    assert np.abs(tiled.levels - tiny_model.predict(LARGE, "denoise").levels).max() > 1


def test_a_prompt_is_encoded_once(tiny_workdir, monkeypatch):
    model = load(tiny_workdir)
    seen = []
    tokenize = model._prompt_ids
    monkeypatch.setattr(
        model, "_prompt_ids", lambda text, cut: seen.append(text) or tokenize(text, cut)
    )
    monkeypatch.setattr(generalist_module, "MOST_PROMPTS", 2)
    tokens = model.prompt_tokens(["a", "b", "a", "c"])
    assert tokens.shape == (4, 8, 16) and seen == ["a", "b", "c"]
    np.testing.assert_array_equal(tokens[0], tokens[2])
    model.prompt_tokens(["c", "b"])
    model.prompt_tokens(["a"])  # the oldest has made room
    assert seen == ["a", "b", "c", "a"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("", "prompt '' says nothing: give a text of at least a word"),
        (["a", " "], "prompt ' ' says nothing"),
        (["a"], "1 prompts for 2 images: give one, or one for each"),
        ("a b c d e f g h i", "has 9 words, at most 8 are allowed"),
        ([1, 2], "prompt 1 says nothing"),
    ],
)
def test_a_wrong_prompt_is_an_error(tiny_model, prompt, said):
    with pytest.raises(ValueError, match=said):
        tiny_model.predict([SMALL, SMALL], "depth", prompt=prompt)
