"""Examples a second and core of the input pipeline, beside a torch DataLoader that does the same work the usual way.

    python benchmarks/input_pipeline.py
    python benchmarks/input_pipeline.py --size 1600 1200 --pairs 8

Both read the same files (scenes rendered at 640 x 480, saved as JPEG, with 16-bit PNGs of heights and 8-bit PNGs of classes), cut a
random window, mirror, change colours, encode the label and make batches. The usual way is PIL and NumPy, step by step as torchvision
does it; "draft" is the same with PIL's own way to decode a JPEG at a fraction of its size, where the window leaves enough pixels. Ours is
OpenCV, on no more pixels than the window needs. All keep the memory of freed arrays, as main.py has it. Runs alternate, each in its own
process on the given cores; the median of the rounds counts. Then it prints where our time goes, and how far each way's images are from the exact area mean of the window. Needs torch, of the
[test] extra.
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

import cv2
import numpy as np

from generalist.input_pipeline.loader import FINER, fit, training_batches
from generalist.input_pipeline.scenes import ScenesSource
from generalist.input_pipeline.sources.files import Part, read_image, read_part
from generalist.input_pipeline.sources.folder import Folder
from generalist.input_pipeline.transforms import random_window
from generalist.tasks import SCENES_TASKS, get_tasks
from generalist.training.launch import keep_freed_memory

BATCH, IMAGE_SIZE, TARGET_SIZE = 8, 256, 128
LISTED = 1000  # examples of each task, most of them further names of the same files
AUGMENT = {
    "scale": (0.3, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "flip": 0.5,
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1},
    "jitter_probability": 0.8,
}
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
        "classes": tuple(
            (name, index) for index, name in enumerate(SCENES_TASKS["semantic"].classes)
        ),
    },
}
RUNS = {  # name -> (arm, cores, threads, workers)
    "ours, in process, 1 thread": ("ours", 1, 1, 0),
    "torch, in process": ("torch", 1, 0, 0),
    "torch and draft, in process": ("draft", 1, 0, 0),
    "ours, 1 worker": ("ours", 1, 1, 1),
    "torch, 1 worker": ("torch", 1, 0, 1),
    "ours, 2 threads": ("ours", 2, 2, 0),
    "ours, 2 workers": ("ours", 2, 1, 2),
    "torch, 2 workers": ("torch", 2, 0, 2),
    "torch and draft, 2 workers": ("draft", 2, 0, 2),
}
STAGES = {  # what it is called -> the functions that do it
    "image: read, decode, cut": ("read_part",),
    "image: resize": ("fit",),
    "image: colours": ("brightness", "contrast", "saturation", "hue"),
    "label: read, decode": ("decode_label",),
    "label: look up": ("to_label",),
    "label: encode": ("encode",),
    "mirror both": ("<flip>",),
}


def make_files(root: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Writes `count` pairs of each task, of `size` (w, h)."""
    sources = {
        "height": ScenesSource("depth", "train", count, size[::-1]),
        "classes": ScenesSource("semantic", "train", count, size[::-1]),
    }
    for task, source in sources.items():
        for half in ("images", "labels"):
            (root / task / "train" / half).mkdir(parents=True)
        for index in range(count):
            example = source[index]
            label = (
                np.rint(example["label"] * 1000).astype(np.uint16)
                if task == "height"
                else example["label"].astype(np.uint8)
            )
            cv2.imwrite(
                str(root / task / f"train/images/{index}.jpg"),
                example["image"][..., ::-1],
                [cv2.IMWRITE_JPEG_QUALITY, 92],
            )
            cv2.imwrite(str(root / task / f"train/labels/{index}.png"), label)
        for path in (root / task / "train").glob(
            "*/*"
        ):  # many names for each file: shuffling a handful of examples takes grain milliseconds
            for copy in range(count, LISTED, count):
                os.link(path, path.with_stem(str(int(path.stem) + copy)))
    print(f"{2 * count} pairs at {size[0]} x {size[1]} in {root}")


def ours(root: str, threads: int, workers: int):
    """Endless batches of this package."""
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


