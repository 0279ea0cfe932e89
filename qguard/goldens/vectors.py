"""Vectors of a large suite's documents: encoded in blocks into a file of the cache, and continued where a run was stopped.

A block is written and flushed before the state that names it is renamed into place, so a kill at any moment loses at most the
block it happened in. The state holds the SHA-256 of every block: what was damaged is encoded again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from qguard.console.progress import progress
from qguard.console.visible import say
from qguard.encoders import Encoder, Floats
from qguard.encoders.runtimes import RUNTIMES, TEXTS
from qguard.errors import MeasurementProblem
from qguard.files import cache_folder, dump_json, sha256_json, write_atomic
from qguard.fleet import Fleet
from qguard.machine.cpu import cpu, cpu_class
from qguard.machine.versions import installed
from qguard.suites.corpus import Corpus, Document
from qguard.vectors.quantized import unit
from qguard.vectors.search import VectorFile
from qguard.vectors.similarity import COSINE, Similarity

if TYPE_CHECKING:
    from qguard.artifacts.artifact import Artifact
    from qguard.precisions import Precision

BLOCK = 1024  # documents that are encoded at once, and lost by a kill at most
VECTORS, STATE, WITNESS = "vectors.f32", "state.json", "witness.json"
Ids = list[list[int]]
Elsewhere = Callable[[Iterator[list[str]]], Iterator[tuple[str, Floats]]]  # texts of blocks → digest of their ids, and vectors


@dataclass(frozen=True)
class Witness:
    """Proves that what computes now is what computed the vectors that are kept, where no hash of files does.

    Attributes:
        whose: For people.
        now: What it answers now, as JSON.
        same: Whether two such answers are of the same model.
        still: Whether it answers as it did; asked after each block, with the block's number.
    """

    whose: str
    now: Callable[[], dict[str, Any]]
    same: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]
    still: Callable[[Mapping[str, Any], int], bool]


@dataclass(frozen=True)
class Coder:
    """What turns documents into vectors.

    Attributes:
        name: For people.
        key: Everything that decides the vectors, besides the documents: files, versions, machine.
        tokenize: n texts to their token ids.
        encode: n texts and their token ids to float32 (n, dim).
        similarity: What ranks; of vectors that are ranked by cosine, rows of unit length are kept.
        witness: What proves whose vectors are kept, where the key cannot.
        elsewhere: Encodes blocks of texts on other machines, in their order; without, this process does.
    """

    name: str
    key: dict[str, Any]
    tokenize: Callable[[list[str]], Ids]
    encode: Callable[[list[str], Ids], Floats]
    similarity: Similarity = COSINE
    witness: Witness | None = None
    elsewhere: Elsewhere | None = None


@dataclass(frozen=True)
class Afar:
    """Other machines: how a model's documents are encoded there, and who searches them."""

    encode: Elsewhere
    fleet: Fleet


@dataclass(frozen=True)
class _Block:
    rows: int
    tokens: str
    vectors: str


def candidate_coder(
    artifact: Artifact, precision: Precision, device: str, encoder: Callable[[], Encoder], similarity: Similarity = COSINE
) -> Coder:
    """An artifact's coder; its encoder is opened when something has to be encoded.

    Args:
        artifact: The files.
        precision: What they are run as.
        device: Where a runtime of several devices computes.
        encoder: Opens them.
        similarity: What the model ranks by.

    Raises:
        MeasurementProblem: for a runtime without files, or one that takes texts.
    """
    record = RUNTIMES.find(artifact.runtime(precision.runtime))
    if not artifact.has_files or record.takes == TEXTS:
        # kept vectors are found again by the files' hash, and blocks are proved by token ids
        raise MeasurementProblem(
            f"{precision} is not judged on a large suite: {record.name} has no files, or takes texts, so kept vectors cannot be "
            "proved to be its own; give a suite that fits into memory"
        )
    key = {
        "artifact": artifact.sha256,
        "runs": [precision.base, record.name, record.device(device)],
        "versions": installed("qguard", "numpy", "tokenizers", *record.libraries),
        "machine": machine(),
        **({} if similarity is COSINE else {"similarity": similarity.name}),
    }

    def tokenize(texts: list[str]) -> Ids:
        return encoder().tokenizer(texts, ["document"] * len(texts))

    return Coder(str(precision.plain), key, tokenize, lambda _, ids: encoder().encode_ids(ids), similarity)


