"""The folder of a run: its config, what it ran on, and its weights for use."""

import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from clu import parameter_overview

from generalist import __version__
from generalist.devices import processes
from generalist.devices.mesh import to_host
from generalist.files import write_atomically
from generalist.pretrained import weights
from generalist.pretrained.huggingface import PublishedModel
from generalist.pretrained.old_configs import rename_fields
from generalist.pretrained.tokenizer import copy_tokenizer
from generalist.recipe import Recipe
from generalist.training.checkpoint import CheckpointError
from generalist.training.state import State

# Groups and fields that do not change what a run computes: a resumed run may change them.
FREE = (
    "checkpoint.",
    "eval.",
    "log.",
    "data_dir",
    "data.threads",
    "data.workers",
    "data.prefetch",
    "data.on_error",
    "sharding.",
    "model.remat",
    "optimizer.accum_steps",
)


class WorkdirError(ValueError):
    """The workdir belongs to another run."""


def check_workdir(path: str | pathlib.Path, recipe: Recipe) -> pathlib.Path:
    """Returns the folder of a run, which need not exist.

    Raises:
      WorkdirError: it is a file, or holds a run of another config; shows every field that differs.
      CheckpointError: its config.json is damaged.
    """
    path = pathlib.Path(path)
    for part in (path, *path.parents):
        if part.exists() and not part.is_dir():
            raise WorkdirError(f"--workdir={path}: {part} is a file, give a folder")
    if (path / weights.CONFIG).exists():
        _check_same(_read_config(path / weights.CONFIG), json.loads(recipe.to_json()), path)
    return path


def write_facts(
    path: pathlib.Path,
    recipe: Recipe,
    published: Mapping[str, PublishedModel] = MappingProxyType({}),
) -> None:
    """Writes `config.json`, and `run.json`: versions, devices, command line, git commit.

    Where examples have prompts of their own, the files of a published tokenizer go beside them.
    """
    if processes.is_first():
        if recipe.own_prompts and "text_encoder" in published:
            copy_tokenizer(published["text_encoder"].report.source, path)
        write_atomically(path / weights.CONFIG, recipe.to_json().encode())
        write_atomically(path / "run.json", json.dumps(_facts(), indent=1).encode())
    processes.wait_for_all("workdir")


def write_parameters(path: pathlib.Path, groups: Mapping[str, Mapping[str, jax.Array]]) -> None:
    """Writes `parameters.txt`: path, shape, dtype, size and sharding of every parameter.

    It has a table a group ("trained", "frozen").
    """
    if not processes.is_first():
        return
    tables = []
    for name, group in groups.items():
        table = parameter_overview.get_parameter_overview(
            group, include_stats="sharding", max_lines=None
        )
        tables.append(f"{name}\n{table}\n")
    write_atomically(path / "parameters.txt", "\n".join(tables).encode())


def save_model(workdir: pathlib.Path, recipe: Recipe, state: State) -> None:
    """Writes the averaged weights as `model.safetensors`.

    With `config.json` it makes the workdir a model folder. All processes must call it, process 0
    with all frozen parameters in host memory; when it returns, all can read the file.
    """
    values = {path: np.asarray(x) for path, x in state.frozen.items()}
    values |= {path: to_host(x) for path, x in state.ema.items()}
    if processes.is_first():
        codecs = {name: task.version for name, task in recipe.known_tasks.items()}
        metadata = {
            "step": str(int(state.step)),
            "codecs": json.dumps(codecs),
            "generalist": __version__,
        }
        weights.save_weights(workdir, values, metadata)
    processes.wait_for_all("saved")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested dicts to {"a.b": value}."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        return rename_fields(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Choose another --workdir, or move this one away."
        ) from error


def _check_same(saved: Mapping, wanted: Mapping, path: pathlib.Path) -> None:
    saved = flatten(saved)
    wanted = flatten(wanted)
    rows = []
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name) and not name.startswith(FREE):
            rows.append(f"  {name}: {saved.get(name)!r} in the workdir, {wanted.get(name)!r} now")
    if rows:
        differences = "\n".join(rows)
        raise WorkdirError(
            f"{path} holds a run with another config:\n{differences}\n"
            "Choose another --workdir, remove this one, or start with its config."
        )


def _facts() -> dict[str, Any]:
    versions = {}
    for name in ("jax", "flax", "optax", "numpy"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__

    device = jax.devices()[0]
    return {
        "command": sys.argv,
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "versions": versions,
        "device_kind": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "generalist": __version__,
    }


def _git_commit() -> str | None:
    result = subprocess.run(
        ["git", "-C", pathlib.Path(__file__).parent, "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip() or None
