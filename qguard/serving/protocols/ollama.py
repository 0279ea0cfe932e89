"""Ollama: ``/api/embed``."""

from __future__ import annotations

import time
from typing import Any

from qguard.serving.fields import Fields
from qguard.serving.model import ServedModel
from qguard.serving.protocols import Call, Protocol
from qguard.serving.refusal import TOO_LARGE, Refusal


def embed(model: ServedModel, fields: Fields) -> Any:
    """Vectors of unit length; durations in nanoseconds."""
    start = time.perf_counter_ns()
    model.check_name(fields.text("model").removesuffix(":latest"))
    truncate, dimensions = fields.flag("truncate", True), fields.number("dimensions")
    found = model.vectors(fields.texts("input"), truncate=truncate, dimensions=dimensions, normalize=True)
    return {
        "model": model.name,
        "embeddings": found.outputs.tolist(),
        "total_duration": time.perf_counter_ns() - start,
        "load_duration": 0,
        "prompt_eval_count": found.tokens,
    }


def told(refusal: Refusal) -> dict[str, Any]:
    """``{"error": …}``."""
    return {"error": refusal.message}


OLLAMA = Protocol(
    posts={"/api/embed": Call(embed, ("model", "input", "truncate", "dimensions", "keep_alive"))},
    gets={},
    told=told,
    status={TOO_LARGE: 400},
)
