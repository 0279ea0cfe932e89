"""The script that a text is written in.

Python has no Unicode property Script, but the name of a letter begins with it. Over all letters of Unicode this agrees with the
property where both name a script; tests/test_sample_scripts.py compares them, and has the exceptions.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import lru_cache

NONE, MIXED = "no letters", "mixed"
MOST = 0.75  # of the letters that one script must have, else the text is mixed

# First words of the names of letters that are not their script
_WORDS = {"CJK": "Han", "IDEOGRAPHIC": "Han", "HENTAIGANA": "Hiragana"}
# those that say the form or the use of a letter
_FORMS = {
    "MODIFIER", "DOUBLE", "BLACK", "SCRIPT", "MATHEMATICAL", "MICRO", "FEMININE", "MASCULINE",
    "KELVIN", "ANGSTROM", "OHM", "PLANCK", "TURNED", "SUPERSCRIPT", "SUBSCRIPT", "ALEF",
    "BET", "GIMEL", "DALET", "INFORMATION", "CARON", "EULER", "VEDIC", "VERTICAL",
}  # fmt: skip
_KANA = frozenset({"Hiragana", "Katakana"})


def script_of(text: str) -> str:
    """The script of most letters of a text, such as ``Latin``; :data:`MIXED` where none has :data:`MOST` of them, and
    :data:`NONE` for a text of digits, punctuation or emoji alone.

    Writing systems of several scripts are one: kana with Han is ``Japanese``, Hangul with Han is ``Korean`` (Unicode Technical
    Standard 39, section 5.1). Emoji, digits and marks between letters change nothing.
    """
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else NONE
    letters: Counter[str] = Counter()
    for character, count in Counter(text).items():
        if script := _script(character):
            letters[script] += count
    if kana := sum(letters.pop(s, 0) for s in _KANA):
        letters["Japanese"] = kana + (letters.pop("Han", 0) if kana >= letters["Hangul"] else 0)
    if letters["Hangul"]:
        letters["Korean"] = letters["Hangul"] + letters.pop("Han", 0)
    del letters["Hangul"]
    if not (total := letters.total()):
        return NONE
    script, count = min(letters.items(), key=lambda found: (-found[1], found[0]))
    return script if count >= MOST * total else MIXED


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    """The script of one letter; empty for anything else."""
    if not unicodedata.category(character).startswith("L"):
        return ""
    if character.isascii():
        return "Latin"
    words = unicodedata.name(character, "").replace("-", " ", 1).removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split()
    return _WORDS.get(words[0], words[0].capitalize()) if words and words[0] not in _FORMS else ""
