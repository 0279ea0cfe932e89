"""Accepted scores, a ratchet: what falls below one by more than its noise is a regression, even where the gate still holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qguard.accepted.stored import read
from qguard.errors import GoldenProblem
from qguard.families import all_metrics
from qguard.gates.check import Check
from qguard.machine.cpu import cpu_class
from qguard.metrics import Measured
from qguard.metrics.bootstrap import Z
from qguard.metrics.bounds import Bound
from qguard.precisions import Precision
from qguard.vectors.quantized import FLOAT

# Rounding by other kernels of one CPU class flips a tie at times; no value is held to more digits than that.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Scope:
    """What accepted scores belong to: they are compared with no other precision, machine or suite.

    Attributes:
        precision: ``NAME[:DIMS]@RUNTIME[+VECTORS]``.
        machine: See :func:`qguard.machine.cpu.cpu_class`; of CUDA the device; of another machine what the runtime calls it.
        golden: First digits of the golden's hashes of ``suite`` and ``weights``: other texts or weights have other scores.
    """

    precision: str
    machine: str
    golden: Mapping[str, str]

    @classmethod
    def of(cls, precision: Precision, device: str, hashes: Mapping[str, str]) -> Scope:
        """Scores of ``precision`` measured on ``device``, of this machine where it is ``cpu`` or ``cuda``, against a golden with
        ``hashes``.
        """
        machine = cpu_class()
        if device == "cuda" and "torch" not in precision.runs_in.libraries:
            from qguard.machine.cuda import require_card

            machine = f"cuda {require_card(precision.runtime).name}"
        elif device == "cuda":
            import torch

            from qguard.encoders.torch import require_cuda

            require_cuda()
            machine = f"cuda {torch.cuda.get_device_name()}"
        elif device != "cpu":
            machine = device
        kind = "" if precision.vectors == FLOAT else f"+{precision.vectors}"
        golden = {part: hashes[part][:16] for part in ("suite", "weights")}
        return cls(f"{precision.label}@{precision.runtime}{kind}", machine, golden)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the report and in ``accepted.json``."""
        return {"precision": self.precision, "machine": self.machine, "golden": dict(self.golden)}


def directions() -> dict[str, bool]:
    """Metric → whether higher is better, of all metrics over a suite's items."""
    return {m.name: m.higher_is_better for m in all_metrics() if not m.of_fp32}


def noise(entry: Mapping[str, Any]) -> float:
    """How far two measurements of equally good models may lie apart, in 95 % of cases.

    Both values are taken as independent draws, each with the accepted one's standard error: √2 · 1.96 of it. They are of the
    same texts, which correlates them, so that this errs on the side of calling a small fall noise.
    """
    return max(math.sqrt(2) * Z * float(entry["standard_error"]), ROUNDING)


def _found(folder: Path, scope: Scope) -> list[dict[str, Any]]:
    want = scope.to_json()
    entries = [e for e in read(folder)["scores"] if all(e.get(k) == want[k] for k in ("precision", "machine"))]
    for e in entries:
        numbers = (e.get("value"), e.get("standard_error"))
        if not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers) or not isinstance(e.get("metric"), str):
            where = f"{folder.parent.name}/{folder.name}/accepted.json"
            raise GoldenProblem(f"{where}: a damaged score; restore it or accept it again")
    return entries


def judge_scores(folder: Path, scope: Scope, measured: Iterable[Measured], suite: str) -> list[Check]:
    """One check for each whole-suite value that has an accepted one in this scope.

    Args:
        folder: The golden folder of model and suite.
        scope: What is judged.
        measured: Values of one family.
        suite: The suite's name.
    """
    entries = {e["metric"]: e for e in _found(folder, scope) if e.get("golden") == scope.to_json()["golden"]}
    checks = []
    for m in measured:
        entry = entries.get(m.name)
        if entry is None or m.slice is not None:
            continue
        allowed, old = noise(entry), float(entry["value"])
        bound = Bound(">=", old - allowed) if m.higher_is_better else Bound("<=", old + allowed)
        margin = bound.margin(m.value)
        outcome = "pass" if margin >= 0 else "fail"
        words = f"accepted {old:.4f} on {entry.get('date')}, now {m.value:.4f}, "
        words += f"{'within' if margin >= 0 else 'more than'} its noise {allowed:.4f}"
        checks.append(Check(m.name, suite, None, m.value, bound, outcome, margin, m.items, (), accepted=words))
    return checks


def stale(folder: Path, scope: Scope) -> int:
    """How many accepted scores of this precision and machine are of other texts or weights, and so are compared with nothing."""
    return sum(e.get("golden") != scope.to_json()["golden"] for e in _found(folder, scope))


def merged(
    stored: list[dict[str, Any]],
    scope: Mapping[str, Any],
    values: Mapping[str, Mapping[str, Any]],
    why: Mapping[str, str],
    lower: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    """The accepted scores with new ones put over them; a worse one only where that is asked for.

    Args:
        stored: What was accepted.
        scope: As :meth:`Scope.to_json` gives it.
        values: Metric → ``value``, ``items`` and ``standard_error``.
        why: ``reason`` and ``date``.
        lower: Also replace scores by worse ones.

    Returns:
        All entries, sorted, and one line for each that is new, replaced, or kept although the new value is worse.
    """
    higher = directions()
    entries = {(e["precision"], e["machine"], e["metric"]): e for e in stored}
    lines = []
    for metric, value in values.items():
        if metric not in higher:
            continue
        entry = {**scope, "metric": metric, **{k: value[k] for k in ("value", "items", "standard_error")}, **why}
        key = scope["precision"], scope["machine"], metric
        old = entries.get(key)
        of_this = old is not None and old.get("golden") == scope["golden"]
        change = f"{old['value']:.4f} → {value['value']:.4f}" if old else f"{value['value']:.4f}"
        if old is not None and of_this:
            gain = (value["value"] - old["value"]) * (1 if higher[metric] else -1)
            if gain == 0:
                continue
            if gain < 0 and not lower:
                lines.append(
                    f"{scope['precision']} {metric} stays {old['value']:.4f} (now {value['value']:.4f}; --lower accepts it)"
                )
                continue
        lines.append(
            f"{scope['precision']} {metric} {change}" + ("" if of_this or not old else " (of other texts or weights before)")
        )
        entries[key] = entry
    return [entries[k] for k in sorted(entries)], lines
