"""What a search found, for people: a table, the configuration that makes it again, and a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html import escape
from typing import Any

from qguard.tuning.measured import Measured
from qguard.tuning.search import Tuned

NAME = "tuned"
_WIDE, _HIGH, _LEFT, _BELOW = 760, 420, 70, 50


def table(found: Tuned) -> Any:
    """The candidates as a table of rich, the fastest first."""
    from rich.table import Table

    rows = sorted(found.candidates, key=lambda m: (bool(m.error), -m.overall))
    metric = next((m.accuracy[0] for m in rows if m.values), "accuracy")
    out = Table("", "candidate")
    for head in (metric, "speed", "MB", "s"):
        out.add_column(head, justify="right")
    out.add_column("gates")
    chosen = found.chosen[1].key if found.chosen else None
    for m in rows:
        if m.error:
            out.add_row("", m.words, "", "", "", f"{m.seconds:.0f}", m.error)
            continue
        gates = "hold" if m.holds else f"{m.failed[0]}" + (f" (+{len(m.failed) - 1})" if len(m.failed) > 1 else "")
        speed = f"{m.overall:.2f}{'?' if m.busy else ''}"
        mark = "*" if m.key == chosen else ""
        out.add_row(mark, m.words, f"{m.accuracy[1]:.4f}", speed, f"{m.bytes / 1e6:.1f}", f"{m.seconds:.0f}", gates)
    return out


def configuration(chosen: Measured) -> str:
    """TOML that makes the chosen artifact again: a precision of the project's own, or the name of a built-in one."""
    settings = dict(chosen.settings)
    if set(settings) == {"recipe"}:
        recipe = settings["recipe"]
        return f"# built in: pytest --precision {recipe}\n[tool.qguard.precision.{NAME}]\nrecipe = {json.dumps(recipe)}\n"
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]
    return "\n".join([f"[tool.qguard.precision.{NAME}]", *lines, ""])


def front(candidates: Iterable[Measured]) -> list[Measured]:
    """Those that no other beats in both speed and accuracy, the slowest first."""
    known = [m for m in candidates if not m.error and m.overall and not math.isnan(m.accuracy[1])]
    best = [
        m
        for m in known
        if not any(
            o.overall >= m.overall and o.accuracy[1] >= m.accuracy[1] and (o.overall, o.accuracy[1]) != (m.overall, m.accuracy[1])
            for o in known
        )
    ]
    return sorted(best, key=lambda m: m.overall)


def picture(found: Tuned) -> str:
    """Speed against accuracy as SVG: full dots hold the gates, the line is the Pareto front, the ring is what was chosen."""
    known = [m for m in found.candidates if not m.error and m.overall and not math.isnan(m.accuracy[1])]
    if not known:
        return _svg([_text(_WIDE / 2, _HIGH / 2, "nothing could be measured", "middle")])
    xs, ys = [m.overall for m in known], [m.accuracy[1] for m in known]
    x_at, y_at = _scale(xs, _LEFT, _WIDE - 20), _scale(ys, _HIGH - _BELOW, 20)
    parts = [
        f'<line x1="{_LEFT}" y1="{_HIGH - _BELOW}" x2="{_WIDE - 20}" y2="{_HIGH - _BELOW}" stroke="#888"/>',
        f'<line x1="{_LEFT}" y1="20" x2="{_LEFT}" y2="{_HIGH - _BELOW}" stroke="#888"/>',
        _text(_WIDE / 2, _HIGH - 12, "speed, fp32 in ONNX Runtime = 1", "middle"),
        _text(_LEFT, 14, known[0].accuracy[0], "start"),
    ]
    for value in _ticks(xs):
        parts.append(_text(x_at(value), _HIGH - _BELOW + 18, f"{value:.3g}", "middle"))
    for value in _ticks(ys):
        parts.append(_text(_LEFT - 6, y_at(value) + 4, f"{value:.4g}", "end"))
    points = " ".join(f"{x_at(m.overall):.1f},{y_at(m.accuracy[1]):.1f}" for m in front(known))
    parts.append(f'<polyline points="{points}" fill="none" stroke="#4c72b0"/>')
    chosen = found.chosen[1].key if found.chosen else None
    for m in known:
        x, y = x_at(m.overall), y_at(m.accuracy[1])
        fill = "#2a9d3a" if m.holds else "none"
        title = f"{m.words}: {m.overall:.2f} x, {m.accuracy[1]:.4f}, {m.bytes / 1e6:.1f} MB"
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{"#2a9d3a" if m.holds else "#c44e52"}"><title>'
        parts.append(f"{dot}{escape(title)}</title></circle>")
        if m.key == chosen:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" fill="none" stroke="#222"/>')
            parts.append(_text(x, y - 14, m.words, "middle"))
    return _svg(parts)


def _scale(values: list[float], start: float, end: float) -> Any:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or max(abs(high), 1e-9) * 0.06
    low, high = low - margin, high + margin
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _ticks(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [low + (high - low) * i / 4 for i in range(5)] if high > low else [low]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(parts: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_HIGH}" font-family="sans-serif" font-size="12">'
    return "\n".join([head, f'<rect width="{_WIDE}" height="{_HIGH}" fill="white"/>', *parts, "</svg>", ""])
