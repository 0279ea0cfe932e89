"""Fusion by structure: every layer's attention is one operator, and the file computes what torch computes."""

from __future__ import annotations

import numpy as np
import pytest

from qguard.onnx.edit import Graph
from qguard.onnx.read import read_graph
from qguard.precisions import export
from qguard.precisions.fusion import attention_fused, fuse
from tests import families

FUSED = ("mpnet", "modernbert", "gemma3", "qwen3", "t5")  # the others in tests/test_families.py
ROTARY = ("modernbert", "qwen3", "gemma3")
LAYERS = families.LAYERS


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """A tiny model of a family in fp32, plain and fused: made once."""
    made = {}

    def get(family):
        if family not in made:
            folder = families.write(family, tmp_path_factory.mktemp("fusion") / family)
            export.export_plain(folder, folder / "plain.onnx")
            graph = Graph.read(folder / "plain.onnx")
            fuse(graph)
            graph.save(folder / "fused.onnx")
            made[family] = folder
        return made[family]

    return get


def outputs(file, mask):
    import onnxruntime as ort

    session = ort.InferenceSession(str(file))
    ids = np.random.default_rng(0).integers(5, 800, mask.shape)
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})[0]


@pytest.mark.parametrize("family", FUSED)
def test_every_layers_attention_is_one_operator(fused, family):
    kinds = [n.op_type for n in read_graph(fused(family) / "fused.onnx").graph.node]
    assert attention_fused(Graph.read(fused(family) / "fused.onnx")) == (LAYERS, LAYERS)
    assert attention_fused(Graph.read(fused(family) / "plain.onnx")) == (0, LAYERS)
    assert kinds.count("Attention") == LAYERS
    assert kinds.count("RotaryEmbedding") == (2 * LAYERS if family in ROTARY else 0)
    assert not {"LayerNormalization", "Sqrt", "Erf", "Tanh", "Sigmoid", "Softmax"} & set(kinds)


@pytest.mark.parametrize("family", FUSED)
def test_padding_on_either_side_changes_nothing(fused, family):
    mask = np.ones((3, 24), np.int64)
    mask[1, 9:], mask[2, :15] = 0, 0
    plain, ours = (outputs(fused(family) / f"{kind}.onnx", mask) for kind in ("plain", "fused"))
    assert np.abs(plain - ours)[mask.astype(bool)].max() < 1e-5
    one = np.ones((1, 1), np.int64)
    assert np.abs(outputs(fused(family) / "plain.onnx", one) - outputs(fused(family) / "fused.onnx", one)).max() < 1e-5


def test_dynamic_quantization_leaves_onnxs_own_attention_alone(fused, tmp_path):
    """ONNX Runtime's quantizer goes by the operator's name, and takes it for its own of that name: such a file does not load."""
    from qguard.precisions.dynamic import quantize

    quantize(fused("mpnet") / "fused.onnx", tmp_path / "int8.onnx", per_channel=True)
    assert [n.op_type for n in read_graph(tmp_path / "int8.onnx").graph.node].count("MatMulInteger") == 6 * LAYERS
    mask = np.ones((2, 12), np.int64)
    want, found = (outputs(file, mask).ravel() for file in (fused("mpnet") / "fused.onnx", tmp_path / "int8.onnx"))
    assert want @ found / np.linalg.norm(want) / np.linalg.norm(found) > 0.98
