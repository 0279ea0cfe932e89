"""A model under each similarity: its copy without Normalize, judged on core by the default gates of some precisions.

    python -m benchmarks.similarity [--similarity dot] [--precision int8,int8-weight] [--model minilm]

A row for each: the gates that fail, and the values that lengths move.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from qguard import goldens as golden
from qguard.config import load_config
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from qguard.vectors.similarity import SIMILARITIES

ROOT = Path(__file__).parent.parent
SHOWN = (
    "embedding.cosine_min", "embedding.norm_error", "similarity.p99_error", "similarity.bias", "ranking.overlap@10",
    "ranking.inversions",
)  # fmt: skip
FAMILIES = ("embedding", "similarity", "ranking", "task", "invariance")


def without_normalize(source: Path, target: Path, similarity: str) -> None:
    """A copy of a model's folder whose vectors keep their lengths."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("onnx"))
    modules = json.loads((target / "modules.json").read_text())
    kept = [m for m in modules if not m["type"].endswith("Normalize")]
    (target / "modules.json").write_text(json.dumps(kept))
    file = target / "config_sentence_transformers.json"
    declared = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**declared, "similarity_fn_name": similarity}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--similarity", default=",".join(s for s in SIMILARITIES if s != "cosine"))
    parser.add_argument("--precision", default="fp32,int8,int8-weight,int8-dynamic")
    parser.add_argument("--model", default="minilm")
    args = parser.parse_args()
    names = args.similarity.split(",")
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        source = Session(load_config(ROOT)).model(args.model).folder
        for name in names:
            without_normalize(source, root / name, name)
        table = "".join(f'{n} = "{n}"\n' for n in names)
        (root / "pyproject.toml").write_text(f'[tool.qguard]\nsuites = ["core"]\n[tool.qguard.models]\n{table}')
        session = Session(load_config(root))
        print("| similarity | precision | " + " | ".join(SHOWN) + " | fails |")
        print("|---|---|" + "---|" * (len(SHOWN) + 1))
        for name in names:
            golden.record(session.model(name), session.suite("core"), session.config.golden_root, "benchmark")
            for precision in args.precision.split(","):
                target = Target(parse_precision(precision), name, "core")
                checks = [c for f in FAMILIES for c in session.checks(target, f)]
                whole = {c.name: c for c in checks if c.slice is None}
                cells = [f"{whole[m].value:.4f}" + (f" ({whole[m].bound})" if whole[m].bound else "") for m in SHOWN]
                failed = ", ".join(f"{c.label} {c.value:.4g}" for c in checks if c.outcome == "fail")
                print(f"| {name} | {precision} | " + " | ".join(cells) + f" | {failed} |", flush=True)


if __name__ == "__main__":
    main()
