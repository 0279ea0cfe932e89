"""Candidates of a retrieval suite that gives none: what a dense model's golden finds first for each query."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from qguard.errors import GoldenProblem, UsageProblem
from qguard.goldens.stored import Golden, golden_folder, read, update_command
from qguard.kinds import DENSE
from qguard.metrics.ranking import top_k
from qguard.suites import Suite
from qguard.suites.paired import Candidate
from qguard.vectors.similarity import Similarity


def read_first_stage(root: Path, model: str, whole: Suite) -> Golden:
    """The golden of a dense model, for the candidates of a suite; the model itself is not asked.

    Args:
        root: The folder of all goldens.
        model: That model's name.
        whole: The suite with all of its texts.

    Raises:
        GoldenProblem: for none, or one of other texts.
    """
    golden = read(golden_folder(root, model, whole.name))
    if golden.manifest["hashes"]["suite"] != whole.sha256:
        raise GoldenProblem(
            f"golden {model}/{whole.name}, which chooses the candidates of suite {whole.name!r}, is stale: it is of other texts; "
            f"record it first: {update_command(model, whole.name)}"
        )
    return golden


def with_candidates(whole: Suite, golden: Golden, model: str, top: int, similarity: Similarity) -> Suite:
    """The suite with the first ``top`` documents of each query as its candidates; what nobody judged has the grade 0.

    Args:
        whole: A retrieval suite.
        golden: Of a dense model on it.
        model: That model's name.
        top: Candidates of a query.
        similarity: What the model ranks by.

    Raises:
        UsageProblem: for a suite without queries and documents, a large one, or a golden of another kind of model.
    """
    setting = f"candidates = {model!r} of suite {whole.name!r}"
    if golden.kind != DENSE:
        raise UsageProblem(f"{setting}: expected a dense model, found one of kind {golden.kind!r}")
    if whole.corpus is not None:
        raise UsageProblem(
            f"{setting}: the suite is too large for its documents to be held; write the candidates into candidates.jsonl, with "
            "the documents' texts"
        )
    suite = golden.judged(whole)
    if not suite.queries or not suite.documents:
        raise UsageProblem(f"{setting}: the suite has no queries and documents; give it pairs or candidates.jsonl")
    rows = similarity.prepared(golden.vectors)
    documents = list(suite.documents)
    found, _ = top_k(rows[list(suite.queries)], rows[documents], min(top, len(documents)), similarity=similarity)
    graded = bool(suite.qrels)

    def candidates(query: int, places: np.ndarray) -> tuple[Candidate, ...]:
        grades = suite.qrels.get(query, {})
        texts = dict.fromkeys(int(p) for p in places)
        distinct = {suite.texts[documents[p]]: p for p in reversed(texts)}  # of equal texts the best place
        return tuple(
            Candidate(text, float(grades.get(place, 0)) if graded else None, place) for text, place in reversed(distinct.items())
        )

    stage = {"model": model, "top": top, "golden": golden.manifest["data_sha256"][:16]}
    return replace(suite, candidates={q: candidates(q, row) for q, row in enumerate(found)}, first_stage=stage)
