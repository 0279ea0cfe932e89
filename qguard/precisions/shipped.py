"""fp32 in ONNX Runtime of a model that comes as ONNX alone: its own file, with what is recognized in it fused."""

from __future__ import annotations

import logging
from pathlib import Path

from qguard.errors import ArtifactProblem, ModelProblem
from qguard.files import read_json
from qguard.models.model import Model
from qguard.onnx.edit import Graph, copy
from qguard.onnx.read import read_graph
from qguard.precisions.export import MIN_COSINE, agreement, fusion_options, onnx_file, save_fused
from qguard.precisions.products import plain_products

FIRST = 13  # operator set from which on axes of Unsqueeze and Squeeze are inputs


def fp32(model: Model, folder: Path) -> None:
    """Write ``onnx/model.onnx``: fused if that keeps the embeddings of the check texts, else the shipped file as it is.

    The fused graph is worth a third of the time, but an unknown file is no reason to trust an optimizer: the unmodified one
    decides (cosine of at least :data:`qguard.precisions.export.MIN_COSINE` on every text).
    """
    from qguard.encoders import open_encoder
    from qguard.encoders.feeding import Feeding

    assert model.onnx is not None
    target = onnx_file(model, folder)
    for fuse in (_optimised, _fused):
        if not fuse(model.onnx, target, model.root / "config.json"):
            continue
        files = (target, model.onnx)
        try:
            feeding = Feeding.of(model)
            if agreement(open_encoder("onnx", folder, model.pipeline, "fp32", f, feeding=feeding) for f in files) >= MIN_COSINE:
                return
        except ArtifactProblem:  # one of them does not run; of the shipped one the gate tells
            continue
    for file in target.parent.iterdir():
        file.unlink()
    copy(model.onnx, target)


def _optimised(source: Path, target: Path, config: Path) -> bool:
    """Write what ONNX Runtime's optimizer makes of it; ``False`` where it finds no attention, or the file is fused already."""
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


def _fused(source: Path, target: Path, _: Path) -> bool:
    """Write the graph as our own fusion makes it, which knows newer exporters too; ``False`` where it finds no attention."""
    from qguard.precisions.fusion import attention_fused, fuse

    graph = Graph.read(source)
    if graph.opset < FIRST or any(a.HasField("g") or a.graphs for n in graph.nodes for a in n.attribute):
        return False
    plain_products(graph)
    try:
        fuse(graph)
    except Exception:  # whatever onnx's inference of shapes meets in an unknown file, the file itself still runs
        return False
    if not attention_fused(graph)[0]:
        return False
    graph.save(target)
    return True
