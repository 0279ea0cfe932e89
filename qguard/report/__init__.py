"""Reports: one verdict, written as files or shown in the terminal.

Another package adds a file format through the entry-point group ``qguard.report_formats``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.errors import UsageProblem
from qguard.files import write_atomic
from qguard.kinds import DENSE
from qguard.registry import Registry, function_of, is_function
from qguard.report.host import host
from qguard.version import __version__

SCHEMA = 2


@dataclass(frozen=True)
class ReportFormat:
    """A kind of file that a report is written as.

    Attributes:
        name: The suffix of its files, such as ``.html``; of two that fit the longer one decides.
        render: ``module:function``, imported when it is needed, or the function: a report, as
            :func:`assemble` gives it and the reference describes it, → the file's bytes.
    """

    name: str
    render: Callable[[dict[str, Any]], bytes] | str = ""

    def lacks(self) -> Iterable[str]:
        """See :class:`qguard.registry.Record`."""
        if not self.name.startswith(".") or len(self.name) < 2:
            yield f"expected the suffix of its files as its name, such as '.csv', found {self.name!r}"
        if not is_function(self.render):
            yield f"it does not say what renders it: expected a function or 'module:function', found {self.render!r}"

    def rendered(self, report: dict[str, Any]) -> bytes:
        """The file's bytes."""
        made: bytes = function_of(self.render)(report)
        return made


def _own() -> Iterable[ReportFormat]:
    names = {".json": "as_json", ".html": "as_html", ".md": "as_markdown", ".codequality.json": "as_codequality"}
    return [ReportFormat(suffix, f"{__name__}.{module}:render") for suffix, module in names.items()]


FORMATS: Registry[ReportFormat] = Registry("report format", "qguard.report_formats", ReportFormat, _own)
CURRENT = "test_golden_is_current"  # the gate test that every target has


def assemble(expected: list[dict[str, Any]], records: list[dict[str, Any]]) -> dict[str, Any]:
    """One report from what the gate tests recorded.

    Args:
        expected: Every target that was asked for: ``precision``, ``runtime``, ``vectors``, ``model``, ``suite``, and
            ``tests``, the names of the gate tests that judge it beside :data:`CURRENT`; ``kind``, that of the model, by default
            a dense one; ``left_out``, what is not measured on purpose, each with its reason; and ``fleet``, the machines like
            this one that encoded and searched its suite, where others did.
        records: What each gate test left behind; see :meth:`qguard.plugin.gatekeeper.GateKeeper.judge`.

    Returns:
        ``schema``, ``qguard``, ``verdict`` (``pass``, ``fail``, ``unmeasured``), ``runs`` and ``texts`` (of each suite those that
        details name). A target with a failed check fails; one with a gate test that did not run or could not measure is
        ``unmeasured`` and lists what is missing.
        ``tests`` of a run has the outcome of each gate test: ``pass``, ``fail`` or ``unmeasured``.
    """
    from qguard.report.answers import answers
    from qguard.report.details import merged, without_home

    runs = []
    texts: dict[str, dict[str, str]] = {}
    for asked in expected:
        target = {k: v for k, v in asked.items() if k not in ("kind", "tests", "left_out", "fleet")}
        mine = [r for r in records if r["target"] == target]
        checks = [c for r in mine for c in r["checks"]]
        # a test of the project's own that is named like one of the gate's does not stand for it
        shipped = [r for r in mine if r.get("shipped", True)]
        done = {r["gate"] for r in shipped if r["done"]}
        gates = (CURRENT, *asked["tests"])
        missing = [g for g in gates if g not in done]
        fell = {r["gate"] for r in shipped if any(c["outcome"] == "fail" for c in r["checks"])}
        errors = [without_home(r["error"]) for r in mine if r.get("error")]
        verdict = "unmeasured" if missing or not checks else "pass"
        if any(c["outcome"] == "fail" for c in checks):
            verdict = "fail"
        facts: dict[str, Any] = next((r["facts"] for r in mine if r.get("facts")), {})
        found = {"verdict": verdict, "missing": missing, "errors": errors, "checks": checks}
        found |= {part: [f for r in mine for f in r.get(part, ())] for part in ("latency", "load", "index", "cpus")}
        runs.append({**target, "kind": asked.get("kind", DENSE), **facts, **found})
        if vectors := next((r["host_vectors"] for r in mine if r.get("host_vectors")), None):
            runs[-1]["host_vectors"] = vectors
        runs[-1]["standard_errors"] = {k: v for r in mine for k, v in r.get("standard_errors", {}).items()}
        runs[-1]["left_out_because"] = dict(asked.get("left_out", {}))
        runs[-1]["left_out"] = list(runs[-1]["left_out_because"])
        runs[-1]["tests"] = {g: "fail" if g in fell else "pass" if g in done else "unmeasured" for g in gates}
        runs[-1]["answers"] = answers(runs[-1])
        runs[-1]["host"] = host() | ({"fleet": asked["fleet"]} if asked.get("fleet") else {})
        runs[-1]["details"], shown = merged([r["details"] for r in mine if r.get("details")])
        texts.setdefault(target["suite"], {}).update(shown)
        runs[-1]["cause"] = next((without_home(r["cause"]) for r in mine if r.get("cause")), None)
    verdict = worst(r["verdict"] for r in runs)
    return {"schema": SCHEMA, "qguard": __version__, "verdict": verdict, "runs": runs, "texts": texts}


def worst(verdicts: Iterable[str]) -> str:
    """The verdict of several: one that fails fails all, and none passes where nothing was measured."""
    found = set(verdicts)
    return "fail" if "fail" in found else "pass" if found == {"pass"} else "unmeasured"


def check_format(path: Path) -> None:
    """Refuse a report file that nothing here can write.

    Raises:
        UsageProblem: for an unknown suffix.
    """
    if _format(path) is None:
        raise UsageProblem(f"report {path}: expected a file that ends in {', '.join(FORMATS)}")


def _format(path: Path) -> ReportFormat | None:
    """The format of a file; of two suffixes that fit the longer one."""
    return next((FORMATS[s] for s in sorted(FORMATS, key=len, reverse=True) if path.name.endswith(s)), None)


def write(report: dict[str, Any], path: Path) -> None:
    """Write a report in the format of the file's suffix, atomically.

    Raises:
        OSError: when it cannot be written.
    """
    check_format(path)
    form = _format(path)
    assert form is not None
    write_atomic(path, form.rendered(report))
