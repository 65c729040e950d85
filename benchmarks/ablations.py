"""The studies of configs/ablations on the built-in scenes: every variant, several seeds, a table.

    PYTHONPATH=. python benchmarks/ablations.py --out results/ablations

Each variant trains from the same seeds, at a constant rate, and its averaged weights are measured
after one third, two thirds and all of the steps on the same held-out scenes: so one training gives
three lengths. The model is the small one at half its widths (`ablations.thin`), and all have the
text encoder of the scenes' text-to-image model. For the study of initialization that model, with
true and with shuffled captions, is trained first.

Seed by seed; the same command goes on where it was stopped, also in the middle of a training. What
two studies have in common is trained once. OUT/<study>/<variant>/<seed>.json has the figures,
OUT/<study>/table.md their means and, in brackets, the lowest and the highest of the seeds; "sampled
in 4 x 8" is in four denoising steps, eight samples combined. The folders of the runs, which are
large, are below --work.
"""

import argparse
import hashlib
import importlib
import json
import os
import pathlib
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import text_encoder
from ml_collections import ConfigDict

from generalist.configs import common
from generalist.configs.ablations import thin
from generalist.console import show_log
from generalist.evaluation.record import METRICS
from generalist.evaluation.workdir import evaluate_workdir
from generalist.files import read_json, write_atomically
from generalist.pretrained.export import export_model
from generalist.training import host
from generalist.training.loop import train_and_evaluate
from generalist.training.workdir import flatten

# In the order in which they are run.
STUDIES = (
    "initialization",
    "diffusion",
    "latent_vs_pixel",
    "conditioning",
    "image_encoder",
    "resolution",
    "objective",
)
FIGURES = (
    "depth/rmse",
    "semantic/miou",
    "semantic/boundary_f",
    "instance/pq",
    "panoptic/pq",
    "denoise/psnr",
    "derain/psnr",
    "light/psnr",
)
RATIOS = ("miou", "boundary_f", "pq", "ause")  # shown in percent
LENGTHS = 3  # of one training

# The text-to-image models that initialization starts from, by the captions that they learn.
PRIORS = {"prior": "own", "shuffled": "others"}
PRIOR_BATCH = 32


class Training(NamedTuple):
    """One variant of a study with one seed."""

    study: str
    variant: str
    seed: int
    config: ConfigDict

    def results(self, out: pathlib.Path) -> pathlib.Path:
        """Returns the file of its figures."""
        return out / self.study / self.variant / f"{self.seed}.json"

    def workdir(self, work: pathlib.Path) -> pathlib.Path:
        """Returns the folder of its run, named by the config: equal runs are one."""
        text = json.dumps(self.config.to_dict(), sort_keys=True)
        return work / "runs" / hashlib.sha256(text.encode()).hexdigest()[:12]


def module_of(study: str) -> Any:
    """Returns the config file of a study."""
    return importlib.import_module(f"generalist.configs.ablations.{study}")


def trainings(args: argparse.Namespace) -> list[Training]:
    """Returns all that is asked for, the first seed of every variant first."""
    found = []
    for seed in args.seeds:
        for study in args.studies:
            for variant in module_of(study).VARIANTS:
                config = configure(module_of(study).get_config(variant), seed, args)
                if study == "initialization" and variant in PRIORS:
                    config.model.init_from += f",unet={args.work / variant / 'unet'}"
                found.append(Training(study, variant, seed, config))
    return found


def configure(c: ConfigDict, seed: int, args: argparse.Namespace) -> ConfigDict:
    """Turns a variant of the small recipe into one that a study can afford."""
    c = thin(c)
    c.seed = seed
    c.data.scenes_seed = 0  # the same held-out scenes for all
    c.batch_size = 8
    c.total_steps = args.steps
    c.optimizer.schedule = "constant"  # so that every length is one that could have been the last

    # The text encoder of the text-to-image models, and its words, all have.
    parts = [c.model.init_from, f"text_encoder={args.work / 'text'}"]
    c.model.init_from = ",".join(filter(None, parts))

    # Each length is measured as the last one is.
    c.eval.every_steps = args.steps // LENGTHS
    c.eval.split = c.eval.final_split
    c.eval.examples = args.examples
    c.eval.final_examples = args.examples
    c.eval.panels = 0
    return c


