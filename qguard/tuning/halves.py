"""Two halves of a suite: one chooses, the other judges, so that a choice among many does not flatter itself."""

from __future__ import annotations

import random
from collections import defaultdict

from qguard.errors import MeasurementProblem
from qguard.suites import Suite

FEWEST = 100  # texts of a half


def halves(suite: Suite, seed: int = 0) -> tuple[list[int], list[int]]:
    """Indices of the texts of each half, both in the suite's order.

    Texts of one pair, and the candidates of one query, are in one half; so are a query and its relevant documents, unless that
    ties more than half of all texts together. Each slice is halved.

    Args:
        suite: At least twice :data:`FEWEST` texts.
        seed: Of the draw.

    Raises:
        MeasurementProblem: for a suite of fewer texts, or one whose texts all belong together.
    """
    if len(suite.texts) < 2 * FEWEST:
        raise MeasurementProblem(
            f"suite {suite.name!r} has {len(suite.texts)} texts; expected at least {2 * FEWEST}, of which one half chooses and "
            "the other judges"
        )
    ties = [(p.a, p.b) for p in suite.pairs] + [(g.members[0], m) for g in suite.groups for m in g.members]
    judged = [(suite.queries[q], suite.documents[d]) for q, grades in suite.qrels.items() for d in grades]
    together = _components(len(suite.texts), [*ties, *judged])
    if max(map(len, together)) > len(suite.texts) / 2:
        together = _components(len(suite.texts), ties)
    pick = random.Random(seed)
    pick.shuffle(together)
    together.sort(key=len, reverse=True)  # stable: what is large is placed while there is room
    found: tuple[list[int], list[int]] = ([], [])
    of_slice: dict[str | None, list[int]] = defaultdict(lambda: [0, 0])
    for texts in together:
        count = of_slice[suite.slices[texts[0]]]
        side = min((0, 1), key=lambda s: (count[s], len(found[s])))
        count[side] += len(texts)
        found[side].extend(texts)
    if min(map(len, found)) < FEWEST:
        raise MeasurementProblem(f"suite {suite.name!r} cannot be halved: its texts belong together")
    return sorted(found[0]), sorted(found[1])


def _components(count: int, ties: list[tuple[int, int]]) -> list[list[int]]:
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for a, b in ties:
        parent[root(a)] = root(b)
    found: dict[int, list[int]] = defaultdict(list)
    for i in range(count):
        found[root(i)].append(i)
    return list(found.values())
