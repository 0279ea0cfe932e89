"""sentence-transformers' own ONNX exports of a model, for benchmarks/recipes.py, tasks.py and reranker_exports.py to judge beside
ours; of a cross-encoder by its class for those.

It needs an environment of its own (sentence-transformers below 6 with its [onnx] extra); see docs/recipes.md.

usage: PYTHON_OF_THAT_ENVIRONMENT benchmarks/peer_exports.py MODEL_FOLDER OUT    writes OUT/onnx/model*.onnx
"""

import json
import shutil
import sys
from pathlib import Path

from sentence_transformers import (
    CrossEncoder,
    SentenceTransformer,
    __version__,
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
)

source, out = Path(sys.argv[1]), Path(sys.argv[2])
shutil.copytree(source, out, dirs_exist_ok=True)
scores = any("ForSequenceClassification" in name for name in json.loads((out / "config.json").read_text())["architectures"])
if scores:  # release 5 knows no modules of cross-encoders
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (out / name).unlink(missing_ok=True)
model = (CrossEncoder if scores else SentenceTransformer)(str(out), backend="onnx", device="cpu", model_kwargs={"export": True})
model.save_pretrained(str(out))
export_optimized_onnx_model(model, "O3", str(out))
for kind in ("avx2", "avx512_vnni"):
    export_dynamic_quantized_onnx_model(model, kind, str(out))
print(f"sentence-transformers {__version__}:", *sorted(p.name for p in out.glob("onnx/*.onnx")))
