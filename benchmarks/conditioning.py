"""Ways of conditioning side by side at equal time: python benchmarks/conditioning.py --minutes 3 --out runs/conditioning

Each variant of configs/ablations/conditioning.py trains from scratch for the same wall-clock time (the step is timed first, and
the number of steps, on which the learning-rate schedule depends, follows from it), then is evaluated on the same held-out scenes.
Prints one table and writes it, with the logs it comes from, to the output folder.
"""

import argparse
import importlib
import json
import os
import pathlib
import time

import jax

from generalist.configs.ablations import conditioning
from generalist.training import launch

FIGURES = ("depth/rmse", "semantic/miou", "panoptic/pq", "denoise/psnr", "derain/psnr", "light/psnr")


def seconds_a_step(config, run, setup, sharding) -> float:
    """Median of five steps after two to warm up, on real batches."""
    batches, state = setup.batches(config, run, 0), run.state
    step, times = setup.compile_step(run, state, config, lambda line: None), []
    for _ in range(7):
        batch = sharding.to_global(next(batches), run.batch_sharding)
        began = time.monotonic()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        times.append(time.monotonic() - began)
    return sorted(times[2:])[2]


def train(variant: str, minutes: float, out: pathlib.Path) -> dict[str, float]:
    """One variant; returns its metrics with the number of steps and samples it had time for."""
    setup, sharding, loop = (importlib.import_module(f"generalist.training.{name}") for name in ("setup", "sharding", "loop"))
    config = conditioning.get_config(variant)
    pace = seconds_a_step(config, setup.prepare(config, lambda line: None), setup, sharding)
    config.total_steps = int(60 * minutes / pace)
    print(f"{variant}: {pace:.2f} s a step, {config.total_steps} steps", flush=True)
    metrics = loop.train_and_evaluate(config, out / variant)
    return {**metrics, "steps": config.total_steps, "samples": config.total_steps * config.batch_size}


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown, the trivial predictor first; ratios in percent."""
    shown = lambda name, x: "-" if x is None else f"{100 * x:.1f} %" if name.endswith(("miou", "pq")) else f"{x:.2f}"
    rows = ["| conditioning | steps | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 2) + "|"]
    first = next(iter(results.values()))
    rows.append("| trivial | - | " + " | ".join(shown(f, first[f"trivial/{f}"]) for f in FIGURES) + " |")
    rows += [f"| {name} | {m['steps']} | " + " | ".join(shown(f, m[f]) for f in FIGURES) + " |" for name, m in results.items()]
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="training time of each variant")
    parser.add_argument("--variants", nargs="+", default=list(conditioning.VARIANTS), choices=list(conditioning.VARIANTS))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/conditioning"))
    args = parser.parse_args()
    launch.use_all_cores(os.cpu_count(), conditioning.get_config().batch_size)
    args.out.mkdir(parents=True, exist_ok=True)
    results = {variant: train(variant, args.minutes, args.out) for variant in args.variants}
    (args.out / "table.json").write_text(json.dumps(results, indent=1))
    (args.out / "table.md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
