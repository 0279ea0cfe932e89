"""The runtime ``endpoint``: texts go to a server, and what its model gives comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qguard.endpoints.client import Client
from qguard.endpoints.settings import SERVER, TEI, Endpoint
from qguard.errors import EndpointProblem, UsageProblem
from qguard.kinds import CROSS_ENCODER, DENSE, SPARSE
from qguard.models.pipeline import read_optional
from qguard.outputs import Collected
from qguard.vectors.cosine import unit

if TYPE_CHECKING:
    from qguard.models.model import Model

NEAR_ONE = 0.01  # how far a length is from 1 that counts as 1: fp16 leaves 5e-4


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

    Raises:
        UsageProblem: for a model that gives several scores a pair, and as :class:`Client` does.
    """

    def __init__(self, model: Model, precision: str, threads: int | None, *, endpoint: Endpoint) -> None:
        if model.pipeline.scoring is not None and len(model.pipeline.scoring.labels) > 1:
            raise UsageProblem(f"model {model.name!r} gives several scores a pair, and protocols of rerankers carry one")
        words = read_optional(model.root / "config.json").get("vocab_size") if model.kind == SPARSE else 0
        self.client = Client(endpoint, model.kind, model.name, words if isinstance(words, int) else 0)
        self.batch, self.workers, self.prompts = endpoint.batch, endpoint.concurrency, endpoint.prompts == SERVER
        self._pipeline = model.pipeline
        self._scales = model.kind == DENSE and model.pipeline.unit_length and endpoint.normalized is False

    def __call__(self, texts: Sequence[str], roles: Sequence[str | None]) -> Any:
        """See :class:`qguard.encoders.TextRuntime`.

        Raises:
            EndpointProblem: as :class:`Client` does; also for vectors of another length than the settings state.
        """
        names = [self.prompt(role) for role in roles]
        if len(set(names)) == 1:
            outputs = self.client.outputs(texts, names[0])
        else:
            found = Collected(len(texts))
            for name in dict.fromkeys(names):
                rows = [i for i, other in enumerate(names) if other == name]
                found.put(rows, self.client.outputs([texts[i] for i in rows], name))
            outputs = found.whole()
        if self.client.endpoint.normalized and self.client.kind == DENSE:
            self._need_unit(outputs)
        return unit(outputs).astype(np.float32) if self._scales else outputs

    def prompt(self, role: str | None) -> str:
        """The name of the prompt that the server is asked to put in front; empty for none."""
        told = self.prompts and self.client.endpoint.protocol == TEI and self.client.kind != CROSS_ENCODER
        return self._pipeline.prompt_name(role) if told else ""

    def _need_unit(self, vectors: Any) -> None:
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if abs(lengths - 1).max() > NEAR_ONE:
            raise EndpointProblem(
                f"endpoint {self.client.endpoint.name!r}: the settings say normalized = true, and the server returned vectors of "
                f"length {lengths.min():.4g} to {lengths.max():.4g}; let the server normalize, or set normalized = false"
            )
