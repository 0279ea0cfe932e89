"""Cohere-style ``/rerank``, which Jina, vLLM, Infinity and llama.cpp answer too; its scores are mostly those after a sigmoid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qguard.endpoints.answer import Said
from qguard.endpoints.protocols import Ask, Wire
from qguard.endpoints.protocols.reading import member, optional
from qguard.endpoints.protocols.tei import ranked
from qguard.kinds import CROSS_ENCODER


def _payload(ask: Ask) -> dict[str, Any]:
    every = {"top_n": len(ask.texts), "return_documents": False}
    return {"model": ask.model, "query": ask.query, "documents": list(ask.texts), **every, **ask.more}


def _read(value: Any, ask: Ask) -> Said:
    said = ranked(member(value, "results", list), "relevance_score", ask)
    tokens = optional(optional(value, "usage", dict), "total_tokens", int)
    return replace(said, model=optional(value, "model", str), tokens=tokens)


WIRE = Wire({CROSS_ENCODER: "/rerank"}, _payload, _read, sigmoid=True)
