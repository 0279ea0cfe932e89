"""Which side a version is on: by the gate where the ends differ in it, else by the value."""

from __future__ import annotations

from dataclasses import dataclass

from qguard.bisecting.reading import Reading
from qguard.bisecting.search import BAD, GOOD, PASSED_OVER
from qguard.errors import UsageProblem

LEAST = 1e-6  # a change that float arithmetic of another order makes


@dataclass(frozen=True)
class Sides:
    """The rule.

    Attributes:
        good: Value of the good end.
        bad: Value of the bad end.
        change: By how much they had to differ; ``None`` where the gate decides.
    """

    good: float
    bad: float
    change: float | None = None

    def of(self, reading: Reading) -> str:
        """The side of a version; what was not judged has none."""
        if not reading.judged or reading.value is None:
            return PASSED_OVER
        if self.change is None:
            return BAD if reading.outcome == "fail" else GOOD
        return GOOD if abs(reading.value - self.good) < abs(reading.value - self.bad) else BAD

    @property
    def words(self) -> str:
        """The rule in words."""
        if self.change is None:
            return "a version is bad where it fails the gate"
        apart = abs(self.good - self.bad)
        return (
            f"both ends are on one side of the gate and differ by {apart:.3g} (more than {self.change:.3g}), so a version is bad "
            "where it is nearer to the bad end"
        )


def differ(good: Reading, bad: Reading) -> bool:
    """Whether the gate tells both ends apart."""
    return (good.outcome == "fail") != (bad.outcome == "fail")


def sides_of(good: Reading, bad: Reading, higher_is_better: bool, change: float | None = None) -> Sides | None:
    """The rule for two judged ends; ``None`` where they do not differ.

    Args:
        good: The reading of ``--good``.
        bad: That of ``--bad``.
        higher_is_better: Of the metric.
        change: By how much values have to differ where the gate does not tell the ends apart.

    Raises:
        UsageProblem: where the ends are swapped, or both fail alike.
    """
    assert good.value is not None
    assert bad.value is not None
    told = f"good is {good.name} ({good.words}), bad is {bad.name} ({bad.words})"
    if differ(good, bad):
        if good.outcome == "fail":
            raise UsageProblem(f"the good end fails and the bad end holds, so they are swapped: {told}; exchange them")
        return Sides(good.value, bad.value)
    least = LEAST if change is None else change
    worse = (good.value - bad.value) * (1 if higher_is_better else -1)
    if worse > least:
        return Sides(good.value, bad.value, least)
    if worse < -least:
        raise UsageProblem(f"the bad end is better than the good one, so they are swapped: {told}; exchange them")
    if good.outcome == "fail":
        raise UsageProblem(f"both ends fail alike: {told}; give a good end that holds the gate")
    return None
