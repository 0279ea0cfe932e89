"""Read suites: JSONL files of texts or pairs, and folders that also hold queries, a corpus and qrels."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qguard.errors import DataProblem
from qguard.suites import Pair, Suite

_PARTS = ("texts.jsonl", "pairs.jsonl", "corpus.jsonl", "queries.jsonl", "qrels.tsv")
_KEYS = {
    "texts.jsonl": {"text"},
    "pairs.jsonl": {"text_a", "text_b"},
    "corpus.jsonl": {"_id", "text"},
    "queries.jsonl": {"_id", "text"},
}


def read_suite(name: str, path: Path) -> Suite:
    """Read a suite from a ``.jsonl`` file (texts or pairs, told by its keys) or a folder with any of
    ``texts.jsonl pairs.jsonl corpus.jsonl queries.jsonl qrels.tsv``.

    Raises:
        DataProblem: naming file and line, for malformed, duplicate, empty or dangling entries.
    """
    if path.is_dir():
        parts = {p: path / p for p in _PARTS if (path / p).exists()}
        if not parts:
            raise DataProblem(f"suite {name!r}: {path.name}/ holds none of {', '.join(_PARTS)}")
    elif path.is_file():
        first = next((v for _, v in _lines(path)), {})
        parts = {"pairs.jsonl" if "text_a" in first else "texts.jsonl": path}
    else:
        raise DataProblem(f"suite {name!r}: no file or folder at {path}")
    suite = _Builder(name).read(parts)
    if not suite.texts:
        raise DataProblem(f"suite {name!r}: {path.name} holds no text; an empty suite would pass without a measurement")
    return suite


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        # split on newlines alone: texts may hold U+2028 and other characters that str.splitlines() breaks at
        for number, raw in enumerate(path.read_bytes().split(b"\n"), 1):
            if not raw.strip():
                continue
            try:
                value = json.loads(raw.decode("utf-8"))
            except UnicodeDecodeError as e:
                raise DataProblem(f"{path.name}:{number}: not UTF-8 (byte {raw[e.start]:#04x} at column {e.start + 1})") from e
            except (json.JSONDecodeError, RecursionError) as e:
                raise DataProblem(f"{path.name}:{number}: not JSON ({e})") from e
            if not isinstance(value, dict):
                raise DataProblem(f"{path.name}:{number}: expected a JSON object, found {type(value).__name__}")
            yield number, value
    except OSError as e:
        raise DataProblem(f"cannot read {path}: {e.strerror or e}") from e


class _Builder:
    def __init__(self, name: str) -> None:
        self.name = name
        self.index: dict[tuple[str, bool], int] = {}
        self.slices: list[str | None] = []
        self.pairs: list[Pair] = []
        self.ids: dict[str, dict[str, int]] = {"corpus.jsonl": {}, "queries.jsonl": {}}

    def add(self, text: str, part: str | None, query: bool = False) -> int:
        # a query stays apart from an equal document: a model may declare a prompt for each
        if (text, query) not in self.index:
            self.index[text, query] = len(self.slices)
            self.slices.append(part)
        return self.index[text, query]

    def read(self, parts: dict[str, Path]) -> Suite:
        for kind, path in parts.items():
            if kind != "qrels.tsv":
                self._jsonl(kind, path)
        have = {"corpus.jsonl", "queries.jsonl"} & set(parts)
        if len(have) == 1 or ("qrels.tsv" in parts and len(have) < 2):
            raise DataProblem(f"suite {self.name!r}: a retrieval suite needs corpus.jsonl and queries.jsonl both")
        return Suite(
            self.name, tuple(text for text, _ in self.index), tuple(self.slices), tuple(self.pairs),
            tuple(self.ids["queries.jsonl"].values()), tuple(self.ids["corpus.jsonl"].values()),
            self._qrels(parts["qrels.tsv"]) if "qrels.tsv" in parts else {},
        )  # fmt: skip

    def _jsonl(self, kind: str, path: Path) -> None:
        seen: dict[Any, int] = {}
        for number, value in _lines(path):
            where = f"{path.name}:{number}"
            for key in _KEYS[kind]:
                if not isinstance(value.get(key), str):
                    raise DataProblem(f"{where}: expected a string {key!r}, found keys {sorted(value)}")
                if key != "_id" and _has_surrogate(value[key]):
                    raise DataProblem(f"{where}: {key!r} holds a lone surrogate, which no tokenizer accepts")
            part = value.get("slice")
            if part is not None and not isinstance(part, str):
                raise DataProblem(f"{where}: slice must be a string, found {part!r}")
            key_of: Any = value["_id"] if "_id" in _KEYS[kind] else tuple(value[k] for k in sorted(_KEYS[kind]))
            if key_of in seen:
                raise DataProblem(f"{where}: duplicate of line {seen[key_of]}")
            seen[key_of] = number
            if kind == "pairs.jsonl":
                score = value.get("score")
                if score is not None and (isinstance(score, bool) or not isinstance(score, int | float) or math.isnan(score)):
                    raise DataProblem(f"{where}: score must be a number, found {score!r}")
                a, b = self.add(value["text_a"], part), self.add(value["text_b"], part)
                self.pairs.append(Pair(a, b, None if score is None else float(score), part))
            else:
                at = self.add(value["text"], part, kind == "queries.jsonl")
                if kind in self.ids:
                    self.ids[kind][value["_id"]] = at
        if not seen:
            raise DataProblem(f"{path.name} is empty; an empty suite would pass without a measurement")

    def _qrels(self, path: Path) -> dict[int, dict[int, float]]:
        out: dict[int, dict[int, float]] = {}
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            cells = line.rstrip("\r").split("\t")
            if not line.strip() or (number == 1 and cells[0] in ("query-id", "query_id")):
                continue
            try:
                query, document, grade = self.ids["queries.jsonl"][cells[0]], self.ids["corpus.jsonl"][cells[1]], float(cells[2])
            except (KeyError, IndexError, ValueError) as e:
                raise DataProblem(
                    f"{path.name}:{number}: expected query-id, corpus-id, grade of known ids; found {line!r}"
                ) from e
            if document in out.setdefault(query, {}):
                raise DataProblem(f"{path.name}:{number}: duplicate judgement of {cells[0]} and {cells[1]}")
            out[query][document] = grade
        return out


def _has_surrogate(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)
