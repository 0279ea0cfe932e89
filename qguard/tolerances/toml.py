"""Writes the gates of one precision into a TOML file, and leaves everything else as it is."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qguard.errors import UsageProblem
from qguard.files import write_atomic


def header(keys: Sequence[str]) -> str:
    """``[tool.qguard.gates."int8@onnx"]``."""
    return "[" + ".".join(k if re.fullmatch(r"[A-Za-z0-9_-]+", k) else json.dumps(k) for k in keys) + "]"


def line(key: str, value: str, comment: str = "") -> str:
    """``"ranking.overlap@10" = ">= 0.96"  # comment``."""
    return f"{json.dumps(key)} = {json.dumps(value)}" + (f"  # {comment}" if comment else "")


def write_table(file: Path, name: str, values: Mapping[str, tuple[str, str]]) -> None:
    """Set keys of ``[tool.qguard.gates.NAME]``, in place or in a new table at the end.

    Args:
        file: A ``pyproject.toml``, or a file with qguard's tables at its top; made where it does not exist.
        name: The precision's.
        values: Key → bound and comment.

    Raises:
        UsageProblem: when the file holds the table in a form that cannot be edited line by line; it is then untouched.
    """
    try:
        text = file.read_bytes().decode("utf-8") if file.exists() else ""
        old = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageProblem(f"{file.name} cannot be read: {e}") from e
    top = ("tool", "qguard") if "tool" in old or file.name == "pyproject.toml" else ()
    keys = (*top, "gates", name)
    new = put(text, keys, values)
    wanted = copy.deepcopy(old)
    table = wanted
    for key in keys:
        table = table.setdefault(key, {}) if isinstance(table, dict) else {}
    table.update({key: bound for key, (bound, _) in values.items()})
    if _parsed(new) != wanted:
        raise UsageProblem(
            f"{file.name} holds {header(keys)} in a form that qguard does not edit; nothing was written, paste the lines above"
        )
    try:
        write_atomic(file.resolve(), new.encode())
    except OSError as e:
        raise UsageProblem(f"{file.name} cannot be written ({e.strerror or e}); the old one is untouched") from e


def put(text: str, keys: Sequence[str], values: Mapping[str, tuple[str, str]]) -> str:
    """The TOML text with the table's lines replaced or added; to be proved by parsing it."""
    end_of_line = "\r" if "\r\n" in text else ""
    lines = text.removesuffix("\n").split("\n") if text else []
    start = next((i for i, row in enumerate(lines) if row.lstrip().startswith("[") and _holds(row, keys)), None)
    if start is None:
        lines += ([end_of_line] if lines and lines[-1].strip() else []) + [header(keys) + end_of_line]
        start = len(lines) - 1
    end = next((i for i in range(start + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
    left = dict(values)
    for i in range(start + 1, end):
        row = _parsed(lines[i])
        for key in [k for k in left if row is not None and list(row) == [k]]:
            lines[i] = line(key, *left.pop(key)) + end_of_line
    while end > start + 1 and not lines[end - 1].strip():
        end -= 1  # before the blank lines that part it from the next table
    lines[end:end] = [line(key, *value) + end_of_line for key, value in left.items()]
    return "\n".join(lines) + "\n"


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _holds(row: str, keys: Sequence[str]) -> bool:
    """Whether a line is the header of exactly this table."""
    wanted: dict[str, Any] = {}
    for key in reversed(keys):
        wanted = {key: wanted}
    return _parsed(row) == wanted
