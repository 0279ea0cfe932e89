"""The gatekeeper: judges one test's target, and leaves a record for the report."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from qguard.console.visible import visible
from qguard.judging import latency
from qguard.judging.cause import find_cause
from qguard.judging.cpus import FAMILY as CPU
from qguard.judging.cpus import facts as cpu_facts
from qguard.judging.facts import changed, facts, holds, parts
from qguard.judging.families import standard_errors
from qguard.judging.hosts import kept
from qguard.judging.index import FAMILY as INDEX
from qguard.judging.index import facts as index_facts
from qguard.plugin.state import GATE, RECORD, STATE, as_json

if TYPE_CHECKING:
    from qguard.gates.check import Check
    from qguard.judging.session import Session, Target
    from qguard.latency.check import Bucket

EMBEDDING = "embedding"
_DISABLED = (
    "latency was not measured: benchmarks are disabled (--benchmark-disable, or xdist, beside whose other workers no timing can "
    "be trusted); run without them, or set --qguard-latency=off"
)


class GateKeeper:
    """Judges a target and leaves a record for the report; ``qguard_gate`` in tests."""

    def __init__(self, session: Session, item: Any) -> None:
        self._session, self._item = session, item

    def _record(self, target: Target, bucket: Any = None) -> dict[str, Any]:
        gate = getattr(self._item, "originalname", self._item.name) + (f"[{bucket}]" if bucket else "")
        record: dict[str, Any] = {"target": as_json(target), "gate": gate, "checks": [], "done": False}
        record["shipped"] = self._item.path == GATE
        self._item.stash[RECORD] = record
        return record

    def current(self, target: Target) -> None:
        """The golden applies, and the artifact's token ids are the golden's."""
        record = self._record(target)
        with _spoken(record):
            if self._session.artifact_path is not None:  # also of what may not be judged
                record["facts"] = {"judged": parts(self._session, target)}
            self._session.token_ids(target)
            record["facts"] = facts(self._session, target)
            record["details"] = self._details(target, "golden")
            if self._item.config.getoption("qguard_attest"):
                from qguard.attest.evidence import evidence

                record["evidence"] = evidence(self._session, target)
            record["done"] = True

    def judge(self, target: Target, family: str) -> list[Check]:
        """All checks of a metric family; fails the test when a gate does not hold."""
        from qguard.families import FAMILIES
        from qguard.gates.check import PartlyMeasured

        part = FAMILIES.find(family)
        record = self._record(target)
        with _spoken(record), self._uncaptured(target, slow=family == CPU):
            problem = None
            try:
                checks = self._session.checks(target, family)
            except PartlyMeasured as e:
                checks, problem = e.checks, e
            record["checks"] = [c.to_json() for c in checks]
            record["done"] = problem is None
            if part.sampled and self._item.config.getoption("qguard_report"):
                record["standard_errors"] = standard_errors(self._session, target, family)
            record["details"] = self._details(target, family)
            if family == EMBEDDING and (folder := self._item.config.getoption("qguard_vectors")):
                record["host_vectors"] = kept(self._session, target, Path(folder))
            if family == CPU:
                record["cpus"] = cpu_facts(self._session, target)
            if family == INDEX:
                record["index"] = index_facts(self._session, target)
            if any(c.outcome == "fail" for c in checks):
                from qguard.diagnosis import command
                from qguard.report.terminal import failure_text

                cause = find_cause(self._session, target) if part.sampled else None
                record["cause"] = cause and cause.to_json()
                moved = [] if {"files", "generated"} & set(part.needs) else changed(self._session, target)
                computes = holds(self._session, target)
                fp32 = "fp32" if self._session.model(target.model).onnx else "fp32@torch"
                items = "generated text" if "generated" in part.needs else ""
                diagnose = "" if cause and cause.kind == "stack" else command(self._session, target)
                text = failure_text(target.precision, target.suite, checks, moved, computes, fp32, cause, diagnose, items)
                if problem is not None:
                    record["error"] = str(problem)
                    text += f"\n\nnot measured: {problem}"
                pytest.fail(visible(text), pytrace=False)
            if problem is not None:
                raise problem
        return checks

    def _details(self, target: Target, part: str) -> dict[str, Any]:
        """What a report shows beyond checks; nothing where none is asked for."""
        if not self._item.config.getoption("qguard_report"):
            return {}
        from qguard.report.details import details

        return details(self._session, target, part)

    def _uncaptured(self, target: Target, slow: bool) -> AbstractContextManager[None]:
        """A large suite takes hours, and an emulated CPU minutes, with the time left on stderr: nothing captures it meanwhile."""
        capture = self._item.config.pluginmanager.getplugin("capturemanager")
        if capture is None or not (slow or self._session.suite(target.suite).corpus is not None):
            return nullcontext()
        return capture.global_and_fixture_disabled()  # type: ignore[no-any-return]

    def latency(self, target: Target, bucket: Bucket, benchmark: Any) -> list[Check]:
        """The latency trials of one bucket; timings go to the ``benchmark`` fixture, the verdict is the test's own.

        Args:
            target: Precision, model and suite.
            bucket: Tokens and batch size.
            benchmark: pytest-benchmark's fixture, or ``None`` where that plugin is off.
        """
        from qguard.latency.check import UntimedProblem, undecided
        from qguard.latency.replay import hand_over
        from qguard.report.terminal import latency_text

        record = self._record(target, bucket)
        config = self._item.config
        with _spoken(record):
            if benchmark is not None and not benchmark.enabled:
                self._unmeasured(record, _DISABLED)
            precisions = [t.precision for t in config.stash[STATE].targets] if STATE in config.stash else [target.precision]
            gates = latency.gate_count(self._session, list(dict.fromkeys(precisions)))
            try:
                trials = latency.trials(self._session, target, bucket, gates)
            except UntimedProblem as e:
                if self._session.config.latency.mode == "gate":
                    self._unmeasured(record, str(e))
                record["error"], record["done"] = (
                    str(e),
                    True,
                )  # nothing was to be judged, and the report says why it has no value
                pytest.skip(visible(str(e)))
            memory = latency.memory(self._session, target, bucket)
        checks = [check for check, _, _ in trials] + memory
        found = [facts for _, facts, _ in trials if facts]
        record["checks"] = [c.to_json() for c in checks]
        record["load"] = [facts for facts in found if "requests" in facts]
        record["latency"] = [facts for facts in found if "pairs" in facts]
        record["done"] = not any(undecided(c) for c in checks)
        if benchmark is not None:
            hand_over(benchmark, trials[0][2], f"qguard: {target}", {"qguard": found})
        text = latency_text(str(target.precision), checks)
        if any(c.outcome == "fail" for c in checks):
            pytest.fail(visible(text), pytrace=False)
        if not record["done"]:
            self._unmeasured(record, text)
        return checks

    def _unmeasured(self, record: dict[str, Any], text: str) -> NoReturn:
        """Strict fails what was not measured; otherwise it is skipped, and the verdict is ``unmeasured``."""
        record["error"] = text
        state = self._item.config.stash.get(STATE, None)
        if state is None or state.strict:
            raise pytest.fail.Exception(visible(f"NOT MEASURED: {text}"), pytrace=False)
        pytest.skip(visible(text))


class _spoken:  # noqa: N801 - used as a function
    """Turns qguard's errors into a failed test with one paragraph, never a traceback."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        from qguard.boundary import shown, told
        from qguard.errors import QguardError

        if isinstance(error, Exception):
            problem = error if isinstance(error, QguardError) else told(error, f"judging {self.record['target']['precision']}")
            self.record["error"] = str(problem)
            # "from None": the paragraph alone, not the error that it was made from
            raise pytest.fail.Exception(visible(f"{shown(problem)}NOT MEASURED: {problem}"), pytrace=False) from None
