"""Text from users where people and CI services read it: what would be obeyed is shown, and never does what it says.

Terminal, annotations, JUnit, Markdown and HTML all pass through :func:`visible`; each then escapes its own markup.
"""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from typing import Any, TextIO

# Control, format, surrogate and private characters, and separators of lines: they move the cursor, turn the direction of the
# text around, or pretend that a line ended. The two joiners are parts of words and of emoji.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
_PARTS_OF_WORDS = ("\u200c", "\u200d")
# What a CI service takes for a command in a log: GitHub's "::error" at the start of a line, its older "##[error]" and Azure's
# "##vso[" anywhere, and TeamCity's "##teamcity[". A line may be broken at any space.
_COMMAND = re.compile(r"(?<!\S)::(?=\S)|##(?=\w*\[)")


def visible(text: str, keep: str = "\n") -> str:
    """``text`` with each hidden character as Python writes it (``\\x1b``), but for those of ``keep``.

    So is the first character of what a CI service would take for a command.
    """
    if not (text.isascii() and text.isprintable()):
        stays = {*keep, *_PARTS_OF_WORDS}
        text = "".join(c if c in stays or not _hidden(c) else ascii(c)[1:-1] for c in text)
    return _COMMAND.sub(lambda m: f"\\x{ord(m[0][0]):02x}{m[0][1:]}", text) if "::" in text or "##" in text else text


def visible_json(value: Any) -> str:
    """``value`` as JSON in ASCII, with JSON's own escapes where a terminal or a CI service would obey; it reads back the same."""
    text = json.dumps(value, indent=2, sort_keys=True)
    return _COMMAND.sub(lambda m: f"\\u{ord(m[0][0]):04x}{m[0][1:]}", text)


def _hidden(c: str) -> bool:
    """Also the characters that are none, such as U+FFFE, which no XML may hold."""
    return unicodedata.category(c) in _HIDDEN or ord(c) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(c) <= 0xFDEF


def cell(text: str) -> str:
    """Text for a table of rich: visible, and without what rich takes for markup."""
    return visible(text).replace("[", "\\[")


def say(text: object, file: TextIO | None = None) -> None:
    """Print what may hold text from users."""
    print(visible(str(text)), file=file or sys.stdout, flush=True)