def prepare(args: argparse.Namespace) -> None:
    """Makes what the trainings start from, as far as it is not there: text encoder and priors."""
    if not (args.work / "text/text_encoder/config.json").is_file():
        text_encoder.write(args.work / "text")
    for name, captions in PRIORS.items():
        folder = args.work / name
        if "initialization" not in args.studies or (folder / "unet/config.json").is_file():
            continue
        print(f"--- the text-to-image model {name}", flush=True)
        train_and_evaluate(prior(captions, args), folder / "run")
        export_model(folder / "run", folder, ["unet"])


def prior(captions: str, args: argparse.Namespace) -> ConfigDict:
    """Returns the text-to-image model that a study's generalist can start from."""
    c = thin(common.text_to_image())
    c.data.scenes_captions = captions
    c.batch_size = PRIOR_BATCH
    c.total_steps = args.prior_steps
    c.model.init_from = f"text_encoder={args.work / 'text'}"
    c.eval.final_examples = 32
    return c


def train(training: Training, args: argparse.Namespace) -> dict[str, Any]:
    """Trains one variant with one seed, as far as it is not there; returns its results."""
    config = training.config
    workdir = training.workdir(args.work)
    evaluations = workdir / "eval"
    last = evaluations / str(config.total_steps)
    if not (last / METRICS).is_file():
        train_and_evaluate(config, workdir)

    # By steps of training, and at the end also by the ways to sample.
    folders = {str(step): evaluations / str(step) for step in lengths(config)}
    for steps, samples in getattr(module_of(training.study), "SAMPLINGS", ()):
        if samples > 1 and config.diffusion.x_init == "zeros":
            continue
        folder = last
        if (steps, samples) != (config.diffusion.steps, config.diffusion.samples):
            folder = last.with_name(f"{last.name}_{steps}steps_{samples}samples")
        if not (folder / METRICS).is_file():
            other = config.copy_and_resolve_references()
            other.diffusion.update({"sampler": "ddim", "steps": steps, "samples": samples})
            evaluate_workdir(other, workdir, args.examples, out_dir=folder)
        folders[f"{config.total_steps}, sampled in {steps} x {samples}"] = folder
    metrics = {label: read_json(folder / METRICS) for label, folder in folders.items()}

    # Of the figures those of the model; those of a class, or of what stands beside, have prefixes.
    figures = {}
    for label, measured in metrics.items():
        figures[label] = {name: measured[name] for name in measured if name.count("/") == 1}
    run = read_json(workdir / "run.json")
    del run["command"]
    return {
        "changed": changes(config, args),
        "run": run,
        "images_per_second": images_per_second(workdir),
        "trivial": {figure: metrics[last.name][f"trivial/{figure}"] for figure in FIGURES},
        "figures": figures,
    }


def lengths(config: ConfigDict) -> list[int]:
    """Returns the steps after which a training is measured."""
    every = config.eval.every_steps
    return [*range(every, config.total_steps, every), config.total_steps]


