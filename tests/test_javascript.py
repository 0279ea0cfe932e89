"""Transformers.js in Node.js and in Chromium: which file it loads, which tokens it reads, and what is said where it is absent."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from qguard.config import load_config
from qguard.encoders.javascript import BrowserRuntime, NodeRuntime, how
from qguard.encoders.whole import Whole
from qguard.errors import ArtifactProblem, MeasurementProblem
from qguard.javascript import layout
from qguard.javascript.browser import BrowserWorker
from qguard.javascript.packages import PINNED
from qguard.javascript.settings import JavaScript
from qguard.javascript.site import Site
from qguard.javascript.worker import SCRIPTS, NodeWorker
from qguard.judging.session import Session, Target
from qguard.models.modules import Dense, Normalize, Pooling
from qguard.precisions import parse_precision
from tests.javascript import need_modules, pinned, without_browser, without_node
from tests.processes import gate, qguard

needs_node = pytest.mark.skipif(bool(without_node()), reason=without_node())
needs_browser = pytest.mark.skipif(bool(without_browser()), reason=without_browser())
RUNTIMES = {"node": (NodeRuntime, needs_node), "browser": (BrowserRuntime, needs_browser)}
BOTH = [pytest.param(name, marks=mark) for name, (_, mark) in RUNTIMES.items()]
LONG = "a very long text " * 200


@pytest.fixture(scope="module")
def settings() -> JavaScript:
    return JavaScript(need_modules())


@pytest.fixture(scope="module")
def project(small, settings, tmp_path_factory) -> Path:
    """The small project, with the tests' own npm packages, and long texts closed."""
    folder = tmp_path_factory.mktemp("javascript")
    shutil.copytree(small, folder, dirs_exist_ok=True)
    with (folder / "pyproject.toml").open("a") as file:
        file.write(f"[tool.qguard.javascript]\nmodules = {str(settings.modules)!r}\nclose = true\n")
    return folder


@pytest.fixture(scope="module")
def session(project) -> Session:
    return Session(load_config(project))


@pytest.fixture(scope="module")
def made(minilm) -> dict[str, Whole]:
    """Artifacts for Transformers.js by precision."""
    found = {}
    for name in ("fp32", "int8"):
        a = parse_precision(f"{name}@node").build(minilm)
        assert a.file is not None
        found[name] = Whole(a.file, a.folder, a.folder, a.pipeline, a.feeding)
    return found


def test_the_packages_of_the_tests_are_those_that_messages_name():
    assert pinned().items() <= PINNED.items()


@pytest.mark.parametrize("runtime", BOTH)
def test_the_gate_judges_the_file_in_transformers_js(session, runtime):
    target = Target(parse_precision(f"int8@{runtime}"), "minilm", "own")
    for family in ("artifact", "tokenizer", "embedding", "ranking"):
        checks = session.checks(target, family)
        assert [c.label for c in checks if c.outcome == "fail"] == []
        assert any(c.outcome == "pass" for c in checks), family
    here = session.embeddings(Target(parse_precision("int8"), "minilm", "own"))
    # WebAssembly's kernels give other bits than those of the CPU
    assert np.abs(session.embeddings(target) - here).max() < (1e-6 if runtime == "node" else 0.02)
    from qguard.judging.judged import judged

    parts = {p.name: p.value for p in judged(session, target)}
    assert parts["file"] == "onnx/model_int8.onnx"
    assert f"Transformers.js {pinned()['@huggingface/transformers']}" in parts["versions"]
    assert {"node": "Node.js 2", "browser": "Chrome 1"}[runtime] in parts["versions"]


def test_the_lookups_for_webassembly_give_the_same_bits(made, int8, minilm, token_ids):
    """ONNX Runtime's own operator for 8-bit tables is not there on WebAssembly."""
    from qguard.encoders import open_encoder

    files = int8.file, made["int8"].file
    operators = [{n.op_type for n in onnx.load(f, load_external_data=False).graph.node} for f in files]
    assert ["GatherBlockQuantized" in found for found in operators] == [True, False]
    here, there = (open_encoder("onnx", minilm.folder, minilm.pipeline, "int8", f).encode_ids(token_ids) for f in files)
    assert np.array_equal(here, there)


