"""Whether a text's output depends on what else the server is asked: in the same request, and by other clients."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from qguard.endpoints.client import Client
from qguard.judging.service.probe import Finding, Probe, dense, shown
from qguard.kinds import CROSS_ENCODER
from qguard.outputs import joined
from qguard.suites.paired import TextPair
from qguard.vectors.cosine import cosine

CLIENTS = (1, 8, 32)
ROUNDS = 3  # requests of each client
_SURE = 0.01  # by which an output agrees more with another text's


def _in_batch(probe: Probe) -> Any:
    """The outputs of all texts in one request with a long one."""
    first = probe.texts[0]
    long = TextPair(first.first, probe.long) if isinstance(first, TextPair) else probe.long
    return probe.outputs([*probe.texts, long])[: len(probe.texts)]


def _owners(probe: Probe, found: Any) -> list[int]:
    """Of each output in a batch the text that it belongs to: its own, unless another text's output is clearly nearer."""
    a, b = dense(found), dense(probe.alone)
    owners = []
    for i, row in enumerate(a):
        if probe.kind == CROSS_ENCODER:
            near = -np.abs(b - row).max(1) / max(float(np.ptp(b)), 1e-12)
        else:
            near = cosine(np.repeat(row[None], len(b), 0), b)
        best = int(near.argmax())
        owners.append(best if near[best] > near[i] + _SURE else i)
    return owners


def order(probe: Probe) -> Finding:
    """In a request with several texts each gets its own output."""
    owners = _owners(probe, _in_batch(probe))
    wrong = [i for i, owner in enumerate(owners) if owner != i]
    words = [
        f"a request with {len(owners) + 1} texts: the output at place {i}, of {shown(probe.texts[i])}, is that of another text, "
        f"{shown(probe.texts[owners[i]])} at place {owners[i]}, asked alone"
        for i in wrong[:3]
    ]
    return Finding(len(wrong), len(owners), tuple(words))


def alone_vs_batch(probe: Probe) -> Finding:
    """A text alone and in a request with others has the same output; results in another order are told by ``order``."""
    found = _in_batch(probe)
    owners = _owners(probe, found)
    agreement = probe.agreement(found, probe.alone[owners])
    worst = int(agreement.argmin())
    words = (
        f"the output of {shown(probe.texts[owners[worst]])} in a request of {len(owners) + 1} texts agrees to "
        f"{agreement[worst]:.6f} with the same text alone: it depends on the other texts of the request"
    )
    return Finding(float(agreement[worst]), len(owners), (words,))


def concurrent(probe: Probe) -> Finding:
    """A text's output is the same while other clients ask for other texts."""
    lowest, worst = {}, {}
    with Client(replace(probe.endpoint, concurrency=max(CLIENTS)), probe.kind, probe.client.model, probe.client.width) as client:
        for clients in CLIENTS:
            rows, found = _beside(probe, client, clients)
            agreement = probe.agreement(found, probe.alone[rows])
            lowest[clients], worst[clients] = float(agreement.min()), rows[int(agreement.argmin())]
    told = ", ".join(f"{n} client{'s' if n > 1 else ''} {value:.6f}" for n, value in lowest.items())
    at = min(lowest, key=lambda n: lowest[n])
    text = shown(probe.texts[worst[at]])
    if lowest[1] < 1 - 1e-6 and lowest[1] - lowest[at] < (1 - lowest[1]) / 2:
        words = (
            f"lowest agreement with the first answer: {told} ({text}): the server gives another output each time, whoever asks"
        )
    else:
        words = (
            f"lowest agreement with the text alone: {told} ({text}): the output depends on what other clients ask meanwhile, "
            "as where requests are computed together"
        )
    return Finding(lowest[at], len(probe.texts) * len(CLIENTS), (words,))


def _beside(probe: Probe, client: Client, clients: int) -> tuple[list[int], Any]:
    """Texts by index, and their outputs while so many clients ask: every second one for long texts of no interest."""
    start = threading.Barrier(clients)

    def ask(number: int) -> list[tuple[int, Any]]:
        with contextlib.suppress(threading.BrokenBarrierError):  # where the machine is so busy that one starts a minute late
            start.wait(60)
        mine = range(number, number + ROUNDS) if clients > 1 else range(len(probe.texts))
        out = []
        for k in mine:
            row = k % len(probe.texts)
            if number % 2:
                _ = probe.outputs(_strangers(probe, k), client)
            else:
                out.append((row, probe.outputs([probe.texts[row]], client)))
        return out

    with ThreadPoolExecutor(clients) as pool:
        found = [pair for pairs in pool.map(ask, range(clients)) for pair in pairs]
    return [row for row, _ in found], joined([outputs for _, outputs in found])


def _strangers(probe: Probe, number: int) -> Sequence[str]:
    text = probe.long[number % 7 :]
    first = probe.texts[0]
    return [TextPair(first.first, text) if isinstance(first, TextPair) else text]
