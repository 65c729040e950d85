"""Seconds of an evaluation by the number of processes, and whether all reach the same figures.

    PYTHONPATH=. python benchmarks/evaluation.py
    PYTHONPATH=. python benchmarks/evaluation.py --images 100 --processes 1 2

Measures COCO's three tasks on files made here: JPEGs of 640 x 480, panoptic PNGs of 25 segments.
In place of a network there is a painter that takes no time and copies the image, whose colors few
classes have: what is timed is reading, decoding, scoring, and what the processes tell each other.
Every process has one core; "1 on 2 cores" is one process whose threads have two.

"first" measures the model, the trivial predictor and the ceiling; "later" the model alone, as every
further evaluation of a run does. "processor" is the processor time of the busiest process, which
other programs on the machine do not change. Exits with 1 unless all arms have the same files, bit
for bit.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import socket
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import cv2
import numpy as np

from generalist.inference.generalist import Seen
from generalist.tasks import COCO_CATEGORIES

TARGET_SIZE = 128
BATCH_SIZE = 8
TASKS = ("coco_semantic", "instance", "panoptic")
TIMINGS = ("first", "later")


class Seconds(NamedTuple):
    """How long an evaluation took."""

    wall: float
    processor: float  # of the busiest process


class Arm(NamedTuple):
    """One way to run the evaluation."""

    processes: int
    cores: int  # of each process, as far as the machine has them

    @property
    def name(self) -> str:
        """What the table calls it."""
        return str(self.processes) if self.cores == 1 else f"{self.processes} on {self.cores} cores"


# The files --------------------------------------------------------------------------------------


def make_coco(root: pathlib.Path, count: int, size: tuple[int, int], segments: int) -> None:
    """Writes COCO's validation split as `root`/coco.

    Args:
      root: the data directory.
      count: number of images.
      size: (width, height).
      segments: of each image, at most.
    """
    labels = root / "coco/annotations/panoptic_val2017"
    images = root / "coco/val2017"
    for folder in (labels, images):
        folder.mkdir(parents=True)

    content = {"images": [], "annotations": [], "categories": COCO_CATEGORIES}
    for number in range(count):
        rng = np.random.default_rng(number)
        id_map, infos = _draw_segments(rng, size, segments)
        colors = rng.integers(0, 256, (segments + 1, 3))[id_map]
        image = np.clip(colors + rng.normal(0, 4, colors.shape), 0, 255).astype(np.uint8)

        name = f"{number:012d}"
        cv2.imwrite(str(images / f"{name}.jpg"), image)
        bgr = np.stack([0 * id_map, 0 * id_map, id_map], axis=-1).astype(np.uint8)
        cv2.imwrite(str(labels / f"{name}.png"), bgr)
        content["images"].append({"id": number, "file_name": f"{name}.jpg"})
        content["annotations"].append(
            {"image_id": number, "file_name": f"{name}.png", "segments_info": infos}
        )
    (labels.parent / "panoptic_val2017.json").write_text(json.dumps(content), encoding="utf-8")


def _draw_segments(rng: np.random.Generator, size: tuple[int, int], count: int):
    """Returns segment ids 1..count, int (h, w), the nearest of random points; and their infos."""
    width, height = size
    points = rng.random((count, 2)) * (height, width)
    rows, columns = np.mgrid[:height, :width]
    distances = [(rows - y) ** 2 + (columns - x) ** 2 for y, x in points]
    id_map = 1 + np.argmin(distances, axis=0)

    infos = []
    for id_, area in zip(*np.unique(id_map, return_counts=True), strict=True):
        category = COCO_CATEGORIES[rng.integers(len(COCO_CATEGORIES))]["id"]
        infos.append({"id": int(id_), "category_id": category, "iscrowd": 0, "area": int(area)})
    return id_map, infos


# One process ------------------------------------------------------------------------------------


class Copier:
    """In place of a model: paints the image."""

    def see(self, images) -> Seen:
        """Returns the images at the size that is painted."""
        size = (TARGET_SIZE, TARGET_SIZE)
        resized = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
        stacked = np.array(resized, np.uint8).reshape(-1, *size, 3)
        return Seen(stacked, stacked)

    def predict_seen(self, seen: Seen, task: str, *sampling) -> np.ndarray:
        """Returns float32 (b, s, s, 3) in [-1, 1]."""
        return seen.pictures.astype(np.float32) / 127.5 - 1.0


def run(root: pathlib.Path, out: pathlib.Path, index: int, count: int, port: int) -> None:
    """Evaluates twice, as one of several processes, and prints the seconds of each."""
    from generalist import tasks
    from generalist.devices import processes
    from generalist.evaluation import EvaluationSettings, evaluate
    from generalist.evaluation.predictors import on_all_processes
    from generalist.input_pipeline.sources import open_source

    processes.connect(
        processes.find_launch({}, f"localhost:{port}" if count > 1 else None, index, count)
    )
    sources = {name: open_source("coco", name, "val", root, quiet=True) for name in TASKS}
    settings = EvaluationSettings(target_size=TARGET_SIZE, batch_size=BATCH_SIZE, submission=True)
    seconds = {}
    for name in TIMINGS:
        processes.wait_for_all(name)
        began = time.perf_counter()
        processor = time.process_time()
        evaluate(
            on_all_processes(Copier(), 1),
            {task: tasks.TASKS[task] for task in TASKS},
            sources,
            settings,
            out / "eval" / name,
            sources,
        )
        seconds[name] = (time.perf_counter() - began, time.process_time() - processor)
    print(json.dumps(seconds))


# All processes ----------------------------------------------------------------------------------


def measure(arm: Arm, root: pathlib.Path, out: pathlib.Path) -> dict[str, Seconds]:
    """Starts the processes of an arm, and returns how long each of `TIMINGS` took."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    cores = sorted(os.sched_getaffinity(0))
    started = []
    for index in range(arm.processes):
        own = [cores[(index * arm.cores + core) % len(cores)] for core in range(arm.cores)]
        command = [sys.executable, __file__, "--cores", *map(str, own)]
        command += ["--part", str(root), str(out), str(index), str(arm.processes), str(port)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{arm.name}: exit codes {[process.returncode for process in started]}")
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    seconds = {}
    for name in TIMINGS:
        walls, processors = zip(*(part[name] for part in found), strict=True)
        seconds[name] = Seconds(max(walls), max(processors))
    return seconds


def digest(folder: pathlib.Path) -> str:
    """Returns a hash of all files of the results; of metrics.json without its seconds."""
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = b""
        if path.name == "metrics.json":
            metrics = json.loads(path.read_text(encoding="utf-8"))
            figures = {key: value for key, value in metrics.items() if "seconds" not in key}
            content = json.dumps(figures).encode()
        elif path.is_file() and not path.name.startswith("card."):
            content = path.read_bytes()
        sha.update(f"{path.relative_to(folder)} {len(content)}".encode() + content)
    return sha.hexdigest()


def main() -> int:
    """Runs the arms, and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, default=(640, 480), metavar=("W", "H"))
    parser.add_argument("--segments", type=int, default=25)
    parser.add_argument("--processes", type=int, nargs="+", default=(1, 2, 4))
    parser.add_argument("--cores", type=int, nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--part", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        os.sched_setaffinity(0, args.cores)
        root, out, *numbers = args.part
        run(pathlib.Path(root), pathlib.Path(out), *map(int, numbers))
        return 0

    cores = len(os.sched_getaffinity(0))
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "numpy")]
    print(
        f"Python {platform.python_version()}, {', '.join(versions)}, OpenCV {cv2.__version__}; "
        f"{cores} cores, load {os.getloadavg()[0]:.1f} before the start; {args.images} images of "
        f"{args.size[0]} x {args.size[1]}, {len(TASKS)} tasks, batches of {BATCH_SIZE}\n"
    )
    arms = [Arm(count, 1) for count in args.processes] + [Arm(1, 2)]
    seconds = {}
    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder) / "data"
        make_coco(root, args.images, tuple(args.size), args.segments)
        for arm in arms:
            out = pathlib.Path(folder) / arm.name
            seconds[arm] = measure(arm, root, out)
            digests[arm] = digest(out)

    print("| processes | first, s | processor | later, s | processor | busiest, of process 1 |")
    print("|---|---:|---:|---:|---:|---:|")
    for arm in arms:
        cells = [f"{value:.1f}" for name in TIMINGS for value in seconds[arm][name]]
        share = seconds[arm]["later"].processor / seconds[arms[0]]["later"].processor
        print(f"| {' | '.join([arm.name, *cells])} | {share:.2f} |")
    same = len(set(digests.values())) == 1
    print(f"\nFigures, values per image, pictures, submissions: {'equal' if same else 'DIFFER'}.")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
