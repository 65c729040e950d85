"""Makes the table of compiled pods: the full-size recipe for TPU pods, on a machine without one.

    python benchmarks/compile_table.py v5e:16x16,16 v5p:4x4x4,4 v6e:16x16,16

Each argument is a topology and the value of sharding.fsdp. Prints a row a program, as soon as it is
known. Compiling takes tens of minutes each and up to 12 GB of memory.
"""

import argparse
import logging

from generalist.configs import multitask
from generalist.devices.memory import GIB
from generalist.training import topology as topology_lib

COLUMNS = (
    "topology",
    "fsdp",
    "images a chip",
    "program",
    "GiB a chip, of",
    "state + temporaries",
    "TFLOP a chip",
    "collectives (count, GiB received a chip)",
    "compiled in",
)


def cells(cost: topology_lib.Cost, chip: str) -> list[str]:
    """Returns what one program needs on a chip, as cells of the table."""
    moved = [
        f"{kind} {count}, {size / GIB:.2f}" for kind, (count, size) in cost.collectives.items()
    ]
    total = cost.state + cost.temporaries
    return [
        f"{total / GIB:.2f} of {topology_lib.HBM[chip]}",
        f"{cost.state / GIB:.2f} + {cost.temporaries / GIB:.2f}",
        f"{cost.flops / 1e12:.2f}",
        "; ".join(moved) or "none",
        f"{cost.seconds:.0f} s",
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("topologies", nargs="+", metavar="TOPOLOGY,FSDP")
    args = parser.parse_args()

    # The table is printed on stdout, what the package logs beside it on stderr.
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
    for argument in args.topologies:
        topology, fsdp = argument.split(",")
        chips = len(topology_lib.devices(topology))
        config = multitask.get_config("paper")
        config.sharding.fsdp = int(fsdp)

        for program, cost in topology_lib.compile_for(config, topology).items():
            batch = config.batch_size
            if program == "sampling":
                # Every chip samples the same number of images.
                batch = -(-config.eval.batch_size // chips) * chips
            first = [topology, fsdp, f"{batch / chips:g}", program]
            row = [*first, *cells(cost, topology.partition(":")[0])]
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
