"""Suites: texts and what is known of them. A built-in suite is one folder here and one line in ``BUILTIN``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from qguard.errors import unknown
from qguard.files import sha256_json

BUILTIN = {"core": Path(__file__).parent / "core"}


@dataclass(frozen=True)
class Pair:
    """Two texts, by index, with their graded similarity (``None`` when unlabelled) and slice."""

    a: int
    b: int
    score: float | None
    slice: str | None


@dataclass(frozen=True)
class Suite:
    """Distinct texts (a query may repeat one) and the pairs, queries and documents among them.

    Attributes:
        texts: Every distinct text; all other fields are indices into it.
        slices: The slice of each text, or ``None``.
        pairs: Graded or ungraded pairs.
        queries: Queries of the retrieval part.
        documents: The collection that queries search.
        qrels: Query index → document index → grade (> 0 is relevant).
    """

    name: str
    texts: tuple[str, ...]
    slices: tuple[str | None, ...]
    pairs: tuple[Pair, ...] = ()
    queries: tuple[int, ...] = ()
    documents: tuple[int, ...] = ()
    qrels: Mapping[int, Mapping[int, float]] = field(default_factory=dict)

    @cached_property
    def sha256(self) -> str:
        """Hash of texts, slices, labels and structure."""
        return sha256_json(
            [
                self.texts, self.slices, [(p.a, p.b, p.score, p.slice) for p in self.pairs], self.queries, self.documents,
                {str(q): {str(d): g for d, g in rel.items()} for q, rel in self.qrels.items()},
            ]
        )  # fmt: skip

    @cached_property
    def roles(self) -> tuple[str | None, ...]:
        """``"query"``, ``"document"`` or ``None`` of each text: models may declare a prompt for each."""
        queries, documents = set(self.queries), set(self.documents)
        return tuple("query" if i in queries else "document" if i in documents else None for i in range(len(self.texts)))

    @property
    def slice_names(self) -> list[str]:
        """The slices that occur, sorted."""
        return sorted({s for s in self.slices if s is not None})


def load_suite(name: str, paths: Mapping[str, Path]) -> Suite:
    """A configured or built-in suite by name.

    Args:
        name: Its name.
        paths: Configured suites: name → file or folder; they win over built-in ones.

    Raises:
        UsageProblem: for an unknown name.
        DataProblem: for a file that cannot be read as it should.
    """
    from qguard.suites.reader import read_suite

    path = {**BUILTIN, **paths}.get(name)
    if path is None:
        raise unknown("suite", name, {*BUILTIN, *paths})
    return read_suite(name, path)
