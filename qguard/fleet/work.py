"""What happens on a node: a task is done where the machine is as expected and has the files; else it says what is missing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import qguard.errors
from qguard.boundary import told as told_of
from qguard.errors import MeasurementProblem, QguardError
from qguard.files import sha256_json
from qguard.fleet.parts import Part
from qguard.registry import function_of

Told = tuple[dict[str, Any], bytes]  # what a node says: "told" is done, unlike, parts, data or problem


class NeedsData(Exception):
    """Raised by a task that does not find its data on this machine: it is sent then."""


@dataclass(frozen=True, eq=False)
class Shared:
    """What all tasks of a kind are given.

    Attributes:
        given: JSON.
        parts: Files.
        data: Bytes.
    """

    given: dict[str, Any] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    data: bytes = b""

    @cached_property
    def key(self) -> str:
        """SHA-256 over all of it; where files lie does not count."""
        import hashlib

        return sha256_json([self.given, [p.key for p in self.parts], hashlib.sha256(self.data).hexdigest()])

    def to_json(self) -> dict[str, Any]:
        """As it is sent; ``data`` stays bytes."""
        return {"key": self.key, "given": self.given, "parts": [p.to_json() for p in self.parts], "data": self.data}


@dataclass(frozen=True, eq=False)
class Place:
    """What all tasks of a kind are given, as a node has it; equal and hashed by its key, so that a task may cache by it.

    Attributes:
        key: See :attr:`Shared.key`.
        given: JSON.
        paths: Name of a part → its folder here.
        data: Bytes.
    """

    key: str
    given: Mapping[str, Any]
    paths: Mapping[str, Path]
    data: bytes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and (self.key, self.paths) == (other.key, other.paths)

    def __hash__(self) -> int:
        return hash(self.key)


def perform(
    task: str,
    shared: Mapping[str, Any],
    expected: str,
    given: dict[str, Any],
    data: bytes,
    contents: Mapping[str, Mapping[str, bytes]] | None = None,
) -> Told:
    """Do one task; never raises.

    Args:
        task: ``module:function``, called with a :class:`Place`, ``given`` and ``data``; gives JSON and bytes.
        shared: See :meth:`Shared.to_json`.
        expected: Digest of the machine's facts; see :func:`qguard.fleet.nodes.digest`.
        given: JSON of this task.
        data: Bytes of this task.
        contents: Name of a part → its files, where this machine said that it lacks them.

    Returns:
        ``{"told": "done", "seconds": …, "result": …}`` and the bytes; ``unlike`` with the machine's ``facts``; ``parts`` with the
        ``names`` of those that are not here; ``data`` for those of this task; or ``problem`` with its class and words.
    """
    from qguard.fleet.nodes import digest, facts

    try:
        if digest() != expected:
            return {"told": "unlike", "facts": facts()}, b""
        start, paths, lacking = time.perf_counter(), {}, []
        for part in map(Part.from_json, shared["parts"]):
            sent = (contents or {}).get(part.name)
            found = part.keep(sent) if sent is not None else part.here()
            if found is None:
                lacking.append(part.name)
            else:
                paths[part.name] = found
        if lacking:
            return {"told": "parts", "names": lacking}, b""
        place = Place(shared["key"], shared["given"], paths, shared["data"])
        result, more = function_of(task)(place, given, data)
        return {"told": "done", "result": result, "seconds": time.perf_counter() - start}, more
    except NeedsData:
        return {"told": "data"}, b""
    except QguardError as e:
        known = next(c.__name__ for c in type(e).__mro__ if c.__module__ == qguard.errors.__name__)
        return {"told": "problem", "kind": known, "words": str(e)}, b""
    except Exception as e:
        return {"told": "problem", "kind": "LibraryProblem", "words": str(told_of(e, f"the task {task.rpartition(':')[2]}"))}, b""


def result_of(told: Told) -> tuple[dict[str, Any], bytes]:
    """The result of a task that is done.

    Raises:
        QguardError: what it raised.
    """
    if told[0]["told"] == "done":
        return told[0]["result"], told[1]
    if told[0]["told"] == "problem":
        raise problem_of(told[0])
    raise MeasurementProblem(f"a task ended without a result ({told[0]['told']}); run again")


def problem_of(found: Mapping[str, Any]) -> QguardError:
    """The error that a task raised, of its own class."""
    kind = getattr(qguard.errors, str(found["kind"]), MeasurementProblem)
    if kind is qguard.errors.EndpointProblem:
        kind = MeasurementProblem
    problem: QguardError = kind(str(found["words"]))
    return problem
