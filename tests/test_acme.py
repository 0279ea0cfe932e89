"""A company's package, ``tests/acme``: six parts, each one file and one entry point, at work in all that qguard does.

``python -m tests.test_acme`` writes the table of docs/extending.md from that package; a test holds the two together.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sys
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

from qguard import parts
from qguard.errors import RegistryProblem
from tests.conftest import ROOT
from tests.processes import python, run_pytest

ACME = Path(__file__).parent / "acme"
PACKAGE = "acme_qguard"
OFF = ("--pyargs", "qguard.gate", "--qguard-latency=off", "--qguard-robustness=off", "--qguard-suite", "sayings")
# group → what the part is called, and the files that it takes
PARTS = {
    "qguard.families": "metric family",
    "qguard.recipes": "recipe of a new width",
    "qguard.runtimes": "runtime that takes texts and has no files, with its recipe",
    "qguard.suite_formats": "suite format",
    "qguard.report_formats": "report format",
    "qguard.faults": "self-test fault",
}
PIECES = [  # file, what is left out of it, and the words that say so
    ("hubs.py", r"    question=.*\n", "does not say what it measures"),
    ("hubs.py", r"    test=.*\n", "no gate test judges it"),
    ("hubs.py", r"    needs=.*\n", "does not say what it needs"),
    ("hubs.py", r"    metrics=.*\n", "it has no metrics"),
    ("hubs.py", r"    bounds=.*\n", "no bound judges it"),
    ("hubs.py", r"    parts=.*\n", "does not say how its values are computed"),
    ("hubs.py", r' unit="[^"]*",', "metric hubs.spearman has no unit"),
    ("hubs.py", r"        description=.*\n", "metric hubs.spearman has no description"),
    ("hubs.py", r"        source=.*\n", "metric hubs.spearman has no source"),
    ("hubs.py", r" higher_is_better=True,", "missing 1 required keyword-only argument: 'higher_is_better'"),
    ("eighths.py", r"    make=.*\n", "make: expected"),
    ("eighths.py", r"    description=.*\n", "description: expected a sentence"),
    ("eighths.py", r"    weights=.*\n", "weights: expected the element type"),
    ("eighths.py", r"    bits=.*\n", "bits: expected"),
    ("eighths.py", r"    least_cosine=.*\n", "least_cosine: expected"),
    ("eighths.py", r"    weight_error=.*\n", "weight_error: expected"),
    ("eighths.py", r"    fp32=.*\n", "fp32: expected"),
    ("eighths.py", r"    bounds=.*\n", "bounds: expected a bound in each accuracy family"),
    ("endpoint.py", r"    open=.*\n", "open: expected"),
    ("endpoint.py", r"    takes=.*\n", "takes: expected"),
    ("endpoint.py", r"    files=.*\n", "files: expected"),
    ("endpoint.py", r"    devices=.*\n", "devices: expected"),
    ("endpoint.py", r"    libraries=.*\n", "libraries: expected"),
    ("endpoint.py", r"    batch=.*\n", "batch: expected"),
    ("endpoint.py", r"    timed=.*\n", "timed: expected"),
    ("endpoint.py", r"    bounds=.*\n", "bounds: expected a bound in each accuracy family"),
    ("fortunes.py", r", __name__", "its module '' has no function rows"),
    ("fortunes.py", r"(?s)def rows.*(?=FORMAT)", "has no function rows"),
    ("table.py", r", render", "does not say what renders it"),
    ("shrunk.py", r"    what=.*\n", "does not say what goes wrong"),
    ("shrunk.py", r"    expected=.*\n", "no part of the gate should catch it"),
    ("shrunk.py", r"    make=make,\n", "does not say how it is made"),
]


def rows() -> list[list[str]]:
    """The table of docs/extending.md: part, files to touch, entry point; counted in the package itself."""
    found = []
    (info,) = ACME.glob("*.dist-info")
    points = PathDistribution(info).entry_points
    for group, name in PARTS.items():
        mine = [p for p in points if p.group == group]
        if group == "qguard.recipes":  # the endpoint's recipe counts with its runtime
            mine = [p for p in mine if "endpoint" not in p.value]
        files = {p.value.partition(":")[0].rpartition(".")[2] + ".py" for p in mine}
        lines = sum(len((ACME / PACKAGE / f).read_text().splitlines()) for f in files)
        also = " and `qguard.recipes`" if group == "qguard.runtimes" else ""
        found.append([name, f"{len(files)} (`{', '.join(sorted(files))}`, {lines} lines)", f"`{group}`{also}"])
    return found


def table() -> str:
    """The rows in Markdown."""
    head = [["part", "files to touch", "entry-point group"], ["---"] * 3]
    return "".join(f"| {' | '.join(row)} |\n" for row in head + rows())


@pytest.fixture(scope="module")
def project(tmp_path_factory, small, int8):
    """A project with a suite in the company's format and its golden, where the package is installed."""
    folder = tmp_path_factory.mktemp("acme")
    shutil.copytree(small, folder, dirs_exist_ok=True)
    texts = [json.loads(line)["text"] for line in (small / "own.jsonl").read_text().splitlines() if '"text"' in line][:60]
    (folder / "sayings.fortunes").write_text("\n%\n".join(t.replace(" ", "\n", 1) for t in texts) + "\n%\n")
    with (folder / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.suite.sayings]\npath = "sayings.fortunes"\n')
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ACME)]), "ACME_MODEL": str(int8.folder), "HF_HUB_OFFLINE": "1"}

    def commands(*lines: list[str]) -> str:
        code = f"from qguard.cli import main\nfor args in {list(lines)!r}:\n    print('CODE', main(args))"
        return python(code, folder=folder, **env)

    out = commands(["golden", "update", "--suite", "sayings", "--reason", "first"])
    assert "CODE 0" in out, out
    return folder, env, commands


