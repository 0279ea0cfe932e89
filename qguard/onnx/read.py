"""ONNX files as graphs: read without running them, with their external data kept inside their folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qguard.errors import ArtifactProblem, ModelProblem
from qguard.files import inside

# Element types (onnx.TensorProto's names) that the matrices of an fp32 model may have; integers are shapes and indices.
_FP32 = ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL", "STRING")


def read_graph(file: Path) -> Any:
    """The ONNX graph of ``file`` without its external data.

    Raises:
        ArtifactProblem: when the file is missing, empty, not ONNX, or points to data outside its folder.
    """
    import onnx

    if not file.is_file():
        raise ArtifactProblem(f"no ONNX file at {file}")
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as e:  # protobuf's own error types
        raise ArtifactProblem(
            f"{file.name} ({file.stat().st_size} bytes) is not a whole ONNX file; build or copy it again"
        ) from e
    if not model.graph.node:
        raise ArtifactProblem(f"{file.name} ({file.stat().st_size} bytes) holds an empty graph; build or copy it again")
    for name in _locations(model):
        path = inside(file.parent, name)
        if not path.is_file():
            raise ArtifactProblem(f"{file.name} needs its external data file {name!r}, which is not beside it")
    return model


def read_model(file: Path) -> Any:
    """The ONNX model of ``file`` with its external data.

    Raises:
        ArtifactProblem: see :func:`read_graph`; also for external data that is damaged.
    """
    import onnx

    model = read_graph(file)
    try:
        onnx.load_external_data_for_model(model, str(file.parent))
    except Exception as e:  # onnx and the operating system raise several kinds
        raise ArtifactProblem(f"{file.name} cannot be read with its external data ({e})") from e
    return model


def external_files(file: Path) -> list[str]:
    """External data files of an ONNX file, relative to its folder."""
    return _locations(read_graph(file))


def _locations(model: Any) -> list[str]:
    return sorted({e.value for t in tensors(model) for e in t.external_data if e.key == "location"})


def tensors(model: Any) -> Iterator[Any]:
    """Every tensor that an ONNX model stores: initializers, and those inside constants, subgraphs and local functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from _of_graph(graph)


def reads(node: Any) -> list[str]:
    """Every name that a node reads, each once: its inputs, then what branches and loops inside of it read."""
    inner = [g for a in node.attribute for g in [*([a.g] if a.HasField("g") else []), *a.graphs]]
    return [n for n in dict.fromkeys([*node.input, *(name for graph in inner for name in sorted(read_names(graph)))]) if n]


def read_names(graph: Any) -> set[str]:
    """Every name that the nodes or outputs of a graph read, those inside branches and loops among them."""
    return {name for node in graph.node for name in reads(node)} | {o.name for o in graph.output}


def fp32_sha256(file: Path) -> str:
    """SHA-256 of an fp32 model that comes as an ONNX file.

    Over name, element type, shape and bytes of every tensor, in the order of their names and wherever they are stored,
    and over the nodes: in ONNX the computation is part of the model.

    Raises:
        ArtifactProblem: see :func:`read_graph`; also for external data that is too short.
        ModelProblem: when matrices are stored in 16 bits or fewer: such a file is a candidate, never a reference.
    """
    from onnx import TensorProto, numpy_helper

    model = read_graph(file)
    total = hashlib.sha256()
    for tensor in sorted(tensors(model), key=lambda t: str(t.name)):
        kind = TensorProto.DataType.Name(tensor.data_type)
        if len(tensor.dims) >= 2 and kind not in _FP32:
            raise ModelProblem(
                f"{file.name} is not fp32 ({tensor.name!r} is {kind}): goldens are recorded from fp32. Give the fp32 file as the "
                f"model, and judge this one with --artifact"
            )
        total.update(f"{tensor.name}|{kind}|{list(tensor.dims)}|".encode())
        if kind == "STRING":
            total.update(tensor.SerializeToString(deterministic=True))
            continue
        try:
            total.update(numpy_helper.to_array(tensor, base_dir=str(file.parent)).tobytes())
        except Exception as e:  # onnx and NumPy raise several kinds for data that does not fit its shape
            raise ArtifactProblem(f"{file.name}: the data of {tensor.name!r} is damaged ({e}); copy it again") from e
    for part in (*model.opset_import, *model.graph.input, *model.graph.node, *model.graph.output, *model.functions):
        total.update(part.SerializeToString(deterministic=True))
    return total.hexdigest()
