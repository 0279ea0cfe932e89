"""Hypothesis strategies for texts that encoders meet in the wild: write property tests of your own with them.

Importing this module imports Hypothesis; ``import qguard`` and the pytest plugin do not import this module.

Every strategy shrinks toward short Latin words, so that a failing example says what it fails on. None gives lone
surrogates: no UTF-8 input holds them, and no tokenizer accepts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

from qguard.texts.mutations import MUTATIONS, Mutation

__all__ = [
    "batches", "combining", "emoji", "near_duplicates", "numbers", "pairs_of_near_duplicates", "pieces", "texts", "words",
]  # fmt: skip

T = TypeVar("T")

# Script → letters that words are made of: common ones, so that a vocabulary knows some of them
SCRIPTS = {
    "Latin": "etaoinshrdlucmfwypvbgkjqxz",
    "Latin with accents": "eáàâäãåçéèêëíîïñóôöõøœßúùûüýčšžłąęőığ",
    "Cyrillic": "оеаинтсрвлкмдпуяызбгчйхжшюцщэфъёіїєґ",
    "Greek": "αετοιςνρπλκμδυηωγθφσχξζβψάέήίόύώ",
    "Arabic": "اليمونترسعدبهفقحجكخشضصطزظغثذءئؤةى",
    "Hebrew": "יוהאלרתבשמנדחעקפטסגצזכםןךףץ",
    "Devanagari": "करनसतमहपलयवदजबगटथधखचभशषणछफझघठढािीुूेैोौं्",
    "Bengali": "রানকতসবলমদপযটগশেিাুোী্",
    "Tamil": "கதமனபரவலயளடசறணஙாிுேை்",
    "Thai": "นารกอเงมยลวดทสตะปบคหแจพชขใไโผซถ่้็์",
    "Hangul": "이다는에의을를가하고한지사로서기어나니리",
    "Kana": "のにはをたがでてとしれさあいうえおアイウエオカキクケコーン",
    "Han": "的一是不了人我在有他这中大来上国個們說時到會",
    "Georgian": "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰ",
    "Ethiopic": "አበገደሀወዘየከለመነሰቀተ",
}
SIMPLE = "🙂😀😂❤🔥👍🎉😭✨🚀👋🐱🍕"
SKIN = ["", "\U0001f3fb", "\U0001f3fd", "\U0001f3ff"]  # Fitzpatrick modifiers
JOINED = ["👩‍💻", "👨‍👩‍👧‍👦", "🏳️‍🌈", "❤️‍🔥", "🧑🏽‍🚀", "🇩🇪", "🇺🇳", "1️⃣", "☀️"]  # joiners, variation selectors, flags, keycaps
COMBINING = "\u0301\u0300\u0302\u0308\u0303\u0327\u0331\u20dd\u0489"
# beside spaces: no-break, en, ideographic and zero-width ones, line and paragraph separators, byte order mark
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u2002", "\u3000", "\u200b", "\u2028", "\u2029", "\ufeff", "\x0b", "\x0c"]
CONTROLS = ["\x00", "\x01", "\x07", "\x08", "\x1b", "\x7f", "\x85", "\u200e", "\u202e", "\u2066", "\ufffd", "\ufffe", "\ue000"]
PUNCTUATION = ["!", "?!", "...", "…", "—", "“”", "'", '"', "()", "[]", "<br>", "&amp;", "#", "@", "/", "\\", "%", "_", "~", "|"]
NUMBERS = [
    "0",
    "7",
    "42",
    "-1",
    "3.14159",
    "1,000,000",
    "1.000,50",
    "1e-9",
    "2024-02-29",
    "23:59",
    "$19.99",
    "50%",
    "½",
    "²",
    "٣",
    "四",
]
WORDS = ["the", "a", "is", "not", "and", "price", "court", "river", "vaccine", "goal", "server", "never", "increase", "Tuesday"]


def _often(*weighted: tuple[int, st.SearchStrategy[T]]) -> st.SearchStrategy[T]:
    """One of several, each as often as its weight says; shrinks toward the first."""
    table = [i for i, (weight, _) in enumerate(weighted) for _ in range(weight)]
    return st.sampled_from(table).flatmap(lambda i: weighted[i][1])


def words(scripts: Sequence[str] = tuple(SCRIPTS)) -> st.SearchStrategy[str]:
    """A word of one script: English, or letters of it at random.

    Args:
        scripts: Names in :data:`SCRIPTS`.
    """
    return _words(tuple(scripts))


# Strategies are made once: Hypothesis examines every new one, and many texts are drawn from the same few
@cache
def _words(scripts: tuple[str, ...]) -> st.SearchStrategy[str]:
    letters = st.sampled_from([SCRIPTS[s] for s in scripts])
    made = letters.flatmap(_spelled)
    return st.sampled_from(WORDS) | made if "Latin" in scripts else made


@cache
def _spelled(known: str) -> st.SearchStrategy[str]:
    return st.text(st.sampled_from(known), min_size=1, max_size=9)


def emoji() -> st.SearchStrategy[str]:
    """One emoji: plain, with a skin tone, or joined from several."""
    toned = st.builds(str.__add__, st.sampled_from("👍👋🙌🤝👩🧑"), st.sampled_from(SKIN))
    return st.sampled_from(SIMPLE) | toned | st.sampled_from(JOINED)


def combining() -> st.SearchStrategy[str]:
    """A letter under one to eight combining marks, which are its accents written apart."""
    marks = st.text(st.sampled_from(COMBINING), min_size=1, max_size=8)
    return st.builds(str.__add__, st.sampled_from("aeonс한क"), marks)


def numbers() -> st.SearchStrategy[str]:
    """A number as people write it: digits, dates, prices, powers, other numerals."""
    return st.integers(0, 10**12).map(str) | st.sampled_from(NUMBERS) | st.floats(allow_nan=False, width=32).map(repr)


@cache
def pieces() -> st.SearchStrategy[str]:
    """What texts are made of: a word, a number, an emoji, punctuation, combining and control characters, any code point."""
    return _often(
        (8, words()),
        (2, numbers()),
        (3, emoji()),
        (2, st.sampled_from(PUNCTUATION)),
        (1, combining()),
        (1, st.sampled_from(CONTROLS)),
        (1, st.characters(exclude_categories=["Cs"])),
    )


@cache
def _spaces() -> st.SearchStrategy[str]:
    return st.sampled_from(SPACES)


@cache
def _some(what: st.SearchStrategy[str], fewest: int, most: int) -> st.SearchStrategy[list[str]]:
    return st.lists(what, min_size=fewest, max_size=most)


@st.composite
def _joined(draw: st.DrawFn, size: int, spaces: bool) -> str:
    parts = draw(_some(pieces(), 1, size))
    if not spaces:
        return " ".join(parts)
    between = draw(_some(_spaces(), len(parts), len(parts)))
    return "".join(p + s for p, s in zip(parts, between, strict=True))


@st.composite
def _of_one_script(draw: st.DrawFn, size: int) -> str:
    script = draw(_scripts())
    gap = "" if script in ("Han", "Kana", "Thai") else " "
    return gap.join(draw(_some(words((script,)), 1, size)))


@cache
def _scripts() -> st.SearchStrategy[str]:
    return st.sampled_from(list(SCRIPTS))


def texts(size: int = 10, longest: int = 400, near: Sequence[str] = ()) -> st.SearchStrategy[str]:
    """A text: mostly short; now and then empty, blank, repeated, or longer than what a model reads.

    Args:
        size: Most pieces of an ordinary text.
        longest: Most pieces of a repeated one.
        near: Texts to give near-duplicates of, beside everything else; none by default.
    """
    ordinary = _joined(size, False)
    repeated = st.builds(lambda piece, gap, n: gap.join([piece] * n), pieces(), st.sampled_from(["", " "]), st.integers(2, 24))
    long = st.builds(lambda text, n: " ".join([text] * n), _joined(6, False), st.integers(2, max(2, longest // 6)))
    kinds: list[tuple[int, st.SearchStrategy[str]]] = [
        (20, ordinary),
        (8, _of_one_script(size)),
        (5, _joined(size, True)),
        (4, repeated),
        (1, st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
        (1, st.lists(st.sampled_from(SPACES), max_size=6).map("".join)),
        (1, long),
    ]
    if near:
        kinds.append((15, st.sampled_from(list(near)).flatmap(near_duplicates)))
    return _often(*kinds)


def near_duplicates(text: str) -> st.SearchStrategy[str]:
    """The text with one change that a reader hardly sees, or that changes its sense: case, a typo, a number, an accent, a mark.

    Args:
        text: Any text.
    """
    return _changes().map(lambda change: change[0](Random(change[1]), text, text))


@cache
def _changes() -> st.SearchStrategy[tuple[Mutation, int]]:
    return st.tuples(st.sampled_from(list(MUTATIONS.values())), st.integers(0, 2**16))


@st.composite
def pairs_of_near_duplicates(draw: st.DrawFn, size: int = 10) -> tuple[str, str]:
    """Two texts of which one is the other with one change; they may be equal.

    Args:
        size: As of :func:`texts`.
    """
    text = draw(texts(size, longest=60))
    return text, draw(near_duplicates(text))


def batches(min_size: int = 1, max_size: int = 8, size: int = 10, near: Sequence[str] = ()) -> st.SearchStrategy[list[str]]:
    """Texts as a server gets them together: of different lengths and scripts, near-duplicates among them.

    Args:
        min_size: Fewest texts.
        max_size: Most texts, before near-duplicates of one of them join.
        size: As of :func:`texts`; so is ``near``.
        near: Texts to give near-duplicates of.
    """
    plain = st.lists(texts(size, near=near), min_size=min_size, max_size=max_size, unique=True)
    doubled = plain.flatmap(lambda b: near_duplicates(b[0]).map(lambda t: [*b, t]) if b else st.just(b))
    return _often((4, plain), (1, doubled))
