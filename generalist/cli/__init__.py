"""The command `generalist`, also `python -m generalist.cli`: one file a command."""

from generalist.cli.parser import main, make_parser

__all__ = ["main", "make_parser"]
