"""The report for people: one file that opens offline, from a report alone, so that a saved one looks the same."""

from __future__ import annotations

import hashlib
import math
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from qguard.console.visible import visible
from qguard.families import TIMED
from qguard.kinds import in_words
from qguard.latency.decision import UNDECIDED
from qguard.report import across, advice, charts, cpus, indexes
from qguard.report.details import GIVEN, MOVED
from qguard.report.headline import ORDER, bound_of, cause_of, family_of, headline, label_of, name_of
from qguard.report.loads import figures, named, sent
from qguard.report.shape import checked

HTML = Path(__file__).parent / "html"
NONE = "–"  # noqa: RUF001 - a dash as typeset
OVERVIEW = ("ranking.overlap@10", "ranking.top1", "embedding.cosine_p01", "embedding.cosine_min", "similarity.p99_error")
MARKS = {"pass": "✓", "fail": "✗", "reported": "·"}
_VERDICTS = {"fail": 0, "unmeasured": 1, "pass": 2}
_SHADES = 5
_ROUNDING = 1e-6  # cosine distances below are float32's
_EVEN = 0.01  # slices that differ by less are not told apart by their shade


def render(report: dict[str, Any]) -> bytes:
    """The report as HTML, UTF-8. Texts are escaped, and the page's policy runs no script but its own and loads nothing.

    Raises:
        UsageProblem: for what is no report.
    """
    report = checked(report)
    parts, hashes = page_parts()
    hosts = list(dict.fromkeys(flat(run["host"]) for run in report["runs"] if run["host"]))
    runs = []
    for i, run in enumerate(report["runs"]):
        given = run["details"]["provenance"]
        on = f" ({flat(given.get('files'))})" if given.get("source") == GIVEN else ""
        on += f", host {hosts.index(flat(run['host'])) + 1}" if len(hosts) > 1 and run["host"] else ""
        runs.append(view(run, report["texts"].get(run["suite"], {}), f"run-{i}", on))
    worst = min((r["verdict"] for r in runs), key=_VERDICTS.__getitem__, default="pass")
    for i, run in enumerate(runs):
        run["open"] = run["verdict"] != "pass" or (worst == "pass" and i == 0)
    runs.sort(key=lambda r: _VERDICTS[r["verdict"]])  # stable: the order of the command line within a verdict
    page = page_environment().get_template("report.html.j2")
    text = page.render(
        report=report, runs=runs, groups=groups(runs), hosts=hosts, parts=parts, hashes=hashes, marks=MARKS, overview=OVERVIEW,
        across=across.rows(report), across_heads=across.HEADS,
    )  # fmt: skip
    return str(text).encode()


def page_environment(*folders: Path) -> Any:
    """What renders a page: texts are escaped, and what would be obeyed in them is made visible.

    Args:
        folders: Where templates lie beside the report's own.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, HTML]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: visible(value) if type(value) is str else value,  # not of what the page itself is made of
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "number": number,
        "signed": "{:+.4f}".format,
        "flat": flat,
        "breakable": breakable,
        "command": command,
        "kind": in_words,
    }
    environment.filters.update(filters)
    return environment


def page_parts() -> tuple[dict[str, Any], dict[str, str]]:
    """A page's style and script, ``css`` and ``js``, and the hash of each for the page's policy."""
    from markupsafe import Markup

    parts = {kind: Markup((HTML / f"report.{kind}").read_text(encoding="utf-8")) for kind in ("css", "js")}
    hashes = {kind: b64encode(hashlib.sha256(text.encode()).digest()).decode() for kind, text in parts.items()}
    return parts, hashes


def number(value: float | None) -> str:
    """Four digits; whole numbers that count something as such; a dash for none."""
    if value is None:
        return NONE
    return f"{value:.0f}" if value == int(value) and abs(value) > 1 else f"{value:.4f}"


def flat(value: Any) -> str:
    """A JSON value in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{k.replace('_', ' ')} {flat(v)}" for k, v in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(flat, value))
    return NONE if value is None or value == "" else str(value)


