"""The survey: one pass over all rows, of which some 22 bytes each are kept: keys, stratum, and what looks personal.

A row's key is a hash of the seed and its text in lower case with single spaces. The texts with the smallest keys are a simple
random sample of the distinct texts, which depends neither on the order of the rows nor on how often a text is there (Broder 1997,
"On the resemblance and containment of documents").
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from qguard.errors import DataProblem, MeasurementProblem
from qguard.sampling.lengths import Count, length_of
from qguard.sampling.personal import Found, personal
from qguard.sampling.production import DOCUMENTS, KINDS, QUERIES, Production, Unit
from qguard.sampling.scripts import script_of

BLOCK = 1000  # rows that are held at once
SHOWN = 20  # texts with personal data that are named
DROP, KEEP, REFUSE = "drop", "keep", "refuse"


@dataclass(frozen=True, order=True)
class Stratum:
    """Rows of one kind, script and range of lengths."""

    kind: str
    script: str
    length: str

    @property
    def slice(self) -> str:
        """The name of its slice."""
        return f"{self.script} {self.length}"


@dataclass(frozen=True)
class Personal:
    """What looks like personal data.

    Attributes:
        kinds: Kind → rows that hold it.
        rows: That hold any.
        shown: File and line, and what was found, of the first rows.
        withheld: Queries that are left out because a relevant document of theirs is.
    """

    kinds: dict[str, int]
    rows: int
    shown: tuple[tuple[str, Found], ...]
    withheld: int = 0


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of each row, by its number in the order of :meth:`Production.units`.

    Attributes:
        keys: uint64 (rows,); rows of equal keys are of one kind and have the same text but for case and spaces.
        stratum: int32 (rows,), a place in ``strata``.
        strata: Sorted.
        flagged: Rows with personal data, and queries that are withheld for the sake of their documents.
        first: Row numbers of the texts that may be drawn, each once, those of the smallest keys first.
        rows: Of each kind.
        exact: Rows whose text is there before, character by character.
        near: Further rows whose text is there before but for case and spaces.
        named: Row numbers of the documents that judgments and candidates name, by id.
    """

    keys: NDArray[np.uint64]
    stratum: NDArray[np.int32]
    strata: tuple[Stratum, ...]
    flagged: NDArray[np.bool_]
    first: NDArray[np.int64]
    rows: dict[str, int]
    exact: int
    near: int
    personal: Personal
    named: dict[str, int] = field(default_factory=dict)

    def of(self, *kinds: str) -> list[int]:
        """The strata of some kinds that hold any text that may be drawn, by their places."""
        there = set(np.unique(self.stratum[self.first]).tolist())
        return [i for i, s in enumerate(self.strata) if s.kind in kinds and i in there]

    def members(self, stratum: int) -> NDArray[np.int64]:
        """Row numbers of what may be drawn from a stratum, those of the smallest keys first."""
        found: NDArray[np.int64] = self.first[self.stratum[self.first] == stratum]
        return found


