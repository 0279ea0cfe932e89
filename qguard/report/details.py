"""What a report shows beyond its checks: pairs, neighbors and texts that moved, and where everything comes from.

Made only where a report is asked for, one part by each gate test. Texts are cut, kept once, and named by their index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qguard.encoders.runtimes import RUNTIMES
from qguard.judging.facts import holds
from qguard.machine.versions import installed
from qguard.metrics import Comparison, Rows, embedding, ranking, similarity
from qguard.suites import Suite

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact
    from qguard.judging.session import Session, Target

POINTS = 1500  # pairs in the scatter; the most moved are always among them
MOVED = 20  # pairs whose texts are shown
QUERIES = 20  # whose neighbors are shown, those that changed most
WORST = 25  # texts
BINS = 24
LONGEST = 160  # characters of a text
GIVEN = "--artifact"  # the source of files that qguard did not build
_FLOOR = 1e-7  # cosine distances below are float32's rounding


class Texts:
    """The texts that a part shows, each once, by key."""

    def __init__(self, suite: Suite) -> None:
        self.suite, self.kept = suite, dict[str, str]()

    def key(self, index: int) -> str:
        """The key of a text of the suite."""
        return self._keep(str(index), self.suite.texts[index])

    def document(self, row: int) -> str:
        """The key of a row of a large suite's collection; of most rows no text is held, and their id stands for it."""
        corpus = self.suite.corpus
        assert corpus is not None
        name = corpus.id(int(corpus.documents_of(np.asarray([row]))[0]))
        index = self._held.get(name)
        return self._keep(f"document {name}", f"document {name}" + ("" if index is None else f": {self.suite.texts[index]}"))

    @cached_property
    def _held(self) -> dict[str, int]:
        return dict(zip(self.suite.document_ids, self.suite.documents, strict=True))

    def _keep(self, key: str, text: str) -> str:
        self.kept[key] = text if len(text) <= LONGEST else text[: LONGEST - 1].rstrip() + "…"
        return key


def details(session: Session, target: Target, part: str) -> dict[str, Any]:
    """What the gate test of one metric family, or ``golden``, adds to the report.

    Args:
        session: Has measured that family already.
        target: What is judged.
        part: A key of :data:`PARTS`; others add nothing.

    Returns:
        Keys of a run's ``details``, and ``texts``: text by key.
    """
    make = PARTS.get(part)
    if make is None:
        return {}
    texts = Texts(session.suite(target.suite, target.model))
    return {**make(session, target, texts), "texts": texts.kept}


