"""The collector: gathers the records of all gate tests into one verdict, report and summary."""

from __future__ import annotations

import gc
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from qguard.boundary import step
from qguard.console.visible import visible
from qguard.errors import QguardError
from qguard.plugin.outputs import JUnit, attest, findings, summarise
from qguard.plugin.state import GATE, TAKEN, State

# options that keep tests from a run
_HIDES = ("-k", "-m", "--deselect", "--ignore", "--co", "--setup", "--lf", "--last-failed", "--sw", "--stepwise")


class Collector:
    """Gathers the records of the gate tests into one verdict."""

    def __init__(self, config: pytest.Config, state: State, asked: str) -> None:
        self.config, self.state, self.asked = config, state, asked
        self.judged = self.nothing = False  # a test judged something; none did, and the run ended all the same
        self.own: list[pytest.TestReport] = []  # failed tests of the project's own, which ran beside the gate
        config.pluginmanager.register(JUnit(config, state))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, "qguard", None)
        if record is not None:
            self.state.records.append(record)
        self.judged |= bool(getattr(report, "qguard_judges", False))
        if report.failed and not getattr(report, "qguard_shipped", False):
            self.own.append(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if all(item.path == GATE for item in session.items):
            # pytest is about to search all objects for what tests left behind, twice: the gate alone leaves nothing there
            gc.freeze()
        if "hypothesis" not in sys.modules:
            # its summary, with nothing to say, would import all of it: 0.3 s, or three times that without bytecode files
            self.config.pluginmanager.unregister(name="hypothesispytest")
        if self.config.getoption("qguard_golden_update"):
            session.exitstatus = self._update()
            return
        ended = (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        self.nothing = not self.judged and exitstatus in (*ended, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self.nothing and self.state.strict and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        if self.config.option.collectonly or exitstatus not in ended:
            return
        from qguard.report import assemble, write
        from qguard.report.moment import commit, created

        report = self.state.report = assemble(self.state.expected, self.state.records)
        report |= {"created": created(), "commit": commit()}
        unmeasured = report["verdict"] == "unmeasured" and (self.state.strict or not self.state.records)
        # a run of one's own tests alone answers for nothing else; once a test of the shipped gate ran, all of them must
        gated = self.state.gated or any(r["shipped"] for r in self.state.records)
        if gated and exitstatus == pytest.ExitCode.OK and (report["verdict"] == "fail" or unmeasured):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        report["findings"] = findings(self.config, self.state, report, self.own)
        verdict = self.config.getoption("qguard_attest")
        if verdict and (said := attest(Path(verdict), self.state, report, [r.nodeid for r in self.own])):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            report["runs"][0]["errors"].append(said)
        summarise(report)
        for path in self.config.getoption("qguard_report"):
            try:
                with step(f"writing the report {Path(path).name}"):
                    write(report, Path(path))
            except QguardError as e:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
                report["runs"][0]["errors"].append(str(e))

    def _update(self) -> int:
        from qguard import goldens as golden
        from qguard.endpoints.settings import SERVED
        from qguard.goldens.from_server import Server

        session, self.lines = self.state.session, list[str]()
        served, status = session.config.endpoint.get(SERVED) if self.config.getoption("qguard_endpoint") else None, 0
        server = Server(served.endpoint(SERVED)) if served else None
        for target in self.state.targets:
            try:
                model, suite = session.model(target.model), session.recorded_suite(target.suite, target.model)
                review = golden.record(
                    model, suite, session.config.golden_root, self.config.getoption("qguard_golden_reason"),
                    accept_change=self.config.getoption("qguard_golden_accept_change"),
                    show=lambda r: self.lines.extend(r.words.split("\n")), server=server,
                )  # fmt: skip
                self.lines.append(f"{target.model}/{target.suite}: {'written' if review.changed else 'unchanged'}")
            except QguardError as e:
                self.lines.append(f"{target.model}/{target.suite}: {e}")
                status = 1
        return status

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.config.getoption("qguard_golden_update"):
            terminalreporter.section("qguard goldens")
            for line in self.lines:
                terminalreporter.line(visible(line))
            return
        if self.nothing:
            terminalreporter.section("qguard: NOTHING WAS JUDGED", red=self.state.strict)
            said = f"--precision {self.asked} was given, and no test that ran judges it. Run: {self._works()}"
            terminalreporter.line(visible(said, ""))
        if self.state.report is not None:
            from qguard.report.terminal import summary_lines

            terminalreporter.section(f"qguard: {self.state.report['verdict'].upper()}")
            for line in summary_lines(self.state.report):
                terminalreporter.line(visible(line), red="FAIL" in line)
            if os.environ.get("GITHUB_ACTIONS") == "true":
                from qguard.report.github import commands

                for line in commands(self.state.report.get("findings", [])):
                    terminalreporter.line(line)

    def _works(self) -> str:
        """The command that runs the gate, whatever this run's paths, options and environment say."""
        taken = self.config.stash.get(TAKEN, [])
        precision, given = (f"--qguard-{n}" if f"--{n}" in taken else f"--{n}" for n in ("precision", "artifact"))
        words = ["pytest", "--pyargs", "qguard.gate", f"{precision}={self.asked}"]
        if any(str(word).startswith(_HIDES) for word in self.config.getini("addopts")):
            words.insert(1, "-o addopts=")
        if artifact := self.config.getoption("qguard_artifact"):
            words.append(f"{given}={shlex.quote(artifact)}")
        return " ".join([*(["PYTEST_ADDOPTS="] if os.environ.get("PYTEST_ADDOPTS") else []), *words])
