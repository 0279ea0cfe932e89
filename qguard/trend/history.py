"""A history: what was measured at every step, what changed between two steps, and which changes say something of the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qguard.errors import UsageProblem
from qguard.report.headline import bound_of, name_of
from qguard.trend.changes import ALPHA, FEWEST, SLOW, SURE, Change, Judged, judge
from qguard.trend.series import PROVEN, UNKNOWN, Line, family, host_of, least, lines, machine_of, made, reference_of, series
from qguard.trend.source import Past, Step
from qguard.version import __version__

SCHEMA = 1
Target = tuple[str, str, str]  # precision, model, suite
HOLDS, FELL, UNJUDGED = "holds", "fell", "not judged"
_REFERENCE = ("suite", "weights", "golden")


@dataclass(frozen=True)
class Explained:
    """A step at which a target's values cannot be compared with those before.

    Attributes:
        step: Index of the report.
        target: Precision, model and suite.
        reasons: What differs: the host, the suite, the weights or the golden.
        moved: How many values differ by more than rounding from those of the step before.
        of: How many both steps have.
    """

    step: int
    target: Target
    reasons: tuple[str, ...]
    moved: int
    of: int


@dataclass(frozen=True)
class Newest:
    """The newest report of a target.

    Attributes:
        step: Its index.
        reference: Its suite, weights and golden.
        pause: The most steps between two reports of the target; 0 if there is one.
        lost: Metric families that the report before measured and that this one does not have, though nobody left them out.
    """

    step: int
    reference: tuple[str, str, str]
    pause: int = 0
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class History:
    """All that is known of reports over time.

    Attributes:
        past: The reports.
        judged: Every line, with its changes.
        differs: Of each step, and each target in it: what differs from the target's report before, in words.
        explained: Steps that another host, suite, golden or other weights explain.
        newest: Target → what is known of its newest report.
    """

    past: Past
    judged: tuple[Judged, ...]
    differs: tuple[Mapping[Target, tuple[str, ...]], ...]
    explained: tuple[Explained, ...]
    newest: Mapping[Target, Newest]

    @property
    def steps(self) -> tuple[Step, ...]:
        """The reports."""
        return self.past.steps

    @property
    def falls(self) -> list[Change]:
        """What the gate fails on: lasting changes for the worse of what is still judged, the largest first."""
        found = [c for j in self.judged if self._is_current(j.line) for c in j.lasting]
        return sorted(found, key=lambda c: -abs(c.size) / (c.noise or math.inf))

    @property
    def unjudged(self) -> dict[Target, str]:
        """The targets of which nothing can be said now, each with the reason."""
        out = {}
        for target in filter(self.still, self.newest):
            mine = [j for j in self.judged if j.line.name.target == target and self._is_current(j.line)]
            if not any(j.long_enough for j in mine):
                longest = max((len(j.line.points) for j in mine), default=0)
                out[target] = (
                    f"{longest} report{'s' if longest != 1 else ''} can be compared: expected at least {FEWEST}, or "
                    f"{PROVEN + 1} of which {PROVEN} repeat the one before"
                )
            elif lost := self.newest[target].lost:
                out[target] = f"its newest report has no value of {', '.join(lost)}"
        return out

    @property
    def verdict(self) -> str:
        """``fell``, ``not judged`` or ``holds``; none holds if something that is judged now could not be."""
        if self.falls:
            return FELL
        return UNJUDGED if self.unjudged or self.past.newest_unread or not self.steps[-1].report["runs"] else HOLDS

    def still(self, target: Target) -> bool:
        """Whether a target is still judged: its last report is no longer ago than it ever paused, as where each has a file."""
        newest = self.newest[target]
        return len(self.steps) - 1 - newest.step <= newest.pause

    def _is_current(self, line: Line) -> bool:
        target = line.name.target
        return self.still(target) and line.context.reference == self.newest[target].reference


def history(past: Past, since: str = "") -> History:
    """The history of reports.

    Args:
        past: The reports.
        since: The name of the first report to look at, or how its commit begins; all of them by default.

    Raises:
        UsageProblem: if no report is called so.
    """
    if since:
        past = _since(past, since)
    found = series(past.steps)
    judged = judge(lines(past.steps, found))
    differs: list[dict[Target, tuple[str, ...]]] = []
    explained: list[Explained] = []
    newest: dict[Target, Newest] = {}
    before: dict[Target, Mapping[str, Any]] = {}
    version: dict[Target, str] = {}
    for i, step in enumerate(past.steps):
        mine: dict[Target, tuple[str, ...]] = {}
        for run in step.report["runs"]:
            target = name_of(run), run["model"], run["suite"]
            if target in mine:
                continue
            if (old := before.get(target)) is None:
                mine[target] = ("first report of it",) if i else ()
            else:
                others = _others(old, run)
                if others:
                    explained.append(Explained(i, target, tuple(others), *_moved(old, run)))
                qguard = (version[target], step.report["qguard"])
                mine[target] = (*others, *_versions(old, run, *qguard), *_gates(old, run), *_families(old, run))
            last = newest.get(target)
            pause = max(last.pause, i - last.step) if last else 0
            newest[target] = Newest(i, reference_of(run), pause, _lost(old, run) if old else ())
            before[target], version[target] = run, step.report["qguard"]
        differs.append(mine)
    return History(past, tuple(judged), tuple(differs), tuple(explained), newest)


def _since(past: Past, since: str) -> Past:
    at = [i for i, s in enumerate(past.steps) if s.name == since or (len(since) > 3 and s.commit.startswith(since))]
    if not at:
        names = f"{past.steps[0].name} … {past.steps[-1].name}"
        raise UsageProblem(f"--since {since}: expected the name or the commit of one of {len(past.steps)} reports: {names}")
    return Past(past.steps[at[0] :], past.order, past.unread, past.newest_unread)


def _others(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What makes two reports incomparable."""
    found = []
    told_by = host_of if old["host"] and new["host"] else machine_of
    if (a := told_by(old)) != (b := told_by(new)):
        found.append(f"host {a} → {b}")
    was, now = reference_of(old), reference_of(new)
    found += [f"{what} {_short(a)} → {_short(b)}" for what, a, b in zip(_REFERENCE, was, now, strict=True) if a != b]
    return found


