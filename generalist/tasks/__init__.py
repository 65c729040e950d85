"""What a dense task is: a codec between labels and colors, a prompt, a metric and a picture.

    from generalist.tasks import TASKS
    target = TASKS["depth"].encode(meters, 128)          # what the model learns to paint
    prediction = TASKS["depth"].decode(painted, (480, 640))

`TASKS` are the paper's, `SCENES_TASKS` those of the built-in scenes; `own` makes a user's from a
few config lines. A new kind of task is a subclass of `Task` and one of `Prediction` in a file of
its own, and one line in a task set here, from where `config.tasks.set` and the names of tasks in a
config find it; nothing outside this room asks what class a task is. A metric that is new too has
its line in `generalist.metrics.PROTOCOLS`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from generalist.names import one_of
from generalist.tasks.base import FurtherMetric, Prediction, Target, Task, check_samples
from generalist.tasks.depth import Depth, DepthPrediction
from generalist.tasks.instance import Instance, InstancePrediction
from generalist.tasks.own import own_task
from generalist.tasks.palettes import ADE20K_CLASSES, COCO_CATEGORIES, SCENES_CATEGORIES
from generalist.tasks.panoptic import PAINTER_AREA, Panoptic, PanopticPrediction
from generalist.tasks.restoration import Restoration, RestorationPrediction
from generalist.tasks.scalar import Scalar, ScalarPrediction
from generalist.tasks.semantic import Semantic, SemanticPrediction
from generalist.tasks.text_to_image import TextToImage

__all__ = [
    "ADE20K_CLASSES",
    "COCO_CATEGORIES",
    "SCENES_CATEGORIES",
    "SCENES_TASKS",
    "TASKS",
    "TASK_SETS",
    "Depth",
    "DepthPrediction",
    "FurtherMetric",
    "Instance",
    "InstancePrediction",
    "Panoptic",
    "PanopticPrediction",
    "Prediction",
    "Restoration",
    "RestorationPrediction",
    "Scalar",
    "ScalarPrediction",
    "Semantic",
    "SemanticPrediction",
    "Target",
    "Task",
    "TextToImage",
    "check_samples",
    "get_tasks",
]


def _restoration(denoise: str, derain: str, light: str) -> tuple[Restoration, ...]:
    """Returns the three restoration tasks, each with its protocol."""
    return (
        Restoration(
            name="denoise",
            prompt="Performance image restoration denoising",
            protocol=denoise,
        ),
        Restoration(
            name="derain",
            prompt="Performance image restoration deraining",
            protocol=derain,
        ),
        Restoration(
            name="light",
            prompt="Performance image restoration light enhancement",
            protocol=light,
            tiles=False,
        ),
    )


def _semantic(categories: Sequence[Mapping[str, Any]], **fields: Any) -> Semantic:
    """Returns a semantic task of COCO's categories, shown in their colors."""
    return Semantic(
        classes=tuple(category["name"] for category in categories),
        colors=tuple(tuple(category["color"]) for category in categories),
        **fields,
    )


def _by_name(*tasks: Task) -> dict[str, Task]:
    return {task.name: task for task in tasks}


_COCO_SEMANTIC = _semantic(
    COCO_CATEGORIES,
    name="coco_semantic",
    # The paper has no prompt for it: two palettes cannot share one.
    prompt="Performance panoptic semantic segmentation",
    levels=7,
    upsample="distance",
)
_COCO_INSTANCE = Instance()

TASKS: dict[str, Task] = _by_name(
    Depth(),
    Semantic(classes=ADE20K_CLASSES, upsample="distance"),
    _COCO_SEMANTIC,
    _COCO_INSTANCE,
    *_restoration(
        denoise="sidd-rgb-matlab",
        derain="derain-y-matlab",
        light="lol-rgb-painter",
    ),
    Panoptic(
        semantic=_COCO_SEMANTIC,
        instance=_COCO_INSTANCE,
        categories=COCO_CATEGORIES,
        # Painter's 8192 pixels of COCO's usual image: a small photograph is not all void.
        stuff_area=PAINTER_AREA / (640 * 480),
        compare_with_painter=True,
    ),
)

_SCENES_SEMANTIC = _semantic(SCENES_CATEGORIES, upsample="distance")
# Of 8, 12, 16 and 20 cells, 16 decode best where a prediction drifts; see `instance_decoders`.
_SCENES_INSTANCE = Instance(
    blocks=1, cells=16, block_step=0, cell_step=15, mode="vote", score_gate=0.5
)

SCENES_TASKS: dict[str, Task] = _by_name(
    Depth(protocol="native"),
    _SCENES_SEMANTIC,
    _SCENES_INSTANCE,
    *_restoration(denoise="rgb-skimage", derain="rgb-skimage", light="rgb-skimage"),
    Panoptic(
        semantic=_SCENES_SEMANTIC,
        instance=_SCENES_INSTANCE,
        categories=SCENES_CATEGORIES,
        stuff_area=4096 / (640 * 480),
    ),
    TextToImage(),
)

TASK_SETS: dict[str, dict[str, Task]] = {"paper": TASKS, "scenes": SCENES_TASKS}


def get_tasks(
    task_set: str | Mapping[str, Any], names: Iterable[str] | None = None
) -> dict[str, Task]:
    """Returns tasks of a set.

    Args:
      task_set: a key of `TASK_SETS`, or definitions of own tasks by name (docs/own_data.md), as
        `config.tasks.set` holds them.
      names: which tasks, in this order; None takes all.

    Raises:
      ValueError: an unknown set or task; the message lists the valid names and the closest match.
        Or a wrong definition.
    """
    if isinstance(task_set, str):
        what = f"task of the set '{task_set}'"
        tasks = TASK_SETS[one_of(task_set, TASK_SETS, "task set")]
    else:
        what = "own task"
        tasks = {name: own_task(name, definition) for name, definition in task_set.items()}

    if names is None:
        return dict(tasks)
    return {name: tasks[one_of(name, tasks, what)] for name in names}
