"""`--mode=compile`: what the training and sampling steps need on a machine that is not there.

The compiler of the TPU runs without a TPU (`pip install -e '.[tpu]'`), that of NVIDIA's GPUs
without a GPU (`'.[cuda12]'`, `'.[cuda13]'`). Nothing is allocated: shapes stand for all arrays.
"""

import functools
import logging
import os
import re
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from ml_collections import ConfigDict

from generalist import models
from generalist.devices import mesh as mesh_lib
from generalist.devices.memory import GIB, GPU_SHARE, advice
from generalist.inference.sampler import STATIC_ARGUMENTS, make_sampler
from generalist.models import attention
from generalist.models import parameters as parameters_lib
from generalist.names import first_line
from generalist.pretrained.parts import read_parts
from generalist.recipe import Recipe
from generalist.training.ahead_of_time import batch_shapes, trace_step
from generalist.training.optimizer import make_optimizer, trainable
from generalist.training.state import State, abstract_state, in_step, text_encoder
from generalist.training.step import make_step

logger = logging.getLogger("generalist")

# GiB a chip: Cloud TPU's documentation, and what the GPUs report.
HBM = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32, "h100": 79, "h200": 140}
BANDWIDTH = {"h100": 3_352_320_000_000, "h200": 4_800_000_000_000}  # bytes a second, GPUs only

# XLA's description of a GPU (stream_executor's GpuTargetConfigProto): an H100 or H200.
HOPPER = """platform_name: "CUDA" device_description_str: "NVIDIA {name}"
dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 12 minor: 9 }}
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132
  fpus_per_core: 128
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  clock_rate_ghz: 1.98
  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
}}"""
# Without a GPU there is nothing to time kernels on, and Triton's have no other way to choose their
# tiles.
UNTIMED = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Of an element; all other types have 4.
BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}


class Traffic(NamedTuple):
    """What the collectives of one name move: how many there are, bytes that a device receives."""

    count: int
    bytes: int


class Cost(NamedTuple):
    """What one program needs on one device.

    Attributes:
      state: bytes of its arguments, of which results reuse what they can; 0 if it was refused.
      temporaries: the most bytes that live at once besides them.
      fits: whether that is within the limit.
      flops: floating-point operations; 0 if the compiler does not say.
      collectives: by their name in HLO, such as "all-gather".
      seconds: to compile.
    """

    state: int
    temporaries: int
    fits: bool
    flops: float
    collectives: dict[str, Traffic]
    seconds: float


class Programs(NamedTuple):
    """The two steps of a recipe, lowered for some devices."""

    training: jax.stages.Lowered
    sampling: jax.stages.Lowered


def usable_memory(chip: str) -> float:
    """GiB of a chip that JAX takes."""
    return round(HBM[chip] * GPU_SHARE, 1) if chip in BANDWIDTH else HBM[chip]


def compile_for(config: ConfigDict, topology: str) -> dict[str, Cost]:
    """Compiles both steps of `config` for a topology and logs what they need.

    Args:
      config: as configs/multitask.py gives it.
      topology: "v5e:16x16", "v5p:4x4x4", "h200:8"; "cuda" is only lowered.

    Raises:
      ValueError: the compiler does not know the topology.
      ImportError: the compiler is not installed.
    """
    published = read_parts(config.model.init_from)
    recipe = Recipe.from_config(config, published)
    if topology == "cuda":
        _lower_for_cuda(recipe)
        return {}

    config = recipe.config
    chip = topology.partition(":")[0]
    mesh = mesh_lib.make_mesh(config.sharding.fsdp, devices(topology))
    logger.info(
        f"{topology}: {mesh.size} chips, mesh {dict(mesh.shape)}, batch {config.batch_size} "
        f"({config.batch_size / mesh.size:g} a chip)"
    )

    limit = usable_memory(chip)
    options = UNTIMED if chip in BANDWIDTH else {}
    costs = {}

    # There is no GPU to try flash attention on.
    with attention.assume_flash(chip in BANDWIDTH):
        programs = lower_programs(recipe, mesh)
    for name, lowered in programs._asdict().items():
        costs[name] = measure(lowered, limit * GIB, options)
        for line in describe(name, costs[name], limit):
            logger.info(line)

    training = costs["training"]
    if not training.fits:
        logger.info(advice(config, mesh.size, training.state, training.temporaries, limit * GIB))
    return costs


