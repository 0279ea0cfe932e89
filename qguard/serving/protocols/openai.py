"""OpenAI: ``/v1/embeddings`` and ``/v1/models``."""

from __future__ import annotations

import base64
from typing import Any

from qguard.serving.fields import Fields
from qguard.serving.model import ServedModel
from qguard.serving.protocols import Call, Protocol
from qguard.serving.refusal import BUSY, FAILED, UNKNOWN_MODEL, Refusal

FLOAT, BASE64 = "float", "base64"
_TYPES = {FAILED: "server_error", BUSY: "rate_limit_error"}


def embeddings(model: ServedModel, fields: Fields) -> Any:
    """Vectors, as numbers or as base64 of little-endian float32."""
    model.check_name(fields.text("model"))
    form = fields.choice("encoding_format", (FLOAT, BASE64), FLOAT)
    found = model.vectors(fields.texts("input"), dimensions=fields.number("dimensions"))
    vectors = [base64.b64encode(v.astype("<f4").tobytes()).decode() if form == BASE64 else v.tolist() for v in found.outputs]
    return {
        "object": "list",
        "model": model.name,
        "data": [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)],
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }


def models(model: ServedModel) -> Any:
    """The one model."""
    return {"object": "list", "data": [{"id": model.name, "object": "model", "created": 0, "owned_by": "qguard"}]}


def told(refusal: Refusal) -> dict[str, Any]:
    """``{"error": {…}}``."""
    code = "model_not_found" if refusal.why == UNKNOWN_MODEL else None
    kind = _TYPES.get(refusal.why, "invalid_request_error")
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.field or None, "code": code}}


OPENAI = Protocol(
    posts={"/v1/embeddings": Call(embeddings, ("model", "input", "encoding_format", "dimensions", "user"))},
    gets={"/v1/models": models},
    told=told,
)
