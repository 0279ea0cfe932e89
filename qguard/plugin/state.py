"""What one pytest session asked for, and what its gate tests recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qguard.judging.session import Session, Target

GATE = Path(__file__).parent.parent / "gate" / "test_quantization.py"


class State:
    """What one pytest session asked for, and what its gate tests recorded.

    Attributes:
        gated: The shipped gate is part of the run, so all of its tests must have judged.
        alone: The run was given neither files nor folders: what is not about quantization is left out.
    """

    def __init__(self, session: Session, targets: list[Target], strict: bool) -> None:
        self.session, self.targets, self.strict = session, targets, strict
        self.records: list[dict[str, Any]] = []
        self.report: dict[str, Any] | None = None
        self.gated = self.alone = False

    @property
    def expected(self) -> list[dict[str, Any]]:
        """What the report must hold: every target, with the kind of its model, the names of the gate tests that judge it, and
        what was left out on purpose, each with its reason; of a large suite also the other machines that worked on it.
        """
        from qguard.judging.families import left_out, tests_of

        session = self.session
        return [
            {
                **as_json(t),
                "kind": session.kind(t.model),
                "tests": tests_of(session, t),
                "left_out": left_out(session, t),
                **({"fleet": session.fleet.facts} if session.fleet and session.suite(t.suite).corpus is not None else {}),
            }
            for t in self.targets
        ]


def as_json(target: Target) -> dict[str, str]:
    """A target as it stands in reports."""
    p = target.precision
    return {"model": target.model, "precision": p.label, "runtime": p.runtime, "vectors": p.vectors, "suite": target.suite}


STATE = pytest.StashKey[State]()
RECORD = pytest.StashKey[dict[str, Any]]()
TAKEN = pytest.StashKey[list[str]]()  # short names of options that another plugin owns