def machine() -> list[str]:
    """What of this machine decides how sums are rounded."""
    return [cpu()[0], cpu_class()]


def encode_corpus(
    corpus: Corpus, coder: Coder, block: int, check: Callable[[int, str], None] = lambda *_: None
) -> tuple[VectorFile, list[str]]:
    """The vectors of all distinct texts of a corpus, scaled to unit length where the coder ranks by cosine.

    Args:
        corpus: The documents.
        coder: What encodes them.
        block: Rows that are encoded at once.
        check: Called with the number and the digest of each block's token ids, before the block is encoded.

    Returns:
        The file (rows of the corpus, dim), and the SHA-256 of each block's token ids.

    Raises:
        MeasurementProblem: for vectors that are not finite or zero, and where the cache cannot hold them.
        DataProblem: when the documents change meanwhile.
    """
    from filelock import FileLock

    folder = _folder(corpus, coder, block)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):  # whoever waits finds everything encoded
            return _Encoding(_place(folder, coder), corpus, coder, block, check).run()
    except OSError as e:
        found = _place(folder, coder, new=False)
        if (whole := _Encoding(found, corpus, coder, block, check).kept()) is not None:  # a cache that was filled before
            return whole
        raise MeasurementProblem(
            f"the vectors of suite {corpus.name!r} cannot be kept in the cache: {e.strerror or e}; QGUARD_CACHE names another "
            "folder for it"
        ) from e


def forget(corpus: Corpus, coder: Coder, block: int) -> None:
    """Remove vectors that nobody will ask for again."""
    shutil.rmtree(_folder(corpus, coder, block), ignore_errors=True)


def _folder(corpus: Corpus, coder: Coder, block: int) -> Path:
    return cache_folder() / f"corpus-{sha256_json([corpus.sha256, coder.key, block])[:16]}"


def _place(folder: Path, coder: Coder, new: bool = True) -> Path:
    """Where the vectors of whoever computes now lie: a folder for each model that the same key has stood for.

    Args:
        folder: That of the key.
        coder: Whose witness tells models apart.
        new: Make a folder if none is of this model.
    """
    witness = coder.witness
    if witness is None:
        return folder
    now = witness.now()
    places = sorted(folder.glob("model-*"))
    for place in places:
        with contextlib.suppress(OSError, ValueError):
            if witness.same(json.loads((place / WITNESS).read_text(encoding="utf-8")), now):
                return place
    made = folder / f"model-{1 + max((int(p.name[6:]) for p in places if p.name[6:].isdecimal()), default=0)}"
    if not new:
        return made
    if any((place / STATE).exists() for place in places):
        say(f"{witness.whose} answers otherwise than when documents were encoded before: it keeps another model", sys.stderr)
    made.mkdir()
    write_atomic(made / WITNESS, dump_json(now))
    return made


