"""The matrix of supported models: every architecture × every precision, through qguard itself.

For each architecture a tiny model with random weights (tests/families.py), or a real one with --model: its golden is recorded,
each precision is built, run and compared with the golden, its proof is checked, and int8 is diagnosed and self-tested. A cell
works, or is refused by qguard in words. Anything else (another library's exception, vectors that are not the model's, a proof
that does not hold) makes this script fail. With --write the result goes to docs/supported-models.md, and for ``qguard models``
to qguard/precisions/supported.json; rows that were not run stay as they are.

usage: python -m benchmarks.models [--families a,b] [--precisions a,b] [--model NAME=REF …] [--texts N] [--no-selftest]
                                   [--keep FOLDER] [--json OUT] [--write]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from qguard import goldens
from qguard.config import load_config
from qguard.errors import QguardError
from qguard.judging.session import Session, Target
from qguard.machine.versions import installed
from qguard.precisions import parse_precision
from qguard.precisions.support import MATRIX, REFUSED, WORKS, WRONG
from qguard.suites import load_suite
from tests import families

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "supported-models.md"
EQUAL = 0.99999  # the least cosine to torch of fp32 in another runtime, of any text
# element type of weights → the least mean cosine of vectors less their mean that rounding explains
LEAST = {"F32": 0.9999, "F16": 0.99, "BF16": 0.9, "I8": 0.9, "I4": 0.7}
PRECISIONS = (
    "fp32", "fp32@openvino", "fp16", "bf16", "int8", "int8-dynamic", "int8-weight", "int4", "int8@openvino", "int8@torch",
)  # fmt: skip
LIBRARIES = ("torch", "transformers", "sentence-transformers", "onnx", "onnxruntime", "openvino", "torchao", "tokenizers")
# faults that are made inside of the graph, where architectures differ
FAULTS = (
    "scale-wrong", "weight-bits-flipped", "head-zeroed", "embedding-rows-swapped", "granularity-lost", "quantized-in-name-only",
    "range-clipped", "mask-dropped", "layer-norm-changed", "gelu-changed", "layers-removed", "pooling-wrong",
)  # fmt: skip
INTRODUCTION = """<!-- Written by benchmarks/models.py. -->

# Tested architectures

`python -m benchmarks.models --write` makes this page. For each architecture it makes a tiny model with random weights and a
tokenizer trained on the texts of `core` (`tests/families.py`), or takes a real model. It records a golden and builds every
precision. `qguard models` shows the same for what is installed, and `qguard models MODEL` says what applies to one model.
[Supported models](models.md) says what else a model folder may hold.

The first number under a precision is the mean cosine to the golden, which sentence-transformers records in torch. Vectors of
random weights lie close together; the second number is the mean cosine after the golden's mean vector is subtracted. It must be
at least {least}. These numbers show that a file computes the same model, and not how much a trained model would lose. fp32 in
ONNX Runtime and OpenVINO must reach a cosine of at least 0.99999 on every text, among them texts that fill the model's length.