@needs_node
@pytest.mark.parametrize(("precision", "saturates", "extra"), [
    ("int8", True, {"session": {"x64quantprecision": "1"}}), ("int8", False, None), ("fp32", True, None),
])  # fmt: skip
def test_node_runs_a_file_as_it_declares_where_products_saturate(made, settings, monkeypatch, precision, saturates, extra):
    """On x86 without VNNI. The test above compares the vectors, and such a CPU would give others."""
    asked, ask = [], NodeWorker.ask
    monkeypatch.setattr("qguard.encoders.javascript.saturates", lambda: saturates)
    monkeypatch.setattr(NodeWorker, "ask", lambda self, task, **how: asked.append(how) or ask(self, task, **how))
    whole = made[precision]
    NodeRuntime(whole.file, precision, 1, whole, settings).close()
    (options,) = [how["options"] for how in asked if "options" in how]
    assert options["session_options"].get("extra") == extra


@needs_node
def test_fp32_is_that_of_python_to_the_last_bits(session):
    target = Target(parse_precision("fp32@node"), "minilm", "own")
    assert np.abs(session.embeddings(target) - session.golden("minilm", "own").vectors).max() < 1e-6


@pytest.mark.parametrize("runtime", BOTH)
def test_an_unknown_dtype_cannot_pass_for_another_file(made, settings, runtime, monkeypatch):
    """Transformers.js takes another file for a dtype that it does not know; here there is none."""
    monkeypatch.setattr(layout, "named", lambda _: ("model", "INT8"))
    whole = made["int8"]
    with pytest.raises(MeasurementProblem, match=r"model.*onnx"):
        RUNTIMES[runtime][0](whole.file, "int8", None, whole, settings)


@pytest.mark.parametrize("runtime", BOTH)
def test_another_file_than_the_judged_one_is_told_by_its_hash(made, settings, runtime, monkeypatch):
    """With every file of a model in its folder, as on the hub, the wrong dtype is loaded without a word."""
    whole, right = made["int8"], layout.lay_out

    def with_all(folder: Path, *rest: object) -> None:
        right(folder, *rest)
        for name in ("model.onnx", "model_quantized.onnx"):  # the defaults of Node.js and of browsers
            shutil.copyfile(made["fp32"].file, folder / layout.SUBFOLDER / name)

    monkeypatch.setattr(layout, "lay_out", with_all)
    monkeypatch.setattr(layout, "named", lambda _: ("model", "INT8"))
    loaded = {"node": "model.onnx", "browser": "model_quantized.onnx"}[runtime]
    with pytest.raises(ArtifactProblem, match=rf"asked for model_int8.onnx .* and loaded {loaded}"):
        RUNTIMES[runtime][0](whole.file, "int8", None, whole, settings)


@needs_node
def test_texts_that_are_cut_lose_their_closing_token_and_get_it_back(made, settings, minilm):
    whole = made["fp32"]
    texts = ["a short one", LONG]
    from qguard.encoders.tokenizer import TextTokenizer

    want = TextTokenizer.open(minilm.root, minilm.pipeline)(texts)
    runtime = NodeRuntime(whole.file, "fp32", None, whole, settings)
    short, long = runtime.token_ids(texts)
    assert short == want[0]
    assert (len(long), long[:-1]) == (256, want[1][:-1])
    assert long[-1] != want[1][-1]
    closing = NodeRuntime(whole.file, "fp32", None, whole, replace(settings, close=True))
    assert closing.token_ids(texts) == want
    found = closing(texts, [None, None])
    from qguard.encoders import open_encoder

    here = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", whole.file).encode(texts)
    assert np.abs(found - here).max() < 1e-6
    assert np.abs(runtime(texts, [None, None]) - here).max(1)[1] > 1e-3


