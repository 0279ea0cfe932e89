"""No exception of another library passes: each becomes a paragraph with the step, the file and the remedy."""

from __future__ import annotations

import ast
import json
import logging
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

import qguard
from qguard.boundary import library_of, step
from qguard.cli import main
from qguard.errors import LibraryProblem, ModelProblem
from tests import families
from tests.processes import gate

TEXTS = ("The ferry is late again.", "A gas meter is read once a year.", "Who waters the plants in August?", "Nobody does.")
LATER, MODELS = "another version of", "qguard models"
# Library → a call of it that throws, a command that makes this call, and what is said: the step, then the remedy
CALLS = {
    "cryptography": (
        "cryptography.hazmat.primitives.serialization.load_pem_public_key",
        "verify FILE --artifact model --require fp32_pass --key own.jsonl", "qguard verify failed in cryptography", LATER,
    ),
    "filelock": (
        "filelock.FileLock.acquire", "quantize --precision bf16 --out OUT", r"making bf16 of model 'tiny' \(.*/model\)", LATER,
    ),
    "gguf": (
        "gguf.GGUFWriter.add_tensor_info", "quantize --precision f16@llamacpp --out OUT", "f16 of .* cannot be made", MODELS,
    ),
    "huggingface_hub": (
        "huggingface_hub.snapshot_download", "models hf:acme/model", "qguard models failed in huggingface_hub", LATER,
    ),
    "nncf": ("nncf.quantize", "quantize --precision int8-static --out OUT", "int8-static of .* cannot be made", MODELS),
    "numpy": ("numpy.partition", "compare --precision fp32 --suite own", "measuring ranking of fp32-tiny-own failed", LATER),
    "onnx": (
        "onnx.load", "diagnose --precision int8-dynamic --artifact broken.onnx",
        "broken.onnx .* is not a whole ONNX", "copy it again",
    ),
    "onnxruntime": (
        "onnxruntime.InferenceSession", "compare --precision fp32",
        "ONNX Runtime .* cannot load model.onnx", "copy or export it again",
    ),
    "openvino": ("openvino.Core", "compare --precision fp32@openvino", "runtime 'openvino' cannot be opened", LATER),
    "platformdirs": ("platformdirs.user_cache_dir", "quantize --precision bf16 --out OUT", "making bf16 of model 'tiny'", LATER),
    "pyarrow": (
        "pyarrow.parquet.ParquetFile", "golden update --suite table --reason x", "reading suite 'table' failed in pyarrow", LATER,
    ),
    "pydantic": ("pydantic.BaseModel.__init__", "golden check", "qguard golden failed in pydantic", LATER),
    "rich": ("rich.console.Console.print", "compare --precision fp32", "qguard compare failed in rich", LATER),
    "safetensors": ("safetensors.numpy.load", "golden check", "golden tiny/.* is damaged", "restore it from version control"),
    "sentence_transformers": (
        "sentence_transformers.SentenceTransformer", "golden update --suite own --reason x --dry-run",
        "sentence-transformers cannot open model 'tiny'", MODELS,
    ),
    "shtab": ("shtab.complete", "--print-completion bash", "qguard failed in shtab", LATER),
    "tokenizers": ("tokenizers.Tokenizer.from_buffer", "compare --precision fp32", "tokenizer.json is damaged", "copy it again"),
    "torch": ("torch.onnx.export", "quantize --precision fp32 --out OUT", "cannot export a model of type", "judge the model in"),
    "torchao": (
        "torchao.quantization.quantize_", "quantize --precision int8@torch --out OUT", "int8@torch of .* cannot be made", MODELS,
    ),
    "transformers": (
        "transformers.AutoModel.from_pretrained", "quantize --precision int8@torch --out OUT",
        "Transformers cannot load", "install the version",
    ),
}  # fmt: skip
# the host, types, and what only computes on arrays of ours; two more throw in a run of pytest below
# what httpx throws is worded by the client of endpoints (test_endpoints), and the server answers for its own (test_serving)
OTHERS = {
    "httpx", "starlette", "uvicorn", "pytest", "ml_dtypes", "markupsafe", "scipy", "threadpoolctl", "jinja2", "hypothesis",
    "packaging", "ray",  # what Ray raises is worded by the fleet (test_fleet)
}  # fmt: skip


STORES = {"faiss", "lancedb", "psycopg", "pymilvus", "qdrant_client", "usearch"}  # tests/test_index_stores.py


def boom(library):
    kind = type("Boom", (Exception,), {"__module__": library})

    def throw(*_, **__):
        raise kind("broken\nsecond line")

    return throw