class UsualDataset:
    """The same examples by PIL and NumPy, for a torch DataLoader."""

    def __init__(self, root: str, draft: bool):
        self.draft = draft
        names = sorted(path.stem for path in pathlib.Path(root, "height/train/images").iterdir())
        self.items = [
            (
                task,
                f"{root}/{task}/train/images/{name}.jpg",
                f"{root}/{task}/train/labels/{name}.png",
            )
            for name in names
            for task in DEFINITIONS
        ]
        self.palette = get_tasks(DEFINITIONS)["classes"].palette

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        import torch
        from PIL import Image

        task, image_path, label_path = self.items[index]
        rng = np.random.default_rng()
        image, label = Image.open(image_path), Image.open(label_path)
        box = self._box(image.size, rng)
        nearest = Image.Resampling.NEAREST
        image = self._read(image, box).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        if task == "height":  # PIL cannot resize 16 bits but as floats
            label = Image.fromarray(np.asarray(label).astype(np.float32))
        label = label.crop(box).resize(
            (TARGET_SIZE, TARGET_SIZE), Image.Resampling.BOX if task == "height" else nearest
        )
        if rng.random() < AUGMENT["flip"]:
            image, label = (x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for x in (image, label))
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
        left, top, right, bottom = box
        shrink = max(
            n
            for n in (1, 2, 4, 8)
            if n == 1 or (self.draft and min(right - left, bottom - top) >= n * IMAGE_SIZE)
        )
        if shrink > 1:
            image.draft("RGB", (image.width // shrink, image.height // shrink))
        return image.convert("RGB").crop([edge // shrink for edge in box])

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

        *factors, turn = rng.uniform(-1, 1, 4) * tuple(AUGMENT["jitter"].values()) + (1, 1, 1, 0)
        for index in rng.permutation(4):
            if index < 3:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[
                    index
                ]
                image = enhance(image).enhance(factors[index])
            else:
                hue, saturation, value = image.convert("HSV").split()
                hue = Image.fromarray(
                    ((np.asarray(hue).astype(np.int16) + round(turn * 255)) % 256).astype(np.uint8)
                )
                image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        return image

    def _encode(self, task, label):
        if task == "height":
            mask = label > 0
            grey = np.where(mask, label * 0.001 / 65.535 * 2 - 1, -1).astype(np.float32)
            return np.repeat(grey[..., None], 3, -1), mask.astype(np.float32)[..., None]
        mask = label != 255
        colours = np.concatenate([self.palette, np.zeros((1, 3), np.float32)])[
            np.where(mask, label.astype(np.int64), -1)
        ]
        return (colours / 127.5 - 1).astype(np.float32), mask.astype(np.float32)[..., None]


def usual(root: str, workers: int, draft: bool):
    """Endless batches of a torch DataLoader."""
    import torch

    loader = torch.utils.data.DataLoader(
        UsualDataset(root, draft),
        BATCH,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=workers > 0,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def measure(root: str, run: str, batches: int) -> None:
    """Prints examples a second, and a second of this process's CPU time, of one run."""
    arm, cores, threads, workers = RUNS[run]
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    keep_freed_memory()
    cv2.setNumThreads(1)
    made = iter(
        ours(root, threads, workers) if arm == "ours" else usual(root, workers, arm == "draft")
    )
    for _ in range(4):
        next(made)
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(batches):
        next(made)
    print(
        BATCH * batches / (time.perf_counter() - wall),
        BATCH * batches / (time.process_time() - cpu),
        flush=True,
    )
    for worker in multiprocessing.active_children():
        worker.kill()
    os._exit(0)  # waits for no reader


def where_the_time_goes(root: str, batches: int) -> None:
    """Profiles our pipeline in this thread and prints the milliseconds of an example by stage."""
    made = ours(root, 0, 0)
    next(made)
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for _ in range(batches):
        next(made)
    profile.disable()
    stats = pstats.Stats(profile)
    spent = {stage: 0.0 for stage in STAGES}
    for (_, _, function), (_, _, _, cumulative, _) in stats.stats.items():
        for stage, functions in STAGES.items():
            spent[stage] += cumulative if function in functions else 0.0
    spent["all else: order, randomness, batches"] = stats.total_tt - sum(spent.values())
    print("\nours, by stage (profiled, which adds a little)")
    for stage, seconds in spent.items():
        print(
            f"{stage:38} {1000 * seconds / batches / BATCH:6.2f} ms {seconds / stats.total_tt:6.1%}"
        )


def how_exact(root: str, windows: int) -> None:
    """Prints how far the network's images are from the exact area mean of the fully decoded window, in levels of 0..255."""
    from PIL import Image

    rng, found = np.random.default_rng(0), {}
    paths = sorted(map(str, pathlib.Path(root).glob("*/train/images/*.jpg")))
    for path in paths[:: max(len(paths) // windows, 1)]:
        whole = read_image(path)
        window = random_window(whole.shape[:2], AUGMENT["scale"], AUGMENT["ratio"], rng)
        for side in (IMAGE_SIZE, IMAGE_SIZE // 4):
            pixels, shown, _ = read_part(path, Part(lambda size: window, math.ceil(FINER * side)))
            exact = cv2.resize(
                whole[shown].astype(np.float32), (side, side), interpolation=cv2.INTER_AREA
            )
            usual_way = np.asarray(
                Image.fromarray(whole[shown]).resize((side, side), Image.Resampling.BICUBIC)
            )
            for name, image in (("ours", fit(pixels, side)), ("PIL bicubic", usual_way)):
                difference = np.abs(image - exact)
                found.setdefault((name, side), []).append((difference.mean(), difference.max()))
    print("\nimages against a full decode and the exact area mean, levels of 0..255")
    for (name, side), values in sorted(found.items()):
        mean, largest = np.mean(values, 0)[0], np.max(values, 0)[1]
        print(
            f"{name:12} at {side:3}: mean difference {mean:.2f}, largest {largest:.0f} of {len(values)} windows"
        )


def print_table(found: dict[str, list[tuple[float, float]]]) -> None:
    """The medians, and ours as multiples of torch's."""
    print(
        f"\n{'run':28} {'cores':>5} {'examples/s/core':>16} {'lowest..highest':>16} {'a CPU second':>13}"
    )
    for run, values in found.items():
        _, cores, _, workers = RUNS[run]
        wall = [rate / cores for rate, _ in values]
        cpu = f"{statistics.median(rate for _, rate in values):.0f}" if not workers else "-"
        print(
            f"{run:28} {cores:5} {statistics.median(wall):16.1f} {min(wall):7.1f}..{max(wall):.1f} {cpu:>13}"
        )
    rate = {
        run: statistics.median(wall for wall, _ in values) / RUNS[run][1]
        for run, values in found.items()
    }
    for one, other in (
        ("ours, in process, 1 thread", "torch, in process"),
        ("ours, 1 worker", "torch, 1 worker"),
        ("ours, 2 workers", "torch, 2 workers"),
        ("ours, 2 threads", "torch, 2 workers"),
        ("ours, in process, 1 thread", "torch and draft, in process"),
        ("ours, 2 workers", "torch and draft, 2 workers"),
    ):
        print(f"{one} / {other}: {rate[one] / rate[other]:.2f}")


def main() -> None:
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
        found = {run: [] for run in RUNS}
        for number in range(args.rounds):
            for run in RUNS:
                command = [
                    sys.executable,
                    __file__,
                    "--measure",
                    root,
                    run,
                    "--batches",
                    str(args.batches),
                ]
                output = subprocess.run(
                    command,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=os.environ | {"PYTHONWARNINGS": "ignore"},
                ).stdout  # of the workers that were stopped
                found[run].append(tuple(map(float, output.split())))
                print(
                    f"round {number + 1} of {args.rounds}: {run}: {found[run][-1][0]:.0f} examples/s",
                    flush=True,
                )
        print_table(found)
        cv2.setNumThreads(1)
        where_the_time_goes(root, args.batches)
        how_exact(root, 48)


if __name__ == "__main__":
    main()
