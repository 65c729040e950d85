"""The training loop, in the order in which things happen. The page to read first."""

import contextlib
import functools
import logging
import pathlib
import time
from collections.abc import Mapping

from ml_collections import ConfigDict

from generalist import models
from generalist.devices import lock, processes
from generalist.devices import mesh as mesh_lib
from generalist.devices.signals import EXIT_PREEMPTED, Interruption
from generalist.devices.votes import Votes
from generalist.evaluation import tables, write_report
from generalist.evaluation.record import METRICS
from generalist.evaluation.workdir import evaluate_workdir
from generalist.input_pipeline import open_sources
from generalist.input_pipeline.loader import training_batches
from generalist.input_pipeline.reading import log_damaged
from generalist.models import parameters as parameters_lib
from generalist.pretrained.parts import read_parts
from generalist.recipe import Recipe
from generalist.training.ahead_of_time import batch_shapes, compile_step
from generalist.training.checkpoint import Checkpointer
from generalist.training.due import Clock, is_due
from generalist.training.initialization import encode_prompts, initial_state
from generalist.training.meters import Meters
from generalist.training.optimizer import make_optimizer, trainable
from generalist.training.state import (
    State,
    abstract_state,
    digest,
    log_parameter_counts,
    place_frozen,
    text_encoder,
)
from generalist.training.step import make_step
from generalist.training.workdir import check_workdir, save_model, write_facts, write_parameters
from generalist.training.writer import Writer

logger = logging.getLogger("generalist")


