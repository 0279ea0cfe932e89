"""The HTML report's charts: SVG without a script, in the colors of the page, described for readers who cannot see them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

WIDTH, HEIGHT = 360, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 12, 38


@dataclass(frozen=True)
class Axis:
    """A scale from values to the pixels between ``start`` and ``end``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        a, b, v = (math.log(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (v - a) / (b - a) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round numbers within the scale, about ``count`` of them."""
        step = _nice((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 10) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _nice(rough: float) -> float:
    power = float(10 ** math.floor(math.log10(rough)))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)


def spread(values: Iterable[float], least: float = 0.02) -> tuple[float, float]:
    """The range of values with a little room on both sides."""
    found = list(values)
    low, high = min(found), max(found)
    room = max((high - low) * 0.06, least / 2 if high - low < least else 0)
    return low - room, high + room


def scatter(chart: str, fp32: Sequence[float], candidate: Sequence[float], marked: int = 0) -> Markup:
    """Similarities of pairs in fp32 against the candidate's; those on the diagonal did not move.

    Args:
        chart: An id of its own within the page.
        fp32: Of n pairs.
        candidate: The same.
        marked: How many, from the first, are drawn in the color of failures.
    """
    x, y = _axes(spread(fp32), spread(candidate))
    low, high = max(x.low, y.low), min(x.high, y.high)
    diagonal = _line("guide", x(low), y(low), x(high), y(high)) if low < high else Markup("")
    at = [(x(a), y(b)) for a, b in zip(fp32, candidate, strict=True)]
    body = diagonal + _dots("dots", at[marked:]) + _dots("dots marked", at[:marked])
    most = max((abs(a - b) for a, b in zip(fp32, candidate, strict=True)), default=0.0)
    words = f"{len(fp32)} pairs; the largest move is {most:.3f}. Pairs on the diagonal did not move."
    return _svg(chart, "Similarity of pairs, fp32 against the candidate", words, body + _frame(x, y, "fp32", "candidate"))


def histogram(chart: str, edges: Sequence[float], counts: Sequence[int], marks: Mapping[str, float]) -> Markup:
    """How far texts moved: cosines to fp32 in steps of the logarithm of their distance from 1, the worst on the left.

    Args:
        chart: An id of its own within the page.
        edges: Distances 1 - cosine, rising, one more than counts.
        counts: Texts between two edges.
        marks: Cosines to be marked by a line, by name.
    """
    floor = max(edges[0], 1e-9)
    x = Axis(max(edges[-1], floor * 1.01), floor, LEFT, WIDTH - RIGHT, log=True)
    y = Axis(0, max(1, *counts) * 1.08, HEIGHT - BOTTOM, TOP)
    bars = Markup("").join(
        Markup('<rect class="bar" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>').format(
            x(max(right, floor)), y(n), max(0.5, x(max(left, floor)) - x(max(right, floor)) - 0.6), y(0) - y(n)
        )
        for left, right, n in zip(edges, edges[1:], counts, strict=False)
        if n
    )
    lines = Markup("")
    for row, (name, cosine) in enumerate(marks.items()):
        if floor <= 1 - cosine <= edges[-1]:
            at = x(1 - cosine)
            anchor = "end" if at > WIDTH * 0.6 else "start"
            lines += _line("gate", at, y(0), at, TOP + 8 + 12 * row)
            lines += _text(at + (-4 if anchor == "end" else 4), TOP + 12 + 12 * row, name, anchor)
    decades = [10.0**k for k in range(-9, 1) if floor <= 10.0**k <= edges[-1]]
    at_ticks = decades if len(decades) > 1 else [edges[-1], math.sqrt(edges[-1] * floor), floor]
    labels = Markup("").join(
        _text(min(x(d), WIDTH - RIGHT + 12), HEIGHT - BOTTOM + 15, _cosine(d), "end" if x(d) > WIDTH - 30 else "middle")
        for d in at_ticks
    )
    words = f"{sum(counts)} texts, cosines from {_cosine(edges[-1])} to {_cosine(floor)}."
    body = _frame(None, y, "cosine to fp32 (even steps of log(1 - cosine))", "texts") + bars + lines + labels
    return _svg(chart, "Distribution of cosines to fp32", words, body)


def _cosine(distance: float) -> str:
    digits = max(2, math.ceil(-math.log10(distance) - 1e-9) + (0 if math.log10(distance) % 1 < 1e-9 else 1))
    return f"{1 - distance:.{min(digits, 8)}f}"


def trials(chart: str, rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Ratios of times: each pair of blocks, the median, its interval, and the bound.

    Args:
        chart: An id of its own within the page.
        rows: ``label ratio interval ratios bound outcome``; an end of the interval may be ``None``, so may the bound.
    """
    values = [v for r in rows for v in (r["ratio"], r["bound"], *r["interval"], *r["ratios"], 1.0) if v and v > 0]
    x = Axis(min(values) / 1.05, max(values) * 1.05, 96, WIDTH - RIGHT, log=True)
    step, height = 26, TOP + 26 * len(rows) + BOTTOM
    body = _line("guide", x(1), TOP, x(1), height - BOTTOM)
    for i, r in enumerate(rows):
        at = TOP + step * (i + 0.5)
        low, high = (r["interval"][0] or x.low), (r["interval"][1] or x.high)
        body += _text(88, at + 4, r["label"], "end") + _dots("dots", [(x(v), at) for v in r["ratios"] if v > 0])
        body += _line("whisker", x(max(low, x.low)), at, x(min(high, x.high)), at)
        if r["bound"]:
            body += _line("gate", x(r["bound"]), at - 10, x(r["bound"]), at + 10)
        kind = "point bad" if r["outcome"] == "fail" else "point"
        body += Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(kind, x(r["ratio"]), at)
    ticks = [t for t in Axis(x.low, x.high, 0, 1).ticks(5) if t > 0]
    body += Markup("").join(_text(x(t), height - BOTTOM + 15, f"{t:g}", "middle") for t in ticks)
    body += _text((96 + WIDTH) / 2, height - 6, "ratio of times (log scale)", "middle", "axis")
    words = "; ".join(f"{r['label']}: {r['ratio']:.2f}" for r in rows)
    return _svg(chart, "Latency: ratios of paired runs with 95 % intervals and gates", words, body, height)


def tradeoff(chart: str, points: Sequence[Mapping[str, Any]], x_name: str, y_name: str) -> Markup:
    """Accuracy against a cost: one point a precision.

    Args:
        chart: An id of its own within the page.
        points: ``name x y verdict``.
        x_name: The cost.
        y_name: The metric.
    """
    x, y = _axes(spread([p["x"] for p in points], 0.2), spread([p["y"] for p in points]))
    body = Markup("")
    taken: list[tuple[float, float]] = []
    for p in sorted(points, key=lambda p: -p["y"]):
        px, py = x(p["x"]), y(p["y"])
        bad = p["verdict"] != "pass"
        mark = '<path class="point bad" d="M{0:.1f},{1:.1f} m-4,-4 l8,8 m0,-8 l-8,8"/>' if bad else (
            '<circle class="point" cx="{0:.1f}" cy="{1:.1f}" r="4.5"/>'
        )  # fmt: skip
        body += Markup(mark).format(px, py)
        end = px > WIDTH * 0.62
        ty = py + 4
        while any(abs(ty - b) < 11 and abs(px - a) < 110 for a, b in taken):
            ty += 11
        taken.append((px, ty))
        body += _text(px + (-8 if end else 8), ty, p["name"], "end" if end else "start")
    words = "; ".join(f"{p['name']}: {x_name} {p['x']:.3g}, {y_name} {p['y']:.4f}, {p['verdict']}" for p in points)
    return _svg(chart, f"{y_name} against {x_name}", words, body + _frame(x, y, x_name, y_name))


def over_time(
    chart: str, traces: Sequence[Sequence[Mapping[str, Any]]], marks: Mapping[int, str], steps: int, name: str
) -> Markup:
    """A value over the steps of a history, with its interval, gate and accepted score at each.

    Args:
        chart: An id of its own within the page.
        traces: Points that can be compared with each other, each ``step value interval limits accepted bad``; an end of the
            interval may be ``None``, so may the interval and the accepted score.
        marks: Steps at which it changed, each with a word.
        steps: How many there are in all.
        name: Of the value.
    """
    points = [p for trace in traces for p in trace]
    near = [v for p in points for v in (p["value"], *(p["interval"] or ())) if v is not None]
    low, high = spread(near, 1e-4)
    # a gate that is far away would press all values into one line; the caption says it
    lines = [(p["step"], v) for p in points for v in p["limits"] if low - (high - low) * 2 <= v <= high + (high - low) * 2]
    low, high = spread([*near, *(v for _, v in lines)], 1e-4)
    x, y = Axis(0.5, steps + 0.5, LEFT + 8, WIDTH - RIGHT), Axis(low, high, HEIGHT - BOTTOM, TOP)
    half = (x(2) - x(1)) / 2
    body = Markup("")
    for step, word in marks.items():
        at = x(step + 1) - half
        body += _line("guide", at, TOP, at, HEIGHT - BOTTOM) + _text(min(at + 3, WIDTH - 60), TOP + 8, word, "start")
    for step, v in dict.fromkeys(lines):
        body += _line("gate", x(step + 1) - half, y(v), x(step + 1) + half, y(v))
    for n, trace in enumerate(traces):
        for p in trace:
            at, (a, b) = x(p["step"] + 1), p["interval"] or (None, None)
            if a is not None and b is not None:
                body += _line("span", at, y(a), at, y(b))
            if p["accepted"] is not None and low <= p["accepted"] <= high:
                body += _line("guide", at - half, y(p["accepted"]), at + half, y(p["accepted"]))
        path = "L".join(f"{x(p['step'] + 1):.1f},{y(p['value']):.1f}" for p in trace)
        body += Markup('<path class="trace t{}" d="M{}"/>').format(n % 4, path)
        for p in trace:
            kind = "point bad" if p["bad"] else "point"
            body += Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="2.6"/>').format(kind, x(p["step"] + 1), y(p["value"]))
    bottom = HEIGHT - BOTTOM
    ticks = [t for t in Axis(1, max(steps, 2), 0, 1).ticks(6) if t == int(t) and 1 <= t <= steps]
    body += Markup("").join(_text(x(t), bottom + 15, f"{t:g}", "middle") for t in ticks)
    first, last = points[0], max(points, key=lambda p: p["step"])
    words = f"{len(points)} values over {steps} steps, from {first['value']:.4f} to {last['value']:.4f}."
    if marks:
        words += " Changes: " + ", ".join(f"{word} at step {step + 1}" for step, word in marks.items()) + "."
    return _svg(chart, f"{name} over the steps", words, _frame(None, y, "step", "") + body)


def _axes(x: tuple[float, float], y: tuple[float, float]) -> tuple[Axis, Axis]:
    return Axis(*x, LEFT, WIDTH - RIGHT), Axis(*y, HEIGHT - BOTTOM, TOP)


def _frame(x: Axis | None, y: Axis, x_name: str, y_name: str) -> Markup:
    """Both axes with their names, and the ticks of those that are linear."""
    bottom = HEIGHT - BOTTOM
    out = _line("axis", LEFT, bottom, WIDTH - RIGHT, bottom) + _line("axis", LEFT, TOP, LEFT, bottom)
    for t in y.ticks(4):
        out += _text(LEFT - 6, y(t) + 4, f"{t:g}", "end") + _line("grid", LEFT, y(t), WIDTH - RIGHT, y(t))
    if x is not None:
        out += Markup("").join(_text(x(t), bottom + 15, f"{t:g}", "middle") for t in x.ticks(5))
    out += _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_name, "middle", "axis")
    upright = '<text class="axis" transform="translate(11,{:.0f}) rotate(-90)" text-anchor="middle">{}</text>'
    return out + Markup(upright).format((TOP + bottom) / 2, y_name)


def _dots(kind: str, points: Iterable[tuple[float, float]]) -> Markup:
    """Many points as one path: each is a stroke of no length with round ends."""
    path = "".join(f"M{x:.1f},{y:.1f}h0" for x, y in points)
    return Markup('<path class="{}" d="{}"/>').format(kind, path) if path else Markup("")


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<path class="{}" d="M{:.1f},{:.1f}L{:.1f},{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(kind, x, y, anchor, text)


def _svg(chart: str, title: str, words: str, body: Markup, height: int = HEIGHT) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {0} {1}" role="img" aria-labelledby="{2}-t {2}-d"><title id="{2}-t">{3}</title><desc id="{2}-d">{4}'
        "</desc>{5}</svg>"
    ).format(WIDTH, height, chart, title, words, body)
