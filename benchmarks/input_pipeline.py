"""Examples a second and core of the input pipeline, beside a torch DataLoader.

    PYTHONPATH=. python benchmarks/input_pipeline.py
    PYTHONPATH=. python benchmarks/input_pipeline.py --size 1600 1200 --pairs 8

Both read the same files (scenes rendered at 640 x 480, saved as JPEG, with 16-bit PNGs of heights
and 8-bit PNGs of classes), cut a random window, mirror, change colors, encode the label and make
batches. The torch way is PIL and NumPy, step by step as torchvision does it; "draft" is the same
with PIL's own way to decode a JPEG at a fraction of its size, where the window leaves enough
pixels. Ours is OpenCV, on no more pixels than the window needs. All keep the memory of freed
arrays, as main.py has it.

Runs alternate, each in its own process on its number of cores. Prints the median of the rounds,
then where our time goes, and how far each way's images are from the exact area mean of the window.
Needs torch, of the [test] extra.
"""

import argparse
import cProfile
import itertools
import math
import multiprocessing
import os
import pathlib
import pstats
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import cv2
import numpy as np

from generalist.input_pipeline.loader import FINER, training_batches
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.source import ReadWindow
from generalist.input_pipeline.sources.files import read_image, read_window
from generalist.input_pipeline.sources.folder import Folder
from generalist.input_pipeline.transforms import random_window
from generalist.tasks import SCENES_TASKS, get_tasks
from generalist.tasks.arrays import resize_image
from generalist.training.host import keep_freed_memory

BATCH = 8
IMAGE_SIZE = 256
TARGET_SIZE = 128

# Examples of each task, most of them further names of the same files: shuffling a handful of
# examples takes grain milliseconds.
LISTED = 1000

