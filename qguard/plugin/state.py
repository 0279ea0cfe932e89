"""What one pytest session asked for, and what its gate tests recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qguard.harness import Harness, Target

GATE = Path(__file__).parent.parent / "gate" / "test_quantization.py"


class State:
    """What one pytest session asked for, and what its gate tests recorded."""

    def __init__(self, harness: Harness, targets: list[Target], strict: bool) -> None:
        self.harness, self.targets, self.strict = harness, targets, strict
        self.records: list[dict[str, Any]] = []
        self.report: dict[str, Any] | None = None
        self.gated = False

    @property
    def expected(self) -> list[dict[str, Any]]:
        """What the report must hold: every target, with the names of the gate tests that judge it, and what
        was left out on purpose.
        """
        return [{**as_json(t), "tests": self.harness.tests(t), "left_out": self.left_out} for t in self.targets]

    @property
    def left_out(self) -> list[str]:
        """What the configuration or the command line switched off, as the report says it."""
        from qguard.families import FAMILIES

        switches = dict.fromkeys(f.switch for f in FAMILIES.values() if f.switch)
        return [name for name in switches if getattr(self.harness.config, name).mode == "off"]


def as_json(target: Target) -> dict[str, str]:
    """A target as it stands in reports."""
    p = target.precision
    return {"model": target.model, "precision": p.name, "runtime": p.runtime, "vectors": p.vectors, "suite": target.suite}


STATE = pytest.StashKey[State]()
RECORD = pytest.StashKey[dict[str, Any]]()