- `proof`: files that hold what their precision promises.
- `diagnosis`: layers of `int8` that `qguard diagnose` measures.
- `selftest`: faults of `int8` that `qguard selftest` catches at their full size, of those that the model can have.
"""
# family → what people call the architecture, and models that have it
NAMES = {
    "bert": ("BERT", "all-MiniLM-L6-v2, bge-base-en-v1.5, e5-base-v2"),
    "roberta": ("RoBERTa", "all-distilroberta-v1"),
    "xlm-roberta": ("XLM-RoBERTa", "multilingual-e5, bge-m3"),
    "camembert": ("CamemBERT", "sentence-camembert-base"),
    "mpnet": ("MPNet", "all-mpnet-base-v2"),
    "distilbert": ("DistilBERT", "multi-qa-distilbert-cos-v1"),
    "albert": ("ALBERT", "paraphrase-albert-small-v2"),
    "electra": ("ELECTRA", ""),
    "deberta-v2": ("DeBERTa-v2, v3", ""),
    "mobilebert": ("MobileBERT", ""),
    "modernbert": ("ModernBERT", "gte-modernbert-base, modernbert-embed-base"),
    "nomic": ("NomicBERT", "nomic-embed-text-v1.5"),
    "gte": ("GTE", "gte-multilingual-base in Transformers' own type"),
    "jina-v3": ("Jina v3", "jina-embeddings-v3-hf"),
    "eurobert": ("EuroBERT", "EuroBERT-210m"),
    "t5": ("T5 encoder", "sentence-t5, gtr-t5"),
    "t5-gated": ("mT5, T5 1.1 encoder", ""),
    "clip-text": ("CLIP's text tower", "clip-ViT-B-32, texts alone"),
    "mistral": ("Mistral", "e5-mistral-7b-instruct"),
    "qwen3": ("Qwen3", "Qwen3-Embedding-0.6B"),
    "llama": ("Llama", ""),
    "gemma3": ("Gemma 3", "embeddinggemma-300m"),
}


def cell(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What came of it: ``status``, ``words`` and whatever was measured."""
    try:
        return {"status": WORKS, "words": "", **work()}
    except QguardError as e:
        return {"status": REFUSED, "words": str(e)}
    except Exception as e:
        return {"status": WRONG, "words": f"{type(e).__name__}: {e}"[:300]}


def project(folder: Path, ref: str, texts: int) -> Session:
    """A project of one model and a suite of texts of core: every so many, and the longest."""
    folder.mkdir(parents=True)
    some = [t for t in load_suite("core", {}).texts if t.strip()]
    chosen = dict.fromkeys([*some[:: len(some) // (texts - 8)], *sorted(some, key=len)[-8:]])
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in chosen))
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nmodel = {json.dumps(ref)}\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        '[tool.qguard.latency]\nmode = "off"\n[tool.qguard.robustness]\nmode = "off"\n'
    )
    return Session(load_config(folder))


def cosines(session: Session, target: Target) -> tuple[Any, Any]:
    """Of each text the cosine between the precision's vector and the golden's: as they are, and less the golden's mean.

    Vectors of random weights lie close together, so that any two are alike; what tells them apart is left without their mean.
    """
    found, want = session.embeddings(target).astype(np.float64), session.golden(target.model, target.suite).vectors
    want = want.astype(np.float64)
    pairs = (found, want), (found - want.mean(0), want - want.mean(0))
    plain, centered = ((x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1) for x, y in pairs)
    return plain, centered


def judged(session: Session, target: Target) -> dict[str, Any]:
    """One precision against the golden: fp32 equal to torch, others no further off than rounding explains."""
    (cosine, centered), kind = cosines(session, target), target.precision.recipe.weights
    found = {"cosine": round(float(cosine.mean()), 5), "centered": round(float(centered.mean()), 5)}
    if kind == "F32" and not cosine.min() >= EQUAL:
        return found | {"status": WRONG, "words": f"cosine {cosine.min():.6f}, expected at least {EQUAL}"}
    if not centered.mean() >= LEAST[kind]:
        words = f"centered cosine {centered.mean():.4f}, expected at least {LEAST[kind]}"
        return found | {"status": WRONG, "words": words}
    return found


def proved(session: Session, targets: list[Target]) -> dict[str, Any]:
    """The files of every precision hold what its recipe promises; a tiny file's scales are no measure of its size."""
    wrong = []
    for target in targets:
        checks = session.checks(target, "artifact")
        failed = [c for c in checks if c.outcome == "fail" and c.name != "artifact.size_ratio"]
        wrong += [f"{target.precision}: {c.name} {c.value:.4g}, gate {c.bound} ({'; '.join(c.worst)})" for c in failed]
    found = {"precisions": len(targets), "held": len(targets) - len({w.partition(":")[0] for w in wrong})}
    return found | ({"status": WRONG, "words": "; ".join(wrong)} if wrong else {})


