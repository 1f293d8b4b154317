"""The rows of `qwen-ffi bench` below the machine's two roofs, as an SVG picture: https://doi.org/10.1145/1498765.1498785."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from .bench_formats import Report
from .bench_limits import scaled

_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 28, 64, 56  # margins around the plot
_LINE, _LETTER = 14, 6.2  # height of a label, and the width of one of its letters: about that of sans-serif at 12 px
_RADIUS, _GAP = 5, 9  # of a point, and from its middle to its label

# Own ground under everything: the picture is read well on any page, and follows the reader's theme.
_STYLE = """\
  text { font: 12px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; fill: #1f2328; }
  .title { font-size: 15px; font-weight: 600; }  .quiet { fill: #59636e; }
  .doubt { fill: #d1242f; }
  .ground { fill: #ffffff; stroke: #d1d9e0; }  .grid { stroke: #e4e8ec; }  .lead { stroke: #a0a8b0; }
  .roof { stroke: #1f2328; stroke-width: 2.5; fill: none; }
  .prefill { fill: #bc4c00; }  .decode { fill: #0969da; }  .streams { fill: #1a7f37; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }  .quiet { fill: #9198a1; }
    .ground { fill: #0d1117; stroke: #3d444d; }  .grid { stroke: #22272e; }  .lead { stroke: #59636e; }
    .roof { stroke: #f0f6fc; }  .doubt { fill: #ff7b72; }
    .prefill { fill: #f0883e; }  .decode { fill: #58a6ff; }  .streams { fill: #3fb950; }
  }"""


@dataclass(frozen=True, slots=True)
class _Point:
    kind: str
    label: str
    intensity: float  # FLOP/byte
    rate: float  # FLOP/s


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)

    def nearest(self, x: float, y: float) -> tuple[float, float]:
        """Its point that is nearest to another."""
        return min(max(x, self.left), self.right), min(max(y, self.top), self.bottom)


class _Plot:
    """Both axes are logarithmic; data to pixels."""

    def __init__(self, points: list[_Point], ridge: float, peak: float) -> None:
        self.x = (min(p.intensity for p in points), max(*(p.intensity for p in points), ridge))
        self.x = (self.x[0] / 2, self.x[1] * 5)  # room for labels on the right
        self.y = (min(p.rate for p in points) / 3, peak * 2)

    def at(self, intensity: float, rate: float) -> tuple[float, float]:
        return (
            _LEFT + (_WIDTH - _LEFT - _RIGHT) * _share(intensity, *self.x),
            _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * _share(rate, *self.y),
        )


def roofline(report: Report) -> str:
    """A picture of one labelled point per row, between intensity (FLOP/byte) and speed (FLOP/s)."""
    several = len(report.models) > 1
    points = [
        _Point(
            row.kind,
            f"{model.name} " * several + f"{row.name}: {row.percent_of_limit:.0f} %",
            row.flops_per_token / row.bytes_per_token,
            row.flops_per_token * row.tokens_per_second,
        )
        for model in report.models
        for row in model.rows
    ]
    bandwidth, peak = report.machine.read_bytes_per_second, report.machine.flops_per_second
    plot = _Plot(points, peak / bandwidth, peak)
    names = ", ".join(model.name for model in report.models)
    doubted = dict.fromkeys(doubt for model in report.models for doubt in model.doubts)  # above the slope, where no point can be
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img">',
        f"<title>{escape(f'{names} on {report.headline}')}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<rect class="ground" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}" rx="8"/>',
        _text(_LEFT, 26, f"{names}: percent of what this machine allows", "title"),
        _text(_LEFT, 45, report.headline, "quiet"),
        *_axes(plot),
        *(_text(_LEFT + 10, _TOP + 20 + 17 * i, f"Not to be trusted: {doubt}", "doubt") for i, doubt in enumerate(doubted)),
        *_roofs(plot, bandwidth, peak),
        *_points(plot, points, _roof_boxes(plot, bandwidth, peak)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _axes(plot: _Plot) -> Iterator[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for decade in _decades(*plot.x):
        x, _ = plot.at(decade, plot.y[0])
        yield f'<line class="grid" x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}"/>'
        yield _text(x, bottom + 18, f"{decade:,.0f}" if decade >= 1 else f"{decade:g}", "quiet", "middle")
    for decade in _decades(*plot.y):
        _, y = plot.at(plot.x[0], decade)
        yield f'<line class="grid" x1="{_LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>'
        yield _text(_LEFT - 8, y + 4, scaled(decade, "").replace(".00", "").replace(".0", ""), "quiet", "end")
    yield _text((_LEFT + right) / 2, _HEIGHT - 14, "floating-point operations per byte that must be read", "quiet", "middle")
    middle = (_TOP + bottom) / 2
    turn = f' transform="rotate(-90 20 {middle})"'
    yield _text(20, middle, "floating-point operations per second", "quiet", "middle", turn)


def _roofs(plot: _Plot, bandwidth: float, peak: float) -> Iterator[str]:
    ridge = peak / bandwidth
    start = max(plot.x[0], plot.y[0] / bandwidth)
    (x0, y0), (x1, y1), (x2, _) = plot.at(start, start * bandwidth), plot.at(ridge, peak), plot.at(plot.x[1], peak)
    yield f'<polyline class="roof" points="{x0:.1f},{y0:.1f} {x1:.1f},{y1:.1f} {x2:.1f},{y1:.1f}"/>'
    angle = math.degrees(math.atan2(y1 - y0, x1 - x0))
    # Where it lies above every point that is near the slope: half way up.
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    turn = f' transform="rotate({angle:.1f} {x:.1f} {y:.1f})"'
    yield _text(x, y - 8, f"memory {scaled(bandwidth, 'B/s')}", "", "middle", turn)
    yield _text(x2, y1 - 8, f"arithmetic {scaled(peak, 'FLOP/s')}", "", "end")


def _roof_boxes(plot: _Plot, bandwidth: float, peak: float) -> list[_Box]:
    """The roofs as many small boxes, so that no label crosses them."""
    low, high = plot.x
    places = [plot.at(at, min(at * bandwidth, peak)) for at in (low * (high / low) ** (i / 200) for i in range(201))]
    return [_Box(x - 3, y - 3, x + 3, y + 3) for x, y in places]


def _points(plot: _Plot, points: list[_Point], roof: list[_Box]) -> Iterator[str]:
    places = [plot.at(point.intensity, point.rate) for point in points]
    taken = roof + [_Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in places]
    labels = []
    for point, (x, y) in zip(points, places, strict=True):
        box = min(_candidates(x, y, len(point.label) * _LETTER), key=lambda box: _cost(box, x, y, taken))
        taken.append(box)
        labels.append(_text(box.left, box.bottom - 3, point.label))
        near_x, near_y = box.nearest(x, y)
        if math.hypot(near_x - x, near_y - y) > _GAP + 1:
            yield f'<line class="lead" x1="{x:.1f}" y1="{y:.1f}" x2="{near_x:.1f}" y2="{near_y:.1f}"/>'
    for point, (x, y) in zip(points, places, strict=True):
        yield f'<circle class="{point.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}"/>'
    yield from labels


def _candidates(x: float, y: float, width: float) -> Iterator[_Box]:
    """Places for a label of this width: right or left of its point, then up and down from there, nearer and farther."""
    for step in range(12):
        for down in (step, -step):
            for gap in (_GAP, 3 * _GAP):
                top = y - _LINE / 2 + down * _LINE * 0.6
                yield _Box(x + gap, top, x + gap + width, top + _LINE)
                yield _Box(x - gap - width, top, x - gap, top + _LINE)


def _cost(box: _Box, x: float, y: float, taken: list[_Box]) -> float:
    """Nothing should be covered; then near is better than far, and right of the point a little better than left."""
    outside = box.left < _LEFT + 2 or box.right > _WIDTH - _RIGHT or box.top < _TOP or box.bottom > _HEIGHT - _BOTTOM
    near_x, near_y = box.nearest(x, y)
    distance = math.hypot(near_x - x, near_y - y) + (4 if box.right < x else 0)
    return 1e6 * outside + 1e2 * sum(box.overlap(other) for other in taken) + distance


def _text(x: float, y: float, text: str, style: str = "", anchor: str = "start", more: str = "") -> str:
    kind = f' class="{style}"' if style else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _share(value: float, low: float, high: float) -> float:
    return math.log(value / low) / math.log(high / low)


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
