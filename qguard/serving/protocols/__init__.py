"""The protocols: one file each, and one line in :mod:`qguard.serving.app`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qguard.serving.fields import Fields
from qguard.serving.model import ServedModel
from qguard.serving.refusal import STATUS, Refusal


@dataclass(frozen=True)
class Call:
    """What a POST to one path does.

    Attributes:
        answer: The answer as JSON has it; it may raise :class:`qguard.serving.refusal.Refusal`.
        fields: The fields that its request may have.
    """

    answer: Callable[[ServedModel, Fields], Any]
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Protocol:
    """One protocol.

    Attributes:
        posts: Path → what a POST to it does.
        gets: Path → the answer of a GET, as JSON has it.
        told: A refusal as this protocol writes it.
        status: Status codes that differ from :data:`qguard.serving.refusal.STATUS`.
        marked: The field that tells its requests from another protocol's on the same path; empty where its paths are its own.
    """

    posts: Mapping[str, Call]
    gets: Mapping[str, Callable[[ServedModel], Any]]
    told: Callable[[Refusal], Mapping[str, Any]]
    status: Mapping[str, int] = field(default_factory=dict)
    marked: str = ""

    def code(self, refusal: Refusal) -> int:
        """The status code of a refusal."""
        return self.status.get(refusal.why, STATUS[refusal.why])
