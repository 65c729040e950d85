"""Examples a second and core of the input pipeline, beside a torch DataLoader that does the same work the usual way.

    python benchmarks/input_pipeline.py

Both read the same files (scenes rendered at 640 x 480, saved as JPEG, with 16-bit PNGs of heights and 8-bit PNGs of classes), cut a
random window, mirror, change colours, encode the label and make batches. The usual way is PIL and NumPy, step by step as torchvision
does it; ours is OpenCV on the cut pixels. Runs alternate, each in its own process on the given cores; the median of the rounds counts.
Needs torch, of the [test] extra.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from generalist.input_pipeline.loader import training_batches
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources.folder import Folder
from generalist.tasks import SCENES_TASKS, get_tasks

BATCH, IMAGE_SIZE, TARGET_SIZE = 8, 256, 128
LISTED = 1000  # examples of each task, most of them further names of the same files
AUGMENT = {"scale": (0.3, 1.0), "ratio": (3 / 4, 4 / 3), "flip": 0.5, "jitter": (0.4, 0.4, 0.2, 0.1), "jitter_share": 0.8}
DEFINITIONS = {
    "height": {"kind": "scalar", "folder": "height", "range": (0.0, 65.535), "scale": 0.001, "void": (0,)},
    "classes": {"kind": "classes", "folder": "classes", "void": (255,),
                "classes": tuple((name, index) for index, name in enumerate(SCENES_TASKS["semantic"].classes))}}
RUNS = {  # name -> (arm, cores, threads, workers)
    "ours, in process, 1 thread": ("ours", 1, 1, 0), "torch, in process": ("torch", 1, 0, 0),
    "ours, 1 worker": ("ours", 1, 1, 1), "torch, 1 worker": ("torch", 1, 0, 1),
    "ours, 2 threads": ("ours", 2, 2, 0), "ours, 2 workers": ("ours", 2, 1, 2), "torch, 2 workers": ("torch", 2, 0, 2)}


def make_files(root: pathlib.Path, count: int) -> None:
    """Writes `count` pairs of each task."""
    sources = {"height": ScenesSource("depth", "train", count, (480, 640)), "classes": ScenesSource("semantic", "train", count, (480, 640))}
    for task, source in sources.items():
        for half in ("images", "labels"):
            (root / task / "train" / half).mkdir(parents=True)
        for index in range(count):
            example = source[index]
            label = np.rint(example["label"] * 1000).astype(np.uint16) if task == "height" else example["label"].astype(np.uint8)
            cv2.imwrite(str(root / task / f"train/images/{index}.jpg"), example["image"][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
            cv2.imwrite(str(root / task / f"train/labels/{index}.png"), label)
        for path in (root / task / "train").glob("*/*"):  # many names for each file: shuffling a handful of examples takes grain milliseconds
            for copy in range(count, LISTED, count):
                os.link(path, path.with_stem(str(int(path.stem) + copy)))
    print(f"{2 * count} pairs at 640 x 480 in {root}")


def ours(root: str, threads: int, workers: int):
    """Endless batches of this package."""
    tasks = get_tasks(DEFINITIONS)
    sources = {name: Folder(root, "train", name, DEFINITIONS[name]) for name in tasks}
    return training_batches(sources, tasks, dict.fromkeys(tasks, 1.0), seed=0, batch_size=BATCH, image_size=IMAGE_SIZE,
                            target_size=TARGET_SIZE, augment=AUGMENT | {"tasks": tuple(tasks)}, threads=threads, prefetch=2, workers=workers)


class UsualDataset:
    """The same examples by PIL and NumPy, for a torch DataLoader."""

    def __init__(self, root: str):
        names = sorted(path.stem for path in pathlib.Path(root, "height/train/images").iterdir())
        self.items = [(task, f"{root}/{task}/train/images/{name}.jpg", f"{root}/{task}/train/labels/{name}.png")
                      for name in names for task in DEFINITIONS]
        self.palette = get_tasks(DEFINITIONS)["classes"].palette

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        task, image_path, label_path = self.items[index]
        rng = np.random.default_rng()
        image, label = Image.open(image_path).convert("RGB"), Image.open(label_path)
        box = self._box(image.size, rng)
        nearest = Image.Resampling.NEAREST
        image = image.crop(box).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        if task == "height":  # PIL cannot resize 16 bits but as floats
            label = Image.fromarray(np.asarray(label).astype(np.float32))
        label = label.crop(box).resize((TARGET_SIZE, TARGET_SIZE), Image.Resampling.BOX if task == "height" else nearest)
        if rng.random() < AUGMENT["flip"]:
            image, label = (x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for x in (image, label))
        if rng.random() < AUGMENT["jitter_share"]:
            image = self._jitter(image, rng)
        target, mask = self._encode(task, np.asarray(label))
        return {"image": torch.from_numpy(np.array(image)), "target": torch.from_numpy(target), "mask": torch.from_numpy(mask),
                "task": list(DEFINITIONS).index(task)}

    @staticmethod
    def _box(size, rng):
        width, height = size
        while True:
            area = width * height * rng.uniform(*AUGMENT["scale"])
            shape = math.exp(rng.uniform(*map(math.log, AUGMENT["ratio"])))
            w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if w <= width and h <= height:
                left, top = rng.integers(width - w + 1), rng.integers(height - h + 1)
                return int(left), int(top), int(left + w), int(top + h)

    @staticmethod
    def _jitter(image, rng):
        from PIL import Image, ImageEnhance

        *factors, turn = rng.uniform(-1, 1, 4) * AUGMENT["jitter"] + (1, 1, 1, 0)
        for index in rng.permutation(4):
            if index < 3:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[index]
                image = enhance(image).enhance(factors[index])
            else:
                hue, saturation, value = image.convert("HSV").split()
                hue = Image.fromarray(((np.asarray(hue).astype(np.int16) + round(turn * 255)) % 256).astype(np.uint8))
                image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return image

    def _encode(self, task, label):
        if task == "height":
            mask = label > 0
            grey = np.where(mask, label * 0.001 / 65.535 * 2 - 1, -1).astype(np.float32)
            return np.repeat(grey[..., None], 3, -1), mask.astype(np.float32)[..., None]
        mask = label != 255
        colours = np.concatenate([self.palette, np.zeros((1, 3), np.float32)])[np.where(mask, label.astype(np.int64), -1)]
        return (colours / 127.5 - 1).astype(np.float32), mask.astype(np.float32)[..., None]


def usual(root: str, workers: int):
    """Endless batches of a torch DataLoader."""
    import torch

    loader = torch.utils.data.DataLoader(UsualDataset(root), BATCH, shuffle=True, num_workers=workers, drop_last=True,
                                         persistent_workers=workers > 0)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def measure(root: str, run: str, batches: int) -> None:
    """Prints examples a second, and a second of this process's CPU time, of one run."""
    arm, cores, threads, workers = RUNS[run]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    cv2.setNumThreads(1)
    made = iter(ours(root, threads, workers) if arm == "ours" else usual(root, workers))
    for _ in range(4):
        next(made)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(made)
    print(BATCH * batches / (time.perf_counter() - wall), BATCH * batches / (time.process_time() - cpu), flush=True)
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(0)  # waits for no reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=24, help="files of each of the two tasks")
    parser.add_argument("--batches", type=int, default=40, help="timed in each run, of 8 examples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("DIR", "RUN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure, args.batches)
        return
    with tempfile.TemporaryDirectory() as root:
        make_files(pathlib.Path(root), args.pairs)
        found = {run: [] for run in RUNS}
        for number in range(args.rounds):
            for run in RUNS:
                command = [sys.executable, __file__, "--measure", root, run, "--batches", str(args.batches)]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | {"PYTHONWARNINGS": "ignore"}).stdout  # of the workers that were stopped
                found[run].append(tuple(map(float, output.split())))
                print(f"round {number + 1} of {args.rounds}: {run}: {found[run][-1][0]:.0f} examples/s", flush=True)
    print(f"\n{'run':28} {'cores':>5} {'examples/s/core':>16} {'lowest..highest':>16} {'a CPU second':>13}")
    for run, values in found.items():
        _, cores, _, workers = RUNS[run]
        wall = [rate / cores for rate, _ in values]
        cpu = f"{statistics.median(rate for _, rate in values):.0f}" if not workers else "-"
        print(f"{run:28} {cores:5} {statistics.median(wall):16.1f} {min(wall):7.1f}..{max(wall):.1f} {cpu:>13}")


if __name__ == "__main__":
    main()
