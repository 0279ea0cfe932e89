"""The scores of a multi-vector model by qguard and by the evaluator of sentence-transformers, on core and on a part of SciFact.

usage: python benchmarks/multi_vector.py MODEL [--scifact FOLDER] [--queries 30] [--documents 200]
FOLDER is SciFact in BEIR's layout: of its judged queries the first ones are taken, with their documents and so many others. Both
sides encode by themselves: qguard with the model's own weights in torch, sentence-transformers with its own classes. Each line
has the score of both and their difference.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from qguard.encoders import open_encoder
from qguard.metrics import Comparison
from qguard.metrics.task import parts
from qguard.models.model import Model, resolve
from qguard.suites import Suite, load_suite
from qguard.suites.reader import read_suite
from qguard.suites.source import Source
from qguard.vectors.similarity import similarity_of

MEASURES = {"ndcg@10": "ndcg@10", "mrr@10": "mrr@10", "recall@10": "recall@10"}  # qguard's name: the evaluator's


def part(suite: Suite, queries: int, documents: int) -> Suite:
    """The first judged queries, their documents, and so many others that are spread over the rest."""
    judged = sorted(suite.qrels)[:queries]
    found = {suite.documents[d] for q in judged for d in suite.qrels[q]}
    others = sorted(set(suite.documents) - found)
    found |= {others[i] for i in np.linspace(0, len(others) - 1, min(documents, len(others))).astype(int)}
    found |= {suite.queries[q] for q in judged}
    return suite.without([i for i in range(len(suite.texts)) if i not in found])


def ours(model: Model, suite: Suite) -> dict[str, float]:
    """By qguard's own encoder, MaxSim and metrics."""
    encoder = open_encoder("torch", model.folder, model.pipeline, "fp32")
    vectors = encoder.encode_rows(encoder.rows(suite.texts, suite.roles))
    comparison = Comparison.of(replace(suite, pairs=()), vectors, vectors, similarity_of(model.pipeline))
    (items, metrics) = parts(comparison)[0]
    return {m.name.removeprefix("task."): float(m.reduce(items.rows)) for m in metrics}


def theirs(model: Model, suite: Suite) -> dict[str, float]:
    """By sentence-transformers."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder.evaluation import MultiVectorInformationRetrievalEvaluator

    judge = MultiVectorInformationRetrievalEvaluator(
        {suite.query_ids[q]: suite.texts[suite.queries[q]] for q in suite.qrels},
        {d: suite.texts[i] for d, i in zip(suite.document_ids, suite.documents, strict=True)},
        {suite.query_ids[q]: {suite.document_ids[d] for d in judged if judged[d] > 0} for q, judged in suite.qrels.items()},
        precision_recall_at_k=[10], batch_size=16, write_csv=False,
    )  # fmt: skip
    found = judge(MultiVectorEncoder(str(model.folder), device="cpu"))
    return {name: float(found[f"{model.pipeline.similarity}_{key}"]) for name, key in MEASURES.items()}


def main() -> None:
    """Print the scores of both sides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--scifact", type=Path)
    parser.add_argument("--queries", type=int, default=30)
    parser.add_argument("--documents", type=int, default=200)
    args = parser.parse_args()
    model = resolve("model", args.model)
    suites = [load_suite("core", {})]
    if args.scifact:
        suites.append(part(read_suite("scifact", Source(str(args.scifact))), args.queries, args.documents))
    for suite in suites:
        binary = replace(suite, qrels={q: {d: float(g > 0) for d, g in judged.items()} for q, judged in suite.qrels.items()})
        texts = {*binary.queries, *binary.documents}
        binary = binary.without([i for i in range(len(binary.texts)) if i not in texts])
        print(f"{suite.name}: {len(binary.qrels)} judged queries, {len(binary.documents)} documents")
        own, other = ours(model, binary), theirs(model, binary)
        for name in MEASURES:
            a, b = own[name], other[name]
            print(f"  {name:10} qguard {a:.6f}  sentence-transformers {b:.6f}  apart {abs(a - b):.1e}")


if __name__ == "__main__":
    main()