def survey(production: Production, count: Count, seed: int, on_personal: str = DROP, region: str = "US") -> Survey:
    """Read all rows once.

    Args:
        production: The source.
        count: Of lengths.
        seed: Of the draw.
        on_personal: ``drop`` leaves texts with personal data out, and queries whose relevant documents have any.
        region: See :func:`qguard.sampling.personal.personal`.

    Raises:
        DataProblem: for a row that no suite could hold.
        MeasurementProblem: for a source of which nothing is left.
    """
    secret = hashlib.sha256(f"qguard sample {seed}".encode()).digest()
    keys, exact, strata = array("Q"), array("Q"), array("i")
    places: dict[Stratum, int] = {}
    flagged, left_out = bytearray(), set[str]()
    rows: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    shown: list[tuple[str, Found]] = []
    wanted = {d for grades in production.judgments.values() for d in grades} | production.ordered
    named: dict[str, int] = {}
    withheld, queries = 0, set[str]()
    units = production.units()
    while block := list(islice(units, BLOCK)):
        lengths = _lengths(block, count)
        for unit, length in zip(block, lengths, strict=True):
            found = personal(unit.said, region)
            if found:
                kinds.update({f.kind for f in found})
                shown += [(unit.where, f) for f in found] if len(shown) < SHOWN else []
            flag = bool(found)
            if unit.kind == DOCUMENTS and unit.id in wanted:
                named[unit.id] = len(keys)
                if flag:
                    left_out.add(unit.id)
            elif unit.kind == QUERIES and on_personal == DROP and left_out and not flag:
                relevant = (d for d, grade in production.judgments.get(unit.id, {}).items() if grade > 0)
                if flag := not left_out.isdisjoint(relevant):
                    withheld += 1
            if unit.kind == QUERIES:
                queries.add(unit.id)
            rows[unit.kind] += 1
            flagged.append(flag)
            keys.append(_digest(f"{unit.kind}\n" + "\n".join(" ".join(t.casefold().split()) for t in unit.texts), secret))
            exact.append(_digest(f"{unit.kind}\n{unit.text}", b""))
            stratum = Stratum(unit.kind, script_of(unit.text), length_of(length))
            strata.append(places.setdefault(stratum, len(places)))
    _refuse_dangling(production, queries, named)
    if not keys:
        raise MeasurementProblem(f"{production.source.name} holds nothing to draw from")
    key, order = np.frombuffer(keys, np.uint64), sorted(places)
    renumbered = np.asarray([order.index(s) for s in places], np.int32)[np.frombuffer(strata, np.int32)]
    _, first = np.unique(key, return_index=True)
    marks = np.frombuffer(flagged, np.uint8).astype(bool)
    distinct = len(np.unique(np.frombuffer(exact, np.uint64)))
    near, same = distinct - len(first), len(key) - distinct
    if on_personal == DROP:
        first = first[~marks[first]]
    told = Personal(dict(sorted(kinds.items())), int(marks.sum()) - withheld, tuple(shown[:SHOWN]), withheld)
    if not len(first):
        raise MeasurementProblem(
            f"{production.source.name}: nothing is left to draw from: all {len(key)} rows hold what looks like personal data"
        )
    return Survey(key, renumbered, tuple(order), marks, first, {k: rows[k] for k in KINDS if rows[k]}, same, near, told, named)


def _refuse_dangling(production: Production, queries: Collection[str], documents: Collection[str]) -> None:
    """As a suite refuses them."""
    for query, grades in production.judgments.items():
        if query not in queries or (missing := grades.keys() - documents):
            what = f"query {query!r}" if query not in queries else f"document {min(missing)!r}"
            raise DataProblem(f"{production.source.name}: {what} is judged, and the source does not hold it")


def chosen(production: Production, found: Survey, numbers: Iterator[int] | NDArray[np.int64], seed: int) -> dict[int, Unit]:
    """The rows of some numbers, read anew.

    Raises:
        MeasurementProblem: where they are no longer what was surveyed.
    """
    secret = hashlib.sha256(f"qguard sample {seed}".encode()).digest()
    wanted = {int(i) for i in numbers}
    out: dict[int, Unit] = {}
    for number, unit in enumerate(production.units()):
        if number in wanted:
            key = _digest(f"{unit.kind}\n" + "\n".join(" ".join(t.casefold().split()) for t in unit.texts), secret)
            if number >= len(found.keys) or key != found.keys[number]:
                break
            out[number] = unit
            if len(out) == len(wanted):
                return out
    if len(out) < len(wanted):
        raise MeasurementProblem(f"{production.source.name} changed while it was read; run again")
    return out


def _lengths(block: list[Unit], count: Count) -> list[int]:
    """Of a pair the longer of both."""
    counts = iter(count([t for unit in block for t in unit.texts]))
    return [max(next(counts) for _ in unit.texts) for unit in block]


def _digest(text: str, secret: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=secret).digest(), "little")
