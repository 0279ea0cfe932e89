"""Whoever does tasks: this process, or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from qguard.fleet.kept import Kept
from qguard.fleet.work import Shared, Told, perform, result_of

Result = tuple[dict[str, Any], bytes]


@dataclass(frozen=True)
class Item:
    """What one task is given beside what all share.

    Attributes:
        given: JSON.
        data: Bytes, such as texts or vectors.
        later: Gives the bytes for a machine that does not find them itself; see :class:`qguard.fleet.work.NeedsData`.
    """

    given: dict[str, Any] = field(default_factory=dict)
    data: bytes = b""
    later: Callable[[], bytes] | None = None


class Fleet(Protocol):
    """Does tasks."""

    @property
    def lanes(self) -> int:
        """Tasks that it does at the same time."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What a report says of it: engine, nodes and how many kinds of them; no names and addresses."""
        ...

    def map(self, task: str, shared: Shared, items: Iterable[Item], kept: Kept | None = None) -> Iterator[Result]:
        """The result of a task for each item, in the order of the items, which are taken as they are needed.

        Args:
            task: ``module:function``; see :mod:`qguard.fleet.work`.
            shared: What all of the tasks are given.
            items: What each is given.
            kept: Where results are kept until the run is over: those that are there are not computed again.

        Raises:
            QguardError: what a task raised, in its turn; a MeasurementProblem where a machine is unlike this one, or where a
                task ended its process each time that it was tried.
        """
        ...


class Here:
    """This process, one task after another."""

    lanes = 1

    @property
    def facts(self) -> dict[str, Any]:
        """See :class:`Fleet`."""
        return {}

    def map(self, task: str, shared: Shared, items: Iterable[Item], kept: Kept | None = None) -> Iterator[Result]:
        """See :class:`Fleet`."""
        from qguard.fleet.nodes import digest

        given = shared.to_json()
        for item in items:
            key = kept.key(task, shared.key, item.given, item.data) if kept else ""
            found = kept.read(key) if kept else None
            if found is None:
                told: Told = perform(task, given, digest(), item.given, item.data)
                if told[0]["told"] == "data" and item.later is not None:
                    told = perform(task, given, digest(), item.given, item.later())
                found = result_of(told)
                if kept:
                    kept.write(key, found)
            yield found
