"""From a config to the things the loop works with."""

import functools
import pathlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from ml_collections import ConfigDict

from generalist import diffusion, models
from generalist.devices import mesh as sharding
from generalist.devices.memory import advice
from generalist.inference.generalist import make_schedule, model_settings, prompt_ids
from generalist.input_pipeline import loader, open_sources
from generalist.models import flops
from generalist.models import parameters as parameters_lib
from generalist.names import one_of
from generalist.pretrained import parts, weights
from generalist.tasks import Task, get_tasks
from generalist.training import optimizer as optimizer_lib
from generalist.training.step import Objective, State, make_step
from generalist.training.workdir import to_plain


class Run(NamedTuple):
    """What the loop needs besides the config.

    state: the initial one. batch_sharding: of the batches. rows: of every batch, those that this process makes.
    """

    graphdef: Any
    state: State
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    objective: Objective
    tasks: dict[str, Task]
    task_names: list[str]
    mesh: jax.sharding.Mesh
    batch_sharding: jax.sharding.NamedSharding
    rows: np.ndarray


def drop_untrained(config: ConfigDict) -> ConfigDict:
    """The config without the tasks of weight 0, and without the evaluation of what the others do not paint.

    Raises ValueError for unknown names, and if nothing is left to train or to evaluate.
    """
    config = config.copy_and_resolve_references()
    get_tasks(config.tasks.set, config.tasks.weights)
    evaluated = get_tasks(config.tasks.set, config.eval.tasks)
    config.tasks.weights = ConfigDict(
        {name: weight for name, weight in config.tasks.weights.items() if weight > 0}
    )
    trained = set(config.tasks.weights)
    config.eval.tasks = tuple(
        name for name, task in evaluated.items() if trained.issuperset(task.components or (name,))
    )
    if not config.eval.tasks:
        raise ValueError(
            f"nothing to evaluate: eval.tasks are {', '.join(evaluated)}, trained are {', '.join(trained) or 'none'}. Give a task "
            "a weight above 0 in tasks.weights, or name a trained one in eval.tasks."
        )
    return config


def resolve(config: ConfigDict) -> tuple[ConfigDict, dict[str, parts.PublishedModel]]:
    """Drops what is not trained, reads the published parts that `model.init_from` names -> (the config with their sizes, the parts)."""
    config = drop_untrained(config)
    given = parts.read_parts(config.model.init_from)
    if given:
        prompts = {
            name: task.prompt
            for name, task in get_tasks(config.tasks.set, list(config.tasks.weights)).items()
        }
        settled = parts.settle(to_plain(config)["model"], given, prompts)
        config = ConfigDict({**config.to_dict(), "model": settled})
    return config, given


class Plan(NamedTuple):
    """What a config describes before any array exists.

    shapes: {path: ShapeDtypeStruct} of all parameters. trained: the paths that learn.
    """

    tasks: dict[str, Task]
    graphdef: Any
    shapes: dict[str, jax.ShapeDtypeStruct]
    trained: list[str]
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule

    def initial(self, values: Mapping[str, jax.Array]) -> State:
        """{path: value} of all parameters -> the state of step 0."""
        parameters = {path: values[path] for path in self.trained}
        frozen = {path: value for path, value in values.items() if path not in parameters}
        ema = jax.tree.map(jnp.copy, parameters)  # buffers of its own: the step donates both
        return State(
            jnp.zeros((), jnp.int32), parameters, ema, frozen, self.optimizer.init(parameters)
        )


def plan(config: ConfigDict) -> Plan:
    """Tasks, model and optimizer of a config, which is checked first. config: from `resolve`."""
    check(config)
    settings = model_settings(to_plain(config))
    graphdef, shapes = parameters_lib.abstract(lambda: models.build(settings))
    frozen = (
        (*config.optimizer.frozen, r"^autoencoder\.")
        if config.model.autoencoder
        else config.optimizer.frozen
    )
    trained = optimizer_lib.trainable(frozen, shapes)
    optimizer, learning_rate = optimizer_lib.make_optimizer(
        config.optimizer.to_dict(), trained, config.total_steps, known=list(shapes)
    )
    return Plan(
        get_tasks(config.tasks.set, list(config.tasks.weights)),
        graphdef,
        shapes,
        trained,
        optimizer,
        learning_rate,
    )


