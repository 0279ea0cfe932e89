"""What labeled tasks keep in each precision: STS-B test (Spearman) and SciFact (nDCG@10), as MTEB scores them.

usage: python benchmarks/tasks.py DATA [--precisions a,b] [--model NAME] [--config FOLDER] [--device cuda]
                                      [--artifact NAME=PATH …] [--markdown F]
What is kept is told against fp32 in ONNX Runtime; on CUDA against fp32 in torch, on that device, as only torch runs there.
DATA holds stsb_en/pairs.jsonl (text_a text_b score split) and scifact/ in BEIR's layout (corpus.jsonl queries.jsonl qrels.tsv).
"""

import argparse
import sys
import time
from pathlib import Path

from qguard.config import load_config
from qguard.encoders import Floats
from qguard.errors import QguardError
from qguard.families import measure
from qguard.judging.session import Session
from qguard.metrics import Comparison
from qguard.precisions import RECIPES, Precision, parse_precision
from qguard.suites.reader import read_suite
from qguard.suites.source import Source

SHOWN = (("STS-B Spearman", "task.spearman"), ("SciFact nDCG@10", "task.ndcg@10"))


def main() -> None:
    """Score every precision and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--precisions", help="default: every recipe that can run here")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--config", type=Path, default=Path())
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--artifact", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    stsb = Source(str(args.data / "stsb_en" / "pairs.jsonl"), scores=(0.0, 5.0), split="test", duplicates="keep")
    suites = [read_suite("stsb", stsb), read_suite("scifact", Source(str(args.data / "scifact")))]

    def encoded(harness: Session, precision: Precision) -> list[Floats]:
        encoder = harness.encoder(precision, args.model)
        return [encoder.encode_ids(encoder.tokenizer(s.texts, s.roles)) for s in suites]

    config = load_config(args.config).model_copy(update={"device": args.device})
    here = [r.name for r in RECIPES.values() if args.device == "cpu" or r.runtime == "torch"]
    base = "fp32@onnx" if args.device == "cpu" else "fp32@torch"
    names = [base, *(args.precisions.split(",") if args.precisions else here)]
    todo = [(str(parse_precision(n)), Session(config), parse_precision(n)) for n in dict.fromkeys(names)]
    todo += [(n, Session(config, Path(p)), parse_precision("int8")) for n, _, p in (a.partition("=") for a in args.artifact)]
    text = f"| precision | {' | kept | '.join(name for name, _ in SHOWN)} | kept |\n|---|---|---|---|---|\n"
    print(text, end="", flush=True)
    golden: list[Floats] = []
    for name, harness, precision in todo:
        start = time.perf_counter()
        try:
            vectors = encoded(harness, precision)
            golden = golden or vectors
            compared = [Comparison.of(*c) for c in zip(suites, golden, vectors, strict=True)]
            found = {m.name: m.value for c in compared for m in measure(c, "task") if m.slice is None}
        except QguardError as e:
            print(f"{name}: {e}", file=sys.stderr)
            continue
        line = f"| {name} | " + " | ".join(f"{found[m]:.4f} | {found[m + '_retention']:.2%}" for _, m in SHOWN) + " |\n"
        print(line, end="", flush=True)
        print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        text += line
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
