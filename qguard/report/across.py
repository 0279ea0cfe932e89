"""Hosts compared with each other: each pair that ran one precision of a model on a suite, by the vectors that they kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from qguard.errors import UsageProblem, unknown
from qguard.files import sha256_json
from qguard.gates.check import Check, judge
from qguard.kinds import DENSE
from qguard.metrics.bounds import Bound
from qguard.metrics.hosts import LIKE, METRICS, OVERLAP, compared
from qguard.report.headline import label_of, name_of
from qguard.report.host import label
from qguard.vectors.hosts import HostVectors
from qguard.vectors.quantized import FLOAT

TARGET = ("model", "suite", "precision", "runtime", "vectors")
HEADS = ("Precision", "Hosts", "Verdict", "cosine, lowest", "overlap@10", "top1", "in a mixed fleet", "Files")

_EQUAL = {"suite_sha256": "other texts of the suite", "golden_sha256": "by another golden", "similarity": "by another similarity"}


@dataclass(frozen=True)
class _Host:
    """One host's run of a target."""

    run: Mapping[str, Any]
    places: tuple[Path, ...]

    @property
    def name(self) -> str:
        return label(self.run["host"])

    def vectors(self) -> HostVectors | str:
        """Its vectors, or why there are none."""
        kept = self.run.get("host_vectors")
        if not kept:
            return f"{self.name}: its report names no vectors; run pytest there with --qguard-vectors=DIR"
        path = next((p for folder in self.places if (p := folder / kept["file"]).is_file()), None)
        if path is None or Path(kept["file"]).name != kept["file"]:
            return f"{self.name}: {kept['file']} is missing; put it beside the report, or give its folder: --vectors DIR"
        found = HostVectors.read(path, kept["sha256"])
        if wrong := [k for k in ("model", "suite", "precision", "runtime") if found.facts[k] != self.run[k]]:
            raise UsageProblem(f"{kept['file']}: it is of another {wrong[0]} than its run; give the vectors of this run")
        return found


def parse_gates(given: Iterable[str]) -> dict[str, Bound]:
    """``--gate``: metric → bound.

    Raises:
        UsageProblem: for an unknown metric or no bound.
    """
    found = {}
    for text in given:
        name = text.replace(">", "<").partition("<")[0].strip()
        if name not in LIKE:
            raise unknown("gate of --across-hosts", name, LIKE)
        found[name] = Bound.parse(text.strip()[len(name) :], f"--gate {name}")
    return found


def across(runs: Sequence[tuple[Mapping[str, Any], tuple[Path, ...]]], gates: Mapping[str, Bound]) -> list[dict[str, Any]]:
    """One entry for each target: its hosts, its verdict, what is missing, and each pair of hosts with its checks.

    Args:
        runs: Runs of reports, each with the folders where its vectors may lie. Runs with quantized vectors are left out, where
            their precision's own is there too: their codes are made of its vectors.
        gates: By metric; what is not in it has the gate that the precision has on the same value against fp32.

    Raises:
        UsageProblem: for vectors of another run, and for hosts that judged other texts or another golden.
    """
    found: dict[tuple[str, ...], list[_Host]] = {}
    for run, places in runs:
        found.setdefault(tuple(str(run[k]) for k in TARGET), []).append(_Host(run, places))
    plain = {key[:4] for key in found if key[4] == FLOAT}
    return [_entry(hosts, gates) for key, hosts in sorted(found.items()) if key[4] == FLOAT or key[:4] not in plain]


def _entry(hosts: list[_Host], gates: Mapping[str, Bound]) -> dict[str, Any]:
    run = hosts[0].run
    missing, have = list[str](), list[tuple[int, HostVectors]]()
    if len(hosts) < 2:
        missing.append(f"one host ran it, {hosts[0].name}: expected at least two")
    if run.get("kind", DENSE) != DENSE or run["vectors"] != FLOAT:
        missing.append("hosts are compared by float32 vectors of dense models")
    else:
        for i, host in enumerate(hosts):
            vectors = host.vectors()
            if isinstance(vectors, str):
                missing.append(vectors)
            else:
                have.append((i, vectors))
    pairs = [_pair(hosts, a, b, gates) for a, b in combinations(have, 2)]
    outcomes = {c["outcome"] for pair in pairs for c in pair["checks"]}
    verdict = "fail" if "fail" in outcomes else "unmeasured" if missing or not pairs or "pass" not in outcomes else "pass"
    if pairs and "pass" not in outcomes and "fail" not in outcomes:
        missing.append("no gate bounds how far hosts may differ; give one, such as: --gate 'hosts.overlap@10 >= 0.95'")
    return {
        **{k: run[k] for k in TARGET}, "verdict": verdict, "hosts": [h.name for h in hosts], "missing": missing, "pairs": pairs,
        "host_hashes": [sha256_json(h.run["host"]) for h in hosts],
    }  # fmt: skip