@needs_node
def test_other_token_ids_fail_the_gate_in_words(project, session):
    """The suite has texts of more than 256 tokens; the project's other runs say that they are closed."""
    plain = Session(
        session.config.model_copy(update={"javascript": session.config.javascript.model_copy(update={"close": False})})
    )
    (check,) = plain.checks(Target(parse_precision("fp32@node"), "minilm", "own"), "tokenizer")
    assert (check.name, check.outcome) == ("tokenizer.mismatches", "fail")
    assert check.value > 0
    assert "close = true in [tool.qguard.javascript]" in check.worst[0]
    assert re.match(r"256 tokens, the golden 256; from position 255 \[\d+\], the golden \[102\]", check.worst[1])


@needs_node
def test_a_folder_for_transformers_js_is_written_and_judged(project, tmp_path):
    code, out = qguard(project, "quantize", "--precision", "int8@node", "--out", str(tmp_path / "out"))
    assert code == 0, out
    names = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert {"onnx/model_int8.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"} <= names
    assert [n for n in names if n.endswith(".onnx")] == ["onnx/model_int8.onnx"]
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["model_max_length"] == 256
    code, out = gate(project, f"--artifact={tmp_path / 'out'}", "--qguard-report=r.json", precision="int8@node")
    assert code == 0, out
    (run,) = json.loads((project / "r.json").read_text())["runs"]
    assert (run["verdict"], run["runtime"]) == ("pass", "node")
    assert run["tests"]["test_tokenizer"] == "pass"


@pytest.mark.parametrize(
    ("runtime", "settings", "words"),
    [
        ("node", JavaScript(node="no-such-node"), "expected Node.js 20 or newer, found no program 'no-such-node'"),
        pytest.param("node", JavaScript(), "npm package @huggingface/transformers is not installed", marks=needs_node),
        ("browser", JavaScript(browser="no-such-browser"), "expected Chromium or Chrome, found no program no-such-browser"),
        pytest.param("browser", JavaScript(), "npm package @huggingface/transformers is not installed", marks=needs_browser),
    ],
)
def test_what_is_absent_is_told_in_words(made, runtime, settings, words):
    whole, nowhere = made["fp32"], replace(settings, modules=Path("no-such-folder", "node_modules"))
    with pytest.raises(MeasurementProblem, match=words):
        RUNTIMES[runtime][0](whole.file, "fp32", None, whole, nowhere)


def test_what_is_absent_is_not_measured_and_never_green(small, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(small, folder)
    with (folder / "pyproject.toml").open("a") as file:
        file.write('[tool.qguard.javascript]\nnode = "no-such-node"\n')
    code, out = gate(folder, "--qguard-report=r.json", precision="fp32@node")
    assert code == 1
    assert "NOT MEASURED" in out
    assert "Traceback" not in out
    (run,) = json.loads((folder / "r.json").read_text())["runs"]
    assert run["verdict"] == "unmeasured"
    assert "found no program 'no-such-node'" in run["errors"][0]


def test_files_are_named_as_transformers_js_names_them():
    assert {d: layout.file_name(d) for d in ("fp32", "q8", "int8", "q4f16")} == {
        "fp32": "model.onnx", "q8": "model_quantized.onnx", "int8": "model_int8.onnx", "q4f16": "model_q4f16.onnx",
    }  # fmt: skip
    for dtype in layout.SUFFIXES:
        assert layout.named(layout.file_name(dtype)) == ("model", dtype)
    assert layout.named("model_O3.onnx") == ("model_O3", "fp32")
    assert layout.named("model_qint8_avx512_vnni.onnx") == ("model_qint8_avx512_vnni", "fp32")
    assert layout.named("_fp16.onnx") == ("_fp16", "fp32")


def test_every_dtype_of_the_installed_package_is_known():
    source = need_modules() / "@huggingface" / "transformers" / "src" / "utils" / "dtypes.js"
    table = re.search(r"DEFAULT_DTYPE_SUFFIX_MAPPING = Object.freeze\(\{(.*?)\}\)", source.read_text(), re.DOTALL)
    assert table
    assert dict(re.findall(r"DATA_TYPES\.(\w+)\]: '(\w*)'", table[1])) == layout.SUFFIXES


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head": (Pooling(modes=("max",)), Normalize("2"))}, "pools by max, and Transformers.js by mean, cls, lasttoken alone"),
        ({"head": (Pooling(modes=("mean", "cls")),)}, "pools by mean\\+cls"),
        ({"head": (Pooling(), Dense("2_Dense"), Normalize("3"))}, "has Dense behind its network"),
        ({"head": (Pooling(include_prompt=False),), "prompts": {"query": "q: "}}, "treats queries and documents alike"),
        ({"kind": "sparse"}, "does not embed with a model of kind sparse"),
        ({"first": "StaticEmbedding"}, "does not embed with a static model"),
    ],
)
def test_what_transformers_js_does_not_compute_is_refused_in_words(made, change, words):
    whole = made["fp32"]
    with pytest.raises(MeasurementProblem, match=words):
        how(replace(whole, pipeline=replace(whole.pipeline, **change)))


