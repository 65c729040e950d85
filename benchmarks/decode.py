"""From what the model painted to depth, classes, instances and panoptic segments: PYTHONPATH=. python benchmarks/decode.py

Each decoder of the paper's tasks, and the scenes' semantic one, beside the obvious way in NumPy and SciPy, which holds a distance for every
pixel and colour at once. Both decode the same noisy pictures of 128 x 128 to 480 x 640, in turns, in one process on one core. That they give the
same is checked, but for pixels at which two colours are equally near to rounding; else the exit code is 1.
"""

import argparse
import os
import statistics
import sys
import time

import cv2
import numpy as np
import side_by_side
from scipy import ndimage

from generalist.input_pipeline.scenes import ScenesSource
from generalist.tasks import SCENES_TASKS, TASKS

PAINTED, SIZE = 128, (480, 640)
NOISE = 0.05  # standard deviation, on the scale of [-1, 1]
UNITS = 256  # distances to location colours are counted in 1/256 of a level, as the decoder does
TIES = 1e-3  # share of pixels that may differ
STUFF = 80  # index of COCO's first stuff class


def pictures(number: int) -> dict[str, np.ndarray]:
    """What a good model would paint of one scene, by task, float32 (128, 128, 3)."""
    label = {
        name: ScenesSource(name, "val", number + 1, PAINTED)[number]["label"]
        for name in ("depth", "semantic", "instance")
    }
    things = 9  # the scenes' first thing class
    coco = np.where(
        label["semantic"] < 0,
        -1,
        np.where(
            label["semantic"] >= things, label["semantic"] - things, label["semantic"] + STUFF
        ),
    )
    rng = np.random.default_rng(number)
    noisy = lambda target: target.rgb + NOISE * rng.standard_normal(target.rgb.shape, np.float32)
    return {
        "depth": noisy(TASKS["depth"].encode(label["depth"], PAINTED)),
        "semantic": noisy(TASKS["semantic"].encode(label["semantic"], PAINTED)),
        "coco_semantic": noisy(TASKS["coco_semantic"].encode(coco, PAINTED)),
        "instance": noisy(TASKS["instance"].encode(label["instance"], PAINTED)),
        "scenes": noisy(SCENES_TASKS["semantic"].encode(label["semantic"], PAINTED)),
    }


def levels(rgb: np.ndarray) -> np.ndarray:
    return np.clip((rgb + 1) * 127.5, 0, 255)


def enlarge(maps: np.ndarray) -> np.ndarray:
    """(h, w, n) -> (*SIZE, n): bilinear between pixel centres, edges repeated."""
    axes = [
        np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        for new, old in zip(SIZE, maps.shape)
    ]
    grid = np.meshgrid(*axes, indexing="ij")
    return np.stack(
        [ndimage.map_coordinates(maps[..., i], grid, order=1) for i in range(maps.shape[-1])], -1
    )


def nearest(masks: np.ndarray) -> np.ndarray:
    """(n, h, w) -> (n, *SIZE), the pixel that contains the centre."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(SIZE, masks.shape[1:])
    )
    return masks[:, rows[:, None], columns]


def depth(task, rgb: np.ndarray) -> np.ndarray:
    """Metres."""
    return enlarge(np.clip((rgb + 1) / 2, 0, 1).mean(-1, keepdims=True) * task.max_depth)[..., 0]


def semantic(task, rgb: np.ndarray) -> np.ndarray:
    """Classes: the nearest colour of the enlarged picture, or by the enlarged distances."""
    if task.upsample == "rgb":
        return np.abs(enlarge(levels(rgb))[:, :, None] - task.palette).sum(-1).argmin(-1)
    return enlarge(np.abs(levels(rgb)[:, :, None] - task.palette).sum(-1)).argmin(-1)


def candidates(task, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Painter's masks and scores: every pixel within the threshold of each colour, Matrix NMS, the best 100."""
    picture = np.round(levels(rgb).reshape(-1, 3) * UNITS).astype(np.int64)
    masks, costs = [], []
    for colour in np.stack(np.meshgrid(*task.axes, indexing="ij"), -1).reshape(-1, 3):
        distance = np.abs(picture - UNITS * colour).sum(-1)
        mask = distance < 3 * UNITS * task.threshold
        if mask.any():
            masks.append(mask)
            costs.append(distance[mask].mean() / (3 * UNITS))
    order = np.argsort(costs, kind="stable")[:2000]
    masks, costs = np.array(masks)[order], np.array(costs)[order]
    shared = masks.astype(np.float32) @ masks.T.astype(np.float32)
    area = np.diagonal(shared)
    iou = np.triu(shared / (area[:, None] + area - shared), 1)
    decay = np.exp(-2.0 * iou**2) / np.exp(-2.0 * iou.max(0)[:, None] ** 2)
    scores = (1 - costs / max(costs.max(), 1)) * np.where(
        np.triu(np.ones_like(iou), 1) > 0, decay, 1
    ).min(0)
    best = np.argsort(-scores, kind="stable")[:100]
    return masks[best].reshape(-1, PAINTED, PAINTED), scores[best]


