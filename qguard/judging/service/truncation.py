"""Where the server cuts long texts: found to the token, and on which side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from qguard.encoders.feeding import LEFT, RIGHT
from qguard.errors import EndpointProblem, MeasurementProblem
from qguard.judging.once import once
from qguard.judging.service.probe import Finding, Probe, dense

_REST = 8  # tokens beyond the end of a text, of which none is read where it is cut
_DOUBLED = 2048  # tokens: texts twice as long as the model's length are asked about up to here
_SAME = 1e-6  # distance of two outputs, relative, below which they are the same


@dataclass(frozen=True)
class Cut:
    """What the server does with long texts.

    Attributes:
        tokens: The longest text that it reads as a whole, in tokens, special tokens included.
        side: The end of a longer text that counts not: ``right``, or ``left``; empty where longer texts are refused or read.
        words: What it does.
        asked: Requests.
    """

    tokens: int
    side: str
    words: str
    asked: int


def length(probe: Probe) -> Finding:
    """Texts are cut where the model declares it."""
    found = cut(probe)
    declared = probe.pipeline.max_seq_length
    own = found.tokens + _added(probe)
    return Finding(abs(own - declared), found.asked, (f"{found.words}; the model declares {declared}",), "requests")


def side(probe: Probe) -> Finding:
    """Texts are cut on the side that the model declares."""
    found, declared = cut(probe), probe.pipeline.truncation_side
    if not found.side:
        return Finding(1, found.asked, (f"nothing is cut: {found.words}",), "requests")
    same = found.side == declared
    ends = {RIGHT: "the end", LEFT: "the start"}
    words = f"of a long text {ends[found.side]} is dropped; the model drops {ends[declared]}"
    return Finding(float(same), found.asked, () if same else (words,), "requests")


def _added(probe: Probe) -> int:
    """Tokens of a prompt that the server adds, as the settings say."""
    return probe.count(probe.prompt) - probe.count("") if probe.prompt else 0


@once
def cut(probe: Probe) -> Cut:
    """See :class:`Cut`.

    Raises:
        MeasurementProblem: where nothing tells.
    """
    declared = probe.pipeline.max_seq_length - _added(probe)
    most = 2 * declared + _REST if declared <= _DOUBLED else declared + 64
    return _Ruler(probe, most, declared).find()


@dataclass(eq=False)
class _Ruler:
    """Texts of so many tokens, and what the server gives for them."""

    probe: Probe
    most: int
    declared: int
    asked: int = 0
    _kept: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def pieces(self) -> list[str]:
        """Pieces of text that follow each other, each of one token."""
        words = list(dict.fromkeys(w for t in self.probe.texts for w in str(t).split()))
        letters = dict.fromkeys("".join(words) + "abcdefghijklmnopqrstuvwxyz")
        for units in ([f" {w}" for w in words], list(letters)):
            found = [unit for unit in units if self._adds_one(units[0], unit)][:32]
            if len(found) >= 8:
                return found
        raise MeasurementProblem("no pieces of text of one token each are found with the model's tokenizer")

    def _adds_one(self, before: str, unit: str) -> bool:
        return [self.probe.count(before + unit * n) - self.probe.count(before) for n in (1, 2)] == [1, 2]

    @cached_property
    def special(self) -> int:
        """Special tokens of a text."""
        return self.probe.count("")

    @cached_property
    def units(self) -> list[str]:
        """The pieces of a text of :attr:`most` tokens and some more, in an order that does not repeat itself soon."""
        n = len(self.pieces)
        return [self.pieces[(k * k // 3 + k) % n] for k in range(self.most + 2 * _REST)]

    def text(self, start: int, end: int) -> str:
        """The text of pieces ``start`` to ``end``."""
        return "".join(self.units[start:end]).lstrip(" ")

    def of_tokens(self, tokens: int) -> int:
        """The end of the text from the first piece on that has so many tokens, special tokens included.

        Raises:
            MeasurementProblem: where pieces that follow each other become other tokens.
        """
        end = tokens - self.special
        if (found := self.probe.count(self.text(0, end))) != tokens:
            raise MeasurementProblem(
                f"expected a text of {tokens} tokens, found {found}: pieces of text do not keep their tokens"
            )
        return end

    def given(self, text: str) -> Any:
        """What the server gives, float64 (width,); the error, where it refuses the text."""
        if text not in self._kept:
            self.asked += 1
            try:
                self._kept[text] = dense(self.probe.outputs([text]))[0]
            except EndpointProblem as e:
                if e.status is None or not 400 <= e.status < 500 or e.status == 429:
                    raise
                self._kept[text] = e
        return self._kept[text]

    @cached_property
    def noise(self) -> float:
        """The distance between two answers to one text."""
        text = self.text(0, self.of_tokens(self.declared))
        return _apart(dense(self.probe.outputs([text]))[0], dense(self.probe.outputs([text]))[0])

    def same(self, a: str, b: str) -> bool:
        """Whether the server gives the same for two texts."""
        x, y = self.given(a), self.given(b)
        return not isinstance(x, Exception) and not isinstance(y, Exception) and _apart(x, y) <= max(_SAME, 4 * self.noise)

    def find(self) -> Cut:
        """See :func:`cut`."""
        end = self.of_tokens(self.most)
        whole = self.text(0, end)
        if isinstance(refused := self.given(whole), Exception):
            return self.refusing(refused)
        self.check_sight()
        if self.same(whole, self.text(0, end + _REST)):
            tokens = _first(
                self.special + 1, self.most, self.declared, lambda k: self.same(self.text(0, self.of_tokens(k)), whole)
            )
            if not self.same(whole, self.text(2, end)):
                return Cut(tokens, RIGHT, f"longer texts are cut to their first {tokens} tokens", self.asked)
            words = f"of texts of {self.most} tokens neither the start nor the end counts"
            return Cut(tokens, "", words, self.asked)
        start = len(self.units) - end
        tail = self.text(start, len(self.units))
        if self.same(tail, self.text(start - _REST, len(self.units))):
            tokens = _first(
                self.special + 1, self.most, self.declared,
                lambda k: self.same(self.text(len(self.units) - self.of_tokens(k), len(self.units)), tail),
            )  # fmt: skip
            return Cut(tokens, LEFT, f"longer texts are cut to their last {tokens} tokens", self.asked)
        return Cut(self.most, "", f"texts of {self.most} tokens are read as a whole", self.asked)

    def refusing(self, refused: Exception) -> Cut:
        """Of a server that refuses long texts."""

        def refuses(k: int) -> bool:
            return isinstance(self.given(self.text(0, self.of_tokens(k))), Exception)

        first = _first(self.special + 1, self.most, self.declared + 1, refuses)
        return Cut(first - 1, "", f"texts of {first} tokens and more are refused ({refused})", self.asked)

    def check_sight(self) -> None:
        """Outputs tell one token more from less.

        Raises:
            MeasurementProblem: where they move as much between two answers to one text.
        """
        near = self.declared - 2
        if self.same(self.text(0, self.of_tokens(near)), self.text(0, self.of_tokens(near - 1))) and self.noise > _SAME:
            raise MeasurementProblem(
                f"two answers to one text lie {self.noise:.2g} apart, which hides what one token more or less changes"
            )


def _apart(a: Any, b: Any) -> float:
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-12))


def _first(low: int, high: int, guess: int, holds: Callable[[int], bool]) -> int:
    """The first of ``low`` to ``high`` that holds, where all after it do and ``high`` does; ``guess`` is asked about first."""
    if low < guess <= high:
        if holds(guess):
            high = guess
            if not holds(guess - 1):
                return guess
            high = guess - 1
        else:
            low = guess + 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return high
