"""Repeats a failed trial in a fresh process, beside a null run of the baseline against itself.

usage: python -m qguard.latency.confirm < SPEC.json    prints {"again": …, "null": …}
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, replace
from typing import Any

from qguard.latency.arms import ArmSpec
from qguard.latency.decision import BUSY, FAIL, UNFIT, Rule
from qguard.latency.fresh import run_fresh
from qguard.latency.served import ServedSpec
from qguard.latency.trial import Trial, run_trial

NULL_MARGIN = math.log(1.05)  # a runner on which a model is 5 % slower than itself measures nothing


def confirm(
    trial: Trial, specs: tuple[ArmSpec | ServedSpec, ArmSpec | ServedSpec], batch: Any, rule: Rule, options: dict[str, Any]
) -> tuple[str, str]:
    """Whether a FAIL stands. Servers are not computed in this process, and are asked again from here.

    Args:
        trial: The failed trial; its outcome is returned unless the repetition says otherwise.
        specs: Baseline and candidate.
        batch: input_ids, attention_mask and, of pairs, token_type_ids; the texts of a server's requests.
        rule: The trial's rule.
        options: ``tokens threads budget`` of the trial.

    Returns:
        Outcome and a note: FAIL when the repetition fails too and the null run does not, RUNNER UNFIT when the null run fails,
        otherwise inconclusive.

    Raises:
        MeasurementProblem: when the fresh process does not answer.
    """
    here = any(isinstance(s, ServedSpec) for s in specs)
    found = repeated(specs, batch, rule, options) if here else _afresh(specs, batch, rule, options)
    where = "" if here else " in a fresh process"
    if found["null"] == FAIL:
        return UNFIT, f"{BUSY}: the baseline is slower than itself by 5 % or more, so latency cannot be measured now"
    if found["again"] != FAIL:
        return "inconclusive", f"a repetition{where} did not fail ({found['again']})"
    return FAIL, f"confirmed{where or ' by a repetition'}"


def _afresh(specs: Any, batch: Any, rule: Rule, options: dict[str, Any]) -> dict[str, str]:
    values = {
        "arms": [s.to_json() for s in specs],
        "batch": [a.tolist() for a in batch],
        "rule": asdict(rule),
        "options": options,
    }
    found: dict[str, str] = run_fresh("qguard.latency.confirm", values, "the latency trial could not be repeated")
    return found


def repeated(specs: Any, batch: Any, rule: Rule, options: dict[str, Any]) -> dict[str, str]:
    """Outcomes of the same trial again, and of a null run of the baseline."""
    a, b = specs
    again = run_trial(a.arm(batch), b.arm(batch), rule, seed=1, **options)
    null = run_trial(a.arm(batch), a.arm(batch), replace(rule, limit=NULL_MARGIN), seed=2, **options)
    return {"again": again.look.outcome, "null": null.look.outcome}


def main() -> None:
    """Read the specification, run both trials, print their outcomes."""
    import numpy as np

    spec = json.load(sys.stdin)
    specs = [ArmSpec.from_json(s) for s in spec["arms"]]
    batch = tuple(np.asarray(x, np.int64) for x in spec["batch"])
    rule = Rule(**{**spec["rule"], "sessions": tuple(spec["rule"]["sessions"])})
    print(json.dumps(repeated(specs, batch, rule, spec["options"])))


if __name__ == "__main__":
    main()
