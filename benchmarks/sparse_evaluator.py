"""sentence-transformers' own evaluator of sparse models beside qguard's scores in fp32, on the same texts.

    python benchmarks/sparse_evaluator.py MODEL SUITE [--queries N] [--documents N]

SUITE is ``core`` or a retrieval suite. With fewer queries, the first ones; with fewer documents, those that these queries judge
and then the first ones. qguard's side is the fp32 ONNX file in ONNX Runtime, pooled and ranked by qguard. That evaluator knows
no grades: here every judgment above 0 is 1 on both sides.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from qguard.encoders import open_encoder
from qguard.metrics import Comparison
from qguard.metrics.task import labelled_items
from qguard.models.model import resolve
from qguard.precisions import parse_precision
from qguard.suites import Suite, load_suite
from qguard.suites.source import Source
from qguard.vectors.similarity import similarity_of

NAMES = ("ndcg@10", "mrr@10", "recall@10")


def part(suite: Suite, queries: int, documents: int) -> Suite:
    """The first judged queries, and documents of which these judge some."""
    kept = sorted(suite.qrels)[: queries or None]
    judged = {d for q in kept for d in suite.qrels[q]}
    first = sorted(range(len(suite.documents)), key=lambda d: (d not in judged, d))[: documents or None]
    wanted = {*(suite.queries[q] for q in kept), *(suite.documents[d] for d in first)}
    binary = {q: {d: 1.0 for d, grade in found.items() if grade > 0} for q, found in suite.qrels.items()}
    return replace(suite, pairs=(), qrels=binary).without(set(range(len(suite.texts))) - wanted)


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("suite")
    parser.add_argument("--queries", type=int, default=0)
    parser.add_argument("--documents", type=int, default=0)
    args = parser.parse_args()
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.evaluation import SparseInformationRetrievalEvaluator

    whole = load_suite(args.suite, {} if args.suite == "core" else {args.suite: Source(args.suite)})
    suite = part(whole, args.queries, args.documents)
    model = resolve("model", args.model)
    queries = {str(i): suite.texts[t] for i, t in enumerate(suite.queries)}
    corpus = {suite.document_ids[i]: suite.texts[d] for i, d in enumerate(suite.documents)}
    relevant = {str(q): {suite.document_ids[d] for d, g in found.items() if g > 0} for q, found in suite.qrels.items()}
    st = SparseEncoder(str(model.folder), device="cpu")
    st.max_seq_length = model.pipeline.max_seq_length
    theirs = SparseInformationRetrievalEvaluator(queries, corpus, relevant, batch_size=8)(st)
    fp32 = parse_precision("fp32").build(model)
    encoder = open_encoder("onnx", fp32.folder, fp32.pipeline, "fp32", fp32.file, feeding=fp32.feeding)
    vectors = encoder.encode_rows(encoder.rows(suite.texts, suite.roles))
    similarity = similarity_of(model.pipeline)
    ((items, metrics),) = labelled_items(Comparison.of(suite, vectors, vectors, similarity))
    ours = {m.name: float(m.reduce(items.rows)) for m in metrics}
    print(f"{len(queries)} queries, {len(corpus)} documents, {vectors.counts.mean():.0f} active words a text")  # type: ignore[attr-defined]
    for name in NAMES:
        a, b = theirs[f"{similarity.name}_{name}"], ours[f"task.{name}"]
        print(f"{name:10} sentence-transformers {a:.6f}  qguard {b:.6f}  difference {abs(a - b):.1e}")


if __name__ == "__main__":
    main()
