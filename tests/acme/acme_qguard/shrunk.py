"""A fault: the runtime loses dimensions, as a wrong slice of Matryoshka embeddings does."""

from __future__ import annotations

from typing import Any

from qguard import Candidate, Fault, FaultSite


class _Shrunk:
    def __init__(self, runtime: Any, kept: float) -> None:
        self._runtime, self._kept = runtime, kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def __call__(self, input_ids: Any, attention_mask: Any) -> Any:
        out = self._runtime(input_ids, attention_mask).copy()
        out[..., int(out.shape[-1] * self._kept) :] = 0
        return out


def make(site: FaultSite, kept: float) -> Candidate:
    return Candidate(runtime=lambda runtime: _Shrunk(runtime, kept))


FAULT = Fault(
    name="acme-dimensions-lost",
    what="the last dimensions are zero",
    expected="embedding",
    seen="",
    make=make,
    severities={"a tenth": 0.9, "a half": 0.5},
    needs=(),
)
