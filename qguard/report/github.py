"""GitHub's workflow commands: annotations on the lines that a pull request shows.

https://docs.github.com/actions/reference/workflow-commands-for-github-actions
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from qguard.console.visible import visible

MOST = 10  # GitHub shows no more errors of one step


def commands(findings: Iterable[Mapping[str, Any]]) -> list[str]:
    """One command for each finding, ``::error`` or its ``level``, the first ten; the last says how many were left out.

    Args:
        findings: As of :func:`qguard.report.findings.findings`.
    """
    every = list(findings)
    left = len(every) - MOST
    lines = [_command(f) for f in every[: MOST - 1 if left > 0 else MOST]]
    if left > 0:
        lines.append(f"::error title=qguard::{_message(f'and {left + 1} more failures; the log and the report have them all')}")
    return lines


def _command(f: Mapping[str, Any]) -> str:
    place = f"file={_property(f['file'])},line={f['line']}," if f["file"] else ""
    return f"::{f.get('level', 'error')} {place}title={_property(f['title'])}::{_message(f['message'])}"


def _message(text: str) -> str:
    return visible(text, "\r\n").replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
