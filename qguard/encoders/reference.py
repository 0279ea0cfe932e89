"""fp32 outputs of a model that comes as ONNX alone: ONNX Runtime records them, and two other ways must agree.

Neither shares with the first what most often goes wrong. ONNX Runtime without graph optimization, one text at a time, runs the
graph as it was written, without padding. onnx's reference evaluator computes every operator in NumPy, from its specification;
it is slow, so it gets a few texts, and it knows the operators of the standard alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Encoder
from qguard.encoders.feeding import Feeding
from qguard.errors import ArtifactProblem, GoldenProblem
from qguard.models.model import Model
from qguard.onnx.read import fill, is_external, read_graph, stored_array, tensors
from qguard.outputs import finite, relative_change
from qguard.suites import Suite

Floats = NDArray[np.float32]
# Largest difference of a vector's element, over the vector's length; the paths differ by rounding alone.
AGREEMENT = 1e-5
EVALUATED = 8  # texts for the reference evaluator


def reference(model: Model, suite: Suite) -> tuple[Floats, list[list[int]], dict[str, str]]:
    """Record and confirm.

    Args:
        model: A model with an ONNX file.
        suite: The texts.

    Returns:
        float32 vectors (texts, dim), token ids, and for the manifest which path ``recorded`` and ``confirmed`` them.

    Raises:
        GoldenProblem: when a path disagrees, or the outputs are not finite.
    """
    from qguard.encoders import open_encoder

    assert model.onnx is not None
    encoder = open_encoder("onnx", model.folder, model.pipeline, "fp32", model.onnx, feeding=Feeding.of(model))
    ids = encoder.tokenizer(suite.texts, suite.roles)
    vectors = encoder.encode_ids(ids)
    if not finite(vectors).all():
        raise GoldenProblem("ONNX Runtime returned NaN or infinite values in fp32; nothing was written")
    plain = "ONNX Runtime without graph optimization, one text at a time"
    _agree(plain, suite.texts, vectors, _through(encoder, _unoptimised(model), ids))
    confirmed = [plain]
    evaluator = _evaluator(model)
    if evaluator is None:
        confirmed.append("onnx's reference evaluator does not know every operator of this file")
    else:
        order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), i))
        some = sorted({order[i] for i in np.linspace(0, len(order) - 1, EVALUATED).astype(int)})
        found = _through(encoder, evaluator, [ids[i] for i in some])
        _agree("onnx's reference evaluator", [suite.texts[i] for i in some], vectors[some], found)
        confirmed.append(f"onnx's reference evaluator on {len(some)} texts")
    return vectors, ids, {"recorded": "ONNX Runtime", "confirmed": "; ".join(confirmed)}


def _agree(path: str, texts: Sequence[str], vectors: Floats, other: Floats) -> None:
    error = relative_change(vectors, other)
    if not error.max() <= AGREEMENT:
        raise GoldenProblem(
            f"the independent path ({path}) disagrees with ONNX Runtime: largest difference {error.max():.2g} on "
            f"{texts[int(error.argmax())][:60]!r}, allowed {AGREEMENT}; nothing was written"
        )


def _through(encoder: Encoder, session: Any, ids: Sequence[Sequence[int]]) -> Floats:
    """The same feeds and head with another session, one text at a time."""
    runtime: Any = copy.copy(encoder.runtime)
    runtime.session, runtime.batch_tokens = session, 1
    return Encoder(encoder.tokenizer, runtime, encoder.head).encode_ids(ids)


def _unoptimised(model: Model) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(str(model.onnx), options, providers=["CPUExecutionProvider"])


def _evaluator(model: Model) -> Any:
    """A NumPy session, or ``None`` where the file uses operators that onnx does not define."""
    from onnx.reference import ReferenceEvaluator

    assert model.onnx is not None
    graph = read_graph(model.onnx)
    if any(node.domain not in ("", "ai.onnx") for node in graph.graph.node):
        return None
    for tensor in filter(is_external, tensors(graph)):  # onnx's own reader refuses links, which every hub cache has
        fill(tensor, stored_array(tensor, model.onnx.parent))
    try:
        return ReferenceEvaluator(graph)
    except (NotImplementedError, RuntimeError):  # an operator that it lacks
        return None
    except Exception as e:
        raise ArtifactProblem(f"{model.onnx.name} cannot be read by onnx ({e}); copy it again") from e
