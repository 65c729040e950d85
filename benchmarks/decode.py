"""From what the model painted to depth, classes, instances and panoptic segments.

    PYTHONPATH=. python benchmarks/decode.py

Each decoder of the paper's tasks, and the scenes' semantic one, beside the obvious way in NumPy and
SciPy, which holds a distance for every pixel and color at once. Both decode the same noisy pictures
of 128 x 128 to 480 x 640, in turns, in one process on one core. Prints a table of milliseconds.
That both give the same is checked, but for pixels at which two colors are equally near to rounding;
else the exit code is 1.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import side_by_side
from scipy import ndimage

from generalist.input_pipeline.scenes import ScenesSource
from generalist.tasks import SCENES_TASKS, TASKS

PAINTED = 128  # side of what the model painted
SIZE = (480, 640)  # of the decoded image
NOISE = 0.05  # standard deviation, on the scale of [-1, 1]
UNITS = 256  # distances to location colors are counted in 1/256 of a level, as the decoder does
TIES = 1e-3  # fraction of pixels that may differ
STUFF = 80  # index of COCO's first stuff class
FIRST_THING = 9  # index of the scenes' first thing class


class Case(NamedTuple):
    """A decoder and the obvious way, functions without arguments that return a map."""

    ours: Callable[[], np.ndarray]
    obvious: Callable[[], np.ndarray]


def as_coco(classes: np.ndarray) -> np.ndarray:
    """Gives the scenes' classes to COCO's things and stuff, so that both have some."""
    things = classes - FIRST_THING
    stuff = classes + STUFF
    return np.where(classes < 0, -1, np.where(classes >= FIRST_THING, things, stuff))


def pictures(number: int) -> dict[str, np.ndarray]:
    """Returns what a good model would paint of one scene, by task, float32 (128, 128, 3)."""
    label = {}
    for name in ("depth", "semantic", "instance"):
        label[name] = ScenesSource(name, "val", number + 1, PAINTED)[number]["label"]
    rng = np.random.default_rng(number)

    def paint(task, label):
        rgb = task.encode(label, PAINTED).rgb
        return rgb + NOISE * rng.standard_normal(rgb.shape, np.float32)

    return {
        "depth": paint(TASKS["depth"], label["depth"]),
        "semantic": paint(TASKS["semantic"], label["semantic"]),
        "coco_semantic": paint(TASKS["coco_semantic"], as_coco(label["semantic"])),
        "instance": paint(TASKS["instance"], label["instance"]),
        "scenes": paint(SCENES_TASKS["semantic"], label["semantic"]),
    }


# The obvious way, decoder by decoder ------------------------------------------------------------


def levels(rgb: np.ndarray) -> np.ndarray:
    """Returns [-1, 1] as levels of 0..255."""
    return np.clip((rgb + 1) * 127.5, 0, 255)


def enlarge(maps: np.ndarray) -> np.ndarray:
    """(h, w, n) -> (*SIZE, n): bilinear between pixel centers, edges repeated."""
    axes = []
    for new, old in zip(SIZE, maps.shape[:2], strict=True):
        centers = (np.arange(new) + 0.5) * old / new - 0.5
        axes.append(np.clip(centers, 0, old - 1))
    grid = np.meshgrid(*axes, indexing="ij")

    channels = np.moveaxis(maps, -1, 0)
    return np.stack([ndimage.map_coordinates(x, grid, order=1) for x in channels], -1)


def nearest(masks: np.ndarray) -> np.ndarray:
    """(n, h, w) -> (n, *SIZE), the pixel that contains the center."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(SIZE, masks.shape[1:], strict=True)
    )
    return masks[:, rows[:, None], columns]


def depth(task, rgb: np.ndarray) -> np.ndarray:
    """Returns meters."""
    gray = np.clip((rgb + 1) / 2, 0, 1).mean(-1, keepdims=True)
    return enlarge(gray * task.max_depth)[..., 0]


def semantic(task, rgb: np.ndarray) -> np.ndarray:
    """Returns classes: the nearest color of the enlarged picture, or by enlarged distances."""
    if task.upsample == "rgb":
        return np.abs(enlarge(levels(rgb))[:, :, None] - task.palette).sum(-1).argmin(-1)
    return enlarge(np.abs(levels(rgb)[:, :, None] - task.palette).sum(-1)).argmin(-1)


