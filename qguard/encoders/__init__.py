"""Encoders: n texts in, a float32 array (n, dim) out. Batching by length lives here once; a runtime is one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qguard.encoders.pooling import Head
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import MeasurementProblem, unknown
from qguard.pipeline import Pipeline
from qguard.progress import progress

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Runtime(Protocol):
    """Runs the transformer on one padded batch; called from several threads where ``workers`` is above 1.

    Attributes:
        batch_tokens: Padded tokens of a batch that suit it.
        workers: Batches that it computes side by side.
    """

    batch_tokens: int
    workers: int

    def __call__(self, input_ids: Ints, attention_mask: Ints) -> Floats:
        """Token embeddings (batch, length, hidden), or finished sentence embeddings (batch, dim)."""
        ...


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length: longest first, at most ``budget`` padded tokens, at least one text."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def padded(ids: Sequence[Sequence[int]], pad_id: int = 0, padding: int = 0) -> tuple[Ints, Ints]:
    """Token ids (n, length) of n texts and their mask (n, length), 1 at tokens and 0 at padding.

    Args:
        ids: Token ids of at least one text.
        pad_id: What fills short rows.
        padding: Tokens of padding beyond the longest text.
    """
    length = max(1, max(map(len, ids))) + padding
    input_ids, mask = np.full((len(ids), length), pad_id, np.int64), np.zeros((len(ids), length), np.int64)
    for k, row in enumerate(ids):
        input_ids[k, : len(row)] = row
        mask[k, : len(row)] = 1
    return input_ids, mask


class Encoder:
    """A tokenizer, a runtime and the pipeline's head behind one call.

    Args:
        tokenizer: Texts to token ids.
        runtime: Token ids to token embeddings.
        head: Pooling, dense layers and normalisation.
        pad_id: Token id that fills short rows; masked, so it never changes a result.
    """

    def __init__(self, tokenizer: TextTokenizer, runtime: Runtime, head: Head) -> None:
        self.tokenizer, self.runtime, self.head = tokenizer, runtime, head

    def encode(self, texts: Sequence[str], role: str | None = None) -> Floats:
        """Embeddings (n, dim) of ``texts``, in their order.

        Args:
            texts: n texts, at least one.
            role: ``"query"`` or ``"document"`` for a model that declares a prompt for each.
        """
        return self.encode_ids(self.tokenizer(texts, [role] * len(texts)))

    def encode_ids(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Embeddings (n, dim) of token id lists, in their order.

        What a batch holds depends on the lengths alone, never on the number of workers, so that a runtime whose
        vectors depend on the batch still gives the same ones on every machine.

        Raises:
            MeasurementProblem: when there is nothing to encode.
        """
        if not ids:
            raise MeasurementProblem("nothing to encode: expected at least one text, found none")
        if not all(len(row) for row in ids):
            raise MeasurementProblem("a text without a token has no vector; leave it out")
        batches = list(length_batches([len(row) for row in ids], self.runtime.batch_tokens))
        first = self._batch([ids[r] for r in batches[0]])
        out = np.empty((len(ids), first.shape[1]), np.float32)
        out[batches[0]] = first

        def compute(rows: Sequence[int]) -> None:
            out[rows] = self._batch([ids[r] for r in rows])

        self._all(compute, batches[1:])
        return out

    def encode_batches(self, ids: Sequence[Sequence[int]], batches: Sequence[Sequence[int]], padding: int = 0) -> Floats:
        """Embeddings (n, dim) with the batches chosen by the caller: what a server does that fills batches as texts come.

        Args:
            ids: Token ids of n texts.
            batches: Indices into ``ids``, in the order of the rows; each text in exactly one batch.
            padding: Tokens that every batch is padded with beyond its longest text.

        Raises:
            MeasurementProblem: when the batches do not hold each text once.
        """
        if not ids or sorted(i for rows in batches for i in rows) != list(range(len(ids))):
            raise MeasurementProblem(f"expected batches that hold each of {len(ids)} texts once, and at least one text")
        out: list[Any] = [None] * len(ids)

        def compute(rows: Sequence[int]) -> None:
            for i, vector in zip(rows, self._batch([ids[r] for r in rows], padding), strict=True):
                out[i] = vector

        self._all(compute, batches)
        return np.stack(out)

    def _all(self, compute: Callable[[Sequence[int]], None], batches: Sequence[Sequence[int]]) -> None:
        texts = sum(map(len, batches))
        with ThreadPoolExecutor(self.runtime.workers) as pool, progress(f"encoding {texts} texts", texts, after=2.0) as advance:
            for rows, _ in zip(batches, pool.map(compute, batches), strict=True):  # raises what a batch raised
                advance(len(rows))

    def _batch(self, ids: Sequence[Sequence[int]], padding: int = 0) -> Floats:
        input_ids, mask = padded(ids, self.tokenizer.pad_id, padding)
        vectors: Floats = self.head(self.runtime(input_ids, mask), mask)
        return vectors


# A runtime is a class in one file, opened with (path, precision, threads), torch also with the device.
RUNTIMES = {
    "onnx": "qguard.encoders.onnx:OnnxRuntime",
    "openvino": "qguard.encoders.openvino:OpenvinoRuntime",
    "torch": "qguard.encoders.torch:TorchRuntime",
}


def open_runtime(name: str, path: Path, precision: str, threads: int | None = None, device: str = "cpu") -> Runtime:
    """A runtime on a transformer.

    Args:
        name: A name in :data:`RUNTIMES`.
        path: An ONNX file, or for torch the folder of the transformer module.
        precision: What torch computes in, and OpenVINO unless the artifact says it; an ONNX file in ONNX Runtime says it itself.
        threads: Threads of one call; ``None`` for what gives the runtime's best throughput on all cores.
        device: Where torch computes, ``cpu`` or ``cuda``; the other runtimes compute on the CPU.

    Raises:
        UsageProblem: for a runtime that qguard does not know.
    """
    if name not in RUNTIMES:
        raise unknown("runtime", name, RUNTIMES)
    module, _, kind = RUNTIMES[name].partition(":")
    where = {"device": device} if name == "torch" else {}
    runtime: Runtime = getattr(import_module(module), kind)(path, precision, threads, **where)
    return runtime


def open_encoder(
    runtime: str,
    folder: Path,
    pipeline: Pipeline,
    precision: str,
    file: Path | None = None,
    device: str = "cpu",
    tokenizer: TextTokenizer | None = None,
) -> Encoder:
    """An encoder on the files of ``folder``.

    Args:
        runtime: A name in :data:`RUNTIMES`.
        folder: Tokenizer and heads (an artifact, or the model itself).
        pipeline: What surrounds the transformer.
        precision: See :func:`open_runtime`.
        file: The ONNX file, for a runtime that reads one.
        device: See :func:`open_runtime`.
        tokenizer: That of ``folder``, where it is open already.
    """
    root = folder / pipeline.transformer
    tokenizer = tokenizer or TextTokenizer.open(root, pipeline)
    return Encoder(tokenizer, open_runtime(runtime, file or root, precision, None, device), Head.open(folder, pipeline))
