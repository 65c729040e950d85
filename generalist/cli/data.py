"""The command `generalist data`: check the paper's data sets or your own, prepare them."""

import argparse
import os
import pathlib
import re
from collections.abc import Mapping

HELP = "The data sets, and your own data: check what is there, prepare it as ArrayRecord files."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of both actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_check(
        actions.add_parser(
            "check",
            help="read the data sets and name what is missing, damaged, out of range or in two "
            "splits",
            description="Reads your own data with --config, else the paper's data sets. The exit "
            "code is 0; 1 if something is wrong with data that are there; 3 if nothing is wrong "
            "but there are fewer than usual, or a data set that was named, or a folder of own "
            "data, is missing; 2 if nothing could start.",
        )
    )

    _add_prepare(
        actions.add_parser(
            "prepare",
            help="write a data set as ArrayRecord shards, which TFDS reads too; run it again to "
            "continue",
        )
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "datasets",
        nargs="*",
        metavar="DATASET",
        help="nyu, ade20k, coco, sidd, rain13k, lol; with --config tasks of it (default: all)",
    )

    # Which data: the paper's data sets, or with a config your own.
    _add_data_dir(parser)
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="check own data, folders of images and labels: the config file that main.py takes, "
        "my_config.py or my_config.py:argument",
    )
    parser.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="examples a split, evenly spread (default: 0, all)",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="gets a picture <data set or task>.png of some images and labels of each",
    )


def _add_prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "dataset", metavar="DATASET", help="nyu, ade20k, coco, sidd, rain13k or lol"
    )

    # What is read, and where the shards go.
    _add_data_dir(parser)
    parser.add_argument(
        "--split",
        metavar="S",
        help="train, val or test, or nyu's labeled (default: the training and the evaluation "
        "split)",
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the new data directory, a path or gs://..."
    )

    parser.add_argument(
        "--skip-damaged",
        action="store_true",
        help="read everything first, name damaged examples and leave them out (default: stop at "
        "the first)",
    )

    # How the work is shared: among machines, threads or Beam's workers.
    parser.add_argument(
        "--shards",
        metavar="A:B",
        help="of the split only the shards A to B - 1, so that machines share the work",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=8,
        metavar="N",
        help="threads, with --beam of each of its workers (default: %(default)s)",
    )
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="write the shards by an Apache Beam pipeline with these options, in one string: "
        "--beam='--runner=DataflowRunner --region=...'",
    )


def _add_data_dir(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir",
        default=os.environ.get("GENERALIST_DATA_DIR", ""),
        metavar="DIR",
        help="where the data sets are, a path or gs://... (default: GENERALIST_DATA_DIR)",
    )


def run(args: argparse.Namespace) -> int:
    """Checks or prepares the data sets."""
    return _prepare(args) if args.action == "prepare" else _check(args)


def _prepare(args: argparse.Namespace) -> int:
    from generalist.input_pipeline.prepare import find_damaged, open_original, prepare
    from generalist.input_pipeline.sources import reader_of

    if args.workers < 1:
        raise ValueError(f"--workers {args.workers}: at least 1")
    if args.shards and not (args.split and re.fullmatch(r"\d+:\d+", args.shards)):
        raise ValueError(f"--shards {args.shards}: give --split, and two numbers such as 0:8")
    if args.shards and args.beam is not None:
        raise ValueError(
            "--shards and --beam: give one of them, Beam shares the shards among its workers"
        )
    shards = tuple(map(int, args.shards.split(":"))) if args.shards else None

    # All splits are opened first: what is missing stops the command before the work begins.
    splits = [args.split] if args.split else ["train", reader_of(args.dataset).EVAL_SPLIT]
    on_error = "skip" if args.skip_damaged else "raise"
    sources = [open_original(args.dataset, split, args.data_dir, on_error) for split in splits]

    for source in sources:
        damaged = find_damaged(source, args.workers) if args.skip_damaged else None
        if damaged:
            source.leave_out(damaged)
        if args.beam is None:
            prepare(source, args.out, shards, args.workers)
        else:
            from generalist.input_pipeline.prepare_on_beam import prepare_on_beam

            prepare_on_beam(source, args.data_dir, args.out, args.beam, args.workers, damaged)
    return 0


def _check(args: argparse.Namespace) -> int:
    """Returns 1 if something is wrong with data that are there, 3 if something is not there."""
    from generalist.input_pipeline.check import check, check_own, format_report
    from generalist.input_pipeline.sources import describe_missing

    if args.limit < 0:
        raise ValueError(f"--limit {args.limit}: a number of at least 0")

    if args.config:
        own, data_dir = _read_own_data(args.config)
        data_dir = args.data_dir or data_dir
        found = check_own(data_dir, own, args.datasets, args.limit)
    else:
        own = {}
        data_dir = args.data_dir
        found = check(data_dir, args.datasets, args.limit)

    if not found.splits:
        print(describe_missing(found.absent, data_dir))
        raise ValueError(
            f"no data set in {data_dir or 'GENERALIST_DATA_DIR, which is not set'}: give --data-dir"
        )
    print(format_report(found))
    if args.out:
        _draw(found.splits, data_dir, pathlib.Path(args.out), own)

    # Where both are the case, what is wrong comes before what is missing.
    if found.problems:
        return 1
    return 3 if found.incomplete or (args.datasets and found.absent) else 0


def _read_own_data(file: str) -> tuple[dict[str, Mapping], str]:
    """Returns the definitions of the tasks that a config trains, and its data directory."""
    from generalist.training.flags import read_config

    config = read_config(file)
    if config.data.source != "folder":
        raise ValueError(
            f"--config {file}: it trains on data.source {config.data.source!r}, not on folders of "
            "your own; without --config the paper's data sets are checked"
        )
    trained = [name for name, weight in config.tasks.weights.items() if weight > 0]
    return {name: config.tasks.set[name] for name in trained}, config.data_dir


def _draw(splits, data_dir: str, out: pathlib.Path, own: Mapping[str, Mapping]) -> None:
    """Draws a picture a data set, of its last split that has readable examples."""
    import numpy as np

    from generalist.evaluation.data_panels import dataset_panel
    from generalist.files import write_atomically
    from generalist.pictures import encode_png

    last_split = {split.dataset: split.split for split in splits if split.read}
    for name, split in last_split.items():
        panel = np.asarray(dataset_panel(name, split, data_dir, own.get(name)))
        picture = out / f"{name}.png"
        write_atomically(picture, encode_png(panel))
        print(picture)
