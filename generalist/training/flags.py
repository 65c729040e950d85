"""The command line of main.py: which config, which workdir, which processes."""

import ast
import dataclasses
import importlib.util
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

import generalist
from generalist.names import did_you_mean, one_of
from generalist.training.workdir import flatten

PACKAGE = pathlib.Path(generalist.__file__).parent
MODES = ("train", "eval", "compile")
EXAMPLE = "Try: python main.py --config=configs/multitask.py"


class UsageError(ValueError):
    """The command line asks for something that is not there."""


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """What the command line says; all but `config` have a flag of their name."""

    config: ConfigDict  # with its overrides
    workdir: str  # folder of the run; by default runs/<name of the config file>
    mode: str = "train"  # one of MODES: only evaluate the workdir, or say what `topology` needs
    topology: str = "v5e:2x4"  # for "compile": v5e:16x16, v5p:4x4x4, v6e:16x16, ..., cuda

    # Several processes as one run, where no launcher says how many there are.
    coordinator: str | None = None  # HOST:PORT of process 0
    process_id: int | None = None  # number of this process, from 0
    process_count: int | None = None  # how many; 1 starts alone whatever a launcher says


FLAGS = tuple(field.name for field in dataclasses.fields(CommandLine))


def parse(argv: Sequence[str]) -> CommandLine:
    """Reads the command line of main.py, and prints which config and data it means.

    Every word is used or refused. `--flag value` means `--flag=value`, and of a flag that is given
    twice the last one counts.

    Args:
      argv: the program's name and its arguments.

    Raises:
      UsageError: an unknown flag, file, word or field, or a value of another kind; the message has
        the closest one there is, or what is allowed.
    """
    given = _read_words(argv[1:])
    overrides = {}
    for name in list(given):
        if name.startswith("config."):
            overrides[name.removeprefix("config.")] = given.pop(name)
        elif name not in FLAGS:
            raise UsageError(
                f"unknown flag --{name}.{did_you_mean(name, FLAGS)} "
                f"Flags: --config.<field>, --{', --'.join(FLAGS)}"
            )
    for name, text in given.items():
        if not text:
            raise UsageError(f"--{name} needs a value, as in --{name}=VALUE. {EXAMPLE}")
    if "config" not in given:
        raise UsageError(f"no config given. {EXAMPLE}")

    # A config asks the environment where the data are: it has no other way to know the flag.
    if overrides.get("data_dir") is not None:
        os.environ["GENERALIST_DATA_DIR"] = overrides["data_dir"]

    file, words = _find_config(given.pop("config"))
    config = _load_config(file, words)
    _override(config, overrides)
    print(_describe(file, words, config))

    given.setdefault("workdir", f"runs/{file.stem}")
    one_of(given.get("mode", MODES[0]), MODES, "--mode")
    numbers = {
        name: _read_value(f"--{name}", given.pop(name), 0)
        for name in ("process_id", "process_count")
        if name in given
    }
    return CommandLine(config, **given, **numbers)


def read_config(file: str) -> ConfigDict:
    """Returns the config FILE or FILE:words, found where main.py finds it.

    Raises:
      UsageError: what is wrong with it.
    """
    return parse(["generalist", f"--config={file}"]).config


def _read_words(words: Sequence[str]) -> dict[str, str | None]:
    """Returns {flag: text of its value}; the text is None where no value is given.

    Raises UsageError for a word that belongs to no flag.
    """
    given = {}
    name = None  # of the flag that the next word may be the value of
    for word in words:
        flag = re.fullmatch(r"--?([A-Za-z][^=]*)(?:=(.*))?", word, re.DOTALL)
        if flag:
            name, text = flag.groups()
            # The last one counts, also for the order in which overrides are applied.
            given.pop(name, None)
            given[name] = text
            name = None if text is not None else name

        elif name is not None and word != "--":
            given[name] = word
            name = None

        else:
            raise UsageError(
                f"the word {word!r} belongs to no flag: flags begin with --, and a value with "
                "spaces needs quotes"
            )
    return given


