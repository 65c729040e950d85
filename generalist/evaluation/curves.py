"""Line charts as inline SVG, coloured by the page's CSS variables so that they fit light and dark."""

import html
import math
from collections.abc import Mapping, Sequence

COLOURS = ("#3b7dd8", "#d9822b", "#3a9e5c", "#c2478f", "#8a63d2", "#b3922f", "#2fa3a3", "#c94a4a")
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 46  # pixels around the plot
_POINTS = 300  # at most, a line; longer ones show means of neighbours

Series = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Series], *, y_label: str, x_label: str = "step", log_y: bool = False
) -> str:
    """A figure with axes, ticks, one line a series and, where there are several, a legend.

    Args:
      series: {name: [(x, y), ...]}, x ascending; values that are not finite (or not above 0 on a logarithmic axis) are gaps.
      y_label, x_label: names of the axes, with units.
      log_y: whether the y axis is logarithmic.

    Returns:
      HTML; a sentence where there is nothing to draw.
    """
    series = {name: _clean(points, log_y) for name, points in series.items()}
    points = [point for line in series.values() for point in line]
    if not points:
        return '<p class="note">No points to draw.</p>'
    x_range, x_ticks = _x_axis(*_limits(x for x, _ in points))
    y_range, y_ticks = (log_axis if log_y else linear_axis)(*_limits(y for _, y in points))
    scale = math.log10 if log_y else float

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / (x_range[1] - x_range[0])
        up = (scale(y) - scale(y_range[0])) / (scale(y_range[1]) - scale(y_range[0]))
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    parts = [
        _grid(place, x_range, x_ticks, y_range, y_ticks),
        _labels(x_label, y_label + (" (log scale)" if log_y else "")),
    ]
    for colour, line in zip(_cycle(series), series.values()):
        path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line)
        # A line of one point would be invisible.
        dot = (
            ""
            if len(line) != 1
            else '<circle cx="{:.1f}" cy="{:.1f}" r="3" fill="{}"/>'.format(
                *place(*line[0]), colour
            )
        )
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>{dot}'
        )
    title = html.escape(f"{y_label} over {x_label}")
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{"".join(parts)}</svg>'
    return f"<figure>{svg}{_legend(series)}</figure>"


def _x_axis(low: float, high: float) -> tuple[tuple[float, float], list[float]]:
    """As `linear_axis`, but the limits are those of the data: no empty margin at the end of a run."""
    limits, ticks = linear_axis(low, high)
    return (
        (limits, ticks)
        if low == high
        else ((low, high), [tick for tick in ticks if low <= tick <= high])
    )


def linear_axis(low: float, high: float) -> tuple[tuple[float, float], list[float]]:
    """Limits and about five round ticks in steps of 1, 2 or 5 times a power of ten."""
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * index for index in range(first, last + 1)]
    return (ticks[0], ticks[-1]), ticks


def log_axis(low: float, high: float) -> tuple[tuple[float, float], list[float]]:
    """Limits and ticks at 1, 2 and 5 times the powers of ten; only the powers where there are many."""
    decades = range(math.floor(math.log10(low) - 1e-9), math.ceil(math.log10(high) + 1e-9) + 1)
    candidates = [factor * 10.0**power for power in decades for factor in (1, 2, 5)]
    bottom = max((tick for tick in candidates if tick <= low * (1 + 1e-9)), default=low)
    top = min((tick for tick in candidates if tick >= high * (1 - 1e-9)), default=high)
    top = top if top > bottom else bottom * 10
    ticks = [tick for tick in candidates if bottom * (1 - 1e-9) <= tick <= top * (1 + 1e-9)]
    return (bottom, top), ticks if len(ticks) <= 8 else [
        tick for tick in ticks if math.log10(tick) % 1 in (0.0, 1.0)
    ]


def format_tick(value: float) -> str:
    """At most four digits: 5e-4, 0.002, 1.5k, 20k, 3M."""
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g}{suffix}"
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.3e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.4g}"


def _grid(place, x_range, x_ticks, y_range, y_ticks) -> str:
    parts = []
    for tick in y_ticks:
        (left, y), (right, _) = place(x_range[0], tick), place(x_range[1], tick)
        parts.append(
            f'<line class="grid" x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}"/>'
            f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{format_tick(tick)}</text>'
        )
    for tick in x_ticks:
        x, y = place(tick, y_range[0])
        parts.append(
            f'<line class="axis" x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{y + 5:.1f}"/>'
            f'<text x="{x:.1f}" y="{y + 19:.1f}" text-anchor="middle">{format_tick(tick)}</text>'
        )
    (left, bottom), (right, _) = place(x_range[0], y_range[0]), place(x_range[1], y_range[0])
    return (
        "".join(parts)
        + f'<line class="axis" x1="{left:.1f}" y1="{bottom:.1f}" x2="{right:.1f}" y2="{bottom:.1f}"/>'
    )


def _labels(x_label: str, y_label: str) -> str:
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    return (
        f'<text text-anchor="middle" x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 6}">{html.escape(x_label)}</text>'
        f'<text text-anchor="middle" x="14" y="{middle:.0f}" transform="rotate(-90 14 {middle:.0f})">'
        f"{html.escape(y_label)}</text>"
    )


def _legend(series: Mapping[str, Series]) -> str:
    if len(series) < 2:
        return ""
    entries = (
        f'<span><i style="background:{colour}"></i>{html.escape(name)}</span>'
        for colour, name in zip(_cycle(series), series)
    )
    return f'<figcaption class="legend">{"".join(entries)}</figcaption>'


def _cycle(series: Mapping) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(series))]


def _limits(values) -> tuple[float, float]:
    values = list(values)
    return min(values), max(values)


def _clean(points: Series, log_y: bool) -> list[tuple[float, float]]:
    """The finite points, thinned to means over runs of neighbours."""
    points = [(x, y) for x, y in points if math.isfinite(y) and (y > 0 or not log_y)]
    run = math.ceil(len(points) / _POINTS) or 1
    runs = [points[i : i + run] for i in range(0, len(points), run)]
    return [
        (sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in runs
    ]
