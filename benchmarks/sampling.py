"""Sampling beside diffusers' UNet in the same loop, and what is shared between steps and tasks.

    PYTHONPATH=. python benchmarks/sampling.py
    PYTHONPATH=. python benchmarks/sampling.py --size full --variant E --batch 8 --repeat 10

The second is for a GPU, in bfloat16. Prints two tables.

First, DDIM in 1, 4 and 20 steps from noise by one UNet with the same weights, inputs and batch:
"ours", and "ours-no-cache", which computes keys and values of the condition in every step; "eager",
diffusers as it comes; "tuned", with torch.compile and channels_last. Each arm is a process of its
own, in turns. The pictures are compared: the exit code is 1 if they differ beyond rounding, or an
arm fails.

Second, our whole model: several tasks of one image, one after the other, in one batch, and in one
batch with the image encoded once.
"""

import argparse
import functools
import json
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np
import side_by_side
import unets

ARMS = ("ours", "ours-no-cache", "eager", "tuned")
STEPS = (1, 4, 20)

# Largest difference of two pictures, which are in [-1, 1].
AGREE = {"float32": 1e-3, "bfloat16": 5e-2}


def coefficients(steps: int) -> np.ndarray:
    """Returns alpha and sigma at the steps and at the clean image, float32 (2, steps + 1)."""
    from generalist import diffusion
    from generalist.diffusion.samplers import time_grid

    alpha, sigma = diffusion.CosineSchedule().alpha_sigma(time_grid(steps))
    alpha = np.append(np.asarray(alpha), np.float32(1))
    sigma = np.append(np.asarray(sigma), np.float32(0))
    return np.stack([alpha, sigma])


def timed(call: Callable, repeat: int) -> dict[str, float]:
    """Returns seconds and processor seconds of a call, once it is warm."""
    call()
    began = time.perf_counter()
    used = time.process_time()
    for _ in range(repeat):
        call()
    return {
        "seconds": (time.perf_counter() - began) / repeat,
        "used": (time.process_time() - used) / repeat,
    }


# What the processes of the arms do --------------------------------------------------------------


def measure_ours(args, cache: bool) -> dict[str, dict]:
    """Times our sampler, by numbers of steps, and saves its pictures."""
    import jax

    from generalist import diffusion
    from generalist.models import parameters

    graphdef, values = unets.ours(args.size, args.variant, args.folder, args.dtype)
    data = jax.device_put(unets.inputs(args.size, args.batch))

    @functools.partial(jax.jit, static_argnames="steps")
    def sample(values, x, tokens, steps):
        model = parameters.merge(graphdef, values)
        kept = model.context(tokens)

        def denoise(x, t):
            context = kept
            if not cache:
                # Behind a barrier, else the compiler moves it out of the loop.
                context = model.context(jax.lax.optimization_barrier((tokens, t))[0])
            return model(x, 999.0 * t, context)

        return diffusion.sample(denoise, x, diffusion.CosineSchedule(), "x0", "ddim", steps)

    found = {}
    name = "ours" if cache else "ours-no-cache"
    for steps in STEPS:

        def call(steps=steps):
            return np.asarray(sample(values, data["x"], data["tokens"], steps))

        np.save(args.folder / f"{name}_{steps}.npy", call())
        found[str(steps)] = timed(call, args.repeat)
    return found


def measure_peer(args, tune: bool) -> dict[str, dict]:
    """Times the same loop around diffusers' UNet, and saves its pictures."""
    import torch

    model = unets.peer(args.size, args.variant, args.folder).eval().to(args.device)
    tensors = {}
    for name, value in unets.inputs(args.size, args.batch).items():
        tensors[name] = torch.from_numpy(value).to(args.device)
    tensors["x"] = tensors["x"].permute(0, 3, 1, 2).contiguous()
    if tune:
        model, tensors = unets.tuned(model, tensors)

    @torch.inference_mode()
    def sample(steps, alpha, sigma):
        x = tensors["x"]
        with torch.autocast(args.device, torch.bfloat16, enabled=args.dtype == "bfloat16"):
            for step in range(steps):
                t = torch.full((args.batch,), 999.0 * (steps - step) / steps, device=args.device)
                x0 = model(x, t, tensors["tokens"]).float().clamp(-1, 1)
                # DDIM with eta = 0: the noise that was predicted, at the next level.
                x = alpha[step + 1] * x0 + sigma[step + 1] * (x - alpha[step] * x0) / sigma[step]
        return x.permute(0, 2, 3, 1).cpu().numpy()

    found = {}
    name = "tuned" if tune else "eager"
    for steps in STEPS:
        alpha, sigma = np.load(args.folder / f"coefficients_{steps}.npy").tolist()
        call = functools.partial(sample, steps, alpha, sigma)
        np.save(args.folder / f"{name}_{steps}.npy", call())
        found[str(steps)] = timed(call, args.repeat)
    return found


