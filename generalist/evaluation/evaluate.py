"""Sample, decode, measure: a model's official numbers on a data set, its pictures, and the files that keep them."""

import itertools
import logging
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from generalist.console import Progress
from generalist.evaluation import data, record, tables
from generalist.evaluation import panels as panels_lib
from generalist.evaluation.baselines import Cache, Ceiling, Trivial, cache_key
from generalist.evaluation.partial import Partial
from generalist.evaluation.predictors import Model, PredictRGB, Tiles
from generalist.evaluation.scores import Example, Predictor, Scores, decoders, finite_or_none
from generalist.evaluation.submission import Submission
from generalist.input_pipeline.reading import evenly_spaced
from generalist.tasks import Restoration, Task

logger = logging.getLogger("generalist")

BASELINES, PARTIAL, SUBMISSION = "baselines.json", "partial.pkl", "submission"


def evaluate(
    predict_rgb: PredictRGB,
    tasks: Mapping[str, Task],
    sources: Mapping,
    *,
    target_size: int,
    train_sources: Mapping | None = None,
    limit: int = 0,
    batch_size: int = 64,
    panels: int = 4,
    out_dir: str | pathlib.Path,
    steps: int | None = None,
    native: bool = False,
    submission: bool = False,
    facts: Mapping | None = None,
) -> dict[str, float | None]:
    """Measures a model by the official metric of each task, at the labels' own resolution.

    An evaluation that is interrupted goes on by the same call, from the last state in `out_dir` (at most half a minute
    is lost), and ends in the same figures. Processes that predict together must make the same calls: give each the same
    partial.pkl and baselines.json to begin with.

    Args:
      predict_rgb: (images uint8 (b, h, w, 3), task name) -> float32 (b, target_size, target_size, 3) in about [-1, 1];
        the images come as a list of (h, w, 3) where their sizes differ. A composed task is painted as its components.
      tasks: {name: codec}.
      sources: {name: random-access source of held-out examples}, one for each task.
      target_size: side of what the model paints, in pixels; the ceiling is encoded at it.
      train_sources: {name: source of the training split}, for the trivial predictor; without them the trivial figures
        of depth and segmentation are left out.
      limit: examples a task, evenly spread; 0 takes all.
      batch_size: images a call of `predict_rgb`.
      panels: examples shown in the pictures.
      out_dir: folder for metrics.json, card.json, card.md, per_image.csv and panels/. Trivial and ceiling figures, which no
        model changes, are kept in baselines.json beside it.
      steps: denoising steps, for the card.
      native: measure restoration also in tiles at native resolution, under `<task>/psnr_tiles` and so on.
      submission: write the predictions as files into out_dir/submission, see `Submission`.
      facts: anything else for the card, such as {"seed": 0, "weights": "runs/a"}.

    Returns:
      The content of metrics.json: `<task>/<metric>`, `<task>/iou/<class>`, `<task>/pq/<class>`, the same under
      `trivial/` and `ceiling/`, `<task>/examples` and `<task>/seconds_per_image`; metrics with a suffix of `scores.WAYS` are of
      another way to predict. None is an undefined value (a class that does not occur) or, for PSNR, an exact image, whose PSNR
      is infinite.

    Raises:
      ValueError: a task has no source, a source is empty, or an example or what `predict_rgb` returns has a wrong form.
    """
    out_dir = pathlib.Path(out_dir)
    _check(tasks, sources, train_sources or {})
    chosen = {name: evenly_spaced(len(sources[name]), limit) for name in tasks}
    model, trivial, cache = (
        Model(predict_rgb, target_size),
        Trivial(train_sources, target_size),
        Cache(out_dir.parent / BASELINES),
    )
    keys = {
        name: cache_key(task, target_size, sources[name], chosen[name], trivial.sources(task))
        for name, task in tasks.items()
    }
    runs = {}
    for name, task in tasks.items():
        predictors = {"ceiling": Ceiling(target_size)} | (
            {"trivial": trivial} if trivial.sources(task) is not None else {}
        )
        ways = {
            kind: _ways(task, predictor)
            for kind, predictor in predictors.items()
            if kind not in cache.get(keys[name])
        }
        tiles = (
            {"_tiles": (task, Tiles(predict_rgb, target_size))}
            if native and isinstance(task, Restoration)
            else {}
        )
        runs[name] = _Run(
            task,
            {"prediction": _ways(task, model) | tiles, **ways},
            panels,
            out_dir / SUBMISSION if submission else None,
        )

    settings = {
        "target_size": target_size,
        "steps": steps,
        "batch_size": batch_size,
        **(facts or {}),
    }
    identity = [
        settings,
        keys,
        panels,
        native,
        submission,
        {name: list(run.ways) for name, run in runs.items()},
    ]
    partial = Partial(out_dir / PARTIAL, identity)
    _walk(runs, sources, chosen, batch_size, model.seconds, partial)
    _check_measured(runs)
    computed = {keys[name]: run.baselines() for name, run in runs.items()}
    cache.put({key: baselines for key, baselines in computed.items() if baselines})
    metrics = _flatten({name: run.finish() for name, run in runs.items()})
    metrics |= {f"{name}/examples": len(runs[name].scores["prediction"].rows) for name in tasks}
    metrics |= {
        f"{name}/seconds_per_image": float(np.median(model.seconds[task]))
        for name, task in tasks.items()
    }
    for kind in ("trivial", "ceiling"):
        metrics |= _flatten(
            {f"{kind}/{name}": cache.get(keys[name]).get(kind, {}) for name in tasks}
        )

    records = {
        name: record.TaskRecord(
            run.task, sources[name], run.scores["prediction"].rows, run.left_out, run.samples
        )
        for name, run in runs.items()
    }
    record.write(out_dir, metrics, record.make_card(records, settings), records)
    partial.remove()
    logger.info(tables.format_table(metrics))
    return metrics


