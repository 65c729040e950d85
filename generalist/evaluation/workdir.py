"""Evaluates a training workdir, or any other model folder, on all devices of all processes."""

import hashlib
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from generalist.devices import lock
from generalist.devices.mesh import make_mesh
from generalist.evaluation.data import open_data
from generalist.evaluation.evaluate import EvaluationSettings, evaluate
from generalist.evaluation.predictors import on_all_processes
from generalist.inference import load
from generalist.pretrained import weights
from generalist.recipe import Sampling

logger = logging.getLogger("generalist")

# How a field of `Sampling` is named in a folder.
_WORDS = {
    "steps": "{}steps",
    "sampler": "{}",
    "x_init": "{}",
    "eta": "eta{}",
    "guidance": "guidance{}",
    "samples": "{}samples",
}


def evaluate_workdir(
    config: ConfigDict,
    workdir: pathlib.Path,
    limit: int,
    *,
    split: str | None = None,
    names: Sequence[str] | None = None,
    out_dir: pathlib.Path | None = None,
    native: bool | None = None,
    submission: bool = False,
) -> dict[str, float | None]:
    """Measures the averaged weights of `workdir` by the official metrics on held-out data.

    Every process evaluates its part of each batch and returns all figures; the first one writes
    them.

    Args:
      config: the model's, with the data to evaluate on, and how to sample (see `Sampling`).
      workdir: a workdir or model folder.
      limit: examples a task; 0 takes all.
      split: of the examples; None takes the official one, `config.eval.final_split`.
      names: tasks; None takes all of `config.eval.tasks`, empty those of them that the data have.
      out_dir: folder of the results; None takes `eval/<step>/` of the workdir, with what is sampled
        otherwise than the model's own config says in its name: `eval/1500_4steps_ddim/`.
      native: see `EvaluationSettings`; None: for photographs, not for the built-in scenes, which
        are of the model's size.
      submission: see `EvaluationSettings`.

    Returns:
      The content of metrics.json.

    Raises:
      WeightsError: the folder holds no weights, or they do not fit their config.
      InUseError: another evaluation writes into the folder of the results.
      ValueError: as of `open_data`, a task that the model was not trained on, or a way to sample
        that cannot be.
    """
    generalist = load(workdir, make_mesh() if jax.device_count() > 1 else None)
    own = generalist.recipe
    chosen = {field: config.diffusion[field] for field in Sampling._fields}
    generalist = generalist.with_sampling(**chosen)
    sampling = generalist.recipe.sampling
    step = weights.read_step(workdir)

    split = split or config.eval.final_split
    names = config.eval.tasks if names is None else names
    data = open_data(config, names, limit, split=split)
    # Fails here for a task that the model was not trained on, before anything is measured.
    generalist.components(data.tasks)

    settings = EvaluationSettings(
        target_size=config.model.target_size,
        steps=sampling.steps,
        samples=sampling.samples,
        batch_size=config.eval.batch_size,
        limit=limit,
        panels=config.eval.panels,
        native=config.data.source != "scenes" if native is None else native,
        submission=submission,
        beside=earlier_evaluations(config, workdir, int(step)),
        facts={
            "step": int(step),
            "seed": config.seed,
            "split": split,
            "sampler": sampling.sampler,
            "x_init": sampling.x_init,
            "eta": sampling.eta,
            "guidance": sampling.guidance,
            "trained_for": own.trained_for(),
            "weights": str(workdir),
            "weights_sha256": _sha256_of_weights(workdir),
        },
    )

    began = time.monotonic()
    if out_dir is None:
        words = sampled_otherwise(own.sampling._asdict(), sampling._asdict())
        out_dir = workdir / "eval" / "_".join([step, *words])
    with lock.hold(out_dir):
        metrics = evaluate(
            on_all_processes(generalist, sampling.steps),
            data.tasks,
            data.sources,
            settings,
            out_dir,
            data.train_sources,
        )
    logger.info(f"evaluated step {step} in {time.monotonic() - began:.0f} s")
    return metrics


def earlier_evaluations(
    config: ConfigDict, workdir: pathlib.Path, step: int
) -> dict[str, pathlib.Path]:
    """Returns the folder of each of `tables.EARLIER` that may be there, for `evaluate`."""
    folders = {}
    if step:
        folders["before"] = workdir / "eval" / "0"
    if config.data.source == "scenes":
        folders["shipped"] = weights.SHIPPED["scenes"]
    return folders


def sampled_otherwise(own: Mapping[str, Any], chosen: Mapping[str, Any]) -> list[str]:
    """Returns a word for each field of `Sampling` that differs, such as ["4steps", "ddim"].

    They go into the name of a folder, so that figures of another sampler are not taken for the
    model's own.
    """
    return [
        word.format(chosen[field]) for field, word in _WORDS.items() if chosen[field] != own[field]
    ]


def _sha256_of_weights(workdir: pathlib.Path) -> str:
    with open(weights.folder_of(workdir) / weights.WEIGHTS, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