def prepare(
    config: ConfigDict,
    log: Callable[[str], None],
    given: Mapping[str, parts.PublishedModel] | None = None,
) -> Run:
    """Mesh, tasks, model, optimizer and the initial state, created where it will live. config, given: from `resolve`."""
    planned = plan(config)
    mesh = sharding.make_mesh(config.sharding.fsdp)
    log(
        f"devices: {jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()}), mesh {dict(mesh.shape)}; "
        f"jax {jax.__version__}, flax {flax.__version__}, optax {optax.__version__}, numpy {np.__version__}"
    )
    values = _starting_weights(config, given or {}, planned.shapes, log)
    values = sharding.place(
        values, sharding.of_tree(mesh, planned.shapes, config.sharding)
    )  # from the host, never whole on one device
    state = jax.jit(planned.initial, out_shardings=_state_shardings(planned, mesh, config))(values)
    _print_parameters(state, log)
    encode = jax.jit(
        lambda p, ids: parameters_lib.merge(planned.graphdef, p).encode_text(ids),
        out_shardings=sharding.replicated(mesh),
    )
    prompts = np.asarray(
        encode({**state.parameters, **state.frozen}, prompt_ids(to_plain(config), planned.tasks))
    )
    return _run(config, planned, mesh, state, prompts)


def abstract(config: ConfigDict, mesh: jax.sharding.Mesh) -> Run:
    """What `prepare` gives, with shapes in place of arrays: for compiling on devices that are not there."""
    planned = plan(config)
    shapes = jax.eval_shape(planned.initial, planned.shapes)
    state = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        _state_shardings(planned, mesh, config),
    )
    ids = prompt_ids(to_plain(config), planned.tasks)
    prompts = jax.eval_shape(
        lambda p: parameters_lib.merge(planned.graphdef, p).encode_text(ids), planned.shapes
    )
    return _run(config, planned, mesh, state, np.zeros(prompts.shape, prompts.dtype))


def _run(config, planned, mesh, state, prompts) -> Run:
    objective, of_batch = (
        make_objective(config, planned.tasks, prompts),
        sharding.batch_sharding(mesh),
    )
    return Run(
        planned.graphdef,
        state,
        planned.optimizer,
        planned.learning_rate,
        objective,
        planned.tasks,
        list(planned.tasks),
        mesh,
        of_batch,
        sharding.rows_of_process(of_batch, config.batch_size, config.optimizer.accum_steps),
    )


def _state_shardings(planned: Plan, mesh, config: ConfigDict) -> State:
    return sharding.of_tree(mesh, jax.eval_shape(planned.initial, planned.shapes), config.sharding)


def check(config: ConfigDict) -> None:
    """Raises ValueError for what would otherwise fail late: after the model is made, or after hours of training."""
    get_tasks(config.tasks.set, [*config.eval.tasks, *config.data.augment.tasks])
    d = config.diffusion
    for field, allowed in (
        ("prediction_type", diffusion.PREDICTION_TYPES),
        ("sampler", diffusion.SAMPLERS),
        ("x_init", diffusion.X_INITS),
        ("schedule", diffusion.SCHEDULES),
    ):
        one_of(d[field], allowed, f"diffusion.{field}")
    if d.prediction_type == "eps" and d.x_init == "zeros":
        raise ValueError(
            "diffusion.prediction_type 'eps' says nothing about the image at t = 1, where diffusion.x_init is 'zeros': "
            "choose prediction_type 'x0' or 'v', or x_init 'gaussian'"
        )
    if d.prototype_weight and config.model.autoencoder:
        raise ValueError(
            f"diffusion.prototype_weight {d.prototype_weight} compares colours, of which latents have none: set it to 0"
        )


def _starting_weights(config, given, shapes, log):
    start = config.model.init_from
    if start and not given:
        _, values = weights.load_weights(start)
        weights.check_fit(values, shapes, f"model.init_from={start}")
        log(f"weights: from {weights.folder_of(start)}")
        return values
    _, values = parameters_lib.split(models.build(model_settings(to_plain(config)), config.seed))
    log(f"weights: from scratch{', but for' if given else ''}")
    return parts.fill(given, values, to_plain(config)["model"]) if given else values