def _ways(task: Task, predictor: Predictor) -> dict[str, tuple[Task, Predictor]]:
    """{suffix: (codec to predict with, predictor)}."""
    return {suffix: (codec, predictor) for suffix, codec in decoders(task).items()}


class _Run:
    """One task in an evaluation: the predictors still to run on it, their scores, and the examples for the pictures.

    Attributes:
      ways: {"prediction", "ceiling" or "trivial": {suffix: (codec, predictor)}}.
    """

    def __init__(
        self,
        task: Task,
        ways: Mapping[str, Mapping[str, tuple[Task, Predictor]]],
        panels: int,
        folder: pathlib.Path | None,
    ):
        self.task, self.ways, self.panels = task, ways, panels
        self.scores = {kind: Scores(task) for kind in ways}
        self.samples: list[panels_lib.Sample] = []
        self.left_out: list[str] = []  # damaged files
        self._submissions = (
            {suffix: Submission(folder, task, suffix) for suffix in ways["prediction"]}
            if folder
            else {}
        )

    def update(self, examples: Sequence[Example]) -> None:
        for kind, ways in self.ways.items():
            predictions = {
                suffix: predictor(codec, examples) for suffix, (codec, predictor) in ways.items()
            }
            self.scores[kind].update(examples, predictions)
            if kind == "prediction":
                shown = zip(examples, predictions[""], self.scores[kind].rows[-len(examples) :])
                self.samples += [
                    panels_lib.Sample(*s)
                    for s in itertools.islice(shown, self.panels - len(self.samples))
                ]
                for suffix, files in self._submissions.items():
                    files.add([example["key"] for example in examples], predictions[suffix])

    @property
    def state(self) -> tuple:
        """What `update` has changed; assigning it goes on from there."""
        return (
            self.scores,
            self.samples,
            self.left_out,
            {suffix: files.annotations for suffix, files in self._submissions.items()},
        )

    @state.setter
    def state(self, state: tuple) -> None:
        self.scores, self.samples, self.left_out, annotations = state
        for suffix, files in self._submissions.items():
            files.annotations = annotations[suffix]

    def finish(self) -> dict[str, float | None]:
        """The model's figures; completes the files of the submission."""
        for files in self._submissions.values():
            files.finish()
        return _finite(self.scores["prediction"])

    def baselines(self) -> dict[str, dict[str, float | None]]:
        return {
            kind: _finite(scores) for kind, scores in self.scores.items() if kind != "prediction"
        }


