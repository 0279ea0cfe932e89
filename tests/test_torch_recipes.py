"""int8 recipes of torch, and torch on another device: files, accuracy, and what is said where it cannot be measured."""

from __future__ import annotations

import json
import re
import warnings
from importlib.util import find_spec

import numpy as np
import pytest

from qguard.config import load_config
from qguard.encoders.legacy import FILE, SCALE
from qguard.errors import MeasurementProblem, UsageProblem
from qguard.families import measure
from qguard.gates import gates_for
from qguard.gates.check import judge
from qguard.judging.session import Session
from qguard.latency.arms import ArmSpec
from qguard.latency.check import Bucket
from qguard.metrics import Comparison
from qguard.precisions import parse_precision
from qguard.precisions.recipe import RECIPES as RECORDS
from qguard.suites import Suite
from tests import static
from tests.conftest import ROOT
from tests.machine import BF16, long_but
from tests.processes import python

RECIPES = ("int8@torch", "int8-weight@torch", "int8-legacy")


@pytest.fixture(scope="module")
def project(small):
    """120 documents of core, without the path of an artifact."""
    return Session(load_config(small))


def target(project, precision):
    return project.targets([parse_precision(precision)])[0]


def failed(project, precision, *families):
    return [c.label for f in families for c in project.checks(target(project, precision), f) if c.outcome == "fail"]


def measured(project, precision, family):
    return {c.name: c.value for c in project.checks(target(project, precision), family) if c.slice is None}


def encoded_by(network, encoder, texts):
    """What the encoder gives with another network in its runtime, which is put back."""
    encoder.runtime.model, kept = network, encoder.runtime.model
    try:
        return encoder.encode(texts)
    finally:
        encoder.runtime.model = kept


@pytest.mark.parametrize(
    ("precision", "low", "high"),
    [("fp16", 0.49, 0.51), ("bf16", 0.49, 0.51), ("int8@torch", 0.35, 0.40), ("int8-weight@torch", 0.35, 0.40)],
)
def test_the_files_are_as_small_as_promised(project, precision, low, high):
    found = measured(project, precision, "artifact")
    assert found["artifact.quantized_ops"] == 1
    assert low <= found["artifact.size_ratio"] <= high


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_keeps_the_scores_of_fp32(project, precision):
    """24 texts: the CPU computes fp16 several times slower than fp32."""
    golden, suite = project.golden("minilm", "own"), project.suite("own")
    vectors = project.encoder(parse_precision(precision), "minilm").encode_ids(golden.token_ids[:24])
    part = Suite("part", suite.texts[:24], suite.slices[:24])
    compared = Comparison.of(part, golden.vectors[:24], vectors)
    found = [m for family in ("embedding", "similarity", "ranking") for m in measure(compared, family)]
    assert [c.label for c in judge(found, gates_for(parse_precision(precision), {}), "part") if c.outcome == "fail"] == []
    value = {m.name: m.value for m in found if m.slice is None}
    # short texts hardly differ in score; without bfloat16 of its own, a CPU rounds more often on the way
    assert value["similarity.spearman"] >= (0.999 if precision == "fp16" else 0.995 if BF16 else 0.99)
    assert value["embedding.cosine_mean"] >= 0.999


@pytest.mark.parametrize("precision", ["int8@torch", "int8-weight@torch"])
def test_torchao_passes_the_gates(project, precision):
    assert failed(project, precision, "artifact", "embedding", "similarity", "ranking") == []


def test_quantize_dynamic_is_quantized_and_fails_the_gates_of_int8(project):
    assert failed(project, "int8-legacy", "artifact") == []
    assert "ranking.overlap@10" in failed(project, "int8-legacy", "ranking")
    assert gates_for(parse_precision("int8-legacy"), {}) == gates_for(parse_precision("int8-dynamic"), {})


