"""The statement: a run's verdict as an in-toto Statement v1 with a Test Result predicate v0.1.

What the predicate has no field for stands where the specification puts it: in the annotations of the resources that the run
was configured with, all under the one key ``qguard``. It holds numbers and hashes, no text of a suite and no name of a host.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qguard.files import sha256_json
from qguard.machine.clock import stamp
from qguard.version import __version__

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
PASSED, FAILED = "PASSED", "FAILED"  # WARNED is never written: what was not measured did not pass
KEY = "qguard"  # of annotations
_CHECK = ("name", "slice", "value", "bound", "on", "outcome", "items")


def statement(
    report: Mapping[str, Any],
    found: Sequence[Mapping[str, Any]],
    files: Mapping[str, str],
    others: Iterable[str] = (),
    now: datetime.datetime | None = None,
) -> dict[str, Any]:
    """One run over one artifact as a statement.

    Args:
        report: As of :func:`qguard.report.assemble`, of one precision of one model on any number of suites.
        found: :func:`qguard.attest.evidence.evidence` of every suite whose golden test got that far.
        files: The artifact's files as they are now; see :func:`qguard.attest.subjects.digests`. Of a server its fingerprint; see
            :mod:`qguard.attest.served`.
        others: What failed beside the gate: tests of the project.
        now: The time, by default the clock's.

    Returns:
        JSON. ``result`` is ``PASSED`` only when the report passed, every suite has its evidence and the files are those that
        were judged. Tests are named ``SUITE/TEST``; what was not measured is among the failed ones.
    """
    failed, passed = list(others), list[str]()
    for run in report["runs"]:
        for name, outcome in run["tests"].items():
            (passed if outcome == "pass" else failed).append(f"{run['suite']}/{name}")
    by_suite = {e["suite"]["name"]: e for e in found}
    failed += [f"{run['suite']}/evidence" for run in report["runs"] if run["suite"] not in by_suite]
    failed += [f"{name}/files: the artifact changed during the run" for name, e in by_suite.items() if e["files"] != files]
    whole = report["verdict"] == "pass" and not failed and bool(passed)
    if not whole and not failed:
        failed = [f"{run['suite']}/verdict" for run in report["runs"]] or ["verdict"]
    moment = (now or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC)
    predicate: dict[str, Any] = {
        "result": PASSED if whole else FAILED,
        "configuration": _configuration(report, by_suite, moment),
        "passedTests": sorted(passed),
        "warnedTests": [],
        "failedTests": sorted(dict.fromkeys(failed)),
    }
    if url := _url():
        predicate["url"] = url
    subject = [{"name": name, "digest": {"sha256": sha}} for name, sha in sorted(files.items())]
    return {"_type": TYPE, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}


def _configuration(
    report: Mapping[str, Any], by_suite: Mapping[str, Mapping[str, Any]], moment: datetime.datetime
) -> list[dict[str, Any]]:
    """The resources: qguard itself, the gates, other settings, the model, and each suite with its golden."""
    date = stamp(moment)
    first = next(iter(by_suite.values()), {})
    tool = {"version": __version__, "date": date, "host": first.get("host"), "precision": first.get("precision")}
    out = [{"name": "qguard", "uri": f"pkg:pypi/qguard@{__version__}", "annotations": {KEY: tool}}]
    if not first:
        return out
    model = dict(first["model"])
    out += [
        _resource("gates", sha256_json(first["gates"]), {"gates": first["gates"]}),
        _resource("settings", sha256_json(first["settings"]), {"settings": first["settings"]}),
        _resource(f"model/{model['name']}", model.pop("weights"), model),
    ]
    if endpoint := first.get("endpoint"):
        (name,) = first["files"]
        out.append(_resource(name, first["files"][name], endpoint))
    runs = {run["suite"]: run for run in report["runs"]}
    for name, e in by_suite.items():
        run, golden = runs[name], e["golden"]
        checks = [{k: c[k] for k in _CHECK} | _judged(c) for c in run["checks"]]
        facts = {"texts": e["suite"]["texts"], "slices": e["suite"]["slices"], "checks": checks, "latency": run["latency"]}
        out.append(_resource(f"suite/{name}", e["suite"]["sha256"], facts))
        sealed = {"manifest": golden["manifest"], "recorded": golden["date"], "scope": e["scope"]}
        sealed |= {"endpoint": golden["endpoint"]} if golden.get("endpoint") else {}
        out.append(_resource(f"golden/{model['name']}/{name}", golden["data"], sealed))
    return out


def _resource(name: str, sha256: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": sha256}, "annotations": {KEY: dict(facts)}}


def _judged(check: Mapping[str, Any]) -> dict[str, Any]:
    """What the gate judged, where that is not the value; the recipe's bound that it replaces; that it is of accepted scores."""
    more: dict[str, Any] = {"accepted": True} if check.get("accepted") else {}
    if check["promised"]:
        more["promised"] = check["promised"]
    if check["on"] != "value" and check["interval"]:
        more["judged"] = check["interval"][0 if check["on"] == "lower" else 1]
    return more


def _url() -> str | None:
    """Where the run can be looked up, of GitHub, GitLab and Jenkins."""
    e = os.environ
    if e.get("GITHUB_RUN_ID") and e.get("GITHUB_SERVER_URL") and e.get("GITHUB_REPOSITORY"):
        return f"{e['GITHUB_SERVER_URL']}/{e['GITHUB_REPOSITORY']}/actions/runs/{e['GITHUB_RUN_ID']}"
    return e.get("CI_JOB_URL") or e.get("BUILD_URL") or None
