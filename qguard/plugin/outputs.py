"""What a run leaves for machines beside its report: the attested verdict, the job's summary, annotations, JUnit properties."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from qguard.console.visible import visible
from qguard.kinds import DENSE
from qguard.plugin.state import State


def attest(path: Path, state: State, report: dict[str, Any], others: Iterable[str]) -> str:
    """Write the verdict of a run over one artifact.

    Args:
        path: Where to.
        state: The session's; its records hold the evidence.
        report: The assembled one.
        others: Node ids of failed tests that are not the gate's.

    Returns:
        What kept it from saying ``PASSED``; empty where it does.
    """
    from qguard.attest import served
    from qguard.attest.evidence import artifact_path
    from qguard.attest.statement import PASSED, statement
    from qguard.attest.subjects import digests
    from qguard.errors import QguardError
    from qguard.files import dump_json, write_atomic

    found = [r["evidence"] for r in state.records if "evidence" in r]
    try:
        target = state.targets[0]
        of_server = served.is_served(target.precision)
        now = served.subject_now if of_server else lambda session, target: digests(artifact_path(session, target))
        files = now(state.session, target)
    except QguardError as e:
        return f"nothing is attested: {e}"
    made = statement(report, found, files, others)
    try:
        write_atomic(path, dump_json(made))
    except OSError as e:
        return f"the verdict {path.name} could not be written: {e.strerror or e}"
    failed = made["predicate"]["failedTests"]
    if made["predicate"]["result"] == PASSED:
        return ""
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    return f"{path.name} says FAILED: {', '.join(failed[:5])}{more}"


def summarise(report: dict[str, Any]) -> None:
    """Append the Markdown report to the summary of a GitHub job, where there is one; a full disk there fails no gate."""
    from qguard.report.as_markdown import render

    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("ab") as f:
                f.write(render(report) + b"\n")
        except OSError:
            return


def findings(
    config: pytest.Config, state: State, report: dict[str, Any], own: Iterable[pytest.TestReport]
) -> list[dict[str, Any]]:
    """What failed, with the lines to look at, relative to the repository where a CI says which folder that is."""
    from qguard.report.findings import findings as of_report
    from qguard.report.findings import of_test

    base = Path(os.environ.get("GITHUB_WORKSPACE") or os.environ.get("CI_PROJECT_DIR") or config.invocation_params.dir)
    file = Path(config.getoption("qguard_config") or state.session.config.folder / "pyproject.toml")
    tests = [of_test(r.nodeid, config.rootpath / r.location[0], (r.location[1] or 0) + 1, r.longreprtext, base) for r in own]
    level = "error" if state.strict else "warning"  # of what was not measured; only strict fails it
    found = [f | ({"level": level} if f["check"] == "unmeasured" else {}) for f in of_report(report, file, base)]
    return [*tests, *found]


class JUnit:
    """Values as properties of the test suite: schemas of JUnit files know them there, and not in a test case."""

    def __init__(self, config: pytest.Config, state: State) -> None:
        self.config, self.state = config, state

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        from qguard.report import assemble

        adders = [getattr(p, "add_global_property", None) for p in self.config.pluginmanager.get_plugins()]
        for add in filter(callable, adders):
            for name, value in properties(assemble(self.state.expected, self.state.records)):
                add(name, value)


def properties(report: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and value of every gated check, and of each run's kind of model, verdict and answers."""
    from qguard.report.answers import sentences

    found: list[tuple[str, str]] = [("qguard.verdict", report["verdict"])]
    for run in report["runs"]:
        at = f"{run['precision']}@{run['runtime']}/{run['model']}/{run['suite']}"
        found += [(f"{at}/kind", run.get("kind", DENSE)), (f"{at}/verdict", run["verdict"]), (f"{at}/answers", sentences(run))]
        for c in run["checks"]:
            if c["bound"]:
                label = c["name"] + (f"[{c['slice']}]" if c["slice"] else "") + (" (accepted)" if c.get("accepted") else "")
                found.append((f"{at}/{label}", f"{c['value']:.6g} ({c['bound']['text']}: {c['outcome']})"))
    return [(visible(name, ""), visible(value, "")) for name, value in found]