@pytest.mark.parametrize("precision", RECIPES)
def test_files_are_safetensors_and_json_and_no_pickle(project, precision):
    folder = project.artifact(parse_precision(precision), "minilm").folder
    files = [p for p in folder.rglob("*") if p.is_file()]
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt"}
    for file in files:  # pickles start with a protocol mark or are zip archives
        assert not file.read_bytes()[:2].startswith((b"\x80", b"PK")) or file.suffix == ".safetensors"
        if file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))


def test_an_artifact_is_what_torchao_makes_in_memory(project, minilm):
    """No rounding is added by the files, and sentence-transformers opens them without qguard."""
    import torch
    from sentence_transformers import SentenceTransformer
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    from transformers import AutoModel

    encoder = project.encoder(parse_precision("int8@torch"), "minilm")
    network = AutoModel.from_pretrained(str(minilm.root), dtype=torch.float32).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Embedding):
            module.weight.data = module.weight.data.half().float()
    quantize_(network, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    texts = project.suite("own").texts[:8]
    loaded = encoder.encode(texts)
    assert np.array_equal(encoded_by(network, encoder, texts), loaded)
    folder = project.artifact(parse_precision("int8@torch"), "minilm").folder
    stock = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(list(texts))
    assert np.abs(stock - loaded).max() < 1e-5


def test_a_legacy_artifact_is_what_quantize_dynamic_makes_in_memory(project, minilm):
    import torch
    from transformers import AutoModel

    encoder = project.encoder(parse_precision("int8-legacy"), "minilm")
    network = AutoModel.from_pretrained(str(minilm.root), dtype=torch.float32).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.ao.quantization.quantize_dynamic(network, {torch.nn.Linear}, dtype=torch.qint8)
    texts = project.suite("own").texts[:8]
    loaded = encoder.encode(texts)
    assert np.array_equal(encoded_by(network, encoder, texts), loaded)


def test_a_legacy_file_that_lacks_a_layer_is_named(project, tmp_path):
    import shutil

    from safetensors.numpy import load_file, save_file

    from qguard.encoders.legacy import open_legacy
    from qguard.errors import ArtifactProblem

    folder = project.artifact(parse_precision("int8-legacy"), "minilm").folder
    shutil.copy(folder / "config.json", tmp_path)
    tensors = load_file(folder / FILE)
    layer = next(n.removesuffix(SCALE) for n in tensors if n.endswith(SCALE))
    save_file({n: t for n, t in tensors.items() if not n.startswith(f"{layer}.")}, tmp_path / FILE)
    with pytest.raises(ArtifactProblem, match=r"does not fit config\.json: 2 tensors missing"):
        open_legacy(tmp_path)


def test_stock_transformers_refuses_a_legacy_artifact(project):
    """It would load int8 weights without their scales, and say nothing."""
    from transformers import AutoModel

    with pytest.raises(OSError, match="no file named"):
        AutoModel.from_pretrained(str(project.artifact(parse_precision("int8-legacy"), "minilm").folder), local_files_only=True)


def test_weights_alone_are_not_int8(project, small):
    """A weight-only file is as small, but multiplies in float."""
    folder = project.artifact(parse_precision("int8-weight@torch"), "minilm").folder
    judged = Session(load_config(small), artifact_path=folder)
    assert measured(judged, "int8@torch", "artifact")["artifact.quantized_ops"] == 0


def test_a_build_is_byte_identical(project, minilm, tmp_path):
    from qguard.precisions import torchao

    cached = project.artifact(parse_precision("int8@torch"), "minilm").folder  # most often of another process
    (tmp_path / "config.json").write_bytes((minilm.root / "config.json").read_bytes())
    torchao.int8(minilm, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (cached / file.name).read_bytes()


def test_defaults_of_a_precision_fall_back_to_the_part_before_the_dash():
    assert {g.metric: g.bound.number for g in gates_for(parse_precision("int8-weight@torch"), {})}["ranking.overlap@10"] > 0.85
    assert RECORDS["int8-legacy@torch"].speedup == RECORDS["int8@onnx"].speedup
    assert RECORDS["int8-weight@torch"].speedup is RECORDS["int8@torch"].speedup is None


def test_cuda_that_is_not_there_is_not_measured(project):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    on_cuda = Session(project.config.model_copy(update={"device": "cuda"}))
    with pytest.raises(MeasurementProblem, match=r"torch .* finds no CUDA device here; .* --qguard-device cpu"):
        on_cuda.checks(target(on_cuda, "fp16"), "embedding")


def test_the_gate_says_that_cuda_is_not_there(pytester, small):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    options = ("--precision=fp16", "--qguard-device=cuda", f"--qguard-config={small / 'pyproject.toml'}", "-p", "no:randomly")
    found = pytester.runpytest(*options)
    found.assert_outcomes(failed=6)
    found.stdout.fnmatch_lines(["*NOT MEASURED: device 'cuda' was asked for*"])
    assert found.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--precision=int8", "--qguard-device=cuda"), "*--qguard-device cuda is for torch precisions*int8 runs on the CPU*"),
        (("--precision=int8@torch", "--qguard-device=gpu"), "*invalid choice: 'gpu'*"),
    ],
)
def test_a_device_that_cannot_be_is_a_usage_error(pytester, small, asked, message):
    found = pytester.runpytest(*asked, f"--qguard-config={small / 'pyproject.toml'}")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines([message])


