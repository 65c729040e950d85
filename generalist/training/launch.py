"""The command line of main.py: which config, which workdir, which devices."""

import contextlib
import ctypes
import difflib
import errno
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

import generalist
from generalist.console import show_log
from generalist.devices.memory import GPU_SHARE

PACKAGE = pathlib.Path(generalist.__file__).parent
FLAGS = ("config", "workdir", "mode", "topology", "coordinator", "process_id", "process_count")
STATUS = "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION|RESOURCE_EXHAUSTED): "
MALLOC = {
    "TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MMAP_MAX_": (-4, 0),
    "ARENA_MAX": (-8, 1),
}  # environment's name -> (malloc.h's number, value)


class UsageError(Exception):
    """The command line asks for something that is not there."""


def main(argv: Sequence[str]) -> int:
    """Runs the command line and returns the exit code; what the user can mend is one message, without a traceback."""
    sys.stdout.reconfigure(line_buffering=True)
    show_log()
    logging.set_verbosity(logging.WARNING)
    from jax.errors import JaxRuntimeError

    from generalist.devices import processes as distributed
    from generalist.training.checkpoint import CheckpointError

    try:
        values = parse(list(argv))
        run(values, values.workdir or f"runs/{_config_name(argv)}")
    except (
        UsageError,
        ValueError,
        FloatingPointError,
        CheckpointError,
        OSError,
        ImportError,
        JaxRuntimeError,
    ) as error:
        if os.environ.get("GENERALIST_TRACEBACK"):
            raise
        print(
            f"error: {_explain(error)}\n(GENERALIST_TRACEBACK=1 shows where it happened)",
            file=sys.stderr,
        )
        code = (
            2
            if isinstance(error, (UsageError, ValueError, ImportError)) and not _of_jax(error)
            else 1
        )
        distributed.leave(code)
        return code
    except Exception:
        distributed.leave(1, traceback.format_exc())
        raise
    return 0


def _explain(error: Exception) -> str:
    """The message of an error, with what to do; of JAX's, which are long, what matters."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error}. Make room: the same command continues from the last checkpoint"
    if not _of_jax(error):
        return str(error)
    first = str(error).splitlines()[0]
    if "RESOURCE_EXHAUSTED" in first:
        return (
            f"a device's memory is too small: {first}. Try --config.model.remat=blocks, --config.sharding.fsdp=N (over N devices), "
            "--config.optimizer.accum_steps=N (a batch in N parts) or a smaller --config.batch_size"
        )
    return f"{first}. If another process of this run died, its own message says why; the same command on all hosts resumes"


def _of_jax(error: Exception) -> bool:
    """Whether it comes from JAX's runtime; what a failed array holds is raised as ValueError, which begins with a status."""
    from jax.errors import JaxRuntimeError

    return isinstance(error, JaxRuntimeError) or bool(
        type(error) is ValueError and re.match(STATUS, str(error))
    )


def parse(argv: list[str]) -> flags.FlagValues:
    """Argv -> config with its overrides, workdir and mode. UsageError names an unknown flag, file or key and the closest match."""
    argv = _join_config_flag(argv)
    given = _value(argv, "--config")
    if given is None:
        _read_flags(argv)  # names a misspelt --config
        raise UsageError("no config given. Try: python main.py --config=configs/multitask.py")
    data_dir = _value(argv, "--config.data_dir")
    if data_dir is not None:
        os.environ["GENERALIST_DATA_DIR"] = (
            data_dir  # the one rule that decides the data; configs read it
        )
    path, _, argument = given.partition(".py:")
    resolved = _resolve(path if path.endswith(".py") else path + ".py")
    chosen = (
        f"--config={resolved}:{argument}" if argument else f"--config={resolved}"
    )  # without: the default of get_config
    argv = [chosen if a.startswith("--config=") else a for a in argv]
    _check_fields(argv, _read_flags([a for a in argv if not a.startswith("--config.")]).config)
    values = _read_flags(argv)
    config = values.config
    where = f"data directory {config.data_dir!r}: "
    source = {"paper": f"{where}the paper's data sets", "folder": f"{where}own data"}.get(
        config.data.source, "the built-in scenes"
    )
    reason = argument or (
        "a data directory is given" if config.data_dir else "no data directory is given"
    )
    print(f"config {resolved} ({reason}): {source}")
    return values


def _read_flags(argv: list[str]) -> flags.FlagValues:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "Config file, e.g. configs/multitask.py.", flag_values=values, sys_argv=argv
    )
    flags.DEFINE_string(
        "workdir", None, "Folder of the run; default runs/<name of the config>.", flag_values=values
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
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of process 0, where no launcher tells it.",
        flag_values=values,
    )
    flags.DEFINE_integer("process_id", None, "Of this process, from 0.", flag_values=values)
    flags.DEFINE_integer(
        "process_count",
        None,
        "How many processes run this command; 1: start alone whatever a launcher says.",
        flag_values=values,
    )
    try:
        values(argv)
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, FLAGS, 1)
        raise UsageError(
            f"unknown flag --{error.flagname}."
            + (f" Did you mean --{close[0]}?" if close else "")
            + f" Flags: --config.<field>, --{', --'.join(FLAGS)}"
        ) from error
    except (flags.Error, TypeError) as error:
        cause = (
            str(error).strip().splitlines()[-1]
        )  # ml_collections puts a whole traceback into the message
        raise UsageError(cause.removeprefix("ValueError: ")) from error
    return values


