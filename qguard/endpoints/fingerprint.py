"""The fingerprint of an endpoint: what it answers to a few fixed texts. Another model behind the same URL has another one.

Each text is asked by itself and twice, so that neither the other texts of a batch nor chance moves it. Whole vectors would be
large in a signed statement; each is kept as a sketch of :data:`SKETCH` sums with fixed signs, which keeps distances.
"""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.endpoints.client import Client
from qguard.files import sha256_json
from qguard.kinds import CROSS_ENCODER, DENSE
from qguard.machine.clock import stamp
from qguard.outputs import SparseRows
from qguard.suites.paired import TextPair

SKETCH = 32  # numbers of a text; the distance of two sketches is that of the vectors within an eighth, mostly
# Relative distance of two answers to one text. A server that computes the same again differs by 1e-6, and int8 from fp32 by 3e-2.
SAME = 1e-3
_NOISE, _MOST = 4.0, 0.01  # times the server's own noise; beyond the latter nothing is the same
TEXTS = (
    "The ferry to the island leaves at noon.",
    "How long must rye dough rest before it is baked?",
    "Minutes of a meeting are sent within three days; the board reads them and answers.",
    "Die Rechnung ist bis zum 31. März zu bezahlen, sonst wird eine Mahnung verschickt.",
    "def mean(values): return sum(values) / len(values)",
    "船は正午に島へ出発します。",
    "invoice 2024-118, 3 x 19.90 EUR",
    "weather",
)


@dataclass(frozen=True)
class Fingerprint:
    """What an endpoint answered.

    Attributes:
        sketch: float32 (texts, :data:`SKETCH`).
        width: Values of one output.
        noise: Largest relative distance between two answers to one text.
        lengths: Shortest and longest vector of a dense model; ``(0, 0)`` of another.
        model: The model that the server names; ``None`` if it names none.
        encoding: ``float`` or ``base64``.
        tokens: Tokens of each text, as the server counts them; empty if it does not.
    """

    sketch: NDArray[np.float32]
    width: int
    noise: float
    lengths: tuple[float, float] = (0.0, 0.0)
    model: str | None = None
    encoding: str = "float"
    tokens: tuple[int, ...] = ()

    @classmethod
    def of(cls, client: Client) -> Fingerprint:
        """Measured now.

        Raises:
            EndpointProblem: if the server does not answer.
        """
        rows, again, said = [], [], []
        for text in TEXTS:
            first, second = (client.one(_asked(client, text)) for _ in range(2))
            rows.append(_dense(first.outputs))
            again.append(_dense(second.outputs))
            said.append(first)
        whole, other = np.concatenate(rows), np.concatenate(again)
        norms = np.linalg.norm(whole.astype(np.float64), axis=1) if client.kind == DENSE else np.zeros(1)
        counted = [s.tokens for s in said if s.tokens is not None]
        return cls(
            sketched(whole), whole.shape[1], float(_distances(whole, other).max()), (float(norms.min()), float(norms.max())),
            said[0].model, said[0].encoding, tuple(counted) if len(counted) == len(said) else (),
        )  # fmt: skip

    @property
    def sha256(self) -> str:
        """Of what decides whether another one is the same: what a statement names."""
        return sha256_json([self.width, _digits(self.sketch), self.noise])

    def apart(self, other: Fingerprint) -> float:
        """Largest relative distance of the answers to one text; infinite for another width."""
        if self.width != other.width or self.sketch.shape != other.sketch.shape:
            return float("inf")
        return float(_distances(self.sketch, other.sketch).max())

    def same(self, other: Fingerprint) -> bool:
        """Whether both are of one model, computed in the same way."""
        return self.apart(other) <= max(self._apart, other._apart)

    def still(self, client: Client, number: int) -> bool:
        """Whether the server answers to one of the texts as it did; each number asks another text in turn.

        Raises:
            EndpointProblem: if the server does not answer.
        """
        row = number % len(TEXTS)
        now = _dense(client.one(_asked(client, TEXTS[row])).outputs)
        return now.shape[1] == self.width and bool(_distances(self.sketch[row : row + 1], sketched(now)).max() <= self._apart)

    @property
    def _apart(self) -> float:
        return min(_MOST, max(SAME, _NOISE * self.noise))

    def to_json(self) -> dict[str, Any]:
        """As a statement and a cache have it."""
        return {
            "sketch": _digits(self.sketch), "width": self.width, "noise": self.noise,
            "lengths": list(self.lengths), "model": self.model, "encoding": self.encoding, "tokens": list(self.tokens),
        }  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Fingerprint:
        """The fingerprint of :meth:`to_json`.

        Raises:
            ValueError, KeyError, TypeError: for something else.
        """
        sketch = np.asarray(value["sketch"], np.float32)
        if sketch.shape != (len(TEXTS), SKETCH) or not np.isfinite(sketch).all():
            raise ValueError(f"expected a sketch of {len(TEXTS)} texts, found {sketch.shape}")
        least, most = map(float, value["lengths"])
        model = value["model"]
        return cls(
            sketch, int(value["width"]), float(value["noise"]), (least, most), None if model is None else str(model),
            str(value["encoding"]), tuple(map(int, value["tokens"])),
        )  # fmt: skip


def facts(client: Client, found: Fingerprint, moment: str) -> dict[str, Any]:
    """What a report says of a server: its settings, what it says of itself, its fingerprint and when that was measured.

    Args:
        client: What asks it.
        found: Its fingerprint.
        moment: In UTC.
    """
    server = client.endpoint
    return {
        **server.to_json(), "name": server.name, "model": client.model, "says": found.model, "dimensions": found.width,
        "encoding": found.encoding, "lengths": list(found.lengths), "fingerprint": found.sha256, "noise": found.noise,
        "date": moment,
    }  # fmt: skip


def now() -> str:
    """The time in UTC, to the second."""
    return stamp(datetime.datetime.now(datetime.UTC))


def sketched(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows (n, width) as (n, :data:`SKETCH`): sums of their values, each with a fixed sign."""
    found: NDArray[np.float64] = rows.astype(np.float64) @ _signs(rows.shape[1]) / np.sqrt(SKETCH)
    return found.astype(np.float32)


def _signs(width: int) -> NDArray[np.float64]:
    """Signs (width, :data:`SKETCH`), the same in every version of every library."""
    digests = b"".join(hashlib.sha256(f"qguard fingerprint {i}".encode()).digest() for i in range(-(-width * SKETCH // 256)))
    bits = np.unpackbits(np.frombuffer(digests, np.uint8))[: width * SKETCH]
    return bits.reshape(width, SKETCH).astype(np.float64) * 2 - 1


def _digits(rows: NDArray[np.float32]) -> list[list[float]]:
    """The numbers of rows with the digits that float32 has: read again they are the same."""
    return [[float(f"{x:.9g}") for x in row] for row in rows.tolist()]


def _asked(client: Client, text: str) -> str:
    return TextPair.of(text) if client.kind == CROSS_ENCODER else text


def _distances(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.asarray(np.linalg.norm(y - x, axis=1) / np.maximum(np.linalg.norm(x, axis=1), 1e-12))


def _dense(outputs: Any) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = outputs.matrix.toarray() if isinstance(outputs, SparseRows) else outputs
    return rows