def measure_tasks(args) -> dict[str, dict]:
    """Times one step of the whole model for several tasks of one image."""
    import jax
    import jax.numpy as jnp

    from generalist import models
    from generalist.configs import common
    from generalist.models import parameters
    from generalist.recipe import Recipe

    config = common.get_config("scenes,small,scratch" if args.size == "small" else "paper")
    config.model.dtype = args.dtype
    settings = Recipe.from_config(config).model
    graphdef, values = parameters.split(models.build(settings, 0))

    # One image, and as many prompts as tasks.
    side = settings["image_encoder"]["image_size"]
    width = settings["text_encoder"]["dim"]
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(-1, 1, (1, side, side, 3)), jnp.float32)
    target = settings["target_size"]
    picture = jnp.asarray(rng.uniform(-1, 1, (1, target, target, 3)), jnp.float32)
    text = jnp.asarray(rng.standard_normal((args.tasks, 8, width)), jnp.float32)

    @jax.jit
    def sample(values, image, picture, text):
        model = parameters.merge(graphdef, values)
        condition = model.encode(image, text, picture=picture)
        x = jnp.zeros((len(text), *model.diffused_shape))
        return model.denoise(x, jnp.ones(len(text)), condition)

    def one_by_one():
        return np.concatenate([sample(values, image, picture, prompt[None]) for prompt in text])

    def batch():
        images = jnp.repeat(image, args.tasks, 0)
        return np.asarray(sample(values, images, jnp.repeat(picture, args.tasks, 0), text))

    def shared():
        return np.asarray(sample(values, image, picture, text))

    arms = {
        "one after the other": one_by_one,
        "one batch, image encoded for each": batch,
        "one batch, image encoded once": shared,
    }
    pictures = [arm() for arm in arms.values()]
    differences = [float(np.abs(picture - pictures[0]).max()) for picture in pictures]
    apart = max(differences) / float(np.abs(pictures[0]).max())
    if apart > AGREE[args.dtype]:
        raise SystemExit(f"Error: the tasks' pictures differ by {apart:.1e} of the largest value")
    return {name: timed(arm, args.repeat) for name, arm in arms.items()}


# What the parent process does -------------------------------------------------------------------


def compare_steps(args, folder: pathlib.Path, environment: dict) -> bool:
    """Prints the table of steps; returns whether all arms painted the same."""
    made = side_by_side.arm(
        __file__, ["--prepare", *options(args, folder)], {"JAX_PLATFORMS": "cpu"}, args.limit
    )
    if "error" in made:
        raise SystemExit(made["error"])

    def measure(arm):
        arguments = ["--measure", arm, *options(args, folder)]
        return side_by_side.arm(__file__, arguments, environment, args.limit)

    def describe(result):
        rates = [
            f"{steps} steps {args.batch / value['seconds']:.2f} images/s"
            for steps, value in result.items()
        ]
        return ", ".join(rates)

    found = side_by_side.rounds(args.arms, args.runs, measure, describe)
    good = {}
    for arm, runs in found.items():
        if any("error" in run for run in runs):
            print(f"{arm}: failed: {runs[-1]['error']}", flush=True)
        else:
            good[arm] = runs

    side_by_side.header(
        "steps",
        "arm",
        "images/s: median (lowest..highest)",
        "images a CPU second",
        "x eager",
        "x tuned",
        "furthest from ours",
    )
    same = [print_steps(args, steps, good, folder) for steps in STEPS]
    return len(good) == len(found) and all(same)