def diagnosed(session: Session, target: Target) -> dict[str, Any]:
    """The layers of int8, each with its error."""
    from qguard.diagnosis.examination import Examination

    found = Examination(session, target, 16).run(layers_only=True)
    wrong = [f"{s.name}: {s.words}" for s in found.stages if s.fault]
    if found.notes or wrong or not found.layers:
        return {"status": WRONG, "words": "; ".join([*found.notes, *wrong]) or "no layer was found"}
    return {"layers": len(found.layers)}


def tested(folder: Path, session: Session, target: Target) -> dict[str, Any]:
    """The self-test of int8, with gates that a model of random weights can hold: its own values, and some room."""
    from qguard.faults import chosen, runner
    from qguard.faults.judging import BROKEN, CAUGHT, NOT_APPLICABLE

    failed = {}
    for family in ("embedding", "similarity", "ranking", "invariance", "artifact"):
        for c in session.checks(target, family):
            if c.outcome == "fail" and c.bound is not None and (family != "artifact" or c.name == "artifact.size_ratio"):
                value = c.value - 0.02 if c.bound.op == ">=" else c.value * 1.5
                failed[c.label] = f'"{c.label}" = "{c.bound.op} {value:.6f}"\n'
    with (folder / "pyproject.toml").open("a") as file:
        file.write("".join([f"[tool.qguard.gates.{target.precision}]\n", *failed.values()]) if failed else "")
    own = Session(load_config(folder))
    report = runner.selftest(own, target.precision, chosen(list(FAULTS)), 1, 1, lambda: None)
    made = [r for r in report.results if r.status != NOT_APPLICABLE]
    broken = [f"{r.fault} ({r.severity}): {r.reason}" for r in made if r.status == BROKEN]
    alarms = [f"a clean run failed {f.gate}" for r in report.repeats for f in r.failures]
    full = {r.fault: r for r in made}  # the largest severity comes last
    found = {"faults": len(full), "caught": sum(r.status == CAUGHT for r in full.values())}
    return found | ({"status": WRONG, "words": "; ".join([*broken, *alarms])} if broken or alarms else {})


