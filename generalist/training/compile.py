"""`--mode=compile`: what the training step and the sampling step need on a machine that is not there.

The compiler of the TPU runs without a TPU (`pip install -e '.[tpu]'`); nothing is allocated, shapes stand for all arrays.
"""

import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from generalist.inference.generalist import SETTINGS, make_sampler
from generalist.training import setup, sharding
from generalist.training.memory import GIB, advice
from generalist.training.workdir import to_plain

HBM = {"v4": 32, "v5e": 16, "v5p": 95, "v6e": 32}  # GiB a chip, as in Cloud TPU's documentation
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}  # others: 4


class Cost(NamedTuple):
    """Of one program on one device: memory in bytes and whether it fits, FLOP (0: refused), {collective: (count, bytes)}, seconds to compile.

    state: arguments, of which results reuse what they can. temporaries: the most that lives at once besides them.
    """

    state: int
    temporaries: int
    fits: bool
    flops: float
    collectives: dict[str, tuple[int, int]]
    seconds: float


def run(config: ConfigDict, topology: str, log: Callable[[str], None]) -> dict[str, Cost]:
    """Compiles both steps of `config` for a topology ("v5e:16x16", "v5p:4x4x4", "v6e:16x16"; "cuda" is only lowered) and says what they need.

    Raises ValueError for a topology that the compiler does not know, ImportError without libtpu.
    """
    config, _ = setup.resolve(config)
    if topology == "cuda":
        return _lower_for_cuda(config, log)
    chip = topology.partition(":")[0]
    mesh = sharding.make_mesh(config.sharding.fsdp, tpu_devices(topology))
    prepared = setup.abstract(config, mesh)
    log(f"{topology}: {mesh.size} chips, mesh {dict(mesh.shape)}, batch {config.batch_size} ({config.batch_size / mesh.size:g} a chip)")
    costs = {}
    for name, lowered in (("training", setup.lower_step(prepared, prepared.state, config)), ("sampling", _lower_sampling(config, prepared))):
        costs[name] = cost(lowered, HBM[chip] * GIB)
        for line in describe(name, costs[name], HBM[chip]):
            log(line)
    if not costs["training"].fits:
        state, temporaries, *_ = costs["training"]
        log(advice(config, mesh.size, state, temporaries, HBM[chip] * GIB))
    return costs


def tpu_devices(topology: str):
    """The devices of a topology such as "v5e:16x16", which need not exist."""
    chip = topology.partition(":")[0]
    if chip not in HBM:
        raise ValueError(f"--topology={topology}: choose 'cuda', or a chip of {', '.join(HBM)} with its grid, such as v5e:16x16 or v5p:4x4x4")
    try:
        import libtpu  # noqa: F401
    except ImportError as error:
        raise ImportError(f"--topology={topology} needs the TPU compiler: pip install -e '.[tpu]', or pip install libtpu") from error
    for name, value in (("TPU_SKIP_MDS_QUERY", "1"), ("TPU_WORKER_HOSTNAMES", "localhost"), ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
                        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")):
        os.environ.setdefault(name, value)  # libtpu asks for a machine, and takes any
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology, "tpu").devices
    except Exception as error:  # whatever the plugin raises
        raise ValueError(f"--topology={topology}: {str(error).splitlines()[0]}") from error


def _lower_sampling(config: ConfigDict, prepared: setup.Run):
    """One evaluation batch by the config's sampler, weights whole on every device."""
    whole, b = sharding.replicated(prepared.mesh), config.eval.batch_size
    b += -b % prepared.mesh.size
    shaped = lambda shape, dtype, where=prepared.batch_sharding: jax.ShapeDtypeStruct(shape, dtype, sharding=where)
    parameters = {**prepared.state.ema, **prepared.state.frozen}
    parameters = {path: shaped(x.shape, x.dtype, whole) for path, x in sorted(parameters.items())}
    side, d = config.data.image_size, config.diffusion
    sample = jax.jit(make_sampler(to_plain(config), prepared.graphdef), static_argnames=SETTINGS, out_shardings=whole)
    return sample.lower(parameters, shaped((b, side, side, 3), jnp.uint8), shaped((b, *prepared.objective.prompts.shape[1:]), jnp.float32),
                        shaped((), jnp.uint32, whole), steps=d.steps, sampler=d.sampler, start=d.start)


def cost(lowered, limit: int) -> Cost:
    """Compiles a lowered program. What the compiler refuses for want of memory is a Cost that does not fit `limit` bytes."""
    began = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        used = re.search(r"Used ([\d.]+)([KMG]) of", str(error))
        if used is None:
            raise
        total = int(float(used[1]) * {"K": 2**10, "M": 2**20, "G": GIB}[used[2]])
        return Cost(0, total, False, 0.0, {}, time.monotonic() - began)
    memory = compiled.memory_analysis()
    state = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes
    return Cost(state, temporaries, state + temporaries <= limit, (compiled.cost_analysis() or {}).get("flops", 0.0),
                collectives(compiled.as_text()), time.monotonic() - began)


def collectives(hlo: str) -> dict[str, tuple[int, int]]:
    """Text of a compiled program -> {kind: (count, bytes of what a device receives)}. What is in a loop counts once."""
    found = {}
    for result, kind, start in re.findall(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", hlo):
        shapes = re.findall(r"([a-z]+\d*)\[([\d,]*)\]", re.sub(r"\{[^{}]*\}", "", result))
        if start and kind != "all-reduce":
            shapes = shapes[len(shapes) // 2:]  # (operands, results)
        size = sum(BYTES.get(dtype, 4) * _product(dims) for dtype, dims in shapes)
        count, total = found.get(kind, (0, 0))
        found[kind] = count + 1, total + size
    return dict(sorted(found.items()))


def _product(dims: str) -> int:
    product = 1
    for dim in filter(None, dims.split(",")):
        product *= int(dim)
    return product


def describe(name: str, c: Cost, hbm: int) -> list[str]:
    """What a person wants to know of a cost, in lines."""
    if not c.flops:
        return [f"{name}: DOES NOT FIT: {c.temporaries / GIB:.2f} GiB of {hbm} GiB a chip; refused after {c.seconds:.0f} s"]
    total = c.state + c.temporaries
    moved = ", ".join(f"{count} {kind} ({size / 2**20:,.1f} MiB)" for kind, (count, size) in c.collectives.items()) or "none"
    return [f"{name}: {'fits' if c.fits else 'DOES NOT FIT'}: {total / GIB:.2f} GiB of {hbm} GiB a chip "
            f"({c.state / GIB:.2f} state and batch + {c.temporaries / GIB:.2f} temporaries), {c.flops / 1e9:,.2f} GFLOP a chip; "
            f"compiled in {c.seconds:.0f} s",
            f"{name}: collectives: {moved}"]


def _lower_for_cuda(config: ConfigDict, log: Callable[[str], None]) -> dict[str, Cost]:
    """Lowers the training step to StableHLO for CUDA: shows that it can be built there; memory is known only to the GPU's compiler."""
    mesh = sharding.make_mesh(1, jax.local_devices()[:1])
    prepared = setup.abstract(config, mesh)
    lowered = setup.lower_step(prepared, prepared.state, config, platform="cuda")
    log(f"cuda: the training step lowers to {len(lowered.as_text()):,} characters of StableHLO for one GPU; "
        f"{(lowered.cost_analysis() or {}).get('flops', 0.0) / config.batch_size / 1e9:,.2f} GFLOP an image. "
        "Its memory is printed when a run starts there.")
    return {}
