"""Mutations of texts: what users' texts differ in. A new one is a function here and a line in ``MUTATIONS``.

Each takes a random generator, the text, and another text of the corpus, and returns a text: valid Unicode, never longer than
:data:`LONGEST` characters; the text itself where there is nothing to change.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from random import Random

LONGEST = 1200  # characters: more than most models read, and few enough to encode hundreds a second
KEYS = {
    k: row[max(0, i - 1)] + row[min(len(row) - 1, i + 1)]
    for row in ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    for i, k in enumerate(row)
}
MARKS = "!?.,;:…-—'\"()#*/"
GAPS = (" ", "  ", "\t", "\n", "\u00a0", "\u200b", "\u3000")
ACCENTS = "\u0301\u0300\u0302\u0308\u0303"
# Letters that look like others of another script: what spam and careless keyboards write
ALIKE = str.maketrans("aeopcxyiABEHKMOPCTX", "аеорсхуіАВЕНКМОРСТХ")
EMOJI = ("😂", "❤️", "🔥", "👍🏽", "👩‍💻", "🙃", "🇩🇪", "✨")

Mutation = Callable[[Random, str, str], str]


def _place(rng: Random, text: str) -> int:
    return rng.randrange(len(text)) if text else 0


def _swap(rng: Random, text: str, other: str) -> str:
    i = _place(rng, text[:-1])
    return text[:i] + text[i : i + 2][::-1] + text[i + 2 :]


def _drop(rng: Random, text: str, other: str) -> str:
    i = _place(rng, text)
    return text[:i] + text[i + 1 :]


def _double(rng: Random, text: str, other: str) -> str:
    i = _place(rng, text)
    return text[:i] + text[i : i + 1] * rng.choice((2, 3, 8)) + text[i + 1 :]


def _neighbouring_key(rng: Random, text: str, other: str) -> str:
    i = _place(rng, text)
    return text[:i] + rng.choice(KEYS.get(text[i : i + 1].lower(), "e")) + text[i + 1 :]


def _case(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    i = rng.randrange(len(words))
    change = rng.choice((str.upper, str.lower, str.title, str.swapcase))
    if rng.random() < 0.3:
        return change(text)
    words[i] = change(words[i])
    return " ".join(words)


def _number(rng: Random, text: str, other: str) -> str:
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    if not digits:
        words = text.split(" ")
        words.insert(
            rng.randrange(len(words) + 1), str(rng.choice((rng.randrange(10), rng.randrange(3000), 10 ** rng.randrange(9))))
        )
        return " ".join(words)
    i = rng.choice(digits)
    return text[:i] + str(rng.randrange(10)) + text[i + 1 :]


def _truncate(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    if len(words) < 2:
        return text[: max(1, len(text) // 2)]
    i = rng.randrange(1, len(words))
    return " ".join(words[:i] if rng.random() < 0.5 else words[i:])


def _drop_word(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    del words[rng.randrange(len(words))]
    return " ".join(words) or text


def _repeat_word(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    i = rng.randrange(len(words))
    words[i : i + 1] = [words[i]] * rng.choice((2, 3, 6, 12))
    return " ".join(words)


def _move_word(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    word = words.pop(rng.randrange(len(words)))
    words.insert(rng.randrange(len(words) + 1), word)
    return " ".join(words)


def _whole_twice(rng: Random, text: str, other: str) -> str:
    return rng.choice((" ", "", "\n")).join([text] * rng.choice((2, 3)))


def _join(rng: Random, text: str, other: str) -> str:
    a, b = text.split(" "), other.split(" ")
    return " ".join(a[: rng.randrange(1, len(a) + 1)] + b[rng.randrange(len(b)) :])


def _take_word(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    words[rng.randrange(len(words))] = rng.choice(other.split(" "))
    return " ".join(words)


def _punctuation(rng: Random, text: str, other: str) -> str:
    if rng.random() < 0.3:
        return "".join(c for c in text if not unicodedata.category(c).startswith("P")) or text
    i = rng.randrange(len(text) + 1)
    return text[:i] + rng.choice(MARKS) * rng.choice((1, 1, 3)) + text[i:]


def _space(rng: Random, text: str, other: str) -> str:
    at = [i for i, c in enumerate(text) if c.isspace()]
    if at and rng.random() < 0.5:
        i = rng.choice(at)
        return text[:i] + rng.choice(("", *GAPS)) + text[i + 1 :]
    i = rng.randrange(len(text) + 1)
    return text[:i] + rng.choice(GAPS) + text[i:]


def _accent(rng: Random, text: str, other: str) -> str:
    if rng.random() < 0.3:
        return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)) or text
    i = _place(rng, text) + 1
    return text[:i] + rng.choice(ACCENTS) + text[i:]


def _script(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    i = rng.randrange(len(words))
    words[i] = words[i].translate(ALIKE)
    return " ".join(words)


def _emoji(rng: Random, text: str, other: str) -> str:
    words = text.split(" ")
    words.insert(rng.randrange(len(words) + 1), rng.choice(EMOJI) * rng.choice((1, 1, 4)))
    return " ".join(words)


MUTATIONS: dict[str, Mutation] = {
    "case": _case,
    "swapped letters": _swap,
    "dropped letter": _drop,
    "doubled letter": _double,
    "neighboring key": _neighbouring_key,
    "number": _number,
    "truncated": _truncate,
    "dropped word": _drop_word,
    "repeated word": _repeat_word,
    "moved word": _move_word,
    "doubled text": _whole_twice,
    "joined texts": _join,
    "word of another text": _take_word,
    "punctuation": _punctuation,
    "white space": _space,
    "accent": _accent,
    "look-alike letters": _script,
    "emoji": _emoji,
}


def mutate(rng: Random, text: str, other: str, most: int = 3) -> tuple[str, tuple[str, ...]]:
    """A text after one to ``most`` mutations, and their names; at most :data:`LONGEST` characters."""
    names = tuple(rng.choice(list(MUTATIONS)) for _ in range(rng.randint(1, most)))
    for name in names:
        text = MUTATIONS[name](rng, text, other)
    return text[:LONGEST], names
