"""sentence-transformers' own ONNX exports of a model, for benchmarks/recipes.py and tasks.py to judge beside ours.

It needs an environment of its own (sentence-transformers below 6 with its [onnx] extra); see docs/recipes.md.

usage: PYTHON_OF_THAT_ENVIRONMENT benchmarks/peer_exports.py MODEL_FOLDER OUT    writes OUT/onnx/model*.onnx
"""

import shutil
import sys
from pathlib import Path

from sentence_transformers import (
    SentenceTransformer,
    __version__,
    export_dynamic_quantized_onnx_model,
    export_optimized_onnx_model,
)

source, out = Path(sys.argv[1]), Path(sys.argv[2])
shutil.copytree(source, out, dirs_exist_ok=True)
model = SentenceTransformer(str(out), backend="onnx", device="cpu", model_kwargs={"export": True})
model.save_pretrained(str(out))
export_optimized_onnx_model(model, "O3", str(out))
for kind in ("avx2", "avx512_vnni"):
    export_dynamic_quantized_onnx_model(model, kind, str(out))
print(f"sentence-transformers {__version__}:", *sorted(p.name for p in out.glob("onnx/*.onnx")))
