"""Why llama.cpp reads a text as other tokens than the model: said only where the model's own tokenizer, with that one difference,
gives llama.cpp's tokens.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

WORD = 100  # letters beyond which BERT takes a word for unknown


def _first_letters(text: str) -> str:
    """Of each character the first one that it is composed of: of a Korean syllable its first consonant."""
    return "".join(unicodedata.normalize("NFD", c)[0] for c in text)


def _without_marks(text: str) -> str:
    """Without marks of any kind, where BERT drops those that take no room: vowel signs of Indian scripts take some."""
    return "".join(c for c in text if not unicodedata.category(c).startswith("M"))


def _same(text: str) -> str:
    return text


class Reading(NamedTuple):
    """One way in which llama.cpp reads texts otherwise.

    Attributes:
        words: What it does.
        text: Changes a text as it does.
        split: Whether it splits long words.
        plain: Whether it takes the names of special tokens for text.
    """

    words: str
    text: Callable[[str], str] = _same
    split: bool = False
    plain: bool = False


READINGS = (
    Reading("it keeps the first letter of a Korean syllable, and loses its vowel and final", _first_letters),
    Reading("it drops vowel signs, as of Hindi, with the accents", _without_marks),
    Reading(f"it splits a word of more than {WORD} letters, which the model takes for unknown", split=True),
    Reading("node-llama-cpp takes the name of a special token for text", plain=True),
)


class Readers:
    """The model's tokenizer, and the same with each difference of :data:`READINGS`.

    Args:
        tokenizer: Of the tokenizers library, as the model has it.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._stored = json.loads(tokenizer.to_str())
        framed, bare = (tokenizer.encode("a", add_special_tokens=on).ids for on in (True, False))
        start = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), 0)
        self._frame = start, len(framed) - start - len(bare)
        self._made: dict[tuple[bool, bool], Any] = {}

    def ids(self, text: str, *readings: Reading) -> list[int]:
        """Token ids of a text without tokens around it, as these differences make them."""
        for reading in readings:
            text = reading.text(text)
        kind = any(r.split for r in readings), any(r.plain for r in readings)
        if kind not in self._made:
            self._made[kind] = self._other(*kind)
        found: list[int] = self._made[kind].encode(text, add_special_tokens=False).ids
        return found

    def alike(self, golden: Sequence[int], found: Sequence[int], longest: int) -> bool:
        """Whether token ids of a whole text are those of the golden, which stand between special tokens and may be cut.

        Args:
            golden: With special tokens, at most ``longest`` of them.
            found: Without.
            longest: Tokens of a text.
        """
        start, end = self._frame
        inner = list(golden[start : len(golden) - end])
        whole = list(found)
        return inner == (whole[: len(inner)] if len(golden) >= longest else whole)

    def cause(self, text: str, found: Sequence[int]) -> str:
        """Which differences give these token ids of a text, in words; empty where none is proved."""
        for count in range(1, len(READINGS) + 1):
            for readings in combinations(READINGS, count):
                if self.ids(text, *readings) == list(found):
                    return " and ".join(r.words for r in readings)
        return ""

    def _other(self, split: bool, plain: bool) -> Any:
        from tokenizers import Tokenizer

        stored = {**self._stored, "truncation": None, "padding": None, "post_processor": None}
        if split and "max_input_chars_per_word" in stored["model"]:
            stored["model"] = {**stored["model"], "max_input_chars_per_word": 2**31}
        if plain:
            stored["added_tokens"] = []
        return Tokenizer.from_str(json.dumps(stored))
