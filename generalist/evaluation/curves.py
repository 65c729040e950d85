"""Line charts as inline SVG. CSS variables of the page color them, so they fit light and dark."""

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

COLORS = ("#3b7dd8", "#d9822b", "#3a9e5c", "#c2478f", "#8a63d2", "#b3922f", "#2fa3a3", "#c94a4a")

# Pixels: of the whole chart, and of the space around its plot, where the ticks' labels stand.
WIDTH = 640
HEIGHT = 320
LEFT = 64
RIGHT = 16
TOP = 14
BOTTOM = 46

# Points a line at most; a longer one shows means of neighbors.
_MOST_POINTS = 300

Point = tuple[float, float]
Series = Sequence[Point]


class Axis(NamedTuple):
    """The range of an axis and the ticks on it, in the data's units.

    Attributes:
      low: where the axis begins.
      high: where it ends.
      ticks: ascending values from `low` to `high`.
    """

    low: float
    high: float
    ticks: list[float]


def line_chart(
    series: Mapping[str, Series], *, y_label: str, x_label: str = "step", log_y: bool = False
) -> str:
    """Draws axes, ticks, one line a series and, for several series, a legend.

    Args:
      series: {name: [(x, y), ...]}, x ascending. Values that are not finite (or not above 0 on a
        logarithmic axis) are gaps.
      y_label: name of the vertical axis, with units.
      x_label: name of the horizontal axis, with units.
      log_y: whether the y axis is logarithmic.

    Returns:
      HTML; a sentence if there is nothing to draw.
    """
    series = {name: _clean(points, log_y) for name, points in series.items()}
    points = [point for line in series.values() for point in line]
    if not points:
        return '<p class="note">No points to draw.</p>'

    # All series share the axes.
    x_axis = _x_axis(*_limits(x for x, _ in points))
    y_limits = _limits(y for _, y in points)
    y_axis = log_axis(*y_limits) if log_y else linear_axis(*y_limits)
    scale = math.log10 if log_y else float

    def place(x: float, y: float) -> Point:
        """Returns the pixel of a point of the data. Pixels count from the top left corner."""
        across = (x - x_axis.low) / (x_axis.high - x_axis.low)
        up = (scale(y) - scale(y_axis.low)) / (scale(y_axis.high) - scale(y_axis.low))
        left = LEFT + across * (WIDTH - LEFT - RIGHT)
        top = HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)
        return left, top

    # Later elements of an SVG cover earlier ones: the lines lie over the grid.
    parts = [
        _grid(place, x_axis, y_axis),
        _axis_titles(x_label, y_label + (" (log scale)" if log_y else "")),
    ]
    for color, line in zip(_cycle(series), series.values(), strict=True):
        parts.append(_line(place, line, color))

    title = html.escape(f"{y_label} over {x_label}")
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">'
        f"{''.join(parts)}</svg>"
    )
    return f"<figure>{svg}{_legend(series)}</figure>"


def _x_axis(low: float, high: float) -> Axis:
    """Returns the axis of exactly the data, so that a run ends at the edge of its chart."""
    axis = linear_axis(low, high)
    if low == high:
        return axis
    return Axis(low, high, [tick for tick in axis.ticks if low <= tick <= high])


def linear_axis(low: float, high: float) -> Axis:
    """Returns an axis with about five round ticks, 1, 2 or 5 times a power of ten apart.

    Args:
      low: smallest value of the data.
      high: largest value of the data; equal values become the middle of the axis.
    """
    if low == high:
        low -= (abs(low) or 1.0) / 2
        high += (abs(high) or 1.0) / 2

    # The smallest round step that needs no more than five of them.
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)

    # Data that end at a tick up to rounding need no further one.
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    ticks = [step * index for index in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks)