def candidates(task, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns Painter's masks and scores, the best 100.

    Every pixel within the threshold of each color, then Matrix NMS.
    """
    # A mask for each color that is near to some pixel, and the mean distance within it.
    picture = np.round(levels(rgb).reshape(-1, 3) * UNITS).astype(np.int64)
    masks = []
    costs = []
    for color in np.stack(np.meshgrid(*task.axes, indexing="ij"), -1).reshape(-1, 3):
        distance = np.abs(picture - UNITS * color).sum(-1)
        mask = distance < 3 * UNITS * task.threshold
        if mask.any():
            masks.append(mask)
            costs.append(distance[mask].mean() / (3 * UNITS))

    order = np.argsort(costs, kind="stable")[:2000]
    masks = np.array(masks)[order]
    costs = np.array(costs)[order]

    # Matrix NMS: the score decays with the overlap with better masks.
    shared = masks.astype(np.float32) @ masks.T.astype(np.float32)
    area = np.diagonal(shared)
    iou = np.triu(shared / (area[:, None] + area - shared), 1)
    decay = np.exp(-2.0 * iou**2) / np.exp(-2.0 * iou.max(0)[:, None] ** 2)
    better = np.triu(np.ones_like(iou), 1) > 0
    scores = (1 - costs / max(costs.max(), 1)) * np.where(better, decay, 1).min(0)

    best = np.argsort(-scores, kind="stable")[:100]
    return masks[best].reshape(-1, PAINTED, PAINTED), scores[best]


def number_masks(task, masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns ids 1, 2, ... of the masks that pass the gate and are mostly free."""
    ids = np.zeros(masks.shape[1:], np.int32)
    for index, mask in enumerate(masks):
        free = mask & (ids == 0)
        taken = mask.sum() - free.sum()
        if scores[index] >= task.score_gate and taken <= task.overlap * mask.sum():
            ids[free] = index + 1
    return ids


def instance(task, rgb: np.ndarray) -> np.ndarray:
    """Returns ids."""
    masks, scores = candidates(task, rgb)
    return number_masks(task, nearest(masks), scores)


def panoptic(task, semantic_rgb: np.ndarray, instance_rgb: np.ndarray) -> np.ndarray:
    """Returns ids and categories, as `numbered` has them.

    Instances of the nearest thing class, then stuff of the smallest area and more.
    """
    masks, scores = candidates(task.instance, instance_rgb)
    passed = scores >= task.instance.score_gate
    ids = number_masks(task.instance, nearest(masks[passed]), scores)

    # Things: the class whose color is nearest over the whole mask.
    distances = np.abs(levels(semantic_rgb)[:, :, None] - task.semantic.palette[:STUFF]).sum(-1)
    classes = semantic(task.semantic, semantic_rgb)
    chosen = [distances[mask].sum(0).argmin() for mask in masks[passed]]

    # Stuff: what is left of each class, where it is large enough.
    stuff_area = task.stuff_area
    if not isinstance(stuff_area, int):
        stuff_area *= ids.size
    for index in range(STUFF, task.semantic.num_classes):
        free = (ids == 0) & (classes == index)
        if free.sum() >= stuff_area:
            chosen.append(index)
            ids[free] = len(chosen)

    categories = {}
    for number, index in enumerate(chosen, 1):
        categories[number] = task.categories[index]["id"]
    return numbered(ids, categories)


def numbered(ids: np.ndarray, categories: dict[int, int]) -> np.ndarray:
    """Returns 1000 id + category of every pixel."""
    table = [categories.get(number, 0) for number in range(ids.max() + 1)]
    return 1000 * ids + np.array(table)[ids]


# The comparison ---------------------------------------------------------------------------------


def our_panoptic(task, rgb: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the same as `panoptic`, from the package's decoder."""
    prediction = task.decode_components(rgb, SIZE)
    categories = {segment["id"]: segment["category_id"] for segment in prediction.segments_info}
    return numbered(prediction.id_map, categories)


def cases(painted: dict[str, np.ndarray]) -> dict[str, Case]:
    """Returns both ways of every decoder, by its name in the table."""
    scenes = SCENES_TASKS["semantic"]
    both = {name: painted[name] for name in TASKS["panoptic"].components}
    return {
        "depth": Case(
            lambda: TASKS["depth"].decode(painted["depth"], SIZE).depth,
            lambda: depth(TASKS["depth"], painted["depth"]),
        ),
        "semantic, 150 classes": Case(
            lambda: TASKS["semantic"].decode(painted["semantic"], SIZE).classes,
            lambda: semantic(TASKS["semantic"], painted["semantic"]),
        ),
        "semantic of the scenes, 16 classes": Case(
            lambda: scenes.decode(painted["scenes"], SIZE).classes,
            lambda: semantic(scenes, painted["scenes"]),
        ),
        "instance, 6,400 colors": Case(
            lambda: TASKS["instance"].decode(painted["instance"], SIZE).instances,
            lambda: instance(TASKS["instance"], painted["instance"]),
        ),
        "panoptic, 133 classes": Case(
            lambda: our_panoptic(TASKS["panoptic"], both),
            lambda: panoptic(TASKS["panoptic"], *both.values()),
        ),
    }


class Measured(NamedTuple):
    """What was measured of a decoder, a value a picture."""

    ours: list[float]  # milliseconds of processor time
    obvious: list[float]
    differing: list[float]  # fraction of the pixels


def measure(count: int) -> dict[str, Measured]:
    """Decodes `count` pictures both ways, after one to warm up."""
    found: dict[str, Measured] = {}
    for number in range(count + 1):
        for name, case in cases(pictures(number)).items():
            results = []
            spent = []
            for way in case:
                began = time.process_time()
                results.append(way())
                spent.append(1000 * (time.process_time() - began))

            measured = found.setdefault(name, Measured([], [], []))
            # The first picture warms up, and is compared all the same.
            if number:
                measured.ours.append(spent[0])
                measured.obvious.append(spent[1])
            differs = np.abs(results[0] - results[1]) > 1e-3
            measured.differing.append(float(differs.mean()))
    return found


def main() -> int:
    """Prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=5)
    args = parser.parse_args()

    # One core: the obvious way cannot use more.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    cv2.setNumThreads(1)
    print(side_by_side.machine(("numpy", "scipy", "opencv-python-headless")))
    found = measure(args.pictures)

    side_by_side.header(
        "decoder",
        "ours, CPU ms an image: median (lowest..highest)",
        "obvious, CPU ms",
        "times as fast",
        "images a CPU second",
        "pixels that differ",
    )
    for name, measured in found.items():
        ours = statistics.median(measured.ours)
        side_by_side.row(
            name,
            side_by_side.spread(measured.ours, 1),
            side_by_side.spread(measured.obvious, 1),
            f"{statistics.median(measured.obvious) / ours:.1f}",
            f"{1000 / ours:.1f}",
            f"{max(measured.differing):.0e}",
        )
    furthest = max(max(measured.differing) for measured in found.values())
    return 0 if furthest <= TIES else 1


if __name__ == "__main__":
    sys.exit(main())
