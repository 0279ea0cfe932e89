"""Suites: texts and what is known of them. A built-in suite is one folder here and one line in ``BUILTIN``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.errors import unknown
from qguard.files import sha256_json
from qguard.suites.paired import Candidate, Group, TextPair, identity, kept_groups, paired

if TYPE_CHECKING:
    from qguard.suites.corpus import Corpus
    from qguard.suites.source import Source

BUILTIN = {"core": Path(__file__).parent / "core"}


@dataclass(frozen=True)
class Pair:
    """Two texts, by index, with their graded similarity (``None`` when unlabeled) and slice."""

    a: int
    b: int
    score: float | None
    slice: str | None


@dataclass(frozen=True)
class Suite:
    """Distinct texts (a query may repeat one) and the pairs, queries and documents among them.

    Attributes:
        texts: Every distinct text; pairs, queries and documents are indices into it.
        slices: The slice of each text, or ``None``.
        pairs: Graded or ungraded pairs.
        queries: The text of each query of the retrieval part; two queries may share one.
        documents: The text of each document that queries search; two documents may share one.
        qrels: Place in ``queries`` → place in ``documents`` → grade, a whole number (> 0 is relevant).
        query_ids: As the data has them.
        document_ids: The same; documents of equal score are ranked by them.
        corpus: The whole collection of a large suite, whose texts, documents and qrels hold a sample of it; else ``None``.
        candidates: Place in ``queries`` → the texts that a cross-encoder orders for this query. Dense models do not read them,
            and no hash but that of the pairs counts them.
        groups: Of a suite of pairs, the candidates of each query; see :meth:`paired`.
        first_stage: What chose the candidates that the suite itself does not give; empty for its own.
    """

    name: str
    texts: tuple[str, ...]
    slices: tuple[str | None, ...]
    pairs: tuple[Pair, ...] = ()
    queries: tuple[int, ...] = ()
    documents: tuple[int, ...] = ()
    qrels: Mapping[int, Mapping[int, float]] = field(default_factory=dict)
    query_ids: tuple[str, ...] = ()
    document_ids: tuple[str, ...] = ()
    corpus: Corpus | None = None
    candidates: Mapping[int, tuple[Candidate, ...]] = field(default_factory=dict)
    groups: tuple[Group, ...] = ()
    first_stage: Mapping[str, Any] = field(default_factory=dict)

    def paired(self) -> Suite:
        """The suite as a cross-encoder reads it; see :func:`qguard.suites.paired.paired`."""
        return paired(self)

    @cached_property
    def sha256(self) -> str:
        """Hash of texts, slices, labels and structure."""
        by_text: dict[str, dict[str, float]] = {}
        for q, judged in self.qrels.items():
            by_text.setdefault(str(self.queries[q]), {}).update((str(self.documents[d]), g) for d, g in judged.items())
        parts: list[Any] = [
            self.texts, self.slices, [(p.a, p.b, p.score, p.slice) for p in self.pairs], self.queries, self.documents, by_text
        ]  # fmt: skip
        if any(len(set(which)) < len(which) for which in (self.queries, self.documents)):
            # texts do not tell which of two equal queries or documents was judged
            parts.append([(q, sorted(judged.items())) for q, judged in sorted(self.qrels.items())])
        if self.corpus is not None:
            parts.append([self.corpus.sha256, [(q, sorted(j.items())) for q, j in sorted(self.corpus.qrels.items())]])
        if self.of_pairs:
            parts.append(identity(self))
        return sha256_json(parts)

    @property
    def of_pairs(self) -> bool:
        """Whether its texts are pairs, as of :meth:`paired`."""
        return bool(self.texts) and isinstance(self.texts[0], TextPair)

    @property
    def labelled(self) -> bool:
        """Whether there is anything to measure the task's quality on: a graded pair, or a judged query."""
        return bool(self.qrels) or any(p.score is not None for p in self.pairs) or any(g.judged for g in self.groups)

    @cached_property
    def roles(self) -> tuple[str | None, ...]:
        """``"query"``, ``"document"`` or ``None`` of each text: models may declare a prompt for each."""
        queries, documents = set(self.queries), set(self.documents)
        return tuple("query" if i in queries else "document" if i in documents else None for i in range(len(self.texts)))

    def without(self, texts: Collection[int]) -> Suite:
        """The suite without some texts, by index, and without the pairs, queries, documents and judgments that need them."""
        if not texts:
            return self
        kept = [i for i in range(len(self.texts)) if i not in texts]
        at = {old: new for new, old in enumerate(kept)}
        queries, documents = ([k for k, i in enumerate(which) if i in at] for which in (self.queries, self.documents))
        place = {old: new for new, old in enumerate(documents)}
        judged = {
            new: {place[d]: grade for d, grade in self.qrels[old].items() if d in place}
            for new, old in enumerate(queries)
            if old in self.qrels
        }
        return replace(
            self,
            texts=tuple(self.texts[i] for i in kept),
            slices=tuple(self.slices[i] for i in kept),
            pairs=tuple(replace(p, a=at[p.a], b=at[p.b]) for p in self.pairs if p.a in at and p.b in at),
            queries=tuple(at[self.queries[k]] for k in queries),
            documents=tuple(at[self.documents[k]] for k in documents),
            qrels={q: grades for q, grades in judged.items() if grades},
            query_ids=tuple(self.query_ids[k] for k in queries) if self.query_ids else (),
            document_ids=tuple(self.document_ids[k] for k in documents) if self.document_ids else (),
            candidates={new: self.candidates[old] for new, old in enumerate(queries) if old in self.candidates},
            groups=kept_groups(self.groups, at),
        )

    @property
    def slice_names(self) -> list[str]:
        """The slices that occur, sorted."""
        return sorted({s for s in self.slices if s is not None})


def load_suite(name: str, paths: Mapping[str, Path | Source]) -> Suite:
    """A configured or built-in suite by name.

    Args:
        name: Its name.
        paths: Configured suites by name; they win over built-in ones.

    Raises:
        UsageProblem: for an unknown name.
        DataProblem: for a file that cannot be read as it should.
    """
    from qguard.suites.reader import read_suite

    source = {**BUILTIN, **paths}.get(name)
    if source is None:
        raise unknown("suite", name, {*BUILTIN, *paths})
    return read_suite(name, source)
