"""What is timed of each precision, and against what: the harness's side of the latency gates."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qguard import accepted
from qguard.gates import Gate, parse_bound
from qguard.gates.check import Check, judge
from qguard.golden import golden_folder
from qguard.latency.check import GATED_TOKENS, Bucket, Comparison, compare, same_outputs, spec_of
from qguard.latency.memory import NAME, peak_bytes
from qguard.metrics import Measured
from qguard.precisions import Precision
from qguard.vectors import FLOAT

if TYPE_CHECKING:
    from qguard.harness import Harness, Target


@dataclass(frozen=True)
class Timing:
    """The latency gates of a harness."""

    harness: Harness

    def buckets(self, precision: Precision) -> list[Bucket]:
        """The latency buckets of a precision; none where nothing is promised and nothing is to be compared with.

        Nor with quantized vectors: they are made after the model ran, and its latency is that of the plain precision. Nor of
        a runtime that is not timed in this process.
        """
        latency = self.harness.config.latency
        if latency.mode == "off" or precision.vectors != FLOAT or not precision.runs_in.timed:
            return []
        if not (self.speedup(precision) or self.harness.has_baseline):
            return []
        return [Bucket(t, b) for t in latency.tokens for b in latency.batches]

    def speedup(self, precision: Precision) -> Gate | None:
        """The bound on ``latency.speedup`` that a precision promises or the project sets; fp32 promises none."""
        promised = precision.recipe.speedup
        bound = None if precision.base == "fp32" else self.harness.config.latency.speedup or promised
        return Gate("latency.speedup", None, *parse_bound("latency.speedup", bound)) if bound else None

    def gates(self, precisions: list[Precision]) -> int:
        """How many latency gates a run with these precisions has; the chance of a false alarm is shared among them."""
        per = [len(self.buckets(p)) * (bool(self.speedup(p)) + self.harness.has_baseline) for p in precisions]
        return max(1, sum(per) * len(self.harness.config.models))

    def trials(self, target: Target, bucket: Bucket, gates: int) -> list[tuple[Check, dict[str, Any], list[float]]]:
        """The latency trials of one bucket: check, facts and the candidate's timed runs (seconds) of each.

        Raises:
            MeasurementProblem: when the timed outputs are not the judged ones, or nothing could be timed.
        """
        settings, precision = self.harness.config.latency, target.precision
        device = self.harness.config.device
        batch = bucket.fill(self.harness.golden(target.model, target.suite).token_ids)
        artifact = self.harness.artifact(precision, target.model)
        candidate = spec_of(artifact, precision, settings.threads, device=device)
        same_outputs(candidate, batch, self.harness.encoder(precision, target.model))
        todo = []
        if speedup := self.speedup(precision):
            fp32 = self.harness.fp32(target.model, candidate.runtime)
            gate = speedup if settings.mode == "gate" else None
            baseline = spec_of(fp32, Precision("fp32", candidate.runtime), settings.threads, device=device)
            todo.append(Comparison("latency.speedup", gate, baseline, candidate))
        if self.harness.has_baseline:
            deployed = self.harness.deployed(target.model) or artifact
            limit = Gate("latency.regression", None, *parse_bound("latency.regression", settings.regression))
            gated = settings.mode == "gate" and bucket.tokens >= GATED_TOKENS
            # with another interpreter both arms run in workers, so that only the environments differ
            python = self.harness.baseline_python
            arms = (
                spec_of(deployed, precision, settings.threads, python, device),
                spec_of(artifact, precision, settings.threads, sys.executable if python else None, device),
            )
            todo.append(Comparison("latency.regression", limit if gated else None, *arms))
        out = []
        for comparison in todo:
            check, facts, trial = compare(
                comparison, bucket, batch, target.suite, gates=gates, threads=settings.threads, budget=settings.budget
            )
            out.append((check, facts, trial.runs))
            if moved := self._trend(target, facts):
                out.append((moved, {}, []))
        return out

    def _trend(self, target: Target, facts: dict[str, Any]) -> Check | None:
        """``latency.trend``: slowdown against the ratio accepted on an equal fingerprint; gated only if configured."""
        folder = golden_folder(self.harness.config.golden_root, target.model, target.suite)
        found = accepted.trend(folder, f"{target.precision.name}@{target.precision.runtime}", facts)
        if found is None:
            return None
        slowdown, entry = found
        facts["accepted"] = {k: entry[k] for k in ("ratio", "interval", "date")} | {"slowdown": slowdown}
        words = f"{facts['metric']}[{facts['bucket']}] {facts['ratio']:.2f}, accepted {entry['ratio']:.2f} on {entry['date']}"
        if not 1 / (1 + accepted.MOVED) <= slowdown <= 1 + accepted.MOVED:
            words += f": moved by more than {accepted.MOVED:.0%} on an equal machine"
        measured = Measured("latency.trend", facts["bucket"], slowdown, facts["pairs"], False, (words,))
        bound = self.harness.config.latency.trend if self.harness.config.latency.mode == "gate" else None
        gates = [Gate("latency.trend", "*", *parse_bound("latency.trend", bound))] if bound else []
        return judge([measured], gates, target.suite)[0]

    def memory(self, target: Target, bucket: Bucket) -> list[Check]:
        """``memory.ratio``: peak memory of a process that runs the candidate, over fp32 in the same runtime and device."""
        threads, device = self.harness.config.latency.threads, self.harness.config.device
        batch = bucket.fill(self.harness.golden(target.model, target.suite).token_ids)
        candidate = spec_of(self.harness.artifact(target.precision, target.model), target.precision, threads, device=device)
        baseline = self.harness.fp32(target.model, candidate.runtime)
        fp32 = spec_of(baseline, Precision("fp32", candidate.runtime), threads, device=device)
        peaks = [peak_bytes(s, batch) for s in (candidate, fp32)]
        words = f"{peaks[0] / 1e6:.0f} MB against {peaks[1] / 1e6:.0f} MB, {bucket.tokens} tokens x {bucket.batch}"
        measured = Measured(NAME, None, peaks[0] / peaks[1], 1, False, (words,))
        return judge([measured], self.harness.gates(target.precision), target.suite)