def row(name: str, ref: str, work: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All cells of one model."""
    started, folder = time.monotonic(), work / name / "project"
    session = project(folder, ref, args.texts)
    cells: dict[str, Any] = {}

    def golden() -> dict[str, Any]:
        model, suite = session.model("model"), session.suite("own")
        goldens.record(model, suite, session.config.golden_root, "matrix of supported models")
        return {"texts": len(session.golden("model", "own").vectors)}

    cells["golden"] = cell(golden)
    root = session.model("model").root if cells["golden"]["status"] == WORKS else None
    targets = {p: Target(parse_precision(p), "model", "own") for p in args.precisions}
    for text, target in targets.items():
        if root is None:
            cells[text] = {"status": REFUSED, "words": "there is no golden"}
            continue
        cells[text] = cell(lambda t=target: judged(session, t))
    works = [t for p, t in targets.items() if cells[p]["status"] == WORKS]
    if works:
        cells["proof"] = cell(lambda: proved(session, works))
    int8 = next((t for t in works if str(t.precision) == "int8"), None)
    if int8 is not None:
        cells["diagnosis"] = cell(lambda: diagnosed(session, int8))
        if not args.no_selftest:
            cells["selftest"] = cell(lambda: tested(folder, session, int8))
    kind = json.loads((root / "config.json").read_text())["model_type"] if root else ""
    return {"model_type": kind, "cells": cells, "seconds": round(time.monotonic() - started, 1)}


def shown(name: str, found: dict[str, Any] | None) -> str:
    """A cell of the table."""
    if found is None:
        return ""
    if found["status"] != WORKS:
        return found["status"]
    if name == "golden":
        return "yes"
    if name == "proof":
        return f"{found['held']} of {found['precisions']}"
    if name == "diagnosis":
        return f"{found['layers']} layers"
    if name == "selftest":
        return f"{found['caught']} of {found['faults']}"
    return f"{found['cosine']:.4f} / {found['centered']:.3f}"


def page(matrix: dict[str, Any]) -> str:
    """docs/supported-models.md."""
    columns = ["golden", *PRECISIONS, "proof", "diagnosis", "selftest"]
    least = ", ".join(f"{least} for {kind}" for kind, least in LEAST.items())
    lines = [INTRODUCTION.format(least=least)]
    head = ["architecture", "`model_type`", *(f"`{c}`" if c in PRECISIONS else c for c in columns)]
    rows = []
    for found in matrix["families"].values():
        name = found["name"] + (f" ({found['models']})" if found["models"] else "")
        rows.append([name, f"`{found['model_type']}`", *(shown(c, found["cells"].get(c)) for c in columns)])
    lines += ["| " + " | ".join(r) + " |" for r in (head, ["---"] * len(head), *rows)]
    notes = [
        f"- {f['name']}, {c}: {cell['words']}"
        for f in matrix["families"].values()
        for c, cell in f["cells"].items()
        if cell["status"] != WORKS
    ]
    if notes:
        lines += ["\nRefused:\n", *notes]
    versions = ", ".join(f"{k} {v}" for k, v in matrix["versions"].items())
    minutes = sum(f["seconds"] for f in matrix["families"].values()) / 60
    lines.append(f"\nMade with {versions}. The rows took {minutes:.0f} minutes together on two cores that other work shared.\n")
    return "\n".join(lines)


def main() -> int:
    """Run the rows that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--families", default=",".join(NAMES), help="names in tests/families.py; none for --model alone")
    parser.add_argument("--precisions", default=",".join(PRECISIONS))
    parser.add_argument("--model", action="append", default=[], metavar="NAME=REF", help="a real model; repeatable")
    parser.add_argument("--texts", type=int, default=48, help="texts of the suite (default 48)")
    parser.add_argument("--no-selftest", action="store_true")
    parser.add_argument("--keep", type=Path, help="where models and projects stay (default: a temporary folder)")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write the page and the data of qguard models")
    args = parser.parse_args()
    args.precisions = [p for p in args.precisions.split(",") if p]
    matrix = json.loads(MATRIX.read_text()) if MATRIX.exists() else {"families": {}}
    matrix["versions"] = installed(*LIBRARIES)
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        work = args.keep or Path(temporary)
        shutil.rmtree(work, ignore_errors=True)
        todo = [(f, str(work / f / f), *NAMES[f]) for f in args.families.split(",") if f]
        todo += [(name, ref, name, "real weights") for name, _, ref in (m.partition("=") for m in args.model)]
        for name, ref, title, models in todo:
            if name in NAMES and not (Path(ref) / "modules.json").exists():
                families.write(name, Path(ref))
            found = {"name": title, "models": models, **row(name, ref, work, args)}
            matrix["families"][name] = found
            wrong += sum(x["status"] == WRONG for x in found["cells"].values())
            cells = " | ".join(f"{c} {shown(c, x)}" for c, x in found["cells"].items())
            print(f"{name} ({found['seconds']} s): {cells}", flush=True)
            for c, x in found["cells"].items():
                if x["words"]:
                    print(f"  {x['status'].upper()} {c}: {x['words']}", flush=True)
            if args.json:
                args.json.write_text(json.dumps(matrix, indent=1) + "\n")
            if args.write:
                order = [*NAMES, *matrix["families"]]
                matrix["families"] = {k: matrix["families"][k] for k in dict.fromkeys(order) if k in matrix["families"]}
                MATRIX.write_text(json.dumps(matrix, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
                PAGE.write_text(page(matrix), encoding="utf-8")
    print(f"{len(todo)} rows, {wrong} wrong cells", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