class _Encoding:
    def __init__(self, folder: Path, corpus: Corpus, coder: Coder, block: int, check: Callable[[int, str], None]) -> None:
        self.folder, self.corpus, self.coder, self.block, self.check = folder, corpus, coder, block, check
        self.dim, self.blocks = 0, list[_Block]()

    @property
    def done(self) -> int:
        return sum(b.rows for b in self.blocks)

    def run(self) -> tuple[VectorFile, list[str]]:
        path = self.folder / VECTORS
        path.touch()
        with path.open("r+b") as file:
            self._resume(file)
            for number, b in enumerate(self.blocks):
                self.check(number, b.tokens)
            if self.done < self.corpus.rows:
                self._continue(file)
        return self._found()

    def kept(self) -> tuple[VectorFile, list[str]] | None:
        """What an earlier run encoded to the end; nothing is written."""
        try:
            with (self.folder / VECTORS).open("rb") as file:
                self._read(file)
        except OSError:
            return None
        if self.done != self.corpus.rows:
            return None
        for number, b in enumerate(self.blocks):
            self.check(number, b.tokens)
        return self._found()

    def _found(self) -> tuple[VectorFile, list[str]]:
        blocks = tuple((b.rows, b.vectors) for b in self.blocks)
        return VectorFile(self.folder / VECTORS, self.corpus.rows, self.dim, blocks=blocks), [b.tokens for b in self.blocks]

    def _resume(self, file: BinaryIO) -> None:
        """Keep the blocks that are whole, and cut off what follows them."""
        self._read(file)
        file.truncate(self.done * self.dim * 4)
        file.seek(0, os.SEEK_END)

    def _read(self, file: BinaryIO) -> None:
        """The blocks that are whole, up to the first that is not."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            state = json.loads((self.folder / STATE).read_text(encoding="utf-8"))
            self.dim = int(state["dim"])
            for b in (_Block(**b) for b in state["blocks"]):
                if hashlib.sha256(file.read(b.rows * self.dim * 4)).hexdigest() != b.vectors:
                    break
                self.blocks.append(b)

    def _continue(self, file: BinaryIO) -> None:
        left = self.corpus.rows - self.done
        with progress(f"{self.coder.name}: {left} documents of {self.corpus.name}", left, in_tests=True) as advance:
            for documents, tokens, vectors in self._encoded():
                bad = np.flatnonzero(~np.isfinite(vectors).all(1) | ~vectors.any(1))
                if len(bad):
                    raise MeasurementProblem(
                        f"{self.coder.name}: the embeddings of {len(bad)} of {len(vectors)} documents hold NaN, infinite values "
                        f"or only zeros; first: {documents[bad[0]].id!r}"
                    )
                self._prove(lambda witness, then: witness.still(then, len(self.blocks)))
                self._append(file, vectors, tokens)
                advance(len(documents))
        self._prove(lambda witness, then: witness.same(then, witness.now()))

    def _encoded(self) -> Iterator[tuple[list[Document], str, Floats]]:
        """What is left: documents of a block, the digest of their token ids, and vectors as they are kept."""
        blocks = self.corpus.blocks(self.block, self.done)
        if self.coder.elsewhere is None:
            for documents in blocks:
                texts = [d.text for d in documents]
                ids = self.coder.tokenize(texts)
                tokens = digest_of(ids)
                self.check(len(self.blocks), tokens)
                yield documents, tokens, as_kept(self.coder.encode(texts, ids), self.coder.similarity)
            return
        sent = deque[list[Document]]()

        def texts_of() -> Iterator[list[str]]:
            for documents in blocks:
                sent.append(documents)
                yield [d.text for d in documents]

        for tokens, vectors in self.coder.elsewhere(texts_of()):
            self.check(len(self.blocks), tokens)
            yield sent.popleft(), tokens, vectors

    def _prove(self, same: Callable[[Witness, Mapping[str, Any]], bool]) -> None:
        """What was encoded is not kept if it may be of two models."""
        witness = self.coder.witness
        if witness is None or same(witness, json.loads((self.folder / WITNESS).read_text(encoding="utf-8"))):
            return
        raise MeasurementProblem(
            f"{witness.whose} answers otherwise than when encoding began: another model was put behind it after {self.done} of "
            f"{self.corpus.rows} documents of {self.corpus.name}. These are kept for the former model; run this again when one "
            "model is served"
        )

    def _append(self, file: BinaryIO, vectors: Floats, tokens: str) -> None:
        self.dim = vectors.shape[1]
        needed, free = (self.corpus.rows - self.done) * self.dim * 4, shutil.disk_usage(self.folder).free
        if needed > free:
            raise OSError(28, f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
        data = vectors.tobytes()
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        self.blocks.append(_Block(len(vectors), tokens, hashlib.sha256(data).hexdigest()))
        state = {"key": self.coder.key, "dim": self.dim, "blocks": [vars(b) for b in self.blocks]}
        write_atomic(self.folder / STATE, dump_json(state))


def as_kept(vectors: Floats, similarity: Similarity) -> Floats:
    """Vectors (n, dim) as a corpus keeps them: of unit length where they are ranked by cosine."""
    if similarity is not COSINE:
        return vectors
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # whoever keeps them refuses what is not finite or zero
        return unit(vectors)


def digest_of(ids: Sequence[Sequence[int]]) -> str:
    """SHA-256 of the token ids of some texts."""
    total = hashlib.sha256()
    for row in ids:
        total.update(len(row).to_bytes(4, "little"))
        total.update(np.asarray(row, "<i4").tobytes())
    return total.hexdigest()
