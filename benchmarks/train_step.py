"""A training step of our UNet beside diffusers' with the same weights, inputs and batch.

    PYTHONPATH=. python benchmarks/train_step.py --variants S --runs 5
    PYTHONPATH=. python benchmarks/train_step.py --variants E --batch 8 32
    PYTHONPATH=. python benchmarks/train_step.py --variants A --batch 64 --arms ours+blocks tuned

The first is for a CPU, the others for a GPU, at full size in bfloat16. A step is forward, mean
squared error, backward, AdamW and an average of the weights. The arms:

    ours, ours+products, ours+blocks   with that `remat`
    eager                              diffusers as it comes
    tuned                              torch.compile, channels_last, SDPA and fused AdamW

Variants A, C, W (which diffusers cannot compute) and E are those of docs/configuration.md; S is the
shape of the scenes model. Each run is a process of its own, in turns; compiled programs are kept
from run to run. Prints a row an arm. The losses of the first two steps show that all arms do the
same; if they differ by more than float32's (bfloat16's) rounding explains, or an arm fails, the
exit code is 1. FLOP are counted in the traced program.
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import side_by_side
import unets

ARMS = ("ours", "eager", "tuned")
ADAMW = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
EMA = 0.999
AGREE = {"float32": 1e-3, "bfloat16": 2e-2}  # relative difference of the losses
COLUMNS = (
    "variant",
    "batch",
    "arm",
    "images/s: median (lowest..highest)",
    "images a CPU second",
    "x eager",
    "x tuned",
    "TFLOP/s",
    "of peak",
    "memory, GiB",
    "build, s",
    "loss before and after the first step",
)


# What the processes of the arms do --------------------------------------------------------------


def measure_ours(args, batch: int, remat: str) -> dict:
    """Times our step in this process."""
    import jax
    import jax.numpy as jnp
    import optax

    from generalist.models import parameters

    graphdef, values = unets.ours(args.size, args.variants[0], args.folder, args.dtype, remat)
    optimizer = optax.adamw(**ADAMW)

    def loss_fn(values, batch):
        model = parameters.merge(graphdef, values)
        output = model(batch["x"], batch["timesteps"], model.context(batch["tokens"]))
        return jnp.square(output - batch["target"]).mean()

    def step(state, batch):
        values, ema, moments = state
        loss, gradient = jax.value_and_grad(loss_fn)(values, batch)
        updates, moments = optimizer.update(gradient, moments, values)
        values = optax.apply_updates(values, updates)
        ema = jax.tree.map(lambda e, v: e + (1 - EMA) * (v - e), ema, values)
        return (values, ema, moments), loss

    # The average starts as a copy: the step donates its arguments.
    state = (values, jax.tree.map(jnp.copy, values), optimizer.init(values))
    data = jax.device_put(unets.inputs(args.size, batch))
    began = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()

    def call():
        nonlocal state
        state, loss = compiled(state, data)
        return loss

    result = timed(call, lambda: jax.block_until_ready(state), args.steps, began)
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        result["memory"] = stats["peak_bytes_in_use"]
    return result


def measure_peer(args, batch: int, tune: bool) -> dict:
    """Times the step of diffusers' UNet in this process."""
    import torch

    model = unets.peer(args.size, args.variants[0], args.folder).train().to(args.device)
    parameters = list(model.parameters())
    x = {}
    for name, value in unets.inputs(args.size, batch).items():
        x[name] = torch.from_numpy(value).to(args.device)
    for name in ("x", "target"):
        x[name] = x[name].permute(0, 3, 1, 2).contiguous()

    began = time.perf_counter()
    call_model = model
    if tune:
        call_model, x = unets.tuned(model, x, args.compile_mode)
    optimizer = torch.optim.AdamW(
        parameters,
        ADAMW["learning_rate"],
        (ADAMW["b1"], ADAMW["b2"]),
        ADAMW["eps"],
        ADAMW["weight_decay"],
        **({"fused": True} if tune else {}),
    )
    ema = [value.detach().clone() for value in parameters]

    def call():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            output = call_model(x["x"], x["timesteps"], x["tokens"])
        loss = torch.nn.functional.mse_loss(output.float(), x["target"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, parameters, 1 - EMA)
        return loss.detach()

    def wait():
        if args.device == "cuda":
            torch.cuda.synchronize()

    result = timed(call, wait, args.steps, began)
    if args.device == "cuda":
        result["memory"] = torch.cuda.max_memory_allocated()
    return result


def timed(call: Callable, wait: Callable, steps: int, began: float) -> dict:
    """Times `steps` calls after two that warm up.

    Returns:
      losses of the first two calls, seconds from `began` until then (`build`), seconds and
      processor seconds a call, and the process's peak memory in bytes.
    """
    losses = [float(call()) for _ in range(2)]
    wait()
    ready = time.perf_counter()
    used = time.process_time()
    for _ in range(steps):
        call()
    wait()
    return {
        "losses": losses,
        "build": ready - began,
        "seconds": (time.perf_counter() - ready) / steps,
        "used": (time.process_time() - used) / steps,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


# What the parent process does -------------------------------------------------------------------


def compare(args, variant: str, batch: int, folder: pathlib.Path) -> bool:
    """Prints the rows of a variant and batch; returns whether all arms computed the same."""
    here = prepare(args, variant, folder)
    environment = side_by_side.caches(args.device, folder)
    options = side_by_side.flags(
        size=args.size,
        variants=variant,
        batch=batch,
        steps=args.steps,
        device=args.device,
        dtype=args.dtype,
        compile_mode=args.compile_mode,
        folder=here,
    )

    def measure(arm):
        arguments = ["--measure", arm, *options]
        return side_by_side.arm(__file__, arguments, environment, args.limit)

    def describe(result):
        return f"{variant}, batch {batch}: {batch / result['seconds']:.2f} images/s"

    arms = [arm for arm in args.arms if arm.startswith("ours") or variant != "W"]
    found = side_by_side.rounds(arms, args.runs, measure, describe)
    print_rows(args, variant, batch, found)

    losses = []
    for runs in found.values():
        losses += [run["losses"] for run in runs if "error" not in run]
    apart = 0.0
    for column in zip(*losses, strict=True):
        apart = max(apart, max(column) / min(column) - 1)
    if apart > AGREE[args.dtype]:
        print(
            f"{variant}, batch {batch}: the arms do not compute the same: "
            f"losses differ by {apart:.1e} of themselves",
            flush=True,
        )
    failed = any("error" in run for runs in found.values() for run in runs)
    return not failed and apart <= AGREE[args.dtype]


def prepare(args, variant: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes the weights of a variant, where they are not written yet; returns their folder."""
    here = folder / variant
    if not here.exists():
        here.mkdir()
        options = side_by_side.flags(size=args.size, variants=variant, folder=here)
        made = side_by_side.arm(
            __file__, ["--prepare", *options], {"JAX_PLATFORMS": "cpu"}, args.limit
        )
        if "error" in made:
            raise SystemExit(f"{variant}: {made['error']}")
    return here


def print_rows(args, variant: str, batch: int, found: dict[str, list[dict]]) -> None:
    """Prints a row an arm."""
    flops = training_flops(args.size, variant)
    rates = {}
    for arm, runs in found.items():
        if not any("error" in run for run in runs):
            rates[arm] = [batch / run["seconds"] for run in runs]

    for arm, runs in found.items():
        if arm not in rates:
            empty = ["-"] * (len(COLUMNS) - 4)
            side_by_side.row(variant, batch, arm, f"failed: {runs[-1]['error']}", *empty)
            continue

        middle = statistics.median(rates[arm])
        against = []
        for other in ("eager", "tuned"):
            known = other in rates
            against.append(f"{middle / statistics.median(rates[other]):.2f}" if known else "-")
        used = statistics.median(run["used"] for run in runs)
        before, after = runs[0]["losses"]
        side_by_side.row(
            variant,
            batch,
            arm,
            side_by_side.spread(rates[arm]),
            f"{batch / used:.2f}" if args.device == "cpu" else "-",
            *against,
            f"{middle * flops / 1e12:.3f}",
            f"{middle * flops / args.peak / 1e12:.1%}" if args.peak else "-",
            f"{min(run['memory'] for run in runs) / 2**30:.2f}",
            f"{runs[0]['build']:.0f}",
            f"{before:.5f}, {after:.5f}",
        )
    if variant == "W":
        empty = ["-"] * (len(COLUMNS) - 4)
        side_by_side.row(variant, batch, "diffusers", "has no windows", *empty)


def training_flops(size: str, variant: str) -> int:
    """Returns the FLOP of one image and step; the inputs are data, the UNet learns."""
    import jax

    from generalist.models import flops, parameters
    from generalist.models.layers import HostRngs
    from generalist.models.unet import UNet

    # The arms need the GPU for themselves.
    jax.config.update("jax_platforms", "cpu")

    def make_unet():
        return UNet(**unets.settings(size, variant), rngs=HostRngs(None))

    graphdef, shapes = parameters.abstract(make_unet)

    def loss(weights, x, target, timesteps, tokens):
        prediction = parameters.merge(graphdef, weights)(x, timesteps, tokens)
        return ((prediction - target) ** 2).mean()

    inputs = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in unets.inputs(size, 1).items()
    }
    program = jax.make_jaxpr(jax.value_and_grad(loss))(shapes, **inputs)
    return flops.count_flops(program).total()


def parse() -> argparse.Namespace:
    """Reads the command line and fills in what follows from the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size", choices=list(unets.SIZES), help="of the UNet (default: full on a GPU, else small)"
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=list(unets.VARIANTS),
        help="default: A C W E, and S where small",
    )
    parser.add_argument(
        "--arms",
        nargs="+",
        default=ARMS,
        choices=["ours", "ours+products", "ours+blocks", "eager", "tuned"],
    )
    parser.add_argument("--batch", type=int, nargs="+", help="default: 8 and 32 on a GPU, else 4")
    parser.add_argument(
        "--steps", type=int, help="timed in each run (default: 50 on a GPU, else 3)"
    )
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--dtype",
        choices=list(AGREE),
        help="of the computation (default: bfloat16 on a GPU, else float32)",
    )
    parser.add_argument(
        "--peak",
        type=float,
        help="TFLOP/s of the device (default: 989 on a GPU, an H200's in bfloat16; else none)",
    )
    parser.add_argument(
        "--compile-mode", default="default", help="of torch.compile, such as max-autotune"
    )
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds after which a run counts as failed"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    args = parser.parse_args()

    args.device = side_by_side.device(args.device)
    on_gpu = args.device == "cuda"
    args.size = args.size or ("full" if on_gpu else "small")
    if args.variants is None:
        args.variants = [name for name in unets.VARIANTS if name != "S" or args.size == "small"]
    args.batch = args.batch or ([8, 32] if on_gpu else [4])
    args.steps = args.steps or (50 if on_gpu else 3)
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    args.peak = args.peak or (989.0 if on_gpu else None)
    return args


def measure_arm(args) -> dict:
    """Times the arm `args.measure` in this process."""
    arm, _, remat = args.measure.partition("+")
    if arm == "ours":
        return measure_ours(args, args.batch[0], remat or "none")
    return measure_peer(args, args.batch[0], tune=arm == "tuned")


def main() -> int:
    """Prints the table; returns the exit code."""
    args = parse()
    if args.prepare:
        unets.prepare(args.size, args.variants[0], args.folder)
        return 0
    if args.measure:
        print(json.dumps(measure_arm(args)))
        return 0

    print(
        f"{side_by_side.machine(('jax', 'torch', 'diffusers'))}; {args.size}, {args.dtype} on "
        f"{args.device}, {args.runs} runs of {args.steps} steps"
    )
    side_by_side.header(*COLUMNS)
    same = []
    with tempfile.TemporaryDirectory() as folder:
        for variant in args.variants:
            for batch in args.batch:
                same.append(compare(args, variant, batch, pathlib.Path(folder)))
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
