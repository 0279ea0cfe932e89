"""Which column is what: told by common names, or stated (``columns = {text_a = "left"}``)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from qguard.errors import DataProblem

# Names of pairs of texts, the first that is there counts
PAIRS = (
    ("text_a", "text_b"), ("text1", "text2"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"),
    ("sentence_A", "sentence_B"), ("sent1", "sent2"), ("premise", "hypothesis"), ("question1", "question2"),
    ("query", "passage"), ("query", "document"), ("question", "answer"), ("anchor", "positive"),
)  # fmt: skip
# Role → names that tell it, the first that is there counts
NAMES: dict[str, tuple[str, ...]] = {
    "text": ("text", "sentence", "content", "passage", "document", "query"),
    "text_a": tuple(a for a, _ in PAIRS),
    "text_b": tuple(b for _, b in PAIRS),
    "score": ("score", "similarity_score", "relatedness_score", "similarity", "relatedness"),
    "label": ("label", "labels", "is_duplicate"),
    "slice": ("slice", "domain", "category", "genre"),
    "split": ("split",),
    "title": ("title",),
    "id": ("_id", "id", "doc_id", "docid", "query_id", "qid"),
    "query_id": ("query-id", "query_id", "qid"),
    "document_id": ("corpus-id", "corpus_id", "doc_id", "docid", "document_id"),
    "grade": ("score", "relevance", "grade", "label"),
}


class Columns:
    """The columns of one table.

    Args:
        stated: Role → column, over what names tell; ``""`` for a column that is not there.
    """

    def __init__(self, stated: Mapping[str, str]) -> None:
        self._stated = stated

    def states(self, role: str) -> bool:
        """Whether the project names the column."""
        return bool(self._stated.get(role))

    def kind(self, row: Mapping[str, Any]) -> str:
        """``pairs`` or ``texts``, from the first row; it also settles which pair of names is meant."""
        if "text_a" in self._stated or "text_b" in self._stated:
            return "pairs"
        if "text" in self._stated:
            return "texts"
        for a, b in PAIRS:
            if a in row and b in row:
                self._stated = {"text_a": a, "text_b": b, **self._stated}
                return "pairs"
        return "texts"

    def of(self, role: str, row: Mapping[str, Any]) -> str | None:
        """The column of a role in a row; ``None`` where there is none."""
        if role in self._stated:
            return self._stated[role] or None
        return next((n for n in NAMES[role] if n in row), None)

    def value(self, role: str, row: Mapping[str, Any], where: str) -> Any:
        """What a row says; ``None`` where it says nothing.

        Raises:
            DataProblem: for a stated column that is not there.
        """
        column = self.of(role, row)
        if column is None:
            return None
        if column not in row and self._stated.get(role) and role != "slice":
            raise DataProblem(f"{where}: expected a column {column!r}, found {_keys(row)}")
        value = row.get(column)
        return None if value == "" and role not in ("text", "text_a", "text_b", "title") else value

    def text(self, role: str, row: Mapping[str, Any], where: str) -> str:
        """A text.

        Raises:
            DataProblem: for anything else, and for what no tokenizer accepts.
        """
        column = self.of(role, row) or NAMES[role][0]
        value = row.get(column)
        if not isinstance(value, str):
            raise DataProblem(f"{where}: expected a string {column!r}, found {_keys(row)}" + _state(column in row, role))
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DataProblem(f"{where}: {column!r} holds a lone surrogate, which no tokenizer accepts") from None
        return value

    def identity(self, role: str, row: Mapping[str, Any], where: str) -> str:
        """An id, as a string.

        Raises:
            DataProblem: where there is none.
        """
        value = self.value(role, row, where)
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataProblem(f"{where}: expected a string {NAMES[role][0]!r}, found {_keys(row)}")
        return str(value)

    def number(self, role: str, row: Mapping[str, Any], where: str) -> float | None:
        """A finite number, or ``None``.

        Raises:
            DataProblem: for anything else.
        """
        value = self.value(role, row, where)
        if value is None:
            return None
        try:
            if isinstance(value, bool) or not isinstance(value, str | int | float) or not math.isfinite(float(value)):
                raise ValueError
            return float(value)
        except (ValueError, OverflowError):
            what = self.of(role, row)
            raise DataProblem(
                f"{where}: {what} must be a number, found {value!r}"
                + ('; if it is no label of similarity: columns = {label = ""}' if role == "label" else "")
            ) from None

    def slice(self, row: Mapping[str, Any], where: str) -> str | None:
        """The slice of a row.

        Raises:
            DataProblem: where it is neither a string nor a whole number.
        """
        value = self.value("slice", row, where)
        if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
            raise DataProblem(f"{where}: slice must be a string, found {value!r}")
        return None if value is None else str(value)


def _keys(row: Iterable[str]) -> str:
    return f"keys {sorted(map(str, row))}"


def _state(there: bool, role: str) -> str:
    return "" if there else f'; name the column: columns = {{{role} = "…"}}'
