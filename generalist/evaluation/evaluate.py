"""Samples, decodes and measures: a model's official figures, and the files that keep them."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from generalist.console import Progress
from generalist.devices import processes
from generalist.evaluation import plain, record, tables
from generalist.evaluation.baselines import Cache, Ceiling, Trivial, cache_key
from generalist.evaluation.batches import Rows, batches
from generalist.evaluation.partial import Partial
from generalist.evaluation.predictors import Model, Predictor, PredictRGB, Tiles
from generalist.evaluation.scores import Scores
from generalist.evaluation.submission import Submission
from generalist.evaluation.task_evaluation import Measurement, TaskEvaluation, Way
from generalist.files import DamagedFileError, read_json
from generalist.input_pipeline import Source
from generalist.input_pipeline.reading import evenly_spaced
from generalist.tasks import Task

logger = logging.getLogger("generalist")

BASELINES = "baselines.json"
PARTIAL = "partial.safetensors"
SUBMISSION = "submission"

# What a state raises that has the right digests and that another program wrote.
_OF_ANOTHER_FORM = (KeyError, IndexError, TypeError, ValueError, AttributeError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How a model is evaluated.

    Attributes:
      target_size: side of the square that the model paints, in pixels; the ceiling has the same.
      steps: denoising steps, for the card.
      samples: how many `predict_rgb` draws of an example, to be combined as `Generalist.predict`
        does; 1 of the tasks that combine none.
      batch_size: images a call of the model.
      limit: examples a task, evenly spaced; 0 takes all.
      panels: examples shown in the pictures.
      native: measure restoration in tiles at native resolution, as `Generalist.predict` works, and
        the whole image, resized to the model, under `<task>/psnr_whole` etc.; False: only that.
      submission: write the predictions as files into submission/, see `Submission`.
      beside: {column of the results table: folder of an earlier evaluation}, for the figures under
        `<column>/`, see `tables.EARLIER`; where there is none, or of other examples, size or steps,
        they are absent.
      facts: anything else for the card, such as {"seed": 0, "weights": "runs/a"}.
    """

    target_size: int
    steps: int | None = None
    samples: int = 1
    batch_size: int = 64
    limit: int = 0
    panels: int = 4
    native: bool = False
    submission: bool = False
    beside: Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def evaluate(
    predict_rgb: PredictRGB,
    tasks: Mapping[str, Task],
    sources: Mapping[str, Source],
    settings: EvaluationSettings,
    out_dir: str | pathlib.Path,
    train_sources: Mapping[str, Source] | None = None,
) -> dict[str, float | None]:
    """Measures a model by the official metric of each task, at the labels' own resolution.

    The same call resumes an evaluation that was interrupted, from the last state in `out_dir`
    (at most half a minute is lost), and ends in the same figures.

    Several processes evaluate together: all call it alike, each reads, decodes and scores its own
    examples, and the first one merges what they gathered. The figures and files are those of one
    process; all must see `out_dir`, where each writes its files of the submission.

    Args:
      predict_rgb: (images uint8 (b, h, w, 3), task name) -> float32 (b, target_size, target_size,
        3) in about [-1, 1]; images of several sizes come as a list of (h, w, 3). A composed task
        is painted as its components. Of several processes all call it at once, each for its own
        images, of which there may be none; see `predictors.on_all_processes`. Sample k > 0 is asked
        for by `seed=k`.
      tasks: {name: task}.
      sources: {name: random-access source of held-out examples}, one for each task.
      settings: how to evaluate.
      out_dir: folder for metrics.json, card.json, card.md, per_image.csv and panels/. Trivial and
        ceiling figures, which no model changes, are kept in baselines.json beside it.
      train_sources: {name: source of the training split}, for the trivial predictor; without them
        the tasks that learn from labels have no trivial figures.

    Returns:
      The content of metrics.json: `<task>/<metric>`, `<task>/iou/<class>`, `<task>/pq/<class>`, the
      same under `trivial/`, `ceiling/` and the columns of `beside`, `<task>/examples` and
      `<task>/seconds_per_image`; metrics with a suffix of `record.WAYS` are of another way to
      predict. None is an undefined value (a class that does not occur) or, for PSNR, an exact
      image, whose PSNR is infinite.

    Raises:
      ValueError: a task has no source, a source is empty, an example or what `predict_rgb` returns
        has a wrong form, or another process failed.
    """
    out_dir = pathlib.Path(out_dir)
    train_sources = train_sources or {}
    _check_sources(tasks, sources, train_sources)

    # Which examples are measured, and who predicts them.
    rows = {name: evenly_spaced(len(sources[name]), settings.limit) for name in tasks}
    predictors = _Predictors(
        model=Model(predict_rgb, settings.target_size, settings.samples),
        tiles=Tiles(predict_rgb, settings.target_size, settings.batch_size, settings.samples),
        trivial=Trivial(train_sources, settings.target_size),
        ceiling=Ceiling(settings.target_size),
        exact=Ceiling(None),
    )

    # Trivial and ceiling figures that an earlier evaluation left here are not computed again.
    cache = Cache(out_dir.parent / BASELINES)
    known = {}
    if processes.is_first():
        for name, task in tasks.items():
            learned_from = predictors.trivial.sources(task)
            key = cache_key(
                task,
                settings.target_size,
                sources[name],
                rows[name],
                learned_from,
                in_tiles=settings.native and task.prefers_tiles,
            )
            known[name] = (key, cache.get(key))
    known = {name: _Known(*found) for name, found in processes.share(known).items()}

    def begin() -> dict[str, TaskEvaluation]:
        return {
            name: _task_evaluation(
                task, sources[name], rows[name], predictors, known[name].figures, settings, out_dir
            )
            for name, task in tasks.items()
        }

    # Sample, decode, measure; from where an earlier call was interrupted.
    partial = Partial(out_dir / PARTIAL, _identity(settings, known))
    evaluations = _resume(begin, partial)
    _measure(evaluations, settings.batch_size, partial)
    _collect(evaluations)
    _check_measured(evaluations)

    # Figures and files, by the first process alone.
    metrics = None
    if processes.is_first():
        for evaluation in evaluations.values():
            evaluation.finish()
        new = {
            name: each.baseline_figures() for name, each in evaluations.items() if each.baselines
        }
        cache.put({known[name].key: figures for name, figures in new.items()})
        metrics = _write(evaluations, settings, out_dir)
        partial.remove()
    return processes.share(metrics)


