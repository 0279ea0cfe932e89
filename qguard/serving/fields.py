"""The fields of a request's JSON object, each checked for the type that it must have."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from qguard.errors import unknown
from qguard.serving.refusal import INVALID, TOO_LARGE, Refusal

TEXTS = 2048  # of one request, as OpenAI allows


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        Refusal: for anything else.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as e:
        why = "nested too deeply" if isinstance(e, RecursionError) else str(e)
        raise Refusal(INVALID, f"the request is no JSON in UTF-8: {why}") from e
    if not isinstance(found, dict):
        raise Refusal(INVALID, f"expected a JSON object, found {_kind(found)}")
    return found


class Fields:
    """The fields of one request.

    Args:
        found: The JSON object.
        known: The fields that the request may have. Another one would be ignored in silence, so it is refused.

    Raises:
        Refusal: for an unknown field.
    """

    def __init__(self, found: dict[str, Any], known: Iterable[str]) -> None:
        self._found, names = found, list(known)
        for name in found:
            if name not in names:
                raise Refusal(INVALID, str(unknown("field", name[:100], names)), name[:100])

    def text(self, name: str) -> str:
        """A string; it must be there."""
        return _text(self._get(name), name)

    def texts(self, name: str, alone: bool = True) -> list[str]:
        """At least one string, at most :data:`TEXTS`.

        Args:
            name: Of the field.
            alone: Whether one string may stand there without a list.
        """
        found = self._get(name)
        if isinstance(found, str) and alone:
            return [_text(found, name)]
        expected = "a text or a list of texts" if alone else "a list of texts"
        if not isinstance(found, list):
            raise Refusal(INVALID, f"{name}: expected {expected}, found {_kind(found)}", name)
        self._count(found, name)
        return [_text(value, f"{name}[{i}]", name) for i, value in enumerate(found)]

    def documents(self, name: str) -> list[str]:
        """As :meth:`texts`, each a string or an object with the field ``text``."""
        found = self._get(name)
        if not isinstance(found, list):
            raise Refusal(INVALID, f"{name}: expected a list of documents, found {_kind(found)}", name)
        self._count(found, name)
        texts = [value.get("text") if isinstance(value, dict) else value for value in found]
        return [_text(value, f"{name}[{i}]", name) for i, value in enumerate(texts)]

    def flag(self, name: str, default: bool) -> bool:
        """``true`` or ``false``."""
        found = self._found.get(name)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise Refusal(INVALID, f"{name}: expected true or false, found {_kind(found)}", name)
        return found

    def number(self, name: str) -> int | None:
        """A whole number from 1 on, or ``None`` where it is left out."""
        found = self._found.get(name)
        if found is None:
            return None
        if type(found) is not int or found < 1:
            raise Refusal(INVALID, f"{name}: expected a whole number from 1 on, found {_kind(found)}", name)
        return found

    def choice(self, name: str, known: Sequence[str], default: str) -> str:
        """One of the known words."""
        found = self._found.get(name)
        if found is None:
            return default
        if found not in known:
            shown = repr(found[:100]) if isinstance(found, str) else _kind(found)
            raise Refusal(INVALID, f"{name}: expected {' or '.join(known)}, found {shown}", name)
        return str(found)

    def optional(self, name: str) -> str | None:
        """A string, or ``None`` where it is left out."""
        return None if self._found.get(name) is None else self.text(name)

    def _get(self, name: str) -> Any:
        if self._found.get(name) is None:
            raise Refusal(INVALID, f"{name}: expected a value, found none", name)
        return self._found[name]

    def _count(self, found: list[Any], name: str) -> None:
        if not found:
            raise Refusal(INVALID, f"{name}: expected at least one text, found none", name)
        if len(found) > TEXTS:
            raise Refusal(
                TOO_LARGE, f"{name}: expected at most {TEXTS} texts, found {len(found)}; send them in several requests", name
            )


def _text(value: Any, where: str, name: str = "") -> str:
    if not isinstance(value, str):
        raise Refusal(INVALID, f"{where}: expected a text, found {_kind(value)}", name or where)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as e:
            raise Refusal(
                INVALID, f"{where}: character {e.start} is half of a surrogate pair, which is no text", name or where
            ) from e
    return value


def _kind(value: Any) -> str:
    """What a JSON value is, in words; numbers as they are."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, int | float):
        return f"the number {value:g}"[:40] if isinstance(value, float) or abs(value) < 10**12 else "a large number"
    if isinstance(value, list):
        return f"a list of {_kind(value[0])}" if value and not isinstance(value[0], list | dict) else "a list"
    return "an object" if isinstance(value, dict) else "a text"
