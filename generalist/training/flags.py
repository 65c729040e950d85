"""The command line of main.py: which config, which workdir, which processes."""

import os
import pathlib
import re
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

import generalist
from generalist.names import did_you_mean
from generalist.training.workdir import flatten

PACKAGE = pathlib.Path(generalist.__file__).parent
FLAGS = ("config", "workdir", "mode", "topology", "coordinator", "process_id", "process_count")


class UsageError(ValueError):
    """The command line asks for something that is not there."""


def parse(argv: Sequence[str]) -> flags.FlagValues:
    """Reads the command line of main.py, and prints which config and data it means.

    Args:
      argv: the program's name and its arguments.

    Returns:
      `config` with its overrides, `workdir` (None: not given), `mode`, `topology`, `coordinator`,
      `process_id` and `process_count`.

    Raises:
      UsageError: an unknown flag, file, word or field; the message has the closest one there is.
    """
    arguments = _join_config_flag(argv)
    config_flag = _value(arguments, "--config")
    if config_flag is None:
        _read_flags(arguments)  # names a misspelled --config
        raise UsageError("no config given. Try: python main.py --config=configs/multitask.py")

    # A config asks the environment where the data are: it has no other way to know the flag.
    data_dir = _value(arguments, "--config.data_dir")
    if data_dir is not None:
        os.environ["GENERALIST_DATA_DIR"] = data_dir

    # The file as an absolute path. Without words behind it `get_config` takes its own default.
    path, _, words = config_flag.partition(".py:")
    file = _find_config(path if path.endswith(".py") else path + ".py")
    resolved_flag = f"--config={file}:{words}" if words else f"--config={file}"
    arguments = [
        resolved_flag if argument.startswith("--config=") else argument for argument in arguments
    ]

    # First without the overrides, so that an unknown field is one line and not a traceback.
    plain = _read_flags([a for a in arguments if not a.startswith("--config.")])
    _check_fields(arguments, plain.config)
    values = _read_flags(arguments)
    print(_describe(file, words, values.config))
    return values


def read_config(file: str) -> ConfigDict:
    """Returns the config FILE or FILE:words, found where main.py finds it.

    Raises:
      UsageError: what is wrong with it.
    """
    return parse(["generalist", f"--config={file}"]).config


def default_workdir(argv: Sequence[str]) -> str:
    """Returns "runs/<name of the config file>"."""
    config_flag = _value(_join_config_flag(argv), "--config")
    return f"runs/{pathlib.Path(config_flag.partition('.py')[0]).name}"


def _describe(file: pathlib.Path, words: str, config: ConfigDict) -> str:
    """Names the config and its data, and why these data: a common surprise."""
    if config.data.source == "paper":
        data = f"data directory {config.data_dir!r}: the paper's data sets"
    elif config.data.source == "folder":
        data = f"data directory {config.data_dir!r}: own data"
    else:
        data = "the built-in scenes"

    if words:
        reason = words
    elif config.data_dir:
        reason = "a data directory is given"
    else:
        reason = "no data directory is given"
    return f"config {file} ({reason}): {data}"


def _read_flags(argv: list[str]) -> flags.FlagValues:
    values = _define_flags(argv)
    try:
        values(argv)
    except flags.UnrecognizedFlagError as error:
        raise UsageError(
            f"unknown flag --{error.flagname}.{did_you_mean(error.flagname, FLAGS)} "
            f"Flags: --config.<field>, --{', --'.join(FLAGS)}"
        ) from error
    except (flags.Error, TypeError) as error:
        # ml_collections puts a whole traceback into the message; its last line is the cause.
        cause = str(error).strip().splitlines()[-1]
        raise UsageError(cause.removeprefix("ValueError: ")) from error
    return values


def _define_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Config file, e.g. configs/multitask.py.",
        flag_values=values,
        sys_argv=argv,
    )

    # What to do, and where.
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder of the run; default runs/<name of the config>.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "eval", "compile"],
        "Train and evaluate, only evaluate the workdir, or say what --topology needs.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "topology",
        "v5e:2x4",
        "For --mode=compile: v5e:16x16, v5p:4x4x4, v6e:16x16, ..., cuda.",
        flag_values=values,
    )

    # Several processes as one run, where no launcher says how many there are.
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, where no launcher says it.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Number of this process, from 0.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process_count",
        None,
        "How many processes run this command; 1: start alone whatever a launcher says.",
        flag_values=values,
    )
    return values


def _check_fields(argv: list[str], config: ConfigDict) -> None:
    known = flatten(config.to_dict())
    for argument in argv:
        if not argument.startswith("--config."):
            continue
        field = argument.split("=")[0].removeprefix("--config.").split("[")[0]
        if field not in known:
            raise UsageError(f"unknown field --config.{field}.{did_you_mean(field, known)}")


def _join_config_flag(argv: Sequence[str]) -> list[str]:
    """Turns `--config FILE` into `--config=FILE`, and `-config` into `--config`."""
    joined = []
    remaining = iter(argv)
    for argument in remaining:
        argument = re.sub(r"^-(?=config)", "--", argument)
        if argument == "--config":
            argument = f"--config={next(remaining, '')}"
        joined.append(argument)
    return joined


def _find_config(path: str) -> pathlib.Path:
    """Finds a config file from any folder: as typed, or below the package or its parent."""
    for candidate in (pathlib.Path(path), PACKAGE / path, PACKAGE.parent / path):
        if candidate.is_file():
            return candidate.absolute()

    files = (PACKAGE / "configs").rglob("*.py")
    known = sorted(
        str(file.relative_to(PACKAGE))
        for file in files
        if file.name not in ("__init__.py", "common.py")
    )
    raise UsageError(f"no config file {path}. There are: {', '.join(known)}")


def _value(argv: Sequence[str], flag: str) -> str | None:
    """Returns what is behind the `=` of a flag, before absl has read the flags."""
    for argument in argv:
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return None
