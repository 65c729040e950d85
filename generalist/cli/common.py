"""What several commands share."""

import argparse

DEFAULT_WORKDIR = "runs/multitask"  # where `python main.py --config=configs/multitask.py` trains


def add_source(parser: argparse.ArgumentParser, help: str) -> None:
    """Adds --from, whose value is `args.source`: `from` is a keyword of Python."""
    parser.add_argument("--from", dest="source", metavar="DIR", help=help)


def one_line(error: Exception) -> str:
    """Returns the message of an error without line breaks."""
    return " ".join(str(error).split())
