"""OpenAI's ``/v1/embeddings``, which vLLM, llama.cpp, TEI, Infinity and many others answer too."""

from __future__ import annotations

from typing import Any

from qguard.endpoints.answer import Said
from qguard.endpoints.protocols import BASE64, FLOAT, Ask, Wire
from qguard.endpoints.protocols.reading import indexed, matrix, member, optional, placed
from qguard.kinds import DENSE


def _payload(ask: Ask) -> dict[str, Any]:
    encoding = {"encoding_format": ask.encoding} if ask.encoding else {}
    return {"model": ask.model, "input": list(ask.texts), **encoding, **ask.more}


def _read(value: Any, ask: Ask) -> Said:
    data = member(value, "data", list)
    indices = indexed(data, len(ask.texts), "embeddings")
    rows = [member(item, "embedding", list, str, where=f"item {place} of 'data'") for place, item in enumerate(data)]
    encoding = BASE64 if all(isinstance(row, str) for row in rows) else FLOAT
    tokens = optional(optional(value, "usage", dict), "prompt_tokens", int)
    return Said(matrix(placed(rows, indices)), indices, optional(value, "model", str), tokens, encoding)


WIRE = Wire({DENSE: "/v1/embeddings"}, _payload, _read)
