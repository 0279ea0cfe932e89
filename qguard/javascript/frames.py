"""Frames: what goes to a worker and comes back.

A frame is the letters ``QGW1``, the lengths of a JSON object and of the bytes behind it (two unsigned 32-bit integers,
little-endian), then both. Arrays travel as their bytes, never as text.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qguard.errors import MeasurementProblem

MAGIC, HEAD = b"QGW1", struct.Struct("<4sII")
LARGEST = 1 << 28  # bytes of one frame
DTYPES = {"float32": "<f4", "float64": "<f8", "int32": "<i4", "int64": "<i8", "uint8": "|u1"}


@dataclass(frozen=True)
class Answer:
    """What a worker answers.

    Attributes:
        values: JSON values.
        arrays: Name → array.
    """

    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)


def packed(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A frame.

    Args:
        header: JSON values.
        arrays: Name → array of one of :data:`DTYPES`.

    Raises:
        MeasurementProblem: for more than :data:`LARGEST` bytes.
    """
    known = {np.dtype(code): name for name, code in DTYPES.items()}
    told = [{"name": name, "dtype": known[array.dtype.newbyteorder("<")], "shape": array.shape} for name, array in arrays.items()]
    text, size = json.dumps({**header, "arrays": told}).encode("ascii"), sum(array.nbytes for array in arrays.values())
    if len(text) + size > LARGEST:
        raise MeasurementProblem(f"a request of {len(text) + size} bytes; a worker takes {LARGEST} at most")
    body = b"".join(np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in arrays.values())
    return HEAD.pack(MAGIC, len(text), size) + text + body


def lengths(head: bytes) -> tuple[int, int]:
    """The lengths of a frame's JSON object and of its bytes, by its first :attr:`HEAD.size <struct.Struct.size>` bytes.

    Raises:
        ValueError: for what is no frame, or one of more than :data:`LARGEST` bytes.
    """
    magic, text, body = HEAD.unpack(head)
    if magic != MAGIC or text + body > LARGEST:
        raise ValueError("something else than an answer")
    return text, body


def header_of(text: bytes) -> dict[str, Any]:
    """The JSON object of a frame.

    Raises:
        ValueError: where it is none.
    """
    header = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("an answer that is no object")
    return header


def arrays_of(told: list[dict[str, Any]], body: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an answer, which fill its bytes exactly.

    Raises:
        ValueError: where they do not.
    """
    found, at = {}, 0
    try:
        for one in told:
            shape, kind = tuple(int(n) for n in one["shape"]), np.dtype(DTYPES[one["dtype"]])
            if min(shape, default=0) < 0:
                raise ValueError(shape)
            count = int(np.prod(shape, dtype=np.int64))
            found[str(one["name"])] = np.frombuffer(body, kind, count, at).reshape(shape)
            at += count * kind.itemsize
        if at != len(body):
            raise ValueError(f"{len(body) - at} bytes too many")
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"arrays that do not fit their bytes ({e})") from e
    return found