AUGMENT = {
    "scale": (0.3, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "native": 0.5,
    "flip": 0.5,
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    "jitter_probability": 0.8,
}
CLASSES = SCENES_TASKS["semantic"].classes
DEFINITIONS = {
    "height": {
        "kind": "scalar",
        "folder": "height",
        "range": (0.0, 65.535),
        "scale": 0.001,
        "void": (0,),
    },
    "classes": {
        "kind": "classes",
        "folder": "classes",
        "void": (255,),
        "classes": tuple((name, index) for index, name in enumerate(CLASSES)),
    },
}


class Run(NamedTuple):
    """A run of a round."""

    arm: str  # "ours", "torch" or "draft"
    cores: int
    threads: int  # of ours
    workers: int  # processes that read


RUNS = {
    "ours, in process, 1 thread": Run("ours", cores=1, threads=1, workers=0),
    "torch, in process": Run("torch", cores=1, threads=0, workers=0),
    "torch and draft, in process": Run("draft", cores=1, threads=0, workers=0),
    "ours, 1 worker": Run("ours", cores=1, threads=1, workers=1),
    "torch, 1 worker": Run("torch", cores=1, threads=0, workers=1),
    "ours, 2 threads": Run("ours", cores=2, threads=2, workers=0),
    "ours, 2 workers": Run("ours", cores=2, threads=1, workers=2),
    "torch, 2 workers": Run("torch", cores=2, threads=0, workers=2),
    "torch and draft, 2 workers": Run("draft", cores=2, threads=0, workers=2),
}

# Of which runs the ratios are printed.
COMPARED = (
    ("ours, in process, 1 thread", "torch, in process"),
    ("ours, 1 worker", "torch, 1 worker"),
    ("ours, 2 workers", "torch, 2 workers"),
    ("ours, 2 threads", "torch, 2 workers"),
    ("ours, in process, 1 thread", "torch and draft, in process"),
    ("ours, 2 workers", "torch and draft, 2 workers"),
)

# What a stage is called -> the functions that do it.
STAGES = {
    "image: read, decode, cut": ("read_window",),
    "image: resize": ("resize_image",),
    "image: colors": ("brightness", "contrast", "saturation", "hue"),
    "label: read, decode": ("decode_label",),
    "label: look up": ("to_label",),
    "label: encode": ("encode",),
    "mirror both": ("<flip>",),
}


class Rate(NamedTuple):
    """What one run printed."""

    wall: float  # examples a second
    cpu: float  # examples a second of this process's CPU time


# The files --------------------------------------------------------------------------------------


def make_files(root: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Writes `count` pairs of each task, of `size` (w, h)."""
    sources = {
        "height": ScenesSource("depth", "train", count, size[::-1]),
        "classes": ScenesSource("semantic", "train", count, size[::-1]),
    }
    for task, source in sources.items():
        folder = root / task / "train"
        (folder / "images").mkdir(parents=True)
        (folder / "labels").mkdir(parents=True)
        for index in range(count):
            example = source[index]
            image = example["image"][..., ::-1]
            jpeg = [cv2.IMWRITE_JPEG_QUALITY, 92]
            cv2.imwrite(str(folder / f"images/{index}.jpg"), image, jpeg)

            label = example["label"].astype(np.uint8)
            if task == "height":
                label = np.rint(example["label"] * 1000).astype(np.uint16)
            cv2.imwrite(str(folder / f"labels/{index}.png"), label)

        for path in list(folder.glob("*/*")):
            for copy in range(count, LISTED, count):
                os.link(path, path.with_stem(str(int(path.stem) + copy)))
    print(f"{2 * count} pairs at {size[0]} x {size[1]} in {root}")


# The two ways -----------------------------------------------------------------------------------


def ours(root: str, threads: int, workers: int):
    """Returns endless batches of this package."""
    tasks = get_tasks(DEFINITIONS)
    sources = {name: Folder(root, "train", name, DEFINITIONS[name]) for name in tasks}
    return training_batches(
        sources,
        tasks,
        dict.fromkeys(tasks, 1.0),
        seed=0,
        batch_size=BATCH,
        image_size=IMAGE_SIZE,
        target_size=TARGET_SIZE,
        augment=AUGMENT | {"tasks": tuple(tasks)},
        threads=threads,
        prefetch=2,
        workers=workers,
    )


class TorchDataset:
    """The same examples by PIL and NumPy, for a torch DataLoader.

    Args:
      root: the data directory.
      draft: whether PIL decodes a JPEG at a fraction of its size where that is enough.
    """

    def __init__(self, root: str, draft: bool):
        self.draft = draft
        self.palette = get_tasks(DEFINITIONS)["classes"].palette
        self.items = []
        for task in DEFINITIONS:
            for path in sorted(pathlib.Path(root).glob(f"{task}/train/images/*")):
                label = path.parents[1] / "labels" / f"{path.stem}.png"
                self.items.append((task, path, label))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        task, image_path, label_path = self.items[index]
        rng = np.random.default_rng()
        image = Image.open(image_path)
        label = Image.open(label_path)

        # The same window of both, the label without new values.
        box = self._box(image.size, rng)
        image = self._read(image, box).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        method = Image.Resampling.NEAREST
        if task == "height":
            # PIL cannot resize 16 bits but as floats.
            label = Image.fromarray(np.asarray(label).astype(np.float32))
            method = Image.Resampling.BOX
        label = label.crop(box).resize((TARGET_SIZE, TARGET_SIZE), method)

        if rng.random() < AUGMENT["flip"]:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            label = label.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < AUGMENT["jitter_probability"]:
            image = self._jitter(image, rng)

        target, mask = self._encode(task, np.asarray(label))
        return {
            "image": torch.from_numpy(np.array(image)),
            "target": torch.from_numpy(target),
            "mask": torch.from_numpy(mask),
            "task": list(DEFINITIONS).index(task),
        }

    def _read(self, image, box):
        """Decodes the window, with `draft` at 1/2, 1/4 or 1/8 where it keeps IMAGE_SIZE pixels."""
        left, top, right, bottom = box
        side = min(right - left, bottom - top)
        shrink = 1
        if self.draft:
            shrink = max(n for n in (1, 2, 4, 8) if n == 1 or side >= n * IMAGE_SIZE)
        if shrink > 1:
            image.draft("RGB", (image.width // shrink, image.height // shrink))
        return image.convert("RGB").crop([edge // shrink for edge in box])

    @staticmethod
    def _box(size, rng):
        """Draws a window (left, top, right, bottom) as torchvision's RandomResizedCrop does."""
        width, height = size
        while True:
            area = width * height * rng.uniform(*AUGMENT["scale"])
            shape = math.exp(rng.uniform(*map(math.log, AUGMENT["ratio"])))
            w = round(math.sqrt(area * shape))
            h = round(math.sqrt(area / shape))
            if w <= width and h <= height:
                left = int(rng.integers(width - w + 1))
                top = int(rng.integers(height - h + 1))
                return left, top, left + w, top + h

    @staticmethod
    def _jitter(image, rng):
        """Changes brightness, contrast, saturation and hue, in a random order."""
        from PIL import Image, ImageEnhance

        enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        largest = np.array(list(AUGMENT["jitter"].values()))
        *factors, turn = rng.uniform(-1, 1, 4) * largest + (1, 1, 1, 0)
        for index in rng.permutation(4):
            if index < 3:
                image = enhancers[index](image).enhance(factors[index])
                continue

            hue, saturation, value = image.convert("HSV").split()
            turned = (np.asarray(hue).astype(np.int16) + round(turn * 255)) % 256
            hue = Image.fromarray(turned.astype(np.uint8))
            image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return image

    def _encode(self, task, label):
        """Returns the target, float32 (h, w, 3) in [-1, 1], and its mask (h, w, 1)."""
        if task == "height":
            mask = label > 0
            gray = np.where(mask, label * 0.001 / 65.535 * 2 - 1, -1).astype(np.float32)
            target = np.repeat(gray[..., None], 3, -1)
        else:
            mask = label != 255
            # Void is the last row: black.
            table = np.concatenate([self.palette, np.zeros((1, 3), np.float32)])
            colors = table[np.where(mask, label.astype(np.int64), -1)]
            target = (colors / 127.5 - 1).astype(np.float32)
        return target, mask.astype(np.float32)[..., None]


def torch_batches(root: str, workers: int, draft: bool):
    """Returns endless batches of a torch DataLoader."""
    import torch

    loader = torch.utils.data.DataLoader(
        TorchDataset(root, draft),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


# What is measured -------------------------------------------------------------------------------


def measure(root: str, name: str, batches: int) -> None:
    """Prints examples a second, and a second of this process's CPU time, of one run."""
    run = RUNS[name]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: run.cores])
    keep_freed_memory()
    cv2.setNumThreads(1)
    if run.arm == "ours":
        made = iter(ours(root, run.threads, run.workers))
    else:
        made = iter(torch_batches(root, run.workers, run.arm == "draft"))

    # Until the queues are full.
    for _ in range(4):
        next(made)
    wall = time.perf_counter()
    cpu = time.process_time()
    for _ in range(batches):
        next(made)
    rate = Rate(
        BATCH * batches / (time.perf_counter() - wall),
        BATCH * batches / (time.process_time() - cpu),
    )
    print(*rate, flush=True)

    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(0)  # waits for no reader


def measure_apart(root: str, name: str, batches: int) -> Rate:
    """Measures one run in a process of its own."""
    command = [sys.executable, __file__, "--measure", root, name, f"--batches={batches}"]
    # The workers that are stopped warn about it.
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return Rate(*map(float, done.stdout.split()))


def where_the_time_goes(root: str, batches: int) -> None:
    """Profiles our pipeline in this thread; prints the milliseconds of an example by stage."""
    made = ours(root, 0, 0)
    next(made)
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for _ in range(batches):
        next(made)
    profile.disable()

    stats = pstats.Stats(profile)
    spent = dict.fromkeys(STAGES, 0.0)
    for (_, _, function), (_, _, _, cumulative, _) in stats.stats.items():
        for stage, functions in STAGES.items():
            if function in functions:
                spent[stage] += cumulative
    spent["all else: order, randomness, batches"] = stats.total_tt - sum(spent.values())

    print("\nours, by stage (profiled, which adds a little)")
    for stage, seconds in spent.items():
        milliseconds = 1000 * seconds / batches / BATCH
        print(f"{stage:38} {milliseconds:6.2f} ms {seconds / stats.total_tt:6.1%}")


def how_exact(root: str, windows: int) -> None:
    """Prints how far the network's images are from the exact mean of the fully decoded window."""
    from PIL import Image

    rng = np.random.default_rng(0)
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    paths = sorted(map(str, pathlib.Path(root).glob("*/train/images/*.jpg")))
    for path in paths[:: max(len(paths) // windows, 1)]:
        whole = read_image(path)
        window = random_window(whole.shape[:2], AUGMENT["scale"], AUGMENT["ratio"], rng)
        for side in (IMAGE_SIZE, IMAGE_SIZE // 4):
            wanted = ReadWindow(lambda size, window=window: window, math.ceil(FINER * side))
            pixels, shown, _ = read_window(path, wanted)
            cut = whole[shown]
            exact = cv2.resize(cut.astype(np.float32), (side, side), interpolation=cv2.INTER_AREA)
            ours_small = resize_image(pixels, (side, side))
            by_pil = Image.fromarray(cut).resize((side, side), Image.Resampling.BICUBIC)
            for name, image in (("ours", ours_small), ("PIL bicubic", np.asarray(by_pil))):
                difference = np.abs(image - exact)
                values = found.setdefault((name, side), [])
                values.append((difference.mean(), difference.max()))

    print("\nimages against a full decode and the exact area mean, levels of 0..255")
    for (name, side), values in sorted(found.items()):
        mean = np.mean(values, 0)[0]
        largest = np.max(values, 0)[1]
        print(
            f"{name:12} at {side:3}: mean difference {mean:.2f}, "
            f"largest {largest:.0f} of {len(values)} windows"
        )


def print_table(found: dict[str, list[Rate]]) -> None:
    """Prints the medians, and ours as multiples of torch's."""
    print(
        f"\n{'run':28} {'cores':>5} {'examples/s/core':>16} {'lowest..highest':>16} "
        f"{'a CPU second':>13}"
    )
    medians = {}
    for name, rates in found.items():
        run = RUNS[name]
        wall = [rate.wall / run.cores for rate in rates]
        medians[name] = statistics.median(wall)
        # The CPU time of workers is not that of this process.
        cpu = "-" if run.workers else f"{statistics.median(rate.cpu for rate in rates):.0f}"
        print(
            f"{name:28} {run.cores:5} {medians[name]:16.1f} {min(wall):7.1f}..{max(wall):.1f} "
            f"{cpu:>13}"
        )
    for one, other in COMPARED:
        print(f"{one} / {other}: {medians[one] / medians[other]:.2f}")


def main() -> None:
    """Measures all runs in rounds and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=24, help="files of each of the two tasks")
    parser.add_argument("--batches", type=int, default=40, help="timed in each run, of 8 examples")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        default=(640, 480),
        metavar=("W", "H"),
        help="of the files, pixels",
    )
    parser.add_argument("--measure", nargs=2, metavar=("DIR", "RUN"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(*args.measure, args.batches)
        return

    with tempfile.TemporaryDirectory() as root:
        make_files(pathlib.Path(root), args.pairs, tuple(args.size))
        found: dict[str, list[Rate]] = {name: [] for name in RUNS}
        for number in range(args.rounds):
            for name in RUNS:
                rate = measure_apart(root, name, args.batches)
                found[name].append(rate)
                print(
                    f"round {number + 1} of {args.rounds}: {name}: {rate.wall:.0f} examples/s",
                    flush=True,
                )
        print_table(found)
        cv2.setNumThreads(1)
        where_the_time_goes(root, args.batches)
        how_exact(root, 48)


if __name__ == "__main__":
    main()