def breakable(name: str) -> str:
    """A metric's name that may break after its dots and underscores."""
    from markupsafe import Markup, escape

    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^._]*[._]?", name) if part)


def command(text: str) -> str:
    """A command that breaks between its words only."""
    from markupsafe import Markup

    return Markup(" ").join(Markup('<span class="word">{}</span>').format(w) if len(w) < 30 else w for w in text.split(" "))


def shown(text: str) -> str:
    """A text as it is; what would be blank on a page in quotes and escapes."""
    return text if text.strip() else ascii(text)


def view(run: dict[str, Any], texts: Mapping[str, str], key: str, on: str = "") -> dict[str, Any]:
    """What the template shows of one run; ``on`` says which file or host, where it is none of ours or there are several."""
    name, lines = name_of(run) + on, headline(run, texts)
    values = {c["name"]: c["value"] for c in run["checks"] if c["slice"] is None}
    trials = [t for t in run["latency"] if t["metric"] == "latency.speedup"]
    speedups = [t["ratio"] for t in trials if t["outcome"] not in UNDECIDED]
    buckets = {t["bucket"] for t in trials} | {m[len(TIMED) + 1 : -1] for m in run["missing"] if m.startswith(f"{TIMED}[")}
    timed = f"{len(speedups)} of {len(buckets)} buckets" if speedups else "not measured"
    return {
        **run,
        "key": key,
        "name": name,
        "headline": replace(lines, title=lines.title + on),
        "rows": sorted(({**c, "label": label_of(c), "bound": bound_of(c)} for c in run["checks"]), key=_place),
        "values": values,
        "megabytes": run["artifact"]["bytes"] / 1e6 if run["artifact"] else None,
        "speedup": math.prod(speedups) ** (1 / len(speedups))
        if speedups
        else 1.0
        if run["precision"] == "fp32" and not buckets
        else None,
        "unmeasured_speed": timed if len(speedups) < len(buckets) else "",
        "heat": heat_map(run["checks"]),
        "text": lambda key: shown(texts.get(key, key)),
        "worst_texts": [t for t in run["details"]["worst_texts"] if 1 - t["cosine"] > _ROUNDING],
        "charts": _charts(run, key, values),
        "moves": [moves(q) for q in run["details"]["neighbours"]["queries"]] if run["details"]["neighbours"] else [],
        "cause": advice.told(cause_of(run)),
        "left_out": advice.left_out(run),
        "moved_gates": advice.moved_gates(run["checks"]),
        "shadowed_gates": advice.shadowed_gates(run["checks"]),
        "gates": {key: _gate(g) for key, g in run["details"]["provenance"]["gates"].items()},
        "loads": [{"name": named(f), "sent": sent(f), "failed": f["failed"], "figures": figures(f)} for f in run["load"]],
        "emulated": cpus.rows(run),
        "cpu_heads": cpus.HEADS,
        "indexes": indexes.rows(run),
        "index_heads": indexes.HEADS,
        "trials": [{**t, "bound": _bound(run, t)} for t in run["latency"]],
    }


def _gate(gate: Mapping[str, Any]) -> str:
    return str(bound_of(gate)) + ("" if gate["on"] == "value" else f" ({gate['on']} end)")


def _place(check: Mapping[str, Any]) -> tuple[bool, bool, int]:
    """Failed checks first, the whole suite before slices, families as in the headline: whatever order the tests ran in."""
    family = family_of(check)
    return check["outcome"] != "fail", bool(check["slice"]), ORDER.index(family) if family in ORDER else len(ORDER)


def _charts(run: Mapping[str, Any], key: str, values: Mapping[str, float]) -> dict[str, Any]:
    found: dict[str, Any] = {"scatter": None, "cosines": None, "latency": None}
    details = run["details"]
    if (points := details["similarities"]) and points["fp32"]:
        found["scatter"] = charts.scatter(f"{key}-scatter", points["fp32"], points["candidate"], min(MOVED, len(points["fp32"])))
    if cosines := details["cosines"]:
        marks = {name: values[f"embedding.cosine_{name}"] for name in ("mean", "p01") if f"embedding.cosine_{name}" in values}
        found["cosines"] = charts.histogram(f"{key}-cosines", cosines["edges"], cosines["counts"], marks)
    if run["latency"]:
        rows = [
            {**t, "label": ("" if t["metric"] == "latency.speedup" else "baseline ") + t["bucket"], "bound": _bound(run, t)}
            for t in run["latency"]
        ]
        found["latency"] = charts.trials(f"{key}-latency", rows)
    return found