def lower_programs(
    recipe: Recipe, mesh: jax.sharding.Mesh, platform: str | None = None
) -> Programs:
    """Lowers the training step and the sampling step, as the loop and evaluation make them.

    Args:
      recipe: what to train.
      mesh: of devices that need not exist.
      platform: "cuda", say, to lower for other devices than the mesh's.
    """
    config = recipe.config

    # Model, optimizer and state, as shapes.
    graphdef, shapes = parameters_lib.abstract(lambda: models.build(recipe.model))
    trained = trainable(recipe.frozen, shapes)
    optimizer, _ = make_optimizer(config.optimizer, trained, config.total_steps, known=list(shapes))
    target = abstract_state(shapes, trained, optimizer, mesh, config.sharding)
    state = in_step(target, recipe.own_prompts)

    def encode(values):
        return parameters_lib.merge(graphdef, values).encode_text(recipe.prompt_ids())

    prompts = jax.eval_shape(encode, shapes)
    step = make_step(
        graphdef,
        recipe.objective(np.zeros(prompts.shape, prompts.dtype)),
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
    batch = batch_shapes(recipe, mesh_lib.batch_sharding(mesh))
    training = trace_step(step, state, batch, mesh)
    sampling = _trace_sampling(recipe, graphdef, target, prompts.shape[1:], mesh)
    platforms = (platform,) if platform else None
    with jax.set_mesh(mesh):
        return Programs(
            training=training.lower(lowering_platforms=platforms),
            sampling=sampling.lower(lowering_platforms=platforms),
        )


def _trace_sampling(
    recipe: Recipe,
    graphdef,
    state: State,
    prompt_shape: tuple[int, ...],
    mesh: jax.sharding.Mesh,
) -> jax.stages.Traced:
    """One evaluation batch by the config's sampler; weights are whole on every device."""
    config = recipe.config
    whole = mesh_lib.replicated(mesh)
    split = mesh_lib.batch_sharding(mesh)
    b = config.eval.batch_size
    b += -b % mesh.size
    side = config.data.image_size
    target = config.model.target_size

    weights = {
        path: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
        for path, x in sorted(state.averaged_weights.items())
    }
    images = jax.ShapeDtypeStruct((b, side, side, 3), jnp.uint8, sharding=split)
    pictures = jax.ShapeDtypeStruct((b, target, target, 3), jnp.uint8, sharding=split)
    prompts = jax.ShapeDtypeStruct((b, *prompt_shape), jnp.float32, sharding=split)
    seed = jax.ShapeDtypeStruct((), jnp.uint32, sharding=whole)
    sees_image = None
    if not all(task.sees_image for task in recipe.tasks.values()):
        sees_image = jax.ShapeDtypeStruct((b,), jnp.float32, sharding=split)

    sample = jax.jit(
        make_sampler(recipe, graphdef), static_argnames=STATIC_ARGUMENTS, out_shardings=whole
    )
    with jax.set_mesh(mesh):
        return sample.trace(
            weights,
            images,
            pictures,
            prompts,
            seed,
            sees_image,
            steps=recipe.sampling.steps,
            sampler=recipe.sampling.sampler,
        )


def devices(topology: str):
    """Returns the devices of a topology, which need not exist.

    topology: "v5e:16x16" or, hosts and their GPUs, "h200:4x8".
    """
    chip = topology.partition(":")[0]
    if chip not in HBM:
        raise ValueError(
            f"--topology={topology}: choose 'cuda', or a chip of {', '.join(HBM)} with its grid, "
            "such as v5e:16x16 or h200:8"
        )

    is_gpu = chip in BANDWIDTH
    try:
        return _gpus(topology) if is_gpu else _tpus(topology)
    except (ImportError, NotImplementedError) as error:
        extra = "cuda12" if is_gpu else "tpu"
        package = "jax[cuda12]" if is_gpu else "libtpu"
        raise ImportError(
            f"--topology={topology} needs the compiler: pip install -e '.[{extra}]', "
            f"or pip install '{package}'"
        ) from error
    except Exception as error:  # whatever the plugin raises
        raise ValueError(f"--topology={topology}: {first_line(error)}") from error


def _tpus(topology: str):
    import libtpu  # noqa: F401

    # libtpu asks what machine it runs on, and takes any answer.
    machine = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for name, value in machine.items():
        os.environ.setdefault(name, value)
    return topologies.get_topology_desc(topology, "tpu").devices


def _gpus(topology: str):
    chip, _, grid = topology.partition(":")
    hosts, _, gpus = grid.rpartition("x")
    target = HOPPER.format(name=chip.upper(), bandwidth=BANDWIDTH[chip], memory=HBM[chip] * GIB)
    jax.config.update("jax_platforms", "cpu")  # else JAX looks for a GPU first, and gives up
    return topologies.get_topology_desc(
        platform="cuda", topology=f"1x{hosts or 1}x{gpus or 1}", target_config=target
    ).devices


def measure(lowered: jax.stages.Lowered, limit: float, options: dict | None = None) -> Cost:
    """Compiles a lowered program and returns what it needs.

    Args:
      lowered: the program.
      limit: bytes a device has. A program that the compiler refuses for want of memory has a Cost
        that does not fit.
      options: of the compiler.
    """
    began = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMG]) of", str(error))
        if used is None:
            raise
        unit = {"K": 2**10, "M": 2**20, "G": GIB}[used[2]]
        return Cost(
            state=0,
            temporaries=int(float(used[1]) * unit),
            fits=False,
            flops=0.0,
            collectives={},
            seconds=time.monotonic() - began,
        )

    memory = compiled.memory_analysis()
    state = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Cost(
        state=state,
        temporaries=memory.temp_size_in_bytes,
        fits=state + memory.temp_size_in_bytes <= limit,
        flops=(compiled.cost_analysis() or {}).get("flops", 0.0),
        collectives=count_collectives(compiled.as_text()),
        seconds=time.monotonic() - began,
    )


