"""Restoration in tiles: at native resolution nothing is lost to resizing."""

import dataclasses

import numpy as np
import pytest

from generalist.evaluation import EvaluationSettings, evaluate
from generalist.evaluation.predictors import Model, Tiles
from generalist.input_pipeline.scenes import ScenesSource
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