def paint(task, masks: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Ids 1, 2, ... of the masks that pass the gate and are mostly free."""
    ids = np.zeros(masks.shape[1:], np.int32)
    for index, mask in enumerate(masks):
        free = mask & (ids == 0)
        if (
            scores[index] >= task.score_gate
            and mask.sum() - free.sum() <= task.overlap * mask.sum()
        ):
            ids[free] = index + 1
    return ids


def instance(task, rgb: np.ndarray) -> np.ndarray:
    """Ids."""
    masks, scores = candidates(task, rgb)
    return paint(task, nearest(masks), scores)


def panoptic(task, semantic_rgb: np.ndarray, instance_rgb: np.ndarray) -> np.ndarray:
    """Ids and categories, as `numbered` has them: instances of the nearest thing class, then stuff of the smallest area and more."""
    masks, scores = candidates(task.instance, instance_rgb)
    ids = paint(task.instance, nearest(masks[scores >= task.instance.score_gate]), scores)
    distances = np.abs(levels(semantic_rgb)[:, :, None] - task.semantic.palette[:STUFF]).sum(-1)
    classes = semantic(task.semantic, semantic_rgb)
    chosen = [distances[mask].sum(0).argmin() for mask in masks[scores >= task.instance.score_gate]]
    for index in range(STUFF, task.semantic.num_classes):
        free = (ids == 0) & (classes == index)
        if free.sum() >= (
            task.stuff_area if isinstance(task.stuff_area, int) else task.stuff_area * ids.size
        ):
            chosen.append(index)
            ids[free] = len(chosen)
    return numbered(
        ids, {number: task.categories[index]["id"] for number, index in enumerate(chosen, 1)}
    )


def numbered(ids: np.ndarray, categories: dict[int, int]) -> np.ndarray:
    """1000 id + category of every pixel."""
    return (
        1000 * ids + np.array([categories.get(number, 0) for number in range(ids.max() + 1)])[ids]
    )


def our_panoptic(task, rgb: dict[str, np.ndarray]) -> np.ndarray:
    """The same from the package's decoder."""
    prediction = task.decode(rgb, SIZE)
    return numbered(
        prediction.id_map,
        {segment["id"]: segment["category_id"] for segment in prediction.segments_info},
    )


def cases(painted: dict[str, np.ndarray]) -> dict:
    """{name: (our way, the obvious way)}, functions without arguments that give a map."""
    task, scenes = TASKS, SCENES_TASKS["semantic"]
    both = {name: painted[name] for name in task["panoptic"].components}
    return {
        "depth": (
            lambda: task["depth"].decode(painted["depth"], SIZE).depth,
            lambda: depth(task["depth"], painted["depth"]),
        ),
        "semantic, 150 classes": (
            lambda: task["semantic"].decode(painted["semantic"], SIZE).classes,
            lambda: semantic(task["semantic"], painted["semantic"]),
        ),
        "semantic of the scenes, 16 classes": (
            lambda: scenes.decode(painted["scenes"], SIZE).classes,
            lambda: semantic(scenes, painted["scenes"]),
        ),
        "instance, 6,400 colours": (
            lambda: task["instance"].decode(painted["instance"], SIZE).instances,
            lambda: instance(task["instance"], painted["instance"]),
        ),
        "panoptic, 133 classes": (
            lambda: our_panoptic(task["panoptic"], both),
            lambda: panoptic(task["panoptic"], *both.values()),
        ),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=5)
    args = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    cv2.setNumThreads(1)
    print(side_by_side.machine(("numpy", "scipy", "opencv-python-headless")))
    seconds, differing = {}, {}
    for number in range(args.pictures + 1):  # the first warms up
        for name, ways in cases(pictures(number)).items():
            results = []
            for way, spent in zip(ways, seconds.setdefault(name, ([], []))):
                began = time.process_time()
                results.append(way())
                spent.append(time.process_time() - began)
            differing.setdefault(name, []).append(
                float((np.abs(results[0] - results[1]) > 1e-3).mean())
            )
    side_by_side.header(
        "decoder",
        "ours, CPU ms an image: median (lowest..highest)",
        "obvious, CPU ms",
        "times as fast",
        "images a CPU second",
        "pixels that differ",
    )
    for name, ways in seconds.items():
        ours, obvious = ([1000 * s for s in spent[1:]] for spent in ways)
        side_by_side.row(
            name,
            side_by_side.spread(ours, 1),
            side_by_side.spread(obvious, 1),
            f"{statistics.median(obvious) / statistics.median(ours):.1f}",
            f"{1000 / statistics.median(ours):.1f}",
            f"{max(differing[name]):.0e}",
        )
    return 0 if max(map(max, differing.values())) <= TIES else 1


if __name__ == "__main__":
    sys.exit(main())
