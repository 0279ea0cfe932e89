"""Text from users where people read it: a control character is shown, and never does what it says."""

from __future__ import annotations

import sys
import unicodedata
from typing import TextIO

# Control, format, surrogate and private characters, and separators of lines: they move the cursor, turn the direction of the
# text around, or pretend that a line ended. The two joiners are parts of words and of emoji.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_PARTS_OF_WORDS = ("\u200c", "\u200d")


def visible(text: str, keep: str = "\n") -> str:
    """``text`` with each hidden character as Python writes it (``\\x1b``), but for those of ``keep``."""
    if text.isascii() and text.isprintable():
        return text
    stays = {*keep, *_PARTS_OF_WORDS}
    return "".join(c if c in stays or unicodedata.category(c) not in _HIDDEN else ascii(c)[1:-1] for c in text)


def cell(text: str) -> str:
    """Text for a table of rich: visible, and without what rich takes for markup."""
    return visible(text).replace("[", "\\[")


def say(text: object, file: TextIO | None = None) -> None:
    """Print what may hold text from users."""
    print(visible(str(text)), file=file or sys.stdout, flush=True)
