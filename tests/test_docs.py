"""README and docs: their commands and options exist, their links lead somewhere, the reference is the code's, the site builds.

That their commands and snippets run is in test_snippets.py.
"""

from __future__ import annotations

import argparse
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from qguard.cli import parser
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(p.relative_to(ROOT)) for p in PAGES]
OURS = re.compile(r"--(?:qguard-[\w-]+|golden-[\w-]+|baseline-[\w-]+|precision|artifact)\b")


def code(text: str) -> list[str]:
    """Lines of code blocks, and code within lines."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in fenced for line in block.splitlines()]
    lines += [line.strip() for line in rest.splitlines() if line.startswith("    ")]
    return lines + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", rest)


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
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = [t.partition("#")[0] for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:|#", t)]
    assert [t for t in targets if not (page.parent / t).exists()] == []
    scripts = {s for line in code(text) for s in re.findall(r"\b(?:benchmarks|tests)/\w+\.py\b", line)}
    assert [s for s in scripts if not (ROOT / s).exists()] == []


def test_the_reference_is_written_from_the_code():
    """``python docs/generate.py`` mends it."""
    made = runpy.run_path(str(ROOT / "docs" / "generate.py"))["pages"]()
    stored = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "reference").iterdir()}
    assert made == stored


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # of mkdocs-material's own future, not of these pages
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if line and not line.startswith("INFO ")]
    assert (done.returncode, said) == (0, [])
    return out


def test_the_site_holds_every_page_and_asks_nobody_for_anything(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / name).is_file()
        assert f'href="{name}"' in index or name.name == "index.html"
        html = (site / name).read_text(encoding="utf-8")
        fetched = re.findall(
            r"<(?:script|img|iframe|source)[^>]+src=[\"']?(https?:|//)|<link[^>]+href=[\"']?(?:https?:|//)", html
        )
        assert fetched == []
    styles = [p.read_text(encoding="utf-8") for p in site.rglob("*.css")]
    assert styles
    assert not any(re.search(r"url\([\"']?(https?:|//)|@import", s) for s in styles)
