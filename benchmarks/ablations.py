"""The paper's ablations on the built-in scenes.

    PYTHONPATH=. python benchmarks/ablations.py --steps 100 --out runs/ablations

Each variant of each study in configs/ablations trains from the same seed on the same batches, for
the same number of steps, and is evaluated on the same held-out scenes. With --minutes it trains for
the same time: a short run gives the pace, and the number of steps, on which the learning-rate
schedule depends, follows from it. Prints one table a study and writes it, with the logs it comes
from, to the output folder. A variant whose metrics are there already is not run again.
"""

import argparse
import importlib
import json
import os
import pathlib
import tempfile
import time

from generalist.console import show_log
from generalist.training import host

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
PACE_STEPS = 20  # of the short run; the pace is that of its last half


def steps_in(minutes: float, config) -> int:
    """Returns how many steps of `config` take so long, by a short run of it."""
    from generalist.training.loop import train_and_evaluate

    config = config.copy_and_resolve_references()
    config.total_steps = PACE_STEPS
    config.log.every_steps = PACE_STEPS // 2
    config.eval.final_examples = 1
    config.eval.panels = 0
    with tempfile.TemporaryDirectory() as folder:
        train_and_evaluate(config, folder)
        lines = pathlib.Path(folder, "metrics.jsonl").read_text(encoding="utf-8").splitlines()

    rates = [json.loads(line).get("images_per_second") for line in lines]
    last = [rate for rate in rates if rate is not None][-1]
    return int(60 * minutes * last / config.batch_size)


def train(config, args, out: pathlib.Path) -> dict[str, float]:
    """Trains and evaluates one variant; returns its metrics with the number of steps."""
    # JAX is imported here: `main` must have split the CPU before.
    from generalist.training.loop import train_and_evaluate

    config.eval.final_examples = args.examples
    config.total_steps = steps_in(args.minutes, config) if args.minutes else args.steps
    return train_and_evaluate(config, out) | {"steps": config.total_steps}


def cell(figure: str, value: float | None) -> str:
    """Returns a figure as text; ratios in percent."""
    if value is None:
        return "-"
    if figure.endswith(("miou", "pq")):
        return f"{100 * value:.1f} %"
    return f"{value:.2f}"


def row(name: str, steps: int | str, metrics: dict[str, float], prefix: str = "") -> str:
    """Returns a line of the table."""
    cells = [cell(figure, metrics[prefix + figure]) for figure in FIGURES]
    return f"| {name} | {steps} | " + " | ".join(cells) + " |"


def table(results: dict[str, dict[str, float]]) -> str:
    """Returns a study's table in Markdown.

    The trivial predictor is its first row where all variants are scored alike.
    """
    rows = [
        "| variant | steps | " + " | ".join(FIGURES) + " |",
        "|---|---" + "|---:" * len(FIGURES) + "|",
    ]
    trivial = {row("trivial", "-", metrics, "trivial/") for metrics in results.values()}
    if len(trivial) == 1:
        rows += trivial
    for name, metrics in results.items():
        rows.append(row(name, metrics["steps"], metrics))
    return "\n".join(rows)


def main() -> None:
    """Runs what is not there yet and prints the tables."""
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

    show_log()
    host.use_all_cores(os.cpu_count(), 16)
    todo = []
    for study in args.studies:
        module = importlib.import_module(f"generalist.configs.ablations.{study}")
        todo += [(study, variant, module) for variant in module.VARIANTS]

    tables: dict[str, dict] = {study: {} for study in args.studies}
    began = time.monotonic()
    done = 0
    for number, (study, variant, module) in enumerate(todo, 1):
        out = args.out / study / variant
        if not (out / RESULT).is_file():
            print(f"--- {study}: {variant} ({number} of {len(todo)})", flush=True)
            result = train(module.get_config(variant), args, out)
            (out / RESULT).write_text(json.dumps(result, indent=1), encoding="utf-8")

            done += 1
            left = len(todo) - number
            minutes = (time.monotonic() - began) / done * left / 60
            print(f"--- {left} left, about {minutes:.0f} min", flush=True)
        tables[study][variant] = json.loads((out / RESULT).read_text(encoding="utf-8"))

    sections = [f"### {study}\n\n{table(results)}" for study, results in tables.items()]
    text = "\n\n".join(sections)
    (args.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
