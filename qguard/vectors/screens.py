"""Screens: cheap scores that rule out most documents of a search, by an error bound and never by a guess."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.machine.cpu import saturates
from qguard.vectors.similarity import DOT, Similarity

Screened = tuple[NDArray[np.number], NDArray[np.number]]

PAYS = 1e10  # products of a search from which preparing integers costs less than it saves


class Screen(Protocol):
    """Scores of a block of documents for all queries; called from several threads."""

    def __call__(self, vectors: Floats, longest: float, floor: NDArray[np.float64]) -> Screened:
        """Scores (n, q), and per query (q,) the least of them that a document with an inner product of ``floor`` can have.

        Args:
            vectors: Documents, finite float32 (n, dim).
            longest: No document is longer.
            floor: Inner products (q,), -inf where any counts.
        """
        ...


def open_screens(queries: Floats, documents: int, similarity: Similarity = DOT) -> list[Screen]:
    """The screens for a search of float32 (q, dim) ``queries`` in so many documents, the cheapest first, the closest last."""
    if similarity is not DOT:
        return [Scores(queries, similarity)]
    closest: list[Screen] = [Singles(queries)]
    return [Bytes(queries), *closest] if queries.size * documents >= PAYS and queries.shape[1] < 2**16 else closest


class Scores:
    """The scores themselves, of a similarity that is no inner product, but for the rounding of another order of sums."""

    def __init__(self, queries: Floats, similarity: Similarity) -> None:
        self.queries, self.similarity = similarity.prepared(queries), similarity

    def __call__(self, vectors: Floats, longest: float, floor: NDArray[np.float64]) -> Screened:
        """See :class:`Screen`."""
        return self.similarity.scores(self.similarity.prepared(vectors), self.queries), floor - 1e-9 * np.abs(floor)


class Singles:
    """Products in single precision. |fl(x·y) - x·y| <= n u / (1 - n u) |x||y|, u = 2^-24 (Higham 2002, 3.5)."""

    def __init__(self, queries: Floats) -> None:
        self.transposed = np.ascontiguousarray(queries.T)  # the layout whose product is fastest in OpenBLAS
        self.slack = 1.01 * queries.shape[1] * 2.0**-24 * np.linalg.norm(queries.astype(np.float64), axis=1)

    def __call__(self, vectors: Floats, longest: float, floor: NDArray[np.float64]) -> Screened:
        """See :class:`Screen`."""
        least = (floor - self.slack * longest).astype(np.float32)
        return vectors @ self.transposed, np.nextafter(least, np.float32(-np.inf))


class Bytes:
    """Products of 8-bit integers, whose sums are exact, so that only the rounding of the vectors is off.

    With x = x' + r and y = y' + s: |x·y - x'·y'| <= |r||y| + |x'||s| (Cauchy-Schwarz). The lengths of r and s are measured, not
    assumed. Instructions for neural networks compute the products three to six times as fast as single precision.
    """

    def __init__(self, queries: Floats) -> None:
        import onnx
        import onnxruntime as ort
        from onnx import TensorProto, helper, numpy_helper

        # without VNNI pairs of products saturate at 2^15, which 7 bits times 8 bits do not reach
        self.levels = 63 if saturates() else 127
        exact = queries.astype(np.float64)
        self.lengths = np.linalg.norm(exact, axis=1)
        self.scale = np.maximum(np.abs(exact).max(1), 1e-30) / 127
        rounded = np.rint(exact / self.scale[:, None])
        self.lost = np.linalg.norm(exact - rounded * self.scale[:, None], axis=1)
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["documents", "queries", "zero"], ["scores"])],
            "screen",
            [helper.make_tensor_value_info("documents", TensorProto.UINT8, [None, queries.shape[1]])],
            [helper.make_tensor_value_info("scores", TensorProto.INT32, [None, len(queries)])],
            [
                numpy_helper.from_array(np.ascontiguousarray(rounded.T.astype(np.int8)), "queries"),
                numpy_helper.from_array(np.array(self.levels + 1, np.uint8), "zero"),
            ],
        )
        model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # the search has a thread for each core
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def __call__(self, vectors: Floats, longest: float, floor: NDArray[np.float64]) -> Screened:
        """See :class:`Screen`."""
        # one scale for the block: a scale for each document would have to be multiplied into each score
        scale = np.float32(max(vectors.max(), -vectors.min(), 1e-30) / self.levels)
        work = np.multiply(vectors, np.float32(1) / scale)
        np.rint(work, out=work)
        levels = (work + np.float32(self.levels + 1)).astype(np.uint8)
        np.multiply(work, scale, out=work)
        np.subtract(vectors, work, out=work)
        off = 1 + vectors.shape[1] * 2.0**-23  # of a length that is itself computed in single precision
        lost = off * float(np.sqrt(np.einsum("ij,ij->i", work, work).max())) + 2.0**-22 * longest
        error = lost * self.lengths + (longest + lost) * self.lost
        least = np.floor((floor - error) / (float(scale) * self.scale))
        (scores,) = self.session.run(None, {"documents": levels})
        return scores, np.clip(least, -(2.0**31), 2.0**31 - 1).astype(np.int32)