def make_objective(config: ConfigDict, tasks: dict[str, Task], prompts: np.ndarray) -> Objective:
    """The loss of a config. prompts: (tasks, n, d) prompt tokens, of the frozen text encoder."""
    d = config.diffusion
    fields = ("mean", "std", "p_pure_noise")
    laws = np.asarray(
        [[config.tasks.timesteps[name][field] for field in fields] for name in tasks], np.float32
    )
    diffusion.check_timestep_distribution(*laws.T)
    palettes = {
        i: jnp.asarray(task.palette / 127.5 - 1.0)
        for i, task in enumerate(tasks.values())
        if task.palette is not None
    }
    return Objective(
        schedule=make_schedule(config.to_dict()),
        kind=d.prediction_type,
        weight=d.loss_weight,
        weight_settings={},
        mean=jnp.asarray(laws[:, 0]),
        std=jnp.asarray(laws[:, 1]),
        pure=jnp.asarray(laws[:, 2]),
        start=d.x_init,
        task_weight=jnp.asarray([config.tasks.loss_weights[name] for name in tasks], jnp.float32),
        prompts=jnp.asarray(prompts),
        drop_image=d.drop_image,
        drop_text=d.drop_text,
        palettes=palettes if d.prototype_weight else {},
        prototype_weight=d.prototype_weight,
        prototype_temperature=d.prototype_temperature,
        latent=bool(config.model.autoencoder),
    )


def batches(config: ConfigDict, run: Run, first_step: int):
    """The training batches from step `first_step` on, and the sources by task that they are read from."""
    sources = open_sources(config, list(run.tasks), "train")
    batches = loader.training_batches(
        sources,
        run.tasks,
        config.tasks.weights.to_dict(),
        seed=config.seed,
        batch_size=config.batch_size,
        image_size=config.data.image_size,
        target_size=config.model.target_size,
        first_step=first_step,
        rows=run.rows,
        augment=config.data.augment.to_dict(),
        threads=config.data.threads,
        prefetch=config.data.prefetch,
        workers=config.data.workers,
    )
    return _watched(batches), sources


def _watched(batches: Iterator[Mapping]) -> Iterator[Mapping]:
    """What kills a reading process, which is too little memory mostly, is one message."""
    try:
        yield from batches
    except RuntimeError as error:
        found = re.search(
            r"Worker process was terminated unexpectedly with exit code (-?\d+)", str(error)
        )
        if not found:
            raise
        raise ChildProcessError(
            f"a process that reads data died (exit code {found.group(1)}; -9: killed, by the system where memory ran out). The same command goes on "
            "from the last checkpoint; --config.data.workers and --config.data.prefetch say how much is read ahead, workers=0 reads in "
            "threads"
        ) from error


def report_damaged(sources: Mapping[str, Any], log: Callable[[str], None]) -> None:
    """Says how many files this process and its workers left out of training, where `data.on_error` is "skip"."""
    counts = {
        name: len(source.damaged)
        for name, source in sources.items()
        if getattr(source, "damaged", None)
    }
    if counts:
        log(
            f"damaged files left out of training: {', '.join(f'{name} {count}' for name, count in counts.items())}; each was named above"
        )


class CompiledStep:
    """The compiled step, with the memory the compiler says it takes and the FLOP of one image."""

    def __init__(self, compiled, flops_per_image: int):
        self._compiled, self.flops_per_image = compiled, flops_per_image
        self.memory = compiled.memory_analysis()

    def __call__(self, state, batch):
        return self._compiled(state, batch)


