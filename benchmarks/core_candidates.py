"""How well the graded candidates of ``core`` tell rankers apart: nDCG@10 and MRR@10 of chance, BM25, MiniLM and other models.

usage: python benchmarks/core_candidates.py [FOLDER …]
Each FOLDER holds a cross-encoder, a dense, sparse or multi-vector model that sentence-transformers loads. Every ranker orders the
20 candidates of each query. nDCG has the grade as gain, as in trec_eval. MRR counts every grade above 0. Candidates of equal
score keep the order of the file, which is shuffled. BM25 is the function below: k1 1.2, b 0.75, words in lower case, no stop
words, and the frequencies of all candidates. The last two columns leave out the texts that were written for one query.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from qguard.config import load_config
from qguard.judging.session import Session
from qguard.metrics.retrieval import CUT, measured
from qguard.precisions import parse_precision
from qguard.suites import BUILTIN

Scores = Callable[[str, Sequence[str]], NDArray[np.floating]]


class Query(NamedTuple):
    """A query, the texts of its candidates, their grades, and whether each was written for this query alone."""

    text: str
    candidates: list[str]
    grades: list[int]
    written: list[bool]

    def without_written(self) -> Query:
        """The candidates that are documents of the corpus."""
        kept = [i for i, w in enumerate(self.written) if not w]
        return Query(self.text, [self.candidates[i] for i in kept], [self.grades[i] for i in kept], [False] * len(kept))


def read(folder: Path) -> list[Query]:
    """The queries of a suite with their candidates, in the order of ``candidates.jsonl``."""

    def rows(name: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").split("\n") if line]

    texts = {str(r["_id"]): str(r["text"]) for name in ("queries.jsonl", "corpus.jsonl") for r in rows(name)}
    found = []
    for row in rows("candidates.jsonl"):
        candidates: list[dict[str, object]] = row["candidates"]  # type: ignore[assignment]
        shown = [str(c["text"]) if "text" in c else texts[str(c["document"])] for c in candidates]
        grades = [int(str(c["score"])) for c in candidates]
        found.append(Query(texts[str(row["query"])], shown, grades, ["text" in c for c in candidates]))
    return found


def bm25(queries: Iterable[Query], k1: float = 1.2, b: float = 0.75) -> Scores:
    """Okapi BM25 with the frequencies of all candidates."""

    def words(text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())

    counts = {t: Counter(words(t)) for q in queries for t in q.candidates}
    frequency = Counter(w for c in counts.values() for w in c)
    average = sum(c.total() for c in counts.values()) / len(counts)

    def scores(query: str, candidates: Sequence[str]) -> NDArray[np.floating]:
        found = np.zeros(len(candidates))
        for word in words(query):
            weight = math.log(1 + (len(counts) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            for i, c in enumerate(counts[t] for t in candidates):
                found[i] += weight * c[word] * (k1 + 1) / (c[word] + k1 * (1 - b + b * c.total() / average))
        return found

    return scores


def minilm(queries: Sequence[Query]) -> Scores:
    """Cosine of the project's own model, in fp32 in ONNX Runtime."""
    texts = list(dict.fromkeys(t for q in queries for t in (q.text, *q.candidates)))
    encoder = Session(load_config(Path())).encoder(parse_precision("fp32@onnx"), "minilm")
    vectors = np.asarray(encoder.encode_ids(encoder.tokenizer(texts, [None] * len(texts))), np.float64)
    of = dict(zip(texts, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
    return lambda query, candidates: np.stack([of[t] for t in candidates]) @ of[query]


def stored(folder: Path, queries: Sequence[Query]) -> Scores:
    """A model that sentence-transformers loads; it says itself which kind it is."""
    import sentence_transformers

    declared = folder / "config_sentence_transformers.json"
    kind = json.loads(declared.read_text(encoding="utf-8")).get("model_type") if declared.exists() else None
    if kind == "CrossEncoder" or not (folder / "modules.json").exists():
        reranker = sentence_transformers.CrossEncoder(str(folder))
        pairs = [(q.text, t) for q in queries for t in q.candidates]
        of = dict(zip(pairs, np.asarray(reranker.predict(pairs), np.float64), strict=True))
        return lambda query, candidates: np.array([of[query, t] for t in candidates])
    model = getattr(sentence_transformers, kind or "SentenceTransformer")(str(folder))
    asked = {q.text: i for i, q in enumerate(queries)}
    held = {t: i for i, t in enumerate(dict.fromkeys(t for q in queries for t in q.candidates))}
    found = model.similarity(model.encode_query(list(asked)), model.encode_document(list(held)))
    scores = np.asarray(found.to_dense() if found.is_sparse else found, np.float64)
    return lambda query, candidates: scores[asked[query], [held[t] for t in candidates]]


def chance(grades: Sequence[int]) -> tuple[float, float]:
    """nDCG@10 and MRR@10 of a random order, expected."""
    total, other = len(grades), sum(not g for g in grades)
    discounts = [1 / math.log2(rank + 1) for rank in range(1, min(CUT, total) + 1)]
    ideal = sum(g * d for g, d in zip(sorted(grades, reverse=True), discounts, strict=False))
    mrr, none = 0.0, 1.0  # none: the probability that nothing relevant stands before a rank
    for before in range(len(discounts)):
        irrelevant = max(other - before, 0) / (total - before)
        mrr += none * (1 - irrelevant) / (before + 1)
        none *= irrelevant
    return sum(grades) / total * sum(discounts) / ideal, mrr


def quality(queries: Sequence[Query], scores: Scores) -> tuple[float, float]:
    """Mean nDCG@10 and MRR@10 of a ranker."""
    found = []
    for q in queries:
        order = np.argsort(-scores(q.text, q.candidates), kind="stable")
        ndcg, _, mrr, _ = measured(order.tolist(), dict(enumerate(q.grades)))
        found.append((ndcg, mrr))
    ndcg, mrr = np.mean(found, axis=0)
    return float(ndcg), float(mrr)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    args = parser.parse_args()
    queries = read(BUILTIN["core"])
    parts = [queries, [q.without_written() for q in queries]]
    print("| ranker | nDCG@10 | MRR@10 | nDCG@10 without written texts | MRR@10 without them |\n|---|--:|--:|--:|--:|")
    shown("random order, expected", [np.mean([chance(q.grades) for q in part], axis=0) for part in parts])
    rankers: list[tuple[str, Callable[[], Scores]]] = [
        ("BM25", partial(bm25, queries)),
        ("all-MiniLM-L6-v2", partial(minilm, queries)),
    ]
    rankers += [(f.name, partial(stored, f, queries)) for f in args.folders]
    for name, make in rankers:
        scores = make()
        shown(name, [quality(part, scores) for part in parts])


def shown(name: str, values: Iterable[Iterable[float]]) -> None:
    """Print one row."""
    print(f"| {name} | " + " | ".join(f"{value:.4f}" for part in values for value in part) + " |", flush=True)


if __name__ == "__main__":
    main()
