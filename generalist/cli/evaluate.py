"""The command `generalist evaluate`."""

import argparse
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from generalist.cli.common import DEFAULT_WORKDIR, add_source

HELP = (
    "Measure a model on held-out data, by the official metrics. The same command continues an "
    "interrupted run."
)
EXAMPLES = """examples:
  generalist evaluate --from runs/multitask --limit 100
  generalist evaluate --from runs/multitask --task derain --data-dir /data \\
      --split test/Rain100H --native --submission
  generalist evaluate --from runs/multitask --steps 8 --samples 8

The folder gets metrics.json, card.md and card.json, per_image.csv and panels/, and with
--submission the predictions: panoptic in COCO's form, semantic as 8-bit class + 1 (ADE20K), depth
as 16-bit millimeters, restored images as PNG.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_source(parser, f"a workdir or model folder, or 'scenes' (default: {DEFAULT_WORKDIR})")
    parser.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="TASK",
        help="depth, semantic, ... (default: all that model and data have)",
    )

    # On which examples.
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="official data sets to measure on (default: the data it was trained on; "
        "GENERALIST_DATA_DIR says where they are now, if they have moved)",
    )
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="val, test, train, held_out, or one of a data set's own, such as test/Rain100H "
        "(default: val)",
    )
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="examples a task (default: 0, all)"
    )

    # How the model samples, and what is written.
    parser.add_argument(
        "--steps",
        type=int,
        metavar="N",
        help="denoising steps (default: as the model's config says); more than one of a model that "
        "answers in one are of DDIM",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="samples of each image that are combined, as predict does (default: as the model's "
        "config says)",
    )
    parser.add_argument(
        "--sampler",
        metavar="NAME",
        help="one_step, ddim or dpmpp_2m (default: as the model's config says)",
    )
    parser.add_argument(
        "--native",
        action=argparse.BooleanOptionalAction,
        help="measure restoration in tiles at native resolution, as predict works, and beside it "
        "on the whole image, or there alone (default: native but for the built-in scenes)",
    )
    parser.add_argument(
        "--submission",
        action="store_true",
        help="write the predictions in the benchmarks' formats, into submission/",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder of the results (default: eval/<step> of the model's folder, with the choices "
        "above in its name)",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates a model by its own config, on its own data or on those of --data-dir."""
    from generalist.pretrained.weights import SHIPPED, folder_of, load_weights, read_step

    source = args.source or DEFAULT_WORKDIR
    if source in SHIPPED and not args.out:
        raise ValueError(
            f"--from {source}: figures are written into the folder they belong to; "
            "say where else by --out"
        )
    if args.limit < 0:
        raise ValueError(f"--limit {args.limit}: examples are at least 0")

    from ml_collections import ConfigDict

    from generalist.evaluation.workdir import evaluate_workdir, sampled_otherwise

    # The model's config, with what is chosen here.
    config = ConfigDict(load_weights(source)[0])
    own = config.diffusion.to_dict()
    config.diffusion.update(_sampling(args, own["sampler"]))
    config.data_dir = args.data_dir or os.environ.get("GENERALIST_DATA_DIR", config.data_dir)
    if args.data_dir and config.data.source == "scenes":
        config.data.source = "paper"
    config.eval.final_split = args.split or config.eval.final_split

    # Of other data than its own the model may have only some tasks.
    all_tasks = [] if args.data_dir else None
    folder = folder_of(source)
    if args.out:
        out = pathlib.Path(args.out)
    else:
        words = sampled_otherwise(own, config.diffusion)
        out = folder / "eval" / _folder_name(args, read_step(source), words)

    evaluate_workdir(
        config,
        folder,
        args.limit,
        names=args.task or all_tasks,
        out_dir=out,
        native=args.native,
        submission=args.submission,
    )
    print(f"metrics.json, card.md, per_image.csv and panels in {out}")
    return 0


def _sampling(args: argparse.Namespace, own_sampler: str) -> dict[str, Any]:
    """Returns the fields of `diffusion` that are chosen here."""
    chosen = {"steps": args.steps, "samples": args.samples, "sampler": args.sampler}
    if own_sampler == "one_step" and (args.steps or 1) > 1 and not args.sampler:
        chosen["sampler"] = "ddim"  # as `predict` does
    return {field: value for field, value in chosen.items() if value is not None}


def _folder_name(args: argparse.Namespace, step: str, sampling: Sequence[str]) -> str:
    """Returns the step and what differs from the model's own evaluation: "1500_data_test"."""
    choices = [step, "+".join(args.task)]
    if args.data_dir:
        choices.append(pathlib.Path(args.data_dir).resolve().name)
    if args.split:
        choices.append(args.split.replace("/", "-"))
    return "_".join(choice for choice in [*choices, *sampling] if choice)