def test_pooling_normalization_and_dimensions_are_written_as_a_user_writes_them(made):
    whole = made["fp32"]
    assert how(whole) == {"pooling": "mean", "normalize": True}
    last = replace(whole.pipeline, head=(Pooling(modes=("lasttoken",)),), truncate_dim=64)
    assert how(replace(whole, pipeline=last)) == {"pooling": "last_token", "normalize": False, "dims": 64}


@needs_node
def test_finished_vectors_are_read_by_their_name(made, settings, minilm, tmp_path):
    """A file with its pooling inside: the pipeline of Transformers.js does not know its output."""
    from tests.test_head_in_file import with_head

    source = made["fp32"]
    file = with_head(source.file, tmp_path / "model.onnx", "mean", "normalize", tokens=False)
    whole = replace(source, file=file)
    assert how(whole) == {"output": "sentence_embedding", "normalize": True}
    texts = ["one text", "another text that is longer"]
    found, want = (NodeRuntime(w.file, "fp32", None, w, settings)(texts, [None] * 2) for w in (whole, source))
    assert np.abs(found - want).max() < 1e-6


def test_a_site_serves_its_own_browser_alone(tmp_path):
    from http.client import HTTPConnection
    from urllib.parse import urlsplit

    (tmp_path / "a.json").write_text("{}")
    site = Site({"model/a.json": tmp_path / "a.json"})
    url = urlsplit(site.url)

    def asked(path: str, host: str = url.netloc, method: str = "GET", body: bytes | None = None) -> int:
        connection = HTTPConnection(url.netloc, timeout=10)
        connection.request(method, path, body, {"Host": host})
        with connection.getresponse() as response:
            response.read()
            assert method == "POST" or response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            connection.close()
            return response.status

    try:
        assert asked(f"{url.path}model/a.json") == 200
        assert asked("/model/a.json") == 404  # without the secret
        assert asked(f"{url.path}model/a.json", host="rebound.example") == 404
        assert asked(f"{url.path}model/../model/a.json") == 404
        assert asked(f"{url.path}model/b.json") == 404
        assert asked(f"{url.path}answer", method="POST", body=b"short") == 404
        assert asked("/answer", method="POST", body=b"x" * 100) == 404
        assert site.answer(0) is None
        assert list(site.served) == ["model/a.json"]
        assert site.refused == ["model/../model/a.json", "model/b.json"]
    finally:
        site.close()


@needs_browser
def test_a_page_reaches_nothing_but_its_site_and_ends_with_its_worker(tmp_path):
    script = tmp_path / "page.mjs"
    script.write_text((SCRIPTS / "page.mjs").read_text().replace(
        "const tasks = {", "const tasks = {\n  reach: async ({ url }) => ({ status: (await fetch(url)).status }),"
    ))  # fmt: skip
    other = Site({})
    try:
        with BrowserWorker({"page.mjs": script}) as worker:
            guard = worker._process
            for url in ("https://example.com/", other.url):  # another port is another origin
                with pytest.raises(MeasurementProblem, match="Failed to fetch"):
                    worker.ask("reach", url=url)
            assert not other.refused
        assert guard.poll() is not None
        with pytest.raises(MeasurementProblem, match="the page in the browser ended"):
            worker.ask("hello")
    finally:
        other.close()
