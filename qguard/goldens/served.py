"""A server as what turns the documents of a large suite into vectors, and the proof that it stayed the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qguard.encoders import TextEncoder
from qguard.endpoints.fingerprint import Fingerprint
from qguard.endpoints.runtime import EndpointRuntime
from qguard.endpoints.settings import CLIENT, Endpoint
from qguard.files import sha256_json
from qguard.goldens.vectors import Coder, Ids, Witness
from qguard.machine.versions import installed
from qguard.models.pipeline import Pipeline
from qguard.vectors.similarity import Similarity


def served_coder(name: str, server: Endpoint, encoder: Callable[[], Any], pipeline: Pipeline, similarity: Similarity) -> Coder:
    """The coder of what a server keeps. Its vectors are found again by its settings, and used if its fingerprint is the same.

    Args:
        name: For people.
        server: Where it is and how it is asked.
        encoder: Opens what asks it.
        pipeline: Of the fp32 model.
        similarity: What the model ranks by.
    """
    key = {
        # the URL may hold a key in its query
        "endpoint": [sha256_json(server.url), server.protocol, server.model, server.normalized, server.prompts],
        "prompt": pipeline.prefix("document") if server.prompts == CLIENT else pipeline.prompt_name("document"),
        "versions": installed("qguard", "numpy"),
        "similarity": similarity.name,
    }

    def opened() -> TextEncoder:
        found: TextEncoder = encoder()
        return found

    def tokenize(texts: list[str]) -> Ids:
        return opened().tokenizer(texts, ["document"] * len(texts))

    def encode(texts: list[str], ids: Sequence[Sequence[int]]) -> Any:
        return opened().encode_rows(opened().rows(texts, ["document"] * len(texts)))

    def asks() -> EndpointRuntime:
        runtime = opened().text_runtime
        assert isinstance(runtime, EndpointRuntime)
        return runtime

    def same(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        try:
            return Fingerprint.from_json(then).same(Fingerprint.from_json(now))
        except (ValueError, KeyError, TypeError):  # a damaged state proves nothing
            return False

    witness = Witness(
        f"endpoint {server.name!r}",
        now=lambda: Fingerprint.of(asks().client).to_json(),
        same=same,
        still=lambda then, number: Fingerprint.from_json(then).still(asks().client, number),
    )
    return Coder(name, key, tokenize, encode, similarity, witness)
