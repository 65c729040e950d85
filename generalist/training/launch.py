"""Behind main.py: from the command line to a run, and from an error to its message."""

import errno
import logging
import os
import pathlib
import re
import sys
import traceback
from collections.abc import Sequence

from absl import logging as absl_logging
from jax.errors import JaxRuntimeError
from ml_collections import FrozenConfigDict

from generalist.console import show_log
from generalist.devices import processes
from generalist.devices.signals import Interruption
from generalist.evaluation.workdir import evaluate_workdir
from generalist.input_pipeline import open_sources
from generalist.input_pipeline.sources import DATASET_OF, describe_missing, missing
from generalist.names import first_line
from generalist.recipe import Recipe
from generalist.training.checkpoint import CheckpointError
from generalist.training.flags import CommandLine, UsageError, parse
from generalist.training.host import (
    keep_compiled_programs,
    missing_device,
    take_gpu_memory,
    use_all_cores,
)
from generalist.training.loop import train_and_evaluate
from generalist.training.topology import compile_for

logger = logging.getLogger("generalist")

# What a user can act on: one message. All else is a fault of the program, with its traceback.
EXPECTED_ERRORS = (
    ValueError,
    FloatingPointError,
    CheckpointError,
    OSError,
    ImportError,
    MemoryError,
    JaxRuntimeError,
)
PATH_CANNOT_BE = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR)
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# How errors of JAX's runtime begin.
JAX_STATUS = (
    "(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED"
    "|FAILED_PRECONDITION|RESOURCE_EXHAUSTED): "
)


def main(argv: Sequence[str]) -> int:
    """Runs the command line of main.py.

    Args:
      argv: the program's name and its arguments.

    Returns:
      The exit code: 0; 2 where the command has to change; 1 for any other error.
    """
    show_log()
    absl_logging.set_verbosity(absl_logging.WARNING)

    try:
        values = parse(argv)
        workdir = pathlib.Path(values.workdir)
        config = Recipe.from_config(values.config).config
        launch = prepare_host(values, config)
        if values.mode == "compile":
            compile_for(values.config, values.topology)
            return 0

        check_data(config)
        with Interruption() as stop:
            connect(launch, stop)
            keep_compiled_programs()
            if values.mode == "eval":
                stop.release("an evaluation goes on where it was")
                results = evaluate_workdir(config, workdir, config.eval.final_examples)
                logger.info(f"{len(results)} figures in {workdir}/eval")
            else:
                train_and_evaluate(values.config, workdir)
    except Exception as error:
        message = explain(error) if isinstance(error, EXPECTED_ERRORS) else missing_device()
        if message is None:
            processes.leave(1, traceback.format_exc())
            raise
        if os.environ.get("GENERALIST_TRACEBACK"):
            raise
        print(
            f"error: {message}\n(GENERALIST_TRACEBACK=1 shows where it happened)",
            file=sys.stderr,
        )

        # The other processes of the run must notice at once, not at this one's orderly end.
        code = exit_code(error)
        processes.leave(code)
        return code
    return 0


def prepare_host(values: CommandLine, config: FrozenConfigDict) -> processes.Launch:
    """Sets up this host before JAX starts, and returns how this process is one of several."""
    launch = processes.find_launch(
        os.environ, values.coordinator, values.process_id, values.process_count
    )

    # JAX reads these when it starts, and starts with the first question about devices.
    take_gpu_memory()
    use_all_cores(
        config.sharding.cpu_devices or os.cpu_count(),
        config.batch_size // config.optimizer.accum_steps,
        launch.count or 1,
    )
    return launch


def connect(launch: processes.Launch, stop: Interruption) -> None:
    """Connects the processes, and prints how many there are."""
    # A process that is gone before it is connected leaves the others waiting.
    stop.hold()
    processes.connect(launch)
    stop.release("nothing to save yet")
    print(processes.describe(launch))


def check_data(config: FrozenConfigDict) -> None:
    """Opens the data of a config, so that what is missing stops the run before it compiles.

    Raises:
      ValueError: data sets or folders are missing; names all of them.
    """
    if config.data.source == "paper":
        trained = config.tasks.weights
        absent = missing(config.data_dir, sorted({DATASET_OF[task] for task in trained}))
        if absent:
            absent_names = {dataset.name for dataset in absent}
            available = [task for task in trained if DATASET_OF[task] not in absent_names]
            hint = ""
            if available:
                words = ",".join(["multitask.py:paper", *available])
                hint = f"\n\nTo train on what is there, name its tasks behind the config: {words}"
            raise UsageError(describe_missing(absent, config.data_dir) + hint)

    if config.data.source in ("paper", "folder"):
        open_sources(config, config.tasks.weights, "train")
        open_sources(config, config.eval.tasks, config.eval.final_split)
        if config.eval.every_steps:
            open_sources(config, config.eval.tasks, config.eval.split)


def exit_code(error: Exception) -> int:
    """Returns 1 for what the same command may survive: a full disk, memory, a dead neighbor."""
    if isinstance(error, OSError) and error.errno in PATH_CANNOT_BE:
        return 2
    survivable = (FloatingPointError, CheckpointError, OSError, MemoryError)
    return 1 if isinstance(error, survivable) or _is_jax_error(error) else 2


def explain(error: Exception) -> str:
    """Returns an error's message with what to do; of JAX's long ones, the line that matters."""
    if isinstance(error, MemoryError):
        return f"this host's memory is too small: {error or 'no more was given'}"
    if isinstance(error, OSError) and error.errno in DISK_IS_FULL:
        return f"{error}. Make room: the same command continues from the last checkpoint"
    if not _is_jax_error(error):
        return str(error)

    message = first_line(error)
    if "RESOURCE_EXHAUSTED" in message:
        return (
            f"a device's memory is too small: {message}. Try --config.model.remat=blocks, "
            "--config.sharding.fsdp=N (over N devices), --config.optimizer.accum_steps=N "
            "(a batch in N microbatches) or a smaller --config.batch_size"
        )
    return (
        f"{message}. If another process of this run died, its own message says why; "
        "the same command on all hosts resumes"
    )


def _is_jax_error(error: Exception) -> bool:
    if isinstance(error, JaxRuntimeError):
        return True
    # A failed array raises a plain ValueError that begins with a status when it is read.
    return type(error) is ValueError and re.match(JAX_STATUS, str(error)) is not None
