"""``qguard models``: what is supported here, and how one model is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from benchmarks import models as script
from qguard.cli import main
from qguard.precisions import parse_precision, support
from tests import families, static
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return families.write("gte", tmp_path_factory.mktemp("models") / "gte")


def told(capsys, *argv):
    code = main(["models", *map(str, argv)])
    out = capsys.readouterr()
    assert "Traceback" not in out.out + out.err
    return code, out.out, out.err


def test_the_matrix_is_whole_and_the_page_is_made_of_it():
    """``python -m benchmarks.models --write`` makes both."""
    made = json.loads(support.MATRIX.read_text(encoding="utf-8"))
    assert set(families.FAMILIES) == set(script.NAMES) <= set(made["families"])
    columns = {"golden", *script.PRECISIONS, "proof", "diagnosis", "selftest"}
    for name in families.FAMILIES:
        cells = made["families"][name]["cells"]
        assert set(cells) == columns, name
        assert all(c["status"] in (support.WORKS, support.REFUSED) for c in cells.values()), name
        assert all(c["words"] for c in cells.values() if c["status"] == support.REFUSED), name
    assert script.PAGE.read_text(encoding="utf-8") == script.page(made)
    assert {str(parse_precision(p)) for p in script.PRECISIONS} <= {p for a in support.matrix() for p in a.cells}


def test_every_tested_architecture_is_listed(capsys, tmp_path):
    code, out, _ = told(capsys, "--json", tmp_path / "m.json")
    assert code == 0
    assert "Gemma 3 (gemma3_text): fp32, " in out
    assert "tested with torch " in out
    found = json.loads((tmp_path / "m.json").read_text())
    assert {a["model_type"] for a in found["architectures"]} >= {"bert", "gte", "t5", "clip_text_model"}


def test_one_model_is_told_of_without_a_heavy_import(folder, capsys, monkeypatch):
    for name in ("torch", "transformers", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, None)  # an import would raise
    code, out, _ = told(capsys, folder)
    assert code == 0
    assert out.splitlines()[0] == "gte: GTE (gte), a tested architecture"
    assert "int8, " in out.splitlines()[1]
    assert out.splitlines()[-1] == f"next: qguard init {folder}"


def test_a_type_that_is_not_tested_says_so(folder, tmp_path, capsys):
    model = shutil.copytree(folder, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "ernie"}))
    code, out, _ = told(capsys, model)
    assert (code, "type 'ernie', which is not among the tested architectures" in out) == (0, True)
    (model / "config.json").write_text(json.dumps({**config, "model_type": "brand_new"}))
    code, _, err = told(capsys, model)
    assert (code, "does not know; install a version that does" in err) == (3, True)


def test_a_static_model_has_the_precisions_of_tables(tmp_path, capsys):
    static.write_model2vec(tmp_path / "table")
    code, out, _ = told(capsys, tmp_path / "table")
    assert (code, "a static model" in out.splitlines()[0]) == (0, True)
    assert "int4" not in out.splitlines()[1]
    assert re.search(r"^  int8-dynamic, .*int4.*: it is made of multiplications", out, re.MULTILINE)


def test_a_refused_model_is_told_why(folder, tmp_path, capsys):
    model = shutil.copytree(folder, tmp_path / "model")
    (model / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    code, out, err = told(capsys, model)
    assert (code, out, "scores pairs by the modules Transformer, Pooling" in err) == (3, "", True)


def test_what_is_not_installed_is_named_with_the_command_that_mends_it(folder, capsys, monkeypatch):
    monkeypatch.setattr(support, "installed", lambda *names: {n: "absent" if n == "openvino" else "1" for n in names})
    words = r"^  .*int8-static@openvino: openvino is not installed; run: pip install 'qguard\[openvino\]'$"
    assert re.search(words, told(capsys)[1], re.MULTILINE)
    assert re.search(words, told(capsys, folder)[1], re.MULTILINE)


def test_the_nav_has_the_page():
    assert "supported-models.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_nobody_reads_to_the_end():
    """As with ``qguard models | head``: no traceback, and no exit code of a verdict."""
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from qguard.cli import main; sys.exit(main(['models']))"
    done = subprocess.run([sys.executable, "-c", code], check=False, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
