"""A fault: the runtime loses dimensions, as a wrong slice of Matryoshka embeddings does."""

from __future__ import annotations

from typing import Any

from qguard import Candidate, Fault, FaultSite


def make(site: FaultSite, kept: float) -> Candidate:
    def around(runtime: Any) -> Any:
        def run(*batch: Any) -> Any:
            out = runtime(*batch).copy()
            out[..., int(out.shape[-1] * kept) :] = 0
            return out

        return run

    return Candidate(runtime=around)


FAULT = Fault(
    name="acme-dimensions-lost",
    what="the last dimensions are zero",
    expected="embedding",
    seen="",
    make=make,
    severities={"a tenth": 0.9, "a half": 0.5},
    needs=(),
)
