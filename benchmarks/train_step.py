"""A training step of our UNet beside diffusers' with the same weights, inputs and batch: PYTHONPATH=. python benchmarks/train_step.py

    python benchmarks/train_step.py --variants S --runs 5                                        # on a CPU
    python benchmarks/train_step.py --size full --variants E --batch 8 32 --steps 50             # on a GPU, in bfloat16
    python benchmarks/train_step.py --size full --variants A --batch 64 --arms ours ours+products ours+blocks tuned

A step is forward, mean squared error, backward, AdamW and an average of the weights. Arms: "ours", "ours+products" and "ours+blocks" with
that `remat`; "eager", diffusers as it comes; "tuned", diffusers with torch.compile, channels_last, SDPA and fused AdamW. Variants A, C,
W (which diffusers cannot compute) and E of docs/performance.md, and S, the shape of the scenes model. Each run is a process of its
own, in turns; compiled programs are kept from run to run. The losses of the first two steps show that all arms do the same;
if they differ by more than float32's (bfloat16's) rounding explains, or an arm fails, the exit code is 1. FLOP are analytic.
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time

import side_by_side
import unets

ARMS = ("ours", "eager", "tuned")
ADAMW = {"learning_rate": 1e-4, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.01}
EMA = 0.999
AGREE = {"float32": 1e-3, "bfloat16": 2e-2}


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
        return jnp.square(
            model(batch["x"], batch["timesteps"], model.context(batch["tokens"])) - batch["target"]
        ).mean()

    def step(state, batch):
        values, ema, moments = state
        loss, gradient = jax.value_and_grad(loss_fn)(values, batch)
        updates, moments = optimizer.update(gradient, moments, values)
        values = optax.apply_updates(values, updates)
        return (
            values,
            jax.tree.map(lambda e, v: e + (1 - EMA) * (v - e), ema, values),
            moments,
        ), loss

    state = (values, jax.tree.map(jnp.copy, values), optimizer.init(values))
    data = jax.device_put(unets.inputs(args.size, batch))
    began = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=0).lower(state, data).compile()

    def call():
        nonlocal state
        state, loss = compiled(state, data)
        return loss

    result = timed(call, float, lambda: jax.block_until_ready(state), args.steps, began)
    stats = jax.local_devices()[0].memory_stats() or {}
    return result | ({"memory": stats["peak_bytes_in_use"]} if "peak_bytes_in_use" in stats else {})


def measure_peer(args, batch: int, tune: bool) -> dict:
    """Times the step of diffusers' UNet in this process."""
    import torch

    model = unets.peer(args.size, args.variants[0], args.folder).train().to(args.device)
    x = {
        name: torch.from_numpy(value).to(args.device)
        for name, value in unets.inputs(args.size, batch).items()
    }
    x |= {name: x[name].permute(0, 3, 1, 2).contiguous() for name in ("x", "target")}
    values = list(model.parameters())
    began = time.perf_counter()
    call_model = model
    if tune:
        call_model, x = unets.tuned(model, x, args.compile_mode)
    optimizer = torch.optim.AdamW(
        values,
        ADAMW["learning_rate"],
        (ADAMW["b1"], ADAMW["b2"]),
        ADAMW["eps"],
        ADAMW["weight_decay"],
        **({"fused": True} if tune else {}),
    )
    ema = [value.detach().clone() for value in values]

    def call():
        with torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            output = call_model(x["x"], x["timesteps"], x["tokens"])
        loss = torch.nn.functional.mse_loss(output.float(), x["target"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, values, 1 - EMA)
        return loss.detach()

    on_gpu = args.device == "cuda"
    result = timed(
        call, float, torch.cuda.synchronize if on_gpu else lambda: None, args.steps, began
    )
    return result | ({"memory": torch.cuda.max_memory_allocated()} if on_gpu else {})


def timed(call, read, wait, steps: int, began: float) -> dict:
    """Losses of the first two calls, seconds until then, seconds and processor seconds a call of `steps` more, the process's peak memory."""
    losses = [read(call()) for _ in range(2)]
    wait()
    ready, used = time.perf_counter(), time.process_time()
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


def compare(args, variant: str, batch: int, folder: pathlib.Path) -> bool:
    """All arms of a variant and batch, and their rows; whether they computed the same."""
    here = folder / variant
    if not here.exists():
        here.mkdir()
        options = ["--prepare", "--size", args.size, "--variants", variant, "--folder", here]
        made = side_by_side.arm(__file__, options, {"JAX_PLATFORMS": "cpu"}, args.limit)
        if "error" in made:
            raise SystemExit(f"{variant}: {made['error']}")
    arms = [arm for arm in args.arms if arm.startswith("ours") or variant != "W"]
    options = [
        "--size",
        args.size,
        "--variants",
        variant,
        "--batch",
        batch,
        "--steps",
        args.steps,
        "--device",
        args.device,
        "--dtype",
        args.dtype,
        "--compile-mode",
        args.compile_mode,
        "--folder",
        here,
    ]
    environment = side_by_side.caches(args.device, folder)
    found = side_by_side.rounds(
        arms,
        args.runs,
        lambda arm: side_by_side.arm(
            __file__, ["--measure", arm, *options], environment, args.limit
        ),
        lambda result: f"{variant}, batch {batch}: {batch / result['seconds']:.2f} images/s",
    )
    cost = training_flops(args.size, variant)
    good = {arm: runs for arm, runs in found.items() if not any("error" in run for run in runs)}
    rates = {arm: [batch / run["seconds"] for run in runs] for arm, runs in good.items()}
    for arm, runs in found.items():
        if arm not in good:
            side_by_side.row(variant, batch, arm, f"failed: {runs[-1]['error']}", *["-"] * 8)
            continue
        middle = statistics.median(rates[arm])
        against = [
            f"{middle / statistics.median(rates[other]):.2f}" if other in rates else "-"
            for other in ("eager", "tuned")
        ]
        share = f"{middle * cost / args.peak / 1e12:.1%}" if args.peak else "-"
        before, after = runs[0]["losses"]
        a_cpu_second = (
            f"{batch / statistics.median(run['used'] for run in runs):.2f}"
            if args.device == "cpu"
            else "-"
        )
        side_by_side.row(
            variant,
            batch,
            arm,
            side_by_side.spread(rates[arm]),
            a_cpu_second,
            *against,
            f"{middle * cost / 1e12:.3f}",
            share,
            f"{min(run['memory'] for run in runs) / 2**30:.2f}",
            f"{runs[0]['build']:.0f}",
            f"{before:.5f}, {after:.5f}",
        )
    if variant == "W":
        side_by_side.row(variant, batch, "diffusers", "has no windows", *["-"] * 8)
    losses = [run["losses"] for runs in good.values() for run in runs]
    apart = max((max(column) / min(column) - 1 for column in zip(*losses)), default=0.0)
    if apart > AGREE[args.dtype]:
        print(
            f"{variant}, batch {batch}: the arms do not compute the same: losses differ by {apart:.1e} of themselves",
            flush=True,
        )
    return len(good) == len(found) and apart <= AGREE[args.dtype]


def training_flops(size: str, variant: str) -> int:
    """FLOP of one image and step; the inputs are data, the UNet learns."""
    from generalist.models import flops

    side, tokens, _ = unets.SIZES[size]
    return flops.training([*flops.unet(side, tokens, **unets.settings(size, variant))], {"unet"})


def parse() -> argparse.Namespace:
    """The command line, with what follows from the device filled in."""
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
        help="TFLOP/s of the device (default: 989, an H200's in bfloat16, on a GPU; else no share is printed)",
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
    args.variants = args.variants or [
        name for name in unets.VARIANTS if name != "S" or args.size == "small"
    ]
    args.batch, args.steps = (
        args.batch or ([8, 32] if on_gpu else [4]),
        args.steps or (50 if on_gpu else 3),
    )
    args.dtype, args.peak = (
        args.dtype or ("bfloat16" if on_gpu else "float32"),
        args.peak or (989.0 if on_gpu else None),
    )
    return args


def main() -> int:
    args = parse()
    if args.prepare:
        unets.prepare(args.size, args.variants[0], args.folder)
        return 0
    if args.measure:
        arm, _, remat = args.measure.partition("+")
        measure = (
            measure_ours(args, args.batch[0], remat or "none")
            if arm == "ours"
            else measure_peer(args, args.batch[0], arm == "tuned")
        )
        print(json.dumps(measure))
        return 0
    machine = side_by_side.machine(("jax", "torch", "diffusers"))
    print(
        f"{machine}; {args.size}, {args.dtype} on {args.device}, {args.runs} runs of {args.steps} steps"
    )
    side_by_side.header(
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
    with tempfile.TemporaryDirectory() as folder:
        same = [
            compare(args, variant, batch, pathlib.Path(folder))
            for variant in args.variants
            for batch in args.batch
        ]
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
