"""The command `generalist doctor`."""

import argparse
import importlib.metadata
import os
import pathlib
import platform
import shutil

import generalist
from generalist.cli.common import one_line

HELP = "Show versions, devices, data and weights, and what is wrong with them."
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "numpy",
    "opencv-python-headless",
    "pillow",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds nothing: the command has no options."""


def run(args: argparse.Namespace) -> int:
    """Prints what the report of a problem needs; the exit code is 1 if something is wrong."""
    import jax

    from generalist.training.host import missing_device

    print(
        f"generalist {generalist.__version__}, Python {platform.python_version()}, "
        f"{platform.platform()}"
    )
    for package in PACKAGES:
        print(f"  {package} {_version(package)}")

    # Each check also prints what it looked at. Weights are loaded onto a device.
    missing = missing_device()
    problems = _data_problems() if missing is None else [missing, *_data_problems()]
    if missing is None:
        for device in jax.devices():
            print(f"  device {device.id}: {device.device_kind} ({device.platform})")
        problems += [*device_problems(jax.default_backend()), *_weights_problems()]

    for problem in problems:
        print(f"warning: {problem}")
    print("all is well" if not problems else f"{len(problems)} warning(s)")
    return 1 if problems else 0


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_problems(backend: str) -> list[str]:
    """Returns what is wrong with the devices that JAX uses; `backend` is its name of them."""
    if backend == "cpu" and shutil.which("nvidia-smi"):
        return [
            "JAX runs on the CPU although there is an NVIDIA card: "
            "pip install 'jax[cuda13]', or 'jax[cuda12]'"
        ]
    return []


def _data_problems() -> list[str]:
    folder = os.environ.get("GENERALIST_DATA_DIR", "")
    print(f"data directory (GENERALIST_DATA_DIR): {folder or 'none, the built-in scenes are used'}")
    if folder and "://" not in folder and not pathlib.Path(folder).is_dir():
        return [f"GENERALIST_DATA_DIR={folder} is no folder"]
    return []


def _weights_problems() -> list[str]:
    from generalist.pretrained.weights import SHIPPED

    problems = []
    for name, folder in SHIPPED.items():
        try:
            model = generalist.load(name)
        except ValueError as error:
            problems.append(one_line(error))
            continue
        count = sum(x.size for x in model.parameters.values())
        print(f"weights '{name}': {count / 1e6:.1f} M parameters in {folder}")
    return problems