def test_on_cuda_a_timed_run_fetches_one_vector_a_text(project, monkeypatch):
    """Fetching every token's embedding took longer than computing them: 59 ms of which the transformer was 19."""
    encoder = project.encoder(parse_precision("fp16"), "minilm")
    batch = Bucket(16, 3).fill(encoder.tokenizer(["the lease ends in May, unless the tenant asks for one more year than that"]))
    runtime, fetched = encoder.runtime, []
    whole = runtime(*batch)
    assert np.array_equal(runtime.first_tokens(*batch), whole[:, 0])
    first_tokens = runtime.first_tokens
    monkeypatch.setattr(runtime, "first_tokens", lambda *b: fetched.append(first_tokens(*b)))
    monkeypatch.setattr(ArmSpec, "open_runtime", lambda self: runtime)  # the device alone is not here
    arm = ArmSpec("torch", "", "fp16", device="cuda").arm(batch)
    arm.open()
    assert len(arm.block(1, 2)) == 2
    assert [f.shape for f in fetched] == [(3, whole.shape[2])] * 3


def test_an_unknown_device_in_the_configuration_is_named(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[tool.qguard]\ndevice = "auto"\n')
    with pytest.raises(UsageProblem, match=r"device: Input should be 'cpu' or 'cuda'"):
        load_config(tmp_path)


@pytest.mark.long
def test_the_gpu_benchmark_works_without_a_gpu(capsys):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("gpu", ROOT / "benchmarks" / "gpu.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(["--device", "cpu", "--quick", "--energy", "--precisions", "int8,fp16@onnx-cuda"])
    out = capsys.readouterr().out
    assert out.startswith("Measured 20")
    for name in ("int8@torch", "fp16@onnx"):
        rows = re.findall(rf"^\| {name} \| .*", out, re.MULTILINE)
        assert len(rows) == 3  # accuracy, and two shapes
        assert all(float(row.split("|")[-2]) > 0 for row in rows[1:])  # the gate's ratio
    assert out.count("Energy was not measured for 16x") == 2


@pytest.mark.parametrize("first", long_but(["static"], ["static", "torch"]))
def test_what_transformers_loads_beside_it_says_nothing(minilm, tmp_path, first):
    """torchao names GPU kernels that it cannot load, by their paths, and torch warns of what torchao registers."""
    root = static.write_model2vec(tmp_path / "static") if first == "static" else minilm.root
    code = (
        "import sys\nfrom pathlib import Path\nfrom qguard.encoders import open_runtime\n"
        "from qguard.goldens.reference import open_fp32\nfrom qguard.models.model import resolve\n"
        f"root = Path({str(root)!r})\nif {first!r} == 'torch':\n    open_runtime('torch', root, 'fp32')\n"
        "open_fp32(resolve('m', str(root)))\nprint('torchao' in sys.modules)"
    )
    assert python(code) == str(find_spec("torchao") is not None)
