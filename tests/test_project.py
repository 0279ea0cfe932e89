"""The project's own files: one source of the version, a changelog in its form, issue forms that GitHub accepts."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

import qguard
from tests.conftest import ROOT

CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"


def test_the_version_has_one_source():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    source = (ROOT / project["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    assert re.findall(r'^__version__ = "(.+)"$', source, re.MULTILINE) == [qguard.__version__]


def test_the_changelog_keeps_its_form():
    """https://keepachangelog.com/en/1.1.0: newest first, dated, and only the six kinds of changes."""
    versions = re.findall(r"^## (.+)$", CHANGELOG, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    parsed = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)", v) for v in versions[1:]]
    assert all(parsed)
    order = [(*map(int, m.groups()[:3]), m[4]) for m in parsed if m]
    assert order == sorted(order, reverse=True)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", CHANGELOG, re.MULTILINE)) <= kinds


def test_the_version_has_its_section_in_the_changelog():
    assert f"\n## [{qguard.__version__}] - " in CHANGELOG


@pytest.mark.parametrize(
    ("names", "schema"),
    [(["config.yml"], "issue-config"), (["bug.yml", "feature.yml", "wrong-verdict.yml"], "issue-forms")],
)
def test_issue_forms_are_valid_for_github(names, schema):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.github-{schema}"]
    done = subprocess.run([*command, *(str(TEMPLATES / n) for n in names)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