class _Known(NamedTuple):
    """What an earlier evaluation has left of the figures that no model changes.

    Attributes:
      key: of all they depend on.
      figures: {"trivial" or "ceiling": figures}.
    """

    key: str
    figures: Mapping[str, Mapping[str, float | None]]


class _Predictors(NamedTuple):
    """All that predict in an evaluation.

    Attributes:
      model: on the whole image.
      tiles: the model at the image's own resolution.
      trivial: never looks at the image.
      ceiling: the truth at the model's resolution.
      exact: the truth at its own resolution, the ceiling of tiles.
    """

    model: Model
    tiles: Tiles
    trivial: Trivial
    ceiling: Ceiling
    exact: Ceiling


def _task_evaluation(
    task: Task,
    source: Source,
    rows: Sequence[int],
    predictors: _Predictors,
    known: Mapping[str, Mapping[str, float | None]],
    settings: EvaluationSettings,
    out_dir: pathlib.Path,
) -> TaskEvaluation:
    """Returns one task's evaluation before its first batch.

    Args:
      task: what is measured.
      source: held-out examples.
      rows: which of them are measured.
      predictors: see `_Predictors`.
      known: {"trivial" or "ceiling": figures} of an earlier evaluation.
      settings: how to evaluate.
      out_dir: folder of the results.
    """
    # The model in all ways; first as it predicts by default.
    in_tiles = settings.native and task.prefers_tiles
    ways = _ways(task, predictors.model)
    if in_tiles:
        ways = {"": Way(task, predictors.tiles), "_whole": Way(task, predictors.model)}
    samples = settings.samples if task.combines_samples else 1
    model = Measurement(ways, Scores(task, source.groups, samples))

    # What is known from an earlier evaluation is not measured again.
    baselines = {}
    if "ceiling" not in known:
        ways = _ways(task, predictors.ceiling)
        if in_tiles:
            ways = {"": Way(task, predictors.exact), "_whole": Way(task, predictors.ceiling)}
        baselines["ceiling"] = Measurement(ways, Scores(task, source.groups))
    if "trivial" not in known and predictors.trivial.sources(task) is not None:
        ways = _ways(task, predictors.trivial)
        baselines["trivial"] = Measurement(ways, Scores(task, source.groups))

    submissions = {}
    if settings.submission:
        for suffix in model.ways:
            submissions[suffix] = Submission(out_dir / SUBMISSION, task, suffix)
    return TaskEvaluation(
        task=task,
        source=source,
        rows=rows,
        model=model,
        baselines=baselines,
        known=known,
        most_samples=settings.panels,
        submissions=submissions,
    )


