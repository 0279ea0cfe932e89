"""GGUF files: read without trust, quantized as llama.cpp does it, and written of models of BERT's family. No llama.cpp runs."""

from __future__ import annotations

import hashlib
import json
import re
import struct

import numpy as np
import pytest

from qguard.artifacts.artifact import open_artifact
from qguard.artifacts.finite import unsound
from qguard.artifacts.gguf import differences_in_file
from qguard.artifacts.layers import read_layers
from qguard.artifacts.tables import read_tables
from qguard.attest.subjects import digests
from qguard.errors import ArtifactProblem, ModelProblem, UsageProblem
from qguard.gguf import types
from qguard.gguf.mixture import MIXTURES, POSITIONS, TOKENS, Matrix, types_of
from qguard.gguf.read import read_gguf
from qguard.judging.artifact import measure_artifact
from qguard.models.model import resolve
from qguard.precisions import parse_precision
from tests import families
from tests.ggufs import changed, head_of

pytest.importorskip("gguf", reason="the extra gguf is not installed")

PRECISIONS = {"F32": "fp32@llamacpp", "F16": "f16", "Q8_0": "q8_0", "Q4_0": "q4_0", "Q4_K_M": "q4_k_m"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return resolve("tiny", str(families.write("bert", tmp_path_factory.mktemp("tiny"))))


@pytest.fixture(scope="module")
def made(model):
    """The artifact of each mixture."""
    return {mixture: parse_precision(name).build(model) for mixture, name in PRECISIONS.items()}


def _weights(rows: int, width: int) -> np.ndarray:
    """Weights that are the same on every machine: values of a congruence, some of them wide, a row of zeros."""
    steps = (np.arange(rows * width, dtype=np.uint64) * 2654435761 % 2**32).astype(np.float64) / 2**32 - 0.5
    values = (steps * np.where(np.arange(rows * width) % 97 == 0, 4, 1)).astype(np.float32).reshape(rows, width)
    values[1] = 0
    return values


@pytest.mark.parametrize(
    ("kind", "digest"),
    [
        ("Q4_0", "1b303a46f0432be0"),
        ("Q5_0", "dfe8f89d4660d40c"),
        ("Q5_1", "b0b22b92cec555b0"),
        ("Q8_0", "a541995f7e10636b"),
        ("Q4_K", "1ccb6e8dbf126389"),
        ("Q5_K", "fc7d5433fbab6e1b"),
        ("Q6_K", "704b27d703cb4088"),
    ],
)
def test_bytes_are_those_of_llama_cpp(kind, digest):
    """``ggml_quantize_chunk`` of llama.cpp v0.4.0 gave these; tests/test_gguf_llamacpp.py asks it again where it is installed."""
    stored = types.quantized(kind, _weights(8, 1024))
    assert hashlib.sha256(stored.tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("kind", ["Q4_0", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16"])
def test_what_is_stored_is_near_to_what_it_was(kind):
    values = _weights(16, 512)
    stored = types.quantized(kind, values)
    found, steps = types.dequantized(kind, stored), types.steps(kind, stored)
    off = np.abs(found - values)
    if kind in types.FLOATS:
        assert steps == 0
        assert off.max() <= 2.0 ** (-11 if kind == "F16" else -8) * np.abs(values).max()
        return
    assert np.median(off / np.maximum(steps, 1e-9)) < 0.3  # a quarter of a step, as rounding to nearest leaves
    assert (off <= 2 * steps + 1e-6).all()  # the end of a block's range may be cut off
    assert (np.linalg.norm(off, axis=1) <= 0.4 * np.linalg.norm(steps, axis=1)).all()
    assert steps[1].max() == 0 == np.abs(found[1]).max()


@pytest.mark.parametrize(
    ("mixture", "layers", "width", "want"),
    [
        # as llama.cpp's quantizer chose them for all-MiniLM-L6-v2, whose rows of 384 are no multiple of 256
        ("Q4_K_M", 6, 384, {"Q5_0": 28, "Q8_0": 3, "Q4_K": 4, "Q6_K": 2, "F32": 2}),
        ("Q4_K_M", 12, 768, {"Q4_K": 60, "Q6_K": 13, "F32": 2}),
        ("Q4_0", 6, 384, {"Q4_0": 36, "Q8_0": 1, "F32": 2}),
        ("Q4_0", 12, 768, {"Q4_0": 72, "Q6_K": 1, "F32": 2}),
        ("Q8_0", 6, 384, {"Q8_0": 37, "F32": 2}),
        ("F16", 6, 384, {"F16": 37, "F32": 2}),
        ("Q8_0", 2, 40, {"F16": 11, "Q8_0": 2, "F32": 2}),  # rows that no block fits
    ],
)
def test_a_name_is_a_mixture_of_types(mixture, layers, width, want):
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
    shapes = dict.fromkeys(names, (width, width)) | {"ffn_up": (4 * width, width), "ffn_down": (width, 4 * width)}
    tensors = [Matrix(f"blk.{i}.{name}.weight", shapes[name]) for i in range(layers) for name in names]
    tensors += [Matrix(f"blk.{i}.layer_output_norm.weight", (width,)) for i in range(layers)]
    tensors += [Matrix(TOKENS, (99, width)), Matrix(POSITIONS, (64, width)), Matrix("token_types.weight", (2, width))]
    chosen = types_of(mixture, tensors, layers)
    matrices = [t.name for t in tensors if len(t.shape) > 1]
    assert {kind: sum(chosen[n] == kind for n in matrices) for kind in want} == want
    assert all(chosen[t.name] == "F32" for t in tensors if len(t.shape) == 1)


@pytest.mark.parametrize("mixture", MIXTURES)
def test_a_file_holds_what_its_recipe_promises(mixture, made, model):
    artifact = made[mixture]
    file = read_gguf(artifact.file)
    recipe = parse_precision(PRECISIONS[mixture]).recipe
    values = {m.name: m for m in measure_artifact(artifact, model, recipe, "llamacpp")}
    for name, m in values.items():
        assert m.bound is None or m.bound.holds(m.value), (name, m)
    assert values["artifact.quantized_ops"].items == 12
    assert file.metadata["general.file_type"] == MIXTURES[mixture][1]
    assert not list(differences_in_file(artifact.file, model))
    assert unsound(artifact) == ([], len(file.tensors))


def test_wrong_types_are_named_whatever_the_file_is_called(made, model):
    values = {m.name: m for m in measure_artifact(made["Q8_0"], model, parse_precision("q4_k_m").recipe, "llamacpp")}
    found = values["artifact.quantized_ops"]
    assert found.value < 0.1
    assert "blk.0.attn_q: tensor computes in integer with Q8_0 weights, not Q5_0" in found.worst


def test_one_matrix_in_another_type_is_found(made, model, tmp_path):
    """As of a file that was quantized by hand, or by another release."""
    other = read_gguf(made["Q4_0"].file).tensors["blk.1.ffn_up.weight"]
    file = changed(made["Q8_0"].file, tmp_path / "model.gguf", tensors={"blk.1.ffn_up.weight": (other.kind.name, other.stored)})
    artifact = open_artifact(file, model, "llamacpp")
    values = {m.name: m for m in measure_artifact(artifact, model, parse_precision("q8_0").recipe, "llamacpp")}
    assert values["artifact.quantized_ops"].value == pytest.approx(11 / 12)
    assert values["artifact.quantized_ops"].worst == ("blk.1.ffn_up: tensor computes in integer with Q4_0 weights, not Q8_0",)


def test_rows_and_numbers_are_those_of_the_model(made, model, tmp_path):
    stored = np.array(read_gguf(made["Q8_0"].file).tensors[TOKENS].stored)
    stored[[7, 8]] = stored[[8, 7]]
    stored[20, :2] = np.float16(np.nan).reshape(1).view(np.uint8)
    artifact = open_artifact(
        changed(made["Q8_0"].file, tmp_path / "m.gguf", tensors={TOKENS: ("Q8_0", stored)}), model, "llamacpp"
    )
    values = {m.name: m for m in measure_artifact(artifact, model, parse_precision("q8_0").recipe, "llamacpp")}
    assert values["artifact.wrong_rows"].value == 3
    assert values["artifact.nonfinite"].value == 32  # a scale is that of a block
    assert "token_embd.weight: 32 values are NaN" in values["artifact.nonfinite"].worst[0]


def test_weights_of_another_model_are_found(made, model, tmp_path_factory):
    other = resolve("other", str(families.write("bert", tmp_path_factory.mktemp("other"), seed=1)))
    values = {m.name: m for m in measure_artifact(made["Q8_0"], other, parse_precision("q8_0").recipe, "llamacpp")}
    assert values["artifact.wrong_rows"].value > 800


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"bert.pooling_type": 2}, "pooling_type is cls, the model's mean"),
        ({"bert.pooling_type": None}, "pooling_type is missing, so that whoever serves the file chooses it; the model's is mean"),
        ({"bert.context_length": 64}, "context_length is 64, and the model's texts have up to 128 tokens"),
        ({"bert.attention.head_count": 8}, "attention.head_count is 8, the model's 4"),
        ({"bert.block_count": 12}, "block_count is 12, the model's 2"),
        ({"bert.attention.layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 1e-05, the model's 1e-12"),
        ({"bert.attention.causal": True}, "attention is causal, the model's is not"),
        ({"general.architecture": "nomic-bert"}, "its architecture is 'nomic-bert', the model's 'bert'"),
    ],
)
def test_a_file_that_says_something_else_is_told_in_words(keys, words, made, model, tmp_path):
    file = changed(made["Q8_0"].file, tmp_path / "model.gguf", keys)
    assert words in "; ".join(differences_in_file(file, model))


def test_a_vocabulary_in_another_order_is_told(made, model, tmp_path):
    tokens = list(read_gguf(made["Q8_0"].file).tokens)
    tokens[400], tokens[401] = tokens[401], tokens[400]
    file = changed(made["Q8_0"].file, tmp_path / "model.gguf", {"tokenizer.ggml.tokens": tokens})
    (words,) = differences_in_file(file, model)
    assert re.fullmatch(r"2 of 89\d tokens of its vocabulary are not the model's: 400 is '.*' instead of '.*', 401 is .*", words)


def test_cut_files_are_told_wherever_they_end(made, model, tmp_path):
    whole = made["Q8_0"].file.read_bytes()
    head = head_of(made["Q8_0"].file)
    cuts = {0, 3, 4, 23, 24, 25, 60, head - 1, head, head + 1, len(whole) - 1, *range(30, head, head // 50)}
    for size in sorted(cuts):
        file = tmp_path / "cut.gguf"
        file.write_bytes(whole[:size])
        with pytest.raises(ArtifactProblem, match=r"cut\.gguf .*(truncated|not a whole|no GGUF file).*copy it again"):
            open_artifact(file, model, "llamacpp")


def test_no_number_in_a_file_is_trusted(made, tmp_path):
    """Each 8 bytes of the first keys and tensors say something huge in turn: an error in words, or a file as long as it says."""
    whole, head = made["Q4_0"].file.read_bytes(), head_of(made["Q4_0"].file)
    file = tmp_path / "large.gguf"
    for at in (*range(4, 400, 4), *range(head - 400, head - 8, 4)):
        for huge in (2**64 - 1, 2**40, 2**31):
            file.write_bytes(whole[:at] + struct.pack("<Q", huge) + whole[at + 8 :])
            try:
                read_gguf(file)
            except ArtifactProblem as e:
                assert "large.gguf" in str(e)  # noqa: PT017 - some change nothing that is read


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b"GGUF" + struct.pack("<I", 1) + b[8:], "expected version 2 or 3 of the format, found version 1"),
        (lambda b: b"GGUF" + struct.pack(">I", 3) + b[8:], "found the byte order of other processors"),
        (lambda b: b[:8] + struct.pack("<Q", 2**60) + b[16:], "it says 1152921504606846976 tensors"),
        (lambda b: b[:16] + struct.pack("<Q", 2**60) + b[24:], "it says 1152921504606846976 keys"),
    ],
)
def test_heads_that_llama_cpp_does_not_read_are_told(change, words, made, tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(change(made["Q8_0"].file.read_bytes()))
    with pytest.raises(ArtifactProblem, match=words):
        read_gguf(file)


def test_one_part_of_several_is_told(made, tmp_path):
    file = changed(made["Q8_0"].file, tmp_path / "model-00001-of-00003.gguf", {"split.count": 3})
    with pytest.raises(ArtifactProblem, match="is one of 3 parts; give one file: llama-gguf-split --merge"):
        read_gguf(file)


def test_a_folder_with_several_files_asks_for_one(made, model, tmp_path):
    for mixture in ("Q8_0", "Q4_0"):
        (tmp_path / f"model-{mixture}.gguf").write_bytes(made[mixture].file.read_bytes())
    with pytest.raises(ArtifactProblem, match=r"holds several GGUF files.*#model-Q4_0\.gguf, --artifact=.*#model-Q8_0\.gguf"):
        open_artifact(tmp_path, model, "llamacpp")
    named = open_artifact(tmp_path.with_name(f"{tmp_path.name}#model-Q4_0.gguf"), model, "llamacpp")
    assert (named.file.name, named.rule, named.others) == ("model-Q4_0.gguf", "named after #", ("model-Q8_0.gguf",))


def test_beside_an_onnx_file_the_runtime_decides(made, model, tmp_path, int8):
    (tmp_path / "model.gguf").write_bytes(made["Q8_0"].file.read_bytes())
    assert open_artifact(tmp_path, model, "onnx").rule == "the only model file"
    (tmp_path / "model.onnx").write_bytes(int8.file.read_bytes())
    assert open_artifact(tmp_path, model, "onnx").file.name == "model.onnx"
    assert open_artifact(tmp_path, model, "llamacpp").rule == "the only GGUF file"


def test_a_verdict_is_bound_to_a_bare_file(made, tmp_path):
    file = tmp_path / "model-Q8_0.gguf"
    file.write_bytes(made["Q8_0"].file.read_bytes())
    (tmp_path / "tokenizer.json").write_text("{}")
    assert set(digests(file)) == {"model-Q8_0.gguf", "tokenizer.json"}


def test_layers_and_tables_of_a_file(made):
    layers = {x.name: x for x in read_layers(made["Q4_K_M"]).layers}
    assert (layers["blk.1.ffn_down"].element, layers["blk.1.ffn_down"].granularity) == ("Q6_K", "block 16")
    assert (layers["blk.0.attn_q"].element, layers["blk.0.attn_q"].activations) == ("Q5_0", "dynamic")
    assert (layers["position_embd"].element, layers["position_embd"].part) == ("F32", "tables of positions and types")
    assert next((t.name, t.by_token) for t in read_tables(made["Q4_K_M"])) == (TOKENS, True)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert", "distilbert"])
def test_other_networks_of_the_family_are_written(family, tmp_path):
    model = resolve(family, str(families.write(family, tmp_path)))
    artifact = parse_precision("q8_0").build(model)
    assert not list(differences_in_file(artifact.file, model))
    values = {m.name: m for m in measure_artifact(artifact, model, parse_precision("q8_0").recipe, "llamacpp")}
    assert all(m.bound is None or m.bound.holds(m.value) for m in values.values())


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("mpnet", {}, "is of type 'mpnet'; GGUF files are written of bert, camembert"),
        ("bert", {"hidden_act": "relu"}, "has the activation 'relu', and llama.cpp computes this network with GELU alone"),
        ("t5", {}, "has modules behind its pooling that are not applied to finished vectors"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused_in_words(family, config, words, tmp_path):
    model = resolve(family, str(families.write(family, tmp_path, **config)))
    with pytest.raises(ModelProblem, match=words):
        parse_precision("q8_0").build(model)


def test_a_pooling_that_llama_cpp_has_not_is_refused_in_words(tmp_path):
    folder = families.write("bert", tmp_path)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, "pooling_mode": "max"}))
    model = resolve("max", str(folder))
    with pytest.raises(
        ModelProblem, match=r"is pooled by max, and llama\.cpp pools by mean, cls, lasttoken; judge it in another"
    ):
        parse_precision("q8_0").check(model)


def test_files_and_precisions_of_other_runtimes_do_not_mix(harness, made, tmp_path, int8):
    from dataclasses import replace

    given = replace(harness, artifact_path=made["Q8_0"].file)
    with pytest.raises(UsageProblem, match=r"model-Q8_0\.gguf is a GGUF file, which llama\.cpp runs; expected one of .*q8_0"):
        given.artifact(parse_precision("int8"), "minilm")
    given = replace(harness, artifact_path=int8.file)
    with pytest.raises(UsageProblem, match=r"is no GGUF file, which llama\.cpp runs alone; expected one of .*int8"):
        given.artifact(parse_precision("q8_0"), "minilm")
