"""fp32 in ONNX Runtime of a model that comes as ONNX alone: its own file, fused where ONNX Runtime's optimizer knows it."""

from __future__ import annotations

import logging
from pathlib import Path

from qguard.errors import ModelProblem
from qguard.files import read_json
from qguard.models.model import Model
from qguard.onnx.edit import copy
from qguard.onnx.read import read_graph
from qguard.precisions.export import MIN_COSINE, agreement, fusion_options, onnx_file, save_fused


def fp32(model: Model, folder: Path) -> None:
    """Write ``onnx/model.onnx``: fused if that keeps the embeddings of the check texts, else the shipped file as it is.

    The fused graph is worth a third of the time, but an unknown file is no reason to trust an optimizer: the unmodified one
    decides (cosine of at least :data:`qguard.precisions.export.MIN_COSINE` on every text).
    """
    from qguard.encoders import open_encoder

    assert model.onnx is not None
    target = onnx_file(model, folder)
    if _fuse(model.onnx, target, model.root / "config.json"):
        files = (target, model.onnx)
        if agreement(open_encoder("onnx", folder, model.pipeline, "fp32", f) for f in files) >= MIN_COSINE:
            return
    for file in target.parent.iterdir():
        file.unlink()
    copy(model.onnx, target)


def _fuse(source: Path, target: Path, config: Path) -> bool:
    """Write the fused graph; ``False`` where no attention was recognized, or the file is fused already."""
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    logging.getLogger("fusion_attention").setLevel(logging.ERROR)
    declared = read_json(config, ModelProblem) if config.exists() else {}
    try:
        graph = optimizer.optimize_model(
            str(source), model_type="bert", opt_level=0, optimization_options=fusion_options("bert"),
            # 0: read it from the graph's own shapes, which tell it in older exports alone
            num_heads=int(declared.get("num_attention_heads", 0)), hidden_size=int(declared.get("hidden_size", 0)),
        )  # fmt: skip
    except Exception:  # whatever the optimizer trips over, the file itself still runs
        return False
    if not graph.get_fused_operator_statistics().get("Attention", 0):
        return False
    old = all(o.version < 18 for o in read_graph(source).opset_import if o.domain in ("", "ai.onnx"))
    save_fused(graph, source.parent, target, plain_norms=old)
    return True
