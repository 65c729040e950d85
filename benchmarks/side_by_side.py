"""What the benchmarks share: arms measured in processes of their own, in turns, and their table."""

import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence


def device(name: str) -> str:
    """Returns `name`; for "auto" it is "cuda" where there is an NVIDIA GPU, else "cpu"."""
    if name != "auto":
        return name
    return "cuda" if shutil.which("nvidia-smi") else "cpu"


def machine(packages: Sequence[str]) -> str:
    """Returns a line on versions, cores, and how busy they are before anything is measured."""
    versions = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    cores = len(os.sched_getaffinity(0))
    return (
        f"Python {platform.python_version()}, {', '.join(versions)}; "
        f"{cores} cores, load {os.getloadavg()[0]:.1f} before the start"
    )


def flags(**options) -> list[str]:
    """Returns keyword arguments as the flags of a command line: `--size=small`, and so on."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def arm(script: str, arguments: Sequence, environment: Mapping[str, str], limit: float) -> dict:
    """Runs `python script arguments`, which prints a JSON object as its last line.

    Returns:
      That object; {"error": why} if the script fails or takes more than `limit` seconds.
    """
    command = [sys.executable, script, *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"stopped after {limit:.0f} s"}

    if done.returncode:
        return {"error": f"exit code {done.returncode}: {_last_error(done.stderr)[:200]}"}
    return json.loads(done.stdout.splitlines()[-1])


def _last_error(stderr: str) -> str:
    """Returns the last line that names an error, else the last line."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or [""])[-1]


def caches(device: str, folder: pathlib.Path) -> dict[str, str]:
    """Returns the environment of all arms; compiled programs are kept in `folder` between runs."""
    return {
        "JAX_PLATFORMS": device,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
    }


def rounds(
    names: Sequence[str],
    runs: int,
    measure: Callable[[str], dict],
    describe: Callable[[dict], str],
) -> dict[str, list[dict]]:
    """Measures every arm `runs` times, in turns, every second round backward.

    An arm that fails is left out from then on.

    Args:
      names: of the arms.
      runs: of each arm.
      measure: name -> result, with "error" where it failed.
      describe: result -> text of a progress line.

    Returns:
      {name: its results}.
    """
    found: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(runs):
        # Backward and forward, so that a machine that gets busier is nobody's disadvantage.
        order = list(names) if number % 2 == 0 else list(names)[::-1]
        for name in order:
            if any("error" in result for result in found[name]):
                continue
            result = measure(name)
            found[name].append(result)
            text = result.get("error") or describe(result)
            print(f"run {number + 1} of {runs}: {name}: {text}", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Returns "median (lowest..highest)"."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def row(*cells) -> None:
    """Prints a line of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def header(*names: str) -> None:
    """Prints the head of a Markdown table, the first column on the left."""
    row(*names)
    print("|---|" + "---:|" * (len(names) - 1), flush=True)