def _ways(task: Task, predictor: Predictor) -> dict[str, Way]:
    """Returns the task's own way to decode, under "", and its variants."""
    codecs = {"": task, **task.variants()}
    return {suffix: Way(codec, predictor) for suffix, codec in codecs.items()}


def _identity(settings: EvaluationSettings, known: Mapping[str, _Known]) -> dict[str, Any]:
    """Returns all that the state of an unfinished evaluation depends on, as JSON takes it."""
    return {
        "settings": dataclasses.asdict(settings),
        "keys": {name: found.key for name, found in known.items()},
        "known": {name: sorted(found.figures) for name, found in known.items()},
    }


def _resume(
    begin: Callable[[], dict[str, TaskEvaluation]], partial: Partial
) -> dict[str, TaskEvaluation]:
    """Returns the evaluations from where an earlier call was interrupted, else the beginning.

    What was measured is with process 0; the others know how much that is.
    """
    evaluations = begin()
    state = partial.load() if processes.is_first() else {}
    if state:
        try:
            for name, evaluation in evaluations.items():
                evaluation.absorb(state["tasks"][name])
                evaluation.done = state["done"][name]
                evaluation.seconds[:] = state["seconds"][name]
        except _OF_ANOTHER_FORM as error:
            logger.info(f"{PARTIAL} is of another form ({error!r}): the evaluation starts anew")
            evaluations = begin()
            for evaluation in evaluations.values():
                evaluation.seconds.clear()

    done = processes.share({name: evaluation.done for name, evaluation in evaluations.items()})
    for name, evaluation in evaluations.items():
        evaluation.done = done[name]
    return evaluations


def _measure(evaluations: Mapping[str, TaskEvaluation], batch_size: int, partial: Partial) -> None:
    """Feeds every task its examples, and saves now and then what was measured."""
    done = sum(evaluation.done for evaluation in evaluations.values())
    total = sum(len(evaluation.rows) for evaluation in evaluations.values())
    if done:
        logger.info(f"eval resumes after {done} of {total} examples")
    progress = Progress("eval", total, done=done)

    for names in _side_by_side(evaluations):
        group = [evaluations[name] for name in names]
        rows = [Rows(evaluation.source, evaluation.rows, evaluation.done) for evaluation in group]
        for read in batches(rows, batch_size):
            for name, evaluation, batch in zip(names, group, read, strict=True):
                if batch is not None:
                    evaluation.update(batch)
                    progress.add(batch.count, name)

            # Whole groups only: a batch is painted again if a part of its group is missing.
            if processes.agree(partial.is_due()):
                _collect(evaluations)
                if processes.is_first():
                    partial.save(_state(evaluations))


def _collect(evaluations: Mapping[str, TaskEvaluation]) -> None:
    """Moves what all processes have measured to the first one."""
    if jax.process_count() == 1:
        return
    own = b""
    if not processes.is_first():
        own = plain.pack({name: evaluation.state for name, evaluation in evaluations.items()})

    # Metrics merge exactly, and all examples know their places.
    for packed in processes.gather_rows(np.frombuffer(own, np.uint8))[1:]:
        if processes.is_first():
            states = plain.unpack(packed.tobytes())
            for name, evaluation in evaluations.items():
                evaluation.absorb(states[name])
    if not processes.is_first():
        for evaluation in evaluations.values():
            evaluation.clear()


def _side_by_side(evaluations: Mapping[str, TaskEvaluation]) -> list[list[str]]:
    """Returns groups of tasks that are measured batch by batch beside each other.

    A composed task is beside its components, whose painting it shares. All others are alone.
    """
    # Of a task and its components some may not be evaluated.
    composed = []
    for name, evaluation in evaluations.items():
        if evaluation.task.components:
            present = [part for part in evaluation.task.components if part in evaluations]
            composed.append([*present, name])
    alone = [[name] for name in evaluations if not any(name in group for group in composed)]
    return alone + composed


def _state(evaluations: Mapping[str, TaskEvaluation]) -> dict[str, Any]:
    """Returns what has been measured so far, as plain values."""
    return {
        "tasks": {name: evaluation.state for name, evaluation in evaluations.items()},
        "done": {name: evaluation.done for name, evaluation in evaluations.items()},
        "seconds": {name: evaluation.seconds for name, evaluation in evaluations.items()},
    }


