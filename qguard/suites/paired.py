"""A suite as a cross-encoder reads it: pairs of texts, with the candidates of each query side by side."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from qguard.errors import DataProblem

if TYPE_CHECKING:
    from qguard.suites import Suite


class TextPair(str):
    """Two texts that a model reads together; as a string, what people see of them.

    Attributes:
        first: Such as the query.
        second: Such as the document.
    """

    first: str
    second: str

    def __new__(cls, first: str, second: str) -> TextPair:
        """Of two texts."""
        made = super().__new__(cls, f"{first} | {second}")
        made.first, made.second = first, second
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return self.first, self.second

    @classmethod
    def of(cls, text: str) -> TextPair:
        """A pair as it is; any other text in two halves, cut at the space nearest to its middle.

        Generated texts and those that check an export are no pairs: a model of pairs reads their halves.
        """
        if isinstance(text, TextPair):
            return text
        middle = len(text) // 2
        before, after = text.rfind(" ", 0, middle), text.find(" ", middle)
        spaces = [at for at in (before, after) if at >= 0]
        cut = min(spaces, key=lambda at: abs(at - middle)) if spaces else middle
        return cls(text[:cut], text[cut:].lstrip(" ") if spaces else text[cut:])

    def prefixed(self, prompt: str) -> TextPair:
        """The same with a prompt before the first text, as sentence-transformers puts it."""
        return TextPair(prompt + self.first, self.second) if prompt else self


@dataclass(frozen=True)
class Candidate:
    """One text that a query is asked about.

    Attributes:
        text: The document.
        score: Its relevance, a whole number (> 0 is relevant); ``None`` where nobody judged it.
        document: Its place in the suite's documents; ``None`` for a text that is given for this query alone.
    """

    text: str
    score: float | None = None
    document: int | None = None


@dataclass(frozen=True)
class Group:
    """The candidates of one query.

    Attributes:
        query: Its text.
        members: Pairs of the query and each candidate, by index into the texts of the paired suite.
        grades: Relevance of each; ``None`` where nobody judged it.
        slice: Of the query.
    """

    query: str
    members: tuple[int, ...]
    grades: tuple[float | None, ...]
    slice: str | None = None

    @property
    def judged(self) -> dict[int, float]:
        """Place among the members → grade, of those that somebody judged."""
        return {place: grade for place, grade in enumerate(self.grades) if grade is not None}

    def without(self, at: Mapping[int, int]) -> Group:
        """The same of the members that are kept: old index → new one."""
        kept = [k for k, i in enumerate(self.members) if i in at]
        return replace(self, members=tuple(at[self.members[k]] for k in kept), grades=tuple(self.grades[k] for k in kept))


def paired(suite: Suite) -> Suite:
    """The pairs of a suite, distinct, then those of each query with its candidates.

    Returns:
        A suite whose texts are :class:`TextPair`; its ``pairs`` name one text twice, and its queries are ``groups``.

    Raises:
        DataProblem: for a suite that has neither pairs nor candidates.
    """
    from qguard.suites import Pair, Suite

    index: dict[tuple[str, str], int] = {}
    slices: list[str | None] = []

    def place(first: str, second: str, part: str | None) -> int:
        if (first, second) not in index:
            index[first, second] = len(index)
            slices.append(part)
        return index[first, second]

    pairs = []
    for p in suite.pairs:
        i = place(suite.texts[p.a], suite.texts[p.b], p.slice)
        pairs.append(Pair(i, i, p.score, p.slice))
    groups = []
    for q, candidates in sorted(suite.candidates.items()):
        text, part = suite.texts[suite.queries[q]], suite.slices[suite.queries[q]]
        members = tuple(place(text, c.text, part) for c in candidates)
        groups.append(Group(text, members, tuple(c.score for c in candidates), part))
    if not index:
        raise DataProblem(
            f"suite {suite.name!r} has neither pairs nor candidates, and a cross-encoder reads pairs of texts: give pairs, put "
            "candidates.jsonl beside queries.jsonl, or name the dense model whose first hits are the candidates: "
            f'candidates = "MODEL" under [tool.qguard.suite.{suite.name}]'
        )
    texts = tuple(TextPair(a, b) for a, b in index)
    return Suite(suite.name, texts, tuple(slices), tuple(pairs), groups=tuple(groups), first_stage=suite.first_stage)


def identity(suite: Suite) -> list[Any]:
    """What the hash of a paired suite is of, beside what that of every suite is of: pairs part by part, and their groups."""
    texts = [(t.first, t.second) for t in suite.texts if isinstance(t, TextPair)]
    groups = [(g.query, g.members, g.grades, g.slice) for g in suite.groups]
    return [texts, groups, *([suite.first_stage] if suite.first_stage else [])]


def kept_groups(groups: Collection[Group], at: Mapping[int, int]) -> tuple[Group, ...]:
    """Groups without some members, by old index → new one; those that are left with none are gone."""
    found = (g.without(at) for g in groups)
    return tuple(g for g in found if g.members)