def log_axis(low: float, high: float) -> Axis:
    """Returns an axis with ticks at 1, 2 and 5 times the powers of ten, or at the powers alone.

    Args:
      low: smallest value of the data, above 0.
      high: largest value of the data.
    """
    candidates = []
    for power in range(math.floor(math.log10(low) - 1e-9), math.ceil(math.log10(high) + 1e-9) + 1):
        candidates += [factor * 10.0**power for factor in (1, 2, 5)]

    # The axis ends at the ticks next to the data, outside of them.
    bottom = max((tick for tick in candidates if tick <= low * (1 + 1e-9)), default=low)
    top = min((tick for tick in candidates if tick >= high * (1 - 1e-9)), default=high)
    if top <= bottom:
        top = bottom * 10

    ticks = [tick for tick in candidates if bottom * (1 - 1e-9) <= tick <= top * (1 + 1e-9)]
    if len(ticks) > 8:
        # More would overlap. The logarithm of a power of ten has no fraction, up to rounding.
        ticks = [tick for tick in ticks if math.log10(tick) % 1 in (0.0, 1.0)]
    return Axis(bottom, top, ticks)


def format_tick(value: float) -> str:
    """Returns at most four digits: 5e-4, 0.002, 1.5k, 20k, 3M."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{suffix}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _grid(place: Callable[[float, float], Point], x_axis: Axis, y_axis: Axis) -> str:
    """Returns the grid's lines, the axes, and the ticks with their labels."""
    parts = []
    for tick in y_axis.ticks:
        left, y = place(x_axis.low, tick)
        right, _ = place(x_axis.high, tick)
        parts.append(
            f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{format_tick(tick)}</text>'
        )
    for tick in x_axis.ticks:
        x, y = place(tick, y_axis.low)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y + 5:.1f}"/>'
            f'<text x="{x:.1f}" y="{y + 19:.1f}" text-anchor="middle">{format_tick(tick)}</text>'
        )

    # The x axis itself covers the lowest line of the grid.
    left, bottom = place(x_axis.low, y_axis.low)
    right, _ = place(x_axis.high, y_axis.low)
    parts.append(
        f'<line class="axis" x1="{left:.1f}" y1="{bottom:.1f}" x2="{right:.1f}" y2="{bottom:.1f}"/>'
    )
    return "".join(parts)


def _line(place: Callable[[float, float], Point], points: Series, color: str) -> str:
    """Returns one series as a line, or as a dot if it has one point, whose line is invisible."""
    placed = [place(x, y) for x, y in points]
    # A tenth of a pixel is as fine as anyone can see.
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in placed)
    line = (
        f'<polyline points="{path}" fill="none" stroke="{color}" '
        'stroke-width="1.8" stroke-linejoin="round"/>'
    )
    if len(placed) != 1:
        return line
    left, top = placed[0]
    return line + f'<circle cx="{left:.1f}" cy="{top:.1f}" r="3" fill="{color}"/>'


def _axis_titles(x_label: str, y_label: str) -> str:
    center = (LEFT + WIDTH - RIGHT) / 2
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    return (
        f'<text text-anchor="middle" x="{center:.0f}" y="{HEIGHT - 6}">{html.escape(x_label)}'
        "</text>"
        f'<text text-anchor="middle" x="14" y="{middle:.0f}" '
        f'transform="rotate(-90 14 {middle:.0f})">{html.escape(y_label)}</text>'
    )


def _legend(series: Mapping[str, Series]) -> str:
    if len(series) < 2:
        return ""
    entries = [
        f'<span><i style="background:{color}"></i>{html.escape(name)}</span>'
        for color, name in zip(_cycle(series), series, strict=True)
    ]
    return f'<figcaption class="legend">{"".join(entries)}</figcaption>'


def _cycle(series: Mapping[str, Series]) -> list[str]:
    """Returns the color of each series; they repeat when there are more series than colors."""
    return [COLORS[index % len(COLORS)] for index in range(len(series))]


def _limits(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    return min(values), max(values)


def _clean(points: Series, log_y: bool) -> list[Point]:
    """Returns the points that can be drawn, thinned to means over groups of neighbors."""
    points = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log_y)]

    count = math.ceil(len(points) / _MOST_POINTS) or 1
    thinned = []
    for start in range(0, len(points), count):
        group = points[start : start + count]
        mean_x = sum(x for x, _ in group) / len(group)
        mean_y = sum(y for _, y in group) / len(group)
        thinned.append((mean_x, mean_y))
    return thinned
