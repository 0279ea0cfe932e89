"""fp32 through qguard's readers and metrics against published figures, trec_eval and sentence-transformers' evaluators.

usage: python benchmarks/reference.py DATA [--model minilm] [--precision fp32@onnx] [--skip-evaluators]
DATA holds stsb_en/pairs.jsonl, scifact/ in BEIR's layout, and reference_mteb.json with the published figures. The model is a name
of the configuration, or a reference whose last part names the published model. The precision is fp32 in some runtime. The
evaluators of sentence-transformers encode pairs and queries by themselves; documents, which take minutes, they get as qguard
encoded them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from qguard.config import load_config
from qguard.families import measure
from qguard.judging.session import Session
from qguard.metrics import Comparison
from qguard.precisions import parse_precision
from qguard.suites import Suite
from qguard.suites.reader import read_suite
from qguard.suites.source import Source

NAMES = {"minilm": "all-MiniLM-L6-v2"}


def published(file: Path, model: str) -> dict[str, float]:
    """Figures of github.com/embeddings-benchmark/results for one model: metric → value."""
    rows = [row for row in json.loads(file.read_text(encoding="utf-8")) if row["model"].endswith(f"/{NAMES.get(model, model)}")]
    found = {}
    for row in rows:
        if row["task"] == "STSBenchmark":
            found |= {"task.spearman": row["value"], "task.pearson": row["cosine_pearson"]}
        elif row["task"] == "SciFact":
            found["task.ndcg@10"] = row["value"]
    return found


def comparison(harness: Session, suite: Suite, precision: str, model: str) -> Comparison:
    """The suite's vectors, as golden and candidate both."""
    encoder = harness.encoder(parse_precision(precision), model)
    vectors = encoder.encode_ids(encoder.tokenizer(suite.texts, suite.roles))
    return Comparison.of(suite, vectors, vectors)


def trec_eval(c: Comparison) -> dict[str, float]:
    """The binding called directly on the scores of all documents."""
    import pytrec_eval

    suite, u = c.suite, c.units[0]
    qrels = {suite.query_ids[q]: {suite.document_ids[d]: int(g) for d, g in r.items()} for q, r in suite.qrels.items()}
    scores = u[list(suite.queries)] @ u[list(suite.documents)].T
    run = {q: dict(zip(suite.document_ids, row.tolist(), strict=True)) for q, row in zip(suite.query_ids, scores, strict=True)}
    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10"}).evaluate(run).values()
    # MAP and MRR as qguard defines them: over the best 1,000 and the best 10
    cut = {}
    for depth, name in ((1000, "map"), (10, "recip_rank")):
        best = {q: dict(sorted(r.items(), key=lambda p: -p[1])[:depth]) for q, r in run.items()}
        cut[name] = np.mean([f[name] for f in pytrec_eval.RelevanceEvaluator(qrels, {name}).evaluate(best).values()])
    mean = {name: np.mean([f[name] for f in found]) for name in ("ndcg_cut_10", "recall_10")}
    names = ("task.ndcg@10", "task.recall@10", "task.mrr@10", "task.map")
    return dict(zip(names, (mean["ndcg_cut_10"], mean["recall_10"], cut["recip_rank"], cut["map"]), strict=True))


def similarity_evaluator(c: Comparison, model: Any) -> dict[str, float]:
    """EmbeddingSimilarityEvaluator."""
    suite = c.suite
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    a, b = ([suite.texts[getattr(p, side)] for p in suite.pairs] for side in ("a", "b"))
    found = EmbeddingSimilarityEvaluator(a, b, [p.score for p in suite.pairs])(model)
    return {f"task.{name}": found[f"{name}_cosine"] for name in ("spearman", "pearson")}


def retrieval_evaluator(c: Comparison, model: Any) -> dict[str, float]:
    """InformationRetrievalEvaluator."""
    import torch
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    suite, documents = c.suite, torch.from_numpy(c.golden[list(c.suite.documents)].astype(np.float32))
    evaluator = InformationRetrievalEvaluator(
        {q: suite.texts[i] for q, i in zip(suite.query_ids, suite.queries, strict=True)},
        {d: suite.texts[i] for d, i in zip(suite.document_ids, suite.documents, strict=True)},
        {suite.query_ids[q]: {suite.document_ids[d] for d, g in r.items() if g > 0} for q, r in suite.qrels.items()},
        mrr_at_k=[10], ndcg_at_k=[10], accuracy_at_k=[1], precision_recall_at_k=[10], map_at_k=[1000],
        score_functions={"cosine": model.similarity},
    )  # fmt: skip
    found = evaluator.compute_all_metrics(model, corpus_embeddings=documents)["cosine"]
    depths = {"ndcg": 10, "recall": 10, "mrr": 10, "map": 1000}
    return {f"task.{m}@{k}".removesuffix("@1000"): found[f"{m}@k"][k] for m, k in depths.items()}


def main() -> None:
    """Print one line a metric."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--precision", default="fp32@onnx")
    parser.add_argument("--skip-evaluators", action="store_true")
    args = parser.parse_args()
    harness = Session(load_config(Path()).select([args.model], []))
    (name,) = harness.config.models
    known = published(args.data / "reference_mteb.json", name)
    pairs = Source(str(args.data / "stsb_en" / "pairs.jsonl"), scores=(0.0, 5.0), split="test", duplicates="keep")
    model = None
    if not args.skip_evaluators:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(harness.model(name).folder), device="cpu", local_files_only=True)
    print("| data | metric | qguard | published | trec_eval | sentence-transformers |\n|---|---|---|---|---|---|", flush=True)
    for data, source in (("STS-B test", pairs), ("SciFact test", Source(str(args.data / "scifact")))):
        suite = read_suite(data, source)
        c = comparison(harness, suite, args.precision, name)
        found = {m.name: m.value for m in measure(c, "task") if m.slice is None}
        direct = trec_eval(c) if suite.qrels else {}
        evaluate = retrieval_evaluator if suite.qrels else similarity_evaluator
        theirs = evaluate(c, model) if model else {}
        for metric, value in found.items():
            if not metric.endswith(("_fp32", "_retention")):
                cells = [f"{known[metric]:.5f} ({value - known[metric]:+.0e})" if metric in known else ""]
                cells += [f"{x[metric]:.7f} ({value - x[metric]:+.0e})" if metric in x else "" for x in (direct, theirs)]
                print(f"| {data} | {metric.removeprefix('task.')} | {value:.7f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
