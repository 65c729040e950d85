"""Sample, decode, measure: a model's official numbers on a data set, its pictures, and the files that keep them."""

import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from generalist.evaluation import panels as panels_lib
from generalist.evaluation import record, tables
from generalist.evaluation.baselines import Cache, Ceiling, Trivial, cache_key
from generalist.evaluation.scores import Example, Predictor, Scores, component_tasks, decode, finite_or_none, native_size
from generalist.tasks import Task

BASELINES = "baselines.json"
_LOG_EVERY = 5.0  # seconds

PredictRGB = Callable[[np.ndarray | list[np.ndarray], str], np.ndarray]


def evaluate(
        predict_rgb: PredictRGB, tasks: Mapping[str, Task], sources: Mapping, *, target_size: int,
        train_sources: Mapping | None = None, limit: int = 0, batch_size: int = 64, panels: int = 4, out_dir: str | pathlib.Path,
        steps: int | None = None, facts: Mapping | None = None, log: Callable[[str], None] = print) -> dict[str, float | None]:
    """Measures a model by the official metric of each task, at the labels' own resolution.

    Args:
      predict_rgb: (images uint8 (b, h, w, 3), task name) -> float32 (b, target_size, target_size, 3) in about [-1, 1];
        the images come as a list of (h, w, 3) where their sizes differ. A composed task is painted as its components.
      tasks: {name: codec}.
      sources: {name: random-access source of held-out examples}, one for each task.
      target_size: side of what the model paints, in pixels; the ceiling is encoded at it.
      train_sources: {name: source of the training split}, for the trivial predictor; without them the trivial figures
        of depth and segmentation are left out.
      limit: examples a task; 0 takes all.
      batch_size: images a call of `predict_rgb`.
      panels: examples shown in the pictures.
      out_dir: folder for metrics.json, card.json, per_image.csv and panels/. Trivial and ceiling figures, which no
        model changes, are kept in baselines.json beside it.
      steps: denoising steps, for the card.
      facts: anything else for the card, such as {"seed": 0, "weights": "runs/a"}.
      log: takes progress lines and the final table.

    Returns:
      The content of metrics.json: `<task>/<metric>`, `<task>/iou/<class>`, `<task>/pq/<class>`, the same under
      `trivial/` and `ceiling/`, `<task>/examples` and `<task>/seconds_per_image`. None is an undefined value (a class that does
      not occur) or, for PSNR, an exact image, whose PSNR is infinite.

    Raises:
      ValueError: a task has no source, a source is empty, or an example or what `predict_rgb` returns has a wrong form.
    """
    out_dir = pathlib.Path(out_dir)
    counts = _check(tasks, sources, train_sources or {}, limit)
    model, trivial = Model(predict_rgb, target_size), Trivial(train_sources, target_size)
    cache = Cache(out_dir.parent / BASELINES)
    keys = {name: cache_key(task, target_size, sources[name], counts[name], trivial.sources(task))
            for name, task in tasks.items()}
    runs = {}
    for name, task in tasks.items():
        predictors = {"prediction": model, "ceiling": Ceiling(target_size)}
        if trivial.sources(task) is not None:
            predictors["trivial"] = trivial
        runs[name] = _Run(task, {kind: p for kind, p in predictors.items() if kind not in cache.get(keys[name])}, panels)

    _walk(runs, sources, counts, batch_size, log)
    computed = {keys[name]: run.baselines() for name, run in runs.items()}
    cache.put({key: baselines for key, baselines in computed.items() if baselines})
    metrics = _flatten({name: run.prediction() for name, run in runs.items()})
    metrics |= {f"{name}/examples": counts[name] for name in tasks}
    metrics |= {f"{name}/seconds_per_image": float(np.median(model.seconds[name])) for name in tasks}
    for kind in ("trivial", "ceiling"):
        metrics |= _flatten({f"{kind}/{name}": cache.get(keys[name]).get(kind, {}) for name in tasks})

    settings = {"target_size": target_size, "steps": steps, "batch_size": batch_size, **(facts or {})}
    record.write(out_dir, metrics, record.card(tasks, sources, counts, settings),
                 {name: (run.task, run.scores["prediction"].rows, run.samples) for name, run in runs.items()})
    log(tables.format_table(metrics))
    return metrics


