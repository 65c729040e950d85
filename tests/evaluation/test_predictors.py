"""Restoration in tiles: at native resolution nothing is lost to resizing."""

import dataclasses
import json

import numpy as np
import pytest

from generalist.evaluation import EvaluationSettings, evaluate
from generalist.evaluation.predictors import Model, Tiles
from generalist.input_pipeline.scenes import ScenesSource
from generalist.metrics import ImageQuality, SegmentationMetric
from generalist.tasks import SCENES_TASKS

SIZE = 16


def copy(images, name):
    """A model of 16 x 16 pixels that paints its input, resized by plain means."""
    images = np.stack(images).astype(np.float32) / 127.5 - 1.0
    side = images.shape[1] // SIZE
    return images.reshape(len(images), SIZE, side, SIZE, side, 3).mean((2, 4))


def test_native_resolution_beside_the_whole_image(tmp_path):
    sources = {name: ScenesSource(name, "val", 2, 48) for name in ("denoise", "light", "depth")}
    tasks = {name: SCENES_TASKS[name] for name in sources}

    def run(folder, native):
        settings = EvaluationSettings(target_size=SIZE, panels=0, native=native)
        return evaluate(copy, tasks, sources, settings, tmp_path / folder / "0")

    metrics = run("native", True)
    # What copies its input has the trivial figures, and far worse ones after 48 -> 16 -> 48.
    for key in ("psnr", "ssim"):
        assert metrics[f"denoise/{key}"] == pytest.approx(
            metrics[f"trivial/denoise/{key}"], rel=1e-6
        )
        assert metrics[f"denoise/{key}_whole"] != pytest.approx(
            metrics[f"trivial/denoise/{key}"], rel=1e-2
        )
    # Tiles lose nothing to resizing, the whole image does.
    assert (metrics["ceiling/denoise/psnr"], metrics["ceiling/denoise/ssim"]) == (None, 1.0)
    assert metrics["ceiling/denoise/psnr_whole"] < 30
    assert metrics["denoise/seconds_per_image"] > 0

    # Low light and all other tasks are seen whole, and so is everything where that is asked for.
    assert all(
        key.startswith(("denoise/", "ceiling/denoise/")) for key in metrics if "_whole" in key
    )
    whole = run("whole", False)
    assert whole.keys() == {key for key in metrics if not key.endswith("_whole")}
    for key, value in whole.items():
        if not key.endswith("seconds_per_image"):
            assert value == metrics.get(f"{key}_whole", metrics[key])


def test_tiles_have_the_models_side_and_overlap_by_a_quarter():
    seen = []

    def paint(images, name):
        seen.append(images.shape)
        return np.zeros(images.shape, np.float32)

    example = {"image": np.zeros((16, 40, 3), np.uint8), "label": np.zeros((16, 40, 3), np.uint8)}
    (prediction,) = Tiles(paint, SIZE)(SCENES_TASKS["light"], [example])
    assert seen == [(3, 16, 16, 3)]  # from columns 0, 12 and 24
    assert prediction.image.shape == (16, 40, 3) and (prediction.image == 128).all()


def test_an_image_that_fits_into_a_tile_is_seen_whole():
    """As `Generalist.predict` sees it, and as training shows an image of that size: enlarged."""
    seen = []

    def paint(images, name):
        seen.append([image.shape for image in images])
        return np.full((len(images), SIZE, SIZE, 3), 0.5, np.float32)

    task = SCENES_TASKS["denoise"]
    images = [np.zeros(shape, np.uint8) for shape in [(10, 12, 3), (16, 20, 3), (16, 16, 3)]]
    examples = [{"image": image, "label": image} for image in images]
    predictions = Tiles(paint, SIZE)(task, examples)
    assert seen == [[(10, 12, 3), (16, 16, 3), (16, 16, 3), (16, 16, 3)]]
    assert [prediction.image.shape for prediction in predictions] == [i.shape for i in images]


def test_a_call_takes_tiles_of_several_images():
    """Nine tiles each would be padded to sixteen places of a batch."""
    seen = []

    def paint(images, name):
        seen.append(len(images))
        return np.stack(images).astype(np.float32) / 127.5 - 1.0

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (36, 40, 3), np.uint8) for _ in range(3)]
    task = SCENES_TASKS["denoise"]
    examples = [{"image": image, "label": image} for image in images]
    predictions = Tiles(paint, SIZE, 16)(task, examples)
    assert seen == [16, 11]

    # What paints each tile as it is gives every image back, in its own place.
    for image, prediction in zip(images, predictions, strict=True):
        np.testing.assert_allclose(prediction.image, image, atol=1)
        (alone,) = Tiles(paint, SIZE, 16)(task, [{"image": image, "label": image}])
        np.testing.assert_array_equal(prediction.image, alone.image)


@pytest.mark.parametrize("predictor", [Model, Tiles])
def test_a_model_is_told_the_prompts_of_examples_where_they_have_their_own(predictor):
    told = []

    def paint(images, name, *prompts):
        told.append(prompts)
        return np.zeros((len(images), SIZE, SIZE, 3), np.float32)

    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    examples = [{"image": image, "label": image}, {"image": image, "label": image, "prompt": "a"}]
    task = SCENES_TASKS["denoise"]
    predict = predictor(paint, SIZE)
    predict(task, examples)
    own = dataclasses.replace(task, name="own", own_prompts=True, prompt="none")
    predict(own, examples)
    predict(own, examples[1:] * 2)  # the same images, with other prompts
    assert told == [(), (["none", "a"],), (["a", "a"],)]