def count_collectives(hlo: str) -> dict[str, Traffic]:
    """Counts the collectives in the text of a compiled program. What is in a loop counts once.

    An all-gather that the compiler spreads over several fusions, to hide it behind their work,
    stands in each of them with the same channel. Those of other names share channels though they
    are several.
    """
    found: dict[str, Traffic] = {}
    channels = set()
    names = "|".join(COLLECTIVES)
    for result, name, start, rest in re.findall(rf"= (.*?) ({names})(-start)?\((.*)", hlo):
        channel = re.search(r"channel_id=\d+", rest)
        if name == "all-gather" and channel:
            if channel[0] in channels:
                continue
            channels.add(channel[0])

        # Shapes such as bf16[64,32], without the layouts in braces.
        shapes = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", re.sub(r"\{[^{}]*\}", "", result))
        if start and name != "all-reduce":
            shapes = shapes[len(shapes) // 2 :]  # (operands, results)
        size = sum(BYTES.get(dtype, 4) * _product(dims) for dtype, dims in shapes)

        before = found.get(name, Traffic(0, 0))
        found[name] = Traffic(before.count + 1, before.bytes + size)
    return dict(sorted(found.items()))


def _product(dims: str) -> int:
    product = 1
    for dim in filter(None, dims.split(",")):
        product *= int(dim)
    return product


def describe(name: str, cost: Cost, hbm: float) -> list[str]:
    """Returns what a person wants to know of a cost, in lines. hbm: GiB a chip."""
    if not cost.state:
        return [
            f"{name}: DOES NOT FIT: {cost.temporaries / GIB:.2f} GiB of {hbm} GiB a chip; "
            f"refused after {cost.seconds:.0f} s"
        ]

    verdict = "fits" if cost.fits else "DOES NOT FIT"
    work = f"{cost.flops / 1e9:,.2f} GFLOP a chip; " if cost.flops else ""
    moved = [
        f"{traffic.count} {kind} ({traffic.bytes / 2**20:,.1f} MiB)"
        for kind, traffic in cost.collectives.items()
    ]
    return [
        f"{name}: {verdict}: {(cost.state + cost.temporaries) / GIB:.2f} GiB of {hbm} GiB a chip "
        f"({cost.state / GIB:.2f} state and batch + {cost.temporaries / GIB:.2f} temporaries), "
        f"{work}compiled in {cost.seconds:.0f} s",
        f"{name}: collectives: {', '.join(moved) or 'none'}",
    ]


def _lower_for_cuda(recipe: Recipe) -> None:
    """Lowers both steps to StableHLO for CUDA: shows that they can be built there.

    Their memory is known only to the GPU's compiler.
    """
    mesh = mesh_lib.make_mesh(1, jax.local_devices()[:1])
    programs = lower_programs(recipe, mesh, "cuda")
    batch_sizes = {
        "training": recipe.config.batch_size,
        "sampling": recipe.config.eval.batch_size,
    }

    for name, lowered in programs._asdict().items():
        flops = (lowered.cost_analysis() or {}).get("flops", 0.0) / batch_sizes[name]
        logger.info(
            f"cuda: the {name} step lowers to {len(lowered.as_text()):,} characters of StableHLO "
            f"for one GPU; {flops / 1e9:,.2f} GFLOP an image"
        )

    logger.info(
        "cuda: memory is printed when a run starts there; --topology=h100:N or h200:N asks the "
        "compiler"
    )
