"""Faults of whoever runs the artifact: padding, the order of what comes back, low precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from qguard.encoders import Runtime
from qguard.encoders.runtimes import GGUF
from qguard.faults.site import Candidate, FaultSite, NotApplicable


@dataclass
class _Around:
    """A runtime with something done to some of its batches.

    Attributes:
        inner: The sound runtime.
        every: Which batches: each ``every``-th.
        run: Given the runtime and a batch (token ids, mask and, of pairs, token type ids), the output.
    """

    inner: Runtime
    every: int
    run: Callable[..., Any]
    _count: int = 0

    @property
    def batch_tokens(self) -> int:
        return self.inner.batch_tokens

    @batch_tokens.setter
    def batch_tokens(self, value: int) -> None:
        self.inner.batch_tokens = value

    @property
    def workers(self) -> int:
        return 1  # so that it is the same batches every time

    @workers.setter
    def workers(self, value: int) -> None:
        pass

    def __call__(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        batch = [part for part in (input_ids, attention_mask, token_type_ids) if part is not None]
        self._count += 1
        if (self._count - 1) % self.every:
            return self.inner(*batch)
        return self.run(self.inner, *batch)


def around(every: int, run: Callable[..., Any]) -> Candidate:
    """A candidate whose runtime has something done to each ``every``-th batch; see :class:`_Around`."""
    return Candidate(runtime=lambda inner: _Around(inner, every, run))


def padded_left(site: FaultSite, every: int) -> Candidate:
    """Put padding before the text: positions of short texts shift."""
    if site.base.static:
        raise NotApplicable("a static model knows no positions")
    if site.artifact.kind == GGUF:
        raise NotApplicable("llama.cpp is given each text without padding")

    def run(inner: Runtime, *batch: Any) -> Any:
        # stable: tokens keep their order, padding goes to the front
        order = np.argsort(batch[1], axis=1, kind="stable")
        out = inner(*(np.take_along_axis(part, order, 1) for part in batch))
        if out.ndim == 2:
            return out
        back = np.argsort(order, axis=1, kind="stable")
        return np.take_along_axis(out, back[..., None], 1)

    return around(every, run)


def mixed_up(site: FaultSite, how: tuple[int, int]) -> Candidate:
    """Vectors of a batch come back in another order.

    Args:
        site: Where.
        how: Which batches are hit, and how many of their first rows (0: all) are reversed.
    """
    every, rows = how

    def run(inner: Runtime, *batch: Any) -> Any:
        out, end = np.array(inner(*batch)), rows or len(batch[0])
        # a row's own mask still pools it: both are reversed where their lengths are, which is what sorting by length does
        out[:end] = out[:end][::-1]
        return out

    return around(every, run)


def rounded(site: FaultSite, bits: int) -> Candidate:
    """Round what comes out to few bits of mantissa, to the nearest.

    Args:
        site: Where.
        bits: Of the mantissa, beyond its leading one: 7 is bfloat16.
    """

    def run(inner: Runtime, *batch: Any) -> Any:
        fraction, exponent = np.frexp(inner(*batch))
        steps = 2.0 ** (bits + 1)
        return np.ldexp(np.rint(fraction * steps) / steps, exponent).astype(np.float32)

    return around(1, run)
