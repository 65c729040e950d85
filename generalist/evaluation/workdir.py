"""Evaluates a training workdir, or any other model folder, on all devices of all processes."""

import hashlib
import logging
import pathlib
import time
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict

from generalist.devices import lock
from generalist.devices.mesh import make_mesh
from generalist.evaluation.data import open_data
from generalist.evaluation.evaluate import EvaluationSettings, evaluate
from generalist.evaluation.predictors import on_all_processes
from generalist.inference import load
from generalist.pretrained import weights

logger = logging.getLogger("generalist")


def evaluate_workdir(
    config: ConfigDict,
    workdir: pathlib.Path,
    limit: int,
    *,
    split: str | None = None,
    names: Sequence[str] | None = None,
    out_dir: pathlib.Path | None = None,
    steps: int | None = None,
    native: bool | None = None,
    submission: bool = False,
) -> dict[str, float | None]:
    """Measures the averaged weights of `workdir` by the official metrics on held-out data.

    Every process evaluates its part of each batch and returns all figures; the first one writes
    them.

    Args:
      config: the model's, with the data to evaluate on.
      workdir: a workdir or model folder.
      limit: examples a task; 0 takes all.
      split: of the examples; None takes the official one, `config.eval.final_split`.
      names: tasks; None takes all of `config.eval.tasks`, empty those of them that the data have.
      out_dir: folder of the results; None takes `eval/<step>/` of the workdir.
      steps: denoising steps; None takes the config's.
      native: see `EvaluationSettings`; None: for photographs, not for the built-in scenes, which
        are of the model's size.
      submission: see `EvaluationSettings`.

    Returns:
      The content of metrics.json.

    Raises:
      WeightsError: the folder holds no weights, or they do not fit their config.
      InUseError: another evaluation writes into the folder of the results.
      ValueError: as of `open_data`, or a task that the model was not trained on.
    """
    generalist = load(workdir, make_mesh() if jax.device_count() > 1 else None)
    step = weights.read_step(workdir)
    if steps is None:
        steps = config.diffusion.steps

    split = split or config.eval.final_split
    names = config.eval.tasks if names is None else names
    data = open_data(config, names, limit, split=split)
    # Fails here for a task that the model was not trained on, before anything is measured.
    generalist.components(data.tasks)

    beside = {}
    if int(step):
        beside["before"] = workdir / "eval" / "0"
    if config.data.source == "scenes":
        beside["shipped"] = weights.SHIPPED["scenes"]

    settings = EvaluationSettings(
        target_size=config.model.target_size,
        steps=steps,
        batch_size=config.eval.batch_size,
        limit=limit,
        panels=config.eval.panels,
        native=config.data.source != "scenes" if native is None else native,
        submission=submission,
        beside=beside,
        facts={
            "step": int(step),
            "seed": config.seed,
            "split": split,
            "sampler": config.diffusion.sampler,
            "x_init": config.diffusion.x_init,
            "weights": str(workdir),
            "weights_sha256": _sha256_of_weights(workdir),
        },
    )

    began = time.monotonic()
    out_dir = out_dir or workdir / "eval" / step
    with lock.hold(out_dir):
        metrics = evaluate(
            on_all_processes(generalist, steps),
            data.tasks,
            data.sources,
            settings,
            out_dir,
            data.train_sources,
        )
    logger.info(f"evaluated step {step} in {time.monotonic() - began:.0f} s")
    return metrics


def _sha256_of_weights(workdir: pathlib.Path) -> str:
    with open(weights.folder_of(workdir) / weights.WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
