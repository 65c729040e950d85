"""The commands and their options, and what happens to an error."""

import argparse
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import generalist
from generalist.cli import ceiling, data, doctor, evaluate, pack, predict, report, weights
from generalist.cli.common import one_line
from generalist.console import show_log
from generalist.names import one_of

# Each module has HELP, add_arguments(parser) and run(args) -> exit code; some have EXAMPLES, shown
# below the options, and USAGE, where argparse's own has the arguments in an unusual order.
COMMANDS: dict[str, ModuleType] = {
    "predict": predict,
    "evaluate": evaluate,
    "ceiling": ceiling,
    "pack": pack,
    "weights": weights,
    "data": data,
    "report": report,
    "doctor": doctor,
}
RENAMED = {"export": "pack"}  # former names

EXAMPLES = """examples:
  generalist predict photo.jpg --task depth semantic --out predictions
  generalist evaluate --from runs/multitask --limit 100
  generalist ceiling --latent
  generalist report runs/multitask
  generalist doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line.

    Args:
      argv: the arguments without the program's name; None takes those of the process.

    Returns:
      The exit code: 0, 2 for an error that the user can act on (one line on stderr), 130 after
      Ctrl-C, or what the command returns.
    """
    argv = sys.argv[1:] if argv is None else argv
    show_log()

    try:
        _check_command(argv)
        args = make_parser().parse_args(argv)
        return args.run(args)
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough. Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ImportError, MemoryError) as error:
        return _refuse(one_line(error) or "this host's memory is too small")
    except (RuntimeError, AssertionError):
        # What JAX raises where it has no device; all else is a fault of the program.
        from generalist.training.host import missing_device

        reason = missing_device()
        if reason is None:
            raise
        return _refuse(reason)
    except KeyboardInterrupt:
        print("generalist: interrupted", file=sys.stderr)
        return 130


def _refuse(message: str) -> int:
    print(f"generalist: error: {message}", file=sys.stderr)
    return 2


def make_parser() -> argparse.ArgumentParser:
    """Builds the parser; the namespace that it returns has the command's function as `run`."""
    parser = argparse.ArgumentParser(
        "generalist",
        description=generalist.__doc__.splitlines()[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=generalist.__version__)

    # The description repeats the help of the list above, for `generalist COMMAND --help`.
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(
            name,
            help=command.HELP,
            description=command.HELP,
            epilog=getattr(command, "EXAMPLES", None),
            usage=getattr(command, "USAGE", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return parser


def _check_command(argv: Sequence[str]) -> None:
    """Names the closest command to an unknown one; argparse would only list them all."""
    if not argv or argv[0].startswith("-"):
        return
    if argv[0] in RENAMED:
        new_name = RENAMED[argv[0]]
        raise ValueError(
            f"the command {argv[0]!r} is now {new_name!r}: generalist {new_name} --help"
        )
    one_of(argv[0], COMMANDS, "command")
