"""README and docs: their commands and options exist, their configuration loads, their links lead somewhere."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path

import pytest

from qguard.cli import parser
from qguard.config import load_config
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(p.relative_to(ROOT)) for p in PAGES]
OURS = re.compile(r"--(?:qguard-[\w-]+|golden-[\w-]+|baseline-[\w-]+|precision|artifact)\b")


def code(text: str) -> list[str]:
    """Lines of code blocks, and code within lines."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    return lines + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", rest)


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def actions(of: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser."""
    found = [a.choices for a in of._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def unknown(line: str) -> list[str]:
    """What a ``qguard …`` line says that the command does not know."""
    line = re.split(r"\s{2,}|[|;&]", line)[0]  # a remark follows after blanks
    words = line.split()[1:]
    at = parser()
    while words and not words[0].startswith(("-", "[")) and actions(at):
        if words[0].strip(",.|") not in actions(at):
            return [words[0]]
        at = actions(at)[words.pop(0).strip(",.|")]
    known = {o for a in at._actions for o in a.option_strings}
    return [o for o in re.findall(r"(?<![\w-])--[a-z][\w-]*", line) if o not in known]


@pytest.fixture(scope="module")
def known_to_pytest(request) -> set[str]:
    groups = request.config._parser._groups
    return {name for group in groups for option in group.options for name in option.names()}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_options_exist(page, known_to_pytest):
    lines = code(page.read_text(encoding="utf-8"))
    wrong = {line: bad for line in lines if re.match(r"qguard [a-z]", line) and (bad := unknown(line))}
    assert wrong == {}
    asked = {o for line in lines if not line.startswith(("qguard ", "python ")) for o in OURS.findall(line)}
    # of the commands, named on their own
    own = {o for command in actions(parser()).values() for a in command._actions for o in a.option_strings}
    assert asked - known_to_pytest - own <= {"--golden-update"}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_configuration_loads(page, tmp_path):
    for number, block in enumerate(blocks(page, "toml")):
        tomllib.loads(block)
        if "[tool.qguard" in block:
            folder = tmp_path / str(number)
            (folder / "eval" / "hard").mkdir(parents=True)
            for file in re.findall(r'"(eval/[\w.]+\.\w+)"', block):
                (folder / file).touch()
            (folder / "pyproject.toml").write_text(block, encoding="utf-8")
            assert load_config(folder)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_compiles(page):
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", t)]
    assert [t for t in targets if not (page.parent / t).exists()] == []
    scripts = {s for line in code(text) for s in re.findall(r"\b(?:benchmarks|tests)/\w+\.py\b", line)}
    assert [s for s in scripts if not (ROOT / s).exists()] == []
