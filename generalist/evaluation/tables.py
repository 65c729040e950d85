"""The results table, from the flat figures of metrics.json: for the terminal and for the report."""

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
        """0.4321 -> "0.432" or, of a fraction, "43.2"."""
        return f"{value * (100 if self.unit == '%' else 1):.{self.digits}f}"


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
}
QUANTITIES = HEADING | {
    "miou_painter": Quantity("mIoU, colours upsampled", "%", 1),
    "miou_distance": Quantity("mIoU, distances upsampled", "%", 1),
    "boundary_f": Quantity("boundary F", "%", 1),
    "ause": Quantity("sparsification error", "%", 1, lower_is_better=True),
    "ece": Quantity("calibration error", "%", 1, lower_is_better=True),
    "psnr_tiles": Quantity("PSNR in tiles", "dB", 2),
    "ssim_tiles": Quantity("SSIM in tiles", "", 3),
}


class Row(NamedTuple):
    """One line of the results table, formatted; `gain` is the prediction against the trivial predictor."""

    task: str
    metric: str
    prediction: str
    trivial: str
    ceiling: str
    gain: str
    unit: str


HEADER = Row("task", "metric", "prediction", "trivial", "ceiling", "vs trivial", "unit")


def rows(metrics: Mapping[str, float | None]) -> Iterator[Row]:
    """The lines of the table, task after task."""
    for task in task_names(metrics):
        for key, quantity in QUANTITIES.items():
            if f"{task}/{key}" in metrics:
                name = f"{task}/{key}"
                trivial = f"trivial/{name.removesuffix('_tiles')}"  # the input unchanged, which no tiles change
                values = [
                    format_value(key, metrics, column)
                    for column in (name, trivial, f"ceiling/{name}")
                ]
                gain = format_gain(quantity, metrics[name], metrics.get(trivial))
                yield Row(task, quantity.label, *values, gain, quantity.unit)


def task_names(metrics: Mapping) -> list[str]:
    """The tasks of metrics.json, in its order."""
    return [name.removesuffix("/examples") for name in metrics if name.endswith("/examples")]


def format_value(key: str, metrics: Mapping[str, float | None], name: str) -> str:
    """ "–" for a figure that is not there or not defined, "exact" for an infinite PSNR."""
    if metrics.get(name) is None:
        return "exact" if key.startswith("psnr") and name in metrics else "–"
    return QUANTITIES[key].format(metrics[name])


def format_gain(quantity: Quantity, value: float | None, trivial: float | None) -> str:
    """Errors as a multiple of the trivial one's, all else as a difference."""
    if value is None or trivial is None:
        return "–"
    if quantity.lower_is_better:
        return f"× {value / trivial:.2f}" if trivial else "–"
    sign = "+" if value >= trivial else "−"
    return sign + quantity.format(abs(value - trivial))


def format_values(values: Mapping[str, float]) -> str:
    """The heading metrics of one image on one line: "RMSE 0.412 m   delta1 88.0 %"."""
    named = [(key, quantity) for key, quantity in HEADING.items() if key in values]
    return "   ".join(f"{q.label} {q.format(values[key])} {q.unit}".strip() for key, q in named)


def format_table(metrics: Mapping[str, float | None]) -> str:
    """The table as text, columns aligned; a blank task cell means the one above."""
    lines = [HEADER, *rows(metrics)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    text, last = [], ""
    for line in lines:
        cells = ["" if line.task == last else line.task, *line[1:]]
        padded = [
            c.ljust(w) if i in (0, 1, 6) else c.rjust(w)
            for i, (c, w) in enumerate(zip(cells, widths))
        ]
        text.append("  ".join(padded).rstrip())
        last = line.task
    return "\n".join(text)