def _walk(
    runs: Mapping[str, _Run],
    sources: Mapping,
    chosen: Mapping[str, list[int]],
    batch_size: int,
    seconds: dict,
    partial: Partial,
) -> None:
    """Feeds every run its examples, from where `partial` says. A composed task walks beside its components, whose painting it shares.

    `seconds` is the model's record, which belongs to the state that is kept.
    """
    composed = [
        [*(part for part in run.task.components if part in runs), name]
        for name, run in runs.items()
        if run.task.components
    ]
    alone = [[name] for name in runs if not any(name in group for group in composed)]
    saved = partial.load()
    for name, state in saved.get("runs", {}).items():
        runs[name].state = state
    seconds.update(saved.get("seconds", {}))
    done = dict.fromkeys(runs, 0) | saved.get("done", {})
    total = sum(map(len, chosen.values()))
    if any(done.values()):
        logger.info(f"eval resumes after {sum(done.values())} of {total} examples")
    progress = Progress("eval", total, done=sum(done.values()))
    for group in alone + composed:
        readers = [
            _batches(sources[name], chosen[name][done[name] :], batch_size) for name in group
        ]
        for parts in itertools.zip_longest(*readers, fillvalue=(0, ())):
            for name, (count, examples) in zip(group, parts):
                if examples:
                    runs[name].update(examples)
                if count:
                    runs[name].left_out = sorted(
                        {*runs[name].left_out, *getattr(sources[name], "damaged", ())}
                    )
                    done[name] += count
                    progress.add(count, name)
            partial.save(
                {
                    "runs": {name: run.state for name, run in runs.items()},
                    "seconds": seconds,
                    "done": done,
                }
            )


def _batches(source, rows: Sequence[int], batch_size: int) -> Iterator[tuple[int, list[Example]]]:
    """(rows read, the examples of them that are not damaged), batch by batch; the next one is read while the caller works on this one."""

    def read(start: int) -> tuple[int, list[Example]]:
        part = rows[start : start + batch_size]
        return len(part), [
            _check_example(example, source.task) for example in data.read(source, part)
        ]

    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, 0)
        for start in range(0, len(rows), batch_size):
            batch = pending.result()
            pending = reader.submit(read, start + batch_size)
            yield batch


def _check_measured(runs: Mapping[str, _Run]) -> None:
    empty = [name for name, run in runs.items() if not run.scores["prediction"].rows]
    if empty:
        raise ValueError(
            f"every example of {', '.join(empty)} is damaged: nothing was measured. `generalist data check` names the files."
        )


def _check(tasks: Mapping[str, Task], sources: Mapping, train_sources: Mapping) -> None:
    missing = [name for name in tasks if name not in sources]
    if missing:
        raise ValueError(
            f"no source for task {', '.join(missing)}; there are sources for {', '.join(sources) or 'none'}. "
            "Add a source, or leave the task out of eval.tasks."
        )
    for kind, group in (("", sources), ("training ", train_sources)):
        empty = [name for name in tasks if name in group and not len(group[name])]
        if empty:
            raise ValueError(
                f"the {kind}source of task {', '.join(empty)} is empty: {group[empty[0]]!r}. Choose another "
                "split, or leave the task out of eval.tasks."
            )


def _check_example(example: Example, task: str) -> Example:
    image = np.asarray(example["image"])
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"Task '{task}', example {example['key']!r}: the image must be uint8 of shape (height, width, 3), "
            f"got {image.dtype} of shape {image.shape}."
        )
    return example


def _finite(scores: Scores) -> dict[str, float | None]:
    return {key: finite_or_none(value) for key, value in scores.compute().items()}


def _flatten(tree: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {
        f"{name}/{key}": value for name, values in tree.items() for key, value in values.items()
    }
