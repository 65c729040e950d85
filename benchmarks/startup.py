"""From the command to the first training step, with a cold and a warm compilation cache.

    PYTHONPATH=. python benchmarks/startup.py
    PYTHONPATH=. python benchmarks/startup.py --config paper,small --data_dir /data

Each start is `python main.py --config=configs/multitask.py:CONFIG` in a process of its own, which
is ended after its first step; the lines that it logs say when each part was done. Without a cache
is what a plain run does. The cache is JAX's own (JAX_COMPILATION_CACHE_DIR), empty for the cold
start and then used by the warm one. Prints a table of the parts in seconds.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import side_by_side

MAIN = pathlib.Path(__file__).parents[1] / "main.py"
ARMS = ("no cache", "cold cache", "warm cache")

# A part of the start, and how the line begins that is logged after it.
PARTS = {
    "imports": "devices: ",
    "model and state": "workdir ",
    "step compiled": "step compiled in ",
    "first batch and step": "step 1/",
}


def start(config: str, environment: dict[str, str], limit: float) -> dict:
    """Starts a run and ends it after its first step.

    Returns:
      Seconds of each part and of "all"; {"error": why} if it fails or takes more than `limit`
      seconds.
    """
    left = dict(PARTS)
    seconds: dict = {}
    last_lines: list[str] = []
    with tempfile.TemporaryDirectory() as workdir:
        command = [sys.executable, MAIN, f"--config=configs/multitask.py:{config}"]
        command += [f"--workdir={workdir}/run", "--config.log.every_steps=1"]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # Killing ends the loop below, as there is nothing more to read.
        timer = threading.Timer(limit, process.kill)
        timer.start()

        before = began
        for line in process.stdout:
            last_lines = [*last_lines[-4:], line.strip()]
            part = next(iter(left))
            if line.startswith(left[part]):
                now = time.monotonic()
                seconds[part] = now - before
                before = now
                del left[part]
            if not left:
                break
        timer.cancel()
        process.kill()
        process.wait()

    if left:
        return {"error": f"ended before '{next(iter(left))}': {' / '.join(last_lines)}"}
    return {**seconds, "all": before - began}


def measure(args, arm: str, folder: str) -> dict:
    """Measures one start; the cache of a round is in `folder`."""
    environment = {}
    if args.data_dir:
        environment["GENERALIST_DATA_DIR"] = args.data_dir
    if arm != "no cache":
        environment["JAX_COMPILATION_CACHE_DIR"] = folder
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return start(args.config, environment, args.limit)


def main() -> int:
    """Measures the arms in turns and prints their table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="scenes", help="what follows configs/multitask.py:")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds after which a start counts as failed"
    )
    args = parser.parse_args()

    versions = side_by_side.machine(("jax", "flax", "optax", "numpy"))
    print(f"{versions}; configs/multitask.py:{args.config}")
    found: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for number in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            for arm in ARMS:
                result = measure(args, arm, folder)
                if "error" in result:
                    print(f"failed: {arm}: {result['error']}")
                    return 1
                found[arm].append(result)
                print(
                    f"run {number + 1} of {args.runs}: {arm}: {result['all']:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )

    side_by_side.header("s: median (lowest..highest)", *ARMS)
    for part in (*PARTS, "all"):
        cells = [side_by_side.spread([run[part] for run in found[arm]], 1) for arm in ARMS]
        side_by_side.row(part, *cells)
    return 0


if __name__ == "__main__":
    sys.exit(main())
