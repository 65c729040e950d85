"""What a dense task is: a codec between labels and colours, a prompt, a metric and a picture.

    from generalist.tasks import TASKS
    target = TASKS["depth"].encode(metres, 128)          # what the model learns to paint
    prediction = TASKS["depth"].decode(painted, (480, 640))

`TASKS` are the paper's, `SCENES_TASKS` those of the built-in scenes; `own` makes a user's from a few config lines.
A new kind of task is one file and one line here.
"""

import difflib
from collections.abc import Iterable, Mapping

from generalist.tasks.base import FurtherMetric, Target, Task
from generalist.tasks.depth import Depth, DepthPrediction
from generalist.tasks.instance import Instance, InstancePrediction
from generalist.tasks.own import own_task
from generalist.tasks.palettes import ADE20K_CLASSES, COCO_CATEGORIES, SCENES_CATEGORIES
from generalist.tasks.panoptic import Panoptic, PanopticPrediction
from generalist.tasks.restoration import Restoration, RestorationPrediction
from generalist.tasks.scalar import Scalar, ScalarPrediction
from generalist.tasks.semantic import Semantic, SemanticPrediction


def _names(categories: list[dict]) -> tuple[str, ...]:
    return tuple(category["name"] for category in categories)


def _colours(categories: list[dict]) -> tuple[tuple[int, int, int], ...]:
    return tuple(tuple(category["color"]) for category in categories)


def _restoration(protocols: dict[str, str]) -> dict[str, Restoration]:
    prompts = {
        "denoise": "Performance image restoration denoising",
        "derain": "Performance image restoration deraining",
        "light": "Performance image restoration light enhancement",
    }
    return {
        name: Restoration(name=name, prompt=prompt, protocol=protocols[name])
        for name, prompt in prompts.items()
    }


def _with_panoptic(
    tasks: dict, semantic: str, categories: list[dict], stuff_area: int | float
) -> dict[str, Task]:
    panoptic = Panoptic(
        semantic=tasks[semantic],
        instance=tasks["instance"],
        categories=categories,
        stuff_area=stuff_area,
    )
    return tasks | {"panoptic": panoptic}


TASKS: dict[str, Task] = _with_panoptic(
    {
        "depth": Depth(),
        "semantic": Semantic(classes=ADE20K_CLASSES),
        # The paper has no prompt for it: two palettes cannot share one.
        "coco_semantic": Semantic(
            name="coco_semantic",
            prompt="Performance panoptic semantic segmentation",
            levels=7,
            classes=_names(COCO_CATEGORIES),
            colours=_colours(COCO_CATEGORIES),
        ),
        "instance": Instance(),
        **_restoration(
            {"denoise": "sidd-rgb-matlab", "derain": "derain-y-matlab", "light": "lol-rgb-painter"}
        ),
    },
    "coco_semantic",
    COCO_CATEGORIES,
    stuff_area=8192,
)

SCENES_TASKS: dict[str, Task] = _with_panoptic(
    {
        "depth": Depth(protocol="native"),
        "semantic": Semantic(
            classes=_names(SCENES_CATEGORIES),
            colours=_colours(SCENES_CATEGORIES),
            upsample="distance",
        ),
        # Of 8, 12, 16 and 20 cells, 16 decode best where a prediction drifts; see `instance_decoders`.
        "instance": Instance(
            blocks=1, cells=16, block_step=0, cell_step=15, mode="vote", score_gate=0.5
        ),
        **_restoration(dict.fromkeys(("denoise", "derain", "light"), "rgb-skimage")),
    },
    "semantic",
    SCENES_CATEGORIES,
    stuff_area=4096 / (640 * 480),
)

TASK_SETS: dict[str, dict[str, Task]] = {"paper": TASKS, "scenes": SCENES_TASKS}


def get_tasks(
    task_set: str | Mapping[str, Mapping], names: Iterable[str] | None = None
) -> dict[str, Task]:
    """The tasks `names` (default: all) of a set, in the order of `names`.

    Args:
      task_set: "paper", "scenes", or definitions of own tasks by name (docs/own_data.md), as `config.tasks.set` holds them.
      names: None takes all.

    Raises:
      ValueError: an unknown set or task; the message lists the valid names and the closest match. Or a wrong definition.
    """
    if isinstance(task_set, str):
        kind, tasks = f"task of the set '{task_set}'", _look_up("task set", task_set, TASK_SETS)
    else:
        kind, tasks = (
            "own task",
            {name: own_task(name, definition) for name, definition in task_set.items()},
        )
    names = tasks if names is None else names
    return {name: _look_up(kind, name, tasks) for name in names}


def _look_up(kind: str, name: str, table: dict):
    if name in table:
        return table[name]
    closest = difflib.get_close_matches(str(name), table, n=1)
    hint = f" Did you mean '{closest[0]}'?" if closest else ""
    raise ValueError(f"Unknown {kind}: '{name}'.{hint} Valid names: {', '.join(table)}.")
