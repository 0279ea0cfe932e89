"""Recipes: the registry, those of another package, and what decides the key of an artifact."""

from __future__ import annotations

import ast
import asyncio
import email
import importlib
import json
import shutil
import sys
import unittest
from dataclasses import replace
from pathlib import Path

import pytest

import qguard
from qguard.artifacts.layers import LOOKUP, Layer
from qguard.attest.policy import gates_in_force
from qguard.cli import main
from qguard.config import load_config
from qguard.errors import ArtifactProblem, RegistryProblem, UsageProblem
from qguard.gates import gates_for
from qguard.judging.artifact import _as_promised, _bytes
from qguard.judging.cause import too_far
from qguard.judging.session import Session
from qguard.precisions import RECIPES, Precision, code, known, parse_precision
from qguard.precisions.code import imports, modules
from tests import families
from tests.conftest import ROOT
from tests.processes import python, run_pytest

FIELDS = {
    "make": '"acme.recipes:f8"',
    "description": '"Weights of multiplications in 8-bit floats."',
    "weights": '"F8_E4M3"',
    "bits": "8",
    "least_cosine": "0.95",
    "weight_error": "0.05",
    "fp32": '"fp32@torch"',
    "excluded": '("*embeddings*",)',
    "bounds": '{"embedding.cosine_mean": ">= 0.99", "similarity.max_error": "<= 0.1", "ranking.overlap@10": ">= 0.8"}',
}
CODE = """
from qguard.models.model import weight_files
from qguard.precisions import Recipe

from .floats import eight


def f8(model, folder):
    from safetensors.torch import load_file, save_file

    for source in weight_files(model.root):
        save_file(eight(load_file(source)), folder / model.pipeline.transformer / source.name, metadata={"format": "pt"})


RECIPE = Recipe("f8", RUNTIME, FIELDS)
"""
FLOATS = """
def eight(tensors):
    import torch

    multiplied = [n for n, t in tensors.items() if t.ndim == 2 and "embeddings" not in n]
    return tensors | {n: tensors[n].to(torch.float8_e4m3fn) for n in multiplied}
"""


def install(folder: Path, runtime: str = "torch", **fields: str) -> Path:
    """The package ``acme``, as an installer leaves it; fields of its recipe as they are written, an empty one left out."""
    package, info = folder / "acme", folder / "acme-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    written = ", ".join(f"{name}={value}" for name, value in (FIELDS | fields).items() if value)
    (package / "__init__.py").write_text("")
    (package / "recipes.py").write_text(CODE.replace("FIELDS", written).replace("RUNTIME", repr(runtime)))
    (package / "floats.py").write_text(FLOATS)
    (package / "unused.py").write_text("")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[qguard.recipes]\nf8 = acme.recipes:RECIPE\n")
    return folder