@pytest.mark.parametrize("predictor", [Model, Tiles])
@pytest.mark.parametrize("name", ["denoise", "text_to_image"])
def test_samples_are_batches_of_other_seeds_which_the_task_combines(predictor, name):
    """A task that combines none is sampled as ever."""
    calls = []

    def paint(images, name, *prompts, **seed):
        calls.append((len(images), seed))
        noise = np.random.default_rng(seed.get("seed", 0)).uniform(-1, 1, (SIZE, SIZE, 3))
        return np.stack([noise * image.mean() / 255 for image in images]).astype(np.float32)

    task = SCENES_TASKS[name]
    images = [np.full((36, 40, 3), level, np.uint8) for level in (100, 200)]
    if predictor is Model:
        images = [image[:SIZE, :SIZE] for image in images]
    examples = [{"image": image, "label": image} for image in images]
    alone = predictor(paint, SIZE)(task, examples)
    once = len(calls)
    assert all(seed == {} for _, seed in calls)

    calls.clear()
    several = predictor(paint, SIZE, samples=3)(task, examples)
    if name == "text_to_image":
        assert len(calls) == once and several[1].uncertainty is None
        np.testing.assert_array_equal(several[1].levels, alone[1].levels)
        return
    assert len(calls) == 3 * once and {count for count, _ in calls} == {calls[0][0]}
    assert [seed for _, seed in calls[:3]] == [{}, {"seed": 1}, {"seed": 2}]

    # Each sample as if it were drawn alone; then the mean and its spread.
    singles = []
    for seed in range(3):
        one = predictor(lambda *given, seed=seed: paint(*given, seed=seed), SIZE)
        singles.append(one(task, examples)[1].levels)
    np.testing.assert_allclose(several[1].levels, np.mean(singles, axis=0), atol=1e-3)
    spread = np.std(singles, axis=0).mean(-1)
    np.testing.assert_allclose(several[1].uncertainty, spread, atol=1e-2)
    assert spread.mean() > 1


def test_an_evaluation_of_samples_has_the_figures_of_their_mean_and_their_vote(tmp_path):
    """Truth and noise: the more samples, the better; the picture that text paints stays."""
    names = ("denoise", "semantic", "instance", "panoptic", "text_to_image")
    tasks = {name: SCENES_TASKS[name] for name in names}
    sources = {name: ScenesSource(name, "val", 3, SIZE) for name in names}
    truth = {}
    for name in ("denoise", "semantic", "instance", "text_to_image"):
        for index in range(3):
            example = sources[name][index]
            target = tasks[name].encode(example["label"], SIZE)
            truth[name, example["image"].tobytes()] = target.rgb
    drawn = []

    def predict_rgb(images, name, prompts=None, seed=0):
        drawn.append((name, seed))
        rgb = np.stack([truth[name, image.tobytes()] for image in images])
        noise = np.random.default_rng(seed).normal(0, 0.3, rgb.shape)
        return (rgb + noise).astype(np.float32)

    def run(samples):
        settings = EvaluationSettings(target_size=SIZE, samples=samples, batch_size=3, panels=0)
        return evaluate(predict_rgb, tasks, sources, settings, tmp_path / str(samples) / "0")

    one = run(1)
    assert set(drawn) == {(name, 0) for name, _ in truth}
    drawn.clear()
    four = run(4)
    # Instances are painted once for the task itself and for what is merged of them.
    assert sorted(drawn) == sorted(
        [("text_to_image", 0)]
        + [(name, k) for name in ("denoise", "semantic", "instance") for k in range(4)]
    )

    quality = ImageQuality(tasks["denoise"].protocol)
    classes = SegmentationMetric(tasks["semantic"].num_classes)
    for name, metric in (("denoise", quality), ("semantic", classes)):
        task = tasks[name]
        examples = [sources[name][index] for index in range(3)]
        images = np.stack([example["image"] for example in examples])
        draws = np.stack([predict_rgb(images, name, seed=k) for k in range(4)])
        for index, example in enumerate(examples):
            prediction = task.decode_samples({name: draws[:, index]}, samples=4)
            metric.update(task.label_of(prediction), example["label"])
    assert four["denoise/psnr"] == quality.compute()["psnr"] > one["denoise/psnr"] + 3
    assert four["semantic/miou"] == classes.compute()["miou"] > one["semantic/miou"]
    assert four["text_to_image/frechet"] == one["text_to_image/frechet"]

    # What does not come of samples stays what it was.
    assert {key for key in four if key not in one} == {"denoise/ause"}
    for key, value in one.items():
        if key.startswith(("trivial/", "ceiling/")):
            assert four[key] == value
    card = json.loads((tmp_path / "4/0/card.json").read_text())
    assert card["samples"] == 4 and list(card["tasks"]["denoise"]["also"]) == ["ause"]