def trace_step(run: Run, state: State, config: ConfigDict) -> jax.stages.Traced:
    """Traces the step for arrays like `state`."""
    shardings = jax.tree.map(lambda x: x.sharding, state)
    of_parameters = {**shardings.parameters, **shardings.frozen}
    gather = functools.partial(sharding.gather, shardings=of_parameters, dtype=config.model.dtype)
    step = make_step(
        run.graphdef,
        run.objective,
        run.optimizer,
        seed=config.seed,
        ema_decay=config.optimizer.ema,
        accumulate=config.optimizer.accum_steps,
        gather=gather,
        spread=functools.partial(sharding.spread, mesh=run.mesh),
    )
    s, t, b = config.data.image_size, config.model.target_size, config.batch_size
    shaped = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=run.batch_sharding)
    batch = {
        "image": shaped(jnp.uint8, b, s, s, 3),
        "target": shaped(jnp.float32, b, t, t, 3),
        "mask": shaped(jnp.float32, b, t, t, 1),
        "task": shaped(jnp.int32, b),
    }
    jitted = jax.jit(
        step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(run.mesh))
    )
    with jax.set_mesh(run.mesh):  # attention asks how many devices share the batch
        return jitted.trace(state, batch)


def lower_step(
    run: Run, state: State, config: ConfigDict, platform: str | None = None
) -> jax.stages.Lowered:
    """Lowers the step for the devices of `state`, or for another platform ("cuda")."""
    traced = trace_step(run, state, config)
    with jax.set_mesh(run.mesh):
        return traced.lower(lowering_platforms=platform and (platform,))


def compile_step(
    run: Run, state: State, config: ConfigDict, log: Callable[[str], None]
) -> CompiledStep:
    """Compiles the step before the loop and prints what it costs."""
    began = time.monotonic()
    traced = trace_step(run, state, config)
    cost = flops.count_flops(traced.jaxpr, within="model").total() // config.batch_size
    with jax.set_mesh(run.mesh):
        lowered = traced.lower()
    compiled = CompiledStep(lowered.compile(), cost)
    memory = compiled.memory
    if memory is None:  # the platform does not tell, of a program from the cache for example
        log(f"step compiled in {time.monotonic() - began:.0f} s: {cost / 1e9:,.2f} GFLOP an image")
        return compiled
    log(
        f"step compiled in {time.monotonic() - began:.0f} s: {cost / 1e9:,.2f} GFLOP an image, "
        f"{_gib(memory.argument_size_in_bytes)} state and batch + {_gib(memory.temp_size_in_bytes)} temporaries a device"
    )
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit and memory.argument_size_in_bytes + memory.temp_size_in_bytes > limit:
        log(
            f"WARNING: more than the {_gib(limit)} a device has. "
            + advice(
                config,
                run.mesh.size,
                memory.argument_size_in_bytes,
                memory.temp_size_in_bytes,
                limit,
            )
        )
    return compiled


def _gib(n: float) -> str:
    return f"{n / 2**30:.2f} GiB"


def _print_parameters(state: State, log: Callable[[str], None]) -> None:
    groups: dict[str, list[int]] = {}
    for trained, group in ((1, state.parameters), (0, state.frozen)):
        for path, value in group.items():
            row = groups.setdefault(
                ".".join(path.split(".")[:2]) if path.startswith("unet") else path.split(".")[0],
                [0, 0],
            )
            row[0] += value.size
            row[1] += trained * value.size
    log(f"{'part':28} {'parameters':>12} {'trained':>12}")
    for name, (total, trained) in groups.items():
        log(f"{name:28} {total:12,} {trained:12,}")
    log(
        f"{'all':28} {sum(r[0] for r in groups.values()):12,} {sum(r[1] for r in groups.values()):12,}"
    )


def evaluate(
    config: ConfigDict,
    workdir: pathlib.Path,
    examples: int,
    log: Callable[[str], None],
    *,
    names: Sequence[str] | None = None,
    out_dir: pathlib.Path | None = None,
    steps: int | None = None,
    native: bool = False,
    submission: bool = False,
) -> dict[str, float]:
    """See `generalist.evaluation.workdir.evaluate_workdir`."""
    from generalist.evaluation.workdir import evaluate_workdir

    return evaluate_workdir(
        config,
        workdir,
        examples,
        names=names,
        out_dir=out_dir,
        steps=steps,
        native=native,
        submission=submission,
    )


def report(workdir: pathlib.Path, log: Callable[[str], None]) -> None:
    """Writes `report.html`."""
    from generalist.evaluation import write_report

    log(f"report: {write_report(workdir)}")
