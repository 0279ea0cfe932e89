"""Text Embeddings Inference: ``/embed``, ``/embed_sparse``, ``/rerank``, ``/info`` and ``/health``."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.serving.fields import TEXTS, Fields
from qguard.serving.model import ServedModel, sigmoid
from qguard.serving.protocols import Call, Protocol
from qguard.serving.refusal import BUSY, FAILED, TOO_LARGE, WRONG_KIND, Refusal
from qguard.version import __version__

_TYPES = {BUSY: "overloaded", FAILED: "backend", WRONG_KIND: "backend"}
_OF_TEXTS = ("inputs", "truncate", "prompt_name")


def embed(model: ServedModel, fields: Fields) -> Any:
    """A list of vectors."""
    found = model.vectors(
        fields.texts("inputs"),
        truncate=fields.flag("truncate", True),
        dimensions=fields.number("dimensions"),
        normalize=fields.flag("normalize", True),
        prompt=model.prompt(fields.optional("prompt_name")),
    )
    return found.outputs.tolist()


def embed_sparse(model: ServedModel, fields: Fields) -> Any:
    """For each text the words of the vocabulary that are active, by index, and their weights."""
    prompt = model.prompt(fields.optional("prompt_name"))
    rows = model.weights(fields.texts("inputs"), truncate=fields.flag("truncate", True), prompt=prompt).matrix
    ends = rows.indptr.tolist()
    columns, weights = rows.indices.tolist(), rows.data.tolist()
    return [[{"index": c, "value": w} for c, w in zip(columns[a:b], weights[a:b], strict=True)] for a, b in pairwise(ends)]


def rerank(model: ServedModel, fields: Fields) -> Any:
    """Scores, the highest first: logits where ``raw_scores`` asks for them, else between 0 and 1."""
    texts, raw, give = fields.texts("texts", alone=False), fields.flag("raw_scores", False), fields.flag("return_text", False)
    logits = model.scores(fields.text("query"), texts, truncate=fields.flag("truncate", True)).outputs
    scores = (logits if raw else sigmoid(logits)).tolist()
    order = sorted(range(len(texts)), key=lambda i: -logits[i])
    return [{"index": i, "score": scores[i]} | ({"text": texts[i]} if give else {}) for i in order]


def info(model: ServedModel) -> Any:
    """What is served."""
    label = {str(i): f"LABEL_{i}" for i in range(model.width)} if model.kind == CROSS_ENCODER else {}
    of_kind = {
        CROSS_ENCODER: {"reranker": {"id2label": label, "label2id": {name: int(i) for i, name in label.items()}}},
        DENSE: {"embedding": {"pooling": "model"}},
        SPARSE: {"embedding": {"pooling": "splade"}},
    }
    return {
        "model_id": model.name,
        "model_sha": None,
        "model_dtype": model.precision,
        "model_type": of_kind[model.kind],
        "max_input_length": model.longest,
        "max_client_batch_size": TEXTS,
        "auto_truncate": True,
        "version": __version__,
        "server": "qguard",
    }


def told(refusal: Refusal) -> dict[str, Any]:
    """``{"error": …, "error_type": …}``."""
    return {"error": refusal.message, "error_type": _TYPES.get(refusal.why, "validation")}


TEI = Protocol(
    posts={
        "/embed": Call(embed, (*_OF_TEXTS, "normalize", "dimensions")),
        "/embed_sparse": Call(embed_sparse, _OF_TEXTS),
        "/rerank": Call(rerank, ("query", "texts", "truncate", "raw_scores", "return_text")),
    },
    gets={"/info": info, "/health": lambda _: {"status": "ok"}},
    told=told,
    status={WRONG_KIND: 424, FAILED: 424, TOO_LARGE: 413},
)