def _bound(run: Mapping[str, Any], trial: Mapping[str, Any]) -> float | None:
    """The bound on a trial, from the check that judged it."""
    for c in run["checks"]:
        if c["name"] == trial["metric"] and c["slice"] == trial["bucket"] and c["bound"]:
            return float(c["bound"]["number"])
    return None


def moves(query: Mapping[str, Any]) -> dict[str, Any]:
    """A query's neighbors on both sides, each with how it moved: ``same``, ``up``, ``down``, ``new`` or ``gone``."""
    was, now = ([k for k, _ in query[side]] for side in ("fp32", "candidate"))
    fp32 = [{"text": k, "score": s, "move": "kept" if k in now else "gone", "by": 0} for k, s in query["fp32"]]
    candidate = []
    for rank, (k, score) in enumerate(query["candidate"]):
        by = was.index(k) - rank if k in was else 0
        move = "new" if k not in was else "up" if by > 0 else "down" if by < 0 else "same"
        candidate.append({"text": k, "score": score, "move": move, "by": abs(by)})
    kept = len(set(was) & set(now))
    return {**query, "fp32": fp32, "candidate": candidate, "kept": kept, "of": len(was)}


def heat_map(checks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Slices by metrics. A column is shaded from its best slice to its worst; failed gates are marked besides."""
    from qguard.families import all_metrics

    better = {m.name: m.higher_is_better for m in all_metrics() if not m.of_fp32}
    cells: dict[str, dict[str, Any]] = {}
    for c in sorted(checks, key=_place):
        if c["name"] in better and not c["accepted"]:
            cells.setdefault(c["name"], {})[c["slice"] or ""] = c
    cells = {name: by for name, by in cells.items() if set(by) - {""}}
    slices = sorted({s for by in cells.values() for s in by if s})
    rows: list[dict[str, Any]] = [{"slice": s, "cells": []} for s in slices]
    for name, by in cells.items():
        values = [c["value"] for s, c in by.items() if s]
        best, worst = (max(values), min(values)) if better[name] else (min(values), max(values))
        for row in rows:
            cell = by.get(row["slice"])
            share = 0 if cell is None else abs(cell["value"] - best) / max(abs(worst - best), _EVEN)
            row["cells"].append(cell and {**cell, "shade": min(_SHADES - 1, int(share * _SHADES))})
    return {"metrics": list(cells), "rows": rows}


def groups(runs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs of each model and suite, with accuracy against size and speed where several can be compared."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in runs:
        found.setdefault((run["model"], run["suite"]), []).append(run)
    out = []
    for i, ((model, suite), mine) in enumerate(found.items()):
        drawn = []
        for cost, name in (("megabytes", "MB"), ("speedup", "speed, fp32 of the same runtime = 1")):
            points = [
                {
                    "name": r["name"] + (f" ({r['unmeasured_speed']})" if cost == "speedup" and r["unmeasured_speed"] else ""),
                    "x": r[cost],
                    "y": r["values"][OVERVIEW[0]],
                    "verdict": r["verdict"],
                }
                for r in mine
                if r[cost] is not None and OVERVIEW[0] in r["values"]
            ]
            if len({p["x"] for p in points}) > 2:  # of two, the table says as much
                drawn.append(charts.tradeoff(f"trade-{i}-{cost}", points, name, OVERVIEW[0].partition(".")[2]))
        out.append(
            {
                "model": model,
                "suite": suite,
                "runs": mine,
                "charts": drawn,
                "timed": any(r["speedup"] or r["unmeasured_speed"] for r in mine),
                "partly": any(r["unmeasured_speed"] for r in mine),
            }
        )
    return out