def train_and_evaluate(config: ConfigDict, workdir: str | pathlib.Path) -> dict[str, float | None]:
    """Trains (or resumes) the run of `config` in `workdir`, evaluates it, returns the metrics.

    Order of a step: batch, update, check for NaN, report, checkpoint, evaluate. A run that is
    killed anywhere and started again ends in the same parameters, bit for bit on one platform. All
    processes of a run call it.

    Raises:
      ValueError: the config cannot work, or the workdir belongs to another run, or is in use.
      FloatingPointError: the loss is not finite; names the step and the tasks in the batch.
      CheckpointError: a checkpoint could not be written; names why.
      SystemExit: 143 after SIGTERM, with everything saved.
    """
    started = time.monotonic()
    with Interruption() as stop, contextlib.ExitStack() as stack:
        # What the config means ------------------------------------------------------------------
        published = read_parts(config.model.init_from)
        recipe = Recipe.from_config(config, published)
        config = recipe.config
        workdir = check_workdir(workdir, recipe)

        # Devices --------------------------------------------------------------------------------
        mesh = mesh_lib.make_mesh(config.sharding.fsdp)
        batch_sharding = mesh_lib.batch_sharding(mesh)
        rows = mesh_lib.rows_of_process(
            batch_sharding, config.batch_size, config.optimizer.accum_steps
        )
        logger.info(mesh_lib.describe_devices(mesh))

        # Model and optimizer, as shapes ---------------------------------------------------------
        graphdef, shapes = parameters_lib.abstract(lambda: models.build(recipe.model))
        trained = trainable(recipe.frozen, shapes)
        optimizer, learning_rate = make_optimizer(
            config.optimizer, trained, config.total_steps, known=list(shapes)
        )

        # State: from the newest checkpoint, else from the first weights -------------------------
        stack.enter_context(lock.hold(workdir))
        checkpointer = stack.enter_context(
            Checkpointer(workdir / "checkpoints", config.checkpoint.keep)
        )
        target = abstract_state(shapes, trained, optimizer, mesh, config.sharding)
        state = checkpointer.restore(target, config.seed)
        if state is None:
            state = initial_state(recipe, published, target, optimizer)
        first_step = int(state.step)
        checkpointer.forget_after(first_step)

        # Workdir: only now, so that a config that cannot start leaves no folder behind ----------
        log_parameter_counts(state)
        write_facts(workdir, recipe, published)
        del published  # a copy of the weights
        write_parameters(workdir, {"trained": state.parameters, "frozen": target.frozen})
        checkpointer.save_frozen(state.frozen)
        writer = Writer(workdir, first_step, config.total_steps)
        logger.info(f"workdir {workdir.absolute()}")
        if first_step:
            logger.info(f"resuming {workdir} at step {first_step} of {config.total_steps}")

        # Figures of these weights, if they are due and not there --------------------------------
        _evaluate_first(recipe, workdir, checkpointer, state, writer)

        if first_step < config.total_steps:
            # Batches ----------------------------------------------------------------------------
            sources = open_sources(config, list(recipe.tasks), "train")
            batches = training_batches(
                sources,
                recipe.tasks,
                config.tasks.weights.to_dict(),
                seed=config.seed,
                batch_size=config.batch_size,
                image_size=config.data.image_size,
                target_size=config.model.target_size,
                first_step=first_step,
                rows=rows,
                augment=config.data.augment.to_dict(),
                threads=config.data.threads,
                prefetch=config.data.prefetch,
                workers=config.data.workers,
                tokenizer=recipe.tokenizer(workdir) if recipe.own_prompts else None,
            )

            # Loss and step ----------------------------------------------------------------------
            prompts = encode_prompts(recipe, graphdef, state, target, mesh)
            objective = recipe.objective(prompts)
            state = place_frozen(state, target, recipe.own_prompts)
            step_fn = make_step(
                graphdef,
                objective,
                optimizer,
                seed=config.seed,
                ema_decay=config.optimizer.ema,
                accum_steps=config.optimizer.accum_steps,
                gather_parameters=functools.partial(
                    mesh_lib.gather_parameters,
                    shardings=mesh_lib.shardings_of(state.weights),
                    dtype=config.model.dtype,
                ),
                shard_microbatches=functools.partial(mesh_lib.shard_microbatches, mesh=mesh),
                unused=text_encoder(target),
            )
            train_step = compile_step(
                step_fn, state, batch_shapes(recipe, batch_sharding), config, mesh
            )
            # The first step connects the processes, and on CPUs gives up after 30 s.
            processes.wait_for_all("compiled")

            # The loop ---------------------------------------------------------------------------
            meters = Meters(
                list(recipe.tasks),
                batch_size=config.batch_size,
                total_steps=config.total_steps,
                first_step=first_step,
                flops_per_image=train_step.flops_per_image,
                started=started,
            )
            votes = Votes(mesh)
            clock = Clock(config.checkpoint.every_minutes)
            stop.hold()
            for step in range(first_step + 1, config.total_steps + 1):
                batch = mesh_lib.to_global(next(batches), batch_sharding, rows, config.batch_size)
                state, metrics = train_step(state, batch)
                meters.add(step, metrics)
                checkpointer.check()

                # Asked once a step: a signal in the middle of it must not skip the save below.
                stopping, rings = votes.any(stop.received, clock.rings())
                last = step == config.total_steps or stopping
                evaluating = not last and is_due(step, config.eval.every_steps)

                if last or is_due(step, config.log.every_steps):
                    scalars, line = meters.report(step, float(learning_rate(step - 1)))
                    writer.write(step, scalars)
                    logger.info(line)

                # What is evaluated is what is saved.
                exporting = last or evaluating
                if exporting or rings or is_due(step, config.checkpoint.every_steps):
                    meters.read()
                    with meters.overhead():
                        checkpointer.save(state, config.seed)
                        clock.restart()
                        if stopping:
                            # There may be little time, and the run resumes from this checkpoint.
                            checkpointer.wait()
                        if exporting:
                            save_model(workdir, recipe, checkpointer.with_frozen(state))

                if stopping:
                    logger.info(
                        f"SIGTERM: saved step {step} in {workdir}; the same command resumes it"
                    )
                    raise SystemExit(EXIT_PREEMPTED)

                if evaluating:
                    with meters.overhead():
                        checkpointer.wait()
                        stop.release(f"step {step} is saved in {workdir}")
                        # What steers is never the official split, which is read at the end.
                        results = evaluate_workdir(
                            config, workdir, config.eval.examples, split=config.eval.split
                        )
                        writer.write(step, _for_writer("eval", results))
                        stop.hold()
            log_damaged(sources)
        else:
            # The run may have ended between its last checkpoint and the export of it.
            save_model(workdir, recipe, state)

        # Final evaluation and report ------------------------------------------------------------
        checkpointer.wait()
        stop.release(f"step {config.total_steps} is saved in {workdir}")
        results = evaluate_workdir(
            config, workdir, config.eval.final_examples, split=config.eval.final_split
        )
        writer.write(config.total_steps, _for_writer("final", results))
        writer.close()
        if processes.is_first():
            logger.info(f"report: {write_report(workdir)}")
        logger.info(f"sha256 of parameters, EMA and step: {digest(state)}")
        return results


def _evaluate_first(
    recipe: Recipe, workdir: pathlib.Path, checkpointer: Checkpointer, state: State, writer: Writer
) -> None:
    """Measures the weights that training begins or goes on with, where no later ones would do."""
    config = recipe.config
    step = int(state.step)

    # What the last figures are read against.
    if step == 0 and config.eval.before:
        save_model(workdir, recipe, checkpointer.with_frozen(state))
        evaluate_workdir(config, workdir, config.eval.final_examples, split=config.eval.final_split)

    # A kill cut an evaluation off: the run was saved before it.
    is_missing = not processes.share((workdir / "eval" / str(step) / METRICS).exists())
    if 0 < step < config.total_steps and is_due(step, config.eval.every_steps) and is_missing:
        save_model(workdir, recipe, checkpointer.with_frozen(state))
        results = evaluate_workdir(config, workdir, config.eval.examples, split=config.eval.split)
        writer.write(step, _for_writer("eval", results))


def _for_writer(group: str, results: Mapping[str, float | None]) -> dict[str, float]:
    """The model's own figures of an evaluation; what stands beside them does not change."""
    scalars = {}
    for name, value in results.items():
        whose = name.partition("/")[0]
        if value is not None and whose not in (*tables.BASELINES, *tables.EARLIER):
            scalars[f"{group}/{name}"] = value
    return scalars