def _check_fields(argv: list[str], config: ConfigDict) -> None:
    from generalist.training.workdir import flatten

    known = flatten(config.to_dict())
    for argument in argv:
        field = argument.split("=")[0].removeprefix("--config.").split("[")[0]
        if argument.startswith("--config.") and field not in known:
            close = difflib.get_close_matches(field, known, 1, 0.4)
            raise UsageError(
                f"unknown field --config.{field}."
                + (f" Did you mean --config.{close[0]}?" if close else "")
            )


def run(values: flags.FlagValues, workdir: str) -> None:
    """Starts the processes and sets up the devices, then trains, evaluates or compiles."""
    from generalist.devices import processes as distributed
    from generalist.devices.signals import Interruption
    from generalist.training import compile, loop, setup

    if "XLA_CLIENT_MEM_FRACTION" not in os.environ:  # its newer name; both are an error
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", str(GPU_SHARE))
    config = setup.drop_untrained(values.config)
    launch = distributed.find(
        os.environ, values.coordinator, values.process_id, values.process_count
    )
    use_all_cores(
        config.sharding.cpu_devices or os.cpu_count(),
        config.batch_size // config.optimizer.accum_steps,
        launch.count or 1,
    )
    if values.mode == "compile":
        compile.run(config, values.topology, print)
        return
    _check_data(config)
    with Interruption() as stop:
        stop.hold()  # whoever is gone before it is connected leaves the others waiting
        distributed.start(launch)
        stop.release("nothing to save yet")
        print(distributed.describe(launch))
        keep_compiled(workdir)
        if values.mode == "eval":
            log = distributed.on_first(print)
            stop.release("an evaluation goes on where it was")
            results = setup.evaluate(config, pathlib.Path(workdir), config.eval.final_examples, log)
            log(f"{len(results)} figures in {workdir}/eval")
        else:
            loop.train_and_evaluate(config, workdir)


def keep_compiled(workdir: str) -> None:
    """Compiled programs are kept in the workdir, for the next start, unless JAX_COMPILATION_CACHE_DIR names another folder.

    Not on CPUs, of which the next may be another that cannot run them.
    """
    import jax

    if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", os.path.abspath(f"{workdir}/compiled"))


def _check_data(config: ConfigDict) -> None:
    """What is missing is said before anything is compiled."""
    if config.data.source == "paper":
        from generalist.input_pipeline.sources import DATASET_OF, describe_missing, missing

        absent = missing(
            config.data_dir, sorted({DATASET_OF[task] for task in config.tasks.weights})
        )
        if absent:
            lacking = {dataset.name for dataset in absent}
            there = [task for task in config.tasks.weights if DATASET_OF[task] not in lacking]
            hint = (
                f"\n\nTo train on what is there, name its tasks behind the config: {','.join(['multitask.py:paper', *there])}"
                if there
                else ""
            )
            raise UsageError(describe_missing(absent, config.data_dir) + hint)
    if config.data.source in ("paper", "folder"):
        from generalist.input_pipeline import open_sources

        open_sources(config, config.tasks.weights, "train")
        open_sources(config, config.eval.tasks, config.eval.split)


def use_all_cores(devices: int, batch_size: int, processes: int = 1) -> None:
    """Before JAX starts: makes the CPU several devices, which keeps all cores busy where one program's operations do not.

    As many as `devices`, up to 8, of each process can share `batch_size`.
    """
    import jax

    keep_freed_memory()
    with contextlib.suppress(
        RuntimeError
    ):  # JAX is already running, in a notebook, and keeps the devices it has
        jax.config.update(
            "jax_num_cpu_devices",
            max(
                n
                for n in range(1, min(devices, 8) + 1)
                if n == 1 or batch_size % (n * processes) == 0
            ),
        )


def keep_freed_memory() -> None:
    """Lets glibc reuse freed arrays, here and in the processes started from here; given back to the system, every page is faulted in anew."""
    for name, (_, value) in MALLOC.items():
        os.environ.setdefault(f"MALLOC_{name}", str(value))
    with contextlib.suppress(OSError, AttributeError, TypeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in MALLOC.values():
            mallopt(option, value)


def _join_config_flag(argv: list[str]) -> list[str]:
    """`--config FILE` -> `--config=FILE`, `-config` -> `--config`."""
    joined, rest = [], iter(argv)
    for argument in rest:
        argument = re.sub(r"^-(?=config)", "--", argument)
        if argument == "--config":
            argument = f"--config={next(rest, '')}"
        joined.append(argument)
    return joined


def _resolve(path: str) -> pathlib.Path:
    """A config path as typed, from anywhere: as it is, or below the package or its parent."""
    candidates = [pathlib.Path(path), PACKAGE / path, PACKAGE.parent / path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate.absolute()
    known = sorted(
        str(p.relative_to(PACKAGE))
        for p in (PACKAGE / "configs").rglob("*.py")
        if p.name not in ("__init__.py", "common.py")
    )
    raise UsageError(f"no config file {path}. There are: {', '.join(known)}")


def _value(argv: Sequence[str], flag: str) -> str | None:
    return next((a.split("=", 1)[1] for a in argv if a.startswith(flag + "=")), None)


def _config_name(argv: Sequence[str]) -> str:
    return pathlib.Path(_value(_join_config_flag(list(argv)), "--config").partition(".py")[0]).name