def forget() -> None:
    """Read entry points and sources anew."""
    RECIPES.forget()
    for kept in (code.code_sha256, code._spec, code._source, code._imported):
        kept.cache_clear()
    for name in [n for n in sys.modules if n.partition(".")[0] == "acme"]:
        del sys.modules[name]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install ``acme`` into this process; see :func:`install`."""

    def into(**fields):
        monkeypatch.syspath_prepend(str(install(tmp_path / "site", **fields)))
        forget()
        return tmp_path / "site" / "acme"

    yield into
    monkeypatch.undo()
    forget()


def test_a_precision_of_another_package_is_judged(small, tmp_path):
    site = str(install(tmp_path))
    options = ("--qguard-latency=off", "--qguard-robustness=off", "--pyargs", "qguard.gate")
    returned, text = run_pytest(small, "--precision", "f8", *options, PYTHONPATH=f"{ROOT}:{site}")
    assert (returned, "6 passed" in text) == (0, True), text


@pytest.mark.long
def test_a_precision_of_another_package_has_every_part(installed, small, tmp_path, monkeypatch, capsys):
    installed()
    precision = parse_precision("f8")
    assert (str(precision), str(replace(precision, vectors="int8"))) == ("f8", "f8+int8")
    assert parse_precision("f8@torch") == precision
    assert [f"{g.key} {g.bound}" for g in gates_for(precision, {})] == [
        "embedding.cosine_mean >= 0.99", "similarity.max_error <= 0.1", "ranking.overlap@10 >= 0.8"
    ]  # fmt: skip
    assert "f8" in known()
    harness = Session(load_config(small))
    (target,) = harness.targets([precision])
    assert set(gates_in_force(harness, precision, "minilm")) >= {"artifact.quantized_ops", "ranking.overlap@10"}
    assert too_far(harness.comparison(target), precision) is None
    monkeypatch.chdir(small)
    assert main(["quantize", "--precision", "f8", "--out", str(tmp_path / "out")]) == 0
    assert "100% of the multiplications with weights are in the promised precision" in capsys.readouterr().out
    monkeypatch.setattr("qguard.judging.compare.SECONDS", 0.05)
    assert main(["compare", "--precision", "f8"]) == 0
    assert "f8" in capsys.readouterr().out


@pytest.mark.long
def test_init_derives_the_gates_of_a_precision_of_another_package(installed, tmp_path, monkeypatch, capsys):
    installed()
    families.write("bert", tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    assert main(["init", "./tiny", "--precision", "f8"]) == 0, capsys.readouterr()
    written = (tmp_path / "pyproject.toml").read_text()
    assert 'precisions = ["f8"]' in written
    assert "[tool.qguard.gates.f8]" in written


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"make": ""}, "make: expected .*, found ''"),
        ({"make": '"acme.recipes.f8"'}, 'make: expected "module:function", or "not built" where'),
        ({"make": '"acme.elsewhere:f8"'}, "make: there is no module acme.elsewhere"),
        ({"description": ""}, "description: expected a sentence"),
        ({"weights": ""}, "weights: expected the element type"),
        ({"bits": ""}, "bits: expected the bits of one weight, because qguard does not know weights = 'F8_E4M3'"),
        ({"least_cosine": ""}, "least_cosine: expected the smallest mean cosine"),
        ({"least_cosine": "95"}, "least_cosine: expected the smallest mean cosine"),
        ({"weight_error": ""}, "weight_error: expected the largest relative error"),
        ({"fp32": ""}, "fp32: expected the name of the recipe that makes fp32 for this runtime, such as fp32@torch"),
        ({"fp32": '"fp32@acme"'}, "'f8@torch' .*fp32: expected a recipe with weights F32, found 'fp32@acme'"),
        ({"fp32": '"int8@onnx"'}, "fp32: expected a recipe with weights F32, found 'int8@onnx'; known: fp32@onnx"),
        ({"fp32": '"fp32@onnx"'}, "fp32: expected fp32@torch, which fp32@torch has, found fp32@onnx"),
        ({"bounds": ""}, "bounds: expected a bound in each accuracy family, found none in embedding, similarity, ranking"),
        ({"bounds": '{"embedding.cosine_min": ">= 0.9"}'}, "found none in similarity, ranking"),
        ({"bounds": FIELDS["bounds"].replace("mean", "meen")}, "bounds: unknown gate 'embedding.cosine_meen'; did you mean"),
        ({"bounds": FIELDS["bounds"].replace(">= 0.8", "0.8")}, "bounds: gate ranking.overlap@10: expected a bound such as"),
        ({"speedup": '"1.2"'}, "bounds: gate latency.speedup: expected a bound such as"),
        (
            {"runtime": "tensorrt"},
            "runtime: expected one of onnx, openvino, torch, onnx-cuda, endpoint, node, browser, llamacpp, found 'tensorrt'",
        ),
    ],
)  # fmt: skip
def test_a_record_that_lacks_something_is_an_error_when_the_registry_is_read(installed, fields, message):
    installed(**fields)
    for _ in range(2):  # and again when it is asked again
        with pytest.raises(RegistryProblem, match=message):
            parse_precision("int8")


def test_an_incomplete_record_fails_the_run(small, tmp_path):
    site = str(install(tmp_path, bounds=""))
    returned, text = run_pytest(small, "--precision", "int8", "--pyargs", "qguard.gate", PYTHONPATH=f"{ROOT}:{site}")
    assert returned == 4, text
    assert "ERROR: recipe 'f8@torch' of acme is not complete: bounds: expected a bound in each accuracy family" in text


def test_a_function_that_is_not_there_is_told(installed, minilm, tmp_path):
    installed(make='"acme.recipes:f9"')
    with pytest.raises(ArtifactProblem, match="f8 of model 'minilm' cannot be made here: AttributeError"):
        parse_precision("f8").fill(minilm, tmp_path)


def test_what_is_not_built_is_judged_by_its_files_alone(installed, minilm):
    installed(make='"not built"')
    with pytest.raises(UsageProblem, match="f8 is not built by qguard; give its files: pytest --precision f8 --artifact=PATH"):
        parse_precision("f8").build(minilm)


def test_an_unregistered_precision_has_a_name_and_no_recipe():
    unheard = Precision("int3", "onnx")
    assert str(unheard) == "int3@onnx"
    with pytest.raises(UsageProblem, match="unknown recipe 'int3@onnx'; did you mean"):
        gates_for(unheard, {})


def test_the_first_runtime_of_a_precision_is_the_one_that_need_not_be_named():
    assert [name for name in known() if "@" not in name] == [
        "fp32", "fp16", "bf16", "int8", "int8-dynamic", "int8-static", "int8-weight", "int4", "int8-legacy",
        "f16", "q8_0", "q4_k_m", "q4_0",
    ]  # fmt: skip


def layer(element: str, bits: int, computes: str = "float") -> Layer:
    return Layer("w", ("w",), "MatMulNBits", "w", element, bits, "block 32", computes, "", 100)


def test_a_width_is_that_of_the_element_type():
    found = {name: recipe.width.least_cosine for name, recipe in RECIPES.items() if "bf16" in name or name.startswith("fp")}
    assert found == {
        "fp32@onnx": 0.999, "fp32@torch": 0.999, "fp32@openvino": 0.999, "fp16@torch": 0.99, "fp16@onnx": 0.99,
        "bf16@torch": 0.99, "bf16@openvino": 0.99, "fp32@node": 0.999, "fp32@browser": 0.999, "fp16@node": 0.99,
        "fp16@browser": 0.99, "fp32@llamacpp": 0.999, "fp32@onnx-cuda": 0.999, "fp16@onnx-cuda": 0.99,
    }  # fmt: skip
    assert {r.width for r in RECIPES.values() if r.weights == "I8"} == {(8, 0.9, 0.05)}
    taken_over = replace(RECIPES["int8@onnx"], weights="I6")
    assert [words.partition(":")[0] for words in taken_over.lacks()] == ["bits", "least_cosine", "weight_error"]


def test_integers_of_a_new_width_are_told_by_their_bits():
    recipe = replace(RECIPES["int4@onnx"], weights="I6", bits=6, least_cosine=0.85, weight_error=0.1, tables=None)
    assert not list(recipe.lacks())
    packed, four = layer("U8", 6), layer("U4", 4)
    assert (_as_promised(packed, recipe, {}), _as_promised(four, recipe, {})) == (True, False)
    assert _bytes([packed, replace(four, weight="v")], recipe, 0, {}).value == 0.5
    assert not _as_promised(packed, RECIPES["int4@onnx"], {})
    in_eight = replace(recipe, tables="I8")
    assert [_bytes([layer(e, b, LOOKUP)], in_eight, 0, {}).value for e, b in (("I8", 8), ("U8", 6), ("F32", 32))] == [1, 1, 0]


EDITS = """
import json, shutil, sys
from pathlib import Path
from qguard.config import load_config
from qguard.judging.session import Session
from qguard.precisions import RECIPES, code, precision_of
import qguard
here = Path(qguard.__file__).parent
assert here == Path("qguard").resolve()  # the copy: its files are edited
model = Session(load_config(Path(sys.argv[1]))).model("minilm")
def keys():
    for kept in (code.code_sha256, code._spec, code._source, code._imported):
        kept.cache_clear()
    return {r.name: json.dumps(precision_of(r).key(model)) for r in RECIPES.values()}
