"""What a server answered: as bytes, and as what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer over HTTP, whatever its status.

    Attributes:
        status: Its code, such as 200.
        headers: Names in lower case → value. They may hold secrets of the server; its ``repr`` does not show them.
        body: Its bytes, decompressed.
        seconds: From the start of the request that was answered to the last byte.
        tries: How often it was sent, at least 1.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    seconds: float
    tries: int = 1


@dataclass(frozen=True)
class Said:
    """What the answer to one request says.

    Attributes:
        outputs: Of n inputs, in the order in which they were sent: float32 (n, dim) of a dense model, float32 (n, 1) of a
            reranker, :class:`qguard.outputs.SparseRows` of a sparse model.
        indices: The indices in the order in which the server sent them; empty for a protocol without.
        model: The model that the server says it used; ``None`` if it says none.
        tokens: The tokens that the server says it read, of all inputs; ``None`` if it says none.
        encoding: ``float`` or ``base64``.
    """

    outputs: Any
    indices: Sequence[int] = ()
    model: str | None = None
    tokens: int | None = None
    encoding: str = "float"

    @property
    def dim(self) -> int:
        """Values of one output."""
        return int(self.outputs.shape[1])


@dataclass(frozen=True)
class Answer:
    """One request that was answered with outputs.

    Attributes:
        said: What the answer says.
        reply: The answer itself.
    """

    said: Said
    reply: Reply
