"""What each recipe keeps of a sparse model on core, and ONNX Runtime's own int8 with one scale a matrix.

    python benchmarks/sparse_recipes.py [PRECISION …]

In the folder of a project with one sparse model and its golden of core, as ``qguard init`` writes it. ``per-tensor`` among the
precisions is onnxruntime's ``quantize_dynamic(per_channel=False)`` of the plain fp32 export, judged as ``int8-dynamic``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from qguard.config import load_config
from qguard.judging.session import Session, Target
from qguard.precisions import parse_precision
from qguard.precisions.dynamic import quantize
from qguard.precisions.export import export_plain

PRECISIONS = ("fp16", "bf16@openvino", "int8", "int8@openvino", "int8-weight", "int8-dynamic", "per-tensor", "int4")
SHOWN = {
    "weights.kept": "words kept", "weights.added": "new words", "weights.p99_error": "p99 error", "weights.index_ratio": "index",
    "ranking.overlap@10": "overlap@10", "ranking.top1": "top1", "task.ndcg@10_retention": "nDCG@10 kept",
    "artifact.size_ratio": "size",
}  # fmt: skip


def main() -> None:
    """Print a table."""
    config = load_config(Path("pyproject.toml"))
    (model,) = config.models
    print("| precision | " + " | ".join(SHOWN.values()) + " | gates |\n|---|" + "--:|" * len(SHOWN) + "---|")
    with tempfile.TemporaryDirectory() as work:
        for name in sys.argv[1:] or PRECISIONS:
            file = None
            if name == "per-tensor":
                base = Session(config).model(model)
                plain, file = Path(work) / "plain.onnx", Path(work) / "per-tensor.onnx"
                export_plain(base.root, plain, base.kind)
                quantize(plain, file, per_channel=False)
            session = Session(config, file)
            target = Target(parse_precision("int8-dynamic" if file else name), model, "core")
            families = ("artifact", "weights", "similarity", "ranking", "task", "invariance")
            found = [c for family in families for c in session.checks(target, family)]
            values = {c.name: c.value for c in found if c.slice is None}
            failed = [c.label for c in found if c.outcome == "fail"]
            cells = " | ".join(f"{values[key]:.3f}" for key in SHOWN)
            print(f"| {name} | {cells} | {', '.join(failed) or 'hold'} |", flush=True)


if __name__ == "__main__":
    main()