def _write(
    evaluations: Mapping[str, TaskEvaluation],
    settings: EvaluationSettings,
    out_dir: pathlib.Path,
) -> dict[str, float | None]:
    """Writes the files of an evaluation, and returns the content of metrics.json."""
    metrics = _figures(evaluations)

    records = {name: evaluation.record() for name, evaluation in evaluations.items()}
    card = record.make_card(records, _card_facts(settings))
    for column, folder in settings.beside.items():
        metrics |= _under(column, _earlier_figures(folder, card))
    record.write(out_dir, metrics, card, records)
    logger.info(tables.format_table(metrics))
    return metrics


def _figures(evaluations: Mapping[str, TaskEvaluation]) -> dict[str, float | None]:
    """Returns the content of metrics.json."""
    # The model's figures come first, task after task, then those they are read against.
    metrics: dict[str, float | None] = {}
    for name, evaluation in evaluations.items():
        metrics |= _under(name, evaluation.model.scores.figures())
    for name, evaluation in evaluations.items():
        metrics[f"{name}/examples"] = len(evaluation.model.scores.rows)
    for name, evaluation in evaluations.items():
        metrics[f"{name}/seconds_per_image"] = float(np.median(evaluation.seconds))

    for kind in tables.BASELINES:
        for name, evaluation in evaluations.items():
            metrics |= _under(f"{kind}/{name}", evaluation.baseline_figures().get(kind, {}))
    return metrics


def _earlier_figures(folder: pathlib.Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the model's figures of an earlier evaluation, as far as they can be compared."""
    # Whoever left something else there must not cost this evaluation.
    try:
        metrics = read_json(folder / record.METRICS)
        earlier = read_json(folder / record.CARD)
        same = [name for name in card["tasks"] if _is_same(earlier, card, name)]
    except (OSError, DamagedFileError, KeyError, TypeError, AttributeError):
        return {}

    figures = {}
    for name, value in metrics.items():
        task_name, _, key = name.partition("/")
        is_figure = value is None or isinstance(value, float)
        if task_name in same and key != "seconds_per_image" and is_figure:
            figures[name] = value
    return figures


def _is_same(earlier: Mapping[str, Any], card: Mapping[str, Any], task: str) -> bool:
    """Whether two cards are of the same examples of a task, painted as large by as much work."""
    one = earlier["tasks"].get(task, {})
    other = card["tasks"][task]
    same_examples = one.get("keys_sha256") == other["keys_sha256"]
    # Cards of earlier releases are of one sample.
    same_samples = earlier.get("samples", 1) == card.get("samples", 1)
    same_painting = all(earlier[key] == card[key] for key in ("target_size", "steps"))
    return same_examples and same_samples and same_painting


def _under(prefix: str, figures: Mapping[str, float | None]) -> dict[str, float | None]:
    return {f"{prefix}/{key}": value for key, value in figures.items()}


def _card_facts(settings: EvaluationSettings) -> dict[str, Any]:
    """Returns the settings that the card shows."""
    return {
        "target_size": settings.target_size,
        "steps": settings.steps,
        "samples": settings.samples,
        "batch_size": settings.batch_size,
        **settings.facts,
    }


def _check_measured(evaluations: Mapping[str, TaskEvaluation]) -> None:
    """Raises ValueError if a task has not one readable example."""
    empty = [name for name, evaluation in evaluations.items() if not evaluation.model.scores.rows]
    empty = processes.share(empty)
    if empty:
        raise ValueError(
            f"every example of {', '.join(empty)} is damaged: nothing was measured. "
            "`generalist data check` names the files."
        )


def _check_sources(
    tasks: Mapping[str, Task], sources: Mapping[str, Source], train_sources: Mapping[str, Source]
) -> None:
    """Raises ValueError for a task without a source, and for a source without examples."""
    missing = [name for name in tasks if name not in sources]
    if missing:
        raise ValueError(
            f"no source for task {', '.join(missing)}; there are sources for "
            f"{', '.join(sources) or 'none'}. "
            "Add a source, or leave the task out of eval.tasks."
        )

    # An empty source would fail only at the end, without a figure.
    for kind, group in (("", sources), ("training ", train_sources)):
        empty = [name for name in tasks if name in group and not len(group[name])]
        if empty:
            raise ValueError(
                f"the {kind}source of task {', '.join(empty)} is empty: {group[empty[0]]!r}. "
                "Choose another split, or leave the task out of eval.tasks."
            )
