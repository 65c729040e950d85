"""What a checkpoint writes and takes, and what an evaluation holds on the first device.

    PYTHONPATH=. python benchmarks/checkpoints.py

The former way: parameters that do not learn in every checkpoint, `model.safetensors` beside each,
and in an evaluation the weights on the first device before they are put on all. The present way:
the classes of the package. The state is synthetic: --millions of trained parameters with AdamW's
moments and their average, and as many frozen ones for each as the full-size model has (88.2 of
948.6); evaluated are the shipped weights. Runs on CPU devices. Prints a table.
"""

import argparse
import gc
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

FROZEN_SHARE = 88.2 / 948.6
MIB = 2**20


class Cost(NamedTuple):
    """Of one checkpoint with what is written beside it."""

    mib: float  # on disk
    seconds: float  # until all is there


def make_state(millions: float):
    """Returns a state of kernels of 256 x 256 and its frozen parameters in host memory."""
    import jax
    import numpy as np
    import optax

    from generalist.devices.mesh import make_mesh, replicated
    from generalist.training.state import create_state

    rng = np.random.default_rng(0)
    count = max(1, round(millions * 1e6 / 256**2))
    names = {f"unet.{index}.kernel" for index in range(count)}
    values = {name: rng.standard_normal((256, 256), np.float32) for name in sorted(names)}
    frozen = {}
    for index in range(max(1, round(FROZEN_SHARE * count))):
        frozen[f"text_encoder.{index}.kernel"] = rng.standard_normal((256, 256), np.float32)

    placed = jax.device_put(values, replicated(make_mesh()))
    state = create_state(placed, list(values), optax.adam(1e-3))
    # Moments of zeros would be compressed to nothing.
    noise = jax.tree.map(lambda x: x + placed["unet.0.kernel"] if x.ndim else x, state.optimizer)
    return state._replace(optimizer=noise), frozen


def measure(folder: pathlib.Path, write: Callable[[int], None], saves: int) -> Cost:
    """Calls `write` with 1, 2, ...; the first one, which also warms up, does not count."""
    write(1)
    before = _mib(folder)
    began = time.perf_counter()
    for step in range(2, saves + 2):
        write(step)
    seconds = time.perf_counter() - began
    return Cost((_mib(folder) - before) / saves, seconds / saves)


def _mib(folder: pathlib.Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MIB


def checkpoints(millions: float, saves: int, folder: pathlib.Path) -> dict[str, Cost]:
    """Returns what a checkpoint costs in either way."""
    import jax.numpy as jnp
    import numpy as np

    from generalist.pretrained.weights import save_weights
    from generalist.training.checkpoint import Checkpointer

    state, frozen = make_state(millions)
    costs = {}

    # What does not learn travels beside the average: the same bytes as a group of its own.
    inside = state._replace(
        ema={**state.ema, **{path: jnp.asarray(x) for path, x in frozen.items()}}
    )
    with Checkpointer(folder / "former/checkpoints", keep=saves + 1) as checkpointer:

        def former(step: int) -> None:
            checkpointer.save(inside._replace(step=jnp.int32(step)), 0)
            exported = {path: np.asarray(x) for path, x in inside.ema.items()}
            # Each under a name of its own, so that the bytes of all can be counted.
            save_weights(folder / f"former/{step}", exported, {})
            checkpointer.wait()

        costs["former"] = measure(folder / "former", former, saves)

    with Checkpointer(folder / "now/checkpoints", keep=saves + 1) as checkpointer:
        checkpointer.save_frozen(frozen)

        def now(step: int) -> None:
            checkpointer.save(state._replace(step=jnp.int32(step)), 0)
            checkpointer.wait()

        costs["now"] = measure(folder / "now", now, saves)
    return costs


def evaluation() -> dict[str, float]:
    """Returns MiB on the first device once the shipped weights are ready on all, in either way."""
    import jax.numpy as jnp
    import numpy as np

    from generalist.devices.mesh import make_mesh, place_on_devices, replicated
    from generalist.inference import load
    from generalist.pretrained.weights import load_weights

    def former():
        first = {path: jnp.array(x) for path, x in load_weights("scenes")[1].items()}
        # Copies: a CPU device would share the memory of the first ones, as no other does.
        whole = replicated(make_mesh())
        return first, {path: place_on_devices(np.array(x), whole) for path, x in first.items()}

    def now():
        return load("scenes", make_mesh())

    held = {}
    for name, place in {"former": former, "now": now}.items():
        gc.collect()
        before = _on_first_device()
        ready = place()
        held[name] = _on_first_device() - before
        del ready
    return held


def _on_first_device() -> float:
    """MiB of all arrays on the first device, each buffer once."""
    import jax

    buffers: dict[int, int] = {}
    for array in jax.live_arrays():
        for shard in array.addressable_shards:
            if shard.device == jax.devices()[0]:
                buffers[shard.data.unsafe_buffer_pointer()] = shard.data.nbytes
    return sum(buffers.values()) / MIB


def show(costs: Mapping[str, Cost], held: Mapping[str, float]) -> None:
    """Prints the table."""
    print(
        f"{'way':8} {'MiB written':>12} {'s a checkpoint':>15} {'MiB on device 0, evaluating':>28}"
    )
    for name, cost in costs.items():
        print(f"{name:8} {cost.mib:12.1f} {cost.seconds:15.2f} {held[name]:28.2f}")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--millions", type=float, default=4.0, help="of trained parameters")
    parser.add_argument("--saves", type=int, default=3)
    parser.add_argument("--devices", type=int, default=2)
    args = parser.parse_args()

    # Read by JAX when it starts.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={args.devices}"
    with tempfile.TemporaryDirectory() as folder:
        costs = checkpoints(args.millions, args.saves, pathlib.Path(folder))
    show(costs, evaluation())


if __name__ == "__main__":
    main()
