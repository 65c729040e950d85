"""Kills a run at random moments and checks that it ends as the undisturbed one.

    python benchmarks/kills.py --seed 0

Two processes with four CPU devices each train `configs/multitask.py:tiny`. Four runs:

    undisturbed   to the end
    again         the same once more: equal bit for bit?
    killed        --kills times either process is killed at a random moment, by SIGKILL or SIGTERM,
                  while starting, compiling, training, saving or evaluating; the same command
                  continues each time: equal bit for bit?
    moved         the same, killed three times; after the first it continues as one process with
                  eight devices, then as two again: equal but for the order of float32 sums?

Prints a line a kill and a verdict, and exits with 1 when a run ends otherwise, hangs or fails.
"""

import argparse
import dataclasses
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, ROOT / "main.py", "--config=configs/multitask.py:tiny"]

# What this test needs of the tiny run: eight devices, often a checkpoint, once an evaluation.
FLAGS = {
    "batch_size": 8,
    "sharding.fsdp": 2,
    "sharding.min_size": 500,
    "checkpoint.every_steps": 2,
    "eval.every_steps": 16,
    "eval.examples": 2,
    "eval.final_examples": 2,
    "eval.batch_size": 2,
    "eval.panels": 0,
    "eval.tasks": "('denoise',)",
}

# Seconds in which a run must end after a kill: JAX's heartbeat takes 100.
PATIENCE = 600

# Largest difference of a parameter after another order of sums: Adam divides gradients near zero by
# themselves.
TOLERANCE = 1e-3

DIGEST = "sha256 of parameters, EMA and step"


class Layout(NamedTuple):
    """What a start of a run consists of."""

    processes: int
    devices: int  # of each process


@dataclasses.dataclass(frozen=True)
class Kill:
    """A kill, at a moment of its run.

    Attributes:
      steps: the run must have printed so many steps; 0: none.
      delay: seconds after that.
      process: which one is killed, modulo their number.
      signal: SIGKILL or SIGTERM.
    """

    steps: int
    delay: float
    process: int
    signal: signal.Signals


class Leg:
    """The processes of one start of a run, and what process 0 prints."""

    def __init__(self, workdir: pathlib.Path, layout: Layout, steps: int):
        changes = FLAGS | {"total_steps": steps, "sharding.cpu_devices": layout.devices}
        command = [
            *COMMAND,
            *(f"--config.{name}={value}" for name, value in changes.items()),
            f"--workdir={workdir}",
            f"--coordinator=localhost:{_free_port()}",
            f"--process_count={layout.processes}",
        ]

        environment = dict(os.environ)
        environment.pop("GENERALIST_DATA_DIR", None)
        # Every program runs a few times only: compiling is what takes long.
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

        self.lines: list[str] = []
        self.processes = []
        self._readers = []
        for index in range(layout.processes):
            process = subprocess.Popen(
                [*command, f"--process_id={index}"],
                env=environment,
                cwd=workdir.parent,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            self.processes.append(process)
            reader = threading.Thread(target=self._read, args=(index,), daemon=True)
            self._readers.append(reader)
            reader.start()

    def _read(self, index: int) -> None:
        for line in self.processes[index].stdout:
            self.lines.append(f"{index}: {line}")

    def _running(self) -> bool:
        return all(process.poll() is None for process in self.processes)

    def steps(self) -> list[int]:
        """Returns the steps that were printed so far."""
        # A copy: the readers append meanwhile.
        found = [re.match(r"0: step (\d+)/", line) for line in list(self.lines)]
        return [int(match.group(1)) for match in found if match]

    def where(self) -> str:
        """Says from which step on it ran, and how far it came."""
        first = ""
        for line in self.lines:
            resumed = re.search(r"resuming .* at step (\d+)", line)
            if resumed:
                first = f"from step {resumed.group(1)}"
                break

        steps = self.steps()
        if not steps:
            return f"{first} before its first step".strip()
        return f"{first or 'from step 0'}, after step {steps[-1]}"

    def disturb(self, kill: Kill) -> bool:
        """Waits for the moment and kills; returns False if the run came to its end before."""
        while self._running() and len(self.steps()) < kill.steps:
            time.sleep(0.005)
        end = time.monotonic() + kill.delay
        while self._running() and time.monotonic() < end:
            time.sleep(0.005)

        if not self._running():
            return False
        self.processes[kill.process % len(self.processes)].send_signal(kill.signal)
        return True

    def finish(self) -> list[int]:
        """Waits for the end and returns the exit codes; RuntimeError if a process does not end."""
        try:
            for process in self.processes:
                process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"a process runs {PATIENCE} s after the kill:\n{''.join(self.lines)}"
            ) from error
        finally:
            for process in self.processes:
                process.kill()

        for reader in self._readers:
            reader.join()
        return [process.returncode for process in self.processes]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def run(
    name: str, folder: pathlib.Path, steps: int, kills: list[Kill], layouts: list[Layout]
) -> str:
    """Starts a run, kills it, and starts it again until it ends.

    Args:
      name: of the run, and of its workdir in `folder`.
      folder: of all runs.
      steps: of the training.
      kills: one a start; after them the run is left alone.
      layouts: of its starts; the last one is kept.

    Returns:
      The digest of its state.

    Raises:
      RuntimeError: it fails or hangs.
    """
    began = time.monotonic()
    number = 0
    while True:
        layout = layouts[min(number, len(layouts) - 1)]
        shape = f"{layout.processes} x {layout.devices} devices"
        leg = Leg(folder / name, layout, steps)
        if number == len(kills) or not leg.disturb(kills[number]):
            break

        kill = kills[number]
        number += 1
        killed = time.monotonic()
        codes = leg.finish()
        print(
            f"{name} {number}: {shape}, {kill.signal.name} to process "
            f"{kill.process % layout.processes} {leg.where()}; "
            f"exit codes {codes} after {time.monotonic() - killed:.1f} s",
            flush=True,
        )

    if any(leg.finish()):
        raise RuntimeError("the last start failed:\n" + "".join(leg.lines))
    seconds = time.monotonic() - began
    print(
        f"{name}: {shape} {leg.where()}, the end; {number} kills, {seconds:.0f} s in all",
        flush=True,
    )
    (digest, *_) = [line.split()[-1] for line in leg.lines if DIGEST in line]
    return digest


