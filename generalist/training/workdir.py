"""The folder of a run: its config, what it ran on, and its weights for use."""

import json
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from generalist import __version__
from generalist.devices import mesh as sharding
from generalist.devices import processes as distributed
from generalist.files import write_atomically
from generalist.pretrained import weights
from generalist.pretrained.old_configs import rename_fields
from generalist.tasks import get_tasks
from generalist.training.checkpoint import read_json

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


def check_workdir(path: str | pathlib.Path, config: ConfigDict) -> pathlib.Path:
    """The folder of a run. WorkdirError showing every differing field when it holds a run of another config."""
    path = pathlib.Path(path)
    if (path / weights.CONFIG).exists():
        _check_same(rename_fields(read_json(path / weights.CONFIG)), to_plain(config), path)
    return path


def write_facts(path: pathlib.Path, config: ConfigDict) -> None:
    """Writes `config.json`, and `run.json`: versions, devices, command line, git commit."""
    if distributed.is_first():
        write_atomically(path / weights.CONFIG, json.dumps(to_plain(config), indent=1).encode())
        write_atomically(path / "run.json", json.dumps(_facts(), indent=1).encode())
    distributed.wait("workdir")


def write_parameters(path: pathlib.Path, groups: Mapping[str, Mapping[str, jax.Array]]) -> None:
    """Writes `parameters.txt`: path, shape, dtype, size and sharding of every parameter, a table a group ("trained", "frozen")."""
    if distributed.is_first():
        tables = (
            f"{name}\n{parameter_overview.get_parameter_overview(group, include_stats='sharding', max_lines=None)}\n"
            for name, group in groups.items()
        )
        write_atomically(path / "parameters.txt", "\n".join(tables).encode())


def export(
    workdir: pathlib.Path, config: ConfigDict, parameters: Mapping[str, jax.Array], step: int
) -> None:
    """Writes the averaged weights as `model.safetensors`, which with `config.json` makes the workdir a model folder.

    All processes must call it; when it returns, all can read the file.
    """
    values = {path: sharding.to_host(x) for path, x in parameters.items()}
    if distributed.is_first():
        codecs = {name: task.version for name, task in get_tasks(config.tasks.set).items()}
        weights.save_weights(
            workdir,
            values,
            {"step": str(step), "codecs": json.dumps(codecs), "generalist": __version__},
        )
    distributed.wait("exported")


def to_plain(config: ConfigDict) -> dict:
    """A config as JSON would hold it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def flatten(tree: Mapping, prefix: str = "") -> dict:
    """Nested dicts -> {"a.b": value}."""
    flat = {}
    for name, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, Mapping)
            else {prefix + name: value}
        )
    return flat


def _check_same(saved: dict, wanted: dict, path: pathlib.Path) -> None:
    saved, wanted = flatten(saved), flatten(wanted)
    differing = [
        name
        for name in sorted(saved.keys() | wanted.keys())
        if saved.get(name) != wanted.get(name) and not name.startswith(FREE)
    ]
    if differing:
        rows = "\n".join(
            f"  {name}: {saved.get(name)!r} in the workdir, {wanted.get(name)!r} now"
            for name in differing
        )
        raise WorkdirError(
            f"{path} holds a run with another config:\n{rows}\n"
            "Choose another --workdir, remove this one, or start with its config."
        )


def _facts() -> dict:
    versions = {
        name: sys.modules[name].__version__
        for name in ("jax", "flax", "optax", "numpy")
        if name in sys.modules
    }
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
    root = pathlib.Path(__file__).parent
    result = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or None