class Model:
    """The model as a predictor. It paints a batch once, also where several tasks need it.

    Attributes:
      seconds: {task: seconds an image for painting and decoding, of each batch}.
    """

    def __init__(self, predict_rgb: PredictRGB, target_size: int):
        self._predict_rgb, self._target_size = predict_rgb, target_size
        self._last: dict[str, tuple[list, np.ndarray, float]] = {}  # component -> images, what was painted, seconds
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, task: Task, examples: Sequence[Example]) -> list:
        images = [example["image"] for example in examples]
        for part in component_tasks(task):
            self._paint(images, part.name)
        painted = {part.name: self._last[part.name] for part in component_tasks(task)}
        began = time.perf_counter()
        predictions = decode(task, {name: rgb for name, (_, rgb, _) in painted.items()},
                             [native_size(example["label"]) for example in examples])
        spent = time.perf_counter() - began + sum(seconds for _, _, seconds in painted.values())
        self.seconds.setdefault(task.name, []).append(spent / len(examples))
        return predictions

    def _paint(self, images: list[np.ndarray], name: str) -> None:
        if name in self._last and _same(self._last[name][0], images):
            return
        one_size = len({image.shape for image in images}) == 1
        began = time.perf_counter()
        rgb = np.asarray(self._predict_rgb(np.stack(images) if one_size else images, name))
        expected = (len(images), self._target_size, self._target_size, 3)
        if rgb.shape != expected or rgb.dtype.kind != "f":
            raise ValueError(f"Task '{name}': predict_rgb returned {rgb.dtype} of shape {rgb.shape}, expected float32 of "
                             f"shape {expected}: pass the model's own target_size.")
        if not np.isfinite(rgb).all():
            raise ValueError(f"Task '{name}': predict_rgb returned nan or inf: the weights are broken, take an older checkpoint.")
        self._last[name] = images, rgb, time.perf_counter() - began


class _Run:
    """One task in an evaluation: the predictors still to run on it, their scores, and the examples for the pictures."""

    def __init__(self, task: Task, predictors: Mapping[str, Predictor], panels: int):
        self.task, self.predictors, self.panels = task, predictors, panels
        self.scores = {kind: Scores(task) for kind in predictors}
        self.samples: list[panels_lib.Sample] = []

    def update(self, examples: Sequence[Example]) -> None:
        for kind, predictor in self.predictors.items():
            predictions = predictor(self.task, examples)
            self.scores[kind].update(examples, predictions)
            if kind == "prediction":
                rows = self.scores[kind].rows[-len(examples):]
                shown = zip(examples, predictions, rows)
                self.samples += [panels_lib.Sample(*s) for s in itertools.islice(shown, self.panels - len(self.samples))]

    def prediction(self) -> dict[str, float | None]:
        return _finite(self.scores["prediction"])

    def baselines(self) -> dict[str, dict[str, float | None]]:
        return {kind: _finite(scores) for kind, scores in self.scores.items() if kind != "prediction"}


class _Progress:
    """Says every few seconds how far an evaluation is and when it ends."""

    def __init__(self, total: int, log: Callable[[str], None]):
        self._total, self._log, self._done = total, log, 0
        self._began = self._said = time.monotonic()

    def add(self, count: int, task: str) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._said >= _LOG_EVERY:
            rate = self._done / (now - self._began)
            left = (self._total - self._done) / rate
            self._log(f"eval {self._done}/{self._total} examples ({task}) | {rate:.1f}/s | ETA {left:.0f} s")
            self._said = now


def _walk(runs: Mapping[str, _Run], sources: Mapping, counts: Mapping[str, int], batch_size: int, log) -> None:
    """Feeds every run its examples. A composed task walks beside its components, whose painting it shares."""
    progress = _Progress(sum(counts.values()), log)
    composed = [[*(part for part in run.task.components if part in runs), name]
                for name, run in runs.items() if run.task.components]
    alone = [[name] for name in runs if not any(name in group for group in composed)]
    for group in alone + composed:
        readers = [_batches(sources[name], counts[name], batch_size) for name in group]
        for parts in itertools.zip_longest(*readers, fillvalue=()):
            for name, examples in zip(group, parts):
                if examples:
                    runs[name].update(examples)
                    progress.add(len(examples), name)


def _batches(source, count: int, batch_size: int) -> Iterator[list[Example]]:
    """The first `count` examples in batches; the next one is read while the caller works on this one."""
    def read(start: int) -> list[Example]:
        return [_check_example(source[index], source.task) for index in range(start, min(start + batch_size, count))]

    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, 0)
        for start in range(0, count, batch_size):
            examples = pending.result()
            pending = reader.submit(read, start + batch_size)
            yield examples


def _check(tasks: Mapping[str, Task], sources: Mapping, train_sources: Mapping, limit: int) -> dict[str, int]:
    """Number of examples of each task."""
    missing = [name for name in tasks if name not in sources]
    if missing:
        raise ValueError(f"no source for task {', '.join(missing)}; there are sources for {', '.join(sources) or 'none'}. "
                         "Add a source, or leave the task out of eval.tasks.")
    for kind, group in (("", sources), ("training ", train_sources)):
        empty = [name for name in tasks if name in group and not len(group[name])]
        if empty:
            raise ValueError(f"the {kind}source of task {', '.join(empty)} is empty: {group[empty[0]]!r}. Choose another "
                             "split, or leave the task out of eval.tasks.")
    return {name: min(limit or len(sources[name]), len(sources[name])) for name in tasks}


def _check_example(example: Example, task: str) -> Example:
    image = np.asarray(example["image"])
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(f"Task '{task}', example {example['key']!r}: the image must be uint8 of shape (height, width, 3), "
                         f"got {image.dtype} of shape {image.shape}.")
    return example


def _same(ones: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(ones) == len(others) and all(map(np.array_equal, ones, others))


def _finite(scores: Scores) -> dict[str, float | None]:
    return {key: finite_or_none(value) for key, value in scores.compute().items()}


def _flatten(tree: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    return {f"{name}/{key}": value for name, values in tree.items() for key, value in values.items()}
