"""Registries: the parts of one kind by name, those of qguard and those that other packages bring through entry points.

A package registers a part in its own ``pyproject.toml``, and qguard finds it once the package is installed::

    [project.entry-points."qguard.report_formats"]
    csv = "acme_qguard.report:FORMAT"

What the entry point names is one record of the registry's kind, or a list of them. A record that cannot be used is an error as
soon as the registry is read: nothing that was asked for may be left out of a verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, Protocol, TypeVar

from qguard.errors import RegistryProblem, first_line, unknown


class Record(Protocol):
    """One part of a registry."""

    @property
    def name(self) -> str:
        """How users and reports name it."""
        ...

    def lacks(self) -> Iterable[str]:
        """What it does not say and must, each in words; empty for a whole one."""
        ...


R = TypeVar("R", bound=Record)


_NAMED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@cache
def _scanned() -> Any:
    """Every entry point of this environment: one scan serves all registries."""
    return entry_points()


def installed(group: str) -> list[EntryPoint]:
    """The entry points of a group, in the order of their names."""
    return sorted(_scanned().select(group=group), key=lambda p: p.name)


class Registry(Mapping[str, R], Generic[R]):
    """The parts of one kind, in the order of their registration: qguard's own first.

    Args:
        noun: What a part is called in messages, such as ``metric family``.
        group: The entry-point group that other packages use.
        kind: The class of the records.
        own: qguard's own records, made when the registry is first read.
    """

    def __init__(self, noun: str, group: str, kind: type[R], own: Callable[[], Iterable[R]]) -> None:
        self.noun, self.group, self.kind = noun, group, kind
        self._own = own
        self._parts: dict[str, R] | None = None

    def __getitem__(self, name: str) -> R:
        return self._loaded()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded())

    def __len__(self) -> int:
        return len(self._loaded())

    def find(self, name: str) -> R:
        """The part of this name.

        Raises:
            UsageProblem: for an unknown name, with the nearest known ones.
            RegistryProblem: when a part of another package cannot be used.
        """
        parts = self._loaded()
        if name not in parts:
            raise unknown(self.noun, name, parts)
        return parts[name]

    def forget(self) -> None:
        """Read the entry points anew, after a package was installed in this process."""
        self._parts = None
        _scanned.cache_clear()

    def _loaded(self) -> dict[str, R]:
        if self._parts is None:
            parts: dict[str, R] = {}
            self._parts = parts  # a package may look up qguard's own parts while its own are read
            try:
                for record in self._own():
                    self._add(parts, record, "qguard")
                for point in installed(self.group):
                    for record in self._records(point):
                        self._add(parts, record, _package(point))
                self.check(parts)
            except BaseException:
                self._parts = None  # whoever asks next is told as well
                raise
        return self._parts

    def check(self, parts: Mapping[str, R]) -> None:
        """What no record can tell by itself, once all are there.

        Raises:
            RegistryProblem: when two parts do not fit together.
        """

    def _records(self, point: EntryPoint) -> list[R]:
        """What an entry point names."""
        where = f"entry point {point.name} = {point.value!r} of {_package(point)}, group {self.group}"
        try:
            found: Any = point.load()
        except Exception as e:  # whatever the other package does when it is imported
            raise RegistryProblem(
                f"{where}: it cannot be loaded ({first_line(e)}); fix that package or remove it: {_remove(point)}"
            ) from e
        records = list(found) if isinstance(found, list | tuple) else [found]
        for record in records:
            if not isinstance(record, self.kind):
                raise RegistryProblem(
                    f"{where}: expected a {self.kind.__module__}.{self.kind.__name__}, found a {type(record).__name__}; "
                    f"fix that package or remove it: {_remove(point)}"
                )
        return records

    def _add(self, parts: dict[str, R], record: R, package: str) -> None:
        whose = f"{self.noun} {record.name!r} of {package}"
        if record.name in parts:
            raise RegistryProblem(f"{whose}: that name is taken already; give it another name")
        if lacks := list(record.lacks()):
            raise RegistryProblem(f"{whose} is not complete: {'; '.join(lacks)}")
        parts[record.name] = record


def function_of(named: Callable[..., Any] | str) -> Callable[..., Any]:
    """A function, or the one that ``module:function`` names; its module is imported now."""
    if callable(named):
        return named
    module, _, name = named.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def is_function(named: object) -> bool:
    """Whether it is a function, or is written as ``module:function``; nothing is imported."""
    return callable(named) or (
        isinstance(named, str) and bool(re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", named))
    )


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an installed package"


def _remove(point: EntryPoint) -> str:
    return f"pip uninstall {point.dist.name}" if point.dist else "pip uninstall PACKAGE"
