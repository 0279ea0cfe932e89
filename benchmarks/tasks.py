"""What labelled tasks keep in each precision: STS-B test (Spearman) and SciFact (nDCG@10), as MTEB scores them.

usage: python benchmarks/tasks.py DATA [--precisions a,b] [--model NAME] [--config FOLDER] [--artifact NAME=PATH …] [--markdown F]
DATA holds stsb_en/pairs.jsonl (text_a text_b score split) and scifact/ in BEIR's layout (corpus.jsonl queries.jsonl qrels.tsv).
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytrec_eval
from scipy.stats import spearmanr

from qguard.config import load_config
from qguard.errors import QguardError
from qguard.harness import Harness
from qguard.precisions import RECIPES, parse_precision

DEPTH = 100  # documents of a query that are handed to trec_eval; nDCG@10 looks at ten


def lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def unit(vectors: Any) -> Any:
    """Rows scaled to unit length, float64."""
    v = np.asarray(vectors, np.float64)
    return v / np.linalg.norm(v, axis=1, keepdims=True)


def main() -> None:
    """Score every precision and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--precisions", help="default: every recipe that can run here")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--config", type=Path, default=Path())
    parser.add_argument("--artifact", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    pairs = [r for r in lines(args.data / "stsb_en" / "pairs.jsonl") if r["split"] == "test"]
    corpus = lines(args.data / "scifact" / "corpus.jsonl")
    rows = (args.data / "scifact" / "qrels.tsv").read_text(encoding="utf-8").split("\n")[1:]
    qrels: dict[str, dict[str, int]] = {}
    for query, document, score in (r.split("\t") for r in rows if r):
        qrels.setdefault(query, {})[document] = int(score)
    queries = [q for q in lines(args.data / "scifact" / "queries.jsonl") if q["_id"] in qrels]
    documents = [f"{d['title']} {d['text']}".strip() for d in corpus]
    judge = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"})

    def scores(encode: Any) -> tuple[float, float]:
        a, b = (unit(encode([p[k] for p in pairs])) for k in ("text_a", "text_b"))
        spearman = float(spearmanr((a * b).sum(1), [p["score"] for p in pairs]).statistic)
        similarity = unit(encode([q["text"] for q in queries])) @ unit(encode(documents)).T
        best = np.argsort(-similarity, axis=1, kind="stable")[:, :DEPTH]
        run = {
            q["_id"]: {corpus[j]["_id"]: float(similarity[i, j]) for j in best[i]} for i, q in enumerate(queries)
        }  # fmt: skip
        found = judge.evaluate(run)
        return spearman, float(np.mean([f["ndcg_cut_10"] for f in found.values()]))

    config = load_config(args.config)
    names = ["fp32@onnx", *(args.precisions.split(",") if args.precisions else [f"{n}@{r}" for n, r in RECIPES])]
    todo = [(str(parse_precision(n)), Harness(config), parse_precision(n)) for n in dict.fromkeys(names)]
    todo += [(n, Harness(config, Path(p)), parse_precision("int8")) for n, _, p in (a.partition("=") for a in args.artifact)]
    text = "| precision | STS-B Spearman | kept | SciFact nDCG@10 | kept |\n|---|---|---|---|---|\n"
    print(text, end="", flush=True)
    base: tuple[float, float] | None = None
    for name, harness, precision in todo:
        start = time.perf_counter()
        try:
            found = scores(harness.encoder(precision, args.model).encode)
        except QguardError as e:
            print(f"{name}: {e}", file=sys.stderr)
            continue
        base = base or found
        line = f"| {name} | {found[0]:.4f} | {found[0] / base[0]:.2%} | {found[1]:.4f} | {found[1] / base[1]:.2%} |\n"
        print(line, end="", flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        text += line
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