def _find_config(text: str) -> tuple[pathlib.Path, str]:
    """Finds a config file from any folder: as typed, or below the package or its parent.

    Args:
      text: FILE or FILE:words, with or without the suffix .py.

    Returns:
      The file as an absolute path, and the words behind it.
    """
    # A folder may be called "a.py:b", too.
    path, parted, words = text.rpartition(".py:")
    if text.endswith(".py") or not parted:
        path = text.removesuffix(".py")
        words = ""
    path += ".py"

    for candidate in (pathlib.Path(path), PACKAGE / path, PACKAGE.parent / path):
        if candidate.is_file():
            return candidate.absolute(), words

    files = (PACKAGE / "configs").rglob("*.py")
    known = sorted(
        str(file.relative_to(PACKAGE))
        for file in files
        if file.name not in ("__init__.py", "common.py")
    )
    raise UsageError(f"no config file {path}. There are: {', '.join(known)}")


def _load_config(file: pathlib.Path, words: str) -> ConfigDict:
    """Runs a config file. Without words behind it `get_config` takes its own default."""
    try:
        spec = importlib.util.spec_from_file_location("config_file", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config(*([words] if words else []))
    except ValueError as error:  # what a config says of its words
        raise UsageError(str(error)) from error
    except Exception as error:  # a fault in the file, whatever it is
        raise UsageError(f"{file}: {type(error).__name__}: {error}") from error

    if not isinstance(config, ConfigDict):
        raise UsageError(f"{file}: get_config returned {type(config).__name__}, not a ConfigDict")
    return config


def _override(config: ConfigDict, overrides: Mapping[str, str | None]) -> None:
    """Sets fields of a config, {field: text}, to values of the kind that they have."""
    known = flatten(config.to_dict())
    for field, text in overrides.items():
        if field not in known:
            raise UsageError(f"unknown field --config.{field}.{did_you_mean(field, known)}")
        config.update_from_flattened_dict(
            {field: _read_value(f"--config.{field}", text, known[field])}
        )


def _read_value(flag: str, text: str | None, like: Any) -> Any:
    """Reads a flag's value.

    Args:
      flag: for the message.
      text: of the value; None is an answer to yes or no only.
      like: a value of the same kind.

    Raises:
      UsageError: the text is of another kind.
    """
    kind = next(kind for kind in KINDS if isinstance(like, kind.of))
    if text is None and kind.of is bool:
        return True
    if text is None:
        raise UsageError(f"{flag} needs a value: {kind.allowed}, such as {like!r}")
    try:
        return kind.read(text)
    except (ValueError, KeyError, SyntaxError, MemoryError, RecursionError) as error:
        raise UsageError(f"{flag}={text}: allowed is {kind.allowed}, such as {like!r}") from error


def _read_bool(text: str) -> bool:
    words = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
    return words[text.lower()]


def _read_tuple(text: str) -> tuple:
    """Reads "(1, 2)", "1, 2", or a single value, which may be a text without quotes."""
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        # An open bracket or a list of bare words is a slip; a single word is a text.
        if re.match(r"\s*[\[({]", text) or "," in text:
            raise
        value = text
    return tuple(value) if isinstance(value, list | tuple) else (value,)


class _Kind(NamedTuple):
    """A kind of values.

    Attributes:
      of: the type of such a value.
      read: text -> value; it raises ValueError, KeyError or SyntaxError.
      allowed: what it reads, for people.
    """

    of: type
    read: Callable[[str], Any]
    allowed: str


# The first that fits counts: Python's bool is an int, and all are objects.
KINDS = (
    _Kind(bool, _read_bool, "true or false"),
    _Kind(int, int, "a whole number"),
    _Kind(float, float, "a number"),
    _Kind(tuple, _read_tuple, "values in brackets with commas"),
    _Kind(list, lambda text: list(_read_tuple(text)), "values in brackets with commas"),
    _Kind(object, str, "a text"),
)


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