def merged(parts: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The parts of one run, and the texts of all of them."""
    found = {k: v for part in parts for k, v in part.items() if k != "texts"}
    return found, {k: v for part in parts for k, v in part.get("texts", {}).items()}


def without_home(value: Any) -> Any:
    """A message, or all texts of a JSON value, without the name of a user's home folder: reports travel."""
    home = str(Path.home())
    if isinstance(value, str):
        return value.replace(home, "~") if len(home) > 1 else value
    if isinstance(value, dict):
        return {k: without_home(v) for k, v in value.items()}
    return [without_home(v) for v in value] if isinstance(value, list) else value


def _embedding(session: Session, target: Target, texts: Texts) -> dict[str, Any]:
    comparison = session.comparison(target)
    cosine = embedding.items(comparison).rows[:, 0]
    ids = session.golden(target.model, target.suite).token_ids
    worst = [
        {"text": texts.key(i), "slice": texts.suite.slices[i], "tokens": len(ids[i]), "cosine": _digits(cosine[i], 6)}
        for i in np.argsort(cosine, kind="stable")[:WORST].tolist()
    ]
    return {"cosines": histogram(cosine), "worst_texts": worst}


def histogram(cosine: Rows) -> dict[str, Any]:
    """How many cosines (n,) lie between ``edges``, which are distances 1 - cosine in even steps of their logarithm."""
    distance = np.maximum(1 - cosine, _FLOOR)
    low, high = distance.min(), distance.max()
    edges = np.geomspace(low, high if high > low else low * 10, BINS + 1)
    counts, _ = np.histogram(np.clip(distance, edges[0], edges[-1]), edges)  # geomspace may miss its ends by a rounding
    return {"edges": [_digits(e, 10) for e in edges], "counts": counts.tolist(), "of": len(cosine)}


def _similarity(session: Session, target: Target, texts: Texts) -> dict[str, Any]:
    comparison = session.comparison(target)
    rows, pairs = similarity.items(comparison).rows, similarity.pairs_of(comparison.suite)
    order = np.argsort(-np.abs(rows[:, 1] - rows[:, 0]), kind="stable")
    rest = np.sort(order[MOVED:])
    room = max(0, min(len(rest), POINTS - MOVED))
    shown = np.concatenate((order[:MOVED], rest[np.linspace(0, len(rest) - 1, room).astype(int)] if room else rest[:0]))
    moved = [
        {"a": texts.key(a), "b": texts.key(b), "slice": part, "fp32": _digits(rows[i, 0]), "candidate": _digits(rows[i, 1])}
        for i in order[:MOVED].tolist()
        for a, b, part in [pairs[i]]
    ]
    points = {"fp32": np.round(rows[shown, 0], 4).tolist(), "candidate": np.round(rows[shown, 1], 4).tolist(), "of": len(rows)}
    return {"similarities": points, "moved_pairs": moved}


def _ranking(session: Session, target: Target, texts: Texts) -> dict[str, Any]:
    comparison = session.comparison(target)
    rows = ranking.items(comparison).rows
    worst = ranking.METRICS[0].worst
    assert worst is not None
    badness = worst(rows)
    chosen = [i for i in np.argsort(-badness, kind="stable")[:QUERIES].tolist() if badness[i] > 0]
    find = _found if comparison.neighbours is None else _found_in_corpus
    queries = [
        {"text": texts.key(i), "slice": texts.suite.slices[i], "fp32": fp32, "candidate": candidate}
        for i, fp32, candidate in (find(comparison, chosen, texts) if chosen else [])
    ]
    return {"neighbours": {"queries": queries, "changed": int((badness > 0).sum()), "of": len(rows)}}


def _found(comparison: Comparison, queries: list[int], texts: Texts) -> list[tuple[int, Any, Any]]:
    """Each text, with ``[key, score]`` of its neighbors in fp32 and with the candidate, as stored."""
    documents, scores = ranking.scored(comparison, queries)
    found: tuple[list[Any], list[Any]] = [], []
    for side, s in enumerate(scores[:2]):
        for row, best in zip(s, ranking.best_first(s, min(ranking.K, len(documents) - 1)).tolist(), strict=True):
            found[side].append([[texts.key(int(documents[d])), _digits(row[d])] for d in best])
    return list(zip(queries, *found, strict=True))


def _found_in_corpus(comparison: Comparison, queries: list[int], texts: Texts) -> list[tuple[int, Any, Any]]:
    """The same of a large suite; the candidate's own scores are not kept."""
    found = comparison.neighbours
    assert found is not None
    out = []
    for q in queries:
        first = found.golden[q, : ranking.K].tolist(), found.golden_scores[q, : ranking.K].tolist()
        fp32 = [[texts.document(row), _digits(score)] for row, score in zip(*first, strict=True)]
        candidate = [[texts.document(row), None] for row in found.candidate[q, : ranking.K].tolist()]
        out.append((comparison.suite.queries[q], fp32, candidate))
    return out


def _provenance(session: Session, target: Target, texts: Texts) -> dict[str, Any]:
    from qguard.machine.cpu import cpu, cpu_class

    model, golden = session.model(target.model), session.golden(target.model, target.suite)
    manifest = golden.manifest
    artifact = session.artifact(target.precision, target.model)
    return {
        "provenance": {
            # a folder's name says which; its path is nobody's business
            "model": {
                "ref": Path(model.ref).name if Path(model.ref).expanduser().is_absolute() else model.ref,
                "revision": model.revision,
                "weights_sha256": model.weight_sha256,
                "bytes": sum(f.stat().st_size for f in model.weight_files),
            },
            "golden": {k: manifest.get(k) for k in ("date", "reason", "data_sha256")} | {"texts": len(golden.vectors)},
            "computes": holds(session, target) or "not known, because there are no files",
            "source": _source(session, artifact),
            "files": sorted(p.name for p in artifact.weight_files) if artifact.has_files else [],
            "versions": {k: v for k, v in installed(*_packages()).items() if v != "absent"},
            "cpu": cpu()[0],
            "cpu_class": cpu_class(),
            "gates": {g.key: {"bound": g.bound.to_json(), "on": g.on} for g in session.gates(target.precision, target.model)},
        }
    }


def _packages() -> list[str]:
    of_runtimes = (name for r in RUNTIMES.values() for name in r.libraries)
    return list(dict.fromkeys(("qguard", "numpy", "tokenizers", *of_runtimes, "sentence-transformers")))


def _source(session: Session, artifact: Artifact) -> str:
    if not artifact.has_files:
        return "kept by its runtime"
    return GIVEN if session.artifact_path else "built by qguard"


def _digits(value: float, digits: int = 4) -> float:
    return round(float(value), digits)


PARTS: dict[str, Callable[[Any, Any, Texts], dict[str, Any]]] = {
    "golden": _provenance,
    "embedding": _embedding,
    "similarity": _similarity,
    "ranking": _ranking,
}
