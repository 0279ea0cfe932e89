"""Ollama's ``/api/embed``. Its answers come in the order of the texts, without an index."""

from __future__ import annotations

from typing import Any

from qguard.endpoints.answer import Said
from qguard.endpoints.protocols import Ask, Wire
from qguard.endpoints.protocols.reading import listed, matrix, member, optional
from qguard.kinds import DENSE


def _payload(ask: Ask) -> dict[str, Any]:
    return {"model": ask.model, "input": list(ask.texts), "truncate": True, **ask.more}


def _read(value: Any, ask: Ask) -> Said:
    rows = listed(member(value, "embeddings", list), len(ask.texts), "embeddings")
    return Said(matrix(rows), (), optional(value, "model", str), optional(value, "prompt_eval_count", int))


WIRE = Wire({DENSE: "/api/embed"}, _payload, _read)
