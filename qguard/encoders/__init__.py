"""Encoders: n texts in, a float32 array (n, dim) out. Batching lives here once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from qguard.console.progress import progress
from qguard.encoders.feeding import LEFT, RIGHT, Feeding
from qguard.encoders.pooling import Head
from qguard.encoders.runtimes import NO_FILES, RUNTIMES, SAFETENSORS, TEXTS, TOKEN_IDS, RuntimeRecord
from qguard.encoders.tokenizer import TextTokenizer, Tokens, types_of
from qguard.errors import MeasurementProblem, QguardError, first_line
from qguard.javascript.settings import JavaScript
from qguard.kinds import CROSS_ENCODER, DENSE
from qguard.models.pipeline import Pipeline
from qguard.outputs import Collected, SparseRows
from qguard.suites.paired import TextPair

if TYPE_CHECKING:
    from qguard.models.model import Model

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


class Runtime(Protocol):
    """A runtime that takes token ids: it runs the transformer on one padded batch; called from several threads where
    ``workers`` is above 1.

    Attributes:
        batch_tokens: Padded tokens of a batch that suit it.
        workers: Batches that it computes side by side.

    Both are those of its record, unless the class sets them itself. It may also have ``room``: the tokens that its file takes
    at most, or ``None``.
    """

    batch_tokens: int
    workers: int

    def __call__(self, input_ids: Ints, attention_mask: Ints, token_type_ids: Ints | None = None) -> Floats:
        """Token embeddings (batch, length, hidden), or finished sentence embeddings (batch, dim).

        Args:
            input_ids: Token ids (batch, length), padded.
            attention_mask: 1 at tokens, 0 at padding.
            token_type_ids: Given for pairs of texts alone, where the model reads them: 0 and 1; 0 at padding.
        """
        ...


class TextRuntime(Protocol):
    """A runtime that takes texts; called from several threads where its record's ``workers`` is above 1.

    It may have the attributes ``batch``, ``workers`` and ``prompts``, which then count instead of its record's.
    """

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None]) -> Floats:
        """Finished vectors, float (texts, dim), in the order of the texts; of a model of another kind its outputs
        (:mod:`qguard.outputs`).

        Args:
            texts: At least one. Each has its prompt in front, unless the record says that the runtime adds ``prompts``. To a
                cross-encoder they are pairs (:class:`qguard.suites.paired.TextPair`); those of one first text stand together.
            roles: Of each text ``"query"``, ``"document"`` or ``None``.
        """
        ...


def length_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length: longest first, at most ``budget`` padded tokens, at least one text."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def batches_of(texts: Sequence[str], size: int) -> list[list[int]]:
    """Indices in batches of ``size`` texts of similar length, the longest first; pairs of one query stand together."""
    place: dict[str, int] = {}
    keys = [place.setdefault(t.first, len(place)) if isinstance(t, TextPair) else 0 for t in texts]
    order = sorted(range(len(texts)), key=lambda i: (keys[i], -len(texts[i]), i))
    return [order[i : i + size] for i in range(0, len(order), size)]


def padded(ids: Sequence[Sequence[int]], pad_id: int = 0, padding: int = 0, side: str = RIGHT) -> tuple[Ints, ...]:
    """Token ids (n, length) of n texts and their mask (n, length), 1 at tokens and 0 at padding; then their token type ids, where
    the rows have some.

    Args:
        ids: Token ids of at least one text; what a query is filled up with has mask 0, where the network does not attend to it.
        pad_id: What fills short rows.
        padding: Tokens of padding beyond the longest text.
        side: Where padding goes, ``right`` or ``left``.
    """
    length = max(1, max(map(len, ids))) + padding
    input_ids, mask = np.full((len(ids), length), pad_id, np.int64), np.zeros((len(ids), length), np.int64)
    for k, row in enumerate(ids):
        at = slice(length - len(row), length) if side == LEFT else slice(len(row))
        input_ids[k, at] = row
        mask[k, at] = 1
        mask[k, at][getattr(row, "attended", len(row)) :] = 0
    every = [types_of(row) for row in ids]
    if all(types is None for types in every):
        return input_ids, mask
    return input_ids, mask, padded([types or [0] * len(row) for types, row in zip(every, ids, strict=True)], 0, padding, side)[0]


def _versions(runtime: object) -> dict[str, str]:
    found = getattr(runtime, "versions", None)
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


class Encoder:
    """A tokenizer, a runtime that takes token ids and the pipeline's head behind one call.

    What it encodes are rows: token ids here, texts with their roles in :class:`TextEncoder`. Where embeddings are named, a model
    that is not dense has the outputs of its kind (:mod:`qguard.outputs`).

    Args:
        tokenizer: Texts to token ids; short rows are filled with its padding token on its side.
        runtime: Token ids to token embeddings.
        head: Pooling, dense layers and normalization.
    """

    takes = TOKEN_IDS

    @property
    def versions(self) -> dict[str, str]:
        """Library → version, of what computes, where the runtime tells it in its attribute ``versions``."""
        return _versions(self.runtime)

    def __init__(self, tokenizer: TextTokenizer, runtime: Runtime, head: Head) -> None:
        self.tokenizer, self.runtime, self.head = tokenizer, runtime, head

    def encode(self, texts: Sequence[str], role: str | None = None) -> Floats:
        """Embeddings (n, dim) of ``texts``, in their order.

        Args:
            texts: n texts, at least one.
            role: ``"query"`` or ``"document"`` for a model that declares a prompt for each.
        """
        return self.encode_rows(self.rows(texts, [role] * len(texts)))

    def rows(self, texts: Sequence[str], roles: Sequence[str | None] | None = None) -> Sequence[Any]:
        """What is encoded of n texts and their roles: their token ids."""
        return self.tokenizer(texts, roles)

    def encode_rows(self, rows: Sequence[Any]) -> Floats:
        """Embeddings (n, dim) of rows, in their order."""
        return self.encode_ids(rows)

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
        return self._in_turn(ids, list(length_batches([len(row) for row in ids], self.runtime.batch_tokens)))

    def _in_turn(self, rows: Sequence[Any], batches: Sequence[Sequence[int]]) -> Floats:
        found = Collected(len(rows))
        self._all(lambda batch: self._batch([rows[r] for r in batch]), batches, found.put)
        whole: Floats = found.whole()
        return whole

    def encode_batches(self, ids: Sequence[Any], batches: Sequence[Sequence[int]], padding: int = 0) -> Floats:
        """Embeddings (n, dim) with the batches chosen by the caller: what a server does that fills batches as texts come.

        Args:
            ids: Token ids of n texts, or their rows.
            batches: Indices into ``ids``, in the order of the rows; each text in exactly one batch.
            padding: Tokens that every batch is padded with beyond its longest text, or as many as its file has room for.

        Raises:
            MeasurementProblem: when the batches do not hold each text once.
        """
        if not ids or sorted(i for rows in batches for i in rows) != list(range(len(ids))):
            raise MeasurementProblem(f"expected batches that hold each of {len(ids)} texts once, and at least one text")
        out = Collected(len(ids))
        self._all(lambda rows: self._batch([ids[r] for r in rows], padding), batches, out.put)
        whole: Floats = out.whole()
        return whole

    def _all(
        self,
        compute: Callable[[Sequence[int]], Floats],
        batches: Sequence[Sequence[int]],
        keep: Callable[[Sequence[int], Floats], None],
    ) -> None:
        """Compute every batch, several side by side, and hand over their vectors in turn."""
        texts = sum(map(len, batches))
        with ThreadPoolExecutor(self.workers) as pool, progress(f"encoding {texts} texts", texts, after=2.0) as advance:
            for rows, vectors in zip(batches, pool.map(compute, batches), strict=True):  # raises what a batch raised
                keep(rows, vectors)
                advance(len(rows))

    @property
    def workers(self) -> int:
        """Batches that it computes side by side."""
        return self.runtime.workers

    def _batch(self, ids: Sequence[Any], padding: int = 0) -> Floats:
        room = getattr(self.runtime, "room", None)
        if room is not None:
            padding = max(0, min(padding, room - max(map(len, ids))))
        batch = padded(ids, self.tokenizer.pad_id, padding, self.tokenizer.side)
        if self.head.pipeline.by_role and not all(isinstance(row, Tokens) for row in ids):
            raise MeasurementProblem("this model's head depends on the role of a text; expected token ids with their roles")
        vectors: Floats = self.head(self.runtime(*batch), batch[1], ids if self.head.pipeline.by_role else None)
        return vectors


class TextEncoder(Encoder):
    """An encoder over a runtime that takes texts: texts go out, finished vectors come back, and no head is applied.

    Args:
        tokenizer: The artifact's, or the base model's where there are no files. It only tells how long a text is: what
            tokenizes the texts in the runtime is not known.
        runtime: Texts to vectors.
        record: What it wants; see :class:`qguard.encoders.runtimes.RuntimeRecord`.
        pipeline: Whose prompts are put in front of the texts, unless the runtime adds them.
    """

    takes = TEXTS

    def __init__(self, tokenizer: TextTokenizer, runtime: TextRuntime, record: RuntimeRecord, pipeline: Pipeline) -> None:
        self.tokenizer, self._run, self._record, self._pipeline = tokenizer, runtime, record, pipeline
        self.batch, self._teller = record.batch, runtime

    def token_ids(self, texts: Sequence[str], roles: Sequence[str | None] | None = None) -> list[list[int]]:
        """The token ids of n texts as the runtime tells them, special tokens included, cut as it cuts them.

        Raises:
            MeasurementProblem: where it does not tell them, or tells something else.
        """
        name, rows = self._record.name, self.rows(texts, roles)
        if not self._record.tells:
            raise MeasurementProblem(f"runtime {name!r} does not tell the token ids that it computes with")
        try:
            found = [list(map(int, ids)) for ids in self._teller.token_ids([text for text, _ in rows])]  # type: ignore[attr-defined]
        except QguardError:
            raise
        except Exception as e:  # whatever another package does
            raise MeasurementProblem(f"runtime {name!r} failed to tell token ids: {first_line(e)}") from e
        if len(found) != len(rows):
            raise MeasurementProblem(
                f"runtime {name!r}: expected the token ids of {len(rows)} texts, found those of {len(found)}"
            )
        return found

    @property
    def versions(self) -> dict[str, str]:
        """See :attr:`Encoder.versions`."""
        return _versions(self._teller)

    @property
    def tells(self) -> bool:
        """Whether :meth:`token_ids` can be asked."""
        return self._record.tells

    @property
    def text_runtime(self) -> TextRuntime:
        """What computes."""
        return self._run

    def around(self, change: Callable[[Any], Any]) -> TextEncoder:
        """The same, one batch at a time, with something around the runtime."""
        made = TextEncoder(self.tokenizer, change(self._run), replace(self._record, workers=1), self._pipeline)
        made._teller = self._teller  # what stands around a runtime changes its vectors alone
        return made

    def rows(self, texts: Sequence[str], roles: Sequence[str | None] | None = None) -> Sequence[Any]:
        """What is encoded: each text, as it goes out, and its role."""
        prefix = (lambda _: "") if self._record.prompts else self._pipeline.prefix
        given = zip(texts, roles or [None] * len(texts), strict=True)
        if self._pipeline.kind == CROSS_ENCODER:
            return [(TextPair.of(text).prefixed(prefix(role)), role) for text, role in given]
        return [(prefix(role) + text, role) for text, role in given]

    def encode_rows(self, rows: Sequence[Any]) -> Floats:
        """Embeddings (n, dim) of rows, in their order; for batches see :func:`batches_of`.

        Raises:
            MeasurementProblem: when there is nothing to encode, the runtime fails, or it gives something else than a vector
                for each text.
        """
        if not rows:
            raise MeasurementProblem("nothing to encode: expected at least one text, found none")
        return self._in_turn(rows, batches_of([text for text, _ in rows], self.batch))

    def encode_ids(self, ids: Sequence[Sequence[int]]) -> Floats:
        """Nothing: this runtime takes texts.

        Raises:
            MeasurementProblem: always.
        """
        raise MeasurementProblem(f"runtime {self._record.name!r} takes texts; this measurement needs one that takes token ids")

    def __getattr__(self, name: str) -> Any:
        if name in ("runtime", "head"):  # what measures with token ids asks an encoder for them
            self.encode_ids(())
        raise AttributeError(name)

    @property
    def workers(self) -> int:
        """Batches that it computes side by side."""
        return self._record.parallel

    def _batch(self, ids: Sequence[Any], padding: int = 0) -> Floats:
        name, n = self._record.name, len(ids)
        if padding:
            raise MeasurementProblem(f"runtime {name!r} takes texts, and padding is measured with token ids")
        try:
            given = self._run([text for text, _ in ids], [role for _, role in ids])
            found = given if isinstance(given, SparseRows) else np.asarray(given)
        except QguardError:
            raise
        except Exception as e:  # whatever another package, or the server behind it, does
            raise MeasurementProblem(f"runtime {name!r} failed on a batch of {n} texts: {first_line(e)}") from e
        dtype = found.matrix.dtype if isinstance(found, SparseRows) else found.dtype
        if len(found.shape) != 2 or len(found) != n or dtype.kind != "f":
            raise MeasurementProblem(
                f"runtime {name!r}: expected a float array ({n}, dim) for {n} texts, found {dtype} {found.shape}"
            )
        outputs: Floats = found.astype(np.float32)
        return outputs


def open_runtime(
    name: str,
    source: Path | Model,
    precision: str,
    threads: int | None = None,
    device: str = "cpu",
    feeding: Feeding | None = None,
    javascript: JavaScript | None = None,
    **options: Any,
) -> Any:
    """A runtime on a transformer.

    Args:
        name: A name in :data:`qguard.encoders.runtimes.RUNTIMES`.
        source: An ONNX file, or for torch the folder of the transformer module; the fp32 model for a runtime without files.
        precision: What torch computes in, and OpenVINO unless the artifact says it; an ONNX file in ONNX Runtime says it itself.
        threads: Threads of one call; ``None`` for what gives the runtime's best throughput on all cores.
        device: Where a runtime computes that has several devices; one that has not ignores it.
        feeding: What an ONNX file does not say of its inputs and outputs; a runtime that feeds none ignores it.
        javascript: Where JavaScript is found; a runtime that needs none ignores it.
        options: Of the runtime's own.

    Returns:
        A :class:`Runtime` or a :class:`TextRuntime`, as the record says.

    Raises:
        UsageProblem: for a runtime that is not registered.
        MeasurementProblem: when a runtime of another package cannot be opened.
    """
    record = RUNTIMES.find(name)
    where: dict[str, Any] = {"device": record.device(device)} if len(record.devices) > 1 else {}
    if record.feeds:
        where["feeding"] = feeding
    if record.scripted:
        where["javascript"] = javascript or JavaScript()
    try:
        opened = record.opener()(source, precision, threads, **where, **options)
    except QguardError:
        raise
    except Exception as e:  # whatever another package does
        raise MeasurementProblem(
            f"runtime {name!r} cannot be opened: {first_line(e)}; check the files, or install another version of it"
        ) from e
    if record.takes == TOKEN_IDS:
        for attribute, value in (("batch_tokens", record.batch), ("workers", record.parallel)):
            if not hasattr(opened, attribute):
                setattr(opened, attribute, value)
    return opened


def of_kind(record: RuntimeRecord, kind: str) -> dict[str, Any]:
    """What :func:`open_runtime` has to tell a runtime of the kind of a model that is not dense: torch makes its network by it,
    an ONNX file holds it.
    """
    return {"kind": kind} if kind != DENSE and record.files == SAFETENSORS else {}


def open_encoder(
    runtime: str,
    folder: Path,
    pipeline: Pipeline,
    precision: str,
    file: Path | None = None,
    device: str = "cpu",
    tokenizer: TextTokenizer | None = None,
    model: Model | None = None,
    feeding: Feeding | None = None,
    **options: Any,
) -> Encoder:
    """An encoder on the files of ``folder``, or on a runtime without files.

    Args:
        runtime: A name in :data:`qguard.encoders.runtimes.RUNTIMES`.
        folder: Tokenizer and heads (an artifact, or the model itself).
        pipeline: What surrounds the transformer.
        precision: See :func:`open_runtime`.
        file: The ONNX file, for a runtime that reads one.
        device: See :func:`open_runtime`.
        tokenizer: That of ``folder``, where it is open already.
        model: The fp32 model, for a runtime without files.
        feeding: What the ONNX file does not say of its inputs and outputs; by default what ``folder`` declares.
        options: Of the runtime's own, such as the settings of an endpoint.
    """
    root, record = folder / pipeline.transformer, RUNTIMES.find(runtime)
    tokenizer = tokenizer or TextTokenizer.open(root, pipeline)
    source: Path | Model | None = model if record.files == NO_FILES else file or root
    if source is None:
        raise MeasurementProblem(f"runtime {runtime!r} has no files, and is opened with the fp32 model; none is given")
    if record.feeds:
        feeding = (feeding or Feeding.read(root)).padded_by(tokenizer)
    opened = open_runtime(runtime, source, precision, None, device, feeding, **of_kind(record, pipeline.kind), **options)
    if record.takes == TEXTS:
        own = {name: getattr(opened, name) for name in ("batch", "workers", "prompts") if hasattr(opened, name)}
        record = replace(record, **own)
        return TextEncoder(tokenizer, opened, record, pipeline)
    return Encoder(tokenizer, opened, Head.open(folder, pipeline))
