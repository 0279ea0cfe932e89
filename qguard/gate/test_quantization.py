"""Judge every selected precision, model and suite. Parametrized by the plugin; see ``pytest --precision``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from qguard.families import FAMILIES, TIMED, Family
from qguard.latency.replay import TIMER


def test_golden_is_current(qguard_target: Any, qguard_gate: Any) -> None:
    """Schema and hashes are those of today's model and suite; the artifact's token ids equal the golden's."""
    qguard_gate.current(qguard_target)


def _test(family: Family) -> Callable[..., None]:
    """The gate test of one family: it runs for every target that the family judges."""

    def test(qguard_target: Any, qguard_gate: Any) -> None:
        qguard_gate.judge(qguard_target, family.name)

    test.__name__ = test.__qualname__ = family.test
    test.__doc__ = family.question
    marked: Callable[..., None] = pytest.mark.qguard(family=family.name)(test)
    return marked


for _family in FAMILIES.values():
    if _family.test != TIMED:
        globals()[_family.test] = _test(_family)


@pytest.mark.benchmark(timer=TIMER)
def test_latency(qguard_target: Any, qguard_bucket: Any, qguard_gate: Any, benchmark: Any) -> None:
    """As fast as promised, timed against fp32 (and the deployed artifact) in this very run."""
    qguard_gate.latency(qguard_target, qguard_bucket, benchmark)
