"""Kills a run at random moments and looks whether it ends as the undisturbed one: python benchmarks/kills.py --seed 0

Two processes with four CPU devices each train the scenes recipe, made small. Four runs:

    undisturbed   to the end
    again         the same once more: equal bit for bit?
    killed        --kills times either process is killed at a random moment, by SIGKILL or SIGTERM, while starting, compiling,
                  training, saving or evaluating; the same command goes on each time: equal bit for bit?
    moved         the same, killed three times; after the first it goes on as one process with eight devices, then as
                  two again: equal but for the order of float32 sums?

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

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, ROOT / "main.py", "--config=configs/multitask.py:scenes,scratch"]
FLAGS = {
    "batch_size": 8,
    "data.image_size": 32,
    "model.target_size": 32,
    "data.scenes_size": 32,
    "model.unet.channels": "(8,)",
    "model.unet.attention_levels": "(False,)",
    "model.unet.groups": 4,
    "model.unet.context_dim": 16,
    "model.unet.refine": 0,
    "model.aligned_features": False,
    "model.pooled_text": False,
    "model.unet.position": False,
    "diffusion.prototype_weight": 0.0,
    "model.image_encoder.image_size": 32,
    "model.image_encoder.dim": 8,
    "model.image_encoder.depth": 1,
    "model.image_encoder.heads": 2,
    "model.text_encoder.dim": 8,
    "model.text_encoder.depth": 1,
    "optimizer.muon": "()",
    "optimizer.warmup_steps": 4,
    "sharding.fsdp": 2,
    "sharding.min_size": 500,
    "checkpoint.every_steps": 2,
    "eval.every_steps": 16,
    "eval.examples": 2,
    "eval.final_examples": 2,
    "eval.batch_size": 2,
    "eval.panels": 0,
    "eval.tasks": "('denoise',)",
    "log.every_steps": 1,
}
PATIENCE = 600  # seconds in which a run must end after a kill: JAX's heartbeat takes 100
TOLERANCE = 1e-3  # of a parameter, after another order of sums: Adam divides gradients near zero by themselves


@dataclasses.dataclass(frozen=True)
class Kill:
    """Of `process`, `delay` seconds after its run printed `steps` steps (0: after its start)."""

    steps: int
    delay: float
    process: int
    signal: signal.Signals


class Leg:
    """The processes of one start of a run, and what process 0 prints."""

    def __init__(self, workdir: pathlib.Path, processes: int, devices: int, steps: int):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            port = probe.getsockname()[1]
        flags = [
            f"--config.{name}={value}"
            for name, value in (
                FLAGS | {"total_steps": steps, "sharding.cpu_devices": devices}
            ).items()
        ]
        environment = {
            name: value for name, value in os.environ.items() if name != "GENERALIST_DATA_DIR"
        }
        environment["XLA_FLAGS"] = (
            "--xla_backend_optimization_level=0"  # every program runs a few times only
        )
        self.lines: list[str] = []
        self.processes = [
            subprocess.Popen(
                [
                    *COMMAND,
                    *flags,
                    f"--workdir={workdir}",
                    f"--coordinator=localhost:{port}",
                    f"--process_id={i}",
                    f"--process_count={processes}",
                ],
                env=environment,
                cwd=workdir.parent,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for i in range(processes)
        ]
        self._readers = [
            threading.Thread(target=self._read, args=(i,), daemon=True) for i in range(processes)
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, index: int) -> None:
        for line in self.processes[index].stdout:
            self.lines.append(f"{index}: {line}")

    def steps(self) -> list[int]:
        """The steps that were printed so far."""
        return [
            int(found.group(1))
            for line in list(self.lines)
            if (found := re.match(r"0: step (\d+)/", line))
        ]

    def where(self) -> str:
        """From which step on it ran, and how far it came."""
        first = next(
            (
                f"from step {found.group(1)}"
                for line in self.lines
                if (found := re.search(r"resuming .* at step (\d+)", line))
            ),
            "",
        )
        steps = self.steps()
        return (
            f"{first or 'from step 0'}, after step {steps[-1]}"
            if steps
            else f"{first} before its first step".strip()
        )

    def disturb(self, kill: Kill) -> bool:
        """Waits for the moment and kills; False if the run came to its end before."""
        running = lambda: all(process.poll() is None for process in self.processes)
        while running() and len(self.steps()) < kill.steps:
            time.sleep(0.005)
        end = time.monotonic() + kill.delay
        while running() and time.monotonic() < end:
            time.sleep(0.005)
        if not running():
            return False
        self.processes[kill.process % len(self.processes)].send_signal(kill.signal)
        return True

    def finish(self) -> list[int]:
        """The exit codes. RuntimeError if a process does not end."""
        try:
            for process in self.processes:
                process.wait(PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(
                f"a process goes on {PATIENCE} s after the kill:\n{''.join(self.lines)}"
            ) from error
        finally:
            for process in self.processes:
                process.kill()
        for reader in self._readers:
            reader.join()
        return [process.returncode for process in self.processes]


def run(
    name: str, folder: pathlib.Path, steps: int, kills: list[Kill], layouts: list[tuple[int, int]]
) -> str:
    """A run that is killed and started again until it ends; returns the digest of its state. RuntimeError if it fails or hangs.

    layouts: (processes, devices each) of its starts; the last one is kept.
    """
    began, number = time.monotonic(), 0
    while True:
        processes, devices = layouts[min(number, len(layouts) - 1)]
        leg = Leg(folder / name, processes, devices, steps)
        if number == len(kills) or not leg.disturb(kills[number]):
            break
        kill, killed, number = kills[number], time.monotonic(), number + 1
        codes = leg.finish()
        print(
            f"{name} {number}: {processes} x {devices} devices, {kill.signal.name} to process {kill.process % processes} {leg.where()}; "
            f"exit codes {codes} after {time.monotonic() - killed:.1f} s",
            flush=True,
        )
    if any(leg.finish()):
        raise RuntimeError("the last start failed:\n" + "".join(leg.lines))
    print(
        f"{name}: {processes} x {devices} devices {leg.where()}, the end; {number} kills, {time.monotonic() - began:.0f} s in all",
        flush=True,
    )
    return next(
        line.split()[-1] for line in leg.lines if "sha256 of parameters, EMA and step" in line
    )


def random_kills(count: int, steps: int, chance: random.Random, share: float) -> list[Kill]:
    """That `share` of them while the run starts or compiles, the others after some steps; together they leave it room to end."""

    def one() -> Kill:
        starting = chance.random() < share
        return Kill(
            0 if starting else chance.randint(1, max(1, steps // count)),
            chance.uniform(0, 20 if starting else 1),
            chance.randrange(2),
            chance.choice([signal.SIGKILL, signal.SIGTERM]),
        )

    return [one() for _ in range(count)]


def largest_difference(folders: list[pathlib.Path]) -> float:
    """Of any parameter or average in two checkpoints, written on whatever devices."""
    states = []
    for folder in folders:
        reader = ocp.PyTreeCheckpointer()
        tree = reader.metadata(folder).item_metadata.tree
        states.append(
            reader.restore(
                folder,
                restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree),
            )
        )
    return max(
        float(np.abs(states[0][group][path] - value).max(initial=0))
        for group in ("parameters", "ema")
        for path, value in states[1][group].items()
    )


def main() -> int:
    """Prints the kills and the verdicts; 1 if a run ended otherwise."""
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
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "programs"))

    logging.set_verbosity(logging.ERROR)
    chance = random.Random(args.seed)
    kills, moves = (
        random_kills(args.kills, args.steps, chance, 1 / 3),
        random_kills(3, args.steps, chance, 0),
    )  # each move trains
    print(
        f"seed {args.seed}, {args.steps} steps, jax {jax.__version__}, {os.cpu_count()} cores",
        flush=True,
    )
    two, one, failed = (2, 4), (1, 8), 0
    digests = {
        name: run(name, folder, args.steps, *plan)
        for name, plan in {
            "undisturbed": ([], [two]),
            "again": ([], [two]),
            "killed": (kills, [two]),
            "moved": (moves, [two, one, two]),
        }.items()
    }
    for name in ("again", "killed", "moved"):
        equal = digests[name] == digests["undisturbed"]
        difference = largest_difference(
            [
                folder / run_name / f"checkpoints/{args.steps}/state"
                for run_name in ("undisturbed", name)
            ]
        )
        good = difference <= TOLERANCE if name == "moved" else equal
        failed += not good
        print(
            f"{name}: {'equal bit for bit' if equal else 'not equal bit for bit'}, largest difference {difference:.2e}: "
            f"{'as promised' if good else 'NOT as promised'}",
            flush=True,
        )
    if not args.out:
        shutil.rmtree(folder)
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