def print_steps(args, steps: int, good: dict[str, list[dict]], folder: pathlib.Path) -> bool:
    """Prints the rows of a number of steps; returns whether the arms painted the same."""
    rates = {}
    pictures = {}
    for arm, runs in good.items():
        rates[arm] = [args.batch / run[str(steps)]["seconds"] for run in runs]
        pictures[arm] = np.load(folder / f"{arm}_{steps}.npy")

    same = True
    for arm, runs in good.items():
        middle = statistics.median(rates[arm])
        against = []
        for peer in ("eager", "tuned"):
            known = peer in rates
            against.append(f"{middle / statistics.median(rates[peer]):.2f}" if known else "-")

        first = pictures[next(iter(good))]
        apart = float(np.abs(pictures[arm] - first).max())
        same &= apart <= AGREE[args.dtype]
        used = statistics.median(run[str(steps)]["used"] for run in runs)
        side_by_side.row(
            steps,
            arm,
            side_by_side.spread(rates[arm]),
            f"{args.batch / used:.2f}" if args.device == "cpu" else "-",
            *against,
            f"{apart:.0e}",
        )
    return same


def compare_tasks(args, folder: pathlib.Path, environment: dict) -> bool:
    """Prints the table of tasks; returns whether they were painted."""

    def measure(_):
        arguments = ["--measure", "tasks", *options(args, folder)]
        return side_by_side.arm(__file__, arguments, environment, args.limit)

    def describe(result):
        times = [f"{name} {1000 * value['seconds']:.1f} ms" for name, value in result.items()]
        return ", ".join(times)

    runs = side_by_side.rounds(["tasks"], args.runs, measure, describe)["tasks"]
    if "error" in runs[-1]:
        print(f"tasks: failed: {runs[-1]['error']}")
        return False

    print()
    side_by_side.header(
        f"{args.tasks} tasks of one image, 1 step",
        "ms: median (lowest..highest)",
        "CPU ms",
        "times as fast",
    )
    slowest = statistics.median(run["one after the other"]["seconds"] for run in runs)
    for name in runs[0]:
        seconds = [run[name]["seconds"] for run in runs]
        used = statistics.median(1000 * run[name]["used"] for run in runs)
        side_by_side.row(
            name,
            side_by_side.spread([1000 * value for value in seconds], 1),
            f"{used:.1f}",
            f"{slowest / statistics.median(seconds):.2f}",
        )
    return True


def options(args, folder: pathlib.Path) -> list[str]:
    """Returns the command line of an arm."""
    return side_by_side.flags(
        size=args.size,
        variant=args.variant,
        batch=args.batch,
        repeat=args.repeat,
        tasks=args.tasks,
        device=args.device,
        dtype=args.dtype,
        folder=folder,
    )


def parse() -> argparse.Namespace:
    """Reads the command line and fills in what follows from the device."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--size",
        choices=list(unets.SIZES),
        help="of the models (default: full on a GPU, else small)",
    )
    parser.add_argument(
        "--variant",
        choices=[name for name in unets.VARIANTS if name != "W"],
        help="of the UNet (default: E on a GPU, else S)",
    )
    parser.add_argument("--arms", nargs="*", default=ARMS, choices=ARMS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3, help="calls timed in each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--dtype",
        choices=list(AGREE),
        help="of the computation (default: bfloat16 on a GPU, else float32)",
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
    args.variant = args.variant or ("E" if on_gpu else "S")
    args.dtype = args.dtype or ("bfloat16" if on_gpu else "float32")
    return args


def prepare(args) -> None:
    """Writes what the arms share: the schedule's coefficients and the weights."""
    for steps in STEPS:
        np.save(args.folder / f"coefficients_{steps}.npy", coefficients(steps))
    unets.prepare(args.size, args.variant, args.folder)


def main() -> int:
    """Prints both tables; returns the exit code."""
    args = parse()
    if args.prepare:
        prepare(args)
        return 0
    if args.measure:
        measures = {
            "tasks": measure_tasks,
            "ours": functools.partial(measure_ours, cache=True),
            "ours-no-cache": functools.partial(measure_ours, cache=False),
            "eager": functools.partial(measure_peer, tune=False),
            "tuned": functools.partial(measure_peer, tune=True),
        }
        print(json.dumps(measures[args.measure](args)))
        return 0

    print(
        f"{side_by_side.machine(('jax', 'torch', 'diffusers'))}; {args.size} {args.variant}, "
        f"batch {args.batch}, {args.dtype} on {args.device}, "
        f"{args.runs} runs of {args.repeat} calls"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        environment = side_by_side.caches(args.device, folder)
        good = [compare_steps(args, folder, environment), compare_tasks(args, folder, environment)]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
