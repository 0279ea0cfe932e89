"""What is judged of a large model is read part by part: the memory of a process does not grow with the weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import families

JUDGE = """
import sys, tempfile
from pathlib import Path
from qguard.artifacts import finite, tables
from qguard.artifacts.unrounded import unrounded
from qguard.judging.artifact import damage, measure_artifact
from qguard.models.model import resolve
from qguard.onnx import edit
from qguard.precisions import parse_precision

finite.AT_ONCE, tables.CHUNK = 2**19, 2**17
edit.KEPT, edit.WHOLE = 2**18, 0  # as for a model that does not fit one file
precision = parse_precision("int8-dynamic")

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM:")).split()[1])

def judge(artifact, model):
    measure_artifact(artifact, model, precision.recipe)
    assert not damage(artifact, model)
    with tempfile.TemporaryDirectory() as folder:
        made = unrounded(artifact, model, Path(folder))
        assert not made.kept
        made.graph.save(Path(folder) / "model.onnx")
        assert (Path(folder) / "model.onnx_data").stat().st_size > 0.9 * model.fp32_bytes

models = [resolve(Path(folder).name, folder) for folder in sys.argv[1:]]
built = [(precision.build(model), model) for model in models]
judge(*built[0])  # imports, and what the allocator keeps
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = peak()
judge(*built[1])
print(peak() - before, models[1].fp32_bytes)
"""


BUILD = """
import sys
from pathlib import Path
from qguard.models.model import resolve
from qguard.onnx import edit
from qguard.precisions import parse_precision

edit.KEPT, edit.WHOLE = 2**18, 0
for folder in sys.argv[1:]:
    parse_precision("int8-dynamic").build(resolve(Path(folder).name, folder))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells the peak since some moment")
def test_an_artifact_is_judged_in_less_memory_than_its_models_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("QGUARD_CACHE", str(tmp_path / "cache"))
    folders = [str(families.write("xlm-roberta", tmp_path / "small"))]
    folders.append(str(families.write("xlm-roberta", tmp_path / "large", vocab_size=220_000, intermediate_size=4096)))
    for script in (BUILD, JUDGE):  # the torch of an export stays in memory
        done = subprocess.run([sys.executable, "-c", script, *folders], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    grown, weights = map(int, done.stdout.split())
    assert weights > 50e6
    assert grown < 1.2 * weights  # the largest tensor is nearly all of them
