"""fp32 of a large suite's corpus: encoded block by block, searched, and kept as what the queries find."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.encoders import Floats
from qguard.errors import GoldenProblem
from qguard.goldens.retrieved import Retrieved
from qguard.goldens.stored import Golden, update_command
from qguard.goldens.vectors import BLOCK, Afar, Coder, Ids, digest_of, encode_corpus, forget, machine
from qguard.machine.versions import installed
from qguard.metrics.neighbours import search
from qguard.models.model import Model
from qguard.suites import Suite
from qguard.vectors.similarity import similarity_of


def fp32_coder(model: Model) -> Coder:
    """fp32 as goldens are recorded: sentence-transformers, or ONNX Runtime for a model that comes as ONNX alone."""
    libraries = ("onnxruntime",) if model.onnx else ("sentence-transformers", "transformers", "torch")
    key = {
        "fp32": [model.weight_sha256, model.tokenizer_sha256, model.pipeline.sha256()],
        "versions": installed(*libraries, "tokenizers", "numpy"),
        "machine": machine(),
    }
    opened: list[Any] = []
    if model.onnx:
        from qguard.encoders import open_encoder
        from qguard.encoders.feeding import Feeding

        def encoder() -> Any:
            if not opened:
                opened.append(open_encoder("onnx", model.folder, model.pipeline, "fp32", model.onnx, feeding=Feeding.of(model)))
            return opened[0]

        def tokenize(texts: list[str]) -> Ids:
            return encoder().tokenizer(texts, ["document"] * len(texts))  # type: ignore[no-any-return]

        def encode(texts: list[str], ids: Ids) -> Floats:
            return encoder().encode_ids(ids)  # type: ignore[no-any-return]
    else:
        from qguard.goldens.reference import encode_texts, open_fp32, preprocess

        def encoder() -> Any:
            if not opened:
                opened.append(open_fp32(model))
            return opened[0]

        prefix = model.pipeline.prefix("document")

        def tokenize(texts: list[str]) -> Ids:
            return preprocess(encoder(), [prefix + t for t in texts])

        def encode(texts: list[str], ids: Ids) -> Floats:
            found: Floats = encode_texts(encoder(), model, "document", texts)
            return found

    return Coder("fp32", key, tokenize, encode, similarity_of(model.pipeline))


def retrieve(
    model: Model, suite: Suite, vectors: NDArray[np.float32], coder: Coder | None = None, afar: Afar | None = None
) -> Retrieved:
    """Encode the corpus of a large suite in fp32, or what is left of it, and search it.

    Args:
        model: The fp32 model.
        suite: A large suite.
        vectors: float32 (texts, dim) of its texts, the queries among them.
        coder: What encodes the corpus; by default :func:`fp32_coder`.
        afar: Other machines that encode and search it; by default this process does.

    Raises:
        MeasurementProblem: for vectors that are not finite, and where the cache cannot hold them.
    """
    assert suite.corpus is not None
    coder = coder or fp32_coder(model)
    documents, tokens = encode_corpus(suite.corpus, replace(coder, elsewhere=afar.encode) if afar else coder, BLOCK)
    queries, fleet = vectors[list(suite.queries)], afar.fleet if afar else None
    rows, scores = search(suite, queries, documents, similarity_of(model.pipeline), fleet)
    return Retrieved(rows.astype(np.int32), scores, tuple(tokens), suite.corpus.documents, BLOCK)


def forget_fp32(suite: Suite, coder: Coder) -> None:
    """Remove the vectors that :func:`retrieve` kept to continue after a kill: the golden is stored."""
    if suite.corpus is not None:
        forget(suite.corpus, coder, BLOCK)


def compare_block(golden: Golden, suite: Suite, model: Model, number: int, digest: str, candidate: Coder) -> None:
    """Token ids of a block of documents must be the golden's before they are encoded.

    Args:
        golden: Of a large suite.
        suite: Its texts.
        model: The fp32 model, whose tokenizer tells an upgrade from an artifact's own mistake.
        number: The block's.
        digest: Of the candidate's token ids.
        candidate: What made them.

    Raises:
        GoldenProblem: with the first document that differs, where the model's own tokenizer still gives the golden's ids.
    """
    assert golden.retrieved is not None
    assert suite.corpus is not None
    if number < len(golden.retrieved.tokens) and golden.retrieved.tokens[number] == digest:
        return
    from qguard.goldens.tokens import reference_tokenizer

    block = golden.retrieved.block
    documents = next(islice(suite.corpus.blocks(block, number * block), 1))
    texts = [d.text for d in documents]
    own = reference_tokenizer(model, golden)(texts, ["document"] * len(texts))
    where = f"token ids of documents differ from the golden's among the {len(texts)} documents from {documents[0].id!r} on"
    if digest_of(own) != golden.retrieved.tokens[number]:
        raise GoldenProblem(
            f"{where}: the tokenizer changed, the model's own gives others too. It is neither the quantization nor the artifact. "
            f"Review the change, then record the golden again: {update_command(model.name, suite.name)} --accept-change tokenizer"
        )
    found = candidate.tokenize(texts)
    i = next(k for k, (a, b) in enumerate(zip(own, found, strict=True)) if a != b)
    raise GoldenProblem(
        f"{where}: the artifact's tokenizer is not the model's (casing, accents, special tokens, length?). First: "
        f"{documents[i].id!r}, {texts[i][:60]!r}: {len(found[i])} tokens against the golden's {len(own[i])}"
    )
