"""Bounds such as ``>= 0.9``: parsed where they are written, and values from there on."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from qguard.errors import UsageProblem

_BOUND = re.compile(r"\s*(?P<op>>=|<=)\s*(?P<number>[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?)\s*")


@dataclass(frozen=True)
class Bound:
    """The least (``>=``) or the largest (``<=``) number that passes.

    Attributes:
        op: The direction.
        number: Finite; it passes itself.
    """

    op: Literal[">=", "<="]
    number: float

    @classmethod
    def of(cls, bound: str | Bound, key: str) -> Bound:
        """A bound that may still be text, as a record of another package may have it; see :meth:`parse`."""
        return bound if isinstance(bound, Bound) else cls.parse(bound, f"gate {key}")

    @classmethod
    def parse(cls, text: object, what: str = "") -> Bound:
        """A bound from text, as configurations and tables have it.

        Args:
            text: ``>= NUMBER`` or ``<= NUMBER``; spaces are free.
            what: What it bounds, for the message.

        Raises:
            UsageProblem: for anything else.
        """
        found = _BOUND.fullmatch(text) if isinstance(text, str) else None
        if found is None or not math.isfinite(number := float(found["number"])):
            head = f"{what}: " if what else ""
            raise UsageProblem(f"{head}expected a bound such as '>= 0.9' or '<= 0.05', found {text!r}")
        return cls(">=" if found["op"] == ">=" else "<=", number)

    @property
    def lower(self) -> bool:
        """Whether it is the least number that passes."""
        return self.op == ">="

    def holds(self, value: float) -> bool:
        """Whether a value passes; NaN never does."""
        return value >= self.number if self.lower else value <= self.number

    def margin(self, value: float) -> float:
        """How far a value is from the bound; negative where it fails."""
        return value - self.number if self.lower else self.number - value

    def laxer(self, other: Bound) -> bool:
        """Whether this lets something pass that ``other`` does not."""
        return self.op != other.op or other.margin(self.number) < 0

    def passing(self, value: float, digits: int = 4) -> Bound:
        """The bound of this direction that ``value`` just passes, rounded to so many decimals."""
        scale = 10.0**digits
        return Bound(self.op, (math.floor if self.lower else math.ceil)(value * scale) / scale)

    def __str__(self) -> str:
        """The text for people, with six significant digits."""
        return f"{self.op} {self.number:g}"

    @property
    def printed(self) -> Bound:
        """The bound that the text of this one says."""
        return Bound(self.op, float(f"{self.number:g}"))

    @property
    def exact(self) -> str:
        """The text with all digits that the number has."""
        return str(self) if self.printed == self else f"{self.op} {self.number!r}"

    def to_json(self) -> dict[str, Any]:
        """The value, with its text for people beside it."""
        return {"op": self.op, "number": float(self.number), "text": str(self)}

    @classmethod
    def from_json(cls, value: object) -> Bound:
        """The bound of :meth:`to_json`; its text is not read.

        Raises:
            ValueError: for anything else.
        """
        given: Mapping[str, Any] = value if isinstance(value, Mapping) else {}
        op: Any = given.get("op")
        number: Any = given.get("number")
        if op not in (">=", "<=") or type(number) not in (int, float) or not abs(number) <= sys.float_info.max:
            raise ValueError(f'expected a bound such as {{"op": ">=", "number": 0.9}}, found {value!r}')
        return cls(op, float(number))
