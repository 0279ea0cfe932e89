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
from qguard.latency.trial import Trial, run_trial

NULL_MARGIN = math.log(1.05)  # a runner on which a model is 5 % slower than itself measures nothing


def confirm(trial: Trial, specs: tuple[ArmSpec, ArmSpec], batch: Any, rule: Rule, options: dict[str, Any]) -> tuple[str, str]:
    """Whether a FAIL stands.

    Args:
        trial: The failed trial; its outcome is returned unless the repetition says otherwise.
        specs: Baseline and candidate.
        batch: input_ids, attention_mask and, of pairs, token_type_ids.
        rule: The trial's rule.
        options: ``tokens threads budget`` of the trial.

    Returns:
        Outcome and a note: FAIL when the repetition fails too and the null run does not, RUNNER UNFIT when the null run fails,
        otherwise inconclusive.

    Raises:
        MeasurementProblem: when the fresh process does not answer.
    """
    spec = {
        "arms": [s.to_json() for s in specs],
        "batch": [a.tolist() for a in batch],
        "rule": asdict(rule),
        "options": options,
    }
    found = run_fresh("qguard.latency.confirm", spec, "the latency trial could not be repeated")
    if found["null"] == FAIL:
        return UNFIT, f"{BUSY}: the baseline is slower than itself by 5 % or more, so latency cannot be measured now"
    if found["again"] != FAIL:
        return "inconclusive", f"a repetition in a fresh process did not fail ({found['again']})"
    return FAIL, "confirmed in a fresh process"


def main() -> None:
    """Read the specification, run both trials, print their outcomes."""
    import numpy as np

    spec = json.load(sys.stdin)
    a, b = (ArmSpec.from_json(s) for s in spec["arms"])
    batch = tuple(np.asarray(x, np.int64) for x in spec["batch"])
    rule = Rule(**{**spec["rule"], "sessions": tuple(spec["rule"]["sessions"])})
    options = spec["options"]
    again = run_trial(a.arm(batch), b.arm(batch), rule, seed=1, **options)
    null = run_trial(a.arm(batch), a.arm(batch), replace(rule, limit=NULL_MARGIN), seed=2, **options)
    print(json.dumps({"again": again.look.outcome, "null": null.look.outcome}))


if __name__ == "__main__":
    main()