@pytest.fixture(scope="module")
def report(project):
    """The gate over both of the company's precisions, written in qguard's format and in the company's."""
    folder, env, _ = project
    reports = ("--qguard-report=r.json", "--qguard-report=r.csv", "--qguard-report=r.html", "--qguard-report=r.md")
    code, out = run_pytest(folder, "--precision", "f8,int8@acme-endpoint", *OFF, *reports, **env)
    assert code == 0, out
    return json.loads((folder / "r.json").read_text()), out


def test_every_part_is_at_work_in_the_gate_and_its_report(project, report):
    folder, _, _ = project
    found, out = report
    assert [(r["precision"], r["runtime"], r["suite"], r["verdict"]) for r in found["runs"]] == [
        ("f8", "torch", "sayings", "pass"), ("int8", "acme-endpoint", "sayings", "pass"),
    ]  # fmt: skip
    for run in found["runs"]:
        assert run["tests"]["test_hubs"] == "pass"
        (hubs,) = [c for c in run["checks"] if c["name"] == "hubs.spearman" and c["slice"] is None]
        assert hubs["bound"]["text"] == ">= 0.6"
        assert 0.6 < hubs["value"] <= 1
        assert hubs["interval"]  # a family over a suite's items gets one for nothing
        assert "hubs.spearman" in run["standard_errors"]
    assert "ok   hubs.spearman" in out
    rows = list(csv.DictReader((folder / "r.csv").open()))
    assert {(r["precision"], r["suite"]) for r in rows} == {("f8", "sayings"), ("int8", "sayings")}
    assert any(r["name"] == "hubs.spearman" and r["outcome"] == "pass" for r in rows)
    for kind in ("html", "md"):
        assert "hubs" in (folder / f"r.{kind}").read_text()