def replace(patch, library, call):
    """Let one call of a library throw; ``call`` is its dotted name."""
    parts = call.split(".")
    place = import_module(library)
    for i in range(1, len(parts) - 1):
        name = ".".join(parts[: i + 1])
        place = getattr(place, parts[i]) if hasattr(place, parts[i]) else import_module(name)
    patch.setattr(place, parts[-1], boom(library))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("boundary")
    families.write("bert", folder / "model")
    (folder / "own.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    (folder / "judged").mkdir()
    rows = [{"_id": str(i), "text": t} for i, t in enumerate(TEXTS)]
    (folder / "judged" / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:3]))
    (folder / "judged" / "queries.jsonl").write_text(json.dumps(rows[3]) + "\n")
    (folder / "judged" / "qrels.tsv").write_text("3\t2\t1\n")
    (folder / "table.parquet").write_bytes(b"PAR1")
    (folder / "dsse.json").write_text(json.dumps({"payloadType": "x", "payload": "", "signatures": [{"sig": ""}]}))
    (folder / "broken.onnx").write_bytes(b"onnx")
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.models]\ntiny = "./model"\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        '[tool.qguard.suite.table]\npath = "table.parquet"\n[tool.qguard.suite.judged]\npath = "judged"\n'
        '[tool.qguard.robustness]\nmode = "off"\n[tool.qguard.latency]\nmode = "off"\n'
    )
    for suite in ("own", "judged"):
        assert main(["golden", "update", "--config", str(folder), "--suite", suite, "--reason", "first"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QGUARD_CACHE", str(folder / "cache"))
        assert main(["quantize", "--config", str(folder), "--precision", "fp32", "--out", str(folder / "fp32")]) == 0
    return folder


@pytest.mark.parametrize("library", CALLS)
def test_a_call_that_throws(library, project, tmp_path, monkeypatch, capsys):
    call, command, what, remedy = CALLS[library]
    kind = logging.getLoggerClass()
    pytest.importorskip(library)
    logging.setLoggerClass(kind)  # NNCF sets its own
    monkeypatch.chdir(project)
    monkeypatch.setenv("QGUARD_CACHE", str(project / "cache" if command.startswith(("compare", "diagnose")) else tmp_path))
    if library == "platformdirs":
        monkeypatch.delenv("QGUARD_CACHE")
    replace(monkeypatch, library, call)
    words = {"fp32_pass": "fp32 pass", "OUT": str(tmp_path / "out"), "FILE": "dsse.json"}
    args = [words.get(word, word) for word in command.split()]
    assert main(args) in (2, 3)
    said = "".join(capsys.readouterr())
    assert "Traceback" not in said
    (line,) = (x for x in said.splitlines() if re.search(what, x))
    assert "second line" not in said
    assert remedy in line


def test_no_library_is_forgotten():
    """A library that qguard begins to call needs a call that throws here."""
    used = set()
    for file in Path(qguard.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            used.update(name.partition(".")[0] for name in named)
    assert used - sys.stdlib_module_names - {"qguard"} <= set(CALLS) | OTHERS | STORES


def test_under_pytest(project, tmp_path, monkeypatch):
    """A family that cannot be measured and a report that cannot be written: failures in words, and the run goes on."""
    (tmp_path / "conftest.py").write_text(
        "import hypothesis, jinja2\n"
        "class Boom(Exception): __module__ = 'other'\n"
        "def throw(*a, **k): raise Boom('broken')\n"
        "jinja2.Environment.get_template = throw\n"
        "hypothesis.given = throw\n"
    )
    text = (project / "pyproject.toml").read_text().replace("./", f"{project}/").replace('path = "own', f'path = "{project}/own')
    (tmp_path / "pyproject.toml").write_text(
        text.replace('[tool.qguard]\n', f'[tool.qguard]\ngolden = "{project}/golden"\n').replace(
            '[tool.qguard.robustness]\nmode = "off"\n', ""
        )
    )  # fmt: skip
    monkeypatch.setenv("QGUARD_CACHE", str(project / "cache"))
    code, said = gate(tmp_path, "--qguard-robustness=gate", "--qguard-report=out.html", precision="fp32")
    assert code == 1
    assert "NOT MEASURED: measuring robustness of fp32-tiny-own failed in other: Boom: broken" in said
    assert "writing the report out.html failed in other: Boom: broken" in said
    assert "Traceback" not in said
    assert "INTERNALERROR" not in said


def test_a_traceback_is_shown_on_request(project, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(project)
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path))
    monkeypatch.setenv("QGUARD_TRACEBACK", "1")
    replace(monkeypatch, "filelock", "filelock.FileLock.acquire")
    assert main(["quantize", "--precision", "bf16", "--out", str(tmp_path / "out")]) == 3
    said = capsys.readouterr().err
    assert said.index("Traceback (most recent call last)") < said.index("qguard: making bf16")


def test_a_gate_shows_it_as_well(monkeypatch):
    from qguard.plugin.gatekeeper import _spoken

    monkeypatch.setenv("QGUARD_TRACEBACK", "1")
    with pytest.raises(pytest.fail.Exception) as failed, _spoken({"target": {"precision": "int8"}}):
        raise TypeError("no rows")
    said = str(failed.value)
    assert 'raise TypeError("no rows")' in said
    assert said.index("Traceback (most recent call last)") < said.index("NOT MEASURED: judging int8 failed")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'left_pad.core'", name="left_pad.core"), "Install it: pip install left_pad"),
        (MemoryError(), "MemoryError. Free memory"),
        (PermissionError(13, "Permission denied", "x"), "Check that the path exists, may be read and written"),
    ],
)
def test_the_remedy_follows_the_kind_of_error(error, words):
    with pytest.raises(LibraryProblem, match=re.escape(words)), step("reading", "file.x"):
        raise error


def test_qguards_own_errors_and_ends_of_a_pipe_pass():
    for error in (ModelProblem("in words"), BrokenPipeError(), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, step("reading"):
            raise error
        assert raised.value is error


def test_the_library_is_that_of_the_innermost_call():
    with pytest.raises(ValueError, match="Expecting") as raised:
        json.loads("x")
    assert library_of(raised.value) == "tests"
    import safetensors.numpy

    with pytest.raises(Exception, match="header") as raised:
        safetensors.numpy.load(b"short")
    assert library_of(raised.value).startswith("safetensors")
