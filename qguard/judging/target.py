"""What one gate test judges."""

from __future__ import annotations

from dataclasses import dataclass, replace

from qguard.precisions import Precision


@dataclass(frozen=True, order=True)
class Target:
    """What one gate test judges: a precision of a model on a suite."""

    precision: Precision
    model: str
    suite: str

    def __str__(self) -> str:
        return f"{self.precision}-{self.model}-{self.suite}"

    @property
    def plain(self) -> Target:
        """The same model with float32 vectors."""
        return replace(self, precision=self.precision.plain)
