"""How long texts are: in tokens of the model, or in words where there is no model."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qguard.encoders.tokenizer import TextTokenizer

Count = Callable[[Sequence[str]], list[int]]
ENDS = (16, 64, 256, 1024)
NAMES = ("1-16", "17-64", "65-256", "257-1024", "1025+")
# scripts without spaces between words: each character is counted
_WORD = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff]|[^\s\u2e80-\u9fff\uf900-\ufaff]+")


def length_of(count: int) -> str:
    """The range of lengths that a text is in."""
    return NAMES[bisect_left(ENDS, count)]


def words(texts: Sequence[str]) -> list[int]:
    """How many words each text has; of Chinese and Japanese each character counts."""
    return [len(t.split()) if t.isascii() else len(_WORD.findall(t)) for t in texts]


def tokens(tokenizer: TextTokenizer) -> Count:
    """How many tokens each text has for a model, special ones included, before it is cut to the model's greatest length."""
    from tokenizers import Tokenizer

    whole = Tokenizer.from_str(tokenizer.plain.to_str())
    whole.no_truncation()
    encode = getattr(whole, "encode_batch_fast", whole.encode_batch)  # newer versions have one that finds no offsets
    return lambda texts: [len(e) for e in encode(list(texts))]