def test_a_gate_on_the_company_s_metric_fails_in_pytest_and_in_compare_alike(project):
    folder, env, commands = project
    strict = folder / "strict.toml"
    gate = '[tool.qguard.gates."int8@acme-endpoint"]\n"hubs.spearman" = ">= 1.1"\n'
    strict.write_text((folder / "pyproject.toml").read_text() + gate)
    code, out = run_pytest(folder, "--precision", "int8@acme-endpoint", *OFF, f"--qguard-config={strict}", **env)
    assert code == 1
    assert "int8@acme-endpoint hubs.spearman 0." in out
    assert "gate >= 1.1" in out
    args = ["compare", "--config", str(strict), "--suite", "sayings", "--precision", "int8@acme-endpoint", "--json", "c.json"]
    commands(args)
    (endpoint,) = json.loads((folder / "c.json").read_text())["rows"]
    assert endpoint["verdict"] == "fail"
    assert "hubs.spearman" in [c["name"] for c in endpoint["failed"]]


@pytest.mark.parametrize("precision", ["int8@acme-endpoint", pytest.param("f8", marks=pytest.mark.long)])
def test_the_self_test_injects_the_company_s_fault_and_its_family_judges(project, precision):
    folder, _, commands = project
    args = ["--suite", "sayings", "--fault", "acme-dimensions-lost", "--repeats", "1", "--jobs", "1", "--json", "s.json"]
    out = commands(["selftest", "--precision", precision, *args])
    assert "CODE 0" in out, out
    results = json.loads((folder / "s.json").read_text())["results"]
    assert [(r["severity"], r["status"]) for r in results] == [("a tenth", "caught"), ("a half", "caught")]
    assert all("hubs.spearman" in r["values"] for r in results), results


def test_accept_holds_the_company_s_metric_from_then_on(project, report):
    folder, _, commands = project
    assert "CODE 0" in commands(["accept", "r.json", "--reason", "agreed"])
    accepted = json.loads((folder / "golden" / "minilm" / "sayings" / "accepted.json").read_text())
    assert {"hubs.spearman"} <= {s["metric"] for s in accepted["scores"]}


@pytest.fixture
def without(tmp_path, monkeypatch):
    """Install the package into this process, with a piece of one of its files left out."""

    def install(name: str, piece: str) -> Path:
        site = tmp_path / "site"
        shutil.copytree(ACME, site)
        file = site / PACKAGE / name
        text, count = re.subn(piece, "", file.read_text())
        assert count == 1 or name == "endpoint.py", piece
        file.write_text(text)
        monkeypatch.syspath_prepend(str(site))
        _forget()
        return site

    yield install
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    for group in parts.HOMES:
        parts.registry(group).forget()
    for name in [n for n in sys.modules if n.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


@pytest.mark.parametrize(("name", "piece", "words"), PIECES)
def test_each_required_piece_that_is_left_out_is_an_error_at_load(without, name, piece, words):
    without(name, piece)
    with pytest.raises(RegistryProblem) as e:
        parts.check()
    assert words in str(e.value)
    assert "acme-qguard" in str(e.value)


@pytest.mark.parametrize("name", sorted({name for name, _, _ in PIECES}))
def test_no_run_is_green_while_a_part_is_not_whole(without, small, name):
    """Whatever is judged: what a company registered and cannot be used is said before anything runs."""
    piece = next(p for n, p, _ in PIECES if n == name)
    site = without(name, piece)
    path = os.pathsep.join([str(ROOT), str(site)])
    code, out = run_pytest(small, "--pyargs", "qguard.gate", "--precision", "int8", PYTHONPATH=path)
    assert code == 4, out
    assert "acme-qguard" in out
    assert "Traceback" not in out


def test_each_group_has_its_registry():
    assert PARTS.keys() == parts.HOMES.keys()
    for group in parts.HOMES:
        assert parts.registry(group).group == group


def test_the_table_of_the_docs_is_that_of_this_package():
    assert table() in (ROOT / "docs" / "extending.md").read_text(encoding="utf-8"), "write it: python -m tests.test_acme"


if __name__ == "__main__":
    page = ROOT / "docs" / "extending.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r"\| part \| files to touch \|.*?\n(?=\n)", table(), text, flags=re.DOTALL), encoding="utf-8")
