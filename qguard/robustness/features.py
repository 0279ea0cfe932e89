"""What a text looks like to somebody who wants to know why it is the worst."""

from __future__ import annotations

import unicodedata

from qguard.encoders.tokenizer import TextTokenizer

WIDTH = 90  # characters of a text that are shown


def scripts(text: str) -> list[str]:
    """The scripts of a text's letters, and what else it holds: emoji and symbols, marks, digits, controls; by frequency."""
    counts: dict[str, int] = {}
    for c in text:
        kind = _kind(c)
        if kind:
            counts[kind] = counts.get(kind, 0) + 1
    return sorted(counts, key=lambda kind: (-counts[kind], kind))


def _kind(c: str) -> str:
    category = unicodedata.category(c)
    if category.startswith("L"):
        name = unicodedata.name(c, "unnamed").split(" ")[0].split("-")[0]
        return {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana"}.get(name, name.title())
    if category.startswith("M"):
        return "combining marks"
    if category.startswith("N"):
        return "numbers"
    if category in ("So", "Sk"):
        return "emoji and symbols"
    return "control characters" if category in ("Cc", "Cf", "Co", "Cn") and not c.isspace() else ""


def describe(text: str, tokenizer: TextTokenizer) -> str:
    """One line: the text, its length in characters and tokens, its scripts, and the share of tokens that are unknown."""
    ids = tokenizer([text])[0]
    shown = repr(text) if len(text) <= WIDTH else f"{text[:WIDTH]!r}…"
    facts = [f"{len(text)} characters", f"{len(ids)} tokens"]
    unknown = tokenizer.unknown_id
    if unknown is not None and (share := ids.count(unknown) / max(1, len(ids))):
        facts.append(f"{share:.0%} unknown")
    return f"{shown}  ({', '.join([*facts, *scripts(text)[:4]])})"