def _pair(
    hosts: Sequence[_Host], first: tuple[int, HostVectors], second: tuple[int, HostVectors], gates: Mapping[str, Bound]
) -> dict[str, Any]:
    (i, a), (j, b) = first, second
    for key, what in _EQUAL.items():
        if a.facts[key] != b.facts[key]:
            raise UsageProblem(
                f"{name_of(hosts[i].run)} of {hosts[i].run['model']} on {hosts[i].run['suite']}: {hosts[i].name} and "
                f"{hosts[j].name} judged {what}; run pytest on both from one commit"
            )
    if a.vectors.shape != b.vectors.shape or a.neighbours.shape != b.neighbours.shape:
        raise UsageProblem(f"{hosts[i].name} and {hosts[j].name}: vectors {a.vectors.shape} and {b.vectors.shape} do not fit")
    measured = compared(a, b)
    bounds = {m.name: gates.get(m.name) or _bound(hosts[i].run, hosts[j].run, LIKE[m.name]) for m in measured}
    checks = judge([replace(m, bound=bounds[m.name]) for m in measured], (), str(hosts[i].run["suite"]), intervals=True)
    hashes = [v.facts["artifact_sha256"] for v in (a, b)]
    return {
        "hosts": [i, j], "artifacts": hashes, "same_artifact": hashes[0] == hashes[1], "checks": [c.to_json() for c in checks],
        "words": _words(checks, hashes),
    }  # fmt: skip


def _bound(first: Mapping[str, Any], second: Mapping[str, Any], metric: str) -> Bound | None:
    """The stricter of the bounds that both runs have on a value of the whole suite."""
    found = [
        Bound.from_json(c["bound"])
        for run in (first, second)
        for c in run["checks"]
        if c["name"] == metric and c["slice"] is None and c["bound"] and not c.get("accepted")
    ]
    return max(found, key=lambda bound: bound.number if bound.lower else -bound.number, default=None)


def _words(checks: Sequence[Check], hashes: Sequence[str]) -> str:
    values = {c.name: c.value for c in checks}
    changed = f"{1 - values[OVERLAP]:.1%} of the neighbors differ"
    fleet = min(values["hosts.mixed_overlap@10"], values["hosts.reversed_overlap@10"])
    files = "the same files" if hashes[0] == hashes[1] else f"other files: {hashes[0][:12]} and {hashes[1][:12]}"
    least = f"lowest cosine {values['hosts.cosine_min']:.4f}"
    return f"{changed}, {least}, overlap@10 with fp32 in a mixed fleet {fleet:.4f}; {files}"


def lines(report: Mapping[str, Any], numbers: Mapping[str, int]) -> list[str]:
    """In plain text, under the table of hosts.

    Args:
        report: A merged one.
        numbers: Of each host by the hash of what is known of it, as that table has them.
    """
    found = []
    for entry in report.get("across", ()):
        head = f"{name_of(entry)} {entry['model']} {entry['suite']}"
        for pair in entry["pairs"]:
            named = " and ".join(f"host {numbers[entry['host_hashes'][i]]}" for i in pair["hosts"])
            found.append(f"{head}, {named}: {_outcome(pair)}{pair['words']}")
        found += [f"{head}: UNMEASURED {text}" for text in entry["missing"]]
    return found


def _outcome(pair: Mapping[str, Any]) -> str:
    failed = [c for c in pair["checks"] if c["outcome"] == "fail"]
    if not failed:
        return "pass, "
    first = failed[0]
    more = f" (+{len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"FAIL {label_of(first)} {first['value']:.4g}, gate {first['bound']['text']}{more}; "


def rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for each pair under :data:`HEADS`, and one for each host that could not be compared: ``verdict`` and ``figures``."""
    found = []
    for entry in report.get("across") or ():
        name = f"{name_of(entry)} {entry['model']} {entry['suite']}"
        for pair in entry["pairs"]:
            values = {c["name"]: c["value"] for c in pair["checks"]}
            failed = [c for c in pair["checks"] if c["outcome"] == "fail"]
            verdict = "fail" if failed else "pass"
            least = min(values["hosts.mixed_overlap@10"], values["hosts.reversed_overlap@10"])
            files = "the same" if pair["same_artifact"] else " and ".join(h[:12] or "none" for h in pair["artifacts"])
            gates = "; ".join(f"{label_of(c)} {c['value']:.4g}, gate {c['bound']['text']}" for c in failed)
            figures = [
                name, " and ".join(entry["hosts"][i] for i in pair["hosts"]), verdict + (f": {gates}" if gates else ""),
                f"{values['hosts.cosine_min']:.6f}", f"{values[OVERLAP]:.4f}", f"{values['hosts.top1']:.4f}", f"{least:.4f}",
                files,
            ]  # fmt: skip
            found.append({"verdict": verdict, "figures": figures})
        found += [{"verdict": "unmeasured", "figures": [name, text, "unmeasured", *[""] * 5]} for text in entry["missing"]]
    return found


__all__ = ["HEADS", "METRICS", "TARGET", "across", "lines", "parse_gates", "rows"]