before, found = keys(), {}
for name in sys.argv[2:]:
    file = here / name
    old = file.read_bytes() if file.exists() else b""
    file.write_bytes(old + b"#")
    found[name] = [n for n, key in keys().items() if key != before[n]]
    file.write_bytes(old)
print(json.dumps(found))
"""


def test_an_edit_changes_the_keys_of_the_recipes_that_import_it(tmp_path):
    shutil.copytree(Path(qguard.__file__).parent, tmp_path / "qguard", ignore=shutil.ignore_patterns("__pycache__"))
    openvino, torch = ([n for n, r in RECIPES.items() if r.runtime == runtime] for runtime in ("openvino", "torch"))
    every = list(RECIPES)
    llama = [n for n, r in RECIPES.items() if r.runtime == "llamacpp"]  # written from the model's own weights
    script = ("node", "browser")
    expected = {
        "artifacts/artifact.py": every,  # copies what stands around the weights
        "models/model.py": every,
        "encoders/network.py": [n for n in every if n not in ("fp32@torch", "fp16@torch", "bf16@torch", *llama)],
        "encoders/legacy.py": ["int8-legacy@torch"],
        "encoders/onnx.py": [n for n in every if n not in (*torch, *llama)],
        "encoders/openvino.py": openvino,
        "precisions/openvino.py": openvino,
        "precisions/export.py": [n for n in every if n not in (*torch, *llama)],
        "precisions/integer.py": ["int8@onnx", "int8@onnx-cuda", *openvino, *(f"int8@{n}" for n in script)],
        "precisions/dynamic.py": ["int8-dynamic@onnx", *(f"int8-dynamic@{n}" for n in script)],
        "precisions/gguf.py": llama,
        "precisions/cast.py": ["fp32@torch", "fp16@torch", "bf16@torch"],
        "encoders/torch.py": [],
        "precisions/bounds.py": [],
        "precisions/own.py": [],
        "judging/cause.py": [],
        "precisions/unused.py": [],
    }
    found = json.loads(python(EDITS, str(ROOT), *expected, folder=tmp_path, PYTHONPATH="").splitlines()[-1])
    assert {name: sorted(changed) for name, changed in found.items()} == {n: sorted(c) for n, c in expected.items()}


def test_the_key_of_another_package_holds_its_own_modules(installed):
    package = installed()
    found = modules("acme.recipes")
    assert {n for n in found if n.startswith("acme")} == {"acme", "acme.recipes", "acme.floats"}
    assert {"qguard.models.model", "qguard.files"} < set(found)
    before = code.code_sha256("acme.recipes")
    for name, changes in (("unused", False), ("floats", True), ("__init__", True)):
        with (package / f"{name}.py").open("a") as file:
            file.write("#\n")
        forget()
        assert (code.code_sha256("acme.recipes") != before) == changes, name
        before = code.code_sha256("acme.recipes")


@pytest.mark.parametrize("package", [qguard, asyncio, email, importlib, unittest])
def test_no_import_statement_is_missed(package):
    """Python's own parser finds no more."""

    def statements(body):
        for statement in body:
            yield statement
            checked = isinstance(statement, ast.If) and ast.unparse(statement.test).endswith("TYPE_CHECKING")
            for part in ("orelse",) if checked else ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from statements(getattr(statement, part, []))

    files = list(Path(package.__file__).parent.rglob("*.py"))
    assert len(files) > 5
    for file in files:
        source = file.read_text(encoding="utf-8")
        want = {ast.unparse(s) for s in statements(ast.parse(source).body) if isinstance(s, ast.Import | ast.ImportFrom)}
        assert want <= {ast.unparse(s) for s in imports(source)}, file


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("try: import a\nexcept ImportError: import b; import c", ["import a", "import b", "import c"]),
        ("from . import (a,  # one (of two)\n    b)\n", ["from . import a, b"]),
        ("from a \\\n    import \\\n    b, \\\n    c\n", ["from a import b, c"]),
        ("from .a import(b)\r\nimport c\r\n", ["from .a import b", "import c"]),
        ("def f():\n    from a import *  # all\n", ["from a import *"]),
        ("if TYPE_CHECKING:\n    import a\n\n    import b\nelse:\n    import c\nimport d\n", ["import c", "import d"]),
        ("    if typing.TYPE_CHECKING:\n        import a\n    import b\n", ["import b"]),
        ("'''\nfrom the model's weights, import nothing\n'''\nimported = a.important\n", []),
    ],
)  # fmt: skip
def test_import_statements_are_found_in_every_form(source, expected):
    assert [ast.unparse(s) for s in imports(source)] == expected
