"""Cohere's ``/rerank``, as vLLM and others serve it too."""

from __future__ import annotations

import uuid
from typing import Any

from qguard.serving.fields import Fields
from qguard.serving.model import ServedModel, sigmoid
from qguard.serving.protocols import Call, Protocol
from qguard.serving.refusal import Refusal

MARK = "documents"


def rerank(model: ServedModel, fields: Fields) -> Any:
    """Scores between 0 and 1, the highest first."""
    model.check_name(fields.text("model"))
    documents, top, give = fields.documents(MARK), fields.number("top_n"), fields.flag("return_documents", False)
    found = model.scores(fields.text("query"), documents)
    scores = sigmoid(found.outputs).tolist()
    order = sorted(range(len(documents)), key=lambda i: -found.outputs[i])[:top]
    return {
        "id": str(uuid.uuid4()),
        "model": model.name,
        "results": [
            {"index": i, "relevance_score": scores[i]} | ({"document": {"text": documents[i]}} if give else {}) for i in order
        ],
        "usage": {"prompt_tokens": found.tokens, "total_tokens": found.tokens},
    }


def told(refusal: Refusal) -> dict[str, Any]:
    """``{"message": …}``."""
    return {"message": refusal.message}


_RERANK = Call(rerank, ("model", "query", MARK, "top_n", "return_documents"))
COHERE = Protocol(posts=dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), _RERANK), gets={}, told=told, marked=MARK)
