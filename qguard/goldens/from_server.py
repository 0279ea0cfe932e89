"""A golden from a trusted fp32 server: for a model that takes long here, or does not fit here at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qguard.console.progress import progress
from qguard.encoders import TextEncoder, open_encoder
from qguard.encoders.runtimes import ENDPOINT
from qguard.encoders.tokenizer import TextTokenizer
from qguard.endpoints.fingerprint import Fingerprint, facts, now
from qguard.endpoints.runtime import EndpointRuntime
from qguard.endpoints.settings import Endpoint
from qguard.errors import GoldenProblem, QguardError
from qguard.goldens.reference import Outputs, independent, tokenizer_of, without_tokens
from qguard.goldens.reference import paths as sources
from qguard.models.model import Model
from qguard.outputs import finite
from qguard.suites import Suite
from qguard.vectors.similarity import similarity_of

SAMPLE = 16  # texts that are confirmed, spread over the lengths
# Relative to a vector's length. fp32 of a GPU or of another library differs by 1e-5; fp16 by 1e-3, bf16 by 1e-2.
NEAR = 5e-4


@dataclass(frozen=True)
class Server:
    """A server that is trusted to compute fp32.

    Attributes:
        endpoint: Where it is and how it is asked.
        confirm: Compare :data:`SAMPLE` of its outputs with fp32 of the model's own files, computed here.
    """

    endpoint: Endpoint
    confirm: bool = True


@dataclass(frozen=True)
class Recorded:
    """What a server gave.

    Attributes:
        outputs: Of the suite's texts.
        paths: What recorded them, and what confirmed them.
        facts: What the manifest says of the server.
        encoder: What asks it.
    """

    outputs: Outputs
    paths: dict[str, str]
    facts: dict[str, Any]
    encoder: TextEncoder


def outputs_of(model: Model, suite: Suite, server: Server) -> Recorded:
    """The outputs of a suite by a server, confirmed on a sample.

    Raises:
        GoldenProblem: if they are not finite, another model answers in the end, or they are not fp32 of the model's files.
        EndpointProblem: if the server does not answer.
    """
    tokenizer, loaded = tokenizer_of(model)
    ids = tokenizer(suite.texts, suite.roles)
    left_out = without_tokens(suite, ids)
    judged = suite.without(left_out)
    encoder = _encoder(model, server.endpoint, tokenizer)
    client = client_of(encoder)
    first = Fingerprint.of(client)
    moment = now()
    with progress(f"{model.name}: {len(judged.texts)} texts of {suite.name} by {server.endpoint.name}", None):
        found = encoder.encode_rows(encoder.rows(judged.texts, judged.roles))
    if not finite(found).all():
        raise GoldenProblem(f"endpoint {server.endpoint.name!r} returned NaN or infinite values; nothing was written")
    if not first.same(Fingerprint.of(client)):
        raise GoldenProblem(
            f"endpoint {server.endpoint.name!r} answers otherwise than before its outputs were recorded: another model was put "
            "behind it meanwhile; nothing was written"
        )
    confirmed = _confirm(model, judged, found, server) if server.confirm else "not confirmed: the server is trusted"
    paths = {"recorded": f"endpoint {server.endpoint.name}", "confirmed": confirmed}
    kept = [row for row in ids if row]
    return Recorded(Outputs(judged, found, kept, left_out, loaded), paths, facts(client, first, moment), encoder)


def client_of(encoder: TextEncoder) -> Any:
    """What asks the server of an encoder."""
    assert isinstance(encoder.text_runtime, EndpointRuntime)
    return encoder.text_runtime.client


def _encoder(model: Model, endpoint: Endpoint, tokenizer: TextTokenizer) -> TextEncoder:
    found = open_encoder(ENDPOINT, model.folder, model.pipeline, "fp32", tokenizer=tokenizer, model=model, endpoint=endpoint)
    assert isinstance(found, TextEncoder)
    return found


def _confirm(model: Model, suite: Suite, outputs: Any, server: Server) -> str:
    """Who confirmed a sample of the outputs, in words."""
    order = sorted(range(len(suite.texts)), key=lambda i: (len(suite.texts[i]), i))
    at = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, min(SAMPLE, len(order))).astype(int))]
    try:
        local = independent(model)
        own = local.encode_rows(local.rows([suite.texts[i] for i in at], [suite.roles[i] for i in at]))
    except (QguardError, MemoryError, OSError, RuntimeError) as e:
        raise GoldenProblem(
            f"the outputs of endpoint {server.endpoint.name!r} cannot be confirmed, as fp32 of model {model.name!r} does not run "
            f"here: {e if isinstance(e, QguardError) else type(e).__name__}. --unconfirmed records them all the same, and the "
            "golden says so; nothing was written"
        ) from e
    change = similarity_of(model.pipeline).fitted(own).change(own, outputs[at])
    if not change.max() <= NEAR:
        worst = suite.texts[at[int(np.nan_to_num(change, nan=np.inf).argmax())]]
        raise GoldenProblem(
            f"endpoint {server.endpoint.name!r} is not fp32 of model {model.name!r}: its outputs differ from those of the "
            f"model's own files by up to {change.max():.2g}, on {worst[:60]!r}; expected at most {NEAR}. Is it quantized, in "
            "half precision, another model, or does it add prompts of its own? Nothing was written"
        )
    return f"{sources(model)['confirmed']}, on {len(at)} texts"