def random_kills(
    count: int, steps: int, chance: random.Random, fraction_at_start: float
) -> list[Kill]:
    """Draws kills: that fraction while the run starts or compiles, the others after some steps.

    Together they leave the run room to end.
    """
    kills = []
    for _ in range(count):
        starting = chance.random() < fraction_at_start
        kill = Kill(
            steps=0 if starting else chance.randint(1, max(1, steps // count)),
            delay=chance.uniform(0, 20 if starting else 1),
            process=chance.randrange(2),
            signal=chance.choice([signal.SIGKILL, signal.SIGTERM]),
        )
        kills.append(kill)
    return kills


def read_state(folder: pathlib.Path) -> dict:
    """Reads the state of a checkpoint as NumPy arrays, on whatever devices it was written."""
    reader = ocp.PyTreeCheckpointer()
    tree = reader.metadata(folder).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return reader.restore(folder, restore_args=as_numpy)


def largest_difference(first: pathlib.Path, second: pathlib.Path) -> float:
    """Returns the largest difference of any parameter or average of two checkpoints."""
    states = read_state(first), read_state(second)
    largest = 0.0
    for group in ("parameters", "ema"):
        for path, value in states[1][group].items():
            difference = np.abs(states[0][group][path] - value).max(initial=0)
            largest = max(largest, float(difference))
    return largest


def verdict(name: str, folder: pathlib.Path, steps: int, equal: bool) -> bool:
    """Prints whether the run ended as the undisturbed one, and returns whether it must be so."""
    checkpoint = f"checkpoints/{steps}/state"
    difference = largest_difference(folder / "undisturbed" / checkpoint, folder / name / checkpoint)
    good = difference <= TOLERANCE if name == "moved" else equal
    print(
        f"{name}: {'equal bit for bit' if equal else 'not equal bit for bit'}, "
        f"largest difference {difference:.2e}: {'as promised' if good else 'NOT as promised'}",
        flush=True,
    )
    return good


def main() -> int:
    """Makes the four runs and compares them; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments, processes and signals")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument(
        "--out",
        type=pathlib.Path,
        help="folder of the runs: kept, and finished ones are not done again",
    )
    args = parser.parse_args()

    folder = (args.out or pathlib.Path(tempfile.mkdtemp(prefix="kills"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # All starts share their compiled programs.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))
    logging.set_verbosity(logging.ERROR)

    chance = random.Random(args.seed)
    kills = random_kills(args.kills, args.steps, chance, 1 / 3)
    # Each of the moved run's starts must train, so none is killed before its first step.
    moves = random_kills(3, args.steps, chance, 0)
    print(
        f"seed {args.seed}, {args.steps} steps, jax {jax.__version__}, {os.cpu_count()} cores",
        flush=True,
    )

    two = Layout(processes=2, devices=4)
    one = Layout(processes=1, devices=8)
    digests = {
        "undisturbed": run("undisturbed", folder, args.steps, [], [two]),
        "again": run("again", folder, args.steps, [], [two]),
        "killed": run("killed", folder, args.steps, kills, [two]),
        "moved": run("moved", folder, args.steps, moves, [two, one, two]),
    }

    good = []
    for name in ("again", "killed", "moved"):
        equal = digests[name] == digests["undisturbed"]
        good.append(verdict(name, folder, args.steps, equal))
    if not args.out:
        shutil.rmtree(folder)
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
