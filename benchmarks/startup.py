"""From the command to the first training step, with a cold and a warm compilation cache: PYTHONPATH=. python benchmarks/startup.py

    python benchmarks/startup.py --config paper,small --data_dir /data

Each start is a process of its own that does what the training loop does, in its order, and says when each part was done. Without a
cache is what a plain run does; the cache is JAX's own (JAX_COMPILATION_CACHE_DIR), empty for the cold start and then used by the warm one.
"""

import argparse
import json
import os
import sys
import tempfile
import time

import side_by_side

ARMS = ("no cache", "cold cache", "warm cache")


def start(args) -> dict[str, float]:
    """Seconds of each part of a start in this process, whose parent began it at `args.began`."""
    marks = [("python", time.monotonic())]
    import jax

    from generalist.configs import multitask
    from generalist.devices import mesh as sharding
    from generalist.training import setup

    marks.append(("imports", time.monotonic()))
    quiet = lambda line: None
    config, parts = setup.resolve(multitask.get_config(args.config))
    run = setup.prepare(config, quiet, parts)
    jax.block_until_ready(run.state)
    marks.append(("model and state", time.monotonic()))
    batches, _ = setup.batches(config, run, 0)
    step = setup.compile_step(run, run.state, config, quiet)
    marks.append(("step compiled", time.monotonic()))
    batch = sharding.to_global(next(batches), run.batch_sharding, run.rows, config.batch_size)
    marks.append(("first batch", time.monotonic()))
    jax.block_until_ready(step(run.state, batch))
    marks.append(("first step", time.monotonic()))
    seconds = {
        name: moment - before
        for (name, moment), before in zip(marks, [args.began, *(moment for _, moment in marks)])
    }
    return {**seconds, "all": marks[-1][1] - args.began}


def measure(args, arm: str, folder: str) -> dict:
    """One start; the cache of a round is in `folder`."""
    cache = (
        {}
        if arm == "no cache"
        else {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    )
    environment = {"GENERALIST_DATA_DIR": args.data_dir} if args.data_dir else {}
    return side_by_side.arm(
        __file__,
        ["--config", args.config, "--began", time.monotonic()],
        {**cache, **environment},
        args.limit,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="scenes", help="what follows configs/multitask.py:")
    parser.add_argument("--data_dir", default="")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds after which a start counts as failed"
    )
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.began:
        print(json.dumps(start(args)), flush=True)
        os._exit(0)  # waits for no reader
    print(
        f"{side_by_side.machine(('jax', 'flax', 'optax', 'numpy'))}; configs/multitask.py:{args.config}"
    )
    found: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    for number in range(args.runs):
        with tempfile.TemporaryDirectory() as folder:
            for arm in ARMS:
                found[arm].append(measure(args, arm, folder))
                text = found[arm][-1].get("error") or f"{found[arm][-1]['all']:.1f} s"
                print(
                    f"run {number + 1} of {args.runs}: {arm}: {text}", file=sys.stderr, flush=True
                )
    failed = [run["error"] for runs in found.values() for run in runs if "error" in run]
    if failed:
        print(f"failed: {failed[0]}")
        return 1
    side_by_side.header("s: median (lowest..highest)", *ARMS)
    for part in found[ARMS[0]][0]:
        side_by_side.row(
            part, *(side_by_side.spread([run[part] for run in found[arm]], 1) for arm in ARMS)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
