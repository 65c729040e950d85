"""Makes the table of docs/scale.md: the full-size recipe compiled for TPU pods, on a machine without one.

    python benchmarks/compile_table.py v5e:16x16,16 v5p:4x4x4,4 v6e:16x16,16

Each argument is a topology and the value of sharding.fsdp. Compiling takes tens of minutes each and up to 12 GB of memory.
"""

import sys

from generalist.configs import multitask
from generalist.devices.memory import GIB
from generalist.training import compile

HEADER = """| topology | fsdp | images a chip | program | GiB a chip, of | state + temporaries | TFLOP a chip | collectives (count, GiB received a chip) | compiled in |
|---|---|---|---|---|---|---|---|---|"""


def row(topology: str, fsdp: int, chips: int, batch: int, name: str, cost: compile.Cost) -> str:
    """One program as a line of Markdown."""
    moved = (
        "; ".join(
            f"{kind} {count}, {size / GIB:.2f}" for kind, (count, size) in cost.collectives.items()
        )
        or "none"
    )
    total = cost.state + cost.temporaries
    return (
        f"| {topology} | {fsdp} | {batch / chips:g} | {name} | {total / GIB:.2f} of {compile.HBM[topology.partition(':')[0]]} | "
        f"{cost.state / GIB:.2f} + {cost.temporaries / GIB:.2f} | {cost.flops / 1e12:.2f} | {moved} | {cost.seconds:.0f} s |"
    )


def main(arguments: list[str]) -> None:
    """Prints the table, a row as soon as it is known."""
    print(HEADER, flush=True)
    for argument in arguments:
        topology, fsdp = argument.split(",")
        config = multitask.get_config("paper")
        config.sharding.fsdp = int(fsdp)
        chips = len(compile.devices(topology))
        for name, cost in compile.run(
            config, topology, lambda line: print(line, file=sys.stderr, flush=True)
        ).items():
            batch = (
                config.batch_size
                if name == "training"
                else -(-config.eval.batch_size // chips) * chips
            )
            print(row(topology, config.sharding.fsdp, chips, batch, name, cost), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
