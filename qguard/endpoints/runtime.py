"""The runtime ``endpoint``: texts go to a server, and what its model gives comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from qguard.endpoints.client import Client
from qguard.endpoints.settings import SERVER, Endpoint
from qguard.kinds import SPARSE
from qguard.models.pipeline import read_optional

if TYPE_CHECKING:
    from qguard.models.model import Model


class EndpointRuntime:
    """A :class:`qguard.encoders.TextRuntime` over :class:`qguard.endpoints.client.Client`.

    Args:
        model: The fp32 model that the server is to be judged against.
        precision: Whose default gates apply; the server is not told.
        threads: Ignored.
        endpoint: The server and how it is asked.

    Attributes:
        client: What asks.
        batch: Texts of one request.
        workers: Requests at the same time.
        prompts: Whether the server puts prompts in front of texts.
    """

    def __init__(self, model: Model, precision: str, threads: int | None, *, endpoint: Endpoint) -> None:
        words = read_optional(model.root / "config.json").get("vocab_size") if model.kind == SPARSE else 0
        self.client = Client(endpoint, model.kind, model.name, words if isinstance(words, int) else 0)
        self.batch, self.workers, self.prompts = endpoint.batch, endpoint.concurrency, endpoint.prompts == SERVER

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None]) -> Any:
        """See :class:`qguard.encoders.TextRuntime`."""
        return self.client.outputs(texts)
