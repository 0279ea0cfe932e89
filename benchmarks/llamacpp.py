"""What llama.cpp keeps of a model on core, by the types of the tensors in each GGUF file, beside ONNX Runtime's int8.

usage: python benchmarks/llamacpp.py [--config FOLDER] [--model NAME] [--only accuracy|speed] [--write]

For each precision: types and bytes of the matrices as they are counted in the file, size, cosine to fp32, neighbors, invariance,
and speed. Speed is the time of fp32 over the precision's, both in turn in one run (tokens x batch, one thread), once with fp32
in llama.cpp and once with fp32 in ONNX Runtime. A question mark is put behind a ratio whose runs other work interrupted. With
--write the tables go to docs/gguf.md, between its marks.
"""

import argparse
import re
from pathlib import Path

from qguard.config import load_config
from qguard.gguf.read import read_gguf
from qguard.judging.compare import timed_ratio
from qguard.judging.session import Session, Target
from qguard.latency.check import Bucket, spec_of
from qguard.machine.cpu import cpu
from qguard.precisions import Precision, parse_precision

PRECISIONS = ("fp32@llamacpp", "f16", "q8_0", "q4_k_m", "q4_0", "int8")
SHOWN = {
    "embedding.cosine_mean": "mean", "embedding.cosine_p01": "p01", "embedding.cosine_min": "min",
    "ranking.overlap@10": "overlap@10", "ranking.top1": "top-1", "similarity.p99_error": "score p99",
    "invariance.batch_cosine_min": "batch", "tokenizer.alike": "tokens alike",
}  # fmt: skip
FAMILIES = ("tokenizer", "embedding", "similarity", "ranking", "invariance")
BUCKETS = (Bucket(64, 1), Bucket(64, 32))
PAGE = Path(__file__).parent.parent / "docs" / "gguf.md"
MARK = "<!-- {} of benchmarks/llamacpp.py -->"


def types_of(session: Session, target: Target) -> str:
    """Types of the matrices, and how many have each, the most bytes first."""
    artifact = session.artifact(target.precision, target.model)
    if artifact.onnx is not None or artifact.file is None:
        return "I8"
    return ", ".join(f"{kind} {count}" for kind, (count, _) in read_gguf(artifact.file).counted().items())


def accuracy(session: Session, target: Target) -> str:
    """One row."""
    families = {f.name for f in session.families(target)}
    found = {c.name: c for name in FAMILIES if name in families for c in session.checks(target, name) if c.slice is None}
    cells = [f"{found[key].value:.4f}".replace("0.", ".", 1) if key in found else "" for key in SHOWN]
    artifact = session.artifact(target.precision, target.model)
    size = artifact.bytes / 1e6, artifact.bytes / session.model(target.model).fp32_bytes
    failed = [c.name for c in found.values() if c.outcome == "fail"]
    verdict = ", ".join(failed) or "hold"
    row = [f"`{target.precision}`", types_of(session, target), f"{size[0]:.1f}", f"{size[1]:.2f}", *cells, verdict]
    return f"| {' | '.join(row)} |"


def speed(session: Session, target: Target) -> str:
    """One row: against fp32 of llama.cpp, and of ONNX Runtime."""
    ids, threads = session.golden(target.model, target.suite).token_ids, 1
    cells = []
    candidate = spec_of(session.artifact(target.precision, target.model), target.precision, threads)
    for runtime in ("llamacpp", "onnx"):
        base = Precision("fp32", runtime)
        fp32 = spec_of(session.artifact(base, target.model), base, threads)
        for bucket in BUCKETS:
            if fp32 == candidate:
                cells.append("1")
                continue
            ratio, busy = timed_ratio(fp32, candidate, bucket.fill(ids), bucket.tokens)
            cells.append(f"{ratio:.2f}{'?' if busy else ''}")
    return f"| `{target.precision}` | {' | '.join(cells)} |"


def accuracies(session: Session, targets: list[Target]) -> list[str]:
    """The lines of the first table, printed as they come."""
    heads = ["precision", "tensors", "MB", "of fp32", *SHOWN.values(), "gates"]
    kept = [f"| {' | '.join(heads)} |", "|---|---|" + "--:|" * (len(heads) - 3) + "---|"]
    print(*kept, sep="\n")
    for target in targets:
        kept.append(accuracy(session, target))
        print(kept[-1], flush=True)
    return kept


def speeds(session: Session, targets: list[Target]) -> list[str]:
    """The lines of the second one, likewise."""
    columns = [f"{b.tokens} x {b.batch} {where}" for where in ("llama.cpp", "ONNX Runtime") for b in BUCKETS]
    fast = [f"| precision | {' | '.join(columns)} |", "|---|" + "--:|" * len(columns)]
    print(*fast, sep="\n")
    for target in targets:
        fast.append(speed(session, target))
        print(fast[-1], flush=True)
    runtime = session.encoder(targets[0].precision, targets[0].model).runtime
    fast.append(f"\nOne thread on {cpu()[0]}; {', '.join(f'{k} {v}' for k, v in runtime.versions.items())}.")
    print(fast[-1])
    return fast


def main() -> None:
    """Print both tables, and write them where --write is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent.parent)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--only", choices=("accuracy", "speed"))
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    session = Session(load_config(args.config))
    targets = [Target(parse_precision(name), args.model, "core") for name in PRECISIONS]
    tables = {}
    if args.only != "speed":
        tables["accuracy"] = accuracies(session, targets)
    if args.only != "accuracy":
        tables["speed"] = speeds(session, targets)
    if args.write:
        text = PAGE.read_text(encoding="utf-8")
        for name, rows in tables.items():
            start, end = MARK.format(name), MARK.format(f"end of {name}")
            text = re.sub(f"{start}.*{end}", "\n".join([start, *rows, end]).replace("\\", "\\\\"), text, flags=re.DOTALL)
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
