"""The command `generalist report`."""

import argparse

HELP = "Write report.html of an evaluated workdir."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the workdir."""
    parser.add_argument("workdir", metavar="WORKDIR")


def run(args: argparse.Namespace) -> int:
    """Writes the report and prints where it is."""
    from generalist.evaluation import write_report

    print(write_report(args.workdir))
    return 0
