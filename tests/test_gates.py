from __future__ import annotations

import pytest

from qguard.errors import UsageProblem
from qguard.gates import DEFAULTS, gates_for, judge, parse_gate
from qguard.metrics import Measured
from qguard.precisions import parse_precision


@pytest.mark.parametrize("precision", DEFAULTS)
def test_every_default_gate_parses(precision):
    assert gates_for(parse_precision(f"fp32{precision}" if precision.startswith("+") else precision), {})


def test_unknown_metric_names_the_nearest():
    with pytest.raises(UsageProblem, match=r"did you mean.*ranking\.overlap@10"):
        parse_gate("ranking.overlap@1", ">= 0.9")


@pytest.mark.parametrize("bound", ["0.9", "> 0.9", ">= high", ">= nan", ""])
def test_a_bound_that_is_no_bound_is_refused(bound):
    with pytest.raises(UsageProblem, match="expected a bound"):
        parse_gate("ranking.top1", bound)


def test_nan_never_passes():
    for op in (">= 0", "<= 1"):
        (check,) = judge([Measured("ranking.top1", None, float("nan"), 1, True)], [parse_gate("ranking.top1", op)], "s")
        assert check.outcome == "fail"


def test_a_slice_gate_wins_over_the_star():
    gates = [parse_gate("ranking.top1[*]", ">= 0.9"), parse_gate("ranking.top1[legal]", ">= 0.5")]
    found = judge([Measured("ranking.top1", s, 0.6, 1, True) for s in ("legal", "news", None)], gates, "s")
    assert [c.outcome for c in found] == ["pass", "fail", "reported"]
