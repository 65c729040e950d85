"""The command `generalist data`: check the paper's data sets or your own, prepare them."""

import argparse
import os
import pathlib
import re
from collections.abc import Mapping


def add_arguments(sub: argparse.ArgumentParser) -> None:
    """The options of both actions."""
    actions = sub.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="read the data sets and name what is missing, damaged, out of range or in two splits",
        description="Reads your own data with --config, else the paper's data sets. The exit code is 0; 1 if something is "
        "wrong with data that are there; 3 if they are well but fewer than usual, or a data set that was "
        "named, or a folder of own data, is missing; 2 if nothing could start.",
    )
    check.add_argument(
        "datasets",
        nargs="*",
        metavar="DATASET",
        help="nyu, ade20k, coco, sidd, rain13k, lol; with --config tasks of it (default: all)",
    )
    _add_data_dir(check)
    check.add_argument(
        "--config",
        metavar="FILE",
        help="check own data, folders of images and labels: the config file that main.py takes, "
        "my_config.py or my_config.py:argument",
    )
    check.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="examples a split, evenly spread (default: 0, all)",
    )
    check.add_argument(
        "--out",
        metavar="DIR",
        help="gets a picture <data set or task>.png of some images and labels of each",
    )
    prepare = actions.add_parser(
        "prepare",
        help="write a data set as ArrayRecord shards, which TFDS reads too; run it again to go on",
    )
    prepare.add_argument(
        "dataset", metavar="DATASET", help="nyu, ade20k, coco, sidd, rain13k or lol"
    )
    _add_data_dir(prepare)
    prepare.add_argument(
        "--split",
        metavar="S",
        help="train, val or test, or nyu's labeled (default: the training and the evaluation split)",
    )
    prepare.add_argument(
        "--out", required=True, metavar="DIR", help="the new data directory, a path or gs://..."
    )
    prepare.add_argument(
        "--shards",
        metavar="A:B",
        help="of the split only the shards A to B - 1, so that machines share the work",
    )
    prepare.add_argument(
        "--workers",
        type=int,
        default=8,
        metavar="N",
        help="threads, with --beam of each of its workers (default: %(default)s)",
    )
    prepare.add_argument(
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
        help="where the data sets lie, a path or gs://... (default: GENERALIST_DATA_DIR)",
    )


def data(args: argparse.Namespace) -> int:
    """Checks or prepares the data sets."""
    return (_prepare_data if args.action == "prepare" else _check_data)(args)


def _prepare_data(args: argparse.Namespace) -> int:
    from generalist.input_pipeline.prepare import open_original, prepare
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
    splits = [args.split] if args.split else ["train", reader_of(args.dataset).EVAL_SPLIT]
    sources = [
        open_original(args.dataset, split, args.data_dir) for split in splits
    ]  # what is missing is said before the work begins
    if args.beam is not None:
        from generalist.input_pipeline.prepare_on_beam import prepare_on_beam
    for source in sources:
        if args.beam is None:
            prepare(source, args.out, shards, args.workers)
        else:
            prepare_on_beam(source, args.data_dir, args.out, args.beam, args.workers)
    return 0


def _check_data(args: argparse.Namespace) -> int:
    """The exit code is 1 if something is wrong with the data that are there, else 3 if some of what was asked for are not."""
    from generalist.input_pipeline.check import check, check_own, format_report
    from generalist.input_pipeline.sources import describe_missing

    if args.limit < 0:
        raise ValueError(f"--limit {args.limit}: a number of at least 0")
    if args.config:
        own, data_dir = _own_data(args.config)
        data_dir = args.data_dir or data_dir
        found = check_own(data_dir, own, args.datasets, args.limit)
    else:
        own, data_dir = {}, args.data_dir
        found = check(data_dir, args.datasets, args.limit)
    if not found.splits:
        print(describe_missing(found.absent, data_dir))
        raise ValueError(
            f"no data set in {data_dir or 'GENERALIST_DATA_DIR, which is not set'}: give --data-dir"
        )
    print(format_report(found))
    if args.out:
        _draw_data(found.splits, data_dir, pathlib.Path(args.out), own)
    if found.problems:
        return 1
    return 3 if found.incomplete or (args.datasets and found.absent) else 0


def _own_data(given: str) -> tuple[dict[str, Mapping], str]:
    """A config -> definitions of the tasks that it trains, its data directory."""
    from generalist.training.flags import read_config

    config = read_config(given)
    if config.data.source != "folder":
        raise ValueError(
            f"--config {given}: it trains on data.source {config.data.source!r}, not on folders of your own; "
            "without --config the paper's data sets are checked"
        )
    return {
        name: config.tasks.set[name] for name, weight in config.tasks.weights.items() if weight > 0
    }, config.data_dir


def _draw_data(splits, data_dir: str, out: pathlib.Path, own: Mapping[str, Mapping]) -> None:
    """One picture a data set, of the last split that has readable examples."""
    import numpy as np

    from generalist.evaluation.data_panels import dataset_panel
    from generalist.files import write_atomically
    from generalist.inference.prediction import png

    for name, split in {split.dataset: split.split for split in splits if split.read}.items():
        picture = out / f"{name}.png"
        write_atomically(
            picture, png(np.asarray(dataset_panel(name, split, data_dir, own.get(name))))
        )
        print(picture)
