"""ONNX files as graphs: read without running them, with their external data kept inside their folder."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from qguard.errors import ArtifactProblem, ModelProblem
from qguard.files import inside

# Element types (onnx.TensorProto's names) that the matrices of an fp32 model may have; integers are shapes and indices.
_FP32 = ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL", "STRING")
_POINTER = b"version https://git-lfs.github.com/spec/"


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
        if _is_pointer(file):
            raise ArtifactProblem(f"{file.name} is a pointer of Git LFS, not the file itself; run: git lfs pull") from e
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


def _is_pointer(file: Path) -> bool:
    """Whether Git LFS left only the name of a file in its place."""
    with file.open("rb") as f:
        return f.read(len(_POINTER)) == _POINTER


# fields of a tensor that may hold its values
VALUES = ("raw_data", "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def is_external(tensor: Any) -> bool:
    """Whether a tensor's values are not in the model."""
    return bool(tensor.data_location == 1)  # onnx.TensorProto.EXTERNAL


def stored_bytes(tensor: Any) -> int:
    """Size of a tensor's values; of strings, the size of the text."""
    from onnx import TensorProto, helper

    if tensor.data_type == TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    kind = TensorProto.DataType.Name(tensor.data_type)
    packed = next((n for n in (2, 4) if kind.endswith(f"INT{n}") or kind.startswith(f"FLOAT{n}E")), 0)
    bits = packed or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return int(-(-math.prod(tensor.dims) * bits // 8))


def stored_array(tensor: Any, folder: Path | None) -> Any:
    """The values of a tensor as an array that NumPy may refuse to change; those in a file are mapped, not read.

    Args:
        tensor: ``onnx.TensorProto``.
        folder: Of its external data.

    Raises:
        ArtifactProblem: where external data is missing, too short, or outside of the folder.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    said = {e.key: e.value for e in tensor.external_data}
    size = stored_bytes(tensor)
    file = inside(folder or Path(), said.get("location", ""))
    try:
        offset, length = (int(said.get(key, default)) for key, default in (("offset", 0), ("length", size)))
        if length != size or offset < 0:
            raise ValueError(f"{length} bytes from {offset} on, expected {size}")
        stored = np.memmap(file, np.uint8, "r", offset, (size,)) if size else np.empty(0, np.uint8)
    except (OSError, ValueError) as e:
        raise ArtifactProblem(f"the external data of {tensor.name!r} cannot be read from {file.name}: {e}; copy it again") from e
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if dtype.itemsize * math.prod(tensor.dims) == size:
        return np.asarray(stored).view(dtype).reshape(tuple(tensor.dims))
    alone = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=stored.tobytes())
    return numpy_helper.to_array(alone)  # several values a byte


def fill(tensor: Any, values: Any) -> None:
    """Put values into a tensor that has them elsewhere, in place."""
    from onnx import numpy_helper

    plain = values.nbytes == stored_bytes(tensor)  # else several values share a byte
    raw = values.tobytes() if plain else numpy_helper.from_array(values).raw_data
    for field in ("data_location", "external_data", *VALUES):
        tensor.ClearField(field)
    tensor.raw_data = raw


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


def stored_shapes(file: Path) -> list[tuple[str, list[int]]]:
    """Element type (onnx.TensorProto's name) and shape of every tensor that an ONNX file stores."""
    from onnx import TensorProto

    return [(TensorProto.DataType.Name(t.data_type), list(t.dims)) for t in tensors(read_graph(file))]


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
    import numpy as np
    from onnx import TensorProto

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
            values = np.ascontiguousarray(stored_array(tensor, file.parent))
        except Exception as e:  # onnx and NumPy raise several kinds for data that does not fit its shape
            raise ArtifactProblem(f"{file.name}: the data of {tensor.name!r} is damaged ({e}); copy it again") from e
        total.update(values.reshape(-1).view(np.uint8).data)
    for part in (*model.opset_import, *model.graph.input, *model.graph.node, *model.graph.output, *model.functions):
        total.update(part.SerializeToString(deterministic=True))
    return total.hexdigest()
