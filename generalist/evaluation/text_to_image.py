"""What a text-to-image model has learned: how it denoises, and whether its pictures are the text's.

Of a picture that a caption asks for there is no truth to compare with. So there are two figures
besides the distance of all pictures: the error of denoising held-out pictures, level by level, and
what another model finds in the painted ones of what the captions name.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np

from generalist.inference.denoising import denoising_errors
from generalist.inference.generalist import Generalist
from generalist.input_pipeline import Example
from generalist.tasks import Task

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)  # noise levels t
BATCH = 32
SEEN = 1 / 256  # fraction of a picture that a class must cover to count as found


class Errors(NamedTuple):
    """Mean squared error of x0 at one noise level, targets in [-1, 1].

    Attributes:
      own: with each picture's own caption.
      shuffled: with the caption of another one: what the words are worth is the difference.
    """

    own: float
    shuffled: float


def denoising_by_level(
    generalist: Generalist,
    task: Task,
    examples: Sequence[Example],
    levels: Sequence[float] = LEVELS,
) -> dict[float, Errors]:
    """Returns how well a model denoises held-out examples, {t: errors}; 1 is pure noise.

    Args:
      generalist: a model that was trained on the task.
      task: whose targets are denoised.
      examples: at least two.
      levels: of noise.
    """
    prompts = [task.prompt_of(example) for example in examples]
    return {
        t: Errors(
            own=_mean_error(generalist, task, examples, prompts, t),
            shuffled=_mean_error(generalist, task, examples, shuffled(prompts), t),
        )
        for t in levels
    }


def _mean_error(
    generalist: Generalist,
    task: Task,
    examples: Sequence[Example],
    prompts: Sequence[str],
    t: float,
) -> float:
    errors = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        found = denoising_errors(
            generalist,
            task.name,
            [example["image"] for example in batch],
            [task.encode(example["label"], generalist.target_size) for example in batch],
            prompts[start : start + BATCH],
            t,
            seed=start,
        )
        errors.extend(found.tolist())
    return float(np.mean(errors))


class Found(NamedTuple):
    """Fractions of all classes named in captions that a model finds in pictures.

    Attributes:
      painted: in the pictures painted from the captions.
      true: in the pictures that the captions are of: what can be reached.
      shuffled: in the painted picture of another caption: what comes by itself.
    """

    painted: float
    true: float
    shuffled: float


def classes_found(
    reader: Generalist,
    painted: Sequence[np.ndarray],
    examples: Sequence[Example],
    classes_named: Callable[[str], Set[str]],
    task: str = "semantic",
) -> Found:
    """Returns how many of the classes named in captions another model finds in the pictures.

    Args:
      reader: a model that was trained on `task`.
      painted: the pictures painted from the captions, uint8 (h, w, 3) each.
      examples: with the captions as their prompts and the pictures that those are of.
      classes_named: caption -> names of the reader's classes.
      task: what the reader finds classes by.
    """
    named = [classes_named(example["prompt"]) for example in examples]
    in_painted = _classes_seen(reader, painted, task)
    in_true = _classes_seen(reader, [example["image"] for example in examples], task)
    return Found(
        painted=_fraction(named, in_painted),
        true=_fraction(named, in_true),
        shuffled=_fraction(shuffled(named), in_painted),
    )


def _classes_seen(reader: Generalist, pictures: Sequence[np.ndarray], task: str) -> list[set[str]]:
    seen = []
    for start in range(0, len(pictures), BATCH):
        predictions: Any = reader.predict(list(pictures[start : start + BATCH]), task)
        for prediction in predictions:
            ids, pixels = np.unique(prediction.classes, return_counts=True)
            large = ids[(pixels > SEEN * prediction.classes.size) & (ids >= 0)]
            seen.append({prediction.names[index] for index in large})
    return seen


def _fraction(named: Sequence[Set[str]], seen: Sequence[Set[str]]) -> float:
    found = sum(len(one & other) for one, other in zip(named, seen, strict=True))
    return found / max(sum(map(len, named)), 1)


def shuffled(values: Sequence[Any]) -> list[Any]:
    """Returns the values, each in the place of the one before: none in its own."""
    return [*values[1:], values[0]]


def format_figures(errors: Mapping[float, Errors], found: Found | None = None) -> str:
    """Returns the figures as a table in Markdown."""
    lines = [
        "| noise level t | error of x0 | with the caption of another picture |",
        "|---:|---:|---:|",
        *(f"| {t:g} | {error.own:.4f} | {error.shuffled:.4f} |" for t, error in errors.items()),
    ]
    if found:
        lines += [
            "",
            "| classes named that are found | in painted pictures | in true ones | shuffled |",
            "|---|---:|---:|---:|",
            f"| share | {found.painted:.1%} | {found.true:.1%} | {found.shuffled:.1%} |",
        ]
    return "\n".join(lines)
