"""The results table of metrics.json, for the terminal, the card and the report."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple


class Quantity(NamedTuple):
    """How a metric is printed.

    Attributes:
      label: name for people.
      unit: "m", "dB", "%" (of a fraction) or "".
      digits: after the point.
      lower_is_better: True for errors.
    """

    label: str
    unit: str
    digits: int
    lower_is_better: bool = False

    def format(self, value: float) -> str:
        """Returns 0.4321 as "0.432" or, if it is a fraction, as "43.2"."""
        factor = 100 if self.unit == "%" else 1
        return f"{value * factor:.{self.digits}f}"


# The metrics that head a table and stand below a picture, in this order; metrics.json has more.
HEADING = {
    "rmse": Quantity("RMSE", "m", 3, lower_is_better=True),
    "abs_rel": Quantity("AbsRel", "%", 1, lower_is_better=True),
    "delta1": Quantity("delta1", "%", 1),
    "miou": Quantity("mIoU", "%", 1),
    "pq": Quantity("PQ", "%", 1),
    "sq": Quantity("SQ", "%", 1),
    "rq": Quantity("RQ", "%", 1),
    "mae": Quantity("mean absolute error", "", 3, lower_is_better=True),
    "rms_error": Quantity("RMS error", "", 3, lower_is_better=True),
    "psnr": Quantity("PSNR", "dB", 2),
    "ssim": Quantity("SSIM", "", 3),
    "frechet": Quantity("Fréchet distance", "", 3, lower_is_better=True),
}
QUANTITIES = HEADING | {
    "pq_painter": Quantity("PQ, Painter's merge", "%", 1),
    "miou_painter": Quantity("mIoU, colors upsampled", "%", 1),
    "miou_distance": Quantity("mIoU, distances upsampled", "%", 1),
    "boundary_f": Quantity("boundary F", "%", 1),
    "ause": Quantity("sparsification error", "%", 1, lower_is_better=True),
    "ece": Quantity("calibration error", "%", 1, lower_is_better=True),
    "psnr_whole": Quantity("PSNR, whole image", "dB", 2),
    "ssim_whole": Quantity("SSIM, whole image", "", 3),
}

UNDEFINED = "–"  # neither nan nor a missing figure has a value to print
EXACT_PSNR = 100.0  # dB; beyond it only the rounding of floats is left


class Row(NamedTuple):
    """One formatted line of the results table; `gain` compares prediction and trivial figure."""

    task: str
    metric: str
    before: str  # of the weights that training began with
    prediction: str
    shipped: str  # of the weights that come with the package
    trivial: str
    ceiling: str
    gain: str
    unit: str


HEADER = Row(
    task="task",
    metric="metric",
    before="before",
    prediction="prediction",
    shipped="shipped",
    trivial="trivial",
    ceiling="ceiling",
    gain="vs trivial",
    unit="unit",
)
# What a model's figures stand beside: predictors that are not a model, and earlier evaluations.
BASELINES = ("trivial", "ceiling")
EARLIER = ("before", "shipped")
_TEXT_COLUMNS = ("task", "metric", "unit")


def rows(metrics: Mapping[str, float | None]) -> Iterator[Row]:
    """Yields the lines of the table, task after task, from the content of metrics.json."""
    for task in task_names(metrics):
        for key, quantity in QUANTITIES.items():
            name = f"{task}/{key}"
            if name not in metrics:
                continue

            # Restoration's trivial prediction is the input unchanged, in tiles or whole.
            trivial = f"trivial/{name.removesuffix('_whole')}"
            yield Row(
                task=task,
                metric=quantity.label,
                before=format_value(key, metrics, f"before/{name}"),
                prediction=format_value(key, metrics, name),
                shipped=format_value(key, metrics, f"shipped/{name}"),
                trivial=format_value(key, metrics, trivial),
                ceiling=format_value(key, metrics, f"ceiling/{name}"),
                gain=format_gain(quantity, metrics[name], metrics.get(trivial)),
                unit=quantity.unit,
            )


def columns(metrics: Mapping[str, float | None]) -> list[str]:
    """Returns the fields of `Row` to show: those of EARLIER where they have any figure."""
    groups = {name.partition("/")[0] for name in metrics}
    return [name for name in Row._fields if name not in EARLIER or name in groups]


def task_names(metrics: Mapping[str, float | None]) -> list[str]:
    """Returns the tasks of metrics.json, in its order."""
    return [name.removesuffix("/examples") for name in metrics if name.endswith("/examples")]


def format_value(key: str, metrics: Mapping[str, float | None], name: str) -> str:
    """Formats a figure: "–" if it is missing or undefined, "exact" for a PSNR above 100 dB.

    Args:
      key: the metric, one of QUANTITIES.
      metrics: the content of metrics.json.
      name: of the figure in `metrics`, such as "ceiling/depth/rmse".
    """
    value = metrics.get(name)
    if key.startswith("psnr") and name in metrics and (value is None or value > EXACT_PSNR):
        return "exact"
    return UNDEFINED if value is None else QUANTITIES[key].format(value)


def format_gain(quantity: Quantity, value: float | None, trivial: float | None) -> str:
    """Formats an error as a multiple of the trivial one, all else as the difference to it."""
    if value is None or trivial is None:
        return UNDEFINED
    if quantity.lower_is_better:
        return f"× {value / trivial:.2f}" if trivial else UNDEFINED
    sign = "+" if value >= trivial else "−"
    return sign + quantity.format(abs(value - trivial))


def format_values(values: Mapping[str, float]) -> str:
    """Formats the heading metrics of one image on one line: "RMSE 0.412 m   delta1 88.0 %"."""
    parts = []
    for key, quantity in HEADING.items():
        if key in values:
            text = f"{quantity.label} {quantity.format(values[key])} {quantity.unit}"
            parts.append(text.strip())
    return "   ".join(parts)


def format_table(metrics: Mapping[str, float | None]) -> str:
    """Formats the table as text, columns aligned; a blank task cell means the one above."""
    lines = [HEADER, *rows(metrics)]
    names = columns(metrics)
    widths = [max(len(getattr(line, name)) for line in lines) for name in names]

    # Text is aligned to the left, numbers to the right.
    text = []
    last = ""
    for line in lines:
        shown = line._replace(task="") if line.task == last else line
        padded = []
        for column, width in zip(names, widths, strict=True):
            cell = getattr(shown, column)
            padded.append(cell.ljust(width) if column in _TEXT_COLUMNS else cell.rjust(width))
        text.append("  ".join(padded).rstrip())
        last = line.task
    return "\n".join(text)
