"""Protocols: how a server is asked, and what its answers mean. One file each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from qguard.endpoints.answer import Said
from qguard.endpoints.settings import PROTOCOLS
from qguard.errors import UsageProblem
from qguard.kinds import DENSE, KINDS

FLOAT, BASE64 = "float", "base64"


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        texts: What outputs are wanted of, at least one; of a reranker the documents.
        kind: Of the model, a name in :data:`qguard.kinds.KINDS`.
        model: The model that is named to the server.
        query: Of a reranker, what the documents are scored for.
        encoding: :data:`FLOAT` or :data:`BASE64`; ``None`` leaves the choice to the server.
        prompt: Name of the prompt that the server is to put in front, for a protocol that can say it; empty for none.
        normalized: Whether vectors of unit length, or scores after the sigmoid, are expected; ``None`` if nobody says.
        width: Of a sparse model, the words of its vocabulary.
        more: Further members of the request's JSON object; they win.
    """

    texts: Sequence[str]
    kind: str = DENSE
    model: str = ""
    query: str = ""
    encoding: str | None = BASE64
    prompt: str = ""
    normalized: bool | None = None
    width: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Wire:
    """A protocol.

    Attributes:
        paths: Kind of model → path of the request.
        payload: A request → its JSON object.
        read: The JSON value of an answer, and the request → what the answer says. It raises ValueError with what was expected
            and what was found if the value does not answer the request.
        sigmoid: Whether scores are those after the sigmoid unless the settings say otherwise.
    """

    paths: Mapping[str, str]
    payload: Callable[[Ask], dict[str, Any]]
    read: Callable[[Any, Ask], Said]
    sigmoid: bool = False


def wire(protocol: str) -> Wire:
    """The protocol of a name in :data:`qguard.endpoints.settings.PROTOCOLS`."""
    found: Wire = import_module(f"qguard.endpoints.protocols.{protocol}").WIRE
    return found


def check_kind(protocol: str, kind: str) -> None:
    """A protocol can ask for what this kind of model gives.

    Raises:
        UsageProblem: with the protocols that can.
    """
    if kind in wire(protocol).paths:
        return
    able = [name for name in PROTOCOLS if kind in wire(name).paths]
    if not able:
        raise UsageProblem(f"no protocol of endpoints carries {KINDS[kind].gives}, which models of kind {kind} give")
    raise UsageProblem(
        f"protocol {protocol!r} does not carry {KINDS[kind].gives}, which models of kind {kind} give; "
        f"a server of such a model is asked with protocol = {' or '.join(map(repr, able))}"
    )
