"""`--mode=compile`: what the training step and the sampling step need on a machine that is not there.

The compiler of the TPU runs without a TPU (`pip install -e '.[tpu]'`), that of NVIDIA's GPUs without a GPU (`'.[cuda12]'`, `'.[cuda13]'`);
nothing is allocated, shapes stand for all arrays.
"""

import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from ml_collections import ConfigDict

from generalist.devices import mesh as sharding
from generalist.devices.memory import GIB, GPU_SHARE, advice
from generalist.inference.generalist import SETTINGS, make_sampler
from generalist.models import attention
from generalist.training import setup
from generalist.training.workdir import to_plain

HBM = {
    "v4": 32,
    "v5e": 16,
    "v5p": 95,
    "v6e": 32,
    "h100": 79,
    "h200": 140,
}  # GiB a chip: Cloud TPU's documentation, what the GPUs report
BANDWIDTH = {"h100": 3_352_320_000_000, "h200": 4_800_000_000_000}  # bytes a second
USABLE = {
    chip: round(gib * GPU_SHARE, 1) if chip in BANDWIDTH else gib for chip, gib in HBM.items()
}
# XLA's description of a GPU (stream_executor's GpuTargetConfigProto): an H100 or H200.
HOPPER = """platform_name: "CUDA" device_description_str: "NVIDIA {name}"
dnn_version_info {{ major: 9 minor: 10 }} runtime_version {{ major: 12 minor: 9 }}
gpu_device_info {{ cuda_compute_capability {{ major: 9 }} core_count: 132 fpus_per_core: 128 threads_per_warp: 32 threads_per_block_limit: 1024
threads_per_core_limit: 2048 shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448 shared_memory_per_core: 233472
registers_per_block_limit: 65536 registers_per_core_limit: 65536 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
clock_rate_ghz: 1.98 l2_cache_size: 52428800 memory_bandwidth: {bandwidth} device_memory_size: {memory} }}"""
# Without a GPU there is nothing to time kernels on, and Triton's have no other way to choose their tiles.
UNTIMED = {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
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
}  # others: 4


class Cost(NamedTuple):
    """Of one program on one device: memory in bytes and whether it fits, FLOP (0: not told), {collective: (count, bytes)}, seconds to compile.

    state: arguments, of which results reuse what they can (0: refused). temporaries: the most that lives at once besides them.
    """

    state: int
    temporaries: int
    fits: bool
    flops: float
    collectives: dict[str, tuple[int, int]]
    seconds: float


def run(config: ConfigDict, topology: str, log: Callable[[str], None]) -> dict[str, Cost]:
    """Compiles both steps of `config` for a topology ("v5e:16x16", "v5p:4x4x4", "h200:8"; "cuda" is only lowered) and says what they need.

    Raises ValueError for a topology that the compiler does not know, ImportError without the compiler.
    """
    config, _ = setup.resolve(config)
    if topology == "cuda":
        return _lower_for_cuda(config, log)
    chip = topology.partition(":")[0]
    mesh = sharding.make_mesh(config.sharding.fsdp, devices(topology))
    prepared = setup.abstract(config, mesh)
    log(
        f"{topology}: {mesh.size} chips, mesh {dict(mesh.shape)}, batch {config.batch_size} ({config.batch_size / mesh.size:g} a chip)"
    )
    # There is no GPU to try flash attention on.
    with attention.assume_flash(chip in BANDWIDTH):
        programs = {
            "training": setup.lower_step(prepared, prepared.state, config),
            "sampling": _lower_sampling(config, prepared),
        }

    costs = {}
    for name, lowered in programs.items():
        costs[name] = cost(lowered, USABLE[chip] * GIB, UNTIMED if chip in BANDWIDTH else {})
        for line in describe(name, costs[name], USABLE[chip]):
            log(line)
    if not costs["training"].fits:
        state, temporaries, *_ = costs["training"]
        log(advice(config, mesh.size, state, temporaries, USABLE[chip] * GIB))
    return costs


def devices(topology: str):
    """The devices of a topology such as "v5e:16x16" or, of hosts and their GPUs, "h200:4x8", which need not exist."""
    chip = topology.partition(":")[0]
    if chip not in HBM:
        raise ValueError(
            f"--topology={topology}: choose 'cuda', or a chip of {', '.join(HBM)} with its grid, such as v5e:16x16 or h200:8"
        )
    find = _gpus if chip in BANDWIDTH else _tpus
    try:
        return find(topology)
    except (ImportError, NotImplementedError) as error:
        extra, package = ("cuda12", "jax[cuda12]") if chip in BANDWIDTH else ("tpu", "libtpu")
        raise ImportError(
            f"--topology={topology} needs the compiler: pip install -e '.[{extra}]', or pip install '{package}'"
        ) from error
    except Exception as error:  # whatever the plugin raises
        raise ValueError(f"--topology={topology}: {str(error).splitlines()[0]}") from error


def _tpus(topology: str):
    import libtpu  # noqa: F401

    for name, value in (
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
    ):
        os.environ.setdefault(name, value)  # libtpu asks for a machine, and takes any
    return topologies.get_topology_desc(topology, "tpu").devices


