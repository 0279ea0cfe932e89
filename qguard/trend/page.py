"""A history for people: one file that opens offline, made as the report's page is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qguard.families import FAMILIES
from qguard.report import charts
from qguard.report.as_html import number, page_environment, page_parts
from qguard.report.headline import ORDER
from qguard.trend.changes import Judged
from qguard.trend.history import FELL, HOLDS, History, Target, explanations, grouped, kind, told, unsteady
from qguard.trend.series import UNKNOWN, Context, Name, Point, family
from qguard.version import __version__

TEMPLATES = Path(__file__).parent / "html"
DRAWN = 60  # charts of slices of one target, those that changed most
_TONES = {FELL: ("fail", "✗ Fell"), HOLDS: ("pass", "✓ Holds")}


def render(h: History) -> bytes:
    """The page, UTF-8. Texts are escaped, and the page's policy runs no script but its own and loads nothing."""
    parts, hashes = page_parts()
    tone, heading = _TONES.get(h.verdict, ("unmeasured", "? Not judged"))
    lasting = {id(c) for c in h.falls}
    found = [
        {
            "step": c.line.points[c.last].step + 1, "kind": kind(c), "words": told(h, c), "more": more,
            "bad": id(c) in lasting,
        }
        for c, more in grouped(h, [c for j in h.judged for c in j.changes])
    ]  # fmt: skip
    explained = [words.removeprefix("explained: ") for words in explanations(h)]
    several = len(h.newest) > 1
    steps = [
        {
            "name": s.name, "created": s.created, "commit": s.commit, "subject": s.subject, "qguard": s.report["qguard"],
            "verdict": s.report["verdict"], "differs": _differs(h, i, several),
        }
        for i, s in enumerate(h.steps)
    ]  # fmt: skip
    unjudged = [f"{_name(t)}: {why}" for t, why in h.unjudged.items()]
    unjudged += ["the newest version could not be read"] * h.past.newest_unread
    unjudged += ["the newest report is empty"] * (not h.steps[-1].report["runs"])
    by: dict[Target, dict[Name, list[Judged]]] = {}
    for j in h.judged:
        by.setdefault(j.line.name.target, {}).setdefault(j.line.name, []).append(j)
    targets = [_target(h, i, target, mine) for i, (target, mine) in enumerate(by.items())]
    page = page_environment(TEMPLATES).get_template("history.html.j2")
    text = page.render(
        parts=parts, hashes=hashes, verdict=h.verdict, tone=tone, heading=heading, order=h.past.order, steps=steps,
        falls=[told(h, c) for c in h.falls], unjudged=unjudged, unread=h.past.unread, changes=found, explained=explained,
        unsteady=unsteady(h),
        targets=targets, qguard=__version__,
    )  # fmt: skip
    return str(text).encode()


def _name(target: Target) -> str:
    return " · ".join(target)


def _differs(h: History, step: int, several: bool) -> list[str]:
    """What differs at a step, once, with the targets that it is of where not all of them share it."""
    words: dict[str, list[str]] = {}
    for target, mine in h.differs[step].items():
        for w in mine:
            words.setdefault(w, []).append(_name(target))
    every = len(h.differs[step])
    return [w if not several or len(of) == every else f"{w} ({', '.join(of)})" for w, of in words.items()]


def _target(h: History, index: int, target: Target, found: dict[Name, list[Judged]]) -> dict[str, Any]:
    names = sorted(found, key=lambda n: (bool(n.slice) and not _bucketed(n), _order(n), n.metric, n.slice or ""))
    changed = {
        n: max((abs(c.size) / (c.noise or abs(c.size) or 1) for j in found[n] for c in j.changes), default=0) for n in names
    }
    whole = [n for n in names if n.slice is None or _bucketed(n)]
    slices = sorted((n for n in names if n not in whole and changed[n]), key=lambda n: -changed[n])
    drawn = [*whole, *slices[:DRAWN]]
    return {
        "key": f"target-{index}", "name": _name(target), "changed": sum(bool(v) for v in changed.values()),
        "charts": [_chart(h, f"target-{index}-{k}", n, found[n]) for k, n in enumerate(drawn)],
        "left_out": len(slices[DRAWN:]), "rows": [_row(h, n, found[n]) for n in names],
    }  # fmt: skip


def _bucketed(name: Name) -> bool:
    """Of times a slice is a length and a batch, and there is no value of all."""
    known = FAMILIES.get(family(name.metric))
    return known is not None and "process" in known.needs


def _order(name: Name) -> int:
    mine = family(name.metric)
    return ORDER.index(mine) if mine in ORDER else len(ORDER)


def _chart(h: History, key: str, name: Name, found: Sequence[Judged]) -> dict[str, Any]:
    traces = [
        [
            {
                "step": p.step, "value": p.value, "interval": p.interval, "limits": p.limits, "bad": p.outcome == "fail",
                "accepted": p.accepted and p.accepted[1],
            }
            for p in j.line.points
        ]
        for j in found
    ]  # fmt: skip
    changes = [c for j in found for c in j.changes]
    marks = {c.line.points[c.first].step: kind(c) for c in changes}
    points = sorted((p for j in found for p in j.line.points), key=lambda p: p.step)
    rows = [
        {
            "step": p.step, "value": p.value, "interval": _ends(p), "gate": _gate(p), "outcome": p.outcome,
            "context": _context(p.context),
        }
        for p in points
    ]  # fmt: skip
    words = "; ".join(told(h, c, target=False) for c in changes)
    gate = points[-1].bounds
    return {
        "svg": charts.over_time(key, traces, marks, len(h.steps), name.label), "label": name.label, "points": rows,
        "words": (f"gate {', '.join(gate)}. " if gate else "") + (words or _nothing(found)),
    }  # fmt: skip


def _nothing(found: Sequence[Judged]) -> str:
    return "No change." if any(j.long_enough for j in found) else "Too few values to judge."


def _ends(p: Point) -> str:
    a, b = p.interval or (None, None)
    return "" if a is None and b is None else f"{number(a)} to {number(b)}"


def _gate(p: Point) -> str:
    return "; ".join([*p.bounds, *([p.accepted[0]] if p.accepted else [])])


def _context(c: Context) -> str:
    named = (("suite", c.suite), ("weights", c.weights), ("golden", c.golden))
    words = [c.host, *(f"{what} {value[:8]}" for what, value in named if value != UNKNOWN)]
    return ", ".join([*words, f"{c.items} items"] if c.items is not None else words)


def _row(h: History, name: Name, found: Sequence[Judged]) -> dict[str, Any]:
    values: dict[int, list[str]] = {}
    last = max((p for j in found for p in j.line.points), key=lambda p: p.step)
    for p in sorted((p for j in found for p in j.line.points), key=lambda p: p.step):
        values.setdefault(p.step, []).append(number(p.value))
    moved = {c.line.points[c.first].step for j in found for c in j.changes}
    outcome = "fail" if moved else "pass" if last.bounds or last.accepted else "reported"
    cells = [{"text": " / ".join(values.get(i, [])), "moved": i in moved} for i in range(len(h.steps))]
    return {
        "label": name.label, "slice": "" if _bucketed(name) else name.slice or "", "gate": ", ".join(last.bounds),
        "outcome": outcome, "cells": cells,
    }  # fmt: skip
