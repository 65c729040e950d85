"""main.py, which first evaluates a tiny model on a tiny COCO: python evaluate_together.py FLAGS.

Finds the files in <workdir>/../data. Leaves in <workdir>/../<count>p/ the results of an
evaluation that nothing disturbed, in samples/ of it those of two samples of each image, and in
<workdir>/../stopped/ those of one that is stopped in the middle where it finds no state of another,
and finished where it finds one.
"""

import dataclasses
import json
import pathlib
import sys

import jax
import numpy as np

from generalist.configs import common
from generalist.devices.mesh import make_mesh
from generalist.evaluation import EvaluationSettings, evaluate, partial
from generalist.evaluation.evaluate import PARTIAL
from generalist.evaluation.predictors import on_all_processes
from generalist.inference import Generalist
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources import DataError, open_source
from generalist.models import build, parameters
from generalist.recipe import Recipe
from generalist.tasks import TASKS
from generalist.training import launch

COCO_TASKS = ("coco_semantic", "instance", "panoptic")
BATCH_SIZE = 2


class Stopped(Exception):
    """In place of a kill: on all processes, before the same call of the model."""


class Counted:
    """A source that counts what is read of it, and fails to read one row if told so."""

    def __init__(self, source, read, fails=None):
        self._source, self._read, self._fails = source, read, fails

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        return self._source[index]

    def intact(self, index, decoded=None):
        self._read.append([self._source.task, index])
        if index == self._fails:
            raise DataError("row", f"{index} is not there", "")
        return self._source.intact(index, decoded)


class Captioned(Counted):
    """Its examples have prompts of their own."""

    def intact(self, index, decoded=None):
        return super().intact(index, decoded) | {"prompt": f"scene {index}"}


def model() -> Generalist:
    """A model of random weights that starts from noise, on all devices."""
    c = common.get_config("scenes,tiny")
    c.data.source = c.tasks.set = "paper"
    c.data.image_size = c.model.target_size = 16
    names = (*COCO_TASKS[:2], "denoise")
    c.tasks.weights = dict.fromkeys(names, 1.0)
    c.tasks.loss_weights = dict.fromkeys(names, 1.0)
    c.tasks.timesteps = {name: common.timesteps(mean=0.0, p_pure_noise=0.5) for name in names}
    c.data.augment.tasks = names
    c.diffusion.x_init = "gaussian"
    c.model.unet.channels, c.model.unet.attention_levels = (8,), (False,)
    c.model.unet.context_dim, c.model.unet.groups, c.model.unet.refine = 16, 4, 0
    c.model.image_encoder.dim = c.model.text_encoder.dim = 8

    config = json.loads(c.to_json_best_effort())
    _, shapes = parameters.abstract(lambda: build(Recipe.from_config(config).model))
    rng = np.random.default_rng(0)
    values = {
        path: 0.3 * rng.standard_normal(shapes[path].shape, np.float32) for path in sorted(shapes)
    }
    return Generalist(config, values, make_mesh())


def evaluate_coco(folder: pathlib.Path) -> None:
    """Evaluates as the docstring above says."""
    predict = on_all_processes(model(), 1)
    tasks = {name: TASKS[name] for name in COCO_TASKS}
    tasks["denoise"] = dataclasses.replace(TASKS["denoise"], own_prompts=True)

    def run(out, predict=predict, fails=None, samples=1):
        read = []
        sources = {
            name: open_source("coco", name, "val", folder / "data", on_error="skip", quiet=True)
            for name in COCO_TASKS
        }
        # Of another size than COCO's: each image has 6 tiles.
        sources["denoise"] = ScenesSource("denoise", "val", 3, (20, 40))
        settings = EvaluationSettings(
            target_size=16,
            samples=samples,
            batch_size=BATCH_SIZE,
            panels=3,
            native=True,
            submission=True,
        )
        counted = {
            name: Counted(source, read, fails if name == "panoptic" else None)
            for name, source in sources.items()
        }
        counted["denoise"] = Captioned(sources["denoise"], read)
        metrics = evaluate(predict, tasks, counted, settings, out / "eval/0")
        (out / f"read-{jax.process_index()}.json").write_text(json.dumps(read))
        (out / f"returned-{jax.process_index()}.json").write_text(json.dumps(metrics))

    # Every batch is saved, so that all that processes tell each other is told.
    partial._SAVE_EVERY_SECONDS = 0.0
    own = folder / f"{jax.process_count()}p"
    run(own)
    run(own / "samples", samples=2)

    calls = []

    def stops(images, name, *prompts):
        calls.append(name)
        # Denoising is done, in 1 + 6 and 1 + 3 calls, and of COCO the first batch, in 2.
        if len(calls) == 14:
            raise Stopped
        return predict(images, name, *prompts)

    stopped = folder / "stopped"
    if (stopped / "eval/0" / PARTIAL).exists():
        run(stopped)
    else:
        try:
            run(stopped, stops)
        except Stopped:
            pass

    # Row 3 is read by the last of two processes.
    try:
        run(own / "failed", fails=3)
    except ValueError as error:
        (own / f"error-{jax.process_index()}.txt").write_text(str(error))


def main() -> int:
    """Evaluates, then trains."""
    train_and_evaluate = launch.train_and_evaluate

    def both(config, workdir):
        evaluate_coco(workdir.parent)
        return train_and_evaluate(config, workdir)

    launch.train_and_evaluate = both
    return launch.main(sys.argv)


if __name__ == "__main__":
    sys.exit(main())
