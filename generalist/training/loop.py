"""The training loop, in the order in which things happen."""

import contextlib
import hashlib
import pathlib
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from generalist.devices import mesh as sharding
from generalist.devices import processes as distributed
from generalist.devices.signals import EXIT_PREEMPTED, Interruption
from generalist.training import setup
from generalist.training.checkpoint import Checkpointer, shapes_of
from generalist.training.meters import Meters
from generalist.training.workdir import check_workdir, export, write_facts, write_parameters
from generalist.training.writer import Writer


def train_and_evaluate(
    config: ConfigDict, workdir: str | pathlib.Path, log=print
) -> dict[str, float]:
    """Trains (or resumes) the run of `config` in `workdir`, evaluates it, and returns the final metrics.

    Order of a step: batch, update, check for NaN, report, checkpoint, evaluate. A run that is killed anywhere and started
    again ends in the same parameters, bit for bit on one platform. All processes of a run call it; process 0 has the metrics.

    Raises:
      FloatingPointError: the loss is not finite; names the step and the tasks in the batch.
      CheckpointError: a checkpoint could not be written; names why.
      SystemExit: 143 after SIGTERM, with everything saved.
    """
    started, log = time.monotonic(), distributed.on_first(log)
    with Interruption() as stop, contextlib.ExitStack() as stack:
        config, parts = setup.resolve(config)
        workdir = check_workdir(workdir, config)
        run = setup.prepare(config, log, parts)
        del parts  # a copy of the weights
        write_facts(workdir, config)  # only now: a config that cannot start leaves no folder behind
        write_parameters(workdir, {"trained": run.state.parameters, "frozen": run.state.frozen})
        log(f"workdir {workdir.absolute()}")
        checkpointer = stack.enter_context(
            Checkpointer(workdir / "checkpoints", config.checkpoint.keep)
        )
        state, run = (
            run.state,
            run._replace(state=None),
        )  # the step donates it: nothing else may hold it
        if checkpointer.steps():
            shapes = shapes_of(state)
            del state  # makes room for the one that is read
            state = checkpointer.restore(shapes, config.seed, log)
        first_step = int(state.step)
        checkpointer.forget_after(first_step)
        if first_step:
            log(f"resuming {workdir} at step {first_step} of {config.total_steps}")
        writer = Writer(workdir, first_step, config.total_steps)

        if first_step < config.total_steps:
            batches, sources = setup.batches(config, run, first_step)
            step_fn = setup.compile_step(run, state, config, log)
            distributed.wait(
                "compiled"
            )  # as the first step connects the processes, and on CPUs gives up after 30 s
            meters = Meters(
                run.task_names,
                batch_size=config.batch_size,
                total_steps=config.total_steps,
                first_step=first_step,
                flops_per_image=step_fn.flops_per_image,
                started=started,
            )
            pending = []  # the last step's metrics, still on the device

            def settle() -> None:
                while pending:
                    done, metrics = pending.pop()
                    metrics = jax.device_get(metrics)
                    _check_finite(metrics, done, run.task_names)
                    meters.add(metrics)

            stop.hold()
            for step in range(first_step + 1, config.total_steps + 1):
                batch = sharding.to_global(
                    next(batches), run.batch_sharding, run.rows, config.batch_size
                )
                state, metrics = step_fn(state, batch)
                settle()  # of the step before: the device never waits for the host
                pending.append((step, metrics))
                stopping = stop.poll(
                    run.mesh
                )  # read once: a signal in mid-step must not skip the save
                last = step == config.total_steps or stopping
                checkpointer.check()
                if last or step % config.log.every_steps == 0:
                    settle()
                    scalars, line = meters.report(step, float(run.learning_rate(step - 1)))
                    writer.write(step, scalars)
                    log(line)
                evaluating = (
                    not last and config.eval.every_steps and step % config.eval.every_steps == 0
                )
                if (
                    last or evaluating or step % config.checkpoint.every_steps == 0
                ):  # what is evaluated is what is saved
                    settle()
                    with meters.overhead():
                        checkpointer.save(state, config.seed)
                        if stopping:
                            checkpointer.wait()  # there may be little time, and this is what the run goes on from
                        export(workdir, config, {**state.frozen, **state.ema}, step)
                if stopping:
                    log(f"SIGTERM: saved step {step} in {workdir}; the same command resumes it")
                    raise SystemExit(EXIT_PREEMPTED)
                if evaluating:
                    with meters.overhead():
                        checkpointer.wait()
                        stop.release(f"step {step} is saved in {workdir}")
                        writer.write(
                            step,
                            _prefixed(setup.evaluate(config, workdir, config.eval.examples, log)),
                        )
                        stop.hold()
            setup.report_damaged(sources, log)
        else:  # the run may have ended between its last checkpoint and the export of it
            export(workdir, config, {**state.frozen, **state.ema}, first_step)

        checkpointer.wait()
        stop.release(f"step {config.total_steps} is saved in {workdir}")
        results = setup.evaluate(config, workdir, config.eval.final_examples, log)
        writer.write(config.total_steps, _prefixed(results))
        writer.close()
        if distributed.is_first():
            setup.report(workdir, log)
        log(f"sha256 of parameters, EMA and step: {digest(state)}")
        return results


def digest(state) -> str:
    """SHA-256 over step, parameters and EMA, in the order of their paths."""
    sha = hashlib.sha256(str(int(state.step)).encode())
    for group in (state.parameters, state.ema):
        for path in sorted(group):
            sha.update(path.encode())
            sha.update(np.ascontiguousarray(sharding.to_host(group[path])).data)
    return sha.hexdigest()


def _check_finite(metrics, step: int, task_names) -> None:
    if not np.isfinite([metrics[name] for name in ("loss", "grad_norm", "update_ratio")]).all():
        present = [name for name, n in zip(task_names, metrics["task_count"]) if n]
        guilty = [
            name for name, loss in zip(task_names, metrics["task_loss"]) if not np.isfinite(loss)
        ]
        raise FloatingPointError(
            f"loss {metrics['loss']}, gradient norm {metrics['grad_norm']} and update {metrics['update_ratio']} at step {step}; "
            f"tasks in the batch: {', '.join(present)}; "
            f"not finite: {', '.join(guilty) or 'the gradient or the update'}. The checkpoints before it are good: lower optimizer.lr or "
            "optimizer.clip, or look at the data of these tasks, and start the same command with another --workdir."
        )


def _prefixed(results: dict) -> dict[str, float]:
    return {
        f"eval/{name}": value
        for name, value in results.items()
        if value is not None and not name.startswith(("trivial/", "ceiling/"))
    }
