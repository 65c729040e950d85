"""The command `generalist pack`."""

import argparse
import pathlib

import generalist
from generalist.cli.common import DEFAULT_WORKDIR, add_source

HELP = "Copy what is needed to use a model into a folder of its own, at half the size."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options."""
    add_source(parser, f"a workdir (default: {DEFAULT_WORKDIR})")
    parser.add_argument("--out", required=True, metavar="DIR", help="the new folder")


def run(args: argparse.Namespace) -> int:
    """Writes config.json and float16 weights; predictions change by what that rounding does."""
    import numpy as np

    from generalist.files import write_atomically
    from generalist.pretrained.tokenizer import FOLDER, copy_tokenizer
    from generalist.pretrained.weights import (
        CONFIG,
        folder_of,
        read_metadata,
        save_weights,
    )

    source = folder_of(args.source or DEFAULT_WORKDIR)
    out = pathlib.Path(args.out)
    # Loading says so where the folder is none of this program's.
    values = generalist.load(source).parameters
    save_weights(out, values, read_metadata(source), np.float16)
    write_atomically(out / CONFIG, (source / CONFIG).read_bytes())

    # Captions are read by a published tokenizer's own files.
    if (source / FOLDER).is_dir():
        copy_tokenizer(source / FOLDER, out)

    size = sum(file.stat().st_size for file in out.rglob("*"))
    print(f"{source} -> {out}: {size / 1e6:.1f} MB")
    return 0
