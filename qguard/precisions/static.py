"""Static int8 in ONNX Runtime: activation ranges from calibration texts, by NNCF with SmoothQuant and bias correction."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qguard.console.progress import progress
from qguard.errors import ArtifactProblem, UsageProblem
from qguard.models.model import Model
from qguard.onnx.edit import Graph, copy
from qguard.onnx.read import external_files
from qguard.precisions.export import declare_exact_products, export_split, onnx_file

if TYPE_CHECKING:
    from qguard.encoders.feeds import Feeds
    from qguard.precisions.calibration import Sample

PASSES = 2  # SmoothQuant, then ranges and biases: each reads all texts once


def int8(model: Model, folder: Path, sample: Sample) -> None:
    """Quantize weights per output channel and the inputs of their multiplications per tensor; attention itself stays float.

    Raises:
        UsageProblem: when NNCF is not installed.
    """
    nncf = _import_nncf()
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    from qguard.encoders.feeding import Feeding
    from qguard.encoders.feeds import Feeds
    from qguard.encoders.ports import of_graph

    target = onnx_file(model, folder)
    if model.onnx is None:
        export_split(model.root, target, model.kind)
    else:
        copy(model.onnx, target)
    if external_files(target):
        raise ArtifactProblem(
            f"model {model.name!r} has {model.fp32_bytes / 1e9:.1f} GB of weights, and NNCF quantizes ONNX files of up to 2 GB; "
            "take int8, which is calibrated too"
        )
    with progress(f"calibrating on {len(sample.texts)} texts", PASSES * len(sample.texts)) as advance, _silent():
        # NNCF sees only those edges whose shape is known, and onnx does not infer shapes of fused operators
        shaped = SymbolicShapeInference.infer_shapes(onnx.load(str(target)), auto_merge=True)
        stored = {t.name for t in shaped.graph.initializer}
        fed = Feeds(of_graph(i for i in shaped.graph.input if i.name not in stored), target, Feeding.of(model))
        feeds = list(_feeds(model, sample, fed))
        quantized = quantize(nncf, shaped, feeds, advance)
    graph = Graph(quantized)
    _unsigned_activations(graph)
    _gather_before_dequantizing(graph)
    del quantized.graph.value_info[:]  # types that no longer hold; runtimes infer their own
    graph.save(target)
    declare_exact_products(target)


def quantize(nncf: Any, graph: Any, feeds: list[dict[str, Any]], advance: Callable[[], None]) -> Any:
    """NNCF's post-training quantization of a transformer: SmoothQuant, ranges, bias correction.

    Args:
        nncf: The module.
        graph: ONNX model.
        feeds: Inputs by name, one text each.
        advance: Called each time a text is read.
    """

    def read(feed: dict[str, Any]) -> dict[str, Any]:
        advance()
        return feed

    return nncf.quantize(
        graph, nncf.Dataset(feeds, read), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds), fast_bias_correction=True
    )


def _unsigned_activations(graph: Graph) -> None:
    """Count activations from 0 instead of from -128: the same values, for the kernels that ONNX Runtime has on x86.

    It does so itself where a quantized tensor has one reader; query, key and value share one, and would run in float.
    """
    import numpy as np

    steps = (n for n in graph.nodes if n.op_type == "QuantizeLinear" and len(n.input) > 2)
    for name in {n.input[2] for n in steps if n.input[0] not in graph.initializers} & graph.initializers.keys():
        value = graph.array(name)
        if value.dtype == np.int8:
            graph.put(name, (value.astype(np.int16) + 128).astype(np.uint8))


def _gather_before_dequantizing(graph: Graph) -> None:
    """Look up rows of an 8-bit embedding table, then dequantize these: the other order dequantizes the table for every batch."""
    import numpy as np
    from onnx import TensorProto, helper

    last, moved = "qguard/last_axis", set()

    def rows_first(node: Any) -> list[Any] | None:
        source = graph.producers.get(node.input[0]) if node.op_type == "Gather" else None
        if source is None or source.op_type != "DequantizeLinear" or not _by_row(graph, source.input):
            return None
        (table, scale), (ids, out) = source.input[:2], (node.input[1], node.output[0])
        moved.add(source.output[0])
        return [
            helper.make_node("Gather", [table, ids], [f"{out}/int8"], f"{node.name}/Rows"),
            helper.make_node("Cast", [f"{out}/int8"], [f"{out}/float"], f"{node.name}/Cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [scale, ids], [f"{out}/scale"], f"{node.name}/Scale"),
            helper.make_node("Unsqueeze", [f"{out}/scale", last], [f"{out}/column"], f"{node.name}/Column"),
            helper.make_node("Mul", [f"{out}/float", f"{out}/column"], [out], f"{node.name}/Dequantize"),
        ]

    graph.rewrite(rows_first)
    if moved:
        graph.put(last, np.array([-1]))
        graph.set_nodes(n for n in graph.nodes if n.output[0] not in moved or graph.consumers(n.output[0]))


def _by_row(graph: Graph, names: Sequence[str]) -> bool:
    """Whether (table, scale, zero point) are stored tensors with one scale a row and zero as the zero point."""
    if not graph.initializers.keys() >= set(names):
        return False
    table, scale, *zero = names
    rows = graph.initializers[table].dims[:1]
    return list(graph.initializers[scale].dims) == list(rows) and not any(graph.array(z).any() for z in zero)


def _feeds(model: Model, sample: Sample, feeds: Feeds) -> Iterator[dict[str, Any]]:
    """One text each, unpadded: a padding token's activations are never used, and must not widen a range."""
    from qguard.encoders import padded
    from qguard.encoders.tokenizer import TextTokenizer
    from qguard.precisions.calibration import inputs_of

    # in the sample's order, which NNCF's ranges depend on; a text without a token has no activation
    for row in filter(None, TextTokenizer.open(model.root, model.pipeline)(*inputs_of(sample, model.pipeline))):
        yield feeds(*padded([row]))


def _import_nncf() -> Any:
    if find_spec("nncf") is None:
        raise UsageProblem("int8-static is calibrated by NNCF, which is not installed; pip install 'qguard[static]'")
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # read at import: no usage statistics are sent from a gate
    kind = logging.getLoggerClass()
    try:
        import nncf
    finally:
        logging.setLoggerClass(kind)
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    return nncf


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """NNCF writes its log and its own bars to stdout, where a report may go."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
