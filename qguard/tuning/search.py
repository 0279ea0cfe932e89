"""The search: candidates in turn until the time is over, what was measured kept in a file, so that it can go on another day."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from qguard.artifacts.layers import read_layers
from qguard.boundary import step
from qguard.config import Config
from qguard.errors import MeasurementProblem, QguardError, UsageProblem
from qguard.files import dump_json, sha256_json, write_atomic
from qguard.gates.check import Check
from qguard.judging.compare import LEVEL
from qguard.judging.session import Session, Target
from qguard.latency.check import fingerprint
from qguard.precisions import RECIPES, Precision
from qguard.precisions.calibration import Calibration
from qguard.precisions.tuning import Tuning
from qguard.tuning.halves import halves
from qguard.tuning.measured import Measured, judged_on, measured, of_the_file, speeds
from qguard.tuning.space import described, patterns, steps

STATE = "tune.json"
TEXTS = 48  # on which a layer alone in fp32 is measured
HEAT = 3  # candidates that are timed again before one is chosen, and that the other half may judge
FASTEST, SMALLEST = "fastest", "smallest"


@dataclass
class Tuned:
    """What a search found.

    Attributes:
        candidates: All that were measured, in their order.
        chosen: The best that holds on both halves; ``None`` where none does.
        checks: What the other half says of it, with generated texts; of the last that was asked, where none holds.
        asked: How many candidates the other half judged.
        ended: Whether nothing is left to try; else the time was over.
    """

    candidates: list[Measured] = field(default_factory=list)
    chosen: tuple[Precision, Measured] | None = None
    checks: list[Check] = field(default_factory=list)
    asked: int = 0
    ended: bool = False


class Search:
    """A search over the artifacts of one model.

    Args:
        session: Of the configuration; another one is made for each candidate, so that no model stays in memory.
        model: Its name.
        suite: The suite that chooses and judges.
        gated_as: The precision whose gates of accuracy every candidate has to hold, whatever its own are.
        out: The folder of the state.
        objective: :data:`FASTEST` or :data:`SMALLEST`.
        calibrations: Texts to calibrate on, beside those that qguard ships.
        seed: Of the halves.
        say: Called with a line for people.

    Raises:
        MeasurementProblem: for a suite that cannot be halved.
        UsageProblem: for a state of another model, golden or machine.
    """

    def __init__(
        self,
        session: Session,
        model: str,
        suite: str,
        gated_as: Precision,
        out: Path,
        objective: str = FASTEST,
        calibrations: Sequence[Calibration] = (),
        seed: int = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.session, self.model, self.suite, self.out, self.objective = session, model, suite, out, objective
        self.calibrations, self.say, self.gated_as = calibrations, say, gated_as
        self.choosing, self.judging = halves(session.suite(suite, model), seed)
        self.known: dict[str, tuple[Precision | None, Measured]] = {}
        self._dearest: list[str] | None = None
        self._identity = self._whole(seed)
        self._read()

    def _whole(self, seed: int) -> str:
        """Everything that decides what a candidate's values are, but for the candidate."""
        base, golden = self.session.model(self.model), self.session.golden(self.model, self.suite)
        gates = [(g.metric, g.slice, str(g.bound)) for g in self.session.gates(self.gated_as, self.model)]
        machine = fingerprint(self.session.config.latency.threads)
        parts = [base.weight_sha256, base.tokenizer_sha256, base.pipeline.sha256(), golden.manifest["data_sha256"], gates, seed]
        return sha256_json([*parts, self.session.suite(self.suite).sha256, machine])

    def _read(self) -> None:
        path = self.out / STATE
        if not path.exists():
            return
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            rows = [Measured.from_json(row) for row in state["measured"]]
            same = state["of"] == self._identity
        except (ValueError, KeyError, TypeError) as e:
            raise UsageProblem(f"--out {self.out.name}: {STATE} is no state of a search; give another folder") from e
        if not same:
            raise UsageProblem(
                f"--out {self.out.name}: {STATE} is of another model, golden, suite, machine or other gates; give another "
                "folder, or remove it"
            )
        self.known = {row.key: (None, row) for row in rows}

    def _keep(self) -> None:
        rows = [row.to_json() for _, row in self.known.values()]
        write_atomic(self.out / STATE, dump_json({"schema": 1, "of": self._identity, "measured": rows}))

    def target(self, precision: Precision) -> Target:
        """The model's target in this precision."""
        return Target(precision, self.model, self.suite)

    def measure(self, precision: Precision) -> Measured:
        """A candidate's figures, from the state or measured now."""
        key = sha256_json(precision.key(self.session.model(self.model)))
        if key in self.known:
            found = self.known[key][1]
        else:
            session, settings = Session(self.session.config), settings_of(precision, self.session.config)
            found = measured(session, self.target(precision), self.choosing, self.gated_as, key, settings)
            self.known[key] = (precision, found)
            self._keep()
            self.say(self._line(found))
        self.known[key] = (precision, found)
        return found

    def _line(self, found: Measured) -> str:
        best = self.best()[:1]
        now = f"best so far: {best[0][1].words}, {self._worth(best[0][1])}" if best else "none holds so far"
        if found.error:
            return f"{found.words}: not measured, {found.error}"
        said = "holds" if found.holds else f"fails {found.failed[0]}" + (f" (+{len(found.failed) - 1})" * (len(found.failed) > 1))
        return f"{found.words}: {found.overall:.2f} x, {found.bytes / 1e6:.1f} MB, {said}; {now}"

    def _worth(self, found: Measured) -> str:
        return f"{found.overall:.2f} x" if self.objective == FASTEST else f"{found.bytes / 1e6:.1f} MB"

    def value(self, found: Measured) -> float:
        """What is to be large."""
        return found.overall if self.objective == FASTEST else -float(found.bytes)

    def best(self) -> list[tuple[Precision, Measured]]:
        """The candidates of this search that hold, the best first; see :meth:`ordered`."""
        return self.ordered([(p, m) for p, m in self.known.values() if p is not None and m.holds and not m.error])

    def ordered(self, candidates: Sequence[tuple[Precision, Measured]]) -> list[tuple[Precision, Measured]]:
        """The best first. Where speeds, or sizes, differ by less than a short trial can tell, the more accurate one is better."""
        left, out = sorted(candidates, key=lambda pair: -self.value(pair[1])), []
        while left:
            top = self.value(left[0][1])
            alike = [pair for pair in left if self.value(pair[1]) >= (top / LEVEL if top > 0 else top * LEVEL)]
            first = max(alike, key=lambda pair: pair[1].accuracy[1])
            out.append(first)
            left.remove(first)
        return out

    def run(self, precisions: Sequence[Precision], minutes: float, clock: Callable[[], float] = time.monotonic) -> Tuned:
        """Search, choose, and let the other half judge.

        Args:
            precisions: Where it begins.
            minutes: For the search; what was begun is finished, and the verdict comes after it.
            clock: Monotonic seconds.
        """
        end, found = clock() + 60 * minutes, Tuned()
        begun = list(dict.fromkeys(precisions))
        for precision in begun:
            if clock() > end and self.known:
                break
            self.measure(precision)
        while clock() < end:
            step_to = self._next()
            if step_to is None:
                found.ended = True
                break
            self.measure(step_to)
        found.candidates = [row for _, row in self.known.values()]
        self._choose(found)
        return found

    def _next(self) -> Precision | None:
        """The next candidate: near the best that holds, else near the one that fails by the least."""
        tried = {key for key, (p, _) in self.known.items() if p is not None}
        holding = self.best()
        failing = sorted(
            ((p, m) for p, m in self.known.values() if p is not None and not m.holds and not m.error),
            key=lambda pair: pair[1].missed,
        )
        worth = self.value(holding[0][1]) if holding else float("-inf")
        # what fails and would not be better if it held is left alone
        near_misses = [pair for pair in failing if self.value(pair[1]) > worth]
        for precision, row in [*holding[:HEAT], *near_misses[:HEAT]]:
            base = RECIPES[f"{precision.base}@{precision.runtime}"]
            dearest = self.dearest(precision) if base.tunable and not row.holds else ()
            for near in steps(precision, row.holds, dearest, self.calibrations):
                if sha256_json(near.key(self.session.model(self.model))) not in tried:
                    return near
        return None

    def dearest(self, precision: Precision) -> Sequence[str]:
        """Layers by what they cost in accuracy, the dearest first: each left in fp32 alone, on some texts; found out once."""
        if self._dearest is None:
            from qguard.diagnosis.examination import Examination
            from qguard.diagnosis.exclusion import LayerExchange, costs

            self._dearest = []
            try:
                in_onnx = replace(precision, runtime="onnx", base="int8", name="int8", tuning=None)
                examined = Examination(Session(self.session.config), self.target(in_onnx), 32)
                fp32 = self.session.fp32(self.model, "onnx").file
                assert fp32 is not None
                exchange = LayerExchange(fp32, examined.file)
                score = examined.scorer(self.choosing[:: max(1, len(self.choosing) // TEXTS)])
                layers = {name for x in read_layers(examined.artifact).layers if x.computes == "integer" for name in x.names}
                with tempfile.TemporaryDirectory() as work:
                    dear = [c.unit.layer for c in costs(exchange, score, Path(work)) if c.cosine > 0]
                self._dearest = [name for name in dear if Tuning(exclude=patterns([name])).excludes(layers)]
            except QguardError as e:  # a model whose layers cannot be exchanged is searched without
                self.say(f"layers are not left out: {e}")
        return self._dearest

    def _choose(self, found: Tuned) -> None:
        """Time the best once more, then ask the other half, the best first."""
        heat = self.best()[:HEAT]
        if self.objective == FASTEST and len(heat) > 1:
            heat = self.ordered([(p, self._again(p, m)) for p, m in heat])
        for precision, row in heat:
            session, target = Session(self.session.config), self.target(precision)
            found.asked += 1
            with step(f"judging {described(precision)}"):
                found.checks = [*judged_on(session, target, self.judging, self.gated_as), *of_the_file(session, target)]
                generated = [f.name for f in session.families(target) if "generated" in f.needs]
                found.checks += [check for name in generated for check in session.checks(target, name)]
            if all(c.outcome != "fail" for c in found.checks):
                found.chosen = precision, row
                return

    def _again(self, precision: Precision, row: Measured) -> Measured:
        """The mean of its speeds and of those of a second trial: the best of many was lucky, too."""
        try:
            timed = speeds(Session(self.session.config), self.target(precision))
        except MeasurementProblem:
            return row
        twice = {bucket: (ratio * (row.speed or {}).get(bucket, ratio)) ** 0.5 for bucket, (ratio, _) in timed.items()}
        return replace(row, speed=twice)


def settings_of(precision: Precision, config: Config) -> dict[str, Any]:
    """A candidate as ``[tool.qguard.precision.NAME]`` gives it: calibration texts by a suite's name, or relative to its file."""
    found: dict[str, Any] = {"recipe": f"{precision.base}@{precision.runtime}"}
    if (calibration := precision.calibration) is not None:
        path, name = calibration.path, calibration.source
        file = isinstance(path, Path) and name not in config.known_suites
        found |= {"calibration": os.path.relpath(str(path), str(config.folder)) if file else name}
    return found | (precision.tuning or Tuning()).given
