"""Parts of answers that several protocols share. What is wrong with one is a ValueError in words."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHOWN = 60


def member(value: Any, name: str, *kinds: type, where: str = "the answer") -> Any:
    """A member of a JSON object, of one of some types.

    Raises:
        ValueError: if there is none of these types.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected a JSON object with {name!r}, found {described(value)}")
    if name not in value:
        raise ValueError(f"{where}: expected {name!r}, found {_names(value)}")
    if not isinstance(value[name], kinds):
        expected = " or ".join(_WORDS[kind] for kind in kinds)
        raise ValueError(f"{name!r} of {where}: expected {expected}, found {described(value[name])}")
    return value[name]


_WORDS: dict[type, str] = {list: "a list", dict: "a JSON object", str: "a string", int: "a whole number", float: "a number"}


def optional(value: Any, name: str, kind: type) -> Any:
    """A member of a JSON object; ``None`` if there is none of that type."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, kind) and not isinstance(found, bool) else None


def described(value: Any) -> str:
    """A JSON value in a few words."""
    if isinstance(value, dict):
        return _names(value)
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return repr(value)[:_SHOWN]


def _names(value: dict[str, Any]) -> str:
    names = ", ".join(repr(k)[:_SHOWN] for k in list(value)[:5])
    return f"a JSON object with {names}" if names else "an empty JSON object"


def listed(value: Any, n: int | None, what: str) -> list[Any]:
    """A list of n items.

    Args:
        value: Of an answer.
        n: Inputs of the request; ``None`` for any number.
        what: What one item is, in the plural.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(value, list):
        raise ValueError(f"expected a list of {what}, found {described(value)}")
    if n is not None and len(value) != n:
        raise ValueError(f"expected {n} {what} for {n} texts, found {len(value)}")
    return value


def indexed(items: list[Any], n: int, what: str) -> tuple[int, ...]:
    """The member ``index`` of each item, every number of 0 to n - 1 once.

    Args:
        items: What an answer lists.
        n: Inputs of the request.
        what: What one item is, in the plural.

    Raises:
        ValueError: for another count, and an index that is missing, out of range or there twice.
    """
    listed(items, n, what)
    found: list[int] = []
    for place, item in enumerate(items):
        index = item.get("index") if isinstance(item, dict) else None
        if type(index) is not int:
            raise ValueError(f"item {place} of {what}: expected its 'index', a whole number, found {described(item)}")
        if not 0 <= index < n:
            raise ValueError(f"item {place} of {what}: expected an index of 0 to {n - 1}, found {index}")
        found.append(index)
    if len(set(found)) != n:
        twice = next(i for i in found if found.count(i) > 1)
        lost = sorted(set(range(n)) - set(found))
        raise ValueError(f"index {twice} of {what} stands there twice, and {lost[0]} is missing")
    return tuple(found)


def placed(items: Sequence[Any], indices: Sequence[int]) -> list[Any]:
    """Items in the order of the inputs."""
    out: list[Any] = [None] * len(items)
    for item, index in zip(items, indices, strict=True):
        out[index] = item
    return out


def matrix(rows: Sequence[Any], what: str = "vector") -> NDArray[np.float32]:
    """Vectors as float32 (n, dim).

    Args:
        rows: Of each input its vector: a list of numbers, or base64 of little-endian float32.
        what: What a row is, for messages.

    Raises:
        ValueError: for rows that are no vectors, of different lengths, empty, or with values that are not finite.
    """
    found = [_row(row, place, what) for place, row in enumerate(rows)]
    widths = [len(row) for row in found]
    if len(set(widths)) > 1:
        other = next(i for i, w in enumerate(widths) if w != widths[0])
        raise ValueError(f"{what}s of different lengths: {what} 0 has {widths[0]} values, {what} {other} has {widths[other]}")
    if not widths[0]:
        raise ValueError(f"{what} 0 has no values")
    with np.errstate(over="ignore"):
        out = np.stack(found).astype(np.float32)
    if len(bad := np.flatnonzero(~np.isfinite(out).all(1))):
        raise ValueError(f"{what} {bad[0]} has values that are not finite or do not fit float32")
    return out


def _row(row: Any, place: int, what: str) -> NDArray[Any]:
    if isinstance(row, str):
        try:
            data = base64.b64decode(row, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError(f"{what} {place}: expected base64, found {row[:_SHOWN]!r}") from None
        if len(data) % 4:
            raise ValueError(f"{what} {place}: expected float32 in base64, found {len(data)} bytes")
        return np.frombuffer(data, "<f4")
    if not isinstance(row, list):
        raise ValueError(f"{what} {place}: expected a list of numbers, found {described(row)}")
    if bad := next(not_numbers(row), None):
        raise ValueError(f"{what} {place}: expected numbers, found {bad}")
    return np.asarray(row, np.float64)


def number(value: Any, what: str) -> float:
    """A finite number.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{what}: expected a number, found {described(value)}")
    return float(value)


def not_numbers(values: Sequence[Any]) -> Iterator[str]:
    """Those that are no numbers, in words."""
    if not set(map(type, values)) <= {int, float}:
        yield from (described(v) for v in values if type(v) not in (int, float))