def _short(digits: str) -> str:
    return digits if digits == UNKNOWN else digits[:8]


def _versions(old: Mapping[str, Any], new: Mapping[str, Any], was: str, now: str) -> list[str]:
    """The artifact, and the versions that both have recorded."""
    a, b = {**made(old), "qguard": was}, {**made(new), "qguard": now}
    if {"artifact", "qguard"} >= min((set(a), set(b)), key=len):  # one of them did not record versions
        a, b = ({k: v for k, v in x.items() if k in a and k in b} for x in (a, b))
    return differing(a, b)


def differing(a: Mapping[str, str], b: Mapping[str, str]) -> list[str]:
    """``NAME OLD → NEW`` for each entry that differs."""
    return [f"{k} {a.get(k, 'none')} → {b.get(k, 'none')}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def _gates(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    def bounds(run: Mapping[str, Any]) -> dict[tuple[str, str | None], str]:
        return {(c["name"], c["slice"]): str(bound_of(c)) for c in run["checks"] if c["bound"] and not c["accepted"]}

    a, b = bounds(old), bounds(new)
    changed = [(k, a[k], b[k]) for k in a if k in b and a[k] != b[k]]
    words = [f"gate of {name}{f'[{part}]' if part else ''} {x} → {y}" for (name, part), x, y in changed[:3]]
    return [*words, f"{len(changed) - 3} more gates"] if len(changed) > 3 else words


def _families(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    lost, gained = sorted(_measured(old) - _measured(new)), sorted(_measured(new) - _measured(old))
    return [f"no longer measured: {', '.join(lost)}"] * bool(lost) + [f"newly measured: {', '.join(gained)}"] * bool(gained)


def _lost(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(_measured(old) - _measured(new) - set(new["left_out"])))


def _measured(run: Mapping[str, Any]) -> set[str]:
    return {family(c["name"]) for c in run["checks"]}


def _moved(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[int, int]:
    a, b = ({(c["name"], c["slice"]): c for c in run["checks"] if not c["accepted"]} for run in (old, new))
    both = [(a[k]["value"], b[k]["value"], b[k]["items"]) for k in a if k in b]
    return sum(abs(x - y) > least((x, y), n) for x, y, n in both), len(both)


def at(h: History, index: int) -> str:
    """A step in words: its number, from 1, and its name."""
    step = h.steps[index]
    return f"step {index + 1} ({step.name})"


def told(h: History, change: Change, target: bool = True) -> str:
    """A change in one sentence."""
    line, points = change.line, change.line.points
    verb = "changed" if change.worse is None else ("fell" if change.size < 0 else "rose")
    where = f" of {' · '.join(line.name.target)}" if target else ""
    size = f"{change.size:+.2g} ± {change.error:.2g}" if not line.relative else f"{math.expm1(change.size):+.1%}"
    sure = ", for sure" if change.kind == SURE else f", p {change.p:.1g}"
    noise = "" if change.noise is None or line.relative else f"; other texts like these: ±{change.noise:.2g}"
    first, last = points[change.first].step, points[change.last].step
    if change.kind == SLOW:
        begun = points[change.first - 1].step
        single = f"{math.expm1(change.largest):.1%}" if line.relative else f"{change.largest:.2g}"
        place = f"slowly from {at(h, begun)} to {at(h, last)}, by at most {single} at one step"
    else:
        place = f"at {at(h, first)}"
        if change.earliest != change.latest:
            place += f", at the earliest {points[change.earliest].step + 1} and at the latest {points[change.latest].step + 1}"
    words = f"{line.name.label}{where} {verb} {place}: {change.before:.4f} → {change.after:.4f} ({size}{sure}{noise})"
    why = causes(h, change)
    return f"{words}; {', '.join(why)}" if why else words


def causes(h: History, change: Change) -> list[str]:
    """What was recorded to differ at the step of a change; nothing of a slow one."""
    if change.kind == SLOW:
        return []
    a, b = (change.line.points[i].step for i in (change.first - 1, change.first))
    old, new = (_run(h.steps[i], change.line) for i in (a, b))
    if old is None or new is None:
        return []
    return _versions(old, new, h.steps[a].report["qguard"], h.steps[b].report["qguard"]) or ["nothing that is recorded differs"]


def _run(step: Step, line: Line) -> Mapping[str, Any] | None:
    mine = [r for r in step.report["runs"] if (name_of(r), r["model"], r["suite"]) == line.name.target]
    return next((r for r in mine if line.context.host in (machine_of(r), host_of(r))), None)


def summary(h: History) -> list[str]:
    """The history for a terminal."""
    n = len(h.steps)
    varied = sum(bool(j.changes) for j in h.judged)
    out = [
        f"{n} report{'s' if n != 1 else ''}, ordered by {h.past.order}: {h.steps[0].name} … {h.steps[-1].name}",
        f"{len(h.judged)} series, of which {sum(j.long_enough for j in h.judged)} are long enough to be judged; {varied} changed",
    ]
    out += [f"not read: {words}" for words in h.past.unread]
    out += explanations(h) + unsteady(h)
    fell = {id(c) for c in h.falls}
    for change, more in grouped(h, [c for j in h.judged for c in j.changes]):
        mark = "FAIL " if id(change) in fell else ""
        out.append(f"{mark}{kind(change)}: {told(h, change)}" + (f" (+{more} more values)" if more else ""))
    for target, newest in h.newest.items():
        if not h.still(target):
            out.append(f"no longer judged: {' · '.join(target)}, since {at(h, newest.step + 1)}")
    out += [f"{UNJUDGED}: {' · '.join(target)}: {why}" for target, why in h.unjudged.items()]
    if h.past.newest_unread:
        out.append(f"{UNJUDGED}: the newest version could not be read")
    if not h.steps[-1].report["runs"]:
        out.append(f"{UNJUDGED}: the newest report is empty")
    return out


def explanations(h: History) -> list[str]:
    """The steps that something else explains; those from one machine to another, of which a fleet has many, in one line."""
    hosts = [e for e in h.explained if len(e.reasons) == 1 and e.reasons[0].startswith("host ")]
    found = []
    for e in h.explained:
        if e not in hosts:
            words = f"{at(h, e.step)}, {' · '.join(e.target)}: {', '.join(e.reasons)}"
            found.append(f"explained: {words}; {e.moved} of {e.of} values moved with it, and are not compared")
    if hosts:
        kinds = sorted({w for e in hosts for w in e.reasons[0].removeprefix("host ").split(" → ")})
        steps = f"{len(hosts)} step{'s' if len(hosts) > 1 else ''} between {len(kinds)} kinds of machines"
        found.append(f"explained: {steps}, whose values are not compared: {'; '.join(kinds)}")
    return found


def unsteady(h: History) -> list[str]:
    """The targets of which equal files gave other values, so that no change of them is sure."""
    found = {}
    for j in h.judged:
        same, differ = j.line.repeats
        if differ:
            found[j.line.name.target, j.line.context.host] = f"at {differ} of {same + differ} repeats"
    return [
        f"not deterministic: {' · '.join(t)}: the same file and versions gave other values {w}" for (t, _), w in found.items()
    ]


def kind(change: Change) -> str:
    """A change in a word."""
    if change.worse is None:
        return "change"
    return ("slow rot" if change.kind == SLOW else "fall") if change.worse else ("slow gain" if change.kind == SLOW else "gain")


def grouped(h: History, changes: Sequence[Change]) -> list[tuple[Change, int]]:
    """Of all changes of a target at one step in one direction the one that is largest for its noise, and how many more."""
    by: dict[Any, list[Change]] = {}
    for c in changes:
        place = c.line.points[c.last if c.kind == SLOW else c.first].step
        by.setdefault((place, c.line.name.target, kind(c)), []).append(c)
    out = []
    for key in sorted(by, key=lambda k: (k[0], k[1], k[2])):
        mine = sorted(
            by[key], key=lambda c: (c.line.name.slice is not None, -abs(c.size) / (c.noise or math.inf), c.line.name.label)
        )
        out.append((mine[0], len(mine) - 1))
    return out


def to_json(h: History) -> dict[str, Any]:
    """Everything that the page shows; docs/history.md describes it."""
    steps = [
        {
            "name": s.name, "created": s.created, "commit": s.commit, "subject": s.subject, "qguard": s.report["qguard"],
            "verdict": s.report["verdict"],
            "differs": [{"target": list(t), "words": list(w)} for t, w in h.differs[i].items()],
        }
        for i, s in enumerate(h.steps)
    ]  # fmt: skip
    return {
        "schema": SCHEMA, "qguard": __version__, "verdict": h.verdict, "order": h.past.order, "alpha": ALPHA,
        "unread": list(h.past.unread), "steps": steps,
        "falls": [told(h, c) for c in h.falls],
        "unjudged": [{"target": list(t), "why": w} for t, w in h.unjudged.items()],
        "explained": [{**vars(e), "target": list(e.target), "reasons": list(e.reasons)} for e in h.explained],
        "series": [_line(h, j) for j in h.judged],
    }  # fmt: skip


def _line(h: History, judged: Judged) -> dict[str, Any]:
    line = judged.line
    points = [
        {
            "step": p.step, "value": p.value, "error": p.error, "interval": p.interval and list(p.interval), "items": p.items,
            "bounds": list(p.bounds), "accepted": p.accepted and p.accepted[0], "outcome": p.outcome,
        }
        for p in line.points
    ]  # fmt: skip
    changes = [
        {
            "kind": c.kind, "from_step": line.points[c.first - 1].step, "to_step": line.points[c.last].step, "before": c.before,
            "after": c.after, "size": c.size, "error": c.error, "noise": c.noise, "p": c.p, "worse": c.worse,
            "earliest": line.points[c.earliest].step, "latest": line.points[c.latest].step, "words": told(h, c),
        }
        for c in judged.changes
    ]  # fmt: skip
    return {
        **vars(line.name), "compared_on": vars(line.context), "sized_as": "logarithm" if line.relative else "difference",
        "deterministic": line.steady, "judged": judged.long_enough, "points": points, "changes": changes,
    }  # fmt: skip
