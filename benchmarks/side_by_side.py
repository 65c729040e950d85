"""What the benchmarks share: arms measured in processes of their own, in turns, and one table of them."""

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
    """ "auto" -> "cuda" where there is an NVIDIA GPU, else "cpu"."""
    return name if name != "auto" else "cuda" if shutil.which("nvidia-smi") else "cpu"


def machine(packages: Sequence[str]) -> str:
    """A line on versions, cores and how busy they are before anything is measured."""
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return f"Python {platform.python_version()}, {versions}; {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before the start"


def arm(script: str, arguments: Sequence, environment: Mapping[str, str], limit: float) -> dict:
    """The last line that `python script arguments` prints, a JSON object; {"error": why} if it fails or takes over `limit` seconds."""
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
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return {
            "error": f"exit code {done.returncode}: {next((x for x in reversed(lines) if 'Error' in x), lines[-1] if lines else '')[:200]}"
        }
    return json.loads(done.stdout.splitlines()[-1])


def caches(device: str, folder: pathlib.Path) -> dict[str, str]:
    """The environment of the arms of one benchmark, whose compiled programs are kept in `folder` from run to run."""
    return {
        "JAX_PLATFORMS": device,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95",
    }


def rounds(
    names: Sequence[str], runs: int, measure: Callable[[str], dict], describe: Callable[[dict], str]
) -> dict[str, list[dict]]:
    """{name: results of `runs` runs}, in turns, every second round backwards; an arm that fails is left out from then on."""
    found: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(runs):
        for name in list(names)[:: -1 if number % 2 else 1]:
            if any("error" in result for result in found[name]):
                continue
            found[name].append(measure(name))
            text = found[name][-1].get("error") or describe(found[name][-1])
            print(f"run {number + 1} of {runs}: {name}: {text}", file=sys.stderr, flush=True)
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """ "median (lowest..highest)"."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def row(*cells) -> None:
    """Prints a line of a Markdown table."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def header(*names: str) -> None:
    """Prints the head of a Markdown table, the first column on the left."""
    row(*names)
    print("|---|" + "---:|" * (len(names) - 1), flush=True)