def changes(config: ConfigDict, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields that differ from the study's base: what it changed, and the seed."""
    base = flatten(configure(common.get_config("scenes,scratch"), 0, args).to_dict())
    own = flatten(config.to_dict())
    return {field: own[field] for field in own if own[field] != base.get(field)}


def images_per_second(workdir: pathlib.Path) -> float:
    """Returns the median over what the training logged."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [json.loads(line).get("images_per_second") for line in lines]
    return statistics.median(rate for rate in rates if rate is not None)


def cell(figure: str, values: Sequence[float | None]) -> str:
    """Returns a figure of several seeds as text: the mean, and in brackets the range."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "-"
    is_ratio = figure.endswith(RATIOS)
    mean, lowest, highest = (
        f"{100 * value:.1f}" if is_ratio else f"{value:.2f}"
        for value in (statistics.fmean(known), min(known), max(known))
    )
    unit = " %" if is_ratio else ""
    return f"{mean}{unit} ({lowest}..{highest})" if len(known) > 1 else f"{mean}{unit}"


def table(study: str, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a study's table in Markdown.

    The trivial predictor is its first row where all variants are scored alike.

    Args:
      study: its name.
      results: {variant: content of its files, one a seed}.
    """
    names = [*FIGURES, *getattr(module_of(study), "FURTHER_FIGURES", ())]

    def row(*words: str, seeds: Sequence[Mapping[str, float | None]]) -> str:
        cells = [cell(name, [figures.get(name) for figures in seeds]) for name in names]
        return f"| {' | '.join([*words, *cells])} |"

    head = ["variant", "steps", "seeds", *names]
    rows = [f"| {' | '.join(head)} |", "|---|---|---:" + "|---:" * len(names) + "|"]
    trivial = [result["trivial"] for variant in results.values() for result in variant]
    if all(each == trivial[0] for each in trivial):
        rows.append(row("trivial", "-", "-", seeds=trivial[:1]))

    for name, variant in results.items():
        for label in variant[0]["figures"]:
            figures = [result["figures"][label] for result in variant]
            rows.append(row(name, label, str(len(figures)), seeds=figures))
    return "\n".join(rows)


def read_results(study: str, out: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Returns the results of a study that are there, by variant, in the order of the seeds."""
    found = {}
    for variant in module_of(study).VARIANTS:
        files = sorted((out / study / variant).glob("*.json"), key=lambda file: int(file.stem))
        if files:
            found[variant] = [read_json(file) for file in files]
    return found


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a file of results."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", nargs="+", default=list(STUDIES), choices=STUDIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1500, help="of each training, 8 images each")
    parser.add_argument("--prior-steps", type=int, default=4000, help=f"{PRIOR_BATCH} images each")
    parser.add_argument("--examples", type=int, default=100, help="held-out scenes a task")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/ablations/results"))
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("runs/ablations"))
    args = parser.parse_args(argv)
    if args.steps < LENGTHS or args.steps % LENGTHS:
        parser.error(f"--steps {args.steps}: give a multiple of {LENGTHS}, its lengths are thirds")
    return args


def check_base(args: argparse.Namespace) -> None:
    """Keeps the config that all variants start from, or ends where results have another."""
    base = json.loads(configure(common.get_config("scenes,scratch"), 0, args).to_json())
    file = args.out / "config.json"
    if file.is_file() and read_json(file) != base:
        raise SystemExit(
            f"{file} is of other steps, examples, folders or code: give the options of these "
            "results, or another --out"
        )
    write_json(file, base)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs what is not there yet, and writes the tables after each training."""
    args = parse(argv)
    show_log()
    host.use_all_cores(os.cpu_count() or 1, 8)
    check_base(args)
    todo = [each for each in trainings(args) if not each.results(args.out).is_file()]
    if todo:
        prepare(args)

    began = time.monotonic()
    for number, training in enumerate(todo, 1):
        name = f"{training.study}, {training.variant}, seed {training.seed}"
        print(f"--- {name} ({number} of {len(todo)})", flush=True)
        write_json(training.results(args.out), train(training, args))

        results = read_results(training.study, args.out)
        text = table(training.study, results) + "\n"
        write_atomically(args.out / training.study / "table.md", text.encode())
        minutes = (time.monotonic() - began) / number * (len(todo) - number) / 60
        print(f"{text}--- {len(todo) - number} left, about {minutes:.0f} min", flush=True)


if __name__ == "__main__":
    main()
