"""What a self-test says: the smallest damage that the gate sees, the holes in it, and the gates that would close them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from qguard.console.visible import cell
from qguard.faults import ELSEWHERE, Fault
from qguard.faults.judging import BROKEN, CAUGHT, NOT_APPLICABLE, Failure, Result
from qguard.faults.repeats import Repeat
from qguard.faults.runner import Report
from qguard.gates import Asked, Gate, gates_for, table_of
from qguard.metrics.bounds import Bound
from qguard.precisions import RECIPES, Precision
from qguard.precisions.bounds import DEFAULT_BOUNDS, OF_KIND

SCHEMA = 2


@dataclass(frozen=True)
class Summary:
    """One fault of one model over its severities.

    Attributes:
        smallest: The smallest severity from which on everything is caught, ``None`` where the full fault is not.
        full: The largest severity that this model can have.
        missed: The largest that is not caught; empty where all are.
        told: Whether the check that is meant for it is among those that catch the full fault.
    """

    fault: Fault
    model: str
    smallest: Result | None
    full: Result
    missed: str
    told: bool


def summaries(report: Report) -> list[Summary]:
    """One line for each model and fault that could be made."""
    found = []
    for model in report.plan.config.models:
        for fault in report.faults:
            mine = [r for r in report.results if (r.model, r.fault) == (model, fault.name) and r.status != NOT_APPLICABLE]
            if mine:
                missed = [r.severity for r in mine if r.status != CAUGHT]
                after = mine[max((i for i, r in enumerate(mine) if r.status != CAUGHT), default=-1) + 1 :]
                told = any(map(fault.told_by, mine[-1].failures))
                found.append(Summary(fault, model, after[0] if after else None, mine[-1], missed[-1] if missed else "", told))
    return found


def holes(report: Report) -> list[tuple[Result, str]]:
    """Faults that are not caught in full, each with the gate that would see it."""
    return [(s.full, closing(report, s.full)) for s in summaries(report) if s.full.status not in (CAUGHT, BROKEN)]


def closing(report: Report, result: Result) -> str:
    """The gate that would see a fault which was missed, or that there is none."""
    if result.reason:
        return result.reason
    if any(f.name == result.fault and f.part == "latency" for f in report.faults):
        return 'a gate that would catch it: [tool.qguard.latency] regression = "<= 1.05", with --baseline-artifact'
    precision, own = report.plan.precision, report.plan.config.gates
    sound = report.sound.get((result.model, result.suite), {})
    for gate in gates_for(precision, {}, kind=report.plan.sound().kind(result.model)):
        value = result.values.get(gate.metric)
        if (
            gate.slice is None
            and value is not None
            and not gate.bound.holds(value)
            and gate.bound.holds(sound.get(gate.metric, value))
        ):
            return f"the default gate would catch it: {_line(gate, precision, own)} (found {value:.4g})"
    moved = sorted(_moves(sound, result.values), reverse=True)
    if not moved or moved[0][0] < 0.01:
        return "no value of this suite changes: add texts that show the fault"
    _, name, op = moved[0]
    a, b = sound[name], result.values[name]
    gate = Gate(name, None, Bound(op, float(f"{(a + b) / 2:.4g}")))
    return f"a gate that would catch it: {_line(gate, precision, own)} (sound {a:.4g}, with the fault {b:.4g})"


def _line(gate: Gate, precision: Precision, own: Mapping[str, Mapping[str, Asked]]) -> str:
    tables = next((g.tables for g in gates_for(precision, own) if g.key == gate.key), ())
    return f'{table_of(tables, precision.label, precision.vectors)} "{gate.metric}" = "{gate.bound}"'


def _moves(sound: Mapping[str, float], found: Mapping[str, float]) -> Iterable[tuple[float, str, Literal[">=", "<="]]]:
    """How much worse each value is, relative to what the sound artifact loses already, and the operator of its gate."""
    of_kinds = [table for tables in OF_KIND.values() for table in tables.values()]
    tables = [*DEFAULT_BOUNDS.values(), *of_kinds, *(r.bounds for r in RECIPES.values())]
    operators = {key.partition("[")[0]: Bound.of(bound, key).op for table in tables for key, bound in table.items()}
    for name in sound.keys() & found.keys() & operators.keys():
        op = operators[name]
        worse = sound[name] - found[name] if op == ">=" else found[name] - sound[name]
        loss = abs(1 - sound[name]) if op == ">=" else abs(sound[name])
        yield worse / max(loss, 1e-3), name, op


def exit_code(report: Report) -> int:
    """0 where every fault is caught in full and nothing else, 1 for a hole or a false alarm, 3 for what could not be made."""
    if any(r.failures for r in report.repeats) or holes(report):
        return 1
    return 3 if any(r.status == BROKEN for r in report.results) or not any(r.status == CAUGHT for r in report.results) else 0


def _words(failure: Failure) -> tuple[str, str, str, str]:
    """Check, value, bound and margin of a failure; of an error, its words in the place of the value."""
    if failure.value is None:
        return failure.gate, failure.words, "", ""
    margin = "" if failure.margin is None else f"{failure.margin:.4g}"
    return failure.check, f"{failure.value:.4g}", str(failure.bound or failure.words), margin


def _short(result: Result) -> str:
    first = result.failures[0]
    return f"{first.gate}: an error" if first.value is None else f"{first.check} {first.value:.4g}, gate {first.bound}"


def tables(report: Report, style: Any = None) -> list[tuple[str, Any]]:
    """Titles and tables of rich.

    Args:
        report: What was found.
        style: A box of rich; ``None`` for its default.
    """
    from rich.box import HEAVY_HEAD
    from rich.table import Table

    def table(*heads: str) -> Any:
        return Table(*heads, box=style or HEAVY_HEAD)

    several = len(report.plan.config.models) > 1
    cases = table(*(["model"] if several else []), "fault", "severity", "caught by", "value", "bound", "margin", "also fails")
    for r in report.results:
        if r.status == NOT_APPLICABLE:
            continue
        head = [*([r.model] if several else []), r.fault, r.severity]
        if r.status != CAUGHT:
            row = [f"({r.status})", r.reason, "", "", ""]
        else:
            row = [*_words(r.failures[0]), ", ".join(f.gate for f in r.failures[1:])]
        cases.add_row(*(_plain(cell) for cell in [*head, *row]))
    heads = ("fault", "what goes wrong", "smallest caught", "by", "largest missed", "in full", "seen in")
    damage = table(*(["model"] if several else []), *heads)
    for s in summaries(report):
        smallest = ["", ""] if s.smallest is None else [s.smallest.severity, _short(s.smallest)]
        full = _short(s.full) if s.full.status == CAUGHT else f"({s.full.status})"
        cells = [s.fault.name, s.fault.what, *smallest, s.missed, "as before" if s.smallest is s.full else full, s.fault.seen]
        damage.add_row(*(_plain(cell) for cell in [*([s.model] if several else []), *cells]))
    found = [("every fault, and the check that fails first", cases), ("the smallest damage that this gate catches", damage)]
    absent = table("fault", "why it cannot be made here")
    for name, why in _absent(report).items():
        absent.add_row(name, _plain(why))
    return [*found, ("not applicable", absent)]


def _absent(report: Report) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for r in report.results:
        if r.status == NOT_APPLICABLE:
            found.setdefault(r.fault, []).append(r.severity)
    why = {r.fault: r.reason for r in report.results if r.status == NOT_APPLICABLE}
    whole = {f.name: list(f.severities) for f in report.faults}
    parts = {name: name if cases == whole[name] else f"{name} ({', '.join(cases)})" for name, cases in found.items()}
    return {parts[name]: why[name] for name in found} | (ELSEWHERE if len(report.faults) > 1 else {})


def _plain(text: str) -> str:
    """Text in which rich reads no markup, and markdown no column."""
    return cell(text).replace("|", "/")


def lines(report: Report) -> list[str]:
    """The verdict in a few lines."""
    made = [r for r in report.results if r.status != NOT_APPLICABLE]
    caught = [r for r in made if r.status == CAUGHT]
    open_faults = holes(report)
    found = summaries(report)
    alarms = [r for r in report.repeats if r.failures]
    out = [
        f"{len(caught)} of {len(made)} cases of {len(found)} faults are caught; in full, "
        f"{sum(s.full.status == CAUGHT for s in found)} of {len(found)} faults",
        f"{len(report.repeats)} clean repeats in {len({r.process for r in report.repeats})} processes: "
        f"{len(alarms)} false alarms",
    ]
    for alarm in alarms[:5]:
        check, value, bound, _ = _words(alarm.failures[0])
        out.append(f"false alarm: {alarm.condition}: {check} {value} {bound}")
    for r, closes in open_faults:
        out.append(f"hole: {r.fault} ({r.severity}) of {r.model} is {r.status}; {closes}")
    for s in found:
        if s.full.status == CAUGHT and not s.told:
            out.append(
                f"caught, but not by the check that is meant for it ({s.fault.expected}): {s.fault.name}: {_short(s.full)}"
            )
    out += [f"could not be made: {r.fault} ({r.severity}): {r.reason}" for r in made if r.status == BROKEN]
    return out


def _json(found: Result | Repeat) -> dict[str, Any]:
    return asdict(found) | {"failures": [asdict(f) | {"bound": f.bound and f.bound.to_json()} for f in found.failures]}


def to_json(report: Report) -> dict[str, Any]:
    """The stable shape of ``--json``, schema 2."""
    return {
        "schema": SCHEMA,
        "precision": str(report.plan.precision),
        "suites": list(report.plan.suites),
        "exit_code": exit_code(report),
        "results": [_json(r) for r in report.results],
        "damage": [
            {
                "fault": s.fault.name,
                "model": s.model,
                "smallest_caught": s.smallest and s.smallest.severity,
                "largest_missed": s.missed,
                "as_meant": s.told,
            }
            for s in summaries(report)
        ],
        "repeats": [_json(r) for r in report.repeats],
        "false_alarms": sum(bool(r.failures) for r in report.repeats),
        "holes": [{"fault": r.fault, "severity": r.severity, "model": r.model, "closes": c} for r, c in holes(report)],
        "not_applicable": _absent(report),
        "sound": {f"{m}/{s}": values for (m, s), values in report.sound.items()},
    }