def _gpus(topology: str):
    chip, _, grid = topology.partition(":")
    hosts, _, gpus = grid.rpartition("x")
    target = HOPPER.format(name=chip.upper(), bandwidth=BANDWIDTH[chip], memory=HBM[chip] * GIB)
    jax.config.update("jax_platforms", "cpu")  # else JAX looks for a GPU first, and gives up
    return topologies.get_topology_desc(
        platform="cuda", topology=f"1x{hosts or 1}x{gpus or 1}", target_config=target
    ).devices


def _lower_sampling(config: ConfigDict, prepared: setup.Run, platform: str | None = None):
    """One evaluation batch by the config's sampler, weights whole on every device; for another platform as `setup.lower_step`."""
    whole, b = sharding.replicated(prepared.mesh), config.eval.batch_size
    b += -b % prepared.mesh.size
    shaped = lambda shape, dtype, where=prepared.batch_sharding: jax.ShapeDtypeStruct(
        shape, dtype, sharding=where
    )
    parameters = {**prepared.state.ema, **prepared.state.frozen}
    parameters = {path: shaped(x.shape, x.dtype, whole) for path, x in sorted(parameters.items())}
    side, d = config.data.image_size, config.diffusion
    sample = jax.jit(
        make_sampler(to_plain(config), prepared.graphdef),
        static_argnames=SETTINGS,
        out_shardings=whole,
    )
    with jax.set_mesh(prepared.mesh):
        traced = sample.trace(
            parameters,
            shaped((b, side, side, 3), jnp.uint8),
            shaped((b, *prepared.objective.prompts.shape[1:]), jnp.float32),
            shaped((), jnp.uint32, whole),
            steps=d.steps,
            sampler=d.sampler,
            x_init=d.x_init,
        )
        return traced.lower(lowering_platforms=platform and (platform,))


def cost(lowered, limit: float, options: dict | None = None) -> Cost:
    """Compiles a lowered program, with `options`. What the compiler refuses for want of memory is a Cost that does not fit `limit` bytes."""
    began = time.monotonic()
    try:
        compiled = lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMG]) of", str(error))
        if used is None:
            raise
        total = int(float(used[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[used[2]])
        return Cost(0, total, False, 0.0, {}, time.monotonic() - began)
    memory = compiled.memory_analysis()
    state = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes
    return Cost(
        state,
        temporaries,
        state + temporaries <= limit,
        (compiled.cost_analysis() or {}).get("flops", 0.0),
        collectives(compiled.as_text()),
        time.monotonic() - began,
    )


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Text of a compiled program -> {kind: (count, bytes of what a device receives)}. What is in a loop counts once.

    An all-gather that the compiler spreads over several fusions, to hide it behind their work, stands in each of them with the same channel;
    those of other kinds share channels though they are several.
    """
    found, channels = {}, set()
    for result, kind, start, rest in re.findall(
        rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\((.*)", hlo
    ):
        channel = re.search(r"channel_id=\d+", rest)
        if kind == "all-gather" and channel:
            if channel[0] in channels:
                continue
            channels.add(channel[0])
        shapes = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", re.sub(r"\{[^{}]*\}", "", result))
        if start and kind != "all-reduce":
            shapes = shapes[len(shapes) // 2 :]  # (operands, results)
        size = sum(BYTES.get(dtype, 4) * _product(dims) for dtype, dims in shapes)
        count, total = found.get(kind, (0, 0))
        found[kind] = count + 1, total + size
    return dict(sorted(found.items()))


def _product(dims: str) -> int:
    product = 1
    for dim in filter(None, dims.split(",")):
        product *= int(dim)
    return product


def describe(name: str, c: Cost, hbm: float) -> list[str]:
    """What a person wants to know of a cost, in lines."""
    if not c.state:
        return [
            f"{name}: DOES NOT FIT: {c.temporaries / GIB:.2f} GiB of {hbm} GiB a chip; refused after {c.seconds:.0f} s"
        ]
    total = c.state + c.temporaries
    moved = (
        ", ".join(
            f"{count} {kind} ({size / 2**20:,.1f} MiB)"
            for kind, (count, size) in c.collectives.items()
        )
        or "none"
    )
    work = f"{c.flops / 1e9:,.2f} GFLOP a chip; " if c.flops else ""
    return [
        f"{name}: {'fits' if c.fits else 'DOES NOT FIT'}: {total / GIB:.2f} GiB of {hbm} GiB a chip "
        f"({c.state / GIB:.2f} state and batch + {c.temporaries / GIB:.2f} temporaries), {work}"
        f"compiled in {c.seconds:.0f} s",
        f"{name}: collectives: {moved}",
    ]


def _lower_for_cuda(config: ConfigDict, log: Callable[[str], None]) -> dict[str, Cost]:
    """Lowers both steps to StableHLO for CUDA: shows that they can be built there; memory is known only to the GPU's compiler."""
    mesh = sharding.make_mesh(1, jax.local_devices()[:1])
    prepared = setup.abstract(config, mesh)
    for name, lowered, batch in (
        ("training", setup.lower_step(prepared, prepared.state, config, "cuda"), config.batch_size),
        ("sampling", _lower_sampling(config, prepared, "cuda"), config.eval.batch_size),
    ):
        flops = (lowered.cost_analysis() or {}).get("flops", 0.0) / batch
        log(
            f"cuda: the {name} step lowers to {len(lowered.as_text()):,} characters of StableHLO for one GPU; {flops / 1e9:,.2f} GFLOP an image"
        )
    log(
        "cuda: memory is printed when a run starts there; --topology=h100:N or h200:N asks the compiler"
    )
    return {}
