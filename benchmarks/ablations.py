"""The paper's ablations on the scenes: python benchmarks/ablations.py --steps 100 --out runs/ablations

Each variant of each study in configs/ablations trains from the same seed on the same batches, for the same number of steps (or
with --minutes for the same time: the step is timed first, and the number of steps, on which the learning-rate schedule depends,
follows from it), then is evaluated on the same held-out scenes. Prints one table a study and writes it, with the logs it comes
from, to the output folder. A variant whose metrics are there already is not run again.
"""

import argparse
import importlib
import json
import os
import pathlib
import time

import jax

from generalist.training import launch

STUDIES = ("conditioning", "initialization", "image_encoder", "resolution", "latent_vs_pixel")
FIGURES = (
    "depth/rmse",
    "semantic/miou",
    "panoptic/pq",
    "denoise/psnr",
    "derain/psnr",
    "light/psnr",
)
RESULT = "result.json"


def seconds_a_step(config, run, setup, sharding) -> float:
    """Median of five steps after two to warm up, on real batches."""
    (batches, _), state = setup.batches(config, run, 0), run.state
    step, times = setup.compile_step(run, state, config, lambda line: None), []
    for _ in range(7):
        batch = sharding.to_global(next(batches), run.batch_sharding, run.rows, config.batch_size)
        began = time.monotonic()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        times.append(time.monotonic() - began)
    return sorted(times[2:])[2]


def train(config, args, out: pathlib.Path) -> dict[str, float]:
    """One variant; returns its metrics with the number of steps."""
    setup, sharding, loop = (
        importlib.import_module(f"generalist.training.{name}")
        for name in ("setup", "sharding", "loop")
    )
    config.total_steps, config.eval.final_examples = args.steps, args.examples
    if args.minutes:
        resolved, parts = setup.resolve(config)
        pace = seconds_a_step(
            resolved, setup.prepare(resolved, lambda line: None, parts), setup, sharding
        )
        config.total_steps = int(60 * args.minutes / pace)
    return loop.train_and_evaluate(config, out) | {"steps": config.total_steps}


def table(results: dict[str, dict[str, float]]) -> str:
    """Markdown, the trivial predictor first where all variants are scored alike; ratios in percent."""
    shown = lambda name, x: (
        "-" if x is None else f"{100 * x:.1f} %" if name.endswith(("miou", "pq")) else f"{x:.2f}"
    )
    row = lambda first, steps, m, prefix="": (
        f"| {first} | {steps} | " + " | ".join(shown(f, m[prefix + f]) for f in FIGURES) + " |"
    )
    rows = [
        "| variant | steps | " + " | ".join(FIGURES) + " |",
        "|---" * 2 + "|---:" * len(FIGURES) + "|",
    ]
    trivial = {row("trivial", "-", m, "trivial/") for m in results.values()}
    rows += trivial if len(trivial) == 1 else ()
    return "\n".join(rows + [row(name, m["steps"], m) for name, m in results.items()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--steps", type=int, default=100, help="of each variant, 16 images each")
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="training time of each variant, instead of --steps",
    )
    parser.add_argument("--examples", type=int, default=100, help="held-out scenes a task")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/ablations"))
    args = parser.parse_args()
    studies = {
        study: importlib.import_module(f"generalist.configs.ablations.{study}")
        for study in args.studies
    }
    todo = [(study, variant) for study, module in studies.items() for variant in module.VARIANTS]
    launch.use_all_cores(os.cpu_count(), 16)
    tables, began, done = {study: {} for study in studies}, time.monotonic(), 0
    for i, (study, variant) in enumerate(todo):
        out = args.out / study / variant
        if not (out / RESULT).is_file():
            print(f"--- {study}: {variant} ({i + 1} of {len(todo)})", flush=True)
            result = train(studies[study].get_config(variant), args, out)
            (out / RESULT).write_text(json.dumps(result, indent=1))
            done += 1
            print(
                f"--- {len(todo) - i - 1} left, about {(time.monotonic() - began) / done * (len(todo) - i - 1) / 60:.0f} min",
                flush=True,
            )
        tables[study][variant] = json.loads((out / RESULT).read_text())
    text = "\n\n".join(f"### {study}\n\n{table(results)}" for study, results in tables.items())
    (args.out / "tables.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
