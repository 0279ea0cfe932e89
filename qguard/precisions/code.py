"""The source that decides an artifact's bytes: a recipe's module and what it imports. Files are read, nothing is run."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

OURS = __name__.partition(".")[0]


def modules(*starts: str) -> dict[str, Path]:
    """The modules that ``starts`` import, directly or not, of their own packages and of qguard, with their files.

    Imports inside functions count, those for type checkers alone do not. ``__init__.py`` of a package of qguard counts where
    a name is taken from it, that of another package also where a module in it is imported. Modules that are imported by a name
    which is made at run time are not found.

    Args:
        starts: Full names, such as ``qguard.precisions.integer``.

    Returns:
        Name → file, themselves included, sorted by name; empty for modules that are not there.
    """
    packages = {OURS, *(name.partition(".")[0] for name in starts)}
    found: dict[str, Path] = {}
    todo = list(starts)
    while todo:
        name = todo.pop()
        if name in found or (file := file_of(name)) is None:
            continue
        found[name] = file
        todo += [n for n in _imported(name, file) if n.partition(".")[0] in packages]
        if name.partition(".")[0] != OURS and "." in name:  # what it does when it is imported, it does before its modules run
            todo.append(name.rpartition(".")[0])
    return dict(sorted(found.items()))


@cache
def code_sha256(*starts: str) -> str:
    """Hash of the names and the source of :func:`modules`."""
    total = hashlib.sha256()
    for name, file in modules(*starts).items():
        total.update(f"{name}\n{hashlib.sha256(_source(file)).hexdigest()}\n".encode())
    return total.hexdigest()


def file_of(name: str) -> Path | None:
    """The file of a module; ``None`` where there is none."""
    spec = _spec(name)
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


@cache
def _spec(name: str) -> ModuleSpec | None:
    """As :func:`importlib.util.find_spec`, which of a module in a package would run the package."""
    package, _, _ = name.rpartition(".")
    if not package:
        return find_spec(name)
    parent = _spec(package)
    if parent is None or parent.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(name, list(parent.submodule_search_locations))


@cache
def _source(file: Path) -> bytes:
    return file.read_bytes()


@cache
def _imported(name: str, file: Path) -> tuple[str, ...]:
    """Full names of the modules that a module imports."""
    if file.suffix != ".py":
        return ()
    package = (name if file.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    found = []
    for node in imports(_source(file).decode(errors="replace")):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        else:
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            found += [inner if file_of(inner := f"{base}.{alias.name}") else base for alias in node.names]
    return tuple(dict.fromkeys(found))


# To parse whole files takes twenty times as long as the rest of the walk, in every run of the gate
_IMPORT = re.compile(
    r"""(?:^|[;:])(?:[ \t]|\\\n)*  # of a statement
    ((?:from\b[\w. \t\\\n]+?)?\bimport\b(?:[ \t]|\\\n)*
    (?:\((?:\#[^\n]*|[^)\#])*\)|(?:[^\n;\#\\]|\\\n)*))  # names in parentheses, or to the end of the line
    """,
    re.MULTILINE | re.VERBOSE,
)
_CHECKED = re.compile(r"^([ \t]*)if (?:\w+\.)?TYPE_CHECKING:[^\n]*\n(?:\1[ \t]+[^\n]*\n|[ \t]*\n)*", re.MULTILINE)


def imports(source: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """The import statements of a module but those under ``if TYPE_CHECKING``; one in a string may be among them."""
    for statement in _IMPORT.findall(_CHECKED.sub("", source.replace("\r\n", "\n"))):
        try:
            (node,) = ast.parse(statement.strip()).body
        except (SyntaxError, ValueError):  # prose
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
